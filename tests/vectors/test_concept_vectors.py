"""Concept vectors: collected from pairs, their sign and length, and files of one language or several."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from repe.constants import METHODS
from repe.data import Pair, split_pairs
from repe.errors import UserError
from repe.vectors.concept_vectors import ConceptVectors, collect, fitted_on

LAYERS, HIDDEN = 3, 8


class FixedStates:
    """In place of a model: a random but fixed state of every text."""

    def states(self, texts: Sequence[str]) -> torch.Tensor:
        """(layers, texts, hidden)."""
        columns = [
            torch.randn(LAYERS, HIDDEN, generator=torch.Generator().manual_seed(sum(text.encode()))) for text in texts
        ]
        return torch.stack(columns, dim=1)


MODEL = FixedStates()
PAIRS = [Pair(f"good {number}", f"bad {7 * number}", key=f"g|{number}") for number in range(20)]


def class_means(pairs: Sequence[Pair]) -> tuple[np.ndarray, np.ndarray]:
    """Mean states (layers, hidden) of the positive and of the negative texts."""
    positive, negative = (MODEL.states([getattr(pair, side) for pair in pairs]) for side in ("pos", "neg"))
    return positive.mean(dim=1).numpy(), negative.mean(dim=1).numpy()


def test_a_direction_is_the_difference_of_the_class_means() -> None:
    train, _ = split_pairs(PAIRS)
    vectors = collect(MODEL, train)
    positive, negative = class_means(train)
    np.testing.assert_allclose(vectors.directions[:, 0], positive - negative, rtol=1e-5, atol=1e-6)
    assert (vectors.directions.dtype, vectors.signs.dtype) == (np.float32, np.int8)
    assert vectors.train_pairs == len(train)
    norms = torch.cat([MODEL.states([pair.pos, pair.neg]) for pair in train], dim=1).norm(dim=-1).mean(dim=1)
    np.testing.assert_allclose(vectors.mean_norm, norms.numpy(), rtol=1e-6)


def test_labels_decide_which_text_is_positive() -> None:
    swapped = [replace(pair, first_is_positive=not pair.first_is_positive) for pair in PAIRS]
    np.testing.assert_allclose(collect(MODEL, swapped).directions, -collect(MODEL, PAIRS).directions, atol=1e-6)


def test_the_drawn_order_of_sides_matters_to_pca_only() -> None:
    turned = [replace(pair, pos_first=False, first_is_positive=False) for pair in PAIRS[:9]] + PAIRS[9:]
    np.testing.assert_allclose(collect(MODEL, turned).directions, collect(MODEL, PAIRS).directions, atol=1e-6)
    other = collect(MODEL, turned, "pca").directions
    assert np.abs(other - collect(MODEL, PAIRS, "pca").directions).max() > 0.1


@pytest.mark.parametrize("method", METHODS)
def test_validation_vectors_are_fitted_on_the_first_four_fifths(method: str) -> None:
    vectors = collect(MODEL, PAIRS, method)
    part = collect(MODEL, PAIRS[:16], method)
    assert vectors.validation is not None
    assert fitted_on(len(PAIRS)) == vectors.validation.train_pairs == 16
    # The fits of scikit-learn magnify the rounding of states in other batches.
    scale = np.abs(part.directions).max() if method in ("logistic", "lda") else 1.0
    tolerance = 1e-3 * scale if method in ("logistic", "lda") else 1e-6
    np.testing.assert_allclose(vectors.validation.directions, part.directions, atol=tolerance)
    assert np.array_equal(vectors.validation.signs, part.signs)
    assert collect(MODEL, PAIRS, method, validation=False).validation is None


def test_one_pair_is_too_few_for_validation() -> None:
    assert collect(MODEL, PAIRS[:1]).validation is None


def test_random_directions_depend_on_the_seed() -> None:
    first, again, other = (collect(MODEL, PAIRS, "random", seed=seed).digest for seed in (1, 1, [1, 2]))
    assert first == again != other
    assert len({collect(MODEL, PAIRS, "pca", seed=seed).digest for seed in (1, 2)}) == 1


def test_no_pairs_and_unknown_methods_are_refused() -> None:
    with pytest.raises(UserError, match="no training pairs: concept vectors need at least one"):
        collect(MODEL, [])
    with pytest.raises(ValueError, match="method must be one of cluster_mean, pca, random, logistic, lda, not 'svm'"):
        collect(MODEL, PAIRS, "svm")


def test_unit_vectors_point_to_the_positive_side_whatever_their_length() -> None:
    directions = np.array([[[3.0, 4.0]], [[3e-30, 4e-30]], [[3e30, 4e30]]], dtype=np.float32)
    vectors = ConceptVectors(directions, np.array([[1], [-1], [1]], dtype=np.int8))
    np.testing.assert_allclose(vectors.unit_vectors, [[0.6, 0.8], [-0.6, -0.8], [0.6, 0.8]], rtol=1e-6)


def test_the_digest_depends_on_directions_and_signs_only() -> None:
    vectors = collect(MODEL, PAIRS)
    assert replace(vectors, train_pairs=3, mean_norm=None, validation=None, meta={}).digest == vectors.digest
    assert replace(vectors, signs=-vectors.signs).digest != vectors.digest
    assert replace(vectors, directions=vectors.directions + 1).digest != vectors.digest


def test_vectors_of_another_model_are_refused() -> None:
    vectors = collect(MODEL, PAIRS)
    vectors.check_fit("en", LAYERS, HIDDEN)
    with pytest.raises(UserError, match=r"the vectors of en belong to another model \(3 layers of 8, not 4 of 8\)"):
        vectors.check_fit("en", LAYERS + 1, HIDDEN)


@pytest.mark.parametrize("method", METHODS)
def test_saved_vectors_are_loaded_again(method: str, tmp_path: Path) -> None:
    folder = tmp_path / "tiny" / "morality"
    saved = {language: collect(MODEL, pairs, method) for language, pairs in (("en", PAIRS), ("xx", PAIRS[:10]))}
    for language, vectors in saved.items():
        path = vectors.save(folder, language)
    assert path == folder / f"{'' if method == 'cluster_mean' else f'{method}_'}reader_dict.pt"
    for language, vectors in saved.items():
        loaded = ConceptVectors.load(folder, language, method)
        assert loaded.digest == vectors.digest
        assert (loaded.method, loaded.train_pairs) == (method, vectors.train_pairs)
        assert np.array_equal(loaded.mean_norm, vectors.mean_norm)
        assert loaded.validation.digest == vectors.validation.digest
        assert loaded.meta["method"] == method


def test_languages_without_vectors_are_an_error(tmp_path: Path) -> None:
    collect(MODEL, PAIRS).save(tmp_path / "tiny" / "morality", "en")
    with pytest.raises(UserError, match=r"reader_dict\.pt has no vectors of fr: run collect_vector\.py"):
        ConceptVectors.load(tmp_path / "tiny" / "morality", "fr")


def test_vectors_of_one_pair_have_no_halves_and_can_be_saved(tmp_path: Path) -> None:
    vectors = collect(MODEL, PAIRS[:1])
    vectors.save(tmp_path / "tiny/morality", "en")
    loaded = ConceptVectors.load(tmp_path / "tiny/morality", "en")
    np.testing.assert_array_equal(loaded.directions, vectors.directions)
    assert np.isnan(loaded.split_half).all()
