"""The paper's figures, drawn from the tables of the analyses.

Figure 2 is `recognition_bars`, Figures 4 and 7 are `similarity_heat_maps` (of three models and of all), Figures 5 and 8
`transfer_heat_maps` (of three and of all); `similarity_across_layers` shows similarity against depth.

Each function takes a long-form table and `families`, model name -> family. The models of `families` are drawn, in its
order; rows of other models are ignored, and a model without rows is a `ValueError`. Sizes are those of a printed page:
no figure is wider than the text, no font is smaller than 6 points. A hue stands for a family, a darker shade for a
larger model.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, SymLogNorm, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

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
_MARKERS: Any = {"markersize": 2.2, "markeredgecolor": "white", "markeredgewidth": 0.3}
_BAR_VALUES = ("accuracy", "accuracy_low", "accuracy_high")
_LINEAR_BELOW = 0.01  # accuracy differences of one or two pairs stay pale; above, each decade has its own step
_TRANSFER_TICKS = (0.01, 0.03, 0.1, 0.3, 1.0)


class _Look(NamedTuple):
    colour: tuple[float, float, float]
    dashes: Any


@in_print_style
def recognition_bars(accuracy: pd.DataFrame, families: Mapping[str, Family]) -> Figure:
    """Figure 2: recognition accuracy of each model in each language, averaged over concepts, as grouped bars.

    If the paper's three models of about seven billion parameters are all there, a dashed line joins the bars of each.

    Args:
        accuracy: columns model, language, accuracy (0..1), one row per bar, languages in the order of the groups; a
            cross marks a bar without a value. Columns accuracy_low and accuracy_high add an interval to each bar.
        families: family of each model.
    """
    models = list(families)
    rows = _rows_of(accuracy, models)
    bars = rows.pivot(index="language", columns="model", values=[name for name in _BAR_VALUES if name in rows])
    bars = bars.reindex(index=rows["language"].unique()).reindex(columns=models, level="model")
    width = min(max(0.6 + 0.17 * len(bars) * (len(models) + 1), COLUMN_WIDTH), PAGE_WIDTH)
    names = [wrapped(model, width - 0.6) for model in models]
    # One legend column per family for three families of three models; otherwise as many as fit.
    columns = max(1, min(near_square(len(models)), int(width / (0.55 + inches(names, TEXT)))))
    figure = new_figure(width, 2.2 + 0.15 * math.ceil(len(models) / columns))
    handles = _grouped_bars(figure.add_subplot(), bars, families)
    figure.legend(handles, names, loc="outside upper center", ncols=columns, columnspacing=1.4, borderpad=0.1)
    return figure


def _grouped_bars(axes: Axes, bars: pd.DataFrame, families: Mapping[str, Family]) -> list[Any]:
    """Draw the bars, crosses, intervals and dashed lines; returns each model's handles for the legend."""
    means, colours = bars["accuracy"], {model: look.colour for model, look in _looks(families).items()}
    rows = means.melt(value_name="accuracy", ignore_index=False).reset_index()
    width = min(0.84 / len(families), 0.3)
    sns.barplot(
        rows,
        x="language",
        y="accuracy",
        hue="model",
        palette=colours,
        saturation=1,
        width=width * len(families),
        edgecolor="white",
        linewidth=0.2,
        legend=False,
        ax=axes,
    )
    _finish_bars(axes, bars)
    joined, handles = seven_billion(families), []
    for place, (model, colour) in enumerate(colours.items()):
        centres = np.arange(len(bars)) + (place - (len(colours) - 1) / 2) * width
        dark = _shade(colour, 1.0)
        gone = centres[means[model].isna()]
        axes.plot(gone, np.full(len(gone), 0.03), "x", color=colour, markersize=3, transform=axes.get_xaxis_transform())
        if "accuracy_low" in bars:
            ends = bars["accuracy_low"][model], bars["accuracy_high"][model]
            axes.vlines(centres, *ends, color=dark, linewidth=0.5, zorder=3)
        handle: Any = (Patch(facecolor=colour, edgecolor="white", linewidth=0.2),)
        if model in joined:
            line = axes.plot(centres, means[model], "--o", color=dark, linewidth=0.7, **_MARKERS)
            handle += tuple(line)
        handles.append(handle)
    return handles


