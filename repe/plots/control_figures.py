"""Figures of control (Section 5): measures against strength, and the effect of each source language."""

from itertools import cycle
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from repe.plots.style import COLUMN_WIDTH, HUES, PAGE_WIDTH, SMALL, TEXT, in_print_style, near_square, new_figure

_OWN_VECTOR = "target's own vector"
# Lines in drawing order: baseline, harmful prompts or not, label, colour, dashes.
_LINES: tuple[tuple[str, bool, str, str, Any], ...] = (
    ("concept", True, "source's vector", HUES[0], "-"),
    ("target_vector", True, _OWN_VECTOR, HUES[2], (0, (4, 1.2))),
    ("random", True, "random direction", HUES[6], (0, (1, 1))),
    ("shuffled", True, "vector of shuffled labels", HUES[5], (0, (2, 1))),
    ("prompt", True, "system instruction", HUES[3], ""),
    ("concept", False, "source's vector, harmless prompts", HUES[1], (0, (4, 1.2, 1, 1.2))),
)
_UNSTEERED = "unsteered, harmful prompts"
# Measures with a figure: file name, column, label of the axis, limits.
_FIGURES = (
    ("figure_control", "refusal_rate", "Refusal rate", (-0.04, 1.04)),
    ("figure_control_score", "concept_score", "Concept score", None),
)
_PANEL_HEIGHT = 1.15  # inches


def figures(measures: pd.DataFrame, source: str) -> dict[str, Figure]:
    """The figures of a run by file name, those that its prompts and vectors allow.

    The refusal rate needs prompts that say whether they are harmful, the concept score vectors with class means. One of
    the two is always drawn as `figure_control`: the refusal rate, or the concept score if no prompt says whether it is
    harmful.
    """
    known = measures["harmful"].notna().any(), measures["concept_score"].notna().any()
    drawn = {
        name: panels(measures, source, column, label, limits)
        for (name, column, label, limits), is_known in zip(_FIGURES, known, strict=True)
        if is_known
    }
    if not known[0]:
        drawn = {"figure_control": drawn["figure_control_score"] if known[1] else panels(measures, source)}
    return drawn


@in_print_style
def panels(
    measures: pd.DataFrame,
    source: str,
    column: str = "refusal_rate",
    label: str = "Refusal rate",
    limits: tuple[float, float] | None = (-0.04, 1.04),
) -> Figure:
    """A measure against strength with 95 % intervals, one panel for each target language, on one scale.

    Args:
        measures: the table of `repe.control.measures.measure`.
        source: the language of the steering vector.
        column: the measure.
        label: of its axis.
        limits: of its axis; None for those of the data.
    """
    says_harmful = bool(measures["harmful"].notna().any())
    measures = measures.assign(harmful=measures["harmful"].map({True: True, False: False}).fillna(True).astype(bool))
    targets = list(dict.fromkeys(measures["target"]))
    columns = near_square(len(targets))
    rows = -(-len(targets) // columns)
    figure = new_figure(min(PAGE_WIDTH, 0.7 + 1.55 * columns), 0.75 + _PANEL_HEIGHT * rows)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes, target in zip(grid.flat, targets, strict=False):
        axes.set_title(f"{target} (source)" if target == source else target)
        _panel(axes, measures[measures["target"] == target], target == source, column)
        if limits:
            axes.set_ylim(*limits)
            axes.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])
    for axes in grid.flat[len(targets) :]:
        axes.set_axis_off()
    # The lowest panel of each column has tick labels, also above an empty place in the last row.
    for place in range(columns):
        lowest = [axes for axes in grid[:, place] if axes.axison][-1]
        lowest.tick_params(labelbottom=True)
    figure.supxlabel("Strength", fontsize=TEXT)
    figure.supylabel(label, fontsize=TEXT)
    _legend(figure, columns, says_harmful)
    return figure


def _legend(figure: Figure, columns: int, says_harmful: bool) -> None:
    """One legend for all panels; without harmful prompts, entries do not name them."""
    labelled = [axes.get_legend_handles_labels() for axes in figure.axes]
    lines = {name: line for handles, labels in labelled for line, name in zip(handles, labels, strict=True)}
    shown = [name for name in (*(line[2] for line in _LINES), _UNSTEERED) if name in lines]
    names = [name if says_harmful else name.split(",")[0] for name in shown]
    columns = min(len(shown), max(1, columns))
    figure.legend([lines[one] for one in shown], names, loc="outside upper center", ncols=columns, borderpad=0.1)


