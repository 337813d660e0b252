"""The paper's questions in numbers: one panel per question, one row per model."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import ScaledTranslation

from repe.paper import DISTANCES, Family
from repe.plots.figures import model_looks
from repe.plots.style import LETTER, LINE, PAGE_WIDTH, SMALL, in_print_style, new_figure, wrapped

# Titles, and the traits of each panel with their names in its legend.
PANELS = {
    "Accuracy, mean over languages\n(paper: larger models are better)": {"accuracy": ""},
    "Rank correlation of accuracy with\nshare of training text (paper: above 0)": {"accuracy_share_rank": ""},
    "Similarity of the shared languages\n(paper: lower where unbalanced)": {"similarity": ""},
    "Similarity, minus that of other pairs\n(paper: away from 0 where unbalanced)": {
        "similarity_high": "among high-resource",
        "similarity_with_high": "with a high-resource",
    },
    "Table 1: r with linguistic similarity\n(paper: lower where unbalanced)": {f"r_{d}_direct": d for d in DISTANCES},
    "Transfer: accuracy minus the target's\nown (paper: one-way where unbalanced)": {
        "high_to_low": "high to low",
        "low_to_high": "low to high",
        "one_way": "difference",
    },
}
MARKERS = "osD^"
CHANCE = 0.5
COLUMNS = 3


@in_print_style
def trait_panels(table: pd.DataFrame, families: Mapping[str, Family]) -> Figure:
    """The traits of each model, with 95 % intervals where there are any; two dashes where a trait is not known.

    Panels that would show no value are left out.

    Args:
        table: from `repe.analysis.traits.trait_table`.
        families: family of each model, in the order of the rows.
    """
    known = {*table["trait"][table["value"].notna()]}
    panels = {title: traits for title, traits in PANELS.items() if known & {*traits}}
    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    figure = new_figure(PAGE_WIDTH, rows * (0.85 + 0.2 * len(families) + LINE))
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for axes in grid.flat[len(panels) :]:
        axes.remove()
    for axes, (title, traits) in zip(grid.flat, panels.items(), strict=False):
        for place, (trait, label) in enumerate(traits.items()):
            offset = (place - (len(traits) - 1) / 2) * 0.7 / len(traits)
            _draw(axes, table[table["trait"] == trait], families, MARKERS[place], offset)
            axes.plot([], [], MARKERS[place], color="0.3", markersize=2.8, label=label)
        axes.axvline(
            CHANCE if "accuracy" in traits else 0, color="0.6", linewidth=0.6, linestyle=(0, (1, 1.5)), zorder=0
        )
        axes.set_title(title, fontsize=SMALL)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        if len(traits) > 1:
            # Below the numbers of the axis, however low the panel is.
            below = axes.transAxes + ScaledTranslation(0, -1.2 * LINE, figure.dpi_scale_trans)
            legend = {"loc": "upper center", "bbox_to_anchor": (0.5, 0), "bbox_transform": below, "fontsize": SMALL}
            axes.legend(ncols=2, columnspacing=0.6, borderpad=0, handletextpad=0.1, **legend)
    for axes in grid[:, 0]:
        axes.set_yticks(range(len(families)), [wrapped(model, 20 * LETTER) for model in families])
        axes.set_ylim(len(families) - 0.5, -0.5)  # the first model on top
    return figure


def _draw(axes: Axes, values: pd.DataFrame, families: Mapping[str, Family], marker: str, offset: float) -> None:
    numbers = values.set_index("model")[["value", "low", "high"]].loc[[*families]].to_numpy(dtype=float)
    for place, (look, (value, low, high)) in enumerate(zip(model_looks(families).values(), numbers, strict=True)):
        if np.isnan(value):
            axes.text(
                0.5, place + offset, "--", transform=axes.get_yaxis_transform(), color="0.5", ha="center", va="center"
            )
            continue
        axes.hlines(place + offset, low, high, color=look["color"], linewidth=0.8)
        axes.plot(value, place + offset, marker, color=look["color"], markersize=2.8)
