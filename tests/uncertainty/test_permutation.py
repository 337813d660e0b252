"""Tests by permutation against enumeration, scikit-bio, published examples, and their level in simulations."""

import itertools
import math

import numpy as np
import pytest
from scipy.stats import binom, kstest, pearsonr

from repe.uncertainty.permutation import better_than, holm, mantel, orders, pearson

ALL_PAIRS = ~np.eye(3, dtype=bool)


def swaps(count: int, items: int, generator: np.random.Generator) -> np.ndarray:
    return generator.integers(2, size=(count, items), dtype=np.int8)


def outcomes(
    generator: np.random.Generator, layers: int, items: int, skill: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Two runs on items that are hard or easy for both; layers of a run are alike; `skill` helps the first one."""
    difficulty = generator.normal(size=items)
    runs = []
    for help_ in (skill, 0.0):
        noise = generator.normal(size=items) + 0.5 * generator.normal(size=(layers, items))
        runs.append((help_ + difficulty + noise > 0).astype(np.uint8))
    return runs[0], runs[1]


# Vectors against random ones


def test_the_paired_test_enumerated() -> None:
    """All 2^6 exchanges of whole items, done by hand."""
    generator = np.random.default_rng(0)
    one, other = outcomes(generator, 3, 6, skill=1.0)
    every = np.array([*itertools.product((0, 1), repeat=6)], dtype=np.int8)
    found = []
    for exchange in every:
        a, b = one.astype(int).copy(), other.astype(int).copy()
        for item in range(6):
            if exchange[item]:
                a[:, item], b[:, item] = b[:, item].copy(), a[:, item].copy()
        found.append(a.sum(1).max() - b.sum(1).max())
    observed = int(one.sum(1).max()) - int(other.sum(1).max())
    assert observed == found[0]
    assert better_than(one, other, every) == (1 + sum(value >= observed for value in found)) / 65


def test_without_an_effect_p_values_are_even() -> None:
    generator = np.random.default_rng(1)
    found = [better_than(*outcomes(generator, layers=5, items=150), swaps(199, 150, generator)) for _ in range(400)]
    assert kstest(found, "uniform").pvalue > 0.01
    assert np.mean(np.array(found) <= 0.05) <= binom.ppf(0.999, 400, 0.05) / 400


def test_the_choice_of_the_best_layer_is_part_of_the_test() -> None:
    """Choosing the layer of the vectors on the items that are then tested, as if it were given, finds what is not."""
    generator = np.random.default_rng(2)
    honest, naive = [], []
    for _ in range(300):
        one, other = (generator.integers(2, size=(12, 60), dtype=np.uint8) for _ in range(2))
        exchanges = swaps(99, 60, generator)
        best = one.sum(axis=1).argmax()
        honest.append(better_than(one, other, exchanges))
        naive.append(better_than(one[[best]], other[[best]], exchanges))
    assert np.mean(np.array(honest) <= 0.05) <= binom.ppf(0.999, 300, 0.05) / 300
    assert np.mean(np.array(naive) <= 0.05) > 0.12


def test_a_full_effect_has_the_smallest_p_value_and_the_reverse_the_largest() -> None:
    right, wrong = np.ones((2, 40), dtype=np.uint8), np.zeros((2, 40), dtype=np.uint8)
    exchanges = swaps(999, 40, np.random.default_rng(3))
    assert better_than(right, wrong, exchanges) == 1 / 1000
    assert better_than(wrong, right, exchanges) == 1
    assert better_than(right, right, exchanges) == 1


def test_outcomes_of_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="have different shapes"):
        better_than(np.ones((2, 4)), np.ones((3, 4)), np.zeros((1, 4)))


# Mantel


def symmetric(generator: np.random.Generator, size: int) -> np.ndarray:
    half = np.triu(generator.random((size, size)), 1)
    return half + half.T


def different(size: int) -> np.ndarray:
    return ~np.eye(size, dtype=bool)


def enumerated(square: np.ndarray, other: np.ndarray, parts: list[np.ndarray], strata: list[int]) -> float:
    """By scipy's Pearson's r over every order that leaves languages in their strata."""
    sizes = []
    for order in itertools.permutations(range(len(square))):
        if [strata[place] for place in order] == strata:
            moved = square[np.ix_(order, order)]
            known = [part & np.isfinite(other) for part in parts]
            sizes.append(abs(np.mean([pearsonr(moved[part], other[part]).statistic for part in known])))
    return float(np.mean(np.array(sizes) >= sizes[0] - 1e-12))


def test_mantel_is_what_enumeration_gives() -> None:
    generator = np.random.default_rng(4)
    for size in (4, 5):
        square, other = symmetric(generator, size), symmetric(generator, size)
        every = orders([0] * size, 9999, generator)
        assert len(every) == math.factorial(size)
        assert mantel(square, other, [different(size)], every) == enumerated(
            square, other, [different(size)], [0] * size
        )


def test_mantel_with_distances_that_are_missing_is_what_enumeration_gives() -> None:
    generator = np.random.default_rng(5)
    square, other = symmetric(generator, 5), symmetric(generator, 5)
    other[0, 1:3] = other[1:3, 0] = np.nan
    every = orders([0] * 5, 9999, generator)
    assert mantel(square, other, [different(5)], every) == enumerated(square, other, [different(5)], [0] * 5)


def test_split_moves_languages_among_their_own_kind() -> None:
    generator = np.random.default_rng(6)
    strata = [1, 0, 1, 0, 0, 0]
    high = np.array(strata, dtype=bool)
    with_high = different(6) & (high[:, None] | high)
    parts = [with_high, different(6) & ~with_high]
    every = orders(strata, 9999, generator)
    assert len(every) == math.factorial(2) * math.factorial(4)
    assert len({tuple(order) for order in every}) == len(every)
    square, other = symmetric(generator, 6), symmetric(generator, 6)
    assert mantel(square, other, parts, every) == enumerated(square, other, parts, strata)


def test_random_orders_begin_with_the_given_one_and_stay_in_their_strata() -> None:
    strata = ["a", "b", "a", "b", "b", "b", "b", "b", "b", "b"]
    found = orders(strata, 500, np.random.default_rng(7))
    assert found.shape == (501, 10)
    assert found[0].tolist() == list(range(10))
    assert (np.sort(found, axis=1) == np.arange(10)).all()
    assert all([strata[place] for place in order] == strata for order in found)
    # Each of the eight is as often in each of their places.
    counts = np.array([(found[1:, 1] == place).sum() for place in (1, 3, 4, 5, 6, 7, 8, 9)])
    assert ((counts > 35) & (counts < 95)).all()


def test_mantel_agrees_with_scikit_bio() -> None:
    """The example of its documentation, and distances of ten points with 99,999 permutations (version 0.7.4)."""
    x, y = np.array([[0, 1, 2], [1, 0, 3], [2, 3, 0]]), np.array([[0, 2, 7], [2, 0, 6], [7, 6, 0]])
    every = orders([0] * 3, 999, np.random.default_rng(0))
    assert pearson(x[ALL_PAIRS][None].astype(float), y[ALL_PAIRS].astype(float)) == pytest.approx([0.7559289460])
    assert mantel(x, y, [ALL_PAIRS], every) == 4 / 6  # 0.669 with 9,999 random ones
    generator = np.random.default_rng(7)
    a = generator.random((10, 3))
    b = a + generator.normal(size=(10, 3)) * 0.35
    one, other = (np.round(np.linalg.norm(points[:, None] - points, axis=-1), 6) for points in (a, b))
    permuted = orders([0] * 10, 9999, np.random.default_rng(0))
    assert mantel(one, other, [different(10)], permuted) == pytest.approx((0.0769 + 0.07631 + 0.0741) / 3, abs=0.008)


def effects(generator: np.random.Generator, size: int) -> np.ndarray:
    """Similarities that differ by language, as those of vectors do: pairs that share a language are alike."""
    own = generator.normal(size=size)
    return own[:, None] + own + 0.5 * symmetric(generator, size)


def test_without_an_effect_mantels_p_values_are_even_and_pearsons_are_not() -> None:
    generator = np.random.default_rng(8)
    ours, naive = [], []
    for _ in range(400):
        one, other = effects(generator, 9), effects(generator, 9)
        ours.append(mantel(one, other, [different(9)], orders([0] * 9, 99, generator)))
        naive.append(pearsonr(one[different(9)], other[different(9)]).pvalue)
    # Of a hundred steps: spread over them, so that the values are continuous.
    spread = np.array(ours) - generator.random(400) / 100
    assert kstest(spread, "uniform").pvalue > 0.01
    assert np.mean(np.array(naive) <= 0.05) > 0.2


def test_the_split_has_its_level_where_kinds_of_languages_differ() -> None:
    """Rich languages are alike in vectors and in grammar, but not for a reason within the kinds."""
    generator = np.random.default_rng(9)
    strata = [1] * 4 + [0] * 5
    high = np.array(strata, dtype=bool)
    with_high = different(9) & (high[:, None] | high)
    parts = [with_high, different(9) & ~with_high]
    within, across = [], []
    for _ in range(300):
        one, other = (symmetric(generator, 9) + 2 * (high[:, None] & high) for _ in range(2))
        within.append(mantel(one, other, parts, orders(strata, 99, generator)))
        across.append(mantel(one, other, parts, orders([0] * 9, 99, generator)))
    assert kstest(np.array(within) - generator.random(300) / 100, "uniform").pvalue > 0.01
    assert np.mean(np.array(across) <= 0.05) > 0.2


def test_equal_matrices_have_the_smallest_p_value() -> None:
    generator = np.random.default_rng(10)
    square = symmetric(generator, 5)
    for sign in (1, -1):  # two-sided
        assert mantel(sign * square, square, [different(5)], orders([0] * 5, 9999, generator)) == 1 / 120
    square = symmetric(generator, 9)
    assert mantel(square, square, [different(9)], orders([0] * 9, 999, generator)) == 1 / 1000


def test_an_undefined_correlation_has_no_p_value() -> None:
    generator = np.random.default_rng(11)
    square = symmetric(generator, 4)
    every = orders([0] * 4, 99, generator)
    assert math.isnan(mantel(square, np.ones((4, 4)), [different(4)], every))
    assert math.isnan(mantel(square, np.full((4, 4), np.nan), [different(4)], every))
    assert math.isnan(mantel(square, square, [different(4), np.zeros((4, 4), dtype=bool)], every))


def test_pearsons_r_is_scipys_over_known_entries() -> None:
    generator = np.random.default_rng(12)
    rows, values = generator.random((20, 30)) * 1e-3 + 5, generator.random(30) + 100
    rows[generator.random(rows.shape) < 0.2] = np.nan
    values[3] = np.nan
    found = pearson(rows, values)
    for row, r in zip(rows, found, strict=True):
        known = np.isfinite(row) & np.isfinite(values)
        assert r == pytest.approx(pearsonr(row[known], values[known]).statistic, abs=1e-9)
    both = [1, 2, np.nan, 4, 5], [2, 4, 9, np.nan, 10.0]
    assert pearson(*map(np.array, both)) == pytest.approx(1)


@pytest.mark.parametrize(
    ("x", "y"),
    [([0.3] * 5, [0, 1, 2, 3, 4]), ([0.1, 0.2], [0.7, 0.7]), ([0.1, np.nan], [0.5, 0.7]), ([np.nan] * 2, [0.5, 0.7])],
    ids=["constant", "constant", "one known pair", "no known pair"],
)
def test_pearsons_r_of_constants_or_of_fewer_than_two_pairs_is_undefined(x: list[float], y: list[float]) -> None:
    assert np.isnan(pearson(np.array(x), np.array(y)))
    assert np.isnan(pearson(np.array(y), np.array(x)))


def test_pearsons_r_does_not_leave_its_range_and_keeps_its_digits() -> None:
    generator = np.random.default_rng(13)
    x = generator.random((50, 132))
    x[:25] = x[25:] * generator.random((25, 1)) + 7
    rs = pearson(x[:25], x[25:])
    assert rs.max() <= 1
    assert rs == pytest.approx(np.ones(25), abs=1e-12)
    values = generator.random(132)
    assert pearson(x, values) == pytest.approx([np.corrcoef(row, values)[0, 1] for row in x], abs=1e-13)


# Holm


def test_holm_by_worked_examples() -> None:
    # Both as R's p.adjust(..., "holm") and statsmodels' multipletests(..., method="holm") give them.
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    seven = np.array([0.01, 0.04, 0.03, 0.005, 0.2, 0.6, 0.04])
    assert holm(seven) == pytest.approx([0.06, 0.16, 0.15, 0.035, 0.4, 0.6, 0.16])


def test_holm_keeps_shapes_and_does_not_count_what_is_undefined() -> None:
    square = np.array([[0.01, np.nan], [0.04, 0.5]])
    np.testing.assert_allclose(holm(square), [[0.03, np.nan], [0.08, 0.5]])
    assert holm(np.array([0.9, 0.8])) == pytest.approx([1, 1])
    assert np.isnan(holm(np.array([np.nan]))).all()
