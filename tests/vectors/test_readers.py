"""Directions and signs against numpy, scikit-learn and hand-made cases."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from repe.errors import UserError
from repe.vectors.linear_reader import LinearRepReader
from repe.vectors.readers import ClusterMeanRepReader, PCARepReader, RandomRepReader, signs

LAYERS, PAIRS, HIDDEN = 3, 40, 12


@pytest.fixture
def states() -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    spread = torch.linspace(1, 3, HIDDEN)
    return torch.randn(LAYERS, PAIRS, 2, HIDDEN, generator=generator) * spread


@pytest.fixture
def labels() -> torch.Tensor:
    first = torch.rand(PAIRS, generator=torch.Generator().manual_seed(4)) < 0.5
    return torch.stack([first, ~first], dim=1)


def released_sign(states: np.ndarray, labels: np.ndarray, direction: np.ndarray) -> int:
    """The sign rule of the released code, pair by pair."""
    larger = smaller = 0
    for pair, label in zip(states, labels, strict=True):
        projections = [float(state @ direction / np.linalg.norm(direction)) for state in pair]
        positive = projections[list(label).index(True)]
        larger += positive == max(projections)
        smaller += positive == min(projections)
    return -1 if smaller > larger else 1


def test_cluster_mean_is_the_difference_of_class_means(states: torch.Tensor, labels: torch.Tensor) -> None:
    reader = ClusterMeanRepReader().fit(states, labels)
    for layer in range(1, LAYERS + 1):
        state = states[layer - 1].double().numpy()
        expected = state[labels.numpy()].mean(0) - state[~labels.numpy()].mean(0)
        assert reader.directions[layer].shape == (1, HIDDEN)
        np.testing.assert_allclose(reader.directions[layer][0], expected, rtol=1e-5, atol=1e-6)
        assert reader.direction_signs[layer] == released_sign(state, labels.numpy(), expected)


@pytest.mark.parametrize("n_difference", [0, 1])
def test_pca_is_scikit_learns_first_component(n_difference: int, states: torch.Tensor, labels: torch.Tensor) -> None:
    reader = PCARepReader(n_difference).fit(states, labels)
    for layer in range(1, LAYERS + 1):
        state = states[layer - 1].double().numpy()
        rows = state[:, 0] - state[:, 1] if n_difference else state.reshape(-1, HIDDEN)
        component = PCA(1, svd_solver="full").fit(rows).components_[0]
        np.testing.assert_allclose(reader.directions[layer][0], component, atol=1e-5)
        assert reader.direction_signs[layer] == released_sign(state, labels.numpy(), reader.directions[layer][0])


def test_means_of_half_precision_states_are_computed_in_single_precision() -> None:
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(256, generator=generator) * 10
    offset = torch.randn(256, generator=generator) * 0.05
    sides = torch.stack([mean + offset, mean - offset]) + 0.3 * torch.randn(400, 2, 256, generator=generator)
    states = sides[None].half()
    label = torch.tensor([True, False]).expand(400, 2)
    expected = (states[0, :, 0].double().mean(0) - states[0, :, 1].double().mean(0)).numpy()
    found = ClusterMeanRepReader().fit(states, label).directions[1][0]
    assert np.linalg.norm(found - expected) / np.linalg.norm(expected) < 1e-4
    in_half = (states[0, :, 0].mean(0) - states[0, :, 1].mean(0)).double().numpy()
    assert np.linalg.norm(in_half - expected) / np.linalg.norm(expected) > 1e-2


def test_the_sign_is_negative_where_positive_texts_project_lower_more_often() -> None:
    states = torch.tensor([[[1.0], [0.0]], [[1.0], [0.0]], [[0.0], [5.0]]])
    labels = torch.tensor([[False, True], [False, True], [False, True]])
    assert signs(states, labels, torch.ones(1, 1)).tolist() == [-1]
    assert signs(states, ~labels, torch.ones(1, 1)).tolist() == [1]
    tied = torch.tensor([[[1.0], [1.0]], [[1.0], [0.0]], [[0.0], [1.0]]])
    assert signs(tied, torch.tensor([[True, False]] * 3), torch.ones(1, 1)).tolist() == [1]


def test_a_random_direction_is_gaussian_and_depends_on_the_seed(states: torch.Tensor, labels: torch.Tensor) -> None:
    first, again, other = (RandomRepReader(seed).fit(states, labels).stacked()[0] for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    many = RandomRepReader(1).fit(torch.zeros(1, 1, 2, 100_000), labels[:1]).directions[1]
    assert abs(many.mean()) < 0.02
    assert abs(many.std() - 1) < 0.02


def test_layer_numbers_can_be_given(states: torch.Tensor, labels: torch.Tensor) -> None:
    assert list(ClusterMeanRepReader().fit(states, labels, [-1, -2, -3]).directions) == [-1, -2, -3]


def test_states_without_a_difference_are_refused(labels: torch.Tensor) -> None:
    same = torch.ones(2, PAIRS, 2, HIDDEN)
    for reader in (ClusterMeanRepReader(), PCARepReader()):
        with pytest.raises(UserError, match=f"the {reader.method} direction of layer 1 is zero"):
            reader.fit(same, labels)


def test_an_invalid_n_difference_is_refused() -> None:
    with pytest.raises(ValueError, match="n_difference must be 0 or 1, not 2"):
        PCARepReader(2)


@pytest.mark.parametrize("method", ["logistic", "lda"])
def test_fitted_directions_rank_texts_as_scikit_learns_classifier(
    method: str, states: torch.Tensor, labels: torch.Tensor
) -> None:
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    reader = LinearRepReader(method).fit(states, labels)
    for layer, state in enumerate(states, start=1):
        rows, targets = state.flatten(0, 1).double().numpy(), labels.flatten().numpy()
        classifier = {
            "logistic": make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
            "lda": LinearDiscriminantAnalysis(solver="eigen", shrinkage="auto"),
        }[method].fit(rows, targets)
        scores = classifier.decision_function(rows)
        projected = rows @ reader.directions[layer][0].astype(np.float64)
        assert np.corrcoef(projected, scores)[0, 1] > 0.999999
        assert reader.direction_signs[layer].tolist() == [1]
