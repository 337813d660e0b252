"""With cached states, each text is run once: other splits, methods and recognition need no model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import build
from safetensors.torch import load_file, save_file

from repe.models.source import ModelSource
from repe.results.accuracy_file import AccuracyFile
from repe.results.result_file import Kind
from repe.results.vector_file import VectorFile

Run = Callable[..., Any]


@pytest.fixture
def cached(script: Run, tmp_path: Path, data_dir: Path) -> Run:
    build(tmp_path / "tiny", "bloom")
    shared = ("--model-path", tmp_path / "tiny", "--data-dir", data_dir, "--lang", "en", "fr")

    def run(name: str, *options: object, states: str | None = "states", res: str = "res") -> Any:
        keep = ("--cache-states", tmp_path / states) if states else ()
        return script(
            name, *shared, *keep, "--concept", "morality", "truthfulness", "--res-dir", tmp_path / res, *options
        )

    return run


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def forbid() -> None:
        def load(_self: object, with_head: bool = False) -> None:
            raise AssertionError("the model was loaded")

        monkeypatch.setattr(ModelSource, "load", load)

    return forbid


def test_after_one_collection_the_model_is_not_needed(
    cached: Run, no_model: Callable[[], None], tmp_path: Path
) -> None:
    assert cached("collect_vector").status == 0
    assert len(list((tmp_path / "states").iterdir())) == 4
    no_model()
    for options in ((), ("--split", "0.4"), ("--direction-method", "pca"), ("--random-direction",)):
        for name in ("collect_vector", "recognize_concept"):
            ended = cached(name, *options, *(("--overwrite",) if name == "collect_vector" else ()))
            assert ended.status == 0, ended.err


def test_results_equal_those_of_a_run_without_cache(cached: Run, tmp_path: Path) -> None:
    for name in ("collect_vector", "recognize_concept"):
        assert cached(name).status == 0
        assert cached(name, states=None, res="plain").status == 0
    for concept in ("morality", "truthfulness"):
        with_cache, plain = (VectorFile(tmp_path / res, "tiny", concept, Kind()) for res in ("res", "plain"))
        for language in ("en", "fr"):
            found, expected = (torch.from_numpy(file.vectors[language].directions) for file in (with_cache, plain))
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        found, expected = (AccuracyFile(tmp_path / res, "tiny", concept, Kind()).accuracy for res in ("res", "plain"))
        assert {pair: row.keys() for pair, row in found.items()} == {pair: row.keys() for pair, row in expected.items()}
        for source, row in expected.items():
            for target, values in row.items():
                torch.testing.assert_close(torch.as_tensor(found[source][target]), torch.as_tensor(values))


def test_other_texts_templates_and_models_have_their_own_files(cached: Run, tmp_path: Path, data_dir: Path) -> None:
    assert cached("collect_vector").status == 0
    before = set((tmp_path / "states").iterdir())
    assert cached("collect_vector", "--template", "Q: {input}", res="other").status == 0
    assert len(set((tmp_path / "states").iterdir()) - before) == 4
    path = data_dir / "morality" / "morality_en.json"
    path.write_text(path.read_text(encoding="utf-8").replace("dog", "cow"), encoding="utf-8")
    assert cached("collect_vector", res="changed").status == 0
    assert len(set((tmp_path / "states").iterdir()) - before) == 5
    build(tmp_path / "tiny", "bloom", seed=1)
    assert cached("collect_vector", res="retrained").status == 0
    assert len(set((tmp_path / "states").iterdir()) - before) == 9


def test_a_damaged_cache_file_is_refused_by_name(cached: Run, tmp_path: Path) -> None:
    assert cached("collect_vector").status == 0
    path = sorted((tmp_path / "states").iterdir())[0]
    path.write_bytes(path.read_bytes()[:100])
    ended = cached("collect_vector", "--overwrite")
    assert ended.status == 2
    assert f"{path} is damaged" in ended.err
    assert "delete it" in ended.err


def test_a_cache_file_that_lacks_texts_is_refused(cached: Run, tmp_path: Path) -> None:
    assert cached("collect_vector").status == 0
    path = sorted((tmp_path / "states").iterdir())[0]
    save_file({"states": load_file(path)["states"][:, 1:].contiguous()}, path)
    ended = cached("collect_vector", "--overwrite")
    assert ended.status == 2
    assert f"{path} is damaged (" in ended.err
