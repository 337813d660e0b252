"""Heat maps of languages against languages, one panel per model, on one colour scale."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.transforms import Bbox

from repe.plots.style import LETTER, MISSING, PAGE_HEIGHT, PAGE_WIDTH, SMALL, near_square, new_figure, wrapped

_BAR_WIDTH = 0.9  # inches, with its ticks and title
_LABELS_ACROSS = 48  # tick labels that fit side by side on a page
_LABEL_PITCH = 0.09  # inches between tick labels that do not touch
_LEVEL = 10.0  # points between rows of tick labels
_PANEL_EDGES = 0.45  # inches of title and tick labels above and below a panel


@dataclass(frozen=True)
class Colouring:
    """The colour of each value."""

    scale: Normalize
    colours: str
    """The name of Matplotlib's colour map."""
    meaning: str
    """The title of the colour bar."""
    ticks: Sequence[float] = ()
    """Values on the colour bar; round numbers if empty."""

    def __call__(self, values: np.ndarray | float) -> np.ndarray:
        """RGBA in 0..1, float (..., 4), of values (...)."""
        return ScalarMappable(self.scale, self.colours).to_rgba(np.asarray(values))


def heat_maps(panels: Mapping[str, pd.DataFrame], colouring: Colouring, across: str = "", down: str = "") -> Figure:
    """A grid of heat maps with one colour bar, which is the last axes of the figure.

    Args:
        panels: values by title of the panel; NaN is hatched.
        across: label of the x axis.
        down: label of the y axis.
    """
    languages = max(max(square.shape) for square in panels.values())
    columns = min(near_square(len(panels)), _LABELS_ACROSS // languages)
    if languages * near_square(len(panels)) > _LABELS_ACROSS:
        columns = max(range(1, 5), key=lambda columns: _largest_panel(len(panels), columns))
    # Cells no larger than a number needs, but panels wide enough for most models' names and for all tick labels.
    widest = max(2.8, 1.2 * _LABEL_PITCH * languages)
    panel = min(max(1.8, 0.45 * languages), widest, (PAGE_WIDTH - _BAR_WIDTH) / columns)
    rows = math.ceil(len(panels) / columns)
    figure = new_figure(columns * panel + _BAR_WIDTH, PAGE_HEIGHT, "compressed")
    for place, (model, square) in enumerate(panels.items()):
        axes = figure.add_subplot(rows, columns, place + 1)
        _heat_map(axes, square, colouring, 0.85 * panel / max(square.shape))
        axes.set_title(wrapped(model, panel))
        axes.set_xlabel(across if place >= (rows - 1) * columns else "")
        axes.set_ylabel(down if place % columns == 0 else "")
    above = any((colouring.scale(square.to_numpy(float)) > 1.001).any() for square in panels.values())
    style: Any = {"aspect": 25 * rows, "pad": 0.02, "fraction": 0.05, "extend": "max" if above else "neither"}
    ticks: Any = {"ticks": colouring.ticks, "format": "{x:g}"} if colouring.ticks else {}
    bar = figure.colorbar(figure.axes[0].collections[0], ax=figure.axes, **style, **ticks)
    bar.set_label(colouring.meaning)
    if any(square.isna().to_numpy().any() for square in panels.values()):
        figure.legend(handles=[Patch(label="no value", linewidth=0, **MISSING)], loc="outside lower left", borderpad=0)
    # The height of the panels is known only after their labels are laid out.
    figure.draw_without_rendering()
    needed = Bbox.union([box for axes in figure.axes if (box := axes.get_tightbbox())]).height / figure.dpi
    figure.set_figheight(needed + 0.06 + 0.2 * len(figure.legends))
    return figure


def _largest_panel(panels: int, columns: int) -> float:
    """Inches of a square panel if a page has so many columns of them."""
    return min((PAGE_WIDTH - _BAR_WIDTH) / columns, PAGE_HEIGHT / math.ceil(panels / columns) - _PANEL_EDGES)


def _heat_map(axes: Axes, square: pd.DataFrame, colouring: Colouring, cell: float) -> None:
    """Draw one heat map, with numbers in the cells (`cell` inches wide) where they fit."""
    sns.heatmap(
        square.astype(float),
        norm=colouring.scale,
        cmap=colouring.colours,
        annot=square.map(lambda value: f"{value:z.2f}".replace("-", "−")) if cell > 5 * LETTER else None,
        fmt="",
        annot_kws={"fontsize": SMALL},
        linewidths=0.25 if cell > _LABEL_PITCH else 0,
        square=True,
        cbar=False,
        xticklabels=True,
        yticklabels=True,
        ax=axes,
    )
    axes.patch.set(**MISSING)  # visible behind cells without a value
    axes.tick_params(length=0)
    axes.tick_params(axis="x", rotation=90 if LETTER * max(len(str(name)) for name in square) > cell else 0)
    axes.tick_params(axis="y", rotation=0)
    # Labels that would touch stand in two or more rows.
    levels = math.ceil(_LABEL_PITCH / cell)
    for ticks in (axes.xaxis.get_major_ticks(), axes.yaxis.get_major_ticks()):
        for place, tick in enumerate(ticks):
            tick.set_pad(1.5 + place % levels * _LEVEL)
