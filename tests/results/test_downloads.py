"""Released downloads: read with current libraries, without running code from them."""

import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stress.files import pickled_part, rezipped

from repe.errors import UserError
from repe.results.downloads import read_accuracy, read_vectors
from repe.vectors.readers import ClusterMeanRepReader, PCARepReader


def archive(path: Path, pickled: bytes) -> Path:
    """An archive that PyTorch reads, with this pickle in it."""
    torch.save({}, path)
    path.write_bytes(rezipped(path.read_bytes(), pickled))
    return path


def save(content: Any, path: Path) -> Path:
    torch.save(content, path)
    return path


def reader(kind: type, layers: int, signs: type = list) -> Any:
    made = kind()
    generator = np.random.default_rng(0)
    for layer in range(1, layers + 1):
        made.directions[layer] = generator.standard_normal((1, 6), dtype=np.float32)
        made.direction_signs[layer] = signs([-1 if layer == 2 else 1])
    return made


@pytest.mark.parametrize("kind", [ClusterMeanRepReader, PCARepReader])
@pytest.mark.parametrize("signs", [list, np.array])
def test_readers_come_back_as_arrays(kind: type, signs: type, tmp_path: Path) -> None:
    made = reader(kind, 3, signs)
    made.H_train_means = {1: torch.arange(6.0).reshape(2, 3).T, 2: torch.zeros(3).half()}
    vectors = read_vectors(save({"fr": made, "en": made}, tmp_path / "reader_dict.pk"))
    assert list(vectors) == ["fr", "en"]
    assert vectors["en"]["layers"] == [1, 2, 3]
    assert vectors["en"]["directions"].dtype == np.float32
    assert np.array_equal(vectors["en"]["directions"], np.stack([made.directions[layer] for layer in (1, 2, 3)]))
    assert vectors["en"]["signs"].tolist() == [[1], [-1], [1]]


@pytest.mark.parametrize("value", [np.float64(0.125), np.float32(0.125), 0.125])
def test_accuracies_come_back_as_numbers(value: Any, tmp_path: Path) -> None:
    path = save({"en": {"fr": {1: value, 2: np.float64(1)}}}, tmp_path / "acc.pk")
    assert read_accuracy(path) == {"en": {"fr": {1: 0.125, 2: 1.0}}}


