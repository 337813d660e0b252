"""Intervals and p-values of Table 6, end to end from files of known outcomes."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import write_accuracies

from repe.analysis import accuracy_table
from repe.analysis.accuracy_table import same_language_table
from repe.analysis.layer_selection import PAPER, Selection
from repe.errors import UserError
from repe.paper import FAMILIES
from repe.plots import figures
from repe.results.accuracy_file import AccuracyFile
from repe.results.result_file import Kind
from repe.uncertainty.permutation import better_than, holm

LANGUAGES = ["en", "fr"]
NAMES = {"en": [f"g|{number}" for number in range(40)], "fr": [f"g|{number}" for number in range(10, 45)]}
RANDOM = Kind(random_direction=True)
Files = dict[str, dict[str, AccuracyFile]]


def files(folder: Path, skill: float, seed: int, kind: Kind = Kind()) -> Files:  # noqa: B008
    """Two models, two concepts, three layers; pairs are right with the probability `skill` in the first model."""
    generator = np.random.default_rng(seed)
    found: Files = {}
    for model, chance in (("first", skill), ("second", 0.5)):
        for concept in ("morality", "fairness"):
            correct = {one: {one: generator.random((3, len(NAMES[one]))) < chance} for one in LANGUAGES}
            validation = {one: {one: generator.random(3)} for one in LANGUAGES}
            file = write_accuracies(folder, correct, NAMES, validation, model=model, concept=concept, kind=kind)
            found.setdefault(model, {})[concept] = file
    return found


def test_intervals_of_cells_and_means(tmp_path: Path) -> None:
    given = files(tmp_path, 0.9, 0)
    for selection in (PAPER, Selection("validation")):
        table = accuracy_table.interval_table(given, LANGUAGES, selection, draws=500, seed=1)
        cells = same_language_table(given, LANGUAGES, selection)
        assert len(table) == 2 * 3 * 3
        indexed = table.set_index(["concept", "model", "language"])
        for row in cells.itertuples():
            assert indexed.accuracy[row.concept, row.model, row.language] == row.accuracy
        means = cells.groupby(["model", "concept"]).accuracy.mean()
        for (model, concept), value in means.items():
            assert indexed.accuracy[concept, model, "all"] == pytest.approx(value)
        for (model, language), value in cells.groupby(["model", "language"]).accuracy.mean().items():
            assert indexed.accuracy["all", model, language] == pytest.approx(value)
        for model, value in means.groupby("model").mean().items():
            assert indexed.accuracy["all", model, "all"] == pytest.approx(value)
        assert (table.accuracy_low < table.accuracy).all()
        assert (table.accuracy < table.accuracy_high).all()
        width = indexed.accuracy_high - indexed.accuracy_low
        # Concepts have items of their own: the mean of two is surer than each.
        assert width["all", "second", "en"] < 0.9 * min(
            width["morality", "second", "en"], width["fairness", "second", "en"]
        )
        with_bounds = accuracy_table.with_intervals(cells, table)
        assert [*with_bounds.columns] == [*cells.columns, "accuracy_low", "accuracy_high"]
        assert with_bounds.accuracy_low.tolist() == [
            indexed.accuracy_low[row.concept, row.model, row.language] for row in cells.itertuples()
        ]


def test_the_mean_over_languages_is_no_surer_than_its_items(tmp_path: Path) -> None:
    """Two languages that are right together on the same items tell no more than one."""
    right = np.random.default_rng(2).integers(2, size=(1, 40))
    keys = dict.fromkeys(LANGUAGES, NAMES["en"])
    file = write_accuracies(tmp_path, {one: {one: right} for one in LANGUAGES}, keys)
    table = accuracy_table.interval_table({"tiny": {"morality": file}}, LANGUAGES, PAPER, draws=300, seed=1)
    assert table[["accuracy_low", "accuracy_high"]].drop_duplicates().shape == (1, 2)


def test_p_values_are_those_of_the_paired_test_and_corrected_by_model(tmp_path: Path) -> None:
    given, random = files(tmp_path, 1.0, 0), files(tmp_path, 0.5, 1, RANDOM)
    table = accuracy_table.with_p_values(same_language_table(given, LANGUAGES), given, random, PAPER, 499, seed=1)
    first, second = table[table.model == "first"], table[table.model == "second"]
    assert (first.p == 1 / 500).all()
    assert (first.p_holm == 4 / 500).all()
    assert second.p_holm.tolist() == pytest.approx(holm(second.p.to_numpy()))
    assert (second.p > 0.02).all()
    for row in table.itertuples():
        file, other = given[row.model][row.concept], random[row.model][row.concept]
        assert row.random_accuracy == other.accuracy[row.language][row.language].max()
        one, two = (each.cell("correct", row.language, row.language) for each in (file, other))
        swaps = np.random.default_rng(9).integers(2, size=(4999, one.shape[1]))
        assert row.p == pytest.approx(better_than(one, two, swaps), abs=0.09)


def test_by_validation_each_run_has_its_own_layer(tmp_path: Path) -> None:
    """The first layer is chosen of the one, the last of the other; only there is the difference full."""
    right, wrong = np.ones((1, 40)), np.zeros((1, 40))
    keys = {"en": NAMES["en"]}
    one = write_accuracies(tmp_path, {"en": {"en": np.vstack([right, wrong])}}, keys, {"en": {"en": [0.9, 0.1]}})
    other = write_accuracies(
        tmp_path, {"en": {"en": np.vstack([right, wrong])}}, keys, {"en": {"en": [0.1, 0.9]}}, kind=RANDOM
    )
    given, random = {"tiny": {"morality": one}}, {"tiny": {"morality": other}}
    for selection, accuracy, p in ((PAPER, 1, 1), (Selection("validation"), 0, 1 / 200), (Selection(1), 1, 1)):
        table = same_language_table(given, ["en"], selection)
        found = accuracy_table.with_p_values(table, given, random, selection, 199, seed=1)
        assert found[["random_accuracy", "p", "p_holm"]].to_numpy().tolist() == [[accuracy, p, p]]


def test_runs_on_other_pairs_are_refused(tmp_path: Path) -> None:
    right = {"en": {"en": np.ones((1, 3))}}
    one = write_accuracies(tmp_path, right, {"en": ["a|1", "a|2", "a|3"]})
    other = write_accuracies(tmp_path, right, {"en": ["a|1", "a|2", "a|4"]}, kind=RANDOM)
    given, random = {"tiny": {"morality": one}}, {"tiny": {"morality": other}}
    table = same_language_table(given, ["en"])
    with pytest.raises(UserError, match=r"random_direction_acc\.pt and acc\.pt were tested on different pairs of en"):
        accuracy_table.with_p_values(table, given, random, PAPER, 9, seed=1)


def test_averages_are_over_known_values_and_come_last() -> None:
    generator = np.random.default_rng(3)
    rows = [(concept, model, language) for concept in "ba" for model in "nm" for language in ("fr", "en", "zh")]
    table = pd.DataFrame(rows, columns=["concept", "model", "language"]).assign(accuracy=generator.random(12))
    table.loc[4, "accuracy"] = np.nan
    found = accuracy_table.with_averages(table)
    assert found.model.tolist() == ["n"] * 12 + ["m"] * 12
    assert found.concept[:12].tolist() == [concept for concept in ("b", "a", "all") for _ in range(4)]
    assert found.language.tolist() == ["fr", "en", "zh", "all"] * 6
    for row in found.itertuples():
        parts = [("concept", row.concept), ("model", row.model), ("language", row.language)]
        cells = table[np.all([(table[name] == value) | (value == "all") for name, value in parts], axis=0)]
        assert row.accuracy == pytest.approx(cells.accuracy.mean(), nan_ok=True)
    bars = accuracy_table.of_figure2(found)
    assert bars[["concept", "language"]].drop_duplicates().to_numpy().tolist() == [
        ["all", language] for language in ("fr", "en", "zh")
    ]


def test_figure_2_shows_the_intervals_of_its_bars() -> None:
    bars = pd.DataFrame([(m, one) for m in "mn" for one in ("en", "fr")], columns=["model", "language"])
    bars = bars.assign(accuracy=0.7, accuracy_low=[0.55, 0.2, 0.65, 0.6], accuracy_high=[0.85, 0.8, 0.95, 0.9])
    figure = figures.recognition_bars(bars, dict.fromkeys("mn", FAMILIES["none"]))
    axes = figure.axes[0]
    drawn = [[line[:, 1].tolist() for line in one.get_segments()] for one in axes.collections if one.get_zorder() == 3]
    assert drawn == [[[0.55, 0.85], [0.2, 0.8]], [[0.65, 0.95], [0.6, 0.9]]]
    places = [line[0, 0] for one in axes.collections if one.get_zorder() == 3 for line in one.get_segments()]
    centres = [bar.get_x() + bar.get_width() / 2 for group in axes.containers for bar in group]
    assert places == pytest.approx(centres)
    assert axes.get_ylim()[0] <= 0.2
