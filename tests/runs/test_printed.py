"""What stages print: the numbers of the tables, in few lines."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import write_accuracies
from scipy.stats import binomtest

from repe.analysis.accuracy_table import same_language_table
from repe.data import Pair
from repe.results.accuracy_file import AccuracyFile
from repe.runs import printed


def accuracies(folder: Path, languages: list[str], pairs: int, wrong: int = 0, model: str = "tiny") -> AccuracyFile:
    """All pairs but `wrong` are right in layer 2 of 4, none in the others."""
    correct = np.zeros((4, pairs))
    correct[1, wrong:] = 1
    keys = {language: [f"g|{number}" for number in range(pairs)] for language in languages}
    return write_accuracies(folder, {s: dict.fromkeys(languages, correct) for s in languages}, keys, model=model)


def test_a_row_has_accuracy_interval_layer_pairs_and_the_floor(tmp_path: Path) -> None:
    file = accuracies(tmp_path, ["en", "sv"], 5)
    floor = accuracies(tmp_path, ["en"], 5, wrong=2, model="tiny-untrained")
    lines = printed.accuracies({"morality": file}, {"morality": ["en", "sv"]}, {"morality": floor}).splitlines()
    expected = binomtest(5, 5).proportion_ci(method="wilson")
    assert lines[0].split("  ") == [
        *("morality", "en", "1.00", f"[{expected.low:.2f}, {expected.high:.2f}]", "layer 2 of 4", "5 pairs"),
        "(untrained 0.60)",
    ]
    assert lines[1].endswith("5 pairs")


def test_tables_have_honest_intervals_and_numbers_of_pairs(tmp_path: Path) -> None:
    file = accuracies(tmp_path, ["en"], 30, wrong=6)
    (row,) = same_language_table({"m": {"morality": file}}, ["en"]).to_dict("records")
    expected = binomtest(24, 30).proportion_ci(method="wilson")
    assert (row["wilson_low"], row["wilson_high"]) == pytest.approx((expected.low, expected.high))
    assert (row["test_items"], row["test_pairs"]) == (30, 30)


def test_pairs_of_one_item_count_for_fewer(tmp_path: Path) -> None:
    correct, items = np.array([[1, 1, 1, 0, 0, 1]]), [*"aaabbc"]
    file = write_accuracies(tmp_path, {"en": {"en": correct}}, {"en": [*"uvwxyz"]}, items={"en": items})
    (row,) = same_language_table({"m": {"morality": file}}, ["en"]).to_dict("records")
    independent = binomtest(4, 6).proportion_ci(method="wilson")
    assert row["wilson_low"] < independent.low < independent.high < row["wilson_high"]
    assert (row["test_items"], row["test_pairs"]) == (3, 6)


def test_many_sets_are_a_table_of_concepts_by_languages(tmp_path: Path) -> None:
    languages = [f"l{number}" for number in range(48)]
    file = accuracies(tmp_path, languages, 20, wrong=1)
    text = printed.accuracies({"morality": file}, {"morality": languages}, {})
    assert text.count("0.95") == 49  # and the mean
    assert len(text.splitlines()) < 12
    assert max(map(len, text.splitlines())) <= 120


def test_few_test_items_are_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for pairs, warned in ((19, True), (20, False)):
        file = accuracies(tmp_path / str(pairs), ["en"], pairs)
        printed.warn_of_few_items({"morality": file}, {"morality": ["en"]})
        assert ("fewer than 20 test items (19 of morality)" in capsys.readouterr().err) is warned


def test_a_split_beyond_80_percent_is_said() -> None:
    pairs = [Pair(str(number), "n") for number in range(24)]
    splits = {("politeness", language): (pairs[:19], pairs[19:]) for language in ("en", "sv")}
    assert printed.pairs(splits, 30.0).splitlines() == [
        "politeness  en sv  19 training pairs  5 test pairs",
        "--split 30 is more than 80 % of the pairs, the largest share that trains: 19 train",
    ]
    assert len(printed.pairs(splits, 19.0).splitlines()) == 1


def test_comparisons_print_their_values() -> None:
    rows = [(m, s, t) for m in ("a", "b") for s in ("en", "sv") for t in ("en", "sv")]
    table = pd.DataFrame(rows, columns=["model", "source", "target"]).assign(
        delta=[0, -0.125, 0.25, 0, 0, np.nan, np.nan, 0]
    )
    one = printed.between_languages(table[table.model == "a"], "delta", "delta")
    assert one.splitlines()[2].split() == ["en", "0.00", "-0.12"]
    several = printed.between_languages(table, "delta", "delta").splitlines()
    assert several[2].split() == ["a", "0.06", "-0.12", "en-sv", "0.25", "sv-en"]
    assert several[3].split() == ["b", *["--"] * 5]