def _finish_bars(axes: Axes, bars: pd.DataFrame) -> None:
    values = bars.to_numpy(float)
    values = values[np.isfinite(values)]
    # The axis begins just below chance rather than at 0, which would flatten all differences.
    low = min(0.4, *(values - 0.05)) if values.size else 0.4
    high = max(0.6, *(values + 0.01)) if values.size else 1.0
    axes.set_ylim(max(math.floor(low * 20) / 20, 0.0), min(math.ceil(high * 20) / 20, 1.0))
    axes.set_xlim(-0.6, len(bars) - 0.4)
    axes.set_xticks(range(len(bars)), list(bars.index))
    axes.tick_params(axis="x", length=0, labelsize=TEXT)
    axes.set(xlabel="", ylabel="Accuracy, mean over concepts")
    for place in range(1, len(bars), 2):
        axes.axvspan(place - 0.5, place + 0.5, color="0.95", linewidth=0, zorder=0)  # separates neighbouring groups
    axes.axhline(_CHANCE, color="0.25", linewidth=0.6, linestyle=(0, (1, 1.5)))
    axes.text(1.005, _CHANCE, "chance", transform=axes.get_yaxis_transform(), va="center", fontsize=SMALL)
    if bars["accuracy"].isna().to_numpy().any():
        axes.text(1.005, 0.03, "× no value", transform=axes.transAxes, va="center", fontsize=SMALL)


@in_print_style
def similarity_heat_maps(similarity: pd.DataFrame, families: Mapping[str, Family]) -> Figure:
    """Figures 4 and 7: similarity of a concept's vectors between languages, one square heat map per model.

    All panels share one scale, which spans the values off the diagonals, since each language has similarity 1 with
    itself. Cells without a value are hatched.

    Args:
        similarity: columns model, source, target, similarity (a cosine), in the order of the axes.
        families: family of each model.
    """
    panels = _squares(similarity, families, "similarity")
    apart = np.concatenate([square.to_numpy(float)[~np.eye(len(square), dtype=bool)] for square in panels.values()])
    return heat_maps(panels, similarity_colouring(apart))


def similarity_colouring(apart: np.ndarray) -> Colouring:
    """The colours of Figures 4 and 7.

    Args:
        apart: cosines of different languages, of any shape; NaN is ignored.
    """
    apart = apart[np.isfinite(apart)]
    low, high = (math.floor(apart.min() * 20) / 20, math.ceil(apart.max() * 20) / 20) if apart.size else (0.0, 1.0)
    high = min(high, 1.0)  # a cosine of 1 may have been rounded up
    # The scale must not be empty, even if all values are equal.
    return Colouring(Normalize(min(low, high - 0.05), high), "viridis", "Cosine similarity")


@in_print_style
def transfer_heat_maps(transfer: pd.DataFrame, families: Mapping[str, Family]) -> Figure:
    """Figures 5 and 8: accuracy gained or lost with the vectors of another language, one heat map per model.

    Rows are sources, columns targets. All panels share one scale, symmetric about 0: linear up to 0.01, logarithmic
    beyond, so that differences of both 0.02 and 0.3 are visible. Cells without a value are hatched.

    Args:
        transfer: columns model, source, target, delta (accuracy of the source's vectors minus that of the target's own;
            the source transfers if >= 0), in the order of the axes.
        families: family of each model.
    """
    panels = _squares(transfer, families, "delta")
    deltas = np.concatenate([square.to_numpy(float).ravel() for square in panels.values()])
    return heat_maps(panels, transfer_colouring(deltas), "Target", "Source")


def transfer_colouring(deltas: np.ndarray) -> Colouring:
    """The colours of Figures 5 and 8.

    Args:
        deltas: differences of accuracy, of any shape; NaN is ignored.
    """
    limit = max([2 * _LINEAR_BELOW, *np.abs(deltas[np.isfinite(deltas)])])
    scale = SymLogNorm(_LINEAR_BELOW, linscale=0.25, vmin=-limit, vmax=limit, base=10)
    ticks = [tick for tick in _TRANSFER_TICKS if tick <= limit]
    labels = {-tick: f"−{tick:g}" for tick in reversed(ticks)} | {0.0: "0"} | {tick: f"+{tick:g}" for tick in ticks}
    return Colouring(scale, "RdBu", "Accuracy minus that of\nthe target's own vectors", labels)


def _squares(table: pd.DataFrame, families: Mapping[str, Family], value: str) -> dict[str, pd.DataFrame]:
    """Each model's values as (source, target), both in the order of the table's sources; NaN where there is no row."""
    squares = {}
    for model in families:
        rows = _rows_of(table, [model])
        languages = list(dict.fromkeys([*rows["source"], *rows["target"]]))
        wide = rows.pivot(index="source", columns="target", values=value)
        squares[model] = wide.reindex(index=languages, columns=languages)
    return squares


