"""The paper's figures, drawn from the tables of the analyses: no file is read, and nothing is computed but means.

Figure 2 is `recognition_bars`, Figures 4 and 7 are `similarity_heat_maps` (of three models and of all), Figures 5 and 8
`transfer_heat_maps` (likewise); `similarity_across_layers` shows the shared languages against depth. `save` writes a
figure as PNG and PDF.

Every one takes a long-form table and `families`, model name -> family. The models of `families` are drawn, in its
order; rows of other models are passed over, and a model without a row is a `ValueError`. Sizes are those of a printed
page: no figure is wider than its text, no letter smaller than 6 points. Colours are by family, shades by size.
"""

import math
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import QuadMesh
from matplotlib.colors import Normalize, SymLogNorm, to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Patch
from matplotlib.textpath import text_to_path
from matplotlib.transforms import Bbox

from repe.files import write_whole
from repe.paper import FAMILIES, Family, seven_billion

# Inches: the text of a printed page, and the width of one of its two columns.
_PAGE_WIDTH, _PAGE_HEIGHT, _COLUMN_WIDTH = 6.9, 9.2, 3.35
_BAR_WIDTH = 0.75  # with its marks and title
_POINTS = 72  # an inch
_TEXT, _SMALL = 7.0, 6.0  # points: names and titles; marks of axes and numbers in cells
_LINE = 0.125  # inches from one line of text to the next
_FONT = "DejaVu Sans"  # comes with matplotlib, so it is on every machine

# On top of matplotlib's defaults, whatever the user's own settings are, so that files are the same everywhere.
_in_print_style = style.context(
    [
        "default",
        {
            "font.family": _FONT,
            "font.size": _TEXT,
            "axes.titlesize": _TEXT,
            "axes.titlepad": 3,
            "axes.linewidth": 0.5,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "xtick.labelsize": _SMALL,
            "ytick.labelsize": _SMALL,
            "xtick.major.width": 0.5,
            "ytick.major.width": 0.5,
            "xtick.major.size": 2,
            "ytick.major.size": 2,
            "xtick.major.pad": 1.5,
            "ytick.major.pad": 1.5,
            "legend.fontsize": _TEXT,
            "legend.frameon": False,
            "hatch.linewidth": 0.4,
            "pdf.fonttype": 42,  # TrueType: text that can be searched, and that publishers take
        },
    ]
)

# The hues of Okabe and Ito, which can be told apart with any colour vision, less yellow, which is too pale for a line.
_HUES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#4D4D4D")
_DASHES = ("-", (0, (4, 1.2)), (0, (1, 1)), (0, (4, 1.2, 1, 1.2)))
_MISSING: dict[str, Any] = {"facecolor": "0.95", "edgecolor": "0.6", "hatch": "//////"}

_CHANCE = 0.5
_PALE_BELOW = 0.01  # differences of accuracy of a pair or two stay pale; from here on each decade has its own step
_TRANSFER_TICKS = np.array([0.01, 0.03, 0.1, 0.3, 1.0])


class _Look(NamedTuple):
    colour: tuple[float, ...]
    dashes: Any


@_in_print_style
def recognition_bars(accuracy: pd.DataFrame, families: Mapping[str, Family]) -> Figure:
    """Figure 2: how well each model tells the concepts apart in each language, as grouped bars.

    `accuracy` has Table 6's columns concept, model, language, accuracy (0..1). Groups are its languages, in order of
    first appearance; a bar is the mean over the concepts that have a value, and a cross stands where none has. Where
    the paper's three models of about seven billion parameters are all there, a dashed line with markers follows each
    of them through the languages, so that one sees where they change places; lines inside the groups would be too
    short to read.
    """
    models = list(families)
    rows = _rows_of(accuracy, models)
    means = rows.groupby(["language", "model"], sort=False)["accuracy"].mean().unstack("model")
    means = means.reindex(index=rows["language"].unique(), columns=models)
    joined = seven_billion(models)

    width = min(max(0.6 + 0.17 * len(means) * (len(models) + 1), _COLUMN_WIDTH), _PAGE_WIDTH)
    names = [_wrapped(model, width - 0.6) for model in models]
    # As many columns as a grid of panels has, so that three families of three have one each, or what there is room for.
    columns = max(1, min(_near_square(len(models)), int(width / (0.55 + _inches(names, _TEXT)))))
    figure = _figure(width, 2.2 + 0.15 * math.ceil(len(models) / columns))
    axes = figure.add_subplot()
    handles: list[Any] = [
        _bars(axes, means[model], place, families, model in joined) for place, model in enumerate(models)
    ]
    _finish_bars(axes, means)
    figure.legend(handles, names, loc="outside upper center", ncols=columns, columnspacing=1.4, borderpad=0.1)
    return figure


