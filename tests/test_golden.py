"""Agreement with the released code's own results, on its untouched files and by running its models again."""

import shutil
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import golden_subset
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import Ended

from repe.paper import CONCEPTS, LANGUAGES
from repe.results import downloads as released
from repe.results.accuracy_file import AccuracyFile
from repe.results.result_file import Kind
from repe.results.vector_file import VectorFile

Script = Callable[..., Ended]
NINE = (
    "llama2-chat-7B,llama2-chat-13B,llama2-chat-70B,qwen-chat-1B8,qwen-chat-7B,qwen-chat-14B,"
    "bloomz-560M,bloomz-1B7,bloomz-7B1"
)


@pytest.mark.parametrize(
    ("name", "size", "concept", "languages"),
    [
        # The toxicity of the first is where signs of -1 are; the other two concepts have texts before their sides.
        ("llama2-chat", "7B", "toxicity", LANGUAGES[::2]),
        ("qwen-chat", "1B8", "truthfulness", LANGUAGES[::4]),
        ("bloomz", "560M", "deontology", LANGUAGES[1::4]),
    ],
)
def test_a_run_agrees_with_the_released_run(
    name: str, size: str, concept: str, languages: Sequence[str], script: Script, golden: Path, tmp_path: Path
) -> None:
    run = golden / "released_run"
    model = f"{name}-{size}"
    options = ["--model-name", name, "--model-size", size, "--model-path", run / "models" / model, "--concept", concept]
    for stage in ("collect_vector", "recognize_concept"):
        ended = script(stage, *options, "--data-dir", run / "data", "--res-dir", tmp_path, "--lang", *languages)
        assert ended.status == 0, ended
    vectors = VectorFile(tmp_path, model, concept, Kind()).vectors
    directions = released.read_vectors(run / "res" / model / concept / "reader_dict.pk")
    for language in languages:
        entry = directions[language]
        difference = np.linalg.norm(vectors[language].directions - entry["directions"], axis=-1)
        assert (difference <= 3e-5 * np.linalg.norm(entry["directions"], axis=-1)).all()
        assert np.array_equal(vectors[language].signs, entry["signs"])
    file = AccuracyFile(tmp_path, model, concept, Kind())
    cells, different = 0, 0
    accuracy = released.read_accuracy(run / "res" / model / concept / "acc.pk")
    for source in languages:
        for target in languages:
            row = accuracy[source][target]
            apart = np.abs(file.accuracy[source][target] - [row[layer] for layer in sorted(row)])
            assert (apart <= 1 / file.content["test_pairs"][target] + 1e-12).all()
            cells, different = cells + len(row), different + int((apart > 1e-12).sum())
    assert cells == len(languages) ** 2 * len(vectors[languages[0]].directions)
    assert different <= cells / 2000


