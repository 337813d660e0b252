"""Layers chosen on the test set, on validation pairs, or beforehand."""

import shutil
from argparse import ArgumentTypeError
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import Ended, write_accuracies
from golden_subset import accuracies, vectors

from repe.analysis import consistency
from repe.analysis.accuracy_table import same_language_table
from repe.analysis.layer_selection import PAPER, Selection, accuracy_at, selections, side_by_side
from repe.errors import UserError
from repe.paper import CONCEPTS, LANGUAGES
from repe.results.accuracy_file import AccuracyFile
from repe.results.result_file import Kind
from repe.results.vector_file import VectorFile
from repe.runs.arguments import layer_select

KEYS = {"en": ["g|0", "g|1", "g|2", "g|3"], "fr": ["g|0", "g|1", "g|2", "g|3"]}


def made(folder: Path) -> AccuracyFile:
    """Two languages, four layers; best and validation layers differ in every cell, with ties."""
    generator = np.random.default_rng(0)
    correct = {source: {target: generator.integers(2, size=(4, 4)) for target in KEYS} for source in KEYS}
    validation = {
        "en": {"en": [0.5, 0.7, 0.7, 0.1], "fr": [0.9, 0.1, 0.2, 0.9]},
        "fr": {"en": [0.0, 0.0, 0.0, 0.1], "fr": [0.2, 0.3, 1.0, 1.0]},
    }
    return write_accuracies(folder, correct, KEYS, validation)


def test_the_papers_choice_is_the_best_on_the_test_set() -> None:
    for file in accuracies().values():
        expected = [[file.accuracy[i][j].max() for j in LANGUAGES] for i in LANGUAGES]
        assert np.array_equal(accuracy_at(file, LANGUAGES, LANGUAGES), expected)


def test_validation_chooses_by_cell_and_the_lowest_of_equals(tmp_path: Path) -> None:
    file = made(tmp_path)
    chosen = {("en", "en"): 1, ("en", "fr"): 0, ("fr", "en"): 3, ("fr", "fr"): 2}
    selection = Selection("validation")
    assert {cell: selection.accuracy_layer(file, *cell) for cell in chosen} == chosen
    expected = [[file.accuracy[i][j][chosen[i, j]] for j in KEYS] for i in KEYS]
    assert np.array_equal(accuracy_at(file, [*KEYS], [*KEYS], selection), expected)
    table = same_language_table({"tiny": {"morality": file}}, [*KEYS], selection)
    assert table.best_layer.tolist() == [2, 3]
    assert table.accuracy.tolist() == [expected[0][0], expected[1][1]]


@pytest.mark.parametrize(
    ("by", "layer"), [(1, 0), (4, 3), (0.0, 0), (0.5, 2), (0.99, 3), (0.3, 1), (0.125, 0), (0.4, 2)]
)
def test_a_layer_by_number_or_nearest_relative_depth(by: float, layer: int, tmp_path: Path) -> None:
    """Relative depths are 0, 1/4, 1/2, 3/4, as in similarity_by_layer.csv."""
    assert Selection(by).accuracy_layer(made(tmp_path), "en", "fr") == layer


def test_a_layer_that_a_model_does_not_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--layer-select 5: .*tiny has only 4 layers; choose one of them"):
        Selection(5).accuracy_layer(made(tmp_path), "en", "en")


def test_a_file_without_validation_is_refused(tmp_path: Path) -> None:
    file = write_accuracies(tmp_path, {"en": {"en": np.ones((2, 4))}}, {"en": KEYS["en"]})
    with pytest.raises(UserError, match=r"acc\.pt has no validation accuracy of en on en: .* without --no-validation"):
        Selection("validation").accuracy_layer(file, "en", "en")


