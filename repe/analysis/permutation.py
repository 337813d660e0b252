"""Tests by permutation: p-values without assumptions on distributions, and Holm's correction for many of them.

Every p-value counts the data as they are among the permutations, (1 + those that reach the statistic) / (1 + all), so
that it is never 0 and the test keeps its level (Phipson and Smyth 2010).
"""

from collections.abc import Iterable, Sequence
from itertools import permutations as orders_of
from itertools import product
from math import factorial, prod

import numpy as np

# Correlations that differ by no more are the same but for rounding.
ROUNDING = 1e-12


def better_than(concept: np.ndarray, random: np.ndarray, swaps: np.ndarray) -> float:
    """Do vectors beat random ones on the same items? The paired test, one-sided.

    The statistic is the difference of the two accuracies, each at its best layer of those given. If the labels that
    vectors were fitted on did not matter, the two outcomes of an item, at all layers together, could as well be
    exchanged; since the best layer is chosen anew each time, that choice is part of the test.

    Args:
        concept: bool or uint8 (layers, items): which items the vectors get right. One layer, if that was not chosen
            on these items.
        random: likewise of the random vectors.
        swaps: bool or uint8 (permutations, items): whose outcomes to exchange.

    Returns:
        The p-value.
    """
    # Counts are whole numbers far below 2^24, exact in float32.
    one, other = (np.asarray(part, dtype=np.float32).T for part in (concept, random))  # (items, layers)
    if one.shape != other.shape:
        raise ValueError(f"outcomes of {one.shape} and {other.shape} (items, layers) cannot be exchanged")
    moved = swaps.astype(np.float32) @ (other - one)
    found = (one.sum(axis=0) + moved).max(axis=1) - (other.sum(axis=0) - moved).max(axis=1)
    observed = one.sum(axis=0).max() - other.sum(axis=0).max()
    return _p_value(found >= observed)


def orders(strata: Sequence[object], count: int, generator: np.random.Generator) -> np.ndarray:
    """Orders of languages that leave each in its stratum, the given order first.

    Args:
        strata: what each language belongs to.
        count: how many random orders; if there are no more than that, each one once.

    Returns:
        int (1 + count, languages), or all orders there are.
    """
    places = [[i for i, own in enumerate(strata) if own == stratum] for stratum in dict.fromkeys(strata)]
    if prod(factorial(len(part)) for part in places) <= count:
        return np.array([_merged(places, one) for one in product(*map(orders_of, places))])
    found = np.tile(np.arange(len(strata)), (1 + count, 1))
    for part in places:
        found[1:, part] = generator.permuted(found[1:, part], axis=1)
    return found


def _merged(places: Sequence[Sequence[int]], moved: Iterable[Sequence[int]]) -> list[int]:
    to = {place: now for part, new in zip(places, moved, strict=True) for place, now in zip(part, new, strict=True)}
    return [to[place] for place in sorted(to)]


def mantel(square: np.ndarray, other: np.ndarray, parts: Sequence[np.ndarray], permuted: np.ndarray) -> float:
    """Mantel's test, two-sided: is the correlation of two matrices more than that of languages in any order?

    Pairs of languages that share one are not independent, so that the p-value of Pearson's r itself is wrong. Here the
    languages of one matrix change places, rows and columns jointly. (Mantel 1967; orders that stay in
    strata are what `strata` asks of vegan's `mantel`.)

    Args:
        square: (languages, languages).
        other: (languages, languages); pairs that are NaN in it, or in the permuted `square`, do not count.
        parts: bool (languages, languages) each: the statistic is the mean over parts of Pearson's r over the pairs in
            them.
        permuted: int (orders, languages), the first one as it is: what becomes of the languages of `square`.

    Returns:
        The p-value; NaN if the statistic is undefined. An order that leaves it undefined counts as reaching it.
    """
    moved = square[permuted[:, :, None], permuted[:, None, :]]
    sizes = np.abs(np.mean([correlations(moved[:, part], other[part]) for part in parts], axis=0))
    return float("nan") if np.isnan(sizes[0]) else _p_value(~(sizes[1:] < sizes[0] - ROUNDING))


def correlations(rows: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Pearson's r of each row with `values`, over the entries where both are known.

    Args:
        rows: (rows, entries).
        values: (entries,).

    Returns:
        float64 (rows,); NaN where fewer than two entries are known, or either does not vary over them.
    """
    rows, values = rows[:, np.isfinite(values)], values[np.isfinite(values)]
    known = np.isfinite(rows).astype(np.float64)
    # Centred on one number each, so that sums of squares lose no digits.
    x = np.where(known, rows - _middle(rows), 0.0)
    y = values - _middle(values)
    with np.errstate(divide="ignore", invalid="ignore"):
        count = known.sum(axis=1)
        mean_x, mean_y = x.sum(axis=1) / count, known @ y / count
        variance_x = (x * x).sum(axis=1) / count - mean_x**2
        variance_y = known @ (y * y) / count - mean_y**2
        found = (x @ y / count - mean_x * mean_y) / np.sqrt(variance_x * variance_y)
    return np.where((variance_x > ROUNDING**2) & (variance_y > ROUNDING**2), found, np.nan)


def _middle(values: np.ndarray) -> float:
    """A number between the smallest and the largest of those that are known."""
    finite = values[:1][np.isfinite(values[:1])]
    return float(finite.mean()) if finite.size else 0.0


def _p_value(reached: np.ndarray) -> float:
    """Of which permutations reach the statistic; the data as they are reach it too."""
    return float((1 + reached.sum()) / (1 + len(reached)))


def holm(values: np.ndarray) -> np.ndarray:
    """p-values corrected for their number, so that with any dependence 5 % of families have a false one below 0.05.

    Args:
        values: p-values of any shape; undefined ones (NaN) do not count.

    Returns:
        Of that shape: the k-th smallest of n, times n - k + 1, no smaller than those before it, at most 1 (Holm 1979).
    """
    flat = np.asarray(values, dtype=np.float64).ravel()
    order = np.argsort(flat)  # undefined ones last
    factors = np.isfinite(flat).sum() - np.arange(flat.size)
    corrected = np.empty_like(flat)
    corrected[order] = np.minimum(np.maximum.accumulate(flat[order] * factors), 1.0)
    return corrected.reshape(np.shape(values))
