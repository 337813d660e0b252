"""Downloads converted to result files: the same numbers, nothing lost, errors in one line."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Ended

from repe.results.accuracy_file import AccuracyFile
from repe.results.result_file import Kind
from repe.results.vector_file import VectorFile
from repe.vectors.readers import ClusterMeanRepReader, PCARepReader, RandomRepReader

Run = Callable[..., Ended]
MODEL, CONCEPT = "bloomz-560M", "morality"
KINDS = {
    "": (Kind(), ClusterMeanRepReader),
    "pca_": (Kind("pca"), PCARepReader),
    "random_random_direction_": (Kind("random", random_direction=True), RandomRepReader),
}


def vectors(kind: type, seed: int) -> dict[str, object]:
    generator = np.random.default_rng(seed)
    made = {}
    for language in ("zh", "en", "own"):
        made[language] = kind()
        made[language].directions, made[language].direction_signs = {}, {}
        made[language].__dict__.pop("generator", None)  # the released class has none
        for layer in (1, 2, 3):
            made[language].directions[layer] = generator.standard_normal((1, 6), dtype=np.float32)
            made[language].direction_signs[layer] = [int(generator.choice([-1, 1]))]
    return made


def accuracies(seed: int) -> dict[str, dict[str, dict[int, float]]]:
    generator = np.random.default_rng(seed)
    return {
        source: {
            target: {layer: float(generator.integers(0, 200) / 200) for layer in (3, 1, 2)} for target in ("en", "zh")
        }
        for source in ("zh", "en")
    }


@pytest.fixture
def downloads(tmp_path: Path) -> Path:
    folder = tmp_path / "res" / MODEL / CONCEPT
    folder.mkdir(parents=True)
    for seed, (prefix, (_, reader)) in enumerate(KINDS.items()):
        torch.save(vectors(reader, seed), folder / f"{prefix}reader_dict.pk")
        torch.save(accuracies(seed), folder / f"{prefix}acc.pk")
    (folder / "notes.pk").write_bytes(b"not one of them")
    return tmp_path / "res"


@pytest.fixture
def run(script: Run) -> Run:
    return lambda *arguments: script("repe.__main__", "convert", *arguments)


def test_every_number_reads_back_equal_without_the_download(run: Run, downloads: Path) -> None:
    ended = run(downloads)
    assert (ended.status, ended.err) == (0, "")
    assert "wrote 6 of 6 files" in ended.out
    for path in downloads.rglob("*.pk"):
        path.unlink()
    for seed, (kind, reader) in enumerate(KINDS.values()):
        found = VectorFile(downloads, MODEL, CONCEPT, kind).vectors
        assert [*found] == ["en", "zh", "own"]
        for language, made in vectors(reader, seed).items():
            assert np.array_equal(found[language].directions, np.stack([made.directions[layer] for layer in (1, 2, 3)]))
            assert found[language].signs.tolist() == [made.direction_signs[layer] for layer in (1, 2, 3)]
        accuracy = AccuracyFile(downloads, MODEL, CONCEPT, kind).accuracy
        for source, row in accuracies(seed).items():
            for target, cell in row.items():
                assert accuracy[source][target].tolist() == [cell[1], cell[2], cell[3]]


def test_the_files_open_with_torch_alone_and_claim_no_settings(run: Run, downloads: Path) -> None:
    assert run(downloads).status == 0
    content = torch.load(downloads / MODEL / CONCEPT / "reader_dict.pt", weights_only=True)
    assert (content["format"], content["meta"], content["layers"]) == (1, {}, [1, 2, 3])
    assert content["languages"]["en"]["directions"].shape == (3, 1, 6)
    assert VectorFile(downloads, MODEL, CONCEPT, Kind()).family().name == "bloomz"


def test_nothing_is_replaced_unless_asked_for(run: Run, downloads: Path) -> None:
    assert run(downloads).status == 0
    before = {path: path.read_bytes() for path in downloads.rglob("*.p[tk]")}
    folder = downloads / MODEL / CONCEPT
    torch.save(accuracies(9), folder / "acc.pk")
    (folder / "pca_acc.pt").unlink()
    ended = run(downloads)
    assert "wrote 1 of 6 files" in ended.out
    assert "5 already exist (--overwrite replaces them)" in ended.out
    assert all(path.read_bytes() == content for path, content in before.items() if path != folder / "acc.pk")
    assert "wrote 6 of 6" in run(downloads, "--overwrite").out
    expected = accuracies(9)["zh"]["en"]
    found = AccuracyFile(downloads, MODEL, CONCEPT, Kind()).content["accuracy"]["zh"]["en"]
    assert found.tolist() == [expected[1], expected[2], expected[3]]


def test_languages_of_ones_own_are_never_lost(run: Run, downloads: Path) -> None:
    assert run(downloads).status == 0
    file = VectorFile(downloads, MODEL, CONCEPT, Kind())
    file.add({"split": 0.8}, 3, {"languages": {"fr": file.content["languages"]["en"]}}, overwrite=False)
    content = file.path.read_bytes()
    ended = run(downloads, "--overwrite")
    assert ended.status == 2
    assert "reader_dict.pt has fr, which reader_dict.pk lacks" in ended.err
    assert "wrote 5 of 6 files" in ended.out
    assert file.path.read_bytes() == content


def test_a_damaged_or_hostile_download_is_named_and_the_others_converted(run: Run, downloads: Path) -> None:
    folder = downloads / MODEL / CONCEPT
    (folder / "acc.pk").write_bytes(b"no archive")
    torch.save({}, folder / "pca_acc.pk")
    torch.save({"en": print}, folder / "pca_reader_dict.pk")
    uneven = vectors(ClusterMeanRepReader, 0)
    del uneven["en"].directions[3], uneven["en"].direction_signs[3]  # type: ignore[attr-defined]
    torch.save(uneven, folder / "reader_dict.pk")
    ended = run(downloads)
    assert ended.status == 2
    assert ended.err.count("\n") == 1
    for name, reason in (
        ("acc.pk is refused", "not a zip file"),
        ("pca_acc.pk has no languages", ""),
        ("pca_reader_dict.pk is refused", "print"),
        ("reader_dict.pk cannot be converted", "not 3 layers"),
    ):
        assert name in ended.err
        assert reason in ended.err
    assert "wrote 2 of 6 files" in ended.out


def test_a_folder_without_downloads_is_refused(run: Run, tmp_path: Path) -> None:
    ended = run(tmp_path)
    assert (ended.status, ended.err.count("\n")) == (2, 1)
    assert f"no downloads in {tmp_path}" in ended.err


def test_languages_can_be_added_to_a_converted_file_as_to_a_download(run: Run, downloads: Path) -> None:
    assert run(downloads).status == 0
    file = VectorFile(downloads, MODEL, CONCEPT, Kind())
    file.check_settings({"weights": "any", "template": "any"})
    before = file.vectors["en"].digest
    file.add({"weights": "any"}, 3, {"languages": {"fr": file.content["languages"]["en"]}})
    assert [*file.vectors] == ["en", "fr", "zh", "own"]
    assert file.vectors["en"].digest == before