def _bars(axes: Axes, heights: pd.Series, place: int, families: Mapping[str, Family], joined: bool) -> tuple[Any, ...]:
    """Draw one model's bars, the `place`-th of each group, and its line if `joined`; the handle for the legend."""
    width = min(0.84 / len(families), 0.3)
    at = np.arange(len(heights)) + (place - (len(families) - 1) / 2) * width
    colour = _looks(families)[str(heights.name)].colour
    bars = axes.bar(at, heights, width, color=colour, edgecolor="white", linewidth=0.2)
    gone = at[heights.isna()]
    axes.plot(gone, np.full(len(gone), 0.03), "x", color=colour, markersize=3, transform=axes.get_xaxis_transform())
    if not joined:
        return (bars,)
    dark = _shade(colour, 1.0)
    (line,) = axes.plot(
        at, heights, "--o", color=dark, linewidth=0.7, markersize=2.2, markeredgecolor="white", markeredgewidth=0.3
    )
    return (bars, line)


def _finish_bars(axes: Axes, means: pd.DataFrame) -> None:
    values = means.to_numpy(float)
    values = values[np.isfinite(values)]
    # The axis begins below chance, so that passing it can be seen, and not at 0, which would flatten all differences.
    low = min(0.4, *(values - 0.05)) if values.size else 0.4
    high = max(0.6, *(values + 0.01)) if values.size else 1.0
    axes.set_ylim(max(math.floor(low * 20) / 20, 0.0), min(math.ceil(high * 20) / 20, 1.0))
    axes.set_xlim(-0.6, len(means) - 0.4)
    axes.set_xticks(range(len(means)), list(means.index))
    axes.tick_params(axis="x", length=0, labelsize=_TEXT)
    axes.set_ylabel("Accuracy, mean over concepts")
    for place in range(1, len(means), 2):
        axes.axvspan(place - 0.5, place + 0.5, color="0.95", linewidth=0, zorder=0)  # tells crowded groups apart
    axes.axhline(_CHANCE, color="0.25", linewidth=0.6, linestyle=(0, (1, 1.5)))
    axes.text(1.005, _CHANCE, "chance", transform=axes.get_yaxis_transform(), va="center", fontsize=_SMALL)
    if means.isna().to_numpy().any():
        axes.text(1.005, 0.03, "× no value", transform=axes.transAxes, va="center", fontsize=_SMALL)


@_in_print_style
def similarity_heat_maps(similarity: pd.DataFrame, families: Mapping[str, Family]) -> Figure:
    """Figures 4 and 7: how alike a concept's directions are between languages, one square heat map a model.

    `similarity` has the columns model, source, target, similarity (a cosine). A panel shows the languages that its
    model has, in the table's order. All panels share one scale, which spans what lies off the diagonals, since every
    language is the same as itself. Cells without a value are hatched.
    """
    panels = _squares(similarity, families, "similarity")
    apart = np.concatenate([square.to_numpy(float)[~np.eye(len(square), dtype=bool)] for square in panels.values()])
    apart = apart[np.isfinite(apart)]
    low, high = (math.floor(apart.min() * 20) / 20, math.ceil(apart.max() * 20) / 20) if apart.size else (0.0, 1.0)
    high = min(high, 1.0)  # a cosine of 1 may have been rounded up
    # A scale needs a length, also where all values are the same.
    return _heat_maps(panels, Normalize(min(low, high - 0.05), high), "viridis", "Cosine similarity")


