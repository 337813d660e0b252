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


class Table(NamedTuple):
    """A sortable table; cells are texts."""

    caption: str
    values: pd.DataFrame
    """Exact values."""
    shown: pd.DataFrame
    """The same cells as the page shows them."""
    numeric: Sequence[str] = ()
    """Columns of numbers."""
    foreign: Sequence[str] = ()
    """Columns of texts in the language that the row's column `language` names."""
    folded: bool = False


class Image(NamedTuple):
    """A figure as a data URI, with its size in pixels of the page."""

    uri: str
    width: int
    height: int
    alt: str


class Panel(NamedTuple):
    """A model's heat map."""

    model: str
    values: pd.DataFrame
    """Texts by source (rows) and target language; empty for no value."""
    styles: Sequence[Sequence[str]]
    """CSS of the same cells."""


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


def rounded(text: str, digits: int) -> str:
    """A number with a minus sign instead of a hyphen; empty for an empty text."""
    return f"{float(text):z.{digits}f}".replace("-", "−") if text else ""


def table_of(frame: pd.DataFrame, caption: str, folded: bool = False) -> Table:
    """A frame of texts as a table, folded if it is long or `folded` is set.

    A column of numbers is rounded if one of them has more than DIGITS digits.
    """
    numeric = [
        str(name) for name in frame if any(frame[name]) and all(number_of(x) is not None for x in frame[name] if x)
    ]
    shown = frame.copy()
    for name in numeric:
        long = any(len(text.partition(".")[2]) > DIGITS or "e" in text for text in frame[name])
        shown[name] = frame[name].map(_shortened if long else lambda text: text.replace("-", "−"))
    return Table(caption, frame, shown, numeric, folded=folded or len(frame) > LONG)


def _shortened(text: str) -> str:
    # Numbers that would be rounded to 0, such as p-values, are shown with an exponent.
    if text and 0 < abs(float(text)) < 0.5 * 10**-DIGITS:
        return f"{float(text):.1e}".replace("-", "−")
    return text if text.isdecimal() else rounded(text, DIGITS)


def all_rows(frames: Mapping[str, pd.DataFrame], name: str) -> list[Table]:
    """The whole table `name`, folded, if there is one."""
    return [table_of(frames[name], f"All rows of {name}.csv", folded=True)] if name in frames else []


def wide_table(frame: pd.DataFrame, across: str, value: str, caption: str, percent: bool = False) -> Table:
    """One row per model, one column per value of `across`.

    Percentages have one digit after the decimal point, and their mean in the last column; other values have two digits.
    """
    wide = frame.pivot(index="model", columns=across, values=value).fillna("")
    wide = wide.loc[frame["model"].unique(), frame[across].unique()]
    if percent:
        wide["mean"] = wide.apply(numbers_of).mean(axis=1).map(lambda mean: "" if math.isnan(mean) else repr(mean))
    shown = wide.map(lambda text: rounded(text and repr(100 * float(text)), 1) if percent else rounded(text, 2))
    return Table(caption, wide.reset_index(), shown.reset_index(), numeric=[*wide])


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
    for model, rows in frame.groupby("model", sort=False):
        languages = list(dict.fromkeys([*rows["source"], *rows["target"]]))
        square = rows.pivot(index="source", columns="target", values=value)
        square = square.reindex(languages, columns=languages).fillna("")
        colours = colouring(square.apply(numbers_of).to_numpy(float))
        panels.append(Panel(str(model), square, [[_style(*colour) for colour in line] for line in colours]))
    round_numbers = MaxNLocator(5).tick_values(low, high)
    labels = colouring.ticks or {tick: f"{tick:.4g}" for tick in map(float, round_numbers)}
    ticks = [(round(100 * float(scale(tick)), 2), label) for tick, label in labels.items() if low <= tick <= high]
    gradient = ", ".join(to_hex(colour) for colour in colouring(scale.inverse(np.linspace(0, 1, STEPS))))
    return HeatMaps(colouring.meaning.replace("\n", " "), panels, gradient, ticks)


def _style(red: float, green: float, blue: float, _alpha: float) -> str:
    colour = (float(red), float(green), float(blue))
    return f"background:{to_hex(colour)};color:{'#fff' if is_dark(colour) else '#000'}"
