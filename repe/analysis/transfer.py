"""Cross-lingual transfer: what other languages' vectors gain or lose on a language (Section 3.4, Figures 5, 8)."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from repe.analysis.bootstrap import ALL, accuracy_draws, bounds
from repe.analysis.layer_selection import PAPER, Selection, accuracy_at
from repe.paper import Family
from repe.results.accuracy_file import AccuracyFile

ONE_WAY = ("high_to_low", "low_to_high", "one_way")


def transfer_table(
    model: str, files: Mapping[str, AccuracyFile], languages: Sequence[str], selection: Selection = PAPER
) -> pd.DataFrame:
    """A model's transfer between languages.

    Args:
        files: the model's accuracy files by concept.
        languages: sources and targets, in the figure's order.
        selection: of the layers.

    Returns:
        Columns model, source, target, accuracy (of the source's vectors on the target, mean over concepts of the
        selected layer), delta (that less the accuracy of the target's own vectors; from 0 on the source transfers).
    """
    accuracy = np.mean([accuracy_at(file, languages, languages, selection) for file in files.values()], axis=0)
    delta = accuracy - accuracy.diagonal()
    rows = [
        (model, source, target, accuracy[i, j], delta[i, j])
        for i, source in enumerate(languages)
        for j, target in enumerate(languages)
    ]
    return pd.DataFrame(rows, columns=["model", "source", "target", "accuracy", "delta"])


def delta_draws(
    files: Mapping[str, AccuracyFile], languages: Sequence[str], selection: Selection, draws: int, seed: int
) -> np.ndarray:
    """The deltas of a model under draws of each concept's items, with all their translations.

    Returns:
        float64 (concepts, draws, sources, targets).

    Raises:
        UserError: a file does not say which pairs were right.
    """
    cells = [(source, target) for source in languages for target in languages]
    shape = (len(files), draws, len(languages), len(languages))
    drawn = np.stack([accuracy_draws(file, cells, selection, draws, seed) for file in files.values()]).reshape(shape)
    return drawn - np.diagonal(drawn, axis1=-2, axis2=-1)[..., None, :]  # type: ignore[no-any-return]


def with_intervals(transfer: pd.DataFrame, drawn: np.ndarray) -> pd.DataFrame:
    """A model's transfer with the bounds of a 95 % interval of each delta, delta_low and delta_high.

    Args:
        drawn: of `delta_draws`, of the same languages.
    """
    low, high = bounds(drawn.mean(axis=0))
    return transfer.assign(delta_low=low.ravel(), delta_high=high.ravel())


def one_way_table(
    model: str,
    family: Family,
    files: Mapping[str, AccuracyFile],
    languages: Sequence[str],
    drawn: np.ndarray,
    selection: Selection = PAPER,
) -> pd.DataFrame:
    """Is transfer one-way, from high- to low-resource languages? As one number, with a 95 % bootstrap interval.

    Args:
        family: says which languages are high-resource, as for Table 1.
        drawn: of `delta_draws`, of the same files, languages and selection.

    Returns:
        Columns model, concept (`all` for the mean over concepts), high_to_low (mean delta of high-resource vectors on
        low-resource languages), low_to_high (the reverse), one_way (the first less the second), and the bounds of each,
        `<name>_low` and `<name>_high`; NaN where there is no language of one of the two kinds.
    """
    high = np.array([family.is_high_resource(language, list(languages)) for language in languages], dtype=bool)
    accuracy = np.stack([accuracy_at(file, languages, languages, selection) for file in files.values()])
    delta = accuracy - np.diagonal(accuracy, axis1=-2, axis2=-1)[:, None, :]
    found = _with_mean(_one_way(delta, high))  # (concepts + 1, 3)
    low_bound, high_bound = bounds(np.moveaxis(_with_mean(_one_way(drawn, high)), 1, 0))
    table = pd.DataFrame({"model": model, "concept": [*files, ALL]})
    for place, name in enumerate(ONE_WAY):
        table[name] = found[:, place]
        table[f"{name}_low"], table[f"{name}_high"] = low_bound[:, place], high_bound[:, place]
    return table


def _one_way(delta: np.ndarray, high: np.ndarray) -> np.ndarray:
    """The three numbers of ONE_WAY, (..., 3), from deltas (..., sources, targets)."""
    if high.all() or not high.any():
        return np.full((*delta.shape[:-2], len(ONE_WAY)), np.nan)
    down = delta[..., high, :][..., ~high].mean(axis=(-2, -1))
    up = delta[..., ~high, :][..., high].mean(axis=(-2, -1))
    return np.stack([down, up, down - up], axis=-1)


def _with_mean(values: np.ndarray) -> np.ndarray:
    """Values (concepts, ...) with their mean over concepts behind them."""
    return np.concatenate([values, values.mean(axis=0, keepdims=True)])
