"""Accuracies beside their floors and ceilings, by language and by layer, and heat maps of detection."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from repe.paper import Family
from repe.plots.figures import beside_floors, squares
from repe.plots.heat_maps import Colouring, heat_maps
from repe.plots.style import HUES, PAGE_WIDTH, SMALL, TEXT, in_print_style, new_figure

_ABOVE, _NOT, _BAND = HUES[0], "0.55", "0.85"
_UNTRAINED: dict[str, Any] = {"marker": "x", "color": HUES[1], "markersize": 3.5, "markeredgewidth": 0.9}
_TEXT: dict[str, Any] = {"marker": "^", "color": HUES[2], "markersize": 3.2}
SIGNIFICANT = 0.05
_ROW = 1.35  # inches


@in_print_style
def floor_panels(floors: pd.DataFrame) -> Figure:
    """A model's accuracy in each language beside its floors, one panel for each concept.

    A dot is the accuracy with its interval over test items: coloured where it is above its highest floor (the interval
    of the difference is above 0), grey where it is not. Bands are swapped labels, crosses the untrained network,
    triangles the text alone. A star: the margins are larger than with swapped labels (p_margin_holm below 0.05).

    Args:
        floors: of one model, from `repe.uncertainty.floors.floor_table`.
    """
    concepts, languages = floors["concept"].unique(), [*floors["language"].unique()]
    figure, panels = _grid(concepts, len(languages))
    for concept, axes in panels.items():
        rows = floors[floors["concept"] == concept].set_index("language").reindex(languages)
        _floor_panel(axes, rows)
        axes.set_xticks(range(len(languages)), languages)
        axes.tick_params(axis="x", length=0)
        axes.set_xlim(-0.6, len(languages) - 0.4)
    _share_axes(panels, floors[["accuracy", "low", "null_low", "untrained", "text"]].min().min())
    handles = [
        _dot(_ABOVE, "above every floor"),
        _dot(_NOT, "not above every floor"),
        Patch(color=_BAND, label="swapped labels, 95 %"),
        Line2D([], [], linestyle="", label="untrained network", **_UNTRAINED),
        Line2D([], [], linestyle="", label="text alone", **_TEXT),
        Line2D([], [], linestyle="", marker="$*$", color="k", markersize=4, label="margins: p (Holm) below 0.05"),
    ]
    missing = {"swapped labels, 95 %": "null_mean", "untrained network": "untrained", "text alone": "text"}
    missing["margins: p (Holm) below 0.05"] = "p_margin"
    shown = [one for one in handles if floors[missing.get(str(one.get_label()), "accuracy")].notna().any()]
    figure.legend(handles=shown, loc="outside upper center", ncols=3, borderpad=0.1)
    figure.supylabel("Accuracy at the best layer", fontsize=TEXT)
    return figure


def _floor_panel(axes: Axes, rows: pd.DataFrame) -> None:
    places = np.arange(len(rows))
    axes.bar(places, rows["null_high"] - rows["null_low"], 0.8, bottom=rows["null_low"], color=_BAND, linewidth=0)
    axes.hlines(rows["null_mean"], places - 0.4, places + 0.4, color="0.6", linewidth=0.6)
    axes.plot(places - 0.22, rows["untrained"], linestyle="", **_UNTRAINED)
    axes.plot(places + 0.22, rows["text"], linestyle="", **_TEXT)
    above = (rows["difference_low"] > 0).to_numpy()
    for place in places[rows["p_margin_holm"] < SIGNIFICANT]:
        axes.text(place, 1.01, "*", ha="center", fontsize=TEXT)
    for chosen, colour in ((above, _ABOVE), (~above, _NOT)):
        part = rows[chosen]
        axes.vlines(places[chosen], part["low"], part["high"], color=colour, linewidth=0.9)
        axes.plot(places[chosen], part["accuracy"], linestyle="", marker="o", color=colour, markersize=3.6)


def _dot(colour: str, label: str) -> Line2D:
    return Line2D([], [], color=colour, marker="o", markersize=3.6, linewidth=0.9, label=label)


@in_print_style
def accuracy_by_layer(by_layer: pd.DataFrame) -> Figure:
    """A model's accuracy in each layer, mean over languages, with null band, floor and ceiling, a panel per concept.

    Args:
        by_layer: of one model, from `repe.uncertainty.floors.layer_table`.
    """
    numbers = ["accuracy", "null_low", "null_mean", "null_high", "untrained", "training_accuracy"]
    means = by_layer.groupby(["concept", "layer"], sort=False)[numbers].mean().reset_index()
    figure, panels = _grid(by_layer["concept"].unique(), 4)
    lines: tuple[tuple[str, str, dict[str, Any]], ...] = (
        ("training_accuracy", "on the training pairs (ceiling)", {"color": HUES[2], "linestyle": (0, (4, 1.2))}),
        ("accuracy", "on the test pairs", {"color": _ABOVE, "linewidth": 1.3}),
        ("untrained", "untrained network (floor)", {"color": HUES[1], "linestyle": (0, (1, 1))}),
    )
    for concept, axes in panels.items():
        rows = means[means["concept"] == concept]
        axes.fill_between(rows["layer"], rows["null_low"], rows["null_high"], color=_BAND, linewidth=0)
        for column, label, style in lines:
            axes.plot(rows["layer"], rows[column], label=label, **{"linewidth": 1.0} | style)
        axes.set_xlim(1, rows["layer"].max())
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _share_axes(panels, means[numbers].min().min())
    shown = [one for one, (column, *_) in zip(axes.get_lines(), lines, strict=False) if means[column].notna().any()]
    figure.legend(
        handles=[*shown, Patch(color=_BAND, label="swapped labels, 95 %")], loc="outside upper center", ncols=2
    )
    figure.supxlabel("Layer", fontsize=TEXT)
    figure.supylabel("Accuracy, mean over languages", fontsize=TEXT)
    return figure


def _grid(concepts: Any, languages: int) -> tuple[Figure, dict[str, Axes]]:
    """A panel for each concept, by concept; wider panels for more languages."""
    columns = min(len(concepts), 4 if languages <= 6 else 2)
    rows = -(-len(concepts) // columns)
    width = PAGE_WIDTH if len(concepts) > 1 else 3.35
    figure = new_figure(width, 0.75 + _ROW * rows)
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for axes in grid.flat[len(concepts) :]:
        axes.set_axis_off()
    panels = dict(zip(concepts, grid.flat, strict=False))
    for concept, axes in panels.items():
        axes.set_title(concept)
    return figure, panels


def _share_axes(panels: Mapping[str, Axes], lowest: float) -> None:
    # From just below the lowest value or chance, since most of the room below chance stays empty.
    for axes in panels.values():
        axes.set_ylim(min(0.4, lowest) - 0.03, 1.06)
        axes.axhline(0.5, color="0.25", linewidth=0.6, linestyle=(0, (1, 1.5)), zorder=0)
        axes.tick_params(labelsize=SMALL)


@in_print_style
def detection_heat_maps(detection: pd.DataFrame, families: Mapping[str, Family], column: str) -> Figure:
    """Detection of single texts, mean over concepts: one heat map per model, rows sources, columns targets.

    AUROC of untrained twins, where it is known, is in a panel of its own.

    Args:
        detection: from `repe.uncertainty.detection.detection_table`.
        families: the models to draw.
        column: `auroc` or `calibration_gap`.
    """
    columns = [one for one in (column, f"{column}_untrained") if one in detection]
    means = detection.groupby(["model", "source", "target"], sort=False)[columns].mean().reset_index()
    means, panels = beside_floors(means, families, column, f"{column}_untrained")
    return heat_maps(squares(means, panels, column), _detection_colouring(means[column], column), "Target", "Source")


def _detection_colouring(values: pd.Series, column: str) -> Colouring:
    # In steps of 0.05, and no narrower than 0.2: small differences must not look large.
    limit = np.ceil(values.abs().max() * 20) / 20
    if column == "calibration_gap":
        limit = max(limit, 0.1)
        return Colouring(Normalize(-limit, limit), "RdBu_r", "Accuracy lost with\nthe source's threshold")
    low = min(0.5, np.floor(values.min() * 20) / 20)
    return Colouring(Normalize(low, max(limit, low + 0.2)), "viridis", "AUROC of single texts")
