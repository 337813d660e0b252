"""Result files: content is read back unchanged, results of different settings are not mixed, no code is run."""

import io
import multiprocessing
import pickle
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from repe.errors import UserError
from repe.results.accuracy_file import AccuracyFile
from repe.results.result_file import Kind
from repe.results.vector_file import VectorFile
from repe.runs.arguments import results_folder

LAYERS, HIDDEN = 3, 8
META: dict[str, Any] = {
    "model": "tiny",
    "family": "none",
    "weights": "abc",
    "template": "{input}",
    "special_tokens": True,
    "dtype": "float32",
    "split": 0.8,
    "method": "cluster_mean",
    "random_direction": False,
    "seed": None,
    "versions": {"torch": "2"},
}


def entry(seed: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "directions": torch.randn(LAYERS, 1, HIDDEN, generator=generator),
        "signs": torch.tensor([[1], [-1], [1]], dtype=torch.int8),
        "train_pairs": 10 + seed,
        "mean_norm": torch.rand(LAYERS, generator=generator),
    }


def vector_file(folder: Path) -> VectorFile:
    return VectorFile(folder, "tiny", "morality", Kind())


def add(
    folder: Path, language: str, seed: int = 0, *, meta: dict[str, Any] | None = None, overwrite: bool = False
) -> None:
    made = META | (meta or {}) | {"data": {language: f"digest {language}"}}
    vector_file(folder).add(made, LAYERS, {"languages": {language: entry(seed)}}, overwrite)


def accuracy_rows(source: str, target: str, right: list[int]) -> dict[str, Any]:
    correct = torch.tensor([right] * LAYERS, dtype=torch.uint8)
    return {
        "accuracy": {source: {target: correct.double().mean(-1)}},
        "correct": {source: {target: correct}},
        "test_pairs": {target: len(right)},
        "test_keys": {target: [f"g|{number}" for number in range(len(right))]},
    }


def test_vectors_can_be_read_with_torch_load(tmp_path: Path) -> None:
    add(tmp_path, "fr", 1)
    add(tmp_path, "en", 2)
    content = torch.load(tmp_path / "tiny/morality/reader_dict.pt", weights_only=True)
    assert content["format"] == 1
    assert content["layers"] == [1, 2, 3]
    assert list(content["languages"]) == ["en", "fr"]
    assert content["meta"]["data"] == {"en": "digest en", "fr": "digest fr"}
    for language, seed in (("fr", 1), ("en", 2)):
        for name, value in entry(seed).items():
            assert torch.equal(torch.as_tensor(content["languages"][language][name]), torch.as_tensor(value))
    vectors = vector_file(tmp_path).vectors["en"]
    assert np.array_equal(vectors.directions, entry(2)["directions"].numpy())
    assert vectors.signs.tolist() == [[1], [-1], [1]]
    assert vectors.train_pairs == 12


