"""Wilson's interval against scipy's, cell by cell."""

import numpy as np
import pytest
from scipy.stats import binomtest

from repe.uncertainty.intervals import wilson


@pytest.mark.parametrize("items", [1, 5, 20, 80])
def test_equals_scipy(items: int) -> None:
    low, high = wilson(np.arange(items + 1), items)
    for right in range(items + 1):
        expected = binomtest(right, items).proportion_ci(method="wilson")
        assert (low[right], high[right]) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_no_items_give_no_interval() -> None:
    low, high = wilson(0, 0)
    assert np.isnan(low) and np.isnan(high)
