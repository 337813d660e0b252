"""Building blocks of the report: its items, files read for it, cells in the figures' colours."""

import base64
import math
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import pandas as pd
from matplotlib.colors import to_hex
from PIL import Image
from seaborn.utils import relative_luminance

from repe.errors import UserError
from repe.files import check_inside, exists, is_plain_name, open_regular
from repe.plots.heat_maps import Colouring

# Bytes of a file, and cells of a table. Tables of the paper's nine models have fewer than 15,000 cells.
LARGEST, MOST_CELLS = 64 << 20, 200_000
MOST_COLUMNS = 1000
EXPANSION = 16
EFFECTS = ["direct_effect", "split_effect"]
DOTS = 1.8  # of a figure per pixel of the page; figures have 300 dots per inch
NAMES = ("model", "concept", "language", "source", "target", "distance")
Content = TypeVar("Content")


@dataclass(frozen=True)
class Item:
    """Figures, tables or settings under one title."""

    title: str
    caption: str
    images: Sequence[tuple[str, int]] = ()
    """Figures as data URIs, and their widths in pixels of the page."""
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    """By caption; the index is shown if it has a name."""
    number: str = ".4g"
    """Format of the tables' numbers."""
    colouring: Colouring | None = None
    """Of the tables' numbers."""
    facts: Mapping[str, str] = field(default_factory=dict)


def read(path: Path, parse: Callable[[Path], Content], reason: str = "") -> Content:
    """The content of a file.

    Args:
        path: the file.
        parse: reads it, and raises any error if it is damaged.
        reason: for the error message; by default, that of `parse`.

    Raises:
        UserError: it is damaged, too large, not a regular file, or a link to another folder.
    """
    try:
        with open_regular(check_inside(path, path.parent)) as file:
            if os.fstat(file.fileno()).st_size > LARGEST:
                raise ValueError(f"it is larger than {LARGEST >> 20} MiB")
        return parse(path)
    except UserError:
        raise
    # Libraries raise errors of many types on damaged files.
    except Exception as error:
        reason = reason or str(error)
        raise UserError(f"{path} is damaged ({reason}): delete it, then run the stage that writes it") from error


def read_table(path: Path, numbers: Sequence[str] = (), keys: Sequence[str] = ()) -> pd.DataFrame:
    """A CSV file.

    Args:
        path: the file.
        numbers: required columns of numbers; cells may be empty.
        keys: required columns, which identify a row.

    Raises:
        UserError: the file cannot be read, or is not such a table.
    """
    columns = [*keys, *numbers]

    def parse(path: Path) -> pd.DataFrame:
        _check_cells(path)
        frame = pd.read_csv(path, dtype=dict.fromkeys(NAMES, str), keep_default_na=False, na_values=[""])
        for name in frame.columns.intersection([*NAMES]):
            # Without a target, the source is where a row comes from, in words.
            if name == "source" and "target" not in frame:
                continue
            if wrong := [one for one in frame[name].dropna().unique() if not is_plain_name(one)]:
                raise ValueError(f"the {name} {wrong[0]!r:.80} is not a valid name")
        if missing := [column for column in columns if column not in frame]:
            raise ValueError(f"it has no column {missing[0]}")
        if keys and (frame.empty or frame[[*keys]].isna().to_numpy().any() or frame.duplicated([*keys]).any()):
            raise ValueError(f"it does not have one row for each {', '.join(keys)}")
        _check_grid(frame, keys)
        numbers_there = [*numbers, *frame.columns.intersection(EFFECTS)]
        return frame.assign(**{name: frame[name].astype(float) for name in numbers_there})

    return read(path, parse)


def _check_cells(path: Path) -> None:
    """Refuse a table with too many cells before it is parsed, which takes much more memory than the file."""
    with path.open("rb") as file:
        if file.readline(LARGEST).count(b",") > MOST_COLUMNS:
            raise ValueError(f"it has more than {MOST_COLUMNS} columns")
        separators = sum(part.count(b",") + part.count(b"\n") for part in iter(lambda: file.read(1 << 20), b""))
    if separators > EXPANSION * MOST_CELLS:
        raise ValueError(f"it has more than {MOST_CELLS} cells")


def _check_grid(frame: pd.DataFrame, keys: Sequence[str]) -> None:
    """Refuse a table that the page, which has a cell for each combination of keys, would make many times larger."""
    pairs = ("source", "target")
    cells = math.prod(frame[key].nunique() for key in keys if key not in pairs)
    if not {*pairs}.difference(keys):
        cells *= len({*frame["source"], *frame["target"]}) ** 2
    if frame.size > MOST_CELLS or cells > EXPANSION * len(frame) + MOST_CELLS // 100:
        raise ValueError("it has too many cells, or not one for each combination of names")


def images(folder: Path, *names: str) -> list[tuple[str, int]]:
    """The figures that exist, each as a data URI with its width in pixels of the page.

    Raises:
        UserError: a file is damaged.
    """
    return [read(path, _image) for name in names if exists(path := folder / f"{name}.png")]


def _image(path: Path) -> tuple[str, int]:
    # Pillow warns of pictures that take much memory.
    with warnings.catch_warnings(action="error"), Image.open(path, formats=["PNG"]) as picture:
        width = round(picture.width / DOTS)
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}", width


def css(value: float, colouring: Colouring) -> str:
    """The style of a cell in a figure's colour, with white text on dark colours, as in the figure."""
    red, green, blue, _ = colouring(value)
    text = "#fff" if relative_luminance((red, green, blue)) < 0.408 else "#000"
    return f"background:{to_hex((red, green, blue))};color:{text}"
