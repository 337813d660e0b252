"""Intervals over items: they cover what they should, because translations of an item are drawn together."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from conftest import write_accuracies
from scipy.stats import bootstrap as scipys_bootstrap

from repe.analysis.layer_selection import PAPER, Selection
from repe.errors import UserError
from repe.uncertainty.bootstrap import Outcomes, accuracy_draws, bounds, outcomes, weights

LANGUAGES = ("en", "fr", "zh", "es", "pt", "vi")


def own(languages: Sequence[str]) -> list[tuple[str, str]]:
    return [(language, language) for language in languages]


def interval_of_mean(found: Outcomes, drawn: np.ndarray) -> tuple[float, float]:
    """Of the mean accuracy over cells."""
    low, high = bounds(found.accuracies(drawn).mean(axis=1))
    return float(low), float(high)


def test_intervals_cover_at_their_rate_and_unclustered_ones_do_not() -> None:
    """Items that are hard in one language are hard in all; each language lacks some. The true mean is 0.7."""
    generator = np.random.default_rng(0)
    items, covered, naive = 90, [], []
    for _ in range(500):
        ease = generator.beta(1.4, 0.6, size=(items, 1))
        present = generator.random((items, 6)) < 0.9
        correct = present & (generator.random((items, 6)) < ease)
        found = Outcomes(correct.astype(np.float32), present.astype(np.float32))
        low, high = interval_of_mean(found, weights(items, 400, generator))
        covered.append(low <= 0.7 <= high)
        # Each language's pairs by themselves, as if translations were items of their own.
        apart = [
            Outcomes(found.correct[:, [place]], found.present[:, [place]]).accuracies(weights(items, 400, generator))
            for place in range(6)
        ]
        low, high = bounds(np.mean(apart, axis=0)[:, 0])
        naive.append(low <= 0.7 <= high)
    assert 0.93 <= np.mean(covered) <= 0.97
    assert np.mean(naive) < 0.85


def test_differences_of_languages_that_are_right_together_are_certain(tmp_path: Path) -> None:
    """Whatever the order of the pairs; and languages without a common item vary by themselves."""
    generator = np.random.default_rng(1)
    right = generator.integers(2, size=(1, 30), dtype=np.uint8)
    names = [f"g|{number}" for number in range(30)]
    order = generator.permutation(30)
    keys = {"en": names, "fr": [names[place] for place in order], "zh": [f"other|{name}" for name in names]}
    cells = {"en": right, "fr": right[:, order], "zh": right}
    file = write_accuracies(tmp_path, {language: {language: cell} for language, cell in cells.items()}, keys)
    en, fr, zh = accuracy_draws(file, own(keys), PAPER, 2000, seed=1).T
    assert np.array_equal(en, fr)
    assert en.std() > 0
    assert abs(np.corrcoef(en, zh)[0, 1]) < 0.1


def test_a_cell_alone_has_scipys_interval(tmp_path: Path) -> None:
    right = np.random.default_rng(2).integers(2, size=(1, 50), dtype=np.uint8)
    file = write_accuracies(tmp_path, {"en": {"en": right}}, {"en": [f"g|{number}" for number in range(50)]})
    low, high = bounds(accuracy_draws(file, own(["en"]), PAPER, 20000, seed=1))
    known = scipys_bootstrap(
        (right[0],), np.mean, n_resamples=20000, method="percentile", rng=np.random.default_rng(3)
    ).confidence_interval
    assert [low[0], high[0]] == pytest.approx([known.low, known.high], abs=0.011)  # half a pair


def test_every_item_once_gives_the_accuracies_of_the_file(tmp_path: Path) -> None:
    generator = np.random.default_rng(4)
    keys = {"en": [f"g|{n}" for n in range(12)], "fr": [f"g|{n}" for n in range(5, 20)]}
    correct = {s: {t: generator.integers(2, size=(3, len(keys[t]))) for t in keys} for s in keys}
    file = write_accuracies(tmp_path, correct, keys)
    cells = [(source, target) for source in keys for target in keys]
    for selection, at in ((PAPER, lambda row: row.max()), (Selection(2), lambda row: row[1])):
        found = outcomes(file, cells, selection)
        assert found.present.sum(axis=0).tolist() == [12, 15, 12, 15]
        ones = np.ones((1, len(found.present)), dtype=np.float32)
        expected = [at(file.accuracy[source][target]) for source, target in cells]
        assert found.accuracies(ones)[0] == pytest.approx(expected)


def test_pairs_of_one_item_are_drawn_together(tmp_path: Path) -> None:
    """Both pairs of `g|1` count, and a draw takes both or none."""
    items = {"en": ["g|0", "g|1", "g|1", "g|2"]}
    file = write_accuracies(tmp_path, {"en": {"en": np.array([[0, 1, 0, 1]])}}, {"en": [*"abcd"]}, items=items)
    found = outcomes(file, own(["en"]), PAPER)
    assert found.correct[:, 0].tolist() == [0, 1, 1]
    assert found.present[:, 0].tolist() == [1, 2, 1]
    assert found.accuracies(np.ones((1, 3), dtype=np.float32)).tolist() == [[0.5]]
    assert found.accuracies(np.array([[0, 3, 0], [1, 1, 0]], dtype=np.float32))[:, 0] == pytest.approx([1 / 2, 1 / 3])


def test_draws_are_the_same_again_and_others_with_another_seed(tmp_path: Path) -> None:
    right = np.random.default_rng(5).integers(2, size=(1, 30), dtype=np.uint8)
    file = write_accuracies(tmp_path, {"en": {"en": right}}, {"en": [f"g|{number}" for number in range(30)]})
    one, again, other = (accuracy_draws(file, own(["en"]), PAPER, 50, seed) for seed in (1, 1, 2))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


def test_every_draw_has_as_many_items() -> None:
    drawn = weights(7, 100, np.random.default_rng(6))
    assert (drawn.sum(axis=1) == 7).all()
    assert (drawn > 1).any()


def test_a_draw_without_a_languages_items_does_not_count() -> None:
    present = np.zeros((6, 2), dtype=np.float32)
    present[:, 0] = 1
    present[0, 1] = 1
    found = Outcomes(present.copy(), present)
    drawn = found.accuracies(weights(6, 200, np.random.default_rng(7)))
    assert np.isnan(drawn[:, 1]).any()
    assert [end.tolist() for end in bounds(drawn)] == [[1, 1], [1, 1]]
    assert np.isnan(bounds(np.full((5, 1), np.nan))).all()


def test_a_file_without_a_record_of_which_pairs_were_right_is_refused(tmp_path: Path) -> None:
    file = write_accuracies(tmp_path, {"en": {"en": np.ones((1, 4))}}, {"en": ["a|1", "a|2", "a|3", "a|4"]})
    with pytest.raises(UserError, match=r"acc\.pt has no record of which pairs were right of fr on en: .* both stages"):
        file.cell("correct", "fr", "en")
