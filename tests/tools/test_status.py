"""The table of result files names those that are incomplete, stale or damaged, and the remedy."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import Ended, write_data

from repe.results.result_file import Kind
from repe.results.vector_file import VectorFile

Script = Callable[..., Ended]


@pytest.fixture
def options(tmp_path: Path, data_dir: Path, model_folders: dict[str, Path]) -> list[object]:
    return ["--model-path", model_folders["llama"], "--data-dir", data_dir, "--res-dir", tmp_path / "res"]


@pytest.fixture
def results(script: Script, options: list[object], tmp_path: Path, finished: Path) -> Path:
    """Two concepts in two languages."""
    if not finished.exists():
        for stage in ("collect_vector", "recognize_concept"):
            run = (stage, *options[:-1], finished, "--concept", "morality", "toxicity", "--lang", "en", "fr")
            assert script(*run).status == 0
    return shutil.copytree(finished, tmp_path / "res")


@pytest.fixture
def check(script: Script, tmp_path: Path) -> Callable[..., Ended]:
    return lambda *arguments: script(
        "repe.__main__", "status", tmp_path / "res", "--data-dir", tmp_path / "data", *arguments
    )


def cells(ended: Ended, concept: str, kind: str = "cluster_mean") -> list[str]:
    """The cells of vectors and of accuracies in the row of a concept and kind."""
    columns = ["vectors", "accuracies"]
    header, *lines = ended.out.splitlines()
    starts = [header.index(column) for column in columns]
    (line,) = [line for line in lines if line.split()[1:3] == [concept, kind]]
    return [line[starts[0] : starts[1]].strip(), line[starts[1] :].strip()]


def test_complete_results(check: Callable[..., Ended], results: Path) -> None:
    ended = check()
    assert ended.status == 0
    assert cells(ended, "morality") == cells(ended, "toxicity") == ["all 2", "all 2"]
    assert ended.out.splitlines()[-1] == "all 4 result files are complete and up to date"


def test_languages_that_are_asked_for_and_missing(check: Callable[..., Ended], results: Path) -> None:
    ended = check("--lang", "en", "fr", "zh", "--concept", "morality", "fairness")
    assert ended.status == 2
    assert cells(ended, "morality") == ["2 of 3: missing zh", "2 of 3: missing zh"]
    assert cells(ended, "fairness") == ["none", "none"]
    assert "of 4 result files, 4 incomplete (run collect_vector.py, then recognize_concept.py" in ended.err


def test_a_language_of_one_file_is_needed_in_all(
    check: Callable[..., Ended], results: Path, script: Script, options: list[object]
) -> None:
    script("collect_vector", *options, "--concept", "morality", "--lang", "zh")
    ended = check()
    assert cells(ended, "morality") == ["all 3", "2 of 3: missing zh"]
    assert cells(ended, "toxicity") == ["2 of 3: missing zh", "2 of 3: missing zh"]
    script("recognize_concept", *options, "--concept", "morality", "--lang", "zh")
    assert cells(check(), "morality") == ["all 3", "0 of 3: missing en->zh fr->zh zh->en zh->fr"]


def test_other_data_and_other_vectors_are_stale(
    check: Callable[..., Ended], results: Path, script: Script, options: list[object], tmp_path: Path
) -> None:
    write_data(tmp_path / "data", "morality", "fr", pairs=33)
    ended = check()
    assert ended.status == 2
    assert cells(ended, "morality") == ["all 2; stale: fr", "all 2; stale: fr"]
    assert cells(ended, "toxicity") == ["all 2", "all 2"]
    assert "2 stale (run collect_vector.py, then recognize_concept.py with --overwrite" in ended.err
    redo = [*options, "--concept", "morality", "--lang", "en", "fr", "--overwrite"]
    script("collect_vector", *redo)
    assert cells(check(), "morality") == ["all 2", "all 2; stale: fr"]
    script("recognize_concept", *redo)
    assert check().status == 0


def test_accuracies_of_other_settings_are_stale(check: Callable[..., Ended], results: Path) -> None:
    path = results / "tiny-llama/morality/acc.pt"
    content = torch.load(path, weights_only=True)
    content["meta"]["template"] = "Q: {input}"
    torch.save(content, path)
    ended = check()
    assert ended.status == 2
    assert cells(ended, "morality") == ["all 2", "stale: settings differ from the vectors' (template)"]


class Hostile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["reader_dict.pt", "acc.pk"])
def test_damaged_and_hostile_files_are_named_and_stop_nothing(
    name: str, check: Callable[..., Ended], results: Path, tmp_path: Path
) -> None:
    path = results / "tiny-llama/morality" / name
    place = 0 if name.startswith("reader") else 1
    for number, content in enumerate((b"", b"PK\x03\x04", Hostile(tmp_path / "ran"))):
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            torch.save({"en": content}, path)
        ended = check("--concept", "morality", "toxicity", "--lang", "en", "fr")
        assert ended.status == 2, number
        assert cells(ended, "morality")[place].startswith("damaged: ")
        assert cells(ended, "toxicity") == ["all 2", "all 2"]
        assert f"damaged: {path} is " in ended.out
        assert "1 damaged (delete the file and run " in ended.err
    assert not (tmp_path / "ran").exists()


def test_every_kind_has_a_row(
    check: Callable[..., Ended], results: Path, script: Script, options: list[object]
) -> None:
    script("collect_vector", *options, "--concept", "morality", "--lang", "en", "fr", "--direction-method", "pca")
    ended = check()
    assert cells(ended, "morality", "pca") == ["all 2", "none"]
    assert cells(ended, "morality") == ["all 2", "all 2"]


def test_replies_of_control_are_listed_with_their_settings(
    check: Callable[..., Ended], results: Path, script: Script, options: list[object], tmp_path: Path
) -> None:
    vectors = VectorFile(results, "tiny-llama", "morality", Kind()).vectors["en"].digest
    first = results / "tiny-llama/morality/control/en"
    for folder, digest, replies in ((first, vectors, 3), (first / "layers-1", "0" * 64, 2)):
        folder.mkdir(parents=True)
        (folder / "generations.jsonl").write_text("{}\n" * replies)
        known = {"method": "cluster_mean", "random_direction": False, "vectors": {"en": digest}}
        (folder / "settings.json").write_text(json.dumps(known))
    ended = check()
    rows = [line.split() for line in ended.out.partition("\ncontrol\n")[2].splitlines()[:3]]
    assert rows[1:] == [
        ["tiny-llama", "morality", "en", "first", "3"],
        ["tiny-llama", "morality", "en", "layers-1", "2;", "stale:", "en"],
    ]
    assert "of 6 result files, 1 stale or damaged in control (run control_generation.py" in ended.err
    assert check("--concept", "toxicity").status == 0
    (first / "settings.json").write_text("[")
    assert f"damaged: {first / 'generations.jsonl'} cannot be checked" in check().out
    assert "2 stale or damaged in control" in check().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "llama2-chat-7B"], "no results in .*llama2-chat-7B: choose from tiny-llama"),
        (["--concept", "../x"], "'../x' is not a valid name"),
    ],
)
def test_names_that_are_not_there(
    arguments: list[str], message: str, check: Callable[..., Ended], results: Path
) -> None:
    import re

    ended = check(*arguments)
    assert ended.status == 2
    assert re.search(message, ended.err)


def test_a_folder_without_results(check: Callable[..., Ended], tmp_path: Path) -> None:
    ended = check()
    assert ended.status == 2
    assert "no results in" in ended.err
    assert "collect_vector.py" in ended.err


def test_a_download_should_have_every_concept_and_language(script: Script, golden: Path) -> None:
    ended = script("repe.__main__", "status", golden / "released_run/res", "--model", "bloomz-560M")
    assert ended.status == 2
    for concept in ("morality", "deontology", "truthfulness", "toxicity"):
        assert cells(ended, concept) == ["all 16", "all 16"]
    for concept in ("utilitarianism", "fairness", "harmfulness"):
        assert cells(ended, concept) == ["none", "none"]
    assert "of 14 result files, 6 incomplete" in ended.err
