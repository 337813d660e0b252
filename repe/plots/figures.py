"""The paper's figures, drawn from the tables of the analyses.

Figure 2 is `recognition_bars`, Figures 4 and 7 are `similarity_heat_maps` (of three models and of all), Figures 5 and 8
`transfer_heat_maps` (of three and of all); `similarity_across_layers` shows similarity against depth.

Each function takes a long-form table and `families`, model name -> family. The models of `families` are drawn, in its
order; rows of other models are ignored, and a model without rows is a `ValueError`. Sizes are those of a printed page:
no figure is wider than the text, no font is smaller than 6 points. A hue stands for a family, a darker shade for a
larger model.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, SymLogNorm, to_rgb
from matplotlib.figure import Figure

from repe.paper import FAMILIES, Family, billions, seven_billion
from repe.plots.heat_maps import Colouring, heat_maps
from repe.plots.style import (
    COLUMN_WIDTH,
    DASHES,
    HUES,
    LETTER,
    LINE,
    PAGE_WIDTH,
    SMALL,
    TEXT,
    in_print_style,
    new_figure,
    wrapped,
)

_CHANCE = 0.5
_FEW_LAYERS = 12  # each of which gets a marker
_BARS_ACROSS = 250  # bars that fit side by side on a page
_NARROWEST_SCALE = 0.2  # of similarities: a single value must not look like a wide range
_MARKERS: Any = {"markersize": 2.2, "markeredgecolor": "white", "markeredgewidth": 0.3}
_LINEAR_BELOW = 0.01  # accuracy differences of one or two pairs stay pale; above, each decade has its own step
_TRANSFER_TICKS = (-1, -0.3, -0.1, -0.03, -0.01, 0, 0.01, 0.03, 0.1, 0.3, 1)


@in_print_style
def recognition_bars(accuracy: pd.DataFrame, families: Mapping[str, Family]) -> Figure:
    """Figure 2: recognition accuracy of each model in each language, averaged over concepts, as grouped bars.

    If the paper's three models of about seven billion parameters are all there, a dashed line joins the bars of each.

    Args:
        accuracy: columns model, language, accuracy (0..1), one row per bar, languages in the order of the groups; a bar
            without a value is left out. Columns accuracy_low and accuracy_high add an interval to each bar.
        families: family of each model.
    """
    rows, looks = _rows_of(accuracy, families), model_looks(families)
    languages, joined = rows["language"].unique(), seven_billion(families)
    # One legend column per family for three families of three models; too many bars for one row go to several.
    columns, blocks = min(3, len(looks)), math.ceil(len(languages) * len(looks) / _BARS_ACROSS)
    parts = np.array_split(languages, blocks)
    width = min(max(0.6 + 0.17 * len(parts[0]) * (len(looks) + 1), COLUMN_WIDTH), PAGE_WIDTH)
    figure = new_figure(width, 0.5 + 1.7 * blocks + LINE * math.ceil(len(looks) / columns))
    lowest = rows.filter(["accuracy", "accuracy_low"]).min().min()
    for axes, part in zip(figure.subplots(blocks, 1, squeeze=False)[:, 0], parts, strict=True):
        handles: Any = [_bars(axes, rows, part, model, looks, model in joined) for model in looks]
        _finish_bars(axes, list(part), lowest, (width - 0.8) / len(part))
    figure.supylabel(f"Accuracy, mean over concepts{_numbers_of_pairs(rows)}", fontsize=TEXT)
    names = [wrapped(model, width / columns - 0.6) for model in looks]
    figure.legend(handles, names, loc="outside upper center", ncols=columns, columnspacing=1.4, borderpad=0.1)
    return figure


def _bars(
    axes: Axes, rows: pd.DataFrame, languages: np.ndarray, model: str, looks: Mapping[str, Any], joined: bool
) -> tuple[Any, ...]:
    """Draw a model's bars, which begin at chance, and return the handle of its legend entry."""
    look, bar, place = looks[model], min(0.84 / len(looks), 0.3), [*looks].index(model)
    values = rows[rows["model"] == model].set_index("language").reindex(languages)
    centres = np.arange(len(languages)) + (place - (len(looks) - 1) / 2) * bar
    dark, style = _shade(look["color"], 1.0), {"color": look["color"], "edgecolor": "white", "linewidth": 0.2}
    drawn: Any = [axes.bar(centres, values["accuracy"] - _CHANCE, bar, bottom=_CHANCE, **style)]
    if "accuracy_low" in rows:
        axes.vlines(centres, values["accuracy_low"], values["accuracy_high"], color=dark, linewidth=0.5, zorder=3)
    if joined:
        drawn += axes.plot(centres, values["accuracy"], "--o", color=dark, linewidth=0.7, **_MARKERS)
    return tuple(drawn)


