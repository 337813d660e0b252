"""Intervals of an accuracy for fixed vectors and a fixed layer, over test items."""

import numpy as np
from scipy.special import ndtri

from repe.uncertainty.bootstrap import CONFIDENCE


def wilson(right: np.ndarray | float, items: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
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