class Call:
    """Pickles to a call of `function`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


# PyTorch reads pickles of protocol 2 alone; with others the unpickler stops before it comes to the name.
@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("read", [read_vectors, read_accuracy])
def test_no_code_in_a_pickle_is_run(protocol: int, read: Any, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    for number, call in enumerate(
        [
            Call(os.system, f"touch {mark}"),
            Call(Path.touch, mark),
            Call(eval, f"open({str(mark)!r}, 'w')"),
            Call(exec, f"open({str(mark)!r}, 'w')"),
            Call(getattr, "text", "upper"),
            Call(np.save, str(mark), np.zeros(1)),
            Call(ClusterMeanRepReader.fit, 1),
            Call(torch.load, str(mark)),
        ]
    ):
        pickled = pickle.dumps({"en": call}, protocol)
        path = archive(tmp_path / f"{protocol}-{number}.pk", pickled)
        reason = (
            "it asks for .*, which result files do not use"
            if protocol == 2
            else "it asks for .*|its pickle is damaged, or not of protocol 2"
        )
        with pytest.raises(UserError, match=rf"is refused \(({reason})\): download it again$"):
            read(path)
    assert not mark.exists()


BUILD_ON_CLASS = (
    # Takes an allowed name and tries to change the class behind it: {"x": 1} as its state.
    b"\x80\x02cnumpy\ndtype\n}X\x01\x00\x00\x00xK\x01sb.",
    b"\x80\x02crepe.rep_readers\nClusterMeanRepReader\nN}X\x0b\x00\x00\x00__reduce__K\x01s\x86b.",
    b"\x80\x02c_codecs\nencode\nN}X\x07\x00\x00\x00__new__K\x01s\x86b.",
)


@pytest.mark.parametrize("pickled", BUILD_ON_CLASS)
def test_allowed_names_cannot_be_changed(pickled: bytes, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is refused"):
        read_vectors(archive(tmp_path / "reader_dict.pk", pickled))
    made = reader(ClusterMeanRepReader, 1)
    assert list(read_vectors(save({"en": made}, tmp_path / "good.pk"))) == ["en"]


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save({"en": reader(ClusterMeanRepReader, 2)}, buffer)
    good = buffer.getvalue()
    path = tmp_path / "reader_dict.pk"
    damaged = [b"", b"PK", good[:100], good[: len(good) // 2], pickle.dumps({"en": 1})]
    for raw in damaged:
        path.write_bytes(raw)
        with pytest.raises(UserError, match=r"reader_dict\.pk is refused \(.*\): download it again"):
            read_vectors(path)


@pytest.mark.parametrize(
    "content", [{"en": 1}, {"en": {}}, [1, 2], {"en": {"directions": {}}}, {"en": reader(ClusterMeanRepReader, 0)}]
)
def test_other_content_is_refused(content: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is refused \(.*\): download it again"):
        read_vectors(save(content, tmp_path / "reader_dict.pk"))


@pytest.mark.parametrize(
    "content",
    [
        {"en": 1},
        {"en": {"fr": {"x": 1}}},
        {"en": {"fr": 0.5}},
        {"en": {"fr": {1: "a"}}},
        {"en": {"fr": {1: torch.tensor(0.5)}}},
    ],
)
def test_other_tables_are_no_accuracies(content: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not hold accuracies"):
        read_accuracy(save(content, tmp_path / "acc.pk"))


def test_numbers_that_cannot_be_are_refused(tmp_path: Path) -> None:
    for change in ({"directions": np.full((1, 6), np.nan, np.float32)}, {"direction_signs": [3]}):
        made = reader(ClusterMeanRepReader, 3)
        for name, value in change.items():
            getattr(made, name)[2] = value
        with pytest.raises(UserError, match="is not finite, or a sign is neither 1 nor -1"):
            read_vectors(save({"en": made}, tmp_path / "reader_dict.pk"))
    made = reader(ClusterMeanRepReader, 3)
    del made.directions[1]
    with pytest.raises(UserError, match="do not match"):
        read_vectors(save({"en": made}, tmp_path / "reader_dict.pk"))
    made = reader(ClusterMeanRepReader, 3)
    made.directions[1] = np.zeros((1, 6), np.float32)
    with pytest.raises(UserError, match="a direction is zero"):
        read_vectors(save({"en": made}, tmp_path / "reader_dict.pk"))
    for row in ({}, {1: 1.5}, {1: float("nan")}, {2: 0.5}, {0: 0.5, 1: 0.5}):
        with pytest.raises(UserError, match=r"layers are not 1\.\.N, or an accuracy is not in 0\.\.1"):
            read_accuracy(save({"en": {"fr": row}}, tmp_path / "acc.pk"))


def test_tensors_in_a_download_are_left_out(tmp_path: Path) -> None:
    made = reader(ClusterMeanRepReader, 1)
    made.H_train_means = torch.zeros(4)
    path = save({"en": made}, tmp_path / "reader_dict.pk")
    raw = path.read_bytes()
    # The size of the only tensor, (4,), becomes (200,), which its storage does not have.
    changed = pickled_part(raw).replace(b"K\x00K\x04\x85", b"K\x00K\xc8\x85")
    assert changed != pickled_part(raw)
    path.write_bytes(rezipped(raw, changed))
    assert np.array_equal(read_vectors(path)["en"]["directions"][0], made.directions[1])


def test_compressed_and_altered_archives_are_refused(tmp_path: Path) -> None:
    path = save({"en": reader(ClusterMeanRepReader, 2)}, tmp_path / "reader_dict.pk")
    raw = path.read_bytes()
    altered = bytearray(raw)
    altered[raw.index(b"direction_signs")] ^= 1
    path.write_bytes(altered)
    with pytest.raises(UserError, match=r"the checksum of .*data\.pkl is wrong|Bad CRC-32"):
        read_vectors(path)
    path.write_bytes(rezipped(raw, pickled_part(raw)))
    assert list(read_vectors(path)) == ["en"]
    path.write_bytes(rezipped(raw, pickled_part(raw), zipfile.ZIP_DEFLATED))
    with pytest.raises(UserError, match="it is compressed"):
        read_vectors(path)


HUGE = 10**11
SHORT_FILES_OF_LARGE_ARRAYS = [
    {"directions": {1: torch.zeros(1).expand(1, HUGE)}, "direction_signs": {1: [1]}},
    {"directions": {1: np.ones((1, 6), np.float32)}, "direction_signs": {1: [torch.zeros(1).expand(HUGE)]}},
    {"directions": {1: Call(np._core.multiarray._reconstruct, np.ndarray, (HUGE,), "f8")}, "direction_signs": {1: [1]}},
]


@pytest.mark.parametrize("attributes", SHORT_FILES_OF_LARGE_ARRAYS)
def test_a_short_file_cannot_take_all_memory(attributes: dict[str, Any], tmp_path: Path) -> None:
    made = ClusterMeanRepReader()
    vars(made).update(attributes)
    path = save({"en": made}, tmp_path / "reader_dict.pk")
    assert path.stat().st_size < 10_000
    with pytest.raises(UserError, match="is refused"):
        read_vectors(path)


@pytest.mark.parametrize("dtype", ["O8", "U3", "c8", "V8"])
def test_other_types_than_numbers_are_refused(dtype: str, tmp_path: Path) -> None:
    made = reader(ClusterMeanRepReader, 1)
    made.directions[1] = made.directions[1].astype(dtype)
    with pytest.raises(UserError, match=f"numbers of type '{dtype}'"):
        read_vectors(save({"en": made}, tmp_path / "reader_dict.pk"))


def test_big_endian_and_transposed_arrays_are_read(tmp_path: Path) -> None:
    made = reader(ClusterMeanRepReader, 2)
    expected = np.stack([made.directions[layer] for layer in (1, 2)])
    made.directions[1] = made.directions[1].astype(">f4")
    made.directions[2] = np.asfortranarray(made.directions[2])
    assert np.array_equal(read_vectors(save({"en": made}, tmp_path / "reader_dict.pk"))["en"]["directions"], expected)


def test_every_golden_download_is_read(golden: Path) -> None:
    for path in sorted((golden / "released_run/res").glob("*/*/reader_dict.pk")):
        vectors = read_vectors(path)
        accuracy = read_accuracy(path.with_name("acc.pk"))
        assert len(vectors) == len(accuracy) == 16
        layers = vectors["en"]["layers"]
        assert layers == list(range(1, len(layers) + 1))
        assert all(sorted(row) == layers for targets in accuracy.values() for row in targets.values())