@in_print_style
def similarity_across_layers(by_layer: pd.DataFrame, families: Mapping[str, Family]) -> Figure:
    """Mean similarity of the shared languages at each depth, one line per model, labelled at its end.

    Shades and dashes distinguish the models of a family; the largest one's line is solid.

    Args:
        by_layer: columns model, layer, relative_depth (0..1), similarity (mean cosine).
        families: family of each model.
    """
    models, looks = list(families), _looks(families)
    figure = new_figure(min(3.6 + inches(models, TEXT), PAGE_WIDTH), max(2.6, 0.6 + 0.15 * len(models)))
    axes = figure.add_subplot()
    ends = {}
    for model in models:
        rows = _rows_of(by_layer, [model]).sort_values("relative_depth")
        colour, dashes = looks[model]
        axes.plot(rows["relative_depth"], rows["similarity"], color=colour, linestyle=dashes, linewidth=1.1)
        known = rows.dropna(subset="similarity")
        ends[model] = (
            (known["relative_depth"].iloc[-1], known["similarity"].iloc[-1]) if len(known) else (1.0, math.nan)
        )
    axes.set(xlim=(0, 1), ylim=axes.get_ylim())
    axes.set(xlabel="Relative depth of the layer", ylabel="Cosine similarity,\nmean over language pairs and concepts")
    # The height of the axes is that of the figure without the tick labels and the title below.
    _label_ends(axes, ends, looks, LINE / (figure.get_figheight() - 0.45))
    return figure


def _label_ends(axes: Axes, ends: Mapping[str, tuple[float, float]], looks: Mapping[str, _Look], gap: float) -> None:
    """Label each line to the right of its end, with labels at least `gap` apart (in heights of the axes)."""
    low, high = axes.get_ylim()
    heights = np.array([(similarity - low) / (high - low) for _, similarity in ends.values()])
    known = dict(zip(ends, ~np.isnan(heights), strict=True))
    heights = np.nan_to_num(heights)
    order = np.argsort(heights, kind="stable")
    for index, height in zip(order, _apart(heights[order], gap), strict=True):
        model = list(ends)[index]
        colour = looks[model].colour
        leader = {"arrowstyle": "-", "color": colour, "linewidth": 0.4, "relpos": (0, 0.5), "shrinkA": 0, "shrinkB": 2}
        axes.annotate(
            model if known[model] else f"{model} (no value)",
            ends[model],
            (1.04, height),
            textcoords="axes fraction",
            va="center",
            color=_shade(colour, 0.6),
            arrowprops=leader if known[model] else None,
            annotation_clip=False,
        )
        axes.plot(*ends[model], "o", color=colour, markersize=2, clip_on=False)


def _apart(heights: np.ndarray, gap: float) -> np.ndarray:
    """Rising `heights`, moved so that neighbours are at least `gap` apart and, if they fit, all within 0..1."""
    steps = np.arange(len(heights)) * gap
    up = np.maximum.accumulate(heights - steps)
    down = np.minimum.accumulate((heights - steps)[::-1])[::-1]
    return np.clip((up + down) / 2, 0, max(0.0, 1 - len(heights) * gap + gap)) + steps


def _rows_of(table: pd.DataFrame, models: Sequence[str]) -> pd.DataFrame:
    missing = sorted(set(models) - set(table["model"]))
    if missing or not models:
        raise ValueError(f"the table has no rows of {', '.join(missing)}" if missing else "no models are given")
    return table[table["model"].isin(models)]


def _looks(families: Mapping[str, Family]) -> dict[str, _Look]:
    """Colour and dashes of each model: one hue per family (or model of no family), darker shades for larger models."""
    keys = {model: model if family.name == "none" else family.name for model, family in families.items()}
    # The paper's families always have the same hues; if there are more keys than hues, hues repeat.
    order = list(dict.fromkeys([*(name for name in FAMILIES if name != "none"), *keys.values()]))
    hues = {model: HUES[order.index(key) % len(HUES)] for model, key in keys.items()}
    looks = {}
    for model, hue in hues.items():
        alike = sorted((other for other in hues if hues[other] == hue), key=_billions)
        rank = alike.index(model)
        darkness = 2 * rank / (len(alike) - 1) - 1 if len(alike) > 1 else 0.0
        looks[model] = _Look(_shade(to_rgb(hue), darkness), DASHES[(len(alike) - 1 - rank) % len(DASHES)])
    return looks


def _shade(colour: tuple[float, float, float], darkness: float) -> tuple[float, float, float]:
    """`colour` itself at 0, nearly white at -1, nearly black at 1."""
    towards, share = (0.0, 0.45 * darkness) if darkness > 0 else (1.0, -0.55 * darkness)
    red, green, blue = (towards * share + part * (1 - share) for part in colour)
    return red, green, blue


def _billions(model: str) -> float:
    """Billions of parameters according to a model's name (560M, 1B8, 0.5B), or 0 if it has none."""
    sizes = re.findall(r"(?<![a-z0-9.])(\d+(?:\.\d+)?)([bm])(\d*)(?![a-z0-9])", model.lower())
    if not sizes:
        return 0.0
    whole, unit, part = sizes[-1]
    return float(f"{whole}.{part}" if part else whole) * (1 if unit == "b" else 1e-3)
