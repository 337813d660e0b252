"""Building blocks of the report: tables with every digit, embedded figures, heat maps in the figures' colours."""

import base64
import csv
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.colors import to_hex
from matplotlib.ticker import MaxNLocator
from PIL import Image as Picture

from repe.errors import UserError
from repe.plots.heat_maps import Colouring, is_dark

LONG = 40  # rows; longer tables are folded
DIGITS = 4  # after the decimal point, in columns that have more
STEPS = 33  # colours in a heat map's colour bar
DOTS = 1.8  # of a figure per pixel of the page; figures have 300 dots per inch


class Cell(NamedTuple):
    """A cell of a table."""

    text: str
    value: str = ""
    """The number with every digit, if `text` does not show it."""
    language: str = ""
    """Language of a text that is not in the page's language."""


class Column(NamedTuple):
    """A column of a table."""

    name: str
    numeric: bool = False


class Table(NamedTuple):
    """A sortable table."""

    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    folded: bool = False


class Image(NamedTuple):
    """A figure as a data URI, with its size in pixels of the page."""

    uri: str
    width: int
    height: int
    alt: str


class HeatCell(NamedTuple):
    """A pair of languages; `text`, `value` and `style` are empty if it has no value."""

    label: str
    text: str = ""
    value: str = ""
    style: str = ""


class Panel(NamedTuple):
    """A model's heat map, one row per source language."""

    model: str
    targets: Sequence[str]
    rows: Sequence[tuple[str, Sequence[HeatCell]]]


class HeatMaps(NamedTuple):
    """Heat maps with one colour bar: colours at even steps, and ticks at a percentage of its length."""

    meaning: str
    panels: Sequence[Panel]
    colours: str
    ticks: Sequence[tuple[float, str]]


class Item(NamedTuple):
    """A figure or table, with a caption."""

    title: str
    caption: str
    images: Sequence[Image] = ()
    maps: HeatMaps | None = None
    tables: Sequence[Table] = ()
    facts: Sequence[tuple[str, str]] = ()


class Section(NamedTuple):
    """A stage of the analysis, or another group of items."""

    name: str
    title: str
    items: Sequence[Item]


def read_table(path: Path, numeric: Sequence[str] = (), keys: Sequence[str] = ()) -> pd.DataFrame:
    """A CSV file as text, so that numbers keep every digit.

    Args:
        path: the file.
        numeric: required columns, of numbers or empty cells.
        keys: required columns, which identify a row.

    Raises:
        UserError: the file cannot be read, or is not such a table.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise damaged(path, str(error)) from error
    if not rows or len(set(rows[0])) < len(rows[0]):
        raise damaged(path, "the first line must have a different name for each column")
    for number, row in enumerate(rows, 1):
        if len(row) != len(rows[0]):
            raise damaged(path, f"row {number} has {len(row)} cells instead of {len(rows[0])}")
    frame = pd.DataFrame(rows[1:], columns=pd.Index(rows[0]), dtype=object)
    if missing := [column for column in (*keys, *numeric) if column not in frame]:
        raise damaged(path, f"it has no column {missing[0]}")
    for column in numeric:
        if wrong := [text for text in frame[column] if text and number_of(text) is None]:
            raise damaged(path, f"{wrong[0]!r} in column {column} is not a number")
    if keys and (frame.empty or frame.duplicated(list(keys)).any()):
        raise damaged(path, "it has no rows" if frame.empty else f"two rows have the same {', '.join(keys)}")
    return frame


def damaged(path: Path, reason: str) -> UserError:
    """The error for a file whose content is not valid."""
    return UserError(f"{path} is damaged ({reason}): delete it, then run the stage that writes it")


def number_of(text: str) -> float | None:
    """`text` as a finite number; None if it is not one."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def numbers_of(texts: pd.Series) -> pd.Series:
    """Texts as numbers; NaN for an empty text."""
    return texts.replace("", "nan").astype(float)


def rounded(number: float, digits: int) -> str:
    """`number` with a minus sign instead of a hyphen."""
    return f"{number:z.{digits}f}".replace("-", "−")


def table_of(frame: pd.DataFrame, caption: str, folded: bool = False) -> Table:
    """A frame of texts as a table, folded if it is long or `folded` is set.

    A column of numbers is rounded if one of them has more than DIGITS digits; its cells keep the exact values.
    """
    columns, cells = [], []
    for name in frame:
        texts = [str(text) for text in frame[name]]
        numeric = any(texts) and all(number_of(text) is not None for text in texts if text)
        long = any(len(text.partition(".")[2]) > DIGITS or "e" in text for text in texts)
        columns.append(Column(str(name), numeric))
        cells.append([_number_cell(text, long) if numeric else Cell(text) for text in texts])
    return Table(caption, columns, list(zip(*cells, strict=True)), folded or len(frame) > LONG)


