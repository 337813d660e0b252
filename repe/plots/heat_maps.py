"""Heat maps of languages against languages, one panel per model, on one colour scale."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.transforms import Bbox

from repe.plots.style import MISSING, PAGE_HEIGHT, PAGE_WIDTH, SMALL, inches, near_square, new_figure, wrapped

_BAR_WIDTH = 0.75  # inches, with its ticks and title


@dataclass(frozen=True)
class Colouring:
    """The colour of each value."""

    scale: Normalize
    colours: str
    """The name of Matplotlib's colour map."""
    meaning: str
    """The title of the colour bar."""
    ticks: Mapping[float, str] = field(default_factory=dict)
    """Labels of the colour bar by value; round numbers if empty."""

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """RGBA in 0..1, float (..., 4), of values (...)."""
        return ScalarMappable(self.scale, self.colours).to_rgba(values)


def heat_maps(panels: Mapping[str, pd.DataFrame], colouring: Colouring, across: str = "", down: str = "") -> Figure:
    """A grid of heat maps with one colour bar, which is the last axes of the figure.

    Args:
        panels: values by title of the panel; NaN is hatched.
        across: label of the x axis.
        down: label of the y axis.
    """
    largest = max(max(square.shape) for square in panels.values())
    margin = 0.1 + inches({language for square in panels.values() for language in [*square, *square.index]}, SMALL)
    columns, panel = _grid(len(panels), largest, margin)
    rows = math.ceil(len(panels) / columns)
    figure = new_figure(columns * (panel + margin) + _BAR_WIDTH, PAGE_HEIGHT, layout=None)
    for place, (model, square) in enumerate(panels.items()):
        axes = figure.add_subplot(rows, columns, place + 1)
        _heat_map(axes, square, colouring, panel / max(square.shape))
        axes.set_title(wrapped(model, panel))
        axes.set_xlabel(across if place >= (rows - 1) * columns else "")
        axes.set_ylabel(down if place % columns == 0 else "")
        axes.set_visible(False)
    # Seaborn draws the whole figure for each panel, which takes twice as long with the layout and the other panels.
    figure.set_layout_engine("compressed")
    for axes in figure.axes:
        axes.set_visible(True)
    above = any((colouring.scale(square.to_numpy(float)) > 1.001).any() for square in panels.values())
    mesh, extend = figure.axes[0].collections[0], "max" if above else "neither"
    bar = figure.colorbar(mesh, ax=figure.axes, aspect=25 * rows, pad=0.02, fraction=0.05, extend=extend)
    bar.set_label(colouring.meaning)
    if colouring.ticks:
        bar.ax.set_yticks([*colouring.ticks], [*colouring.ticks.values()])
        bar.ax.minorticks_off()
    if any(square.isna().to_numpy().any() for square in panels.values()):
        figure.legend(handles=[Patch(label="no value", linewidth=0, **MISSING)], loc="outside lower left", borderpad=0)
    _trim(figure)
    return figure


def _heat_map(axes: Axes, square: pd.DataFrame, colouring: Colouring, cell: float) -> None:
    """Draw one heat map, with numbers in the cells (`cell` inches wide) where they fit."""
    numbers = inches(["−0.00"], SMALL) < 0.9 * cell
    sns.heatmap(
        square.astype(float),
        norm=colouring.scale,
        cmap=colouring.colours,
        annot=square.map(lambda value: f"{value:z.2f}".replace("-", "−")) if numbers else None,
        fmt="",
        annot_kws={"fontsize": SMALL},
        linewidths=0.25,
        square=True,
        cbar=False,
        xticklabels=True,
        yticklabels=True,
        ax=axes,
    )
    axes.patch.set(**MISSING)  # visible behind cells without a value
    axes.tick_params(length=0)
    axes.tick_params(axis="x", rotation=90 if inches(square, SMALL) > 0.9 * cell else 0)
    axes.tick_params(axis="y", rotation=0)


def _trim(figure: Figure) -> None:
    """Reduce the height of the figure to that of its panels, which is known only after their labels are laid out."""
    figure.draw_without_rendering()
    needed = Bbox.union([box for axes in figure.axes if (box := axes.get_tightbbox())]).height / figure.dpi
    figure.set_figheight(needed + 0.06 + 0.2 * len(figure.legends))


def is_dark(colour: Sequence[float] | np.ndarray) -> bool:
    """Whether white text is easier to read than black on a colour (red, green, blue in 0..1; the rest is ignored)."""
    red, green, blue, *_ = colour
    return bool(0.299 * red + 0.587 * green + 0.114 * blue < 0.5)


def _grid(count: int, languages: int, margin: float) -> tuple[int, float]:
    """Number of columns of a grid of `count` panels, and the side of a panel in inches, with `margin` for labels.

    There are fewer columns than `near_square` has if the labels of that many languages would overlap.
    """
    smallest = 0.105 * languages
    fitting = [number for number in range(near_square(count), 0, -1) if _panel(number, margin) >= smallest]
    columns = fitting[0] if fitting else 1
    tallest = PAGE_HEIGHT / math.ceil(count / columns) - margin - 0.25
    # Cells no larger than a number needs, but panels wide enough for most models' names.
    largest = max(1.6, 0.45 * languages)
    return columns, max(min(_panel(columns, margin), largest, 2.6, tallest), smallest)


def _panel(columns: int, margin: float) -> float:
    return (PAGE_WIDTH - _BAR_WIDTH) / columns - margin
