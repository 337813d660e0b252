"""Permutation tests without distributional assumptions, Pearson's r for them, and Holm's correction.

Every p-value counts the data themselves among the permutations, (1 + number that reach the statistic) / (1 + all), so
it is never 0 and the test keeps its level (Phipson and Smyth 2010).
"""

from collections.abc import Sequence
from itertools import chain, permutations, product
from math import factorial, prod

import numpy as np

# Correlations that differ by less are equal up to rounding, and values with a smaller standard deviation are constant.
ROUNDING = 1e-12


def better_than(concept: np.ndarray, random: np.ndarray, swaps: np.ndarray) -> float:
    """One-sided paired test: are concept vectors better than random ones on the same items?

    The statistic is the difference of the two accuracies, each at its best layer. If the training labels did not
    matter, the two outcomes of an item, at all layers together, could be exchanged. The best layer is chosen again
    after each exchange, so the choice is part of the test.

    Args:
        concept: bool or uint8 (layers, items): items that the vectors get right. Pass one layer if the layer was not
            chosen on these items.
        random: the same for the random vectors.
        swaps: bool or uint8 (permutations, items): items whose outcomes are exchanged.

    Returns:
        The p-value.

    Raises:
        ValueError: the outcomes differ in shape.
    """
    # Counts are integers far below 2^24, exact in float32.
    one, other = (np.asarray(part, dtype=np.float32).T for part in (concept, random))  # (items, layers)
    if one.shape != other.shape:
        raise ValueError(f"outcomes have different shapes, {one.shape} and {other.shape} (items, layers)")
    moved = swaps.astype(np.float32) @ (other - one)
    differences = (one.sum(axis=0) + moved).max(axis=1) - (other.sum(axis=0) - moved).max(axis=1)
    observed = one.sum(axis=0).max() - other.sum(axis=0).max()
    return _p_value(differences >= observed)


def orders(strata: Sequence[object], count: int, generator: np.random.Generator) -> np.ndarray:
    """Permutations of languages within strata, the identity first.

    Args:
        strata: the stratum of each language.
        count: number of random permutations; if no more exist, all of them are enumerated instead.

    Returns:
        int (1 + count, languages), or all permutations.
    """
    places = [[i for i, own in enumerate(strata) if own == stratum] for stratum in dict.fromkeys(strata)]
    if prod(factorial(len(part)) for part in places) <= count:
        moved = np.array([[*chain(*one)] for one in product(*map(permutations, places))])
        return moved[:, np.argsort([*chain(*places)])]
    found = np.tile(np.arange(len(strata)), (1 + count, 1))
    for part in places:
        found[1:, part] = generator.permuted(found[1:, part], axis=1)
    return found


def mantel(square: np.ndarray, other: np.ndarray, parts: Sequence[np.ndarray], permuted: np.ndarray) -> float:
    """Mantel's test, two-sided: is the correlation of two matrices larger than with permuted languages?

    Pairs that share a language are not independent, so the usual p-value of Pearson's r is wrong. Here the languages of
    one matrix are permuted, rows and columns together. (Mantel 1967; permutations within strata correspond to `strata`
    in vegan's `mantel`.)

    Args:
        square: (languages, languages).
        other: (languages, languages); pairs that are NaN in it, or in the permuted `square`, are left out.
        parts: bool (languages, languages) each: the statistic is Pearson's r over the pairs of a part, averaged over
            parts.
        permuted: int (orders, languages), from `orders`: permutations of the languages of `square`.

    Returns:
        The p-value; NaN if the statistic is undefined. A permutation with an undefined statistic counts as reaching it.
    """
    moved = square[permuted[:, :, None], permuted[:, None, :]]
    sizes = np.abs(np.mean([pearson(moved[:, part], other[part]) for part in parts], axis=0))
    return float("nan") if np.isnan(sizes[0]) else _p_value(~(sizes[1:] < sizes[0] - ROUNDING))


def pearson(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Pearson's r along the last axis, over the entries that are known (not NaN) in both.

    Args:
        x: (..., entries).
        y: (..., entries), broadcast against `x`.

    Returns:
        float64 (...); NaN where fewer than two entries are known, or where `x` or `y` is constant.
    """
    known = np.isfinite(x) & np.isfinite(y)
    count = np.maximum(known.sum(axis=-1), 1)
    x, y = (np.where(known, values, 0.0) for values in (x, y))
    x, y = (np.where(known, values - (values.sum(axis=-1) / count)[..., None], 0.0) for values in (x, y))
    deviation_x, deviation_y = (np.sqrt((values**2).sum(axis=-1) / count) for values in (x, y))
    varies = np.minimum(deviation_x, deviation_y) > ROUNDING
    r = (x * y).sum(axis=-1) / np.where(varies, count * deviation_x * deviation_y, np.nan)
    return np.clip(r, -1.0, 1.0)  # type: ignore[no-any-return]


def holm(values: np.ndarray) -> np.ndarray:
    """Holm's correction of p-values, which controls the family-wise error rate under any dependence (Holm 1979).

    Args:
        values: p-values of any shape; NaN is ignored.

    Returns:
        The same shape: the k-th smallest of n p-values times n - k + 1, no smaller than those before it, at most 1.
    """
    flat = np.asarray(values, dtype=np.float64).ravel()
    order = np.argsort(flat)  # NaN last
    factors = np.isfinite(flat).sum() - np.arange(flat.size)
    corrected = np.empty_like(flat)
    corrected[order] = np.minimum(np.maximum.accumulate(flat[order] * factors), 1.0)
    return corrected.reshape(np.shape(values))


def _p_value(reached: np.ndarray) -> float:
    """Share of permutations that reach the statistic; the data themselves count as one."""
    return float((1 + reached.sum()) / (1 + len(reached)))