def test_bytes_depend_on_the_content_only(tmp_path: Path) -> None:
    for folder, order in (("a", ("en", "fr", "xx")), ("b", ("xx", "fr", "en"))):
        for language in order:
            add(tmp_path / folder, language, ord(language[0]))
    first, second = (tmp_path / folder / "tiny/morality/reader_dict.pt" for folder in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()


def test_an_entry_is_replaced_as_a_whole(tmp_path: Path) -> None:
    add(tmp_path, "en", 1)
    shorter = {name: value for name, value in entry(2).items() if name != "mean_norm"}
    vector_file(tmp_path).add(META, LAYERS, {"languages": {"en": shorter}})
    assert "mean_norm" not in vector_file(tmp_path).content["languages"]["en"]


def test_accuracies_are_merged_by_source_and_target(tmp_path: Path) -> None:
    file = AccuracyFile(tmp_path, "tiny", "morality", Kind())
    for source, target, right in (("en", "fr", [1, 0]), ("fr", "fr", [1, 1]), ("en", "en", [0, 0, 1, 1])):
        file.add(META, LAYERS, accuracy_rows(source, target, right))
    assert {
        source: {target: row[0] for target, row in targets.items()} for source, targets in file.accuracy.items()
    } == {
        "en": {"en": 0.5, "fr": 0.5},
        "fr": {"fr": 1.0},
    }
    assert file.languages == ["en", "fr"]
    assert file.lacking(["en", "fr"], same_language=False) == ["fr->en"]
    assert file.lacking(["en", "fr", "zh"], same_language=True) == ["zh"]
    assert file.untried("en", ["en", "fr"]) == ["fr"]
    assert file.untried("fr", ["en", "fr"]) == []


def test_accuracies_of_changed_inputs_are_dropped_when_a_part_is_redone(tmp_path: Path) -> None:
    file = AccuracyFile(tmp_path, "tiny", "morality", Kind())
    inputs = {"data": {"en": "1", "fr": "1"}, "vectors": {"en": "1", "fr": "1"}}
    for source in ("en", "fr"):
        for target in ("en", "fr"):
            file.add(META | inputs, LAYERS, accuracy_rows(source, target, [1, 0]))
    rows = accuracy_rows("fr", "fr", [1, 1, 1])
    with pytest.raises(UserError, match="holds results for fr from other data"):
        file.add(META | {"data": {"fr": "2"}}, LAYERS, rows)
    file.add(META | {"data": {"fr": "2"}, "vectors": {"fr": "1"}}, LAYERS, rows, overwrite=True)
    assert {source: list(row) for source, row in file.accuracy.items()} == {"en": ["en"], "fr": ["en", "fr"]}
    assert file.content["test_pairs"] == {"en": 2, "fr": 3}
    rows = accuracy_rows("en", "en", [1, 0])
    file.add(META | {"data": {"en": "1"}, "vectors": {"en": "2", "fr": "2"}}, LAYERS, rows, overwrite=True)
    assert {source: list(row) for source, row in file.accuracy.items()} == {"en": ["en"]}


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("weights", "xyz", "are those of another model"),  # digests say nothing to a reader
        ("template", "Q: {input}", "now 'Q: {input}'"),
        ("dtype", "float16", "now 'float16'"),
    ],
)
def test_results_of_other_settings_are_not_added(name: str, value: str, said: str, tmp_path: Path) -> None:
    add(tmp_path, "en")
    before = (tmp_path / "tiny/morality/reader_dict.pt").read_bytes()
    with pytest.raises(
        UserError, match=rf"reader_dict\.pt was made with other settings \({name} .*{said}.*--overwrite"
    ):
        add(tmp_path, "fr", meta={name: value})
    assert (tmp_path / "tiny/morality/reader_dict.pt").read_bytes() == before
    add(tmp_path, "fr", meta={name: value}, overwrite=True)
    assert list(vector_file(tmp_path).vectors) == ["fr"]


def test_other_versions_are_recorded_and_accepted(tmp_path: Path) -> None:
    add(tmp_path, "en")
    add(tmp_path, "fr", meta={"versions": {"torch": "3"}})
    assert vector_file(tmp_path).meta["versions"] == {"torch": "3"}


def test_changed_inputs_are_named(tmp_path: Path) -> None:
    add(tmp_path, "en")
    file = vector_file(tmp_path)
    file.check_inputs("data", {"en": "digest en", "fr": "anything"})
    with pytest.raises(UserError, match="holds results for en from other data than the current ones"):
        file.check_inputs("data", {"en": "changed"})


def _damaged(content: dict[str, Any], **change: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content | change, buffer)
    return buffer.getvalue()


