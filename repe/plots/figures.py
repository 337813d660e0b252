"""The paper's figures, drawn from the tables of the analyses: no file is read, and nothing is computed but means.

Figure 2 is `recognition_bars`, Figures 4 and 7 are `similarity_heat_maps` (of three models and of all), Figures 5 and 8
`transfer_heat_maps` (likewise); `similarity_across_layers` shows the shared languages against depth.

Every one takes a long-form table and `families`, model name -> family. The models of `families` are drawn, in its
order; rows of other models are passed over, and a model without a row is a `ValueError`. Sizes are those of a printed
page: no figure is wider than its text, no letter smaller than 6 points. Colours are by family, shades by size.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, SymLogNorm, to_rgb
from matplotlib.figure import Figure

from repe.paper import FAMILIES, Family, seven_billion
from repe.plots.heat_maps import Colouring, heat_maps
from repe.plots.style import (
    COLUMN_WIDTH,
    DASHES,
    HUES,
    LINE,
    PAGE_WIDTH,
    SMALL,
    TEXT,
    in_print_style,
    inches,
    near_square,
    new_figure,
    wrapped,
)

_CHANCE = 0.5
_PALE_BELOW = 0.01  # differences of accuracy of a pair or two stay pale; from here on each decade has its own step
_TRANSFER_TICKS = (0.01, 0.03, 0.1, 0.3, 1.0)


class _Look(NamedTuple):
    colour: tuple[float, ...]
    dashes: Any


@in_print_style
def recognition_bars(
    accuracy: pd.DataFrame, families: Mapping[str, Family], intervals: pd.DataFrame | None = None
) -> Figure:
    """Figure 2: how well each model tells the concepts apart in each language, as grouped bars.

    `accuracy` has Table 6's columns concept, model, language, accuracy (0..1). Groups are its languages, in order of
    first appearance; a bar is the mean over the concepts that have a value, and a cross stands where none has. Where
    the paper's three models of about seven billion parameters are all there, a dashed line with markers follows each
    of them through the languages, so that one sees where they change places; lines inside the groups would be too
    short to read.

    `intervals`, if given, has the columns model, language, accuracy_low, accuracy_high, of the bars: a thin line spans
    each.
    """
    models = list(families)
    rows = _rows_of(accuracy, models)
    means = rows.groupby(["language", "model"], sort=False)["accuracy"].mean().unstack("model")
    means = means.reindex(index=rows["language"].unique(), columns=models)
    joined = seven_billion(models)

    width = min(max(0.6 + 0.17 * len(means) * (len(models) + 1), COLUMN_WIDTH), PAGE_WIDTH)
    names = [wrapped(model, width - 0.6) for model in models]
    # As many columns as a grid of panels has, so that three families of three have one each, or what there is room for.
    columns = max(1, min(near_square(len(models)), int(width / (0.55 + inches(names, TEXT)))))
    figure = new_figure(width, 2.2 + 0.15 * math.ceil(len(models) / columns))
    axes = figure.add_subplot()
    handles: list[Any] = [
        _bars(axes, means[model], place, families, model in joined) for place, model in enumerate(models)
    ]
    ends = _error_bars(axes, means, families, intervals) if intervals is not None else ()
    _finish_bars(axes, means, ends)
    figure.legend(handles, names, loc="outside upper center", ncols=columns, columnspacing=1.4, borderpad=0.1)
    return figure


def _positions(groups: int, place: int, bars: int) -> tuple[np.ndarray, float]:
    """Where the `place`-th of `bars` bars stands in each group, and how wide it is."""
    width = min(0.84 / bars, 0.3)
    return np.arange(groups) + (place - (bars - 1) / 2) * width, width


def _error_bars(
    axes: Axes, means: pd.DataFrame, families: Mapping[str, Family], intervals: pd.DataFrame
) -> list[np.ndarray]:
    """Draw the intervals of all bars; returns their ends, (languages,) each."""
    ends = []
    for place, model in enumerate(families):
        own = intervals[intervals["model"] == model].set_index("language").reindex(means.index)
        low, high = (own[f"accuracy_{end}"].to_numpy(float) for end in ("low", "high"))
        colour = _shade(_looks(families)[model].colour, 1.0)
        axes.vlines(_positions(len(means), place, len(families))[0], low, high, color=colour, linewidth=0.5, zorder=3)
        ends += [low, high]
    return ends


def _bars(axes: Axes, heights: pd.Series, place: int, families: Mapping[str, Family], joined: bool) -> tuple[Any, ...]:
    """Draw one model's bars, the `place`-th of each group, and its line if `joined`; the handle for the legend."""
    at, width = _positions(len(heights), place, len(families))
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


def _finish_bars(axes: Axes, means: pd.DataFrame, ends: Sequence[np.ndarray] = ()) -> None:
    values = np.concatenate([means.to_numpy(float).ravel(), *ends])
    values = values[np.isfinite(values)]
    # The axis begins below chance, so that passing it can be seen, and not at 0, which would flatten all differences.
    low = min(0.4, *(values - 0.05)) if values.size else 0.4
    high = max(0.6, *(values + 0.01)) if values.size else 1.0
    axes.set_ylim(max(math.floor(low * 20) / 20, 0.0), min(math.ceil(high * 20) / 20, 1.0))
    axes.set_xlim(-0.6, len(means) - 0.4)
    axes.set_xticks(range(len(means)), list(means.index))
    axes.tick_params(axis="x", length=0, labelsize=TEXT)
    axes.set_ylabel("Accuracy, mean over concepts")
    for place in range(1, len(means), 2):
        axes.axvspan(place - 0.5, place + 0.5, color="0.95", linewidth=0, zorder=0)  # tells crowded groups apart
    axes.axhline(_CHANCE, color="0.25", linewidth=0.6, linestyle=(0, (1, 1.5)))
    axes.text(1.005, _CHANCE, "chance", transform=axes.get_yaxis_transform(), va="center", fontsize=SMALL)
    if means.isna().to_numpy().any():
        axes.text(1.005, 0.03, "× no value", transform=axes.transAxes, va="center", fontsize=SMALL)


