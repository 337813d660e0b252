"""Measures of similarity against scipy and independent formulas."""

import numpy as np
import pytest
from scipy.linalg import orthogonal_procrustes, subspace_angles
from scipy.stats import pearsonr

from repe.analysis.similarity_measures import floor_of_vectors, of_differences, of_vectors, shuffled_floor
from repe.vectors.concept_vectors import ConceptVectors

LAYERS, LANGUAGES, CONCEPTS, HIDDEN, ITEMS = 2, 3, 4, 12, 9
GENERATOR = np.random.default_rng(0)
DIRECTIONS = GENERATOR.standard_normal((CONCEPTS, LANGUAGES, LAYERS, 1, HIDDEN)).astype(np.float32)
SIGNS = GENERATOR.choice([-1, 1], (CONCEPTS, LANGUAGES, LAYERS, 1)).astype(np.int8)
VECTORS = {
    str(concept): [ConceptVectors(*one) for one in zip(DIRECTIONS[concept], SIGNS[concept], strict=True)]
    for concept in range(CONCEPTS)
}
# Related languages: what they share and what is their own, an offset each, fewer items than dimensions.
SHARED = GENERATOR.standard_normal((LAYERS, ITEMS, HIDDEN))
DIFFERENCES = [SHARED + 0.5 * GENERATOR.standard_normal(SHARED.shape) + language for language in range(LANGUAGES)]


def pairs() -> list[tuple[int, int, int]]:
    return [(layer, one, other) for layer in range(LAYERS) for one in range(LANGUAGES) for other in range(LANGUAGES)]


def test_rsa_is_pearsons_r_of_the_cosines_between_concepts() -> None:
    found = of_vectors("rsa", VECTORS)
    for layer, *languages in pairs():
        cosines = []
        for language in languages:
            signed = DIRECTIONS[:, language, layer, 0] * SIGNS[:, language, layer]
            units = [one / np.linalg.norm(one) for one in signed.astype(np.float64)]
            cosines.append([units[a] @ units[b] for a in range(CONCEPTS) for b in range(a)])
        assert found[layer, languages[0], languages[1]] == pytest.approx(pearsonr(*cosines).statistic, abs=1e-6)


def test_angles_are_scipys() -> None:
    found = of_vectors("angles", VECTORS)
    for layer, one, other in pairs():
        spans = [DIRECTIONS[:, language, layer, 0].T.astype(np.float64) for language in (one, other)]
        angles = subspace_angles(*spans)
        assert found[layer, one, other] == pytest.approx(np.cos(angles).mean(), abs=1e-5)


def test_procrustes_is_the_distance_after_scipys_best_rotation() -> None:
    found = of_differences("procrustes", DIFFERENCES)
    for layer, *languages in pairs():
        one, other = (DIFFERENCES[language][layer] for language in languages)
        one, other = (part - part.mean(axis=0) for part in (one, other))
        one, other = (part / np.linalg.norm(part) for part in (one, other))
        rotation, _ = orthogonal_procrustes(one, other)
        squared = ((one @ rotation - other) ** 2).sum()
        assert found[layer, languages[0], languages[1]] == pytest.approx(1 - squared / 2, abs=1e-9)


def unbiased_hsic(one: np.ndarray, other: np.ndarray) -> float:
    """Song et al. 2012, equation 5, from its sums over tuples of different items."""
    count, total = len(one), 0.0
    for i in range(count):
        for j in range(count):
            for q in range(count):
                for r in range(count):
                    if len({i, j, q, r}) == 4:
                        total += one[i, j] * (other[i, j] + other[q, r] - 2 * other[i, q])
    return total / (count * (count - 1) * (count - 2) * (count - 3))


def test_cka_is_that_of_the_unbiased_hsic_by_its_definition() -> None:
    found = of_differences("cka", DIFFERENCES)
    for layer, one, other in [(0, 0, 1), (1, 2, 0), (1, 1, 1)]:
        kernels = [DIFFERENCES[language][layer] @ DIFFERENCES[language][layer].T for language in (one, other)]
        own = [unbiased_hsic(kernel, kernel) for kernel in kernels]
        expected = unbiased_hsic(*kernels) / np.sqrt(own[0] * own[1])
        assert found[layer, one, other] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("measure", ["cka", "procrustes"])
def test_shuffled_items_are_the_floor(measure: str) -> None:
    found, floor = of_differences(measure, DIFFERENCES), shuffled_floor(measure, DIFFERENCES)
    apart = ~np.eye(LANGUAGES, dtype=bool)
    assert floor.shape == (10, LAYERS, LANGUAGES, LANGUAGES)
    assert (found[:, apart] > floor.mean(axis=0)[:, apart]).all()
    if measure == "cka":
        assert abs(floor[..., apart].mean()) < 0.1
    else:  # nine points in twelve dimensions can always be rotated close to each other
        assert floor[..., apart].mean() > 0.5


def test_concepts_in_another_order_are_the_floor_of_rsa() -> None:
    directions = GENERATOR.standard_normal((6, 1, LAYERS, 1, HIDDEN)).astype(np.float32)
    alike = directions + 0.1 * GENERATOR.standard_normal((6, LANGUAGES, LAYERS, 1, HIDDEN)).astype(np.float32)
    signs = np.ones((6, LANGUAGES, LAYERS, 1), np.int8)
    vectors = {
        str(one): [ConceptVectors(*of) for of in zip(alike[one], signs[one], strict=True)] for one in range(len(alike))
    }
    apart = ~np.eye(LANGUAGES, dtype=bool)
    floor = floor_of_vectors("rsa", vectors, draws=200)
    assert of_vectors("rsa", vectors)[:, apart].min() > 0.8
    # Permutations leave no correlation in the mean.
    assert abs(floor[..., apart].mean()) < 0.1


def test_random_directions_are_the_floor_of_angles() -> None:
    floor = floor_of_vectors("angles", VECTORS, draws=300)
    apart = ~np.eye(LANGUAGES, dtype=bool)
    spans = [np.random.default_rng(number).standard_normal((2, HIDDEN, CONCEPTS)) for number in range(1000)]
    expected = np.mean([np.cos(subspace_angles(*one)).mean() for one in spans])
    assert floor[..., apart].mean() == pytest.approx(expected, abs=0.01)
