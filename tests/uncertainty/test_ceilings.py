"""Ceilings of similarity: cosines of vectors of different items, which no shared noise makes larger."""

import numpy as np
import pytest
import torch

from repe.uncertainty.ceilings import half_cosines, split_half_cosine

LAYERS, ITEMS, HIDDEN = 2, 60, 16


def differences(direction: np.ndarray, shared: np.ndarray, seed: int) -> np.ndarray:
    """Differences (layers, pairs, hidden) along a direction, with noise that languages share and noise of their own."""
    return direction + shared + np.random.default_rng(seed).standard_normal(shared.shape)


def test_corrected_cosines_are_those_without_noise_though_languages_share_items() -> None:
    generator = np.random.default_rng(0)
    one, other = np.eye(HIDDEN)[0], np.eye(HIDDEN)[0] * 0.6 + np.eye(HIDDEN)[1] * 0.8
    found, plain = [], []
    for draw in range(40):
        shared = 2 * generator.standard_normal((LAYERS, ITEMS, HIDDEN))
        both = [differences(axis, shared, 10 * draw + place) for place, axis in enumerate((one, other))]
        found.append(half_cosines(both, [str(item) for item in range(ITEMS)], halves=10))
        means = [language.mean(axis=1) for language in both]
        plain.append((means[0] * means[1]).sum(-1) / np.prod([np.linalg.norm(mean, axis=-1) for mean in means], axis=0))
    cosine = np.mean(found, axis=(0, 1))
    assert cosine[0, 1] / np.sqrt(cosine[0, 0] * cosine[1, 1]) == pytest.approx(0.6, abs=0.05)
    # The plain cosine of the same items is larger than that of two halves of one language.
    assert np.mean(plain) > 0.65 > cosine[0, 0]


def test_the_diagonal_is_the_split_half_cosine_and_items_stay_whole() -> None:
    generator = np.random.default_rng(1)
    items = [str(number // 3) for number in range(12)]
    states = torch.from_numpy(generator.standard_normal((LAYERS, 12, 2, HIDDEN))).float()
    labels = torch.tensor([[True, False]] * 12)
    own = (states[:, :, 0] - states[:, :, 1]).numpy()
    found = half_cosines([own, -own[:, :, ::-1]], items)
    assert found[:, 0, 0] == pytest.approx(split_half_cosine(states, labels, items), abs=1e-5)
    assert found[:, 1, 1] == pytest.approx(found[:, 0, 0], abs=1e-6)
    assert np.array_equal(found, found.swapaxes(-1, -2))
    # Four items have three different halvings, each by hand.
    groups = own.reshape(LAYERS, 4, 3, HIDDEN).sum(axis=2)
    by_hand = [
        torch.cosine_similarity(*(torch.from_numpy(groups[:, list(half)].sum(axis=1)) for half in halves), dim=-1)
        for halves in (((0, 1), (2, 3)), ((0, 2), (1, 3)), ((0, 3), (1, 2)))
    ]
    many = half_cosines([own], items, halves=6000)
    assert many[:, 0, 0] == pytest.approx(torch.stack(by_hand).mean(dim=0).numpy(), abs=0.02)
    assert np.isnan(half_cosines([own], ["one"] * 12)).all()
