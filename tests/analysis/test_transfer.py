"""Transfer and the same-language table against golden numbers."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
from conftest import write_accuracies
from golden_subset import MODEL, accuracies, assert_agrees, expected

from repe.analysis.accuracy_table import same_language_table
from repe.analysis.layer_selection import PAPER, Selection
from repe.analysis.transfer import delta_draws, one_way_table, transfer_table, with_intervals
from repe.paper import FAMILIES, LANGUAGES
from repe.results.accuracy_file import AccuracyFile
from repe.uncertainty.bootstrap import accuracy_draws, bounds


def test_transfer_agrees_with_the_released_code() -> None:
    assert_agrees(transfer_table(MODEL, accuracies(), FAMILIES["bloomz"].axis), expected("transfer"))


def test_table_6_agrees_with_the_released_code() -> None:
    found = same_language_table({MODEL: accuracies()}, LANGUAGES)
    assert_agrees(found, expected("table6_recognition_accuracy"))


def test_a_source_that_is_better_than_the_target_itself_transfers() -> None:
    languages = LANGUAGES[:2]

    class File:
        accuracy: ClassVar = {
            "en": {"en": np.array([0.5, 0.9]), "fr": np.array([0.75, 0.7])},
            "fr": {"en": np.array([0.5, 0.5]), "fr": np.array([0.6, 0.5])},
        }

    found = transfer_table("m", {"a": File(), "b": File()}, languages).set_index(["source", "target"])
    assert found.accuracy["en", "fr"] == pytest.approx(0.75)
    assert found.delta["en", "fr"] == pytest.approx(0.15)
    assert found.delta["fr", "en"] == pytest.approx(-0.4)
    assert found.delta["en", "en"] == found.delta["fr", "fr"] == 0


def test_the_lowest_of_equally_good_layers_is_named() -> None:
    class File:
        accuracy: ClassVar = {"en": {"en": np.array([0.5, 0.9, 0.9])}}
        content: ClassVar = {"correct": {}}

    (found,) = same_language_table({"m": {"a": File()}}, ["en"]).to_dict("records")
    expected = {"concept": "a", "model": "m", "language": "en", "accuracy": 0.9, "best_layer": 2}
    assert {name: found[name] for name in expected} == expected
    # A download does not tell how many pairs there were.
    assert np.isnan(found["wilson_low"])
    assert pd.isna(found["test_pairs"])


def accuracy_files(folder: Path, languages: Sequence[str]) -> dict[str, AccuracyFile]:
    """Two concepts of thirty items, of which each language lacks one."""
    generator = np.random.default_rng(0)
    keys = {one: [f"g|{n}" for n in range(30) if n != place] for place, one in enumerate(languages)}
    return {
        concept: write_accuracies(
            folder,
            {s: {t: generator.integers(2, size=(3, 29)) for t in languages} for s in languages},
            keys,
            {s: {t: generator.random(3) for t in languages} for s in languages},
            concept=concept,
        )
        for concept in ("morality", "fairness")
    }


def test_one_way_transfer_is_the_difference_of_two_means_over_pairs(tmp_path: Path) -> None:
    languages, high = ["en", "ta", "fr", "sw"], {"en", "fr"}
    files = accuracy_files(tmp_path, languages)
    for selection in (PAPER, Selection("validation")):
        drawn = delta_draws(files, languages, selection, 200, seed=1)
        table = one_way_table("m", FAMILIES["bloomz"], files, languages, drawn, selection).set_index("concept")
        found = []
        for concept, file in files.items():
            delta = {}
            for s in languages:
                for t in languages:
                    own, other = (file.accuracy[one][t][selection.accuracy_layer(file, one, t)] for one in (t, s))
                    delta[s, t] = other - own
            down = np.mean([delta[s, t] for s in languages for t in languages if s in high and t not in high])
            up = np.mean([delta[s, t] for s in languages for t in languages if s not in high and t in high])
            found.append([down, up, down - up])
            assert table.loc[concept, ["high_to_low", "low_to_high", "one_way"]].tolist() == pytest.approx(found[-1])
        both = table.loc["all"]
        assert both[["high_to_low", "low_to_high", "one_way"]].tolist() == pytest.approx(np.mean(found, axis=0))
        assert (table.one_way_low < table.one_way).all()
        assert (table.one_way < table.one_way_high).all()
        widths = table.one_way_high - table.one_way_low
        assert widths["all"] < widths[["morality", "fairness"]].min()
        # Downloads have no draws: the same values without bounds.
        plain = one_way_table("m", FAMILIES["bloomz"], files, languages, selection=selection)
        assert plain.columns.tolist() == ["model", "concept", "high_to_low", "low_to_high", "one_way"]
        assert plain.equals(table.reset_index()[plain.columns])


def test_intervals_of_deltas(tmp_path: Path) -> None:
    languages = ["en", "fr", "zh"]
    files = accuracy_files(tmp_path, languages)
    table = transfer_table("m", files, languages)
    found = with_intervals(table, delta_draws(files, languages, PAPER, 400, seed=1))
    own = found.source == found.target
    assert (found[own][["delta_low", "delta_high"]] == 0).all().all()
    assert (found[~own].delta_low < found[~own].delta).all()
    assert (found[~own].delta < found[~own].delta_high).all()
    # The cells alone: the same draws, one concept after the other.
    cell = [accuracy_draws(file, [("fr", "en"), ("en", "en")], PAPER, 4000, seed=3) for file in files.values()]
    low, high = bounds(np.mean([one[:, 0] - one[:, 1] for one in cell], axis=0))
    row = found[(found.source == "fr") & (found.target == "en")].iloc[0]
    assert [row.delta_low, row.delta_high] == pytest.approx([low, high], abs=0.04)


def test_one_way_transfer_does_not_depend_on_the_order_of_the_languages(tmp_path: Path) -> None:
    languages = ["fr", "en", "zh"]
    files = accuracy_files(tmp_path, languages)
    named = replace(FAMILIES["none"], high_resource=("fr",))
    delta = transfer_table("m", files, languages).set_index(["source", "target"]).delta
    for order in (languages, languages[::-1]):
        drawn = delta_draws(files, order, PAPER, 20, seed=1)
        found = one_way_table("m", named, files, order, drawn)
        assert found.high_to_low.iloc[-1] == pytest.approx((delta["fr", "en"] + delta["fr", "zh"]) / 2)
        # Nothing is known of the first, and BLOOMZ's eight are all high-resource.
        for family in (FAMILIES["none"], FAMILIES["bloomz"]):
            found = one_way_table("m", family, files, order, drawn)
            assert found.drop(columns=["model", "concept"]).isna().all().all()