def _numbers_of_pairs(rows: pd.DataFrame) -> str:
    """A line for the label of the axis: numbers of test pairs in a language and concept, if known."""
    known = rows.get("test_pairs", pd.Series(dtype=float)).dropna().astype(float)
    if known.empty:
        return ""
    low, high = round(min(known)), round(max(known))
    return f"\n({low if low == high else f'{low} to {high}'} test pairs per language)"


def _finish_bars(axes: Axes, languages: list[str], lowest: float, place_width: float) -> None:
    # Bars begin at chance: from 0, all differences would look small, and from elsewhere their lengths mean nothing.
    axes.set_ylim(min(0.45, lowest - 0.05), 1.0)
    axes.set_xlim(-0.6, len(languages) - 0.4)
    axes.set_xticks(range(len(languages)), languages)
    is_narrow = LETTER * max(map(len, languages)) > 0.9 * place_width
    axes.tick_params(axis="x", length=0, labelsize=TEXT, rotation=90 if is_narrow else 0)
    for place in range(1, len(languages), 2):
        axes.axvspan(place - 0.5, place + 0.5, color="0.95", linewidth=0, zorder=0)  # separates neighbouring groups
    axes.axhline(_CHANCE, color="0.25", linewidth=0.6, linestyle=(0, (1, 1.5)))
    axes.text(1.005, _CHANCE, "chance", transform=axes.get_yaxis_transform(), va="center", fontsize=SMALL)


@in_print_style
def similarity_heat_maps(
    similarity: pd.DataFrame, families: Mapping[str, Family], meaning: str = "Cosine similarity"
) -> Figure:
    """Figures 4 and 7: similarity of a concept's vectors between languages, one square heat map per model.

    All panels share one scale, which spans the values off the diagonals, since each language has similarity 1 with
    itself. Cells without a value are hatched.

    Args:
        similarity: columns model, source, target, similarity (a cosine), in the order of the axes. A column floor adds
            a panel beside each model's.
        families: family of each model.
        meaning: of the similarity, the title of the colour bar.
    """
    rows, panels = beside_floors(_rows_of(similarity, families), families, "similarity", "floor")
    return heat_maps(squares(rows, panels, "similarity"), similarity_colouring(rows, meaning))


def beside_floors(table: pd.DataFrame, models: Iterable[str], value: str, floor: str) -> tuple[pd.DataFrame, list[str]]:
    """Add the values of the column `floor`, if there are any, as rows of models `<model>: floor`.

    Returns:
        The table, and its models: each followed by its floor.
    """
    if floor not in table or table[floor].isna().all():
        return table, [*models]
    floors = table.assign(**{"model": table["model"] + ": floor", value: table[floor]})
    return pd.concat([table, floors]), [name for one in models for name in (one, f"{one}: floor")]


def similarity_colouring(similarity: pd.DataFrame, meaning: str = "Cosine similarity") -> Colouring:
    """The colours of Figures 4 and 7, for a table such as theirs."""
    apart = similarity["similarity"][similarity["source"] != similarity["target"]].dropna()
    low, high = (math.floor(apart.min() * 20) / 20, math.ceil(apart.max() * 20) / 20) if len(apart) else (0.0, 1.0)
    high = min(high, 1.0)  # a cosine of 1 may have been rounded up
    low = max(min(low, high - _NARROWEST_SCALE), -1.0)
    return Colouring(Normalize(low, max(high, low + _NARROWEST_SCALE)), "viridis", meaning)


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
    rows = _rows_of(transfer, families)
    return heat_maps(squares(rows, families, "delta"), transfer_colouring(rows), "Target", "Source")


