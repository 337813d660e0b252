"""Intervals of an accuracy for fixed vectors and a fixed layer, over test items."""

from collections.abc import Sequence

import numpy as np
from scipy.special import ndtri, stdtrit

from repe.uncertainty.bootstrap import CONFIDENCE

Values = np.ndarray | float


def wilson(right: Values, items: Values) -> tuple[np.ndarray, np.ndarray]:
    """Wilson's score interval of a proportion, which stays honest at 0 and 1 and for few items.

    Source: Wilson 1927; Brown, Cai and DasGupta 2001, Interval Estimation for a Binomial Proportion.

    Args:
        right: number of items that were right (any shape; half-integers for means over several pairs of an item).
        items: number of items, same shape or one number.

    Returns:
        Lower and upper bound of the 95 % interval, same shape; NaN where there are no items.
    """
    right, items = np.asarray(right, dtype=np.float64), np.asarray(items, dtype=np.float64)
    z = ndtri((1 + CONFIDENCE) / 2)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = right / items
        centre = (share + z**2 / (2 * items)) / (1 + z**2 / items)
        half = z * np.sqrt(share * (1 - share) / items + z**2 / (4 * items**2)) / (1 + z**2 / items)
    return np.maximum(centre - half, 0.0), np.minimum(centre + half, 1.0)


def effective_items(correct: np.ndarray, items: Sequence[str]) -> np.ndarray:
    """How many independent items the pairs of a test set are worth.

    Pairs of one item (the same act in several contexts) tend to be right or wrong together, so they count for fewer:
    the number of pairs divided by the design effect, the variance of the accuracy over whole items relative to that of
    independent pairs (Kish 1965, Survey Sampling, section 8.2). Between the number of items and that of pairs; the
    number of items where all pairs are right or all are wrong, which says nothing about the variance.

    Args:
        correct: bool or uint8 (..., pairs).
        items: item of each pair.

    Returns:
        float64 (...).
    """
    _, place = np.unique(np.asarray(items), return_inverse=True)
    correct = np.asarray(correct, dtype=np.float64)
    pairs, count = correct.shape[-1], place.max() + 1
    if count == pairs:
        return np.full(correct.shape[:-1], float(pairs))
    share = correct.mean(axis=-1, keepdims=True)
    sums = (correct - share) @ np.eye(count)[place]  # (..., items)
    variance = (sums**2).sum(axis=-1) * count / max(count - 1, 1) / pairs**2
    known = variance > 0
    independent = (share * (1 - share))[..., 0]
    worth = np.divide(independent, variance, out=np.full_like(variance, count), where=known)
    # Right and wrong pairs that cancel within every item have no variance between items.
    worth = np.where(~known & (independent > 0), pairs, worth)
    return np.clip(worth, count, pairs)  # type: ignore[no-any-return]


def of_outcomes(correct: np.ndarray, items: Sequence[str]) -> tuple[float, float]:
    """Wilson's interval of the share of correct pairs, with the effective number of items.

    Args:
        correct: bool or uint8 (pairs,).
        items: item of each pair.
    """
    worth = effective_items(correct, items)
    low, high = wilson(correct.mean() * worth, worth)
    return float(low), float(high)


def paired(differences: np.ndarray, items: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """The 95 % interval of a mean difference of two outcomes on the same pairs.

    Student's interval with half an item added to each of the four possible outcomes, which keeps its level with few
    items and at the edges (Agresti and Min 2005, Statistics in Medicine 24:729).

    Args:
        differences: (..., pairs) in -1..1: one outcome minus the other.
        items: item of each pair; pairs of one item count as one, with their mean difference.

    Returns:
        Lower and upper bound, (...).
    """
    _, place = np.unique(np.asarray(items), return_inverse=True)
    sums = np.asarray(differences, dtype=np.float64) @ np.eye(place.max() + 1)[place]
    # Relative to the mean number of pairs of an item, so that the mean over items is the mean over pairs.
    means = sums * (place.max() + 1) / len(place)
    count = means.shape[-1] + 2
    mean = means.sum(axis=-1) / count
    variance = ((means**2).sum(axis=-1) + 1) / count - mean**2
    half = stdtrit(count - 1, (1 + CONFIDENCE) / 2) * np.sqrt(variance / count)
    return np.maximum(mean - half, -1.0), np.minimum(mean + half, 1.0)


def over_training(accuracy: Values, deviation: Values, pairs: Values) -> tuple[np.ndarray, np.ndarray]:
    """The 95 % interval of an accuracy over the choice of training items, for the same test pairs.

    It estimates the mean accuracy that vectors of as many other training items would have on these test pairs. The
    accuracy itself is its unbiased estimate; its standard deviation over training sets is that over random halves of
    the training items, whose means scatter around that of all items as the latter around the population's. The bounds
    are Wilson's for the number of independent outcomes with that deviation, so that they stay within 0..1.

    Args:
        accuracy: of the vectors of all training items (any shape).
        deviation: standard deviation over random halves of the training items, same shape.
        pairs: number of test pairs; a deviation below half a pair is taken as half a pair.
    """
    accuracy, deviation = np.asarray(accuracy, dtype=np.float64), np.maximum(deviation, 0.5 / np.asarray(pairs))
    inside = np.clip(accuracy, 0.5 / np.asarray(pairs), 1 - 0.5 / np.asarray(pairs))
    outcomes = inside * (1 - inside) / deviation**2
    return wilson(accuracy * outcomes, outcomes)


def paired_columns(name: str, differences: np.ndarray, items: Sequence[str]) -> dict[str, float]:
    """A mean difference and its interval by `paired`, as the columns `<name>`, `<name>_low` and `<name>_high`."""
    low, high = paired(differences, items)
    return {name: float(differences.mean()), f"{name}_low": float(low), f"{name}_high": float(high)}