@in_print_style
def similarity_heat_maps(similarity: pd.DataFrame, families: Mapping[str, Family]) -> Figure:
    """Figures 4 and 7: how alike a concept's directions are between languages, one square heat map a model.

    `similarity` has the columns model, source, target, similarity (a cosine). A panel shows the languages that its
    model has, in the table's order. All panels share one scale, which spans what lies off the diagonals, since every
    language is the same as itself. Cells without a value are hatched.
    """
    panels = _squares(similarity, families, "similarity")
    apart = np.concatenate([square.to_numpy(float)[~np.eye(len(square), dtype=bool)] for square in panels.values()])
    return heat_maps(panels, similarity_colouring(apart))


def similarity_colouring(apart: np.ndarray) -> Colouring:
    """The colours of Figures 4 and 7.

    Args:
        apart: cosines of different languages, of any shape; NaN does not count.
    """
    apart = apart[np.isfinite(apart)]
    low, high = (math.floor(apart.min() * 20) / 20, math.ceil(apart.max() * 20) / 20) if apart.size else (0.0, 1.0)
    high = min(high, 1.0)  # a cosine of 1 may have been rounded up
    # A scale needs a length, also where all values are the same.
    return Colouring(Normalize(min(low, high - 0.05), high), "viridis", "Cosine similarity")


@in_print_style
def transfer_heat_maps(transfer: pd.DataFrame, families: Mapping[str, Family]) -> Figure:
    """Figures 5 and 8: what is lost or gained where one language's vectors judge another's texts, a heat map a model.

    `transfer` has the columns model, source, target, delta (accuracy of the source's vectors on the target's texts
    minus that of the target's own; from 0 on the source transfers). Rows are sources, columns targets, in the table's
    order. All panels share one scale, symmetric about 0: linear up to 0.01, logarithmic beyond, so that both a
    difference of 0.02 and one of 0.3 are seen for what they are. Cells without a value are hatched.
    """
    panels = _squares(transfer, families, "delta")
    deltas = np.concatenate([square.to_numpy(float).ravel() for square in panels.values()])
    return heat_maps(panels, transfer_colouring(deltas), "Target", "Source")


def transfer_colouring(deltas: np.ndarray) -> Colouring:
    """The colours of Figures 5 and 8.

    Args:
        deltas: differences of accuracy, of any shape; NaN does not count.
    """
    limit = max([2 * _PALE_BELOW, *np.abs(deltas[np.isfinite(deltas)])])
    scale = SymLogNorm(_PALE_BELOW, linscale=0.25, vmin=-limit, vmax=limit, base=10)
    ticks = [tick for tick in _TRANSFER_TICKS if tick <= limit]
    labels = {-tick: f"−{tick:g}" for tick in reversed(ticks)} | {0.0: "0"} | {tick: f"+{tick:g}" for tick in ticks}
    return Colouring(scale, "RdBu", "Accuracy minus that of\nthe target's own vectors", labels)


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


@in_print_style
def similarity_across_layers(by_layer: pd.DataFrame, families: Mapping[str, Family]) -> Figure:
    """How alike the shared languages' directions are at each depth of each model: one line a model, named at its end.

    `by_layer` has the columns model, layer, relative_depth (0..1), similarity (mean cosine). Dashes as well as shades
    tell the models of a family apart; the largest one's line is solid.
    """
    models = list(families)
    looks = _looks(families)
    figure = new_figure(min(3.6 + inches(models, TEXT), PAGE_WIDTH), max(2.6, 0.6 + 0.15 * len(models)))
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
    _name_ends(axes, ends, looks, LINE / (figure.get_figheight() - 0.45))
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


def _rows_of(table: pd.DataFrame, models: Sequence[str]) -> pd.DataFrame:
    missing = sorted(set(models) - set(table["model"]))
    if missing or not models:
        raise ValueError(f"the table has no row of {', '.join(missing) or 'any model, since none is asked for'}")
    return table[table["model"].isin(models)]


def _looks(families: Mapping[str, Family]) -> dict[str, _Look]:
    """Colour and dashes of each model: a hue a family, or a model of no family, and the larger a model the darker."""
    keys = {model: model if family.name == "none" else family.name for model, family in families.items()}
    # The paper's families keep their hues whichever are drawn; more keys than hues begin again at the first.
    order = list(dict.fromkeys([*(name for name in FAMILIES if name != "none"), *keys.values()]))
    hues = {model: HUES[order.index(key) % len(HUES)] for model, key in keys.items()}
    looks = {}
    for model, hue in hues.items():
        alike = sorted((other for other in hues if hues[other] == hue), key=_billions)
        rank = alike.index(model)
        darkness = 2 * rank / (len(alike) - 1) - 1 if len(alike) > 1 else 0.0
        looks[model] = _Look(_shade(to_rgb(hue), darkness), DASHES[(len(alike) - 1 - rank) % len(DASHES)])
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