def transfer_colouring(transfer: pd.DataFrame) -> Colouring:
    """The colours of Figures 5 and 8, for a table such as theirs."""
    limit = max(2 * _LINEAR_BELOW, transfer["delta"].abs().max())
    scale = SymLogNorm(_LINEAR_BELOW, linscale=0.25, vmin=-limit, vmax=limit, base=10)
    meaning = "Accuracy minus that of\nthe target's own vectors\n(logarithmic beyond ±0.01)"
    return Colouring(scale, "RdBu", meaning, _TRANSFER_TICKS)


def squares(table: pd.DataFrame, models: Iterable[str], value: str) -> dict[str, pd.DataFrame]:
    """Pivot the table to one (source, target) square per model, NaN where a pair is missing."""
    found = {}
    for model in models:
        rows = _rows_of(table, [model])
        languages = list(dict.fromkeys([*rows["source"], *rows["target"]]))
        found[model] = rows.pivot(index="source", columns="target", values=value).reindex(languages, columns=languages)
    return found


@in_print_style
def similarity_across_layers(by_layer: pd.DataFrame, families: Mapping[str, Family]) -> Figure:
    """Mean similarity of the shared languages at each depth, one line per model.

    Shades and dashes distinguish the models of a family; the largest one's line is solid.

    Args:
        by_layer: columns model, layer, relative_depth (0..1), similarity (mean cosine).
        families: family of each model.
    """
    looks = model_looks(families)
    figure = new_figure(5.5, max(2.6, 0.6 + LINE * len(looks)))
    axes = figure.add_subplot()
    for model, look in looks.items():
        rows = _rows_of(by_layer, [model]).sort_values("relative_depth")
        drawn: Any = {"linewidth": 1.1, "clip_on": False, **look}
        if len(rows) <= _FEW_LAYERS:
            drawn |= {"marker": ".", "markersize": 4}
        label = model if rows["similarity"].notna().any() else f"{model} (no value)"
        axes.plot(rows["relative_depth"], rows["similarity"], label=label, **drawn)
    # The last layer is at (layers - 1) / layers, which is far from 1 if there are few.
    axes.set_xlim(0, max(by_layer["relative_depth"].max(), 0.1))
    axes.set_xlabel("Relative depth of layer l, (l − 1) / layers")
    axes.set_ylabel("Cosine similarity,\nmean over language pairs and concepts")
    figure.legend(loc="outside right center")
    return figure


def _rows_of(table: pd.DataFrame, models: Iterable[str]) -> pd.DataFrame:
    if missing := sorted(set(models).difference(table["model"])):
        raise ValueError(f"the table has no rows of {', '.join(missing)}")
    return table[table["model"].isin(models)]


def model_looks(families: Mapping[str, Family]) -> dict[str, dict[str, Any]]:
    """Colour and dashes of each model: one hue per family (or model of no family), darker shades for larger models."""
    keys = {model: model if family.name == "none" else family.name for model, family in families.items()}
    # The paper's families always have the same hues; if there are more keys than hues, hues repeat.
    order = list(dict.fromkeys([*(name for name in FAMILIES if name != "none"), *keys.values()]))
    hues = {model: HUES[order.index(key) % len(HUES)] for model, key in keys.items()}
    looks = {}
    for model, hue in hues.items():
        alike = sorted((other for other in hues if hues[other] == hue), key=billions, reverse=True)
        rank = alike.index(model)
        darkness = 1 - 2 * rank / (len(alike) - 1) if len(alike) > 1 else 0.0
        looks[model] = {"color": _shade(to_rgb(hue), darkness), "linestyle": DASHES[rank % len(DASHES)]}
    return looks


def _shade(colour: tuple[float, float, float], darkness: float) -> tuple[float, float, float]:
    """`colour` itself at 0, nearly white at -1, nearly black at 1."""
    towards, share = (0.0, 0.45 * darkness) if darkness > 0 else (1.0, -0.55 * darkness)
    red, green, blue = (towards * share + part * (1 - share) for part in colour)
    return red, green, blue
