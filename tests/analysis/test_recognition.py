"""Recognition as matrix products against the definition, text by text."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import load

from repe.analysis.recognition import correct_pairs, correct_pairs_by_fold, pair_states, recognize
from repe.data import Pair, folds_of
from repe.errors import UserError
from repe.vectors.concept_vectors import ConceptVectors, collect


def vectors_of(
    directions: np.ndarray | torch.Tensor, signs: np.ndarray | None = None, method: str = "cluster_mean"
) -> ConceptVectors:
    """Vectors with one component, from directions (layers, hidden) and signs (layers,)."""
    array = np.asarray(directions, dtype=np.float32)[:, None]
    ones = np.ones(array.shape[:2], dtype=np.int8)
    return ConceptVectors(array, ones if signs is None else signs.astype(np.int8)[:, None], method)


def by_hand(direction: np.ndarray, states: np.ndarray) -> np.ndarray:
    """Which pairs one source gets right, bool (layers, pairs), from its direction (layers, hidden)."""
    right = np.zeros(states.shape[:2], dtype=bool)
    for layer in range(len(states)):
        unit = direction[layer] / np.linalg.norm(direction[layer])
        for pair, (positive, negative) in enumerate(states[layer]):
            right[layer, pair] = positive @ unit >= negative @ unit
    return right


class GivenStates:
    """In place of a model: states (layers, hidden) by text."""

    def __init__(self, by_text: dict[str, torch.Tensor]) -> None:
        self.by_text = by_text

    def states(self, texts: Sequence[str]) -> torch.Tensor:
        """(layers, texts, hidden)."""
        return torch.stack([self.by_text[text] for text in texts], dim=1)


def test_every_source_layer_and_pair_is_as_by_hand() -> None:
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(4, 3, 16, generator=generator)
    states = torch.randn(3, 25, 2, 16, generator=generator)
    sources = {f"source {number}": vectors_of(direction) for number, direction in enumerate(directions)}
    right = correct_pairs(sources, states)
    assert list(right) == list(sources)
    for direction, found in zip(directions, right.values(), strict=True):
        assert found.dtype == bool
        assert np.array_equal(found, by_hand(direction.double().numpy(), states.double().numpy()))


def test_the_table_has_the_accuracy_of_every_source_target_and_layer() -> None:
    generator = torch.Generator().manual_seed(1)
    tests = {language: [(f"{language} + {n}", f"{language} - {n}") for n in range(7)] for language in ("en", "fr")}
    texts = [text for pairs in tests.values() for pair in pairs for text in pair]
    model = GivenStates({text: torch.randn(3, 16, generator=generator) for text in texts})
    sources = {name: vectors_of(torch.randn(3, 16, generator=generator)) for name in ("en", "fr", "zh")}
    table = recognize(model, sources, tests)
    assert list(table) == ["source", "target", "layer", "accuracy"]
    assert len(table) == 3 * 2 * 3
    for row in table.itertuples():
        states = pair_states(model, tests[row.target]).double().numpy()
        right = by_hand(sources[row.source].directions[:, 0].astype(np.float64), states)
        assert row.accuracy == right[row.layer - 1].sum() / 7


def test_a_tie_counts_as_right_and_length_does_not_matter() -> None:
    states = torch.tensor([[[[1.0, 2.0], [1.0, 9.0]], [[0.0, 0.0], [1.0, 0.0]]]])

    def right(*direction: float) -> list[list[bool]]:
        return correct_pairs({"en": vectors_of(np.array([direction]))}, states)["en"].tolist()

    assert right(1, 0) == [[True, False]]
    assert right(1e-20, 0) == [[True, False]]
    assert right(-1, 0) == [[True, True]]


@pytest.mark.parametrize(("method", "is_right"), [("cluster_mean", False), ("pca", True), ("random", True)])
def test_the_sign_is_used_except_by_cluster_mean(method: str, is_right: bool) -> None:
    states = torch.tensor([[[[-1.0, 0.0], [1.0, 0.0]]]])
    negative = vectors_of(np.array([[1.0, 0.0]]), np.array([-1]), method)
    assert correct_pairs({"en": negative}, states)["en"].tolist() == [[is_right]]


def test_small_differences_of_large_states_count_in_half_precision() -> None:
    positive = torch.full((1, 1, 4096), 100.0).half()
    negative = positive.clone()
    negative[..., 0] = 99.9375
    states = torch.stack([positive, negative], dim=2)
    ones = torch.ones(1, 4096)
    assert correct_pairs({"en": vectors_of(ones)}, states)["en"].all()
    assert not correct_pairs({"en": vectors_of(-ones)}, states)["en"].any()


def test_vectors_that_do_not_fit_the_states_are_refused() -> None:
    states = torch.zeros(3, 2, 2, 16)
    with pytest.raises(UserError, match=r"the vectors of fr belong to another model \(2 layers of 16, not 3 of 16\)"):
        correct_pairs({"en": vectors_of(np.ones((3, 16))), "fr": vectors_of(np.ones((2, 16)))}, states)


def test_without_vectors_there_is_nothing_to_recognize() -> None:
    assert correct_pairs({}, torch.zeros(3, 2, 2, 16)) == {}


def test_folds_test_every_pair_once_with_vectors_that_never_saw_its_item(model_folders: dict[str, Path]) -> None:
    model = load(model_folders["llama"])
    pairs = [Pair(f"{n} helps {n}", f"{n} hurts {n}", f"g|{n}", item=f"act {n % 8}") for n in range(16)]
    vectors = {"en": collect(model, pairs, folds=3)}
    folds = folds_of(pairs, 3)
    assert len({fold for pair, fold in zip(pairs, folds, strict=True) if pair.item == "act 1"}) == 1
    found = correct_pairs_by_fold(vectors, pair_states(model, pairs), folds)["en"]
    for fold in set(folds):
        rest = [pair for pair, own in zip(pairs, folds, strict=True) if own != fold]
        held_out = [pair for pair, own in zip(pairs, folds, strict=True) if own == fold]
        alone = {"en": collect(model, rest, validation=False)}
        expected = correct_pairs(alone, pair_states(model, held_out))["en"]
        assert (found[:, np.array(folds) == fold] == expected).all()
    with pytest.raises(UserError, match="all items are in one fold"):
        folds_of(pairs[::8], 3)
