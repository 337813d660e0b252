"""Cross-lingual transfer: how accuracy changes with vectors of other languages (Section 3.4, Figures 5 and 8)."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from repe.analysis.consistency import high_resource
from repe.analysis.layer_selection import PAPER, Selection, accuracy_at
from repe.paper import Family
from repe.results.accuracy_file import AccuracyFile
from repe.uncertainty.bootstrap import ALL, accuracy_draws, bounds

ONE_WAY = ("high_to_low", "low_to_high", "one_way")


def transfer_table(
    model: str, files: Mapping[str, AccuracyFile], languages: Sequence[str], selection: Selection = PAPER
) -> pd.DataFrame:
    """A model's transfer between languages.

    Args:
        files: the model's accuracy files by concept.
        languages: sources and targets, in the figure's order.
        selection: how layers are chosen.

    Returns:
        Columns model, source, target, accuracy (of the source's vectors on the target's pairs, mean over concepts of
        the selected layer), delta (accuracy minus that of the target's own vectors; the source transfers if >= 0).
    """
    accuracy = np.mean([accuracy_at(file, languages, languages, selection) for file in files.values()], axis=0)
    pairs = pd.MultiIndex.from_product([[model], languages, languages], names=["model", "source", "target"])
    return pairs.to_frame(index=False).assign(accuracy=accuracy.ravel(), delta=_minus_own(accuracy).ravel())


def delta_draws(
    files: Mapping[str, AccuracyFile], languages: Sequence[str], selection: Selection, draws: int, seed: int
) -> np.ndarray:
    """The deltas of a model in bootstrap samples of each concept's items, each item with all its translations.

    Returns:
        float64 (concepts, draws, sources, targets).

    Raises:
        UserError: a file does not record which pairs were right.
    """
    cells = [(source, target) for source in languages for target in languages]
    drawn = np.stack([accuracy_draws(file, cells, selection, draws, seed) for file in files.values()])
    return _minus_own(drawn.reshape(*drawn.shape[:2], len(languages), len(languages)))


def with_intervals(transfer: pd.DataFrame, drawn: np.ndarray) -> pd.DataFrame:
    """A model's transfer with the bounds of a 95 % interval of each delta, delta_low and delta_high.

    Args:
        drawn: from `delta_draws`, for the same languages.
    """
    low, high = bounds(drawn.mean(axis=0))
    return transfer.assign(delta_low=low.ravel(), delta_high=high.ravel())


def one_way_table(
    model: str,
    family: Family,
    files: Mapping[str, AccuracyFile],
    languages: Sequence[str],
    drawn: np.ndarray | None = None,
    selection: Selection = PAPER,
) -> pd.DataFrame:
    """How one-way transfer is, from high- to low-resource languages, with 95 % bootstrap intervals if there are draws.

    Args:
        family: defines the high-resource languages, as for Table 1.
        drawn: from `delta_draws`, for the same files, languages and selection; downloads have none.

    Returns:
        Columns model, concept (`all` for the mean over concepts), high_to_low (mean delta of high-resource vectors on
        low-resource languages), low_to_high (the reverse), one_way (the first minus the second), and, with draws, the
        bounds of each, `<name>_low` and `<name>_high`; NaN if all languages are high-resource, or none is known to be.
    """
    high = high_resource(family, languages)
    delta = np.stack([deltas(file, languages, selection) for file in files.values()])
    values = _with_mean(one_way(delta, high))  # (concepts + 1, 3)
    table = pd.DataFrame({"model": model, "concept": [*files, ALL]})
    ends = None if drawn is None else bounds(np.moveaxis(_with_mean(one_way(drawn, high)), 1, 0))
    for place, name in enumerate(ONE_WAY):
        table[name] = values[:, place]
        if ends:
            table[f"{name}_low"], table[f"{name}_high"] = (bound[:, place] for bound in ends)
    return table


def deltas(file: AccuracyFile, languages: Sequence[str], selection: Selection = PAPER) -> np.ndarray:
    """A concept's accuracies minus those of each target's own vectors, float64 (sources, targets)."""
    return _minus_own(accuracy_at(file, languages, languages, selection))


def one_way(delta: np.ndarray, high: np.ndarray) -> np.ndarray:
    """The three numbers of ONE_WAY.

    Args:
        delta: (..., sources, targets).
        high: which languages are high-resource, bool (languages,).

    Returns:
        float64 (..., 3); NaN if all or no languages are high-resource.
    """
    if high.all() or not high.any():
        return np.full((*delta.shape[:-2], len(ONE_WAY)), np.nan)
    down = delta[..., high, :][..., ~high].mean(axis=(-2, -1))
    up = delta[..., ~high, :][..., high].mean(axis=(-2, -1))
    return np.stack([down, up, down - up], axis=-1)


def _minus_own(accuracy: np.ndarray) -> np.ndarray:
    """Accuracies (..., sources, targets) minus those of each target's own vectors."""
    return accuracy - np.diagonal(accuracy, axis1=-2, axis2=-1)[..., None, :]  # type: ignore[no-any-return]


def _with_mean(values: np.ndarray) -> np.ndarray:
    """Values (concepts, ...) followed by their mean over concepts."""
    return np.concatenate([values, values.mean(axis=0, keepdims=True)])
