"""Figures of control: how often a model refuses as it is steered harder, and which source steers which target most."""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from repe.plots.heat_maps import Colouring, heat_maps
from repe.plots.style import HUES, PAGE_WIDTH, TEXT, in_print_style, near_square, new_figure

# What is drawn, in this order: baseline, harmful prompts or not, name, colour, dashes.
_LINES: tuple[tuple[str, bool, str, str, Any], ...] = (
    ("concept", True, "source's vector", HUES[0], "-"),
    ("target_vector", True, "target's own vector", HUES[2], (0, (4, 1.2))),
    ("random", True, "random direction", HUES[6], (0, (1, 1))),
    ("concept", False, "source's vector, harmless prompts", HUES[1], (0, (4, 1.2, 1, 1.2))),
)
_PANEL_HEIGHT = 1.15  # inches


@in_print_style
def refusal_panels(measures: pd.DataFrame, source: str) -> Figure:
    """Refusal rate against strength, a panel a target language, with 95 % intervals; all panels on one scale.

    Args:
        measures: the table of `repe.control.measures.measure`.
        source: the language whose vector steers.
    """
    targets = list(dict.fromkeys(measures["target"]))
    columns = near_square(len(targets))
    rows = -(-len(targets) // columns)
    figure = new_figure(min(PAGE_WIDTH, 0.7 + 1.55 * columns), 0.75 + _PANEL_HEIGHT * rows)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    drawn: set[int] = set()
    for axes, target in zip(grid.flat, targets, strict=False):
        axes.set_title(f"{target} (source)" if target == source else target)
        drawn |= _panel(axes, measures[measures["target"] == target], target == source)
        axes.set_ylim(-0.04, 1.04)
        axes.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])
    for axes in grid.flat[len(targets) :]:
        axes.set_axis_off()
    # The lowest panel of each column keeps its marks, also above a hole in the last row.
    for column in range(columns):
        lowest = [axes for axes in grid[:, column] if axes.axison][-1]
        lowest.tick_params(labelbottom=True)
    figure.supxlabel("Strength", fontsize=TEXT)
    figure.supylabel("Refusal rate", fontsize=TEXT)
    handles = [Line2D([], [], color=colour, linestyle=dashes, label=name) for _, _, name, colour, dashes in _LINES]
    handles.append(Line2D([], [], color="0.25", linewidth=0.6, label="not steered, harmful prompts"))
    shown = [handle for place, handle in enumerate(handles) if place in drawn]
    figure.legend(handles=shown, loc="outside upper center", ncols=min(len(shown), max(1, columns)), borderpad=0.1)
    return figure


def _panel(axes: Axes, rows: pd.DataFrame, is_source: bool) -> set[int]:
    """Draw one target's lines; which of them there are."""
    drawn = set()
    for place, (baseline, harmful, _, colour, dashes) in enumerate(_LINES):
        line = rows[(rows["baseline"] == baseline) & (rows["harmful"] == harmful)].sort_values("strength")
        # The source's own vector is the source's vector.
        if line.empty or (is_source and baseline == "target_vector"):
            continue
        drawn.add(place)
        axes.plot(
            line["strength"], line["refusal_rate"], color=colour, linestyle=dashes, linewidth=1, marker=".", ms=2.5
        )
        low, high = line["refusal_rate_low"], line["refusal_rate_high"]
        axes.fill_between(line["strength"], low, high, color=colour, alpha=0.15, linewidth=0)
    plain = rows[(rows["baseline"] == "none") & rows["harmful"]]["refusal_rate"]
    if len(plain):
        axes.axhline(plain.iloc[0], color="0.25", linewidth=0.6, zorder=0)
        drawn.add(len(_LINES))
    return drawn


@in_print_style
def effect_heat_map(effects: pd.DataFrame, matched: bool) -> Figure:
    """Sources against targets: the largest change of the refusal rate on harmful prompts.

    Args:
        effects: of `repe.control.measures.largest_effects`.
        matched: whether strengths were calibrated to the same divergence.
    """
    square = effects.pivot(index="source", columns="target", values="effect").reindex(
        index=effects["source"].unique(), columns=effects["target"].unique()
    )
    how = "at matched divergence" if matched else "at the strengths as given"
    colouring = Colouring(Normalize(-1, 1), "RdBu", "Change of refusal rate")
    return heat_maps({how: square}, colouring, "Target", "Source")