@_in_print_style
def transfer_heat_maps(transfer: pd.DataFrame, families: Mapping[str, Family]) -> Figure:
    """Figures 5 and 8: what is lost or gained where one language's vectors judge another's texts, a heat map a model.

    `transfer` has the columns model, source, target, delta (accuracy of the source's vectors on the target's texts
    minus that of the target's own; from 0 on the source transfers). Rows are sources, columns targets, in the table's
    order. All panels share one scale, symmetric about 0: linear up to 0.01, logarithmic beyond, so that both a
    difference of 0.02 and one of 0.3 are seen for what they are. Cells without a value are hatched.
    """
    panels = _squares(transfer, families, "delta")
    sizes = np.concatenate([np.abs(square.to_numpy(float)).ravel() for square in panels.values()])
    limit = max([2 * _PALE_BELOW, *sizes[np.isfinite(sizes)]])
    scale = SymLogNorm(_PALE_BELOW, linscale=0.25, vmin=-limit, vmax=limit, base=10)
    figure = _heat_maps(panels, scale, "RdBu", "Accuracy minus that of\nthe target's own vectors", "Target", "Source")
    bar = figure.axes[-1]
    ticks = _TRANSFER_TICKS[limit >= _TRANSFER_TICKS]
    bar.set_yticks([*-ticks, 0, *ticks], [*(f"−{tick:g}" for tick in ticks), "0", *(f"+{tick:g}" for tick in ticks)])
    bar.minorticks_off()
    return figure


def _squares(table: pd.DataFrame, families: Mapping[str, Family], value: str) -> dict[str, pd.DataFrame]:
    """A model's cells as (source, target), both in the order of the table's sources; NaN where it has no row."""
    squares = {}
    for model in families:
        rows = _rows_of(table, [model])
        languages = list(dict.fromkeys([*rows["source"], *rows["target"]]))
        squares[model] = rows.pivot(index="source", columns="target", values=value).reindex(
            index=languages, columns=languages
        )
    return squares


def _heat_maps(
    panels: Mapping[str, pd.DataFrame], scale: Normalize, colours: str, meaning: str, across: str = "", down: str = ""
) -> Figure:
    """One panel a model in a grid, its edge named `across` and `down`, and one colour bar, the figure's last axes."""
    most = max(len(square) for square in panels.values())
    margin = 0.1 + _inches({language for square in panels.values() for language in square}, _SMALL)
    columns, panel = _grid(len(panels), most, margin)
    rows = math.ceil(len(panels) / columns)
    figure = _figure(columns * (panel + margin) + _BAR_WIDTH, _PAGE_HEIGHT, "compressed")
    meshes = []
    for place, (model, square) in enumerate(panels.items()):
        axes = figure.add_subplot(rows, columns, place + 1)
        axes.set_title(_wrapped(model, panel))
        axes.set_xlabel(across if place >= (rows - 1) * columns else "")
        axes.set_ylabel(down if place % columns == 0 else "")
        meshes.append(_heat_map(axes, square, scale, colours, panel / len(square)))
    above = any((scale(square.to_numpy(float)) > 1.001).any() for square in panels.values())
    bar = figure.colorbar(
        meshes[0], ax=figure.axes, aspect=25 * rows, pad=0.02, fraction=0.05, extend="max" if above else "neither"
    )
    bar.set_label(meaning)
    if any(square.isna().to_numpy().any() for square in panels.values()):
        figure.legend(handles=[Patch(label="no value", linewidth=0, **_MISSING)], loc="outside lower left", borderpad=0)
    _trim(figure)
    return figure


def _trim(figure: Figure) -> None:
    """Lower the figure to what its panels need, which is known only when their names have been laid out."""
    figure.draw_without_rendering()
    needed = Bbox.union([box for axes in figure.axes if (box := axes.get_tightbbox())]).height / figure.dpi
    figure.set_figheight(needed + 0.06 + 0.2 * len(figure.legends))


def _heat_map(axes: Axes, square: pd.DataFrame, scale: Normalize, colours: str, cell: float) -> QuadMesh:
    """Fill `axes` with a matrix, first row on top; numbers stand in the cells, `cell` inches wide, where they fit."""
    mesh = axes.pcolormesh(
        np.ma.masked_invalid(square.to_numpy(float)), norm=scale, cmap=colours, edgecolor="white", linewidth=0.25
    )
    axes.patch.set(**_MISSING)  # seen through the cells that are left out
    axes.set_aspect("equal")
    axes.invert_yaxis()
    axes.spines[:].set_visible(False)
    centres = np.arange(len(square)) + 0.5
    wide = _inches(square, _SMALL) > 0.9 * cell
    axes.set_xticks(centres, list(square.columns), rotation=90 if wide else 0)
    axes.set_yticks(centres, list(square.index))
    axes.tick_params(length=0)
    if _inches(["−0.00"], _SMALL) < 0.9 * cell:
        _write_numbers(axes, square, mesh)
    return mesh


