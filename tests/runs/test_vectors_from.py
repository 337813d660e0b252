"""Vectors of one data folder on the whole of another one, in a results folder of their own."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import Ended, load, write_data

from repe.data import read_pairs
from repe.results.accuracy_file import AccuracyFile
from repe.results.result_file import Kind
from repe.results.vector_file import VectorFile

Script = Callable[..., Ended]
LANGUAGES = ("en", "fr")


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """Another data folder of the same concept."""
    for language in LANGUAGES:
        write_data(tmp_path / "other/data", "morality", language, pairs=40)
    return tmp_path / "other/data"


@pytest.fixture(autouse=True)
def _in_the_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run(script: Script, tmp_path: Path, data_dir: Path, model_folders: dict[str, Path]) -> Callable[..., Ended]:
    model = ["--model-path", model_folders["llama"], "--concept", "morality", "--lang", *LANGUAGES]
    collected = script("collect_vector", *model, "--data-dir", data_dir, "--res-dir", tmp_path / "res")
    assert collected.status == 0, collected
    return lambda *more: script(
        *("recognize_concept", *model, "--res-dir", tmp_path / "res", "--vectors-from", tmp_path / "res", *more)
    )


@pytest.fixture
def status(script: Script, tmp_path: Path) -> Callable[[], Ended]:
    return lambda: script("repe.__main__", "status", tmp_path / "res", "--data-dir", tmp_path / "data")


def test_every_pair_of_the_other_data_is_tested_with_the_vectors_of_the_first(
    run: Callable[..., Ended], other: Path, tmp_path: Path, model_folders: dict[str, Path]
) -> None:
    ended = run("--data-dir", other)
    assert ended.status == 0, ended
    file = AccuracyFile(tmp_path / "res", "tiny-llama-on-other", "morality", Kind())
    vectors = VectorFile(tmp_path / "res", "tiny-llama", "morality", Kind()).vectors
    model = load(model_folders["llama"])
    for target in LANGUAGES:
        pairs = read_pairs(other / f"morality/morality_{target}.json")
        assert sorted(file.content["test_keys"][target]) == sorted(pair.key for pair in pairs)
        states = torch.stack([model.states([getattr(pair, side) for pair in pairs]) for side in ("pos", "neg")])
        for source in LANGUAGES:
            direction = torch.from_numpy(vectors[source].directions[:, 0])
            positive, negative = torch.einsum("slph,lh->slp", states, direction)
            expected = (positive >= negative).double().mean(dim=-1).numpy()
            assert np.allclose(file.accuracy[source][target], expected)
    assert not (tmp_path / "res/tiny-llama/morality/acc.pt").exists()


def test_status_compares_with_the_folders_that_were_used(
    run: Callable[..., Ended], status: Callable[[], Ended], other: Path, tmp_path: Path
) -> None:
    run("--data-dir", other)
    (row,) = [line for line in status().out.splitlines() if "tiny-llama-on-other" in line]
    assert f"in {tmp_path}/res/tiny-llama" in row
    assert row.endswith("all 2")
    assert "nothing to do" in run("--data-dir", other).out
    write_data(other, "morality", "fr", pairs=41)
    assert "stale: fr" in status().out
    assert run("--data-dir", other).status == 2


def test_status_reads_no_folder_that_only_the_file_names(
    run: Callable[..., Ended], status: Callable[[], Ended], other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("--data-dir", other)
    monkeypatch.chdir("/usr")
    (row,) = [line for line in status().out.splitlines() if "tiny-llama-on-other" in line]
    assert row.endswith(f"all 2; not compared with {other}")


def test_other_vectors_make_the_accuracies_stale(
    run: Callable[..., Ended], status: Callable[[], Ended], other: Path, tmp_path: Path
) -> None:
    run("--data-dir", other)
    path = tmp_path / "res/tiny-llama/morality/reader_dict.pt"
    content = torch.load(path, weights_only=True)
    content["languages"]["en"]["directions"] *= 2
    torch.save(content, path)
    assert "stale: en" in status().out


def test_the_data_that_made_the_vectors_are_refused(run: Callable[..., Ended], data_dir: Path) -> None:
    ended = run("--data-dir", data_dir)
    assert ended.status == 2
    assert "was collected from the same morality data (en fr): name other data with --data-dir" in ended.err


def test_comparisons_take_the_folder(run: Callable[..., Ended], script: Script, other: Path, tmp_path: Path) -> None:
    run("--data-dir", other)
    for name in ("recognize_concept", "transferability_analysis"):
        ended = script(name, "--cross-model", "tiny-llama-on-other", "--res-dir", tmp_path / "res")
        assert ended.status == 0, ended
    assert set(pd.read_csv(tmp_path / "res/cross_model/transfer.csv")["model"]) == {"tiny-llama-on-other"}


@pytest.mark.parametrize("option", ["--nulls", "--no-validation"])
def test_options_that_need_training_pairs_are_refused(run: Callable[..., Ended], other: Path, option: str) -> None:
    ended = run("--data-dir", other, option)
    assert (ended.status, "has no effect with --vectors-from" in ended.err) == (2, True)
