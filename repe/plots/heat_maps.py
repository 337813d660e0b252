"""Heat maps of languages against languages, a panel a model, on one colour scale."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import QuadMesh
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.transforms import Bbox

from repe.plots.style import MISSING, PAGE_HEIGHT, PAGE_WIDTH, SMALL, inches, near_square, new_figure, wrapped

_BAR_WIDTH = 0.75  # inches, with its marks and title


@dataclass(frozen=True)
class Colouring:
    """Which colour a cell's value has."""

    scale: Normalize
    colours: str
    """The name of Matplotlib's colour map."""
    meaning: str
    """What the values are."""
    ticks: Mapping[float, str] = field(default_factory=dict)
    """What stands beside the colour bar, by value; round numbers where it is empty."""

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """RGBA in 0..1, float (..., 4), of values (...)."""
        return ScalarMappable(self.scale, self.colours).to_rgba(values)


def heat_maps(panels: Mapping[str, pd.DataFrame], colouring: Colouring, across: str = "", down: str = "") -> Figure:
    """One panel a model in a grid, its edge named `across` and `down`, and one colour bar, the figure's last axes."""
    most = max(max(square.shape) for square in panels.values())
    margin = 0.1 + inches({language for square in panels.values() for language in [*square, *square.index]}, SMALL)
    columns, panel = _grid(len(panels), most, margin)
    rows = math.ceil(len(panels) / columns)
    figure = new_figure(columns * (panel + margin) + _BAR_WIDTH, PAGE_HEIGHT, "compressed")
    meshes = []
    for place, (model, square) in enumerate(panels.items()):
        axes = figure.add_subplot(rows, columns, place + 1)
        axes.set_title(wrapped(model, panel))
        axes.set_xlabel(across if place >= (rows - 1) * columns else "")
        axes.set_ylabel(down if place % columns == 0 else "")
        meshes.append(_heat_map(axes, square, colouring, panel / max(square.shape)))
    above = any((colouring.scale(square.to_numpy(float)) > 1.001).any() for square in panels.values())
    bar = figure.colorbar(
        meshes[0], ax=figure.axes, aspect=25 * rows, pad=0.02, fraction=0.05, extend="max" if above else "neither"
    )
    bar.set_label(colouring.meaning)
    if colouring.ticks:
        bar.ax.set_yticks([*colouring.ticks], [*colouring.ticks.values()])
        bar.ax.minorticks_off()
    if any(square.isna().to_numpy().any() for square in panels.values()):
        figure.legend(handles=[Patch(label="no value", linewidth=0, **MISSING)], loc="outside lower left", borderpad=0)
    _trim(figure)
    return figure


def _trim(figure: Figure) -> None:
    """Lower the figure to what its panels need, which is known only when their names have been laid out."""
    figure.draw_without_rendering()
    needed = Bbox.union([box for axes in figure.axes if (box := axes.get_tightbbox())]).height / figure.dpi
    figure.set_figheight(needed + 0.06 + 0.2 * len(figure.legends))


def _heat_map(axes: Axes, square: pd.DataFrame, colouring: Colouring, cell: float) -> QuadMesh:
    """Fill `axes` with a matrix, first row on top; numbers stand in the cells, `cell` inches wide, where they fit."""
    values = np.ma.masked_invalid(square.to_numpy(float))
    mesh = axes.pcolormesh(values, norm=colouring.scale, cmap=colouring.colours, edgecolor="white", linewidth=0.25)
    axes.patch.set(**MISSING)  # seen through the cells that are left out
    axes.set_aspect("equal")
    axes.invert_yaxis()
    axes.spines[:].set_visible(False)
    wide = inches(square, SMALL) > 0.9 * cell
    axes.set_xticks(np.arange(square.shape[1]) + 0.5, list(square.columns), rotation=90 if wide else 0)
    axes.set_yticks(np.arange(square.shape[0]) + 0.5, list(square.index))
    axes.tick_params(length=0)
    if inches(["−0.00"], SMALL) < 0.9 * cell:
        _write_numbers(axes, square, mesh)
    return mesh


def _write_numbers(axes: Axes, square: pd.DataFrame, mesh: QuadMesh) -> None:
    for (row, column), value in np.ndenumerate(square.to_numpy(float)):
        if np.isfinite(value):
            dark = is_dark(mesh.cmap(mesh.norm(value)))
            text = f"{value:z.2f}".replace("-", "−")
            axes.text(
                column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=SMALL, color="w" if dark else "k"
            )


def is_dark(colour: Sequence[float] | np.ndarray) -> bool:
    """Whether white is easier to read on a colour (red, green, blue in 0..1, and what follows) than black."""
    red, green, blue, *_ = colour
    return bool(0.299 * red + 0.587 * green + 0.114 * blue < 0.5)


def _grid(count: int, languages: int, margin: float) -> tuple[int, float]:
    """Columns of a grid of `count` panels and the side of one, in inches, with `margin` for the languages' names.

    There are fewer columns than `near_square` where the names of that many languages would overlap.
    """
    columns = near_square(count)
    smallest = 0.105 * languages
    while columns > 1 and _panel(columns, margin) < smallest:
        columns -= 1
    rows = math.ceil(count / columns)
    tallest = PAGE_HEIGHT / rows - margin - 0.25
    # Neither cells larger than a number needs, nor panels narrower than most models' names.
    largest = max(1.6, 0.45 * languages)
    return columns, max(min(_panel(columns, margin), largest, 2.6, tallest), smallest)


def _panel(columns: int, margin: float) -> float:
    return (PAGE_WIDTH - _BAR_WIDTH) / columns - margin