def _write_numbers(axes: Axes, square: pd.DataFrame, mesh: QuadMesh) -> None:
    for (row, column), value in np.ndenumerate(square.to_numpy(float)):
        if np.isfinite(value):
            red, green, blue, _ = mesh.cmap(mesh.norm(value))
            dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
            text = f"{value:z.2f}".replace("-", "−")
            axes.text(
                column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=_SMALL, color="w" if dark else "k"
            )


@_in_print_style
def similarity_across_layers(by_layer: pd.DataFrame, families: Mapping[str, Family]) -> Figure:
    """How alike the shared languages' directions are at each depth of each model: one line a model, named at its end.

    `by_layer` has the columns model, layer, relative_depth (0..1), similarity (mean cosine). Dashes as well as shades
    tell the models of a family apart; the largest one's line is solid.
    """
    models = list(families)
    looks = _looks(families)
    figure = _figure(min(3.6 + _inches(models, _TEXT), _PAGE_WIDTH), max(2.6, 0.6 + 0.15 * len(models)))
    axes = figure.add_subplot()
    ends = {}
    for model in models:
        rows = _rows_of(by_layer, [model]).sort_values("relative_depth")
        colour, dashes = looks[model]
        axes.plot(rows["relative_depth"], rows["similarity"], color=colour, linestyle=dashes, linewidth=1.1)
        seen = rows.dropna(subset="similarity")
        ends[model] = (seen["relative_depth"].iloc[-1], seen["similarity"].iloc[-1]) if len(seen) else (1.0, math.nan)
    axes.set_xlim(0, 1)
    axes.set_ylim(axes.get_ylim())
    axes.set_xlabel("Relative depth of the layer")
    axes.set_ylabel("Cosine similarity,\nmean over language pairs and concepts")
    # The axes are as high as the figure less the marks and the title below them.
    _name_ends(axes, ends, looks, _LINE / (figure.get_figheight() - 0.45))
    return figure


def _name_ends(axes: Axes, ends: Mapping[str, tuple[float, float]], looks: Mapping[str, _Look], gap: float) -> None:
    """Name each line to the right of its end, the names at least `gap` apart (in heights of the axes)."""
    low, high = axes.get_ylim()
    heights = np.array([(similarity - low) / (high - low) for _, similarity in ends.values()])
    seen = dict(zip(ends, ~np.isnan(heights), strict=True))
    heights = np.nan_to_num(heights)
    order = np.argsort(heights, kind="stable")
    for index, height in zip(order, _apart(heights[order], gap), strict=True):
        model = list(ends)[index]
        colour = looks[model].colour
        leader = {"arrowstyle": "-", "color": colour, "linewidth": 0.4, "relpos": (0, 0.5), "shrinkA": 0, "shrinkB": 2}
        axes.annotate(
            model if seen[model] else f"{model} (no value)",
            ends[model],
            (1.04, height),
            textcoords="axes fraction",
            va="center",
            color=_shade(colour, 0.6),
            arrowprops=leader if seen[model] else None,
            annotation_clip=False,
        )
        axes.plot(*ends[model], "o", color=colour, markersize=2, clip_on=False)


def _apart(heights: np.ndarray, gap: float) -> np.ndarray:
    """Rising `heights`, moved so that neighbours are at least `gap` apart and, where they fit, all are in 0..1."""
    steps = np.arange(len(heights)) * gap
    up = np.maximum.accumulate(heights - steps)
    down = np.minimum.accumulate((heights - steps)[::-1])[::-1]
    return np.clip((up + down) / 2, 0, max(0.0, 1 - len(heights) * gap + gap)) + steps


@_in_print_style
def save(figure: Figure, out_dir: Path, name: str) -> list[Path]:
    """Write `figure` to `<out_dir>/<name>.png` (300 dots an inch) and `.pdf`, empty it, and return the two paths.

    The same figure gives the same bytes at any time: no date is written. A crash leaves the old or the new file.

    Raises:
        UserError: the folder or a file cannot be written.
    """
    paths = []
    for kind, metadata in {"png": {}, "pdf": {"CreationDate": None}}.items():
        write = partial(figure.savefig, format=kind, dpi=300, metadata=metadata)
        paths.append(write_whole(out_dir / f"{name}.{kind}", write))
    figure.clear()
    return paths


