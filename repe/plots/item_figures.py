"""Figures of what happens to vectors with few, shuffled or damaged training items."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from repe.plots.style import HUES, PAGE_WIDTH, SMALL, TEXT, in_print_style, new_figure
from repe.uncertainty.bootstrap import ALL

_PANEL = 1.9  # inches
_MAPPED: dict[str, Any] = {"color": HUES[0], "marker": "o", "markersize": 3.6, "linewidth": 1.3}
_FLOOR: dict[str, Any] = {
    "color": "0.55",
    "marker": "x",
    "markersize": 3.5,
    "linewidth": 1.0,
    "linestyle": (0, (4, 1.2)),
}
_SAME: dict[str, Any] = {"color": HUES[2], "marker": "^", "markersize": 3.2, "linewidth": 1.0}
_OWN: dict[str, Any] = {"color": "k", "linewidth": 0.8, "linestyle": (0, (1, 1))}
_LINES = (
    ("accuracy", "after the map, with 95 % interval of the difference from the floor", _MAPPED),
    ("shuffled", "after a map of shuffled items (floor)", _FLOOR),
    ("own_same_items", "the target's own vectors of the same items", _SAME),
)


@in_print_style
def learned_transfer(table: pd.DataFrame) -> Figure:
    """Accuracy after a learned map: by number of items, and for each target with all items; a row for each model.

    Bars are the 95 % interval of the paired difference from the map of shuffled items, drawn from the latter, so that a
    bar above the floor's mark is a difference above 0.

    Args:
        table: from `repe.analysis.learned_transfer.learned_table`.
    """
    models = table["model"].unique()
    figure = new_figure(PAGE_WIDTH, 0.8 + _PANEL * len(models))
    grid = figure.subplots(len(models), 2, squeeze=False, sharey="row", width_ratios=(2, 3))
    for model, (left, right) in zip(models, grid, strict=True):
        rows = table[(table["model"] == model) & (table["source"] == ALL)]
        _learned(left, rows[rows["target"] == ALL], "items", joined=True)
        each = rows[(rows["items"] == ALL) & (rows["target"] != ALL)].set_index("target")
        order = [name for name in table[table["model"] == model]["source"].unique() if name in each.index]
        _learned(right, each.loc[order].reset_index(), "target", joined=False)
        left.set_title(f"{model}: mean over targets")
        right.set_title("each target, all items")
        left.set_xlabel("Translated training items of the map")
        right.set_xlabel("Target language")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2, borderpad=0.1)
    figure.supylabel("Accuracy at the best layer", fontsize=TEXT)
    return figure


def _learned(axes: Axes, rows: pd.DataFrame, across: str, *, joined: bool) -> None:
    places = np.arange(len(rows))
    for name, label, style in _LINES:
        axes.plot(places, rows[name], label=label, **style | ({} if joined else {"linestyle": ""}))
    low, high = (rows["shuffled"] + rows[f"difference_{end}"] for end in ("low", "high"))
    axes.vlines(places, low, high, color=_MAPPED["color"], linewidth=0.9)
    axes.hlines(rows["own"], places - 0.4, places + 0.4, label="the target's own vectors, all items", **_OWN)
    axes.set_xticks(places, rows[across])
    axes.tick_params(labelsize=SMALL)


@in_print_style
def noise_panels(table: pd.DataFrame) -> Figure:
    """Damaged training items, a row for each kind: accuracy by share, and what each language loses at the last share.

    On the right, languages stand in the order of their loss. Dots are losses with their 95 % interval over test items,
    coloured where it is above 0; crosses are what leaving the items out costs.

    Args:
        table: from `repe.tools.noise.effects.summary`, of one model.
    """
    table = table[table["concept"] == ALL]
    kinds, last = table["kind"].unique(), table["share"].max()
    figure = new_figure(PAGE_WIDTH, 0.8 + 1.6 * len(kinds))
    grid = figure.subplots(len(kinds), 2, squeeze=False, sharey="col", width_ratios=(2, 3))
    for kind, (left, right) in zip(kinds, grid, strict=True):
        rows = table[table["kind"] == kind]
        means = rows[rows["language"] == ALL]
        for name, label, style in _NOISE:
            left.plot(means["share"], means[name], label=label, **style)
        left.set_title(kind)
        _losses(right, rows[(rows["language"] != ALL) & (rows["share"] == last)])
        right.set_title(f"{kind}: loss of accuracy at a share of {last:g}")
        right.tick_params(labelbottom=True)
    grid[-1, 0].set_xlabel("Share of damaged training items")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, borderpad=0.1)
    figure.supylabel("Accuracy at the best layer", fontsize=TEXT)
    return figure


_NOISE = (
    ("accuracy", "with damaged items", _MAPPED),
    ("left_out", "these items left out", _SAME | {"marker": "x", "markersize": 3.5}),
    ("random_labels", "random labels (floor)", _FLOOR),
)


def _losses(axes: Axes, rows: pd.DataFrame) -> None:
    rows = rows.sort_values("loss", ascending=False)
    places, is_loss = np.arange(len(rows)), (rows["loss_low"] > 0).to_numpy()
    for chosen, colour in ((is_loss, _MAPPED["color"]), (~is_loss, "0.55")):
        part = rows[chosen]
        axes.vlines(places[chosen], part["loss_low"], part["loss_high"], color=colour, linewidth=0.9)
        axes.plot(places[chosen], part["loss"], linestyle="", marker="o", color=colour, markersize=3.6)
    axes.plot(places, rows["undamaged"] - rows["left_out"], linestyle="", marker="x", color=HUES[2], markersize=3.5)
    axes.axhline(0, color="0.25", linewidth=0.6, linestyle=(0, (1, 1.5)), zorder=0)
    axes.set_xticks(places, rows["language"])