def _panel(axes: Axes, rows: pd.DataFrame, is_source: bool, column: str) -> None:
    """Draw the lines of one target."""
    for baseline, harmful, label, colour, dashes in _LINES:
        line = rows[(rows["baseline"] == baseline) & (rows["harmful"] == harmful)].sort_values("strength")
        # In the source's panel, the target's vector is the source's vector.
        if line.empty or (is_source and baseline == "target_vector"):
            continue
        style: dict[str, Any] = {
            "color": colour,
            "linestyle": dashes or "none",
            "linewidth": 1,
            "ms": 2.5 if dashes else 3.5,
        }
        axes.plot(line["strength"], line[column], label=label, marker="." if dashes else "D", **style)
        low, high = line[f"{column}_low"], line[f"{column}_high"]
        if dashes:
            axes.fill_between(line["strength"], low, high, color=colour, alpha=0.15, linewidth=0)
        else:
            axes.vlines(line["strength"], low, high, color=colour, linewidth=0.6)
    plain = rows[(rows["baseline"] == "none") & rows["harmful"]][column]
    if len(plain):
        axes.axhline(plain.iloc[0], color="0.25", linewidth=0.6, zorder=0, label=_UNSTEERED)


@in_print_style
def sources(effects: pd.DataFrame) -> Figure:
    """The change from the lowest to the highest strength by target language, a colour for each source language.

    One panel for each measure. Grey dots are single random directions, diamonds the target's own vectors.

    Args:
        effects: the table of `repe.control.measures.source_effects`.
    """
    measures, targets = effects["measure"].unique(), [*effects["target"].unique()]
    figure = new_figure(min(PAGE_WIDTH, 1.2 + 2.0 * len(measures)), 2.4)
    for axes, measure in zip(figure.subplots(1, len(measures), squeeze=False)[0], measures, strict=True):
        rows = effects[effects["measure"] == measure]
        axes.axhline(0, color="0.25", linewidth=0.6, zorder=0)
        drawn = rows[rows["baseline"] == "random"]
        axes.plot([targets.index(one) for one in drawn["target"]], drawn["effect"], ".", color="0.6", ms=4)
        concept = rows[rows["baseline"] == "concept"]
        lines = {f"{name} vector": part for name, part in concept.groupby("source", sort=False)}
        # Own vectors are scaled like those of the first source that has them.
        own = rows[rows["baseline"] == "target_vector"].drop_duplicates("target")
        lines |= {_OWN_VECTOR: own[own["source"] != own["target"]]} if len(own) else {}
        for place, (label, part) in enumerate(lines.items()):
            at = [targets.index(one) + 0.16 * (place - (len(lines) - 1) / 2) for one in part["target"]]
            spread = [part["effect"] - part["effect_low"], part["effect_high"] - part["effect"]]
            colour, marker = ("black", "D") if label == _OWN_VECTOR else (HUES[place % len(HUES)], "o")
            axes.errorbar(at, part["effect"], yerr=spread, label=label, elinewidth=0.8, color=colour, fmt=marker, ms=3)
        axes.set_xticks(range(len(targets)), targets)
        axes.set_xlim(-0.5, len(targets) - 0.5)
        axes.set_title(_measure_title(measure))
    figure.axes[0].set_ylabel("Change, lowest to highest strength")
    figure.supxlabel("Language of prompts", fontsize=TEXT)
    handles = {label: one for axes in figure.axes for one, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    if len(effects[effects["baseline"] == "random"]):
        handles["random directions"] = Line2D([], [], color="0.6", marker=".", ms=4, linestyle="none")
    figure.legend([*handles.values()], [*handles], loc="outside upper center", ncols=3, borderpad=0.1)
    return figure


def _measure_title(measure: str) -> str:
    if measure == "refusal_rate":
        return "Refusal rate"
    judge = measure.removeprefix("concept_score").removeprefix("_")
    return f"Score by {judge}" if judge else "Concept score"


@in_print_style
def trade_off(table: pd.DataFrame) -> Figure:
    """Effect against damage: a point for each setting that was tried, the chosen one in a circle.

    Args:
        table: of `repe.control.tuning.Tuner.choose`.
    """
    figure = new_figure(COLUMN_WIDTH, 2.4)
    axes = figure.subplots()
    for (layers, rows), colour in zip(
        table.dropna(subset="effect").groupby("layers", sort=False), cycle(HUES), strict=False
    ):
        axes.plot(rows["kl"], rows["effect"], ".", color=colour, label=f"layers {layers}")
        for row in rows.itertuples():
            axes.annotate(f"{row.strength:g}", (row.kl, row.effect), (2, 2), textcoords="offset points", fontsize=SMALL)
    chosen = table[table["chosen"]]
    axes.plot(chosen["kl"], chosen["effect"], "o", ms=8, fillstyle="none", color="black", label="chosen")
    axes.set_xlabel("Damage: KL divergence (nats)")
    axes.set_ylabel("Effect (class distances)")
    figure.legend(loc="outside upper center", ncols=3, borderpad=0.1)
    return figure
