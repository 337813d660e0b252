"""What the report is made of: tables read digit for digit, embedded figures, heat maps in the figures' own colours."""

import base64
import csv
import io
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.colors import to_hex
from matplotlib.ticker import MaxNLocator

from repe.errors import UserError
from repe.plots.heat_maps import Colouring, is_dark

LONG = 40  # rows; longer tables are folded
DIGITS = 4  # after the point, where a column has more
STEPS = 33  # colours in the bar beside heat maps
DOTS = 1.8  # of a figure, to a pixel of the page: print has 300 an inch


class Cell(NamedTuple):
    """What a table shows."""

    text: str
    value: str = ""
    """The number with every digit, where `text` cannot be read as it."""
    language: str = ""
    """Of a text that is not in the page's language."""


class Column(NamedTuple):
    """A column's name, and whether it holds numbers."""

    name: str
    numeric: bool = False


class Table(NamedTuple):
    """A table that can be sorted."""

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
    """A pair of languages; without a value the texts are empty."""

    label: str
    text: str
    value: str
    style: str


class Panel(NamedTuple):
    """A model's heat map: rows are sources."""

    model: str
    targets: Sequence[str]
    rows: Sequence[tuple[str, Sequence[HeatCell]]]


class HeatMaps(NamedTuple):
    """Heat maps on one colour scale, whose bar has `colours` at even steps and `ticks` at a percentage of it."""

    meaning: str
    panels: Sequence[Panel]
    colours: str
    ticks: Sequence[tuple[float, str]]


class Item(NamedTuple):
    """One of the paper's figures and tables, or another file's content, with what it says and how to read it."""

    title: str
    caption: str
    images: Sequence[Image] = ()
    maps: HeatMaps | None = None
    tables: Sequence[Table] = ()
    facts: Sequence[tuple[str, str]] = ()


class Section(NamedTuple):
    """A stage, or what else belongs together."""

    name: str
    title: str
    items: Sequence[Item]


def read_table(path: Path, numeric: Sequence[str] = (), keys: Sequence[str] = ()) -> pd.DataFrame:
    """A CSV file as texts, digit for digit.

    Args:
        path: the file.
        numeric: columns that must be there and hold numbers or nothing.
        keys: columns that must be there and tell the rows apart.

    Raises:
        UserError: the file cannot be read, or is not such a table.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise damaged(path, str(error)) from error
    if not rows or len(set(rows[0])) < len(rows[0]):
        raise damaged(path, "its first line does not name columns")
    for number, row in enumerate(rows, 1):
        if len(row) != len(rows[0]):
            raise damaged(path, f"line {number} has {len(row)} cells, the first {len(rows[0])}")
    frame = pd.DataFrame(rows[1:], columns=pd.Index(rows[0]), dtype=object)
    for column in (*keys, *numeric):
        if column not in frame:
            raise damaged(path, f"it has no column {column}")
    for column in numeric:
        if wrong := [text for text in frame[column] if text and number_of(text) is None]:
            raise damaged(path, f"{wrong[0]!r} in column {column} is no number")
    if keys and (frame.empty or frame.duplicated(list(keys)).any()):
        raise damaged(path, "it has no rows" if frame.empty else f"two rows have the same {', '.join(keys)}")
    return frame


def damaged(path: Path, reason: str) -> UserError:
    """The error for a file that is not what it should be."""
    return UserError(f"{path} is damaged ({reason}): delete it and run the stage that writes it again")


def number_of(text: str) -> float | None:
    """The finite number that `text` is."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def numbers_of(texts: pd.Series) -> pd.Series:
    """Texts as numbers, NaN for an empty one."""
    return texts.map(lambda text: float(text or "nan")).astype(float)


def rounded(number: float, digits: int) -> str:
    """`number` as printed, with a minus that is as wide as a plus."""
    return f"{number:z.{digits}f}".replace("-", "−")