class Hostile:
    """Would create a file if a pickle of it were executed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_damaged_and_hostile_files_are_refused_and_left_alone(tmp_path: Path) -> None:
    add(tmp_path, "en")
    path = tmp_path / "tiny/morality/reader_dict.pt"
    good = path.read_bytes()
    content = torch.load(path, weights_only=True)
    wrong_shape = {"en": content["languages"]["en"] | {"directions": torch.zeros(LAYERS, HIDDEN)}}
    not_finite = {"en": content["languages"]["en"] | {"directions": torch.full((LAYERS, 1, HIDDEN), torch.nan)}}
    wrong = [
        good[: len(good) // 2],
        b"",
        b"not an archive",
        _damaged(content, languages=[]),
        _damaged(content, layers=[3, 2, 1]),
        _damaged(content, layers=None),
        _damaged(content, languages=wrong_shape),
        _damaged(content, languages=not_finite),
        _damaged(content, languages={"en": {}}),
        _damaged(content, meta=3),
        _damaged(content, languages={"en": Hostile(tmp_path / "ran")}),
    ]
    for raw in wrong:
        path.write_bytes(raw)
        with pytest.raises(UserError, match=r"reader_dict\.pt is damaged \(.+\): delete it and run") as raised:
            _ = vector_file(tmp_path).vectors
        assert f"({raised.value.reason})" in str(raised.value)
        with pytest.raises(UserError, match="is damaged"):
            add(tmp_path, "fr")
        assert path.read_bytes() == raw
    assert not (tmp_path / "ran").exists()


def test_a_later_format_is_named(tmp_path: Path) -> None:
    add(tmp_path, "en")
    path = tmp_path / "tiny/morality/reader_dict.pt"
    path.write_bytes(_damaged(torch.load(path, weights_only=True), format=2))
    with pytest.raises(UserError, match="has format 2, not 1: update this software"):
        _ = vector_file(tmp_path).vectors


def test_an_error_while_writing_leaves_the_old_file_and_no_temporary_file(tmp_path: Path) -> None:
    add(tmp_path, "en")
    folder = tmp_path / "tiny/morality"
    before = (folder / "reader_dict.pt").read_bytes()
    wrong = entry(1) | {"directions": torch.zeros(LAYERS, HIDDEN)}
    with pytest.raises(ValueError, match="directions of fr"):
        vector_file(tmp_path).add(META, LAYERS, {"languages": {"fr": wrong}})
    assert (folder / "reader_dict.pt").read_bytes() == before
    assert sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock")) == ["reader_dict.pt"]


def _add_many(folder: Path, languages: list[str]) -> None:
    for language in languages:
        add(folder, language)


def test_two_processes_on_one_file_lose_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    names = [[f"{part}{number}" for number in range(12)] for part in "ab"]
    processes = [context.Process(target=_add_many, args=(tmp_path, part)) for part in names]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert list(vector_file(tmp_path).vectors) == sorted(names[0] + names[1])


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (Kind(), "acc.pt"),
        (Kind("pca"), "pca_acc.pt"),
        (Kind(random_direction=True), "random_direction_acc.pt"),
        (Kind("random", True), "random_random_direction_acc.pt"),
    ],
)
def test_methods_and_random_labels_have_their_own_files(kind: Kind, name: str) -> None:
    assert kind.file_name("acc") == name


@pytest.mark.parametrize(
    ("split", "name"), [(0.8, "tiny"), (0.4, "tiny-0.4"), (100.0, "tiny-100.0"), (0.9, "tiny-0.9")]
)
def test_other_splits_have_their_own_folders(split: float, name: str) -> None:
    for split_by, suffix in (("pair", ""), ("item", "-item")):
        args = Namespace(res_dir=Path("res"), split=split, split_by=split_by)
        assert results_folder(args, "tiny") == Path("res") / f"{name}{suffix}"


def test_the_family_is_the_files_or_follows_from_the_name(tmp_path: Path) -> None:
    assert VectorFile(tmp_path, "bloomz-7B1", "morality", Kind()).family().name == "bloomz"
    add(tmp_path, "en", meta={"family": "qwen"})
    assert vector_file(tmp_path).family().name == "qwen"


def test_a_file_sent_to_another_process_is_the_same_file(tmp_path: Path) -> None:
    file = AccuracyFile(tmp_path, "m", "morality", Kind("pca", random_direction=True))
    sent = pickle.loads(pickle.dumps(file))
    assert vars(sent) == vars(file)
