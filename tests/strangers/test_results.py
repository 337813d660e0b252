"""Results folders from strangers: wrong results, bombs and links are refused by everything that reads them."""

import io
import os
import shutil
import zipfile
from collections.abc import Callable
from itertools import takewhile
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import pytest
import torch
from stress.files import saved

from strangers.cases import (
    LAYERS,
    MODEL,
    assert_refused,
    change,
    good_results,
    run,
    with_pickle,
)

NOBODY = 65534
Attack = Callable[[Path], object]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return good_results(tmp_path_factory.mktemp("good"), "TACXRS")


@pytest.fixture
def res(good: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(good, tmp_path / "res"))


def acc(res: Path, concept: str = "harmfulness") -> Path:
    return res / MODEL / concept / "acc.pt"


def vectors(res: Path, concept: str = "harmfulness") -> Path:
    return res / MODEL / concept / "reader_dict.pt"


def copied(res: Path) -> None:
    for file in (acc, vectors):
        shutil.copy(file(res, "morality"), file(res))


def in_meta(name: str, value: Any) -> Attack:
    def edit(res: Path) -> None:
        for file in (acc(res), vectors(res)):
            change(file, lambda content: content["meta"].update({name: value}))

    return edit


def renamed(res: Path) -> None:
    for file in (res / MODEL).glob("*/*.pt"):
        change(file, lambda content: content["meta"].update(model="other"))


def all_right(res: Path) -> None:
    def edit(content: dict[str, Any]) -> None:
        content["accuracy"]["en"]["fr"] = torch.ones(LAYERS, dtype=torch.float64)

    change(acc(res), edit)


def two_layers(*paths: Callable[[Path], Path]) -> Attack:
    def edit(content: dict[str, Any]) -> None:
        content["layers"] = [1, 2]
        for table in ("accuracy", "correct"):
            for row in content.get(table, {}).values():
                row.update({target: cell[:2].clone() for target, cell in row.items()})
        for entry in content.get("languages", {}).values():
            entry.update(directions=entry["directions"][:2].clone(), signs=entry["signs"][:2].clone())

    return lambda res: [change(path(res), edit) for path in paths]


def equal_keys(res: Path) -> None:
    change(acc(res), lambda content: content["test_keys"].update(en=["same"] * 10))


NESTED = b"\x80\x02}" + b")" + b"\x85" * 120_000 + b"K\x01s."
BIG_MEMO = b"\x80\x02}r\x00\x00\x00\x40."


def shared(levels: int = 40) -> Any:
    node: Any = [1]
    for _ in range(levels):
        node = [node, node]
    return node


def bomb(path: Path, size: int = 1 << 30) -> None:
    """A compressed archive with a storage of zeros."""
    raw = saved({"format": 1, "x": torch.zeros(4)})
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(raw)) as old, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, bytes(size) if name.endswith("data/0") else old.read(name))
    path.write_bytes(buffer.getvalue())


def stride_0(res: Path) -> None:
    def edit(content: dict[str, Any]) -> None:
        for entry in content["languages"].values():
            entry["directions"] = torch.ones(1).expand(LAYERS, 1, 1 << 32)

    change(vectors(res), edit)


def named(language: str) -> Attack:
    def edit(res: Path) -> None:
        def rename(content: dict[str, Any]) -> None:
            for table in ("accuracy", "correct"):
                rows = content[table]
                content[table] = {
                    {"fr": language}.get(s, s): {{"fr": language}.get(t, t): cell for t, cell in row.items()}
                    for s, row in rows.items()
                }
            for table in ("test_pairs", "test_keys"):
                content[table][language] = content[table].pop("fr")

        change(acc(res), rename)
        change(vectors(res), lambda content: content["languages"].update({language: content["languages"].pop("fr")}))

    return edit


def odd_concept(name: str) -> Attack:
    return lambda res: (res / MODEL / "harmfulness").rename(res / MODEL / name)


def replaced(path: Callable[[Path], Path], make: Callable[[Path], object]) -> Attack:
    def edit(res: Path) -> None:
        path(res).unlink()
        make(path(res))

    return edit


def to_outside(path: Path) -> None:
    outside = path.parents[3] / "outside.pt"
    shutil.copy(path.parents[1] / "morality" / path.name, outside)
    path.symlink_to(outside)


