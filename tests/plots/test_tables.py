"""LaTeX tables hold the numbers of the long form, in the paper's layout."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from repe.analysis.layer_selection import PAPER, Selection
from repe.plots import tables

VALIDATION = Selection("validation")


def cells_of(latex: str, row: str) -> list[float]:
    """Numbers of the rows that contain `row`, without the two columns of names."""
    lines = [line for line in latex.splitlines() if row in line and "&" in line]
    return [float(cell.replace("--", "nan")) for line in lines for cell in line.rstrip(" \\").split("&")[2:]]


def accuracy_table(accuracy: list[list[float]], model: str = "bloomz-560M") -> pd.DataFrame:
    """Table 6 in long form, from accuracies (concepts, languages)."""
    rows = [
        (concept, model, language, value, 1)
        for concept, values in zip(("morality", "fairness"), accuracy, strict=False)
        for language, value in zip(("en", "fr", "zh"), values, strict=True)
    ]
    return pd.DataFrame(rows, columns=["concept", "model", "language", "accuracy", "best_layer"])


def test_the_last_column_of_table_6_is_the_mean_over_languages(tmp_path: Path) -> None:
    """Mean and median differ, as do the concepts."""
    given = accuracy_table([[0.9, 0.5, 0.55], [0.61, 0.62, 0.93]])
    paths = tables.write_table6({PAPER: given}, tmp_path)
    assert [path.name for path in paths] == ["table6_recognition_accuracy.csv", "table6_recognition_accuracy.tex"]
    latex = paths[1].read_text()
    assert cells_of(latex, "560M") == [90, 50, 55, 65, 61, 62, 93, 72]
    assert [line for line in latex.splitlines() if "Avg" in line] == [r" &  & en & fr & zh & Avg \\"] * 2
    assert re.findall(r"\\caption{(.*?):", latex) == ["Morality", "Fairness"]
    pd.testing.assert_frame_equal(pd.read_csv(paths[0]), given)


def test_accuracies_on_the_edge_of_rounding_are_those_of_the_percentages(tmp_path: Path) -> None:
    """Percentages that end in .5 have exact sums: the mean is 61.75, not slightly less."""
    _, latex = tables.write_table6({PAPER: accuracy_table([[0.615, 0.615, 0.6225]])}, tmp_path)
    assert cells_of(latex.read_text(), "560M")[-1] == 61.8


@pytest.mark.parametrize("name", ["my_own-model", "bloomz-7B1"])
def test_models_of_the_registry_are_shown_by_name_and_size(name: str, tmp_path: Path) -> None:
    _, latex = tables.write_table6({PAPER: accuracy_table([[0.5, 0.5, 0.5]], name)}, tmp_path)
    first = r"my\_own-model &  " if name.startswith("my") else "bloomz & 7B1"
    assert any(line.startswith(first) for line in latex.read_text().splitlines())


def correlations(models: tuple[str, ...] = ("bloomz-560M", "bloomz-7B1")) -> pd.DataFrame:
    """Table 1 in long form, with numbers in the order of rows."""
    rows = [(model, distance) for model in models for distance in ("genetic", "geographic")]
    table = pd.DataFrame(rows, columns=["model", "distance"])
    numbers = np.arange(len(table)) / 100
    return table.assign(direct=numbers, direct_as_released=0.7, split=-numbers - 0.5)


def test_table_1_has_direct_and_split_of_each_distance_and_no_negative_zero(tmp_path: Path) -> None:
    table = correlations()
    table.loc[0, ["direct", "split"]] = [-0.001, np.nan]
    given = {PAPER: table, VALIDATION: table.assign(direct=0.11)}
    csv, latex, other = tables.write_table1(given, tmp_path)
    assert other.name == "table1_linguistic_correlation_validation.tex"
    text = latex.read_text()
    assert cells_of(text, "560M") == pytest.approx([0, np.nan, 0.01, -0.51], nan_ok=True)
    assert "-0.00" not in text
    assert cells_of(text, "7B1") == [0.02, -0.52, 0.03, -0.53]
    assert cells_of(other.read_text(), "7B1") == [0.11, -0.52, 0.11, -0.53]
    assert "best on validation pairs" in other.read_text()
    assert "validation" not in text
    assert pd.read_csv(csv).selected_direct.tolist() == [0.11] * 4


def test_the_repaired_table_shows_the_effect_on_those_distances_that_change(tmp_path: Path) -> None:
    table = correlations().assign(direct_recorded=0.0, split_recorded=0.0, direct_effect=0.0, split_effect=0.0)
    table.loc[3, "split_effect"] = 0.25
    csv, latex = tables.write_table1({PAPER: table}, tmp_path, repaired=True)
    assert csv.name == "table1_linguistic_correlation_repaired.csv"
    assert cells_of(latex.read_text(), "7B1") == [0.02, -0.52, 0.03, 0, -0.53, 0.25]
    assert r"Direct & Split & Direct & $\Delta$Direct & Split & $\Delta$Split" in latex.read_text()


def test_a_csv_keeps_every_digit_and_leaves_undefined_values_empty(tmp_path: Path) -> None:
    frame = pd.DataFrame({"model": ["m", "n"], "value": [1 / 3, np.nan]})
    (path,) = tables.write_csv(frame, tmp_path, "name")
    assert path.read_text() == f"model,value\nm,{1 / 3!r}\nn,\n"