def _figure(width: float, height: float, layout: Literal["constrained", "compressed"] = "constrained") -> Figure:
    figure = Figure(figsize=(width, height), layout=layout)
    FigureCanvasAgg(figure)
    return figure


def _rows_of(table: pd.DataFrame, models: Sequence[str]) -> pd.DataFrame:
    missing = sorted(set(models) - set(table["model"]))
    if missing or not models:
        raise ValueError(f"the table has no row of {', '.join(missing) or 'any model, since none is asked for'}")
    return table[table["model"].isin(models)]


def _inches(texts: Iterable[object], size: float) -> float:
    """How wide the widest of `texts` is when printed in letters of `size` points."""
    letters = FontProperties(family=_FONT, size=size)
    widths = [text_to_path.get_text_width_height_descent(str(text), letters, ismath=False)[0] for text in texts]
    return float(max(widths)) / _POINTS


def _wrapped(name: str, width: float) -> str:
    """`name` on as many lines as `width` inches need, cut after hyphens and underscores where there are any."""
    letters = max(8, int(width / _inches("n", _TEXT)))
    return textwrap.fill(name.replace("_", "_ "), letters).replace("_ ", "_")


def _near_square(count: int) -> int:
    """Columns of a grid of `count` panels: near square, with few holes; three stand in a row; four at most."""
    square = min(4, math.ceil(math.sqrt(count)))
    return min(range(square, 5), key=lambda columns: -count % columns)


def _grid(count: int, languages: int, margin: float) -> tuple[int, float]:
    """Columns of a grid of `count` panels and the side of one, in inches, with `margin` for the languages' names.

    There are fewer columns than `_near_square` where the names of that many languages would overlap.
    """
    columns = _near_square(count)
    smallest = 0.105 * languages
    while columns > 1 and _panel(columns, margin) < smallest:
        columns -= 1
    rows = math.ceil(count / columns)
    tallest = _PAGE_HEIGHT / rows - margin - 0.25
    # Neither cells larger than a number needs, nor panels narrower than most models' names.
    largest = max(1.6, 0.45 * languages)
    return columns, max(min(_panel(columns, margin), largest, 2.6, tallest), smallest)


def _panel(columns: int, margin: float) -> float:
    return (_PAGE_WIDTH - _BAR_WIDTH) / columns - margin


def _looks(families: Mapping[str, Family]) -> dict[str, _Look]:
    """Colour and dashes of each model: a hue a family, or a model of no family, and the larger a model the darker."""
    keys = {model: model if family.name == "none" else family.name for model, family in families.items()}
    # The paper's families keep their hues whichever are drawn; more keys than hues begin again at the first.
    order = list(dict.fromkeys([*(name for name in FAMILIES if name != "none"), *keys.values()]))
    hues = {model: _HUES[order.index(key) % len(_HUES)] for model, key in keys.items()}
    looks = {}
    for model, hue in hues.items():
        alike = sorted((other for other in hues if hues[other] == hue), key=_billions)
        rank = alike.index(model)
        darkness = 2 * rank / (len(alike) - 1) - 1 if len(alike) > 1 else 0.0
        looks[model] = _Look(_shade(to_rgb(hue), darkness), _DASHES[(len(alike) - 1 - rank) % len(_DASHES)])
    return looks


def _shade(colour: Iterable[float], darkness: float) -> tuple[float, ...]:
    """`colour` itself at 0, nearly white at -1, nearly black at 1."""
    towards, share = (0.0, 0.45 * darkness) if darkness > 0 else (1.0, -0.55 * darkness)
    return tuple(towards * share + part * (1 - share) for part in colour)


def _billions(model: str) -> float:
    """The number of parameters in a model's name (560M, 1B8, 0.5B), or 0: such models stay in the order given."""
    sizes = re.findall(r"(?<![a-z0-9.])(\d+(?:\.\d+)?)([bm])(\d*)(?![a-z0-9])", model.lower())
    if not sizes:
        return 0.0
    whole, unit, part = sizes[-1]
    return float(f"{whole}.{part}" if part else whole) * (1 if unit == "b" else 1e-3)