# By name: the attack, the commands that read the files, and what the error names.
ATTACKS: dict[str, tuple[Attack, str, str]] = {
    "files of another concept": (copied, "TACS", "harmfulness"),
    "the model's name in meta": (renamed, "TACSX", "other"),
    "method random": (in_meta("method", "random"), "TACSX", "harmfulness"),
    "method pca": (in_meta("method", "pca"), "TACSX", "harmfulness"),
    "random labels": (in_meta("random_direction", True), "TACSX", "harmfulness"),
    "split 0.1": (in_meta("split", 0.1), "TACSX", "harmfulness"),
    "split by item": (in_meta("split_by", "item"), "TACSX", "harmfulness"),
    "another family": (in_meta("family", "llama2"), "TACS", "harmfulness"),
    "accuracies of 1": (all_right, "TAS", "harmfulness/acc.pt"),
    "two layers": (two_layers(acc), "TAS", "harmfulness"),
    "two layers of vectors": (two_layers(vectors), "CS", "harmfulness"),
    "two layers of all files": (two_layers(acc, vectors), "TACS", "harmfulness"),
    "identical keys": (equal_keys, "TAS", "harmfulness/acc.pt"),
    "nested tuples in .pt": (lambda res: with_pickle(acc(res), NESTED), "TASR", "harmfulness/acc.pt"),
    "compressed nested tuples": (
        lambda res: with_pickle(vectors(res), NESTED, zipfile.ZIP_DEFLATED),
        "CSRX",
        "harmfulness/reader_dict.pt",
    ),
    "memo of 2^30": (lambda res: with_pickle(acc(res), BIG_MEMO), "TSR", "harmfulness/acc.pt"),
    "nested tuples in .pk": (
        replaced(acc, lambda path: with_pickle(path.with_suffix(".pk"), NESTED)),
        "TAS",
        "harmfulness/acc.pk",
    ),
    "memo of 2^30 in .pk": (
        replaced(vectors, lambda path: with_pickle(path.with_suffix(".pk"), BIG_MEMO)),
        "CSX",
        "harmfulness/reader_dict.pk",
    ),
    "shared lists in meta": (in_meta("seed", shared()), "TCSRX", "harmfulness"),
    "shared lists in versions": (in_meta("versions", {"torch": shared()}), "TCSRX", "harmfulness"),
    "a tensor in meta": (in_meta("revision", torch.ones(1).expand(1 << 33)), "TCSRX", "harmfulness"),
    "nested meta": (in_meta("versions", {"torch": {"a": ["b"]}}), "TCSR", "harmfulness"),
    "a compressed bomb": (lambda res: bomb(vectors(res)), "CSRX", "harmfulness/reader_dict.pt"),
    "stride 0": (stride_0, "CSX", "harmfulness/reader_dict.pt"),
    "LaTeX in a language": (named("x^^5cinput{secret}"), "TCSX", "harmfulness"),
    "comment in a language": (named("a%b&c#"), "TCS", "harmfulness"),
    "mathematics in a language": (named("$frac{$"), "TCS", "harmfulness"),
    "formula in a language": (named('=HYPERLINK("x")'), "TCS", "harmfulness"),
    "escape code in a language": (named("en\x1b]0;x\x07"), "TCS", "harmfulness"),
    "LaTeX in a concept": (odd_concept("x^^5cinput{secret}"), "TACSX", "x^^5cinput{secret}"),
    "mathematics in a concept": (odd_concept("$frac{$"), "TACS", "$frac{$"),
    "escape code in a concept": (odd_concept("a\x1b[31mb"), "TACS", "31m"),
    "a pipe": (replaced(acc, os.mkfifo), "TASR", "harmfulness/acc.pt"),
    "an endless device": (replaced(vectors, lambda path: path.symlink_to("/dev/zero")), "CSRX", "reader_dict.pt"),
    "a link to outside": (replaced(acc, to_outside), "TASR", "harmfulness/acc.pt"),
    "a folder in place of a file": (replaced(acc, Path.mkdir), "TASR", "harmfulness/acc.pt"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_are_refused(name: str, res: Path) -> None:
    attack, letters, said = ATTACKS[name]
    attack(res)
    for letter, (ended, seconds) in run(letters, res).items():
        assert_refused(ended, seconds, said, where=letter)


def test_an_unreadable_concept_is_not_left_out(res: Path) -> None:
    """As another user, since the owner of all files could read them."""
    (res / MODEL / "harmfulness").chmod(0)
    (res / "cross_model").chmod(0o777)
    for folder in takewhile(lambda folder: folder != Path(gettempdir()), res.parents):
        folder.chmod(0o755)
    for letter, (ended, seconds) in run("TACSRX", res, user=NOBODY).items():
        assert_refused(ended, seconds, "harmfulness", where=letter)


def test_status_lists_the_other_folders(res: Path) -> None:
    shutil.copytree(res / MODEL, res / "tiny{x}")
    (res / MODEL / "$frac{$").mkdir()
    shutil.copy(acc(res), res / MODEL / "$frac{$")
    ended, seconds = run("S", res)["S"]
    assert_refused(ended, seconds, "$frac{$", "tiny{x}")
    assert "morality" in ended.out
