"""Hidden states of several languages in two dimensions."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from repe.plots.style import HUES, PAGE_WIDTH, in_print_style, new_figure

_MARKERS = "os^vD<>PXph*8d1+"
_SIDES = ((HUES[0], "positive side"), (HUES[1], "negative side"))


def shared_direction(states: Mapping[str, np.ndarray]) -> np.ndarray:
    """The mean of the languages' unit differences of class means, at unit length: (hidden,).

    Args:
        states: (pairs, 2, hidden) by language, the positive text first.
    """
    differences = [one[:, 0].mean(axis=0) - one[:, 1].mean(axis=0) for one in states.values()]
    shared = np.sum([one / np.linalg.norm(one) for one in differences], axis=0)
    return shared / np.linalg.norm(shared)  # type: ignore[no-any-return]


def plane_of_concept(states: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """States along the languages' shared direction, and along the first component across it.

    Args:
        states: (pairs, 2, hidden) by language, the positive text first.

    Returns:
        (pairs, 2, 2) by language; the origin is the mean of all states.
    """
    shared, centred = shared_direction(states), _centred(states)
    across = _components(centred - np.outer(centred @ shared, shared), 1)
    return _projected(states, np.stack([shared, across[0]]))


def plane_of_components(states: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """States along their first two principal components, (pairs, 2, 2) by language."""
    return _projected(states, _components(_centred(states), 2))


def _centred(states: Mapping[str, np.ndarray]) -> np.ndarray:
    rows = np.concatenate([one.reshape(-1, one.shape[-1]) for one in states.values()])
    return rows - rows.mean(axis=0)  # type: ignore[no-any-return]


def _components(rows: np.ndarray, count: int) -> np.ndarray:
    return np.linalg.svd(rows, full_matrices=False)[2][:count]


def _projected(states: Mapping[str, np.ndarray], axes: np.ndarray) -> dict[str, np.ndarray]:
    mean = np.concatenate([one.reshape(-1, one.shape[-1]) for one in states.values()]).mean(axis=0)
    return {language: (one - mean) @ axes.T for language, one in states.items()}


@in_print_style
def state_scatter(states: Mapping[str, np.ndarray], title: str) -> Figure:
    """Two panels: the plane of the shared direction, and the first two principal components.

    Args:
        states: float64 (pairs, 2, hidden) by language, the positive text first.
        title: above the panels.
    """
    figure = new_figure(PAGE_WIDTH, 3.4)
    panels = figure.subplots(1, 2)
    planes = (
        (plane_of_concept(states), "Shared direction of the concept", "First component across it"),
        (plane_of_components(states), "First principal component", "Second principal component"),
    )
    for axes, (plane, across, up) in zip(panels, planes, strict=True):
        for place, points in enumerate(plane.values()):
            for side, (colour, _) in enumerate(_SIDES):
                style = {"marker": _MARKERS[place % len(_MARKERS)], "s": 7, "linewidths": 0.4}
                axes.scatter(*points[:, side].T, color=colour, alpha=0.6, **style)
        axes.set(xlabel=across, ylabel=up)
    marks = [
        Line2D(
            [], [], linestyle="", marker=_MARKERS[place % len(_MARKERS)], color="0.4", markersize=3.5, label=language
        )
        for place, language in enumerate(states)
    ]
    sides = [
        Line2D([], [], linestyle="", marker="o", color=colour, markersize=3.5, label=name) for colour, name in _SIDES
    ]
    figure.legend(handles=sides + marks, loc="outside upper center", ncols=9, columnspacing=1.0, title=title)
    return figure
