"""Wilson's interval against scipy's, cell by cell."""

import numpy as np
import pytest
from scipy.stats import binomtest

from repe.uncertainty.intervals import effective_items, over_training, paired, wilson


@pytest.mark.parametrize("items", [1, 5, 20, 80])
def test_equals_scipy(items: int) -> None:
    low, high = wilson(np.arange(items + 1), items)
    for right in range(items + 1):
        expected = binomtest(right, items).proportion_ci(method="wilson")
        assert (low[right], high[right]) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_no_items_give_no_interval() -> None:
    low, high = wilson(0, 0)
    assert np.isnan(low) and np.isnan(high)


def clustered(generator: np.random.Generator, share: float, items: int, pairs: int, alike: float) -> np.ndarray:
    """Outcomes (samples, items * pairs): with the probability `alike`, a pair takes the outcome of its item."""
    shape = (1500, items, pairs)
    of_item = np.broadcast_to(generator.random((1500, items, 1)) < share, shape)
    found = np.where(generator.random(shape) < alike, of_item, generator.random(shape) < share)
    return found.reshape(1500, -1)


@pytest.mark.parametrize("share", [0.6, 0.7, 0.8, 0.9])
@pytest.mark.parametrize(("items", "pairs", "alike"), [(80, 1, 0.0), (40, 4, 0.8), (40, 4, 0.0)])
def test_the_first_interval_covers_the_true_accuracy(share: float, items: int, pairs: int, alike: float) -> None:
    correct = clustered(np.random.default_rng(1), share, items, pairs, alike)
    names = [str(item) for item in np.repeat(np.arange(items), pairs)]
    worth = effective_items(correct, names)
    low, high = wilson(correct.mean(axis=1) * worth, worth)
    assert 0.92 <= np.mean((low <= share) & (share <= high)) <= 0.98
    if alike:  # treating the pairs as items would not do
        low, high = wilson(correct.sum(axis=1), items * pairs)
        assert np.mean((low <= share) & (share <= high)) < 0.85


def test_items_of_one_pair_are_worth_one_each_and_constant_outcomes_the_number_of_items() -> None:
    correct = np.array([[1, 0, 1, 1], [1, 1, 1, 1]])
    assert effective_items(correct, ["a", "b", "c", "d"]).tolist() == [4, 4]
    assert effective_items(correct, ["a", "a", "b", "b"]).tolist() == [pytest.approx(3), 2]
    # Two items, all pairs of an item alike.
    assert effective_items(np.array([1, 1, 0, 0]), ["a", "a", "b", "b"]) == 2


@pytest.mark.parametrize("items", [8, 20])
def test_the_interval_of_a_difference_covers_it(items: int) -> None:
    generator = np.random.default_rng(2)
    for one, other in ((0.9, 0.6), (0.7, 0.7), (1.0, 0.8)):
        differences = (generator.random((4000, items)) < one) - 1.0 * (generator.random((4000, items)) < other)
        low, high = paired(differences, [str(item) for item in range(items)])
        assert np.mean((low <= one - other) & (one - other <= high)) >= 0.92


def test_the_interval_over_training_items_covers_the_mean_accuracy_over_training_sets() -> None:
    """In simulations on fixed test pairs. The percentile bootstrap of training and test pairs covers 99 to 100 %."""
    generator, covered, bootstrap = np.random.default_rng(3), [], []
    train, test, hidden = 60, 40, 30

    def differences(pairs: int) -> np.ndarray:
        return generator.standard_normal((pairs, hidden)) + 0.8 * (np.arange(hidden) == 0)

    for _ in range(80):
        tested = differences(test)
        others = [np.mean(tested @ differences(train).mean(axis=0) >= 0) for _ in range(60)]
        margins = tested @ differences(train).T
        signs = generator.choice([-1, 1], (train, 150))
        halves = np.mean(margins.sum(axis=1)[:, None] + margins @ signs >= 0, axis=0)
        low, high = over_training(np.mean(margins.sum(axis=1) >= 0), halves.std(), test)
        covered.append(low <= np.mean(others) <= high)
        drawn = (
            generator.multinomial(train, [1 / train] * train, 150),
            generator.multinomial(test, [1 / test] * test, 150),
        )
        both = np.sum(drawn[1] * (margins @ drawn[0].T >= 0).T, axis=1) / test
        bootstrap.append(np.quantile(both, 0.025) <= np.mean(others) <= np.quantile(both, 0.975))
    assert 0.9 <= np.mean(covered) <= 0.99
    assert np.mean(bootstrap) >= 0.98
