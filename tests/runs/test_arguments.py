"""The command line: lists, numbers, exit statuses, and refusals of options that would have no effect."""

import argparse
import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Ended

from repe.errors import UserError
from repe.runs import arguments as options

Script = Callable[..., Ended]
SCRIPTS = (
    *("collect_vector", "recognize_concept", "consistency_analysis", "transferability_analysis"),
    "control_generation",
)
CONTROL = ("--source-lang", "en", "--prompts", "prompts.jsonl")


def parsed(name: str, *arguments: str) -> argparse.Namespace:
    """The options of a script."""
    required = CONTROL if name == "control_generation" else ()
    return importlib.import_module(name).parser().parse_args([*required, *arguments])


@pytest.mark.parametrize("name", SCRIPTS)
def test_names_are_separated_by_commas_or_spaces(name: str) -> None:
    expected = ["zh", "en", "fr"]
    for words in (["zh", "en", "fr"], ["zh,en,fr"], ["zh,", "en", ",fr"], ["zh, en", "fr,zh"]):
        assert parsed(name, "--lang", *words).lang == expected
    assert parsed(name, "--concept", "morality,fairness").concept == ["morality", "fairness"]


@pytest.mark.parametrize("name", SCRIPTS[1:4])
def test_models_to_compare_are_separated_by_commas_or_spaces(name: str) -> None:
    assert parsed(name, "--cross-model", "a,b").cross_model == parsed(name, "--cross-model", "a", "b").cross_model


@pytest.mark.parametrize("words", [[","], [" "], []])
def test_an_empty_list_of_names_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parsed("collect_vector", "--lang", *words)
    assert ended.value.code == 2
    assert "--lang" in capsys.readouterr().err


@pytest.mark.parametrize("strength", ["-1,0,1", "-1,-0.5,0,0.5,1", "-.5", "-1e-1,2", "0,-1"])
def test_negative_strengths_need_no_equals_sign(strength: str) -> None:
    expected = [float(part) for part in strength.split(",")]
    assert parsed("control_generation", "--strength", strength, "--seed", "2").strength == expected
    assert parsed("control_generation", f"--strength={strength}").strength == expected


@pytest.mark.parametrize(
    ("name", "option"),
    [
        *(("collect_vector", option) for option in ("--bootstrap", "--permutations", "--cross-model=a", "--stream")),
        *(("collect_vector", option) for option in ("--layer-select=best", "--out-dir=x", "--distances=recorded")),
        *(
            (name, option)
            for name in ("consistency_analysis", "transferability_analysis")
            for option in (
                *("--truncate", "--device=cpu", "--dtype=float32", "--batch-size=2", "--overwrite"),
                *("--template={input}", "--no-validation", "--revision=x", "--untrained", "--trust-remote-code"),
            )
        ),
        ("consistency_analysis", "--bootstrap"),
        ("transferability_analysis", "--permutations"),
        ("transferability_analysis", "--distances=recorded"),
        ("recognize_concept", "--distances=recorded"),
        *(("control_generation", option) for option in ("--cross-model=a", "--no-validation", "--data-dir=x")),
        *(("control_generation", option) for option in ("--cache-states=x", "--bootstrap", "--layer-select=best")),
    ],
)
def test_a_script_does_not_have_options_that_it_would_ignore(name: str, option: str, script: Script) -> None:
    ended = script(name, *(CONTROL if name == "control_generation" else ()), option)
    assert (ended.status, ended.out) == (2, "")
    assert ended.err == f"error: unrecognized arguments: {option} (see {name}.py --help)\n"


@pytest.mark.parametrize(
    "option",
    [
        *(["--truncate"], ["--overwrite"], ["--no-validation"], ["--untrained"], ["--trust-remote-code"]),
        *(["--data-dir", "x"], ["--device", "cpu"], ["--dtype", "float32"], ["--batch-size", "2"], ["--template", ""]),
        *(["--cache-states", "x"], ["--model-name", "bloomz"], ["--model-label", "x"], ["--revision", "x"]),
    ],
    ids=" ".join,
)
def test_recognition_refuses_options_of_running_a_model_with_cross_model(option: list[str], script: Script) -> None:
    ended = script("recognize_concept", "--cross-model", "a", *option)
    assert (ended.status, ended.out) == (2, "")
    assert ended.err == f"error: {option[0]} has no effect with --cross-model: leave it out\n"


