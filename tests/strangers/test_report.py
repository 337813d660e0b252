"""Figures, tables and replies from strangers, shown by the report: nothing from outside, no bombs, no tracebacks."""

import json
import os
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from strangers.cases import CONCEPTS, MODEL, assert_refused, good_results, run

PRIVATE = "a private line"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    res = good_results(tmp_path_factory.mktemp("good"), "CR")
    (res.parent / "outside.csv").write_text(f"model,text\ntiny,{PRIVATE}\n")
    return res


@pytest.fixture
def res(good: Path, tmp_path: Path) -> Path:
    shutil.copy(good.parent / "outside.csv", tmp_path)
    return Path(shutil.copytree(good, tmp_path / "res"))


def png(width: int, height: int, *more: tuple[bytes, bytes]) -> bytes:
    """A black picture of one bit a pixel, with further chunks."""
    rows = zlib.compress((b"\0" + bytes((width + 7) // 8)) * height, 9)
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), *more, (b"IDAT", rows), (b"IEND", b"")]
    parts = [struct.pack(">I", len(c)) + kind + c + struct.pack(">I", zlib.crc32(kind + c)) for kind, c in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def table(name: str, text: str) -> Callable[[Path], object]:
    return lambda res: (res / "cross_model" / name).write_text(text)


def pairs(count: int) -> str:
    rows = (f"tiny,a{number},b{number},0.5" for number in range(count))
    return "\n".join(["model,source,target,similarity", *rows])


def table6(count: int) -> str:
    rows = (f"c{number},m{number},l{number},0.5,1" for number in range(count))
    return "\n".join(["concept,model,language,accuracy,best_layer", *rows])


def replies(**change: object) -> Callable[[Path], object]:
    row = {"id": "1", "lang": "en", "harmful": True, "strength": 0, "baseline": "none", "prompt": "a", "reply": "b"}

    def write(res: Path) -> None:
        folder = res / MODEL / CONCEPTS[0] / "control/en"
        folder.mkdir(parents=True)
        (folder / "generations.jsonl").write_text(json.dumps(row | change))

    return write


def many_fields(res: Path) -> None:
    """A table of all fields would have 400 million cells; the last line is damaged."""
    replies()(res)
    path = res / MODEL / CONCEPTS[0] / "control/en/generations.jsonl"
    row = json.loads(path.read_text())
    path.write_text("".join(json.dumps(row | {f"x{number}": 1}) + "\n" for number in range(20_000)) + "[]")


def settings(text: str) -> Callable[[Path], object]:
    def write(res: Path) -> None:
        replies()(res)
        (res / MODEL / CONCEPTS[0] / "control/en/settings.json").write_text(text)

    return write


def in_place(name: str, make: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda res: make(res / "cross_model" / name)


def control_link(res: Path) -> None:
    outside = res.parent / "outside/en"
    outside.mkdir(parents=True)
    (outside / "private.csv").write_text(f"text\n{PRIVATE}\n")
    (res / MODEL / CONCEPTS[0] / "control").symlink_to(outside.parent)


TABLE_1 = "model,distance,direct,direct_as_released,split,direct_effect\ntiny,genetic,0.1,0.1,0.1,text\n"
ATTACKS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a link to a private table": (in_place("x.csv", lambda p: p.symlink_to(p.parents[2] / "outside.csv")), "x.csv"),
    "a link to a private folder": (control_link, "control"),
    "a table without an end": (in_place("x.csv", lambda path: path.symlink_to("/dev/zero")), "x.csv"),
    "a pipe as a table": (in_place("x.csv", os.mkfifo), "x.csv"),
    "a pipe as a figure": (in_place("x.png", os.mkfifo), "x.png"),
    "a folder as a figure": (in_place("x.png", Path.mkdir), "x.png"),
    "2,000 distinct pairs": (table("similarity.csv", pairs(2000)), "similarity.csv"),
    "2,000 distinct concepts": (table("table6_recognition_accuracy.csv", table6(2000)), "table6"),
    "a table of many cells": (table("x.csv", "\n".join(["1," * 999 + "1"] * 1000)), "x.csv"),
    "a sparse large table": (in_place("x.csv", lambda path: (path.touch(), os.truncate(path, 1 << 34))), "x.csv"),
    "a picture of 600 million pixels": (
        in_place("x.png", lambda path: path.write_bytes(png(24_000, 25_000))),
        "x.png",
    ),
    "a text of 256 MB in a picture": (
        in_place("x.png", lambda p: p.write_bytes(png(8, 8, (b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 28)))))),
        "x.png",
    ),
    **{
        f"{what} as a name": (table("similarity.csv", f"model,source,target,similarity\ntiny,en,{name},1\n"), "target")
        for what, name in {
            "a formula": "=HYPERLINK(1)",
            "an escape code": "\x1b[31m",
            "mathematics": "$frac{$",
            "a path": "../x",
            "LaTeX": "x^^5cinput",
        }.items()
    },
    "a formula as a model": (table("x.csv", "model,value\n=1+1,2\n"), "x.csv"),
    "a table of a million columns": (table("x.csv", "," * 1_000_000), "x.csv"),
    "a table of 30 million lines": (table("x.csv", "a\n" + "1\n" * 30_000_000), "x.csv"),
    "text among numbers": (table("table1_linguistic_correlation.csv", TABLE_1), "table1_linguistic_correlation.csv"),
    "half a surrogate pair in a reply": (replies(reply="\ud800"), "generations.jsonl"),
    "replies with a field of their own each": (many_fields, "generations.jsonl"),
    "a reply that is not text": (replies(reply=[1]), "generations.jsonl"),
    "nested settings": (settings("[" * 100_000), "settings.json"),
    "settings that are no table": (settings("[1]"), "settings.json"),
    "half a surrogate pair in settings": (settings('{"operator": "\\ud800"}'), "settings.json"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_are_refused(name: str, res: Path) -> None:
    attack, said = ATTACKS[name]
    page = res / "cross_model/report.html"
    page.unlink()
    attack(res)
    ended, seconds = run("R", res)["R"]
    assert_refused(ended, seconds, said)
    assert not page.exists()


def test_a_page_from_good_files_is_as_before(res: Path) -> None:
    replies()(res)
    assert run("R", res)["R"][0].status == 0
