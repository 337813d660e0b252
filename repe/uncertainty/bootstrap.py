"""Bootstrap intervals (95 %) of accuracies: items are resampled, each with its translations in all languages.

Test sets of different languages are translations of each other, so their accuracies vary together. Resampling the pairs
of each language independently would treat 16 translations of an item as 16 items, and give wrong intervals of means and
differences over languages. (Percentile bootstrap over clusters: Davison and Hinkley, Bootstrap Methods and their
Application, 1997, sections 3.8 and 5.3.)
"""

import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from repe.analysis.layer_selection import Selection
from repe.results.accuracy_file import AccuracyFile

CONFIDENCE = 0.95

# In tables, in the place of a concept or language: the mean over all of them.
ALL = "all"


@dataclass(frozen=True)
class Outcomes:
    """Correct items of several cells; a cell is a source's vectors on a target's test pairs."""

    correct: np.ndarray
    """float32 (items, cells): number of the item's pairs that are right, 0 if the cell's test set lacks the item."""
    present: np.ndarray
    """float32 (items, cells): number of the item's pairs in the cell's test set (1, unless items have several)."""

    def accuracies(self, weights: np.ndarray) -> np.ndarray:
        """Accuracy of each cell with weighted items.

        Args:
            weights: float32 (draws, items).

        Returns:
            float64 (draws, cells); NaN where a draw has none of a cell's items.
        """
        right, total = ((weights @ part).astype(np.float64) for part in (self.correct, self.present))
        return np.divide(right, total, out=np.full_like(right, np.nan), where=total > 0)  # type: ignore[no-any-return]


def outcomes(file: AccuracyFile, cells: Sequence[tuple[str, str]], selection: Selection) -> Outcomes:
    """The outcomes of a concept's cells (source, target), each at its selected layer.

    Raises:
        UserError: the file does not record which pairs were right.
    """
    correct = {cell: file.cell("correct", *cell)[selection.accuracy_layer(file, *cell)] for cell in cells}
    keys = {target: file.test_items(target) for _, target in cells}
    places = {key: place for place, key in enumerate(sorted({key for _, target in cells for key in keys[target]}))}
    rows = {target: [places[key] for key in keys[target]] for _, target in cells}
    found = Outcomes(*(np.zeros((len(places), len(cells)), dtype=np.float32) for _ in range(2)))
    for column, cell in enumerate(cells):
        # Pairs of one item count together, so their outcomes are added up.
        np.add.at(found.correct, (rows[cell[1]], column), correct[cell])
        np.add.at(found.present, (rows[cell[1]], column), 1)
    return found


def weights(items: int, draws: int, generator: np.random.Generator) -> np.ndarray:
    """How often each bootstrap sample (as many items, with replacement) has each item: float32 (draws, items)."""
    drawn = generator.integers(items, size=(draws, items)) + items * np.arange(draws)[:, None]
    return np.bincount(drawn.ravel(), minlength=draws * items).reshape(draws, items).astype(np.float32)


def accuracy_draws(
    file: AccuracyFile, cells: Sequence[tuple[str, str]], selection: Selection, draws: int, seed: int
) -> np.ndarray:
    """Accuracies of a concept's cells (source, target) in bootstrap samples of its items, float64 (draws, cells).

    Layers stay those selected on all items. Samples depend on the seed and the concept only, so models that were tested
    on the same items share them.

    Raises:
        UserError: the file does not record which pairs were right.
    """
    found = outcomes(file, cells, selection)
    generator = np.random.default_rng([seed, zlib.crc32(file.concept.encode())])
    return found.accuracies(weights(len(found.present), draws, generator))


def bounds(draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The lower and the upper bound of a 95 % percentile interval.

    Args:
        draws: (draws, ...); NaN values are left out.

    Returns:
        Two arrays of the other axes; NaN where all draws are NaN.
    """
    ends = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
    with warnings.catch_warnings(action="ignore"):  # slices without a number
        quantile = np.nanquantile if np.isnan(draws).any() else np.quantile
        low, high = quantile(draws, ends, axis=0)
    return low, high
