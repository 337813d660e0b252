"""Errors of the user: one line that names the cause and the remedy, exit status 2, no file changed."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import Ended, build, write_data

Script = Callable[..., Ended]
STAGES = ("collect_vector", "recognize_concept")
ANALYSES = ("consistency_analysis", "transferability_analysis", "recognize_concept")


@pytest.fixture
def common(tmp_path: Path, data_dir: Path, model_folders: dict[str, Path]) -> list[object]:
    return ["--model-path", model_folders["llama"], "--data-dir", data_dir, "--res-dir", tmp_path / "res"]


def snapshot(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".lock"
    }


def assert_refused(ended: Ended, *parts: str) -> None:
    assert ended.status == 2, ended
    assert ended.out == ""
    lines = [line for line in ended.err.splitlines() if not line.startswith("Loading weights")]
    assert len(lines) == 1, ended.err
    assert lines[0].startswith("error: ")
    for part in parts:
        assert part in lines[0]


def refused_everywhere(script: Script, tmp_path: Path, options: list[object], *parts: str) -> None:
    """Both stages refuse, and leave results as they were."""
    before = snapshot(tmp_path / "res")
    for stage in STAGES:
        assert_refused(script(stage, *options), *parts)
    assert snapshot(tmp_path / "res") == before


@pytest.fixture
def with_results(script: Script, common: list[object], finished: Path) -> list[object]:
    """Options of a finished run."""
    *options, folder = common
    if not finished.exists():
        for stage in STAGES:
            assert script(stage, *options, finished, "--concept", "morality", "--lang", "en", "fr").status == 0
    shutil.copytree(finished, str(folder))
    return common


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "is not valid JSON"),
        (b'{"g": ', "is not valid JSON"),
        (b'{"g": {"1": {"neg": "a"}}}', "g|1 has no 'pos'"),
        (b"{}", "0 pair(s) with different sides"),
        (b'{"g": {"1": {"pos": "a", "neg": "b"}}}', "1 pair(s) with different sides"),
        (b'{"g": "\xe9"}', "is not UTF-8"),
    ],
)
def test_an_invalid_data_file(
    content: bytes, part: str, script: Script, with_results: list[object], tmp_path: Path
) -> None:
    (tmp_path / "data/morality/morality_zh.json").write_bytes(content)
    assert_refused(script("collect_vector", *with_results, "--lang", "en", "zh"), "morality_zh.json", part)
    (tmp_path / "data/morality/morality_fr.json").write_bytes(content)
    options = [*with_results, "--concept", "morality", "--lang", "en", "fr"]
    refused_everywhere(script, tmp_path, options, "morality_fr.json", part)


def test_a_data_file_that_cannot_be_read(script: Script, with_results: list[object], tmp_path: Path) -> None:
    for language in ("fr", "zh"):  # with and without results
        path = tmp_path / f"data/morality/morality_{language}.json"
        path.unlink()
        path.mkdir()
        options = [*with_results, "--concept", "morality", "--lang", "en", language]
        assert_refused(
            script("collect_vector", *options), f"morality_{language}.json cannot be read", "not a regular file"
        )


def test_all_invalid_files_are_named(script: Script, common: list[object], tmp_path: Path) -> None:
    for language in ("en", "zh"):
        (tmp_path / f"data/morality/morality_{language}.json").write_text('{"g": {"1": {"pos": "a"}}}')
    (tmp_path / "data/toxicity/toxicity_fr.json").write_bytes(b"\xff")
    ended = script("collect_vector", *common)
    assert_refused(
        ended, "morality_en.json: g|1 has no 'neg'", "morality_zh.json: g|1 has no", "toxicity_fr.json is not"
    )


def test_a_missing_language_concept_or_data_folder(script: Script, with_results: list[object], tmp_path: Path) -> None:
    collect = "collect_vector"
    before = snapshot(tmp_path / "res")
    assert_refused(script(collect, *with_results, "--lang", "en", "xx"), "morality_xx.json does not exist", "--lang")
    assert_refused(script(collect, *with_results, "--concept", "piety"), "piety", "--concept")
    assert_refused(script(collect, *with_results, "--data-dir", tmp_path / "none"), "no data in", "--data-dir")
    concept = ("--data-dir", tmp_path / "data/morality")
    assert_refused(script(collect, *with_results, *concept), "is the folder of one concept", "folder around it")
    assert_refused(script(collect, *with_results, "--concept", "../x"), "concept '../x' is not a valid name")
    assert_refused(script(collect, *with_results, "--lang", "../../x"), "language '../../x' is not a valid name")
    assert snapshot(tmp_path / "res") == before


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["--template", "Q:"], ["--template 'Q:' does not contain {input}"]),
        (["--split", "0"], ["argument --split", "must be a share or a number of pairs above 0"]),
        (["--split", "-0.5"], ["argument --split", "must be a share or a number of pairs above 0"]),
        (["--split", "nan"], ["argument --split", "must be a share or a number of pairs above 0"]),
        (["--split", "inf"], ["argument --split", "must be a share or a number of pairs above 0"]),
        (["--split", "x"], ["argument --split", "'x' must be a share or a number"]),
        (["--seed", "-1", "--direction-method", "random"], ["argument --seed", "must be a non-negative integer"]),
        (
            ["--split", "0.01"],
            ["morality_en.json: --split 0.01 leaves no training pairs", "larger value"],
        ),
        (["--batch-size", "0"], ["argument --batch-size", "must be a positive integer"]),
        (["--device", "cuda:7"], ["--device cuda:7 is not available on this machine", "cpu"]),
        (["--device", "tpu"], ["--device 'tpu' is not a valid device", "cpu"]),
        (["--device", "meta"], ["--device meta is not available on this machine"]),
        (["--dtype", "int8"], ["argument --dtype", "float32"]),
        (["--direction-method", "svm"], ["argument --direction-method", "cluster_mean"]),
        (["--model-label", "../x"], ["--model-label '../x' is not a valid name"]),
        (["--model-family", "gpt"], ["argument --model-family", "llama2"]),
        (["--bogus"], ["unrecognized arguments: --bogus", "--help"]),
        (["--model-name", "gpt-9"], ["--model-name gpt-9 is not in the registry", "llama2-chat", "--model-path"]),
        (["--model-size", "8B"], ["--model-size 8B of llama2-chat is not in the registry", "7B 13B 70B"]),
    ],
)
def test_a_wrong_option(
    options: list[object], parts: list[str], script: Script, with_results: list[object], tmp_path: Path
) -> None:
    before = snapshot(tmp_path / "res")
    assert_refused(script("collect_vector", *with_results, "--concept", "morality", *options), *parts)
    assert snapshot(tmp_path / "res") == before


def test_results_of_another_template_are_not_added(script: Script, with_results: list[object], tmp_path: Path) -> None:
    options = [*with_results, "--concept", "morality", "--template", "Q: {input}"]
    before = snapshot(tmp_path / "res")
    assert_refused(script("collect_vector", *options), "was made with other settings", "'Q: {input}'", "--overwrite")
    assert_refused(script("recognize_concept", *options, "--lang", "en", "fr"), "reader_dict.pt", "collect_vector.py")
    assert snapshot(tmp_path / "res") == before


def test_overwriting_with_other_settings_does_not_lose_other_languages(
    script: Script, with_results: list[object], tmp_path: Path
) -> None:
    options = [*with_results, "--concept", "morality", "--template", "Q: {input}", "--overwrite", "--lang", "en"]
    before = snapshot(tmp_path / "res")
    ended = script("collect_vector", *options)
    assert_refused(ended, "made with other settings; --overwrite would delete the results of fr", "--lang")
    assert snapshot(tmp_path / "res") == before
    assert script("collect_vector", *options, "fr").status == 0


def test_the_seed_matters_to_random_directions_only(script: Script, common: list[object]) -> None:
    options = [*common, "--concept", "morality", "--lang", "en"]
    assert script("collect_vector", *options, "--direction-method", "random").status == 0
    ended = script("collect_vector", *options, "--direction-method", "random", "--seed", "2")
    assert_refused(ended, "random_reader_dict.pt", "seed was 1, now 2")
    assert script("collect_vector", *options).status == 0
    assert script("collect_vector", *options, "--seed", "2").out.startswith("nothing to do")


def test_results_of_changed_data_or_vectors_are_not_reused(
    script: Script, with_results: list[object], tmp_path: Path
) -> None:
    write_data(tmp_path / "data", "morality", "fr", pairs=30)
    options = [*with_results, "--concept", "morality", "--lang", "en", "fr"]
    refused_everywhere(script, tmp_path, options, "results for fr from other data than the current ones", "--overwrite")
    assert script("collect_vector", *options, "--overwrite").status == 0
    ended = script("recognize_concept", *options)
    assert_refused(ended, "acc.pt holds results for fr from other vectors than the current ones", "--overwrite")
    assert script("recognize_concept", *options, "--overwrite").status == 0
    assert script("recognize_concept", *options).out.startswith("nothing to do")


def test_recognition_before_collection(script: Script, common: list[object]) -> None:
    ended = script("recognize_concept", *common, "--concept", "morality", "--lang", "en", "fr")
    assert_refused(ended, "reader_dict.pt has no vectors of en fr", "collect_vector.py")


def test_vectors_of_another_model(script: Script, with_results: list[object], tmp_path: Path) -> None:
    other = build(tmp_path / "other", "llama", seed=1)
    options = [*with_results, "--concept", "morality", "--lang", "en", "--model-path", other]
    ended = script("recognize_concept", *options, "--model-label", "tiny-llama")
    assert_refused(ended, "made with other settings (weights", "collect_vector.py")


@pytest.mark.parametrize("name", ANALYSES)
def test_no_results_yet(name: str, script: Script, with_results: list[object], tmp_path: Path) -> None:
    base = ["--res-dir", tmp_path / "res", "--cross-model"]
    before = snapshot(tmp_path)
    assert_refused(script(name, *base, "no-7B"), "no results in", "no-7B", "tiny-llama", "collect_vector.py")
    assert_refused(script(name, *base, "../tiny"), "'../tiny' is not a valid name")
    assert_refused(script(name, *base, ","), "give at least one name")
    assert_refused(script(name, *base, "tiny-llama", "--lang", "en", "zh"), "no results for", "zh", "collect_vector.py")
    assert_refused(script(name, *base, "tiny-llama", "--concept", "fairness"), "fairness", "collect_vector.py")
    assert_refused(script(name, *base, "tiny-llama", "--direction-method", "pca"), "pca_", "collect_vector.py")
    assert snapshot(tmp_path) == before


def test_languages_that_a_family_leaves_out(script: Script, common: list[object], tmp_path: Path) -> None:
    write_data(tmp_path / "data", "morality", "sw")
    for stage in STAGES:
        assert script(stage, *common, "--concept", "morality", "--lang", "sw").status == 0
    for name in ANALYSES[:2]:
        ended = script(name, "--res-dir", tmp_path / "res", "--cross-model", "tiny-llama", "--lang", "sw")
        assert_refused(ended, "leave out sw", "tiny-llama", "--lang")


class Hostile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["reader_dict.pt", "reader_dict.pk", "acc.pt", "acc.pk"])
@pytest.mark.parametrize("hostile", [True, False])
def test_a_results_file_that_is_damaged_or_would_run_code(
    name: str, hostile: bool, script: Script, with_results: list[object], tmp_path: Path
) -> None:
    path = tmp_path / "res/tiny-llama/morality" / name
    if hostile:
        torch.save({"en": Hostile(tmp_path / "ran")}, path)
    else:
        path.write_bytes(b"PK\x03\x04 nothing")
    before = snapshot(tmp_path / "res")
    options = [*with_results, "--concept", "morality", "--lang", "en", "fr"]
    base = ["--res-dir", tmp_path / "res", "--cross-model", "tiny-llama"]
    runs = [("collect_vector", options), ("consistency_analysis", base)]
    if name.startswith("acc"):
        runs = [("transferability_analysis", base), ("recognize_concept", base)]
    for script_name, arguments in [*runs, ("recognize_concept", options)]:
        assert_refused(script(script_name, *arguments), name, "damaged" if name.endswith(".pt") else "is refused")
    assert snapshot(tmp_path / "res") == before
    assert not (tmp_path / "ran").exists()


def test_a_results_folder_that_cannot_be_written(script: Script, common: list[object], tmp_path: Path) -> None:
    (tmp_path / "res").write_text("a file in the way")
    assert_refused(script("collect_vector", *common, "--lang", "en"), "cannot be created", "choose another folder")


def test_a_folder_without_a_model(script: Script, common: list[object], tmp_path: Path) -> None:
    rest = [*common[2:], "--lang", "en", "--concept", "morality"]
    run = "collect_vector"
    assert_refused(script(run, "--model-path", tmp_path / "none", *rest), "the folder does not exist", "owner/name")
    (tmp_path / "empty").mkdir()
    assert_refused(script(run, "--model-path", tmp_path / "empty", *rest), "empty has no config.json", "--model-path")
    folder = shutil.copytree(str(common[1]), tmp_path / "broken")
    (folder / "model.safetensors").write_bytes(b"\x00" * 100)
    assert_refused(script(run, "--model-path", folder, *rest), "broken cannot be loaded", "download them again")
    (folder / "model.safetensors").unlink()
    assert_refused(script(run, "--model-path", folder, *rest), "broken cannot be loaded", "download them again")
    (folder / "config.json").write_text("{}")
    assert_refused(script(run, "--model-path", folder, *rest), "broken cannot be loaded", "download them again")


def test_a_hub_id_without_a_network(
    script: Script, common: list[object], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    rest = [*common[2:], "--lang", "en", "--concept", "morality"]
    ended = script("collect_vector", "--model-name", "bloomz", "--model-size", "560M", *rest)
    assert_refused(ended, "bigscience/bloomz-560m is not on this machine", "--model-path")
