"""Nulls of swapped labels against shuffles fitted one by one, and their level under swapped labels."""

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from repe.analysis.recognition import correct_pairs
from repe.data import Pair
from repe.uncertainty.permutation import holm
from repe.uncertainty.swaps import Training, nulls, summary, swap_signs, swapped
from repe.vectors.concept_vectors import ConceptVectors
from repe.vectors.readers import ClusterMeanRepReader

LAYERS, TRAIN, TEST, HIDDEN = 3, 24, 10, 8
PAIRS = [Pair("p", "n", key=f"g|{number}", item=f"act {number // 2}") for number in range(TRAIN)]
LABELS = torch.tensor([[True, False]] * TRAIN)


def drawn(seed: int, pairs: int, concept: float = 0.0) -> torch.Tensor:
    """States (layers, pairs, 2, hidden) of two sides that differ by `concept` along the first axis."""
    states = torch.randn(LAYERS, pairs, 2, HIDDEN, generator=torch.Generator().manual_seed(seed))
    states[:, :, 0, 0] += concept
    return states


def fitted(states: torch.Tensor, labels: torch.Tensor) -> ConceptVectors:
    return ConceptVectors(*ClusterMeanRepReader().fit(states, labels).stacked())


def test_swaps_equal_shuffles_fitted_and_tested_one_by_one() -> None:
    train, test = drawn(0, TRAIN, 0.5), drawn(1, TEST, 0.5)
    signs = swap_signs([pair.item for pair in PAIRS], "morality|1", swaps=100)
    null, halves, margins = swapped(test, Training.of(train, PAIRS), signs)
    for swap in range(100):
        labels = torch.where(torch.from_numpy(signs[swap] > 0)[:, None], LABELS, ~LABELS)
        correct = correct_pairs({"en": fitted(train, labels)}, test)["en"]
        assert np.array_equal(null[:, swap], correct.sum(axis=1))
        direction = torch.from_numpy(fitted(train, labels).directions[:, 0])
        margin = ((test[:, :, 0] - test[:, :, 1]) * TRAIN * direction[:, None]).sum(dim=-1).mean(dim=1)
        assert margins[:, 1 + swap] == pytest.approx(margin.numpy(), abs=1e-4)
        half = torch.from_numpy(signs[swap] > 0)
        correct = correct_pairs({"en": fitted(train[:, half], LABELS[half])}, test)["en"]
        assert np.array_equal(halves[:, swap], correct.sum(axis=1))


def test_the_summary_is_that_of_the_list_of_accuracies() -> None:
    generator = np.random.default_rng(0)
    null, halves = (generator.integers(0, TEST + 1, (LAYERS, 99)) for _ in range(2))
    correct = generator.random((LAYERS, TEST)) < 0.8
    margins = generator.standard_normal((LAYERS, 100))
    found = summary(null, halves, margins, correct, np.array([0.8, 1.0, 0.9]))
    best = null.max(axis=0) / TEST
    for layer, (drawn_ones, right) in enumerate(
        [*((null[one] / TEST, correct[one].mean()) for one in range(LAYERS)), (best, correct.mean(axis=1).max())]
    ):
        assert found["mean"][layer] == pytest.approx(np.mean(drawn_ones))
        assert [found["low"][layer], found["high"][layer]] == pytest.approx(np.percentile(drawn_ones, [2.5, 97.5]))
        assert found["p"][layer] == (1 + sum(value >= right - 1e-9 for value in drawn_ones)) / 100
    scaled = margins / np.sqrt((margins**2).mean(axis=1, keepdims=True))
    assert found["p_margin"][-1] == np.mean(scaled.max(axis=0) >= scaled[:, 0].max())
    assert found["training_accuracy"].tolist() == [0.8, 1.0, 0.9, 1.0]
    assert found["training_sd"][:-1] == pytest.approx((halves / TEST).std(axis=1))