@pytest.fixture(scope="module")
def analysis_results(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The released analysis files, unpacked."""
    folder = tmp_path_factory.mktemp("analysis")
    shutil.unpack_archive(golden / "released_analysis/res.tar.xz", folder)
    return folder / "res"


@pytest.fixture
def read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the accuracies of a download for the next script: checking and reading them takes most of its time."""
    monkeypatch.setattr(released, "read_accuracy", cache(released.read_accuracy))


@pytest.mark.usefixtures("undrawn", "read_once")
def test_the_readmes_cross_model_commands_agree_with_the_released_analyses(
    script: Script, golden: Path, analysis_results: Path, tmp_path: Path
) -> None:
    options = ["--lang", *LANGUAGES, "--concept", *CONCEPTS, "--cross-model", NINE]
    for name in ("recognize_concept", "consistency_analysis", "transferability_analysis"):
        ended = script(name, *options, "--res-dir", analysis_results, "--out-dir", tmp_path)
        assert ended.status == 0, ended
    tables = sorted((golden / "released_analysis/expected").glob("*.csv"))
    assert len(tables) == 5
    for path in tables:
        found, expected = pd.read_csv(tmp_path / path.name), pd.read_csv(path)
        found = found[expected.columns]  # more columns follow
        pd.testing.assert_frame_equal(found, expected, check_dtype=False, check_exact=False, rtol=0, atol=1e-6)
    names = ["figure2_recognition_accuracy", "figure4_similarity_7b", "figure7_similarity_all", "figure5_transfer_7b"]
    for name in [*names, "figure8_transfer_all", "similarity_across_layers"]:
        assert {path.suffix for path in tmp_path.glob(f"{name}.*")} == {".png", ".pdf"}


@pytest.mark.usefixtures("undrawn")
def test_the_analyses_agree_with_the_released_ones_on_the_committed_subset(script: Script, tmp_path: Path) -> None:
    """The same as above for one model, whose numbers are part of the repository."""
    numbers = golden_subset.vectors(), golden_subset.accuracies()
    for concept in CONCEPTS:
        vectors, accuracy = (part[concept] for part in numbers)
        entries = {
            language: {"directions": torch.from_numpy(one.directions), "signs": torch.from_numpy(one.signs)}
            for language, one in vectors.vectors.items()
        }
        layers = len(entries["en"]["directions"])
        VectorFile(tmp_path, golden_subset.MODEL, concept, Kind()).add({}, layers, {"languages": entries})
        rows = {s: {t: torch.from_numpy(row) for t, row in rows.items()} for s, rows in accuracy.accuracy.items()}
        AccuracyFile(tmp_path, golden_subset.MODEL, concept, Kind()).add({}, layers, {"accuracy": rows})
    for name in ("recognize_concept", "consistency_analysis", "transferability_analysis"):
        ended = script(name, "--res-dir", tmp_path, "--cross-model", golden_subset.MODEL)
        assert ended.status == 0, ended
    tables = [path.stem for path in golden_subset.FOLDER.glob("*.csv")]
    assert len(tables) == 5
    for name in tables:
        golden_subset.assert_agrees(pd.read_csv(tmp_path / f"cross_model/{name}.csv"), golden_subset.expected(name))


def test_the_subset_beside_the_tests_is_golden(golden: Path) -> None:
    for path in sorted((golden / "released_analysis/expected").glob("*.csv")):
        whole = pd.read_csv(path)
        kept = pd.read_csv(Path(__file__).with_name("golden") / path.name)
        pd.testing.assert_frame_equal(whole[whole.model == "bloomz-560M"].reset_index(drop=True), kept)


def test_languages_missing_in_a_download_are_added_beside_it(script: Script, golden: Path, tmp_path: Path) -> None:
    """A `.pk` is taken as done; what it lacks goes to a `.pt`, and both are read together."""
    run = golden / "released_run"
    folder = tmp_path / "bloomz-560M" / "toxicity"
    folder.mkdir(parents=True)
    for name in ("reader_dict.pk", "acc.pk"):
        (folder / name).write_bytes((run / "res/bloomz-560M/toxicity" / name).read_bytes())
    data = tmp_path / "data" / "toxicity"
    data.mkdir(parents=True)
    (data / "toxicity_xx.json").write_bytes((run / "data/toxicity/toxicity_en.json").read_bytes())
    (data / "toxicity_en.json").write_bytes((run / "data/toxicity/toxicity_en.json").read_bytes())
    model = ["--model-name", "bloomz", "--model-size", "560M", "--model-path", run / "models/bloomz-560M"]
    options = [*model, "--data-dir", tmp_path / "data", "--res-dir", tmp_path, "--concept", "toxicity", "--lang", "en"]
    for stage in ("collect_vector", "recognize_concept"):
        assert script(stage, *options).out.startswith("nothing to do")
        assert not (folder / "reader_dict.pt").exists()
    for stage in ("collect_vector", "recognize_concept"):
        assert script(stage, *options, "xx").status == 0
    vectors = VectorFile(tmp_path, "bloomz-560M", "toxicity", Kind())
    assert list(vectors.content["languages"]) == ["xx"]
    assert list(vectors.vectors) == [*LANGUAGES, "xx"]
    # xx is English under another name.
    np.testing.assert_allclose(vectors.vectors["xx"].directions, vectors.vectors["en"].directions, rtol=1e-3, atol=1e-6)
    accuracy = AccuracyFile(tmp_path, "bloomz-560M", "toxicity", Kind()).accuracy
    written = AccuracyFile(tmp_path, "bloomz-560M", "toxicity", Kind()).content["accuracy"]
    assert {source: list(targets) for source, targets in written.items()} == {"en": ["xx"], "xx": ["en", "xx"]}
    for source, target in (("xx", "xx"), ("xx", "en"), ("en", "xx")):
        np.testing.assert_allclose(accuracy[source][target], accuracy["en"]["en"], atol=1 / 12 + 1e-9)