def table_of(frame: pd.DataFrame, caption: str, folded: bool = False) -> Table:
    """A frame of texts: columns of numbers are rounded where one of them has more digits, and keep their values.

    It is folded if asked for, or long.
    """
    columns, cells = [], []
    for name in frame:
        texts = [str(text) for text in frame[name]]
        numbers = [number_of(text) for text in texts]
        numeric = any(texts) and all(
            number is not None or not text for text, number in zip(texts, numbers, strict=True)
        )
        long = any(len(text.partition(".")[2]) > DIGITS or "e" in text for text in texts)
        columns.append(Column(str(name), numeric))
        cells.append(
            [_cell(text, number, long) for text, number in zip(texts, numbers, strict=True)]
            if numeric
            else [Cell(text) for text in texts]
        )
    return Table(caption, columns, list(zip(*cells, strict=True)), folded or len(frame) > LONG)


def _cell(text: str, number: float | None, long: bool) -> Cell:
    if number is None or text.isdecimal():
        return Cell(text)
    # What would round to nothing, such as a probability, keeps its size.
    small = 0 < abs(number) < 0.5 * 10**-DIGITS
    shown = f"{number:.1e}" if small else rounded(number, DIGITS) if long else text
    shown = shown.replace("-", "−")
    exact = "−" not in shown and float(shown) == number
    return Cell(shown, "" if exact else text)


def wide_table(frame: pd.DataFrame, across: str, value: str, caption: str, percent: bool = False) -> Table:
    """Models down, the values of column `across` across.

    Percentages have one digit after the point and the mean of their row last; other values have two digits.
    """
    wide = frame.pivot(index="model", columns=across, values=value).fillna("")
    wide = wide.loc[frame["model"].unique(), frame[across].unique()]
    columns = [Column("model"), *(Column(str(name), True) for name in wide)]
    rows = []
    for model, texts in wide.iterrows():
        values = list(texts)
        if percent:
            numbers = [float(text) for text in values if text]
            values.append(repr(float(np.mean(numbers))) if numbers else "")
        rows.append([Cell(str(model)), *(_printed(text, percent) for text in values)])
    return Table(caption, [*columns, Column("mean", True)] if percent else columns, rows)


def _printed(text: str, percent: bool) -> Cell:
    number = number_of(text)
    if number is None:
        return Cell(text)
    return Cell(rounded(100 * number, 1) if percent else rounded(number, 2), text)


def images(paths: Iterable[Path], alt: str) -> list[Image]:
    """The figures that are there, embedded in 256 colours, which look the same and are a third as large.

    Raises:
        UserError: a file is no image.
    """
    from PIL import Image as Picture

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
        # Pillow raises many types on a damaged file.
        except Exception as error:
            raise damaged(path, str(error)) from error
        data = base64.b64encode(min(original, buffer.getvalue(), key=len)).decode()
        width, height = (max(1, round(side / DOTS)) for side in opaque.size)
        found.append(Image(f"data:image/png;base64,{data}", width, height, alt))
    return found


def heat_maps(frame: pd.DataFrame, value: str, colouring_of: Callable[[np.ndarray], Colouring]) -> HeatMaps:
    """Heat maps in a figure's colours and on its scale, a panel a model.

    Args:
        frame: columns model, source, target and `value`, as texts.
        value: what the colours show.
        colouring_of: that of the figure (in repe.plots.figures), given the values of different languages.
    """
    numbers = numbers_of(frame[value])
    colouring = colouring_of(numbers[frame["source"] != frame["target"]].to_numpy(float))
    scale = colouring.scale
    low, high = float(scale.vmin), float(scale.vmax)  # type: ignore[arg-type]
    panels = []
    for model in frame["model"].unique():
        rows = frame[frame["model"] == model]
        languages = list(dict.fromkeys([*rows["source"], *rows["target"]]))
        square = (
            rows.pivot(index="source", columns="target", values=value).reindex(languages, columns=languages).fillna("")
        )
        texts = square.to_numpy(str)
        colours = colouring(square.apply(numbers_of).to_numpy(float))
        lines = [
            (source, [_heat_cell(source, *three) for three in zip(languages, texts[i], colours[i], strict=True)])
            for i, source in enumerate(languages)
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
        return HeatCell(f"{source} → {target}: no value", "", "", "")
    red, green, blue = map(float, colour[:3])
    ink = "#fff" if is_dark((red, green, blue)) else "#000"
    return HeatCell(
        f"{source} → {target}: {rounded(number, DIGITS)}",
        rounded(number, 2),
        text,
        f"background:{to_hex((red, green, blue))};color:{ink}",
    )