def _number_cell(text: str, long: bool) -> Cell:
    number = number_of(text)
    if number is None or text.isdecimal():
        return Cell(text)
    # Numbers that would be rounded to 0, such as p-values, are shown with an exponent.
    small = 0 < abs(number) < 0.5 * 10**-DIGITS
    shown = f"{number:.1e}" if small else rounded(number, DIGITS) if long else text
    shown = shown.replace("-", "−")
    exact = "−" not in shown and float(shown) == number
    return Cell(shown, "" if exact else text)


def all_rows(frames: Mapping[str, pd.DataFrame], name: str) -> list[Table]:
    """The whole table `name`, folded, if there is one."""
    return [table_of(frames[name], f"All rows of {name}.csv", folded=True)] if name in frames else []


def wide_table(frame: pd.DataFrame, across: str, value: str, caption: str, percent: bool = False) -> Table:
    """One row per model, one column per value of `across`.

    Percentages have one digit after the decimal point, and their mean in the last column; other values have two digits.
    """
    wide = frame.pivot(index="model", columns=across, values=value).fillna("")
    wide = wide.loc[frame["model"].unique(), frame[across].unique()]
    columns = [Column("model"), *(Column(str(name), True) for name in wide)]
    if percent:
        columns.append(Column("mean", True))
        wide["mean"] = wide.apply(numbers_of).mean(axis=1).map(lambda mean: "" if math.isnan(mean) else repr(mean))
    rows = [[Cell(str(model)), *(_rounded_cell(text, percent) for text in texts)] for model, texts in wide.iterrows()]
    return Table(caption, columns, rows)


def _rounded_cell(text: str, percent: bool) -> Cell:
    number = number_of(text)
    if number is None:
        return Cell(text)
    return Cell(rounded(100 * number, 1) if percent else rounded(number, 2), text)


def images(paths: Iterable[Path], alt: str) -> list[Image]:
    """The figures that exist, in 256 colours, which look the same and take a third of the bytes.

    Raises:
        UserError: a file is damaged.
    """
    found = []
    for path in paths:
        if not path.exists():
            continue
        buffer = io.BytesIO()
        try:
            original = path.read_bytes()
            with Picture.open(io.BytesIO(original), formats=["PNG"]) as picture:
                opaque = Picture.new("RGB", picture.size, "white")
                opaque.paste(picture, mask=picture.getchannel("A") if "A" in picture.getbands() else None)
            opaque.quantize(256, Picture.Quantize.MAXCOVERAGE).save(buffer, "PNG")
        # Pillow raises errors of many types on a damaged file.
        except Exception as error:
            raise damaged(path, str(error)) from error
        data = base64.b64encode(min(original, buffer.getvalue(), key=len)).decode()
        width, height = (max(1, round(side / DOTS)) for side in opaque.size)
        found.append(Image(f"data:image/png;base64,{data}", width, height, alt))
    return found


def heat_maps(frame: pd.DataFrame, value: str, colouring_of: Callable[[np.ndarray], Colouring]) -> HeatMaps:
    """Heat maps in a figure's colours and on its scale, one panel per model.

    Args:
        frame: columns model, source, target and `value`, as texts.
        value: column that the colours show.
        colouring_of: the figure's colouring (in repe.plots.figures), from the values of pairs of different languages.
    """
    numbers = numbers_of(frame[value])
    colouring = colouring_of(numbers[frame["source"] != frame["target"]].to_numpy(float))
    scale = colouring.scale
    low, high = float(scale.vmin), float(scale.vmax)  # type: ignore[arg-type]
    panels = []
    for model in frame["model"].unique():
        rows = frame[frame["model"] == model]
        languages = list(dict.fromkeys([*rows["source"], *rows["target"]]))
        square = rows.pivot(index="source", columns="target", values=value)
        square = square.reindex(languages, columns=languages).fillna("")
        colours = colouring(square.apply(numbers_of).to_numpy(float))
        lines = [
            (source, [_heat_cell(source, *cell) for cell in zip(languages, square.loc[source], line, strict=True)])
            for source, line in zip(languages, colours, strict=True)
        ]
        panels.append(Panel(str(model), languages, lines))
    round_numbers = MaxNLocator(5).tick_values(low, high)
    labels = colouring.ticks or {tick: f"{tick:.4g}" for tick in map(float, round_numbers)}
    ticks = [(round(100 * float(scale(tick)), 2), label) for tick, label in labels.items() if low <= tick <= high]
    gradient = ", ".join(to_hex(colour) for colour in colouring(scale.inverse(np.linspace(0, 1, STEPS))))
    return HeatMaps(colouring.meaning.replace("\n", " "), panels, gradient, ticks)


def _heat_cell(source: str, target: str, text: str, colour: np.ndarray) -> HeatCell:
    number = number_of(text)
    if number is None:
        return HeatCell(f"{source} → {target}: no value")
    style = f"background:{to_hex(colour)};color:{'#fff' if is_dark(colour) else '#000'}"
    return HeatCell(f"{source} → {target}: {rounded(number, DIGITS)}", rounded(number, 2), text, style)