def test_pairs_of_one_item_are_swapped_together_and_alike_in_all_languages() -> None:
    items = [pair.item for pair in PAIRS]
    signs = swap_signs(items, "morality|1")
    assert signs.shape == (1000, TRAIN)
    assert np.array_equal(signs[:, ::2], signs[:, 1::2])
    assert np.array_equal(swap_signs(items[10:4:-1], "morality|1"), signs[:, 10:4:-1])
    assert not np.array_equal(swap_signs(items, "fairness|1"), signs)
    # Fair coins, independent between items: sums of 12 items x 1,000 swaps.
    assert abs(signs[:, ::2].mean()) < 4 / np.sqrt(12_000)
    correlations = np.corrcoef(signs[:, ::2].T)[~np.eye(TRAIN // 2, dtype=bool)]
    assert abs(correlations).max() < 4.5 / np.sqrt(1000)


def test_under_swapped_labels_p_of_the_best_layer_is_uniform() -> None:
    test = drawn(2, 40, 1.0)
    values, margins = [], []
    for seed in range(150):
        turned = torch.rand(TRAIN, generator=torch.Generator().manual_seed(seed)) < 0.5
        states = drawn(1000 + seed, TRAIN, 1.0)
        states[:, turned] = states[:, turned].flip(2)
        training = Training.of(states, [Pair("p", "n", key=str(number)) for number in range(TRAIN)])
        correct = correct_pairs({"en": fitted(states, LABELS)}, test)
        found = nulls(test, {"en": training}, correct, f"{seed}", "en")["en"]
        values.append(found["p"][-1])
        margins.append(found["p_margin"][-1])
    # Ties of whole pairs make the test a little conservative: p is at least as large as a uniform one.
    for found in (values, margins):
        assert kstest(found, "uniform").pvalue > 0.01
        assert abs(np.mean(found) - 0.5) < 4 / np.sqrt(12 * len(found))


def test_a_concept_that_is_there_has_a_small_p() -> None:
    pairs = [Pair("p", "n", key=str(number)) for number in range(200)]
    train, test = drawn(3, 200, 1.0), drawn(4, 100, 1.0)
    correct = correct_pairs({"en": fitted(train, torch.tensor([[True, False]] * 200))}, test)
    found = nulls(test, {"en": Training.of(train, pairs)}, correct, "", "en")["en"]
    assert found["p"][-1] < 0.02
    assert holm(np.array([found["p_margin"][-1], *[0.5] * 111]))[0] < 0.05  # among the cells of seven concepts
    assert found["mean"][0] == pytest.approx(0.5, abs=0.05)
    # The best of three layers is better than one, also with swapped labels.
    assert found["mean"][-1] > found["mean"][:-1].max()


def test_small_p_values_of_own_vectors_are_those_of_all_swaps_and_others_of_the_first_thousand() -> None:
    pairs = [Pair("p", "n", key=str(number)) for number in range(200)]
    swaps = {}
    for concept in (0.0, 0.4):
        train, test = drawn(7, 200, concept), drawn(8, 100, concept)
        training = Training.of(train, pairs)
        correct = correct_pairs({"en": fitted(train, torch.tensor([[True, False]] * 200))}, test)
        found = nulls(test, {"en": training}, correct, "", "en")["en"]
        null, _, margins = swapped(test, training, swap_signs(training.items, "", 9999), 9999)
        reached = null.max(axis=0) >= correct["en"].sum(axis=1).max()
        counted = 9999 if reached[:1000].sum() < 9 else 1000
        swaps[concept] = counted
        assert found["p"][-1] == pytest.approx((1 + reached[:counted].sum()) / (1 + counted))
        scaled = (margins / np.sqrt((margins**2).mean(axis=1, keepdims=True))).max(axis=0)
        assert found["p_margin"][-1] == pytest.approx((scaled >= scaled[0] - 1e-9).mean())
        other = nulls(test, {"en": training}, correct, "", "fr")["en"]
        assert other["p"][-1] == pytest.approx((1 + reached[:1000].sum()) / 1001)
    assert swaps == {0.0: 1000, 0.4: 9999}


def test_with_few_items_swaps_that_change_nothing_count() -> None:
    train = drawn(5, 6, 4.0)
    correct = correct_pairs({"en": fitted(train, torch.tensor([[True, False]] * 6))}, drawn(6, 30, 4.0))
    training = Training.of(train, [Pair("p", "n", key=str(number)) for number in range(6)])
    found = nulls(drawn(6, 30, 4.0), {"en": training}, correct, "", "en")["en"]
    # One of the 64 ways to swap six items is the data themselves, and is drawn about 156 times.
    assert found["p_margin"][-1] == pytest.approx(1 / 64, abs=0.004)


def test_holm_over_languages_that_share_items_keeps_the_family_wise_error() -> None:
    pairs, draws, languages, smallest = [Pair("p", "n", key=str(number)) for number in range(TRAIN)], 40, 8, []
    for draw in range(draws):
        generator = torch.Generator().manual_seed(draw)
        turned = torch.rand(TRAIN, generator=generator) < 0.5  # the same items in all languages
        shared, values = drawn(50_000 + draw, TRAIN, 1.0), []
        for language in range(languages):
            seed = languages * draw + language
            states, test = shared + 2 * drawn(seed, TRAIN), drawn(90_000 + seed, TEST, 1.0)
            states[:, turned] = states[:, turned].flip(2)
            correct = correct_pairs({"en": fitted(states, LABELS)}, test)
            found = nulls(test, {"en": Training.of(states, pairs)}, correct, f"{draw}", "other")["en"]
            values.append(found["p_margin"][-1])
        smallest.append((min(values), holm(np.array(values)).min()))
    uncorrected, corrected = (np.array(smallest) <= 0.05).sum(axis=0)
    assert corrected <= 6 < uncorrected  # at most 5 % of 40, with its sampling error (one in a hundred)