def test_similarity_takes_a_layer_that_is_good_for_both_languages(tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    cosine = generator.uniform(-1, 1, size=(2, 4, 2, 2))
    files, own = {}, np.round(generator.random((2, 2, 4)), 1)
    for place, concept in enumerate(("morality", "fairness")):
        validation = {one: {one: own[place, number]} for number, one in enumerate(KEYS)}
        correct = {one: {one: np.ones((4, 4))} for one in KEYS}
        write_accuracies(tmp_path, correct, KEYS, validation, concept=concept)
        files[concept] = VectorFile(tmp_path, "tiny", concept, Kind())
    found = Selection("validation").similarity_layers(cosine, files, [*KEYS])
    for concept in range(2):
        for i in range(2):
            for j in range(2):
                means = [own[concept, i, layer] + own[concept, j, layer] for layer in range(4)]
                assert found[concept, i, j] == means.index(max(means))
    similarity = consistency.best_layer_similarity(cosine, found)
    assert similarity[0, 1] == pytest.approx(np.mean([cosine[c, found[c, 0, 1], 0, 1] for c in range(2)]))
    assert (Selection(3).similarity_layers(cosine, files, [*KEYS]) == 2).all()


def test_the_most_similar_layer_is_that_of_the_paper() -> None:
    cosine = consistency.cosines(vectors(), LANGUAGES)
    layers = PAPER.similarity_layers(cosine, vectors(), LANGUAGES)
    assert np.array_equal(consistency.best_layer_similarity(cosine, layers), consistency.best_layer_similarity(cosine))


def test_tables_stand_side_by_side() -> None:
    one = pd.DataFrame({"concept": ["a"], "model": ["m"], "accuracy": [0.9], "best_layer": [3], "p": [0.1]})
    other = one.assign(accuracy=0.8, best_layer=2, p=0.3)
    columns = ["concept", "model", "accuracy", "best_layer", "p", "selected_accuracy", "selected_layer", "selected_p"]
    found = side_by_side({PAPER: one, Selection("validation"): other})
    assert [*found.columns] == columns
    assert found.loc[0, columns[2:]].tolist() == [0.9, 3, 0.1, 0.8, 2, 0.3]
    pd.testing.assert_frame_equal(side_by_side({PAPER: one}), one)


@pytest.mark.parametrize(
    ("text", "suffix"), [("best", ""), ("validation", "_validation"), ("12", "_layer12"), ("0.5", "_depth0.5")]
)
def test_the_selection_of_the_option_is_beside_the_papers_with_a_suffix(text: str, suffix: str) -> None:
    chosen = selections(layer_select(text))
    assert chosen[0] == PAPER
    assert [one.suffix for one in chosen] == list(dict.fromkeys(["", suffix]))
    assert selections(0.0)[1].suffix == "_depth0"


@pytest.mark.parametrize("text", ["0", "x", "-1", "1.5"])
def test_other_values_of_the_option_are_refused(text: str) -> None:
    with pytest.raises(ArgumentTypeError):
        layer_select(text)


def test_downloads_are_refused_by_name(script: Callable[..., Ended], golden: Path, tmp_path: Path) -> None:
    for concept in CONCEPTS[:2]:
        shutil.copytree(golden / "released_run/res/bloomz-560M" / concept, tmp_path / "bloomz-560M" / concept)
    options = ["--res-dir", tmp_path, "--cross-model", "bloomz-560M", "--lang", "en", "fr"]
    for name in ("recognize_concept", "consistency_analysis", "transferability_analysis"):
        ended = script(name, *options, "--layer-select", "validation")
        assert ended.status == 2
        assert ended.err.count("\n") == 1
        assert "morality/acc.pk has no validation accuracy of en on en: it has accuracies only" in ended.err
        ended = script(name, *options, "--layer-select", "99")
        assert ended.status == 2
        assert "bloomz-560M has only 24 layers; choose one of them, or a relative depth" in ended.err
    for name in ("recognize_concept", "transferability_analysis"):
        ended = script(name, *options, "--bootstrap")
        assert ended.status == 2
        assert "morality/acc.pk has no record of which pairs were right of en on en" in ended.err
    (tmp_path / "bloomz-560M/morality/acc.pk").unlink()
    ended = script("consistency_analysis", *options, "--layer-select", "validation")
    assert ended.err.endswith("morality/acc.pt, which is missing: run recognize_concept.py\n")