@pytest.mark.parametrize(
    "option",
    [["--layer-select", "validation"], ["--bootstrap"], ["--permutations", "9"], ["--out-dir", "x"]],
    ids=" ".join,
)
def test_recognition_refuses_options_of_comparisons_without_cross_model(option: list[str], script: Script) -> None:
    ended = script("recognize_concept", *option)
    assert (ended.status, ended.out) == (2, "")
    assert ended.err == f"error: {option[0]} has no effect without --cross-model: leave it out\n"


@pytest.mark.parametrize("name", SCRIPTS[1:4])
def test_comparisons_refuse_the_name_of_a_single_model(name: str, script: Script, tmp_path: Path) -> None:
    for option in ("--model-name", "--model-size", "--model-path", "--model-label"):
        ended = script(name, "--res-dir", tmp_path, "--cross-model", "a,b", option, "x")
        assert ended.status == 2
        assert ended.err == f"error: {option} has no effect with --cross-model: leave it out\n"
    # A family applies to all models.
    ended = script(name, "--res-dir", tmp_path, "--cross-model", "a,b", "--model-family", "none")
    assert "no results in" in ended.err


def test_options_at_their_defaults_are_not_refused() -> None:
    args = parsed("recognize_concept", "--cross-model", "a", "--device", "auto", "--data-dir", "data")
    options.refuse(args, (options.RUNNING, options.DATA), "here")
    with pytest.raises(UserError, match="--device has no effect here: leave it out"):
        options.refuse(parsed("recognize_concept", "--device", "cpu"), (options.RUNNING,), "here")


@pytest.mark.parametrize(
    ("text", "value"), [("best", "best"), ("validation", "validation"), ("3", 3), ("0.5", 0.5), ("0.0", 0.0)]
)
def test_a_layer_selection_is_a_name_a_number_or_a_depth(text: str, value: object) -> None:
    found = options.layer_select(text)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "1.0", "first", "nan"])
def test_other_layer_selections_are_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=r"must be best, validation, a layer number from 1"):
        options.layer_select(text)


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (None, 0, ""),
        (UserError("x.json is\nmissing"), 2, "error: x.json is missing\n"),
        (KeyboardInterrupt(), 130, "\ninterrupted: finished results are saved; run the same command to continue\n"),
    ],
)
def test_exit_statuses_and_messages(
    error: BaseException | None,
    status: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def main(_args: argparse.Namespace) -> None:
        if error:
            raise error

    monkeypatch.setattr(sys, "argv", ["script.py"])
    with pytest.raises(SystemExit) as ended:
        options.run(main, options.Parser("A script."))
    assert (ended.value.code, capsys.readouterr().err) == (status, message)


def test_the_label_of_random_weights_has_a_suffix() -> None:
    path = ("--model-path", "models/tiny")
    for arguments, label in (
        ((), "tiny"),
        (("--untrained",), "tiny-untrained"),
        (("--untrained", "--seed", "2"), "tiny-untrained-2"),
        (("--untrained", "--model-label", "x"), "x-untrained"),
    ):
        args = parsed("collect_vector", *path, *arguments)
        assert options.named_model(args)[0] == label
    args = parsed("collect_vector", *path, "--untrained", "--split", "0.4", "--split-by", "item")
    assert options.results_folder(args, options.named_model(args)[0]) == Path("res/tiny-untrained-0.4-item")


def test_the_label_of_a_gguf_file_is_its_stem() -> None:
    assert options.named_model(parsed("collect_vector", "--model-path", "models/tiny.Q4.gguf"))[0] == "tiny.Q4"
