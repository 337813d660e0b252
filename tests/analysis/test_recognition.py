"""Recognition as matrix products against the definition, text by text."""

import numpy as np
import torch

from repe.analysis.recognition import accuracy, correct_pairs


def by_hand(directions: np.ndarray, states: np.ndarray) -> np.ndarray:
    sources, layers, _ = directions.shape
    right = np.zeros((sources, layers, states.shape[1]), dtype=bool)
    for source in range(sources):
        for layer in range(layers):
            unit = directions[source, layer] / np.linalg.norm(directions[source, layer])
            for pair, (positive, negative) in enumerate(states[layer]):
                right[source, layer, pair] = positive @ unit >= negative @ unit
    return right


def test_every_source_layer_and_pair_is_as_by_hand() -> None:
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(4, 3, 16, generator=generator)
    states = torch.randn(3, 25, 2, 16, generator=generator)
    right = correct_pairs(directions, states)
    assert np.array_equal(right.numpy(), by_hand(directions.double().numpy(), states.double().numpy()))
    np.testing.assert_array_equal(accuracy(right).numpy(), right.numpy().sum(-1) / 25)
    assert accuracy(right).dtype == torch.float64


def test_a_tie_counts_as_right_and_length_does_not_matter() -> None:
    states = torch.tensor([[[[1.0, 2.0], [1.0, 9.0]], [[0.0, 0.0], [1.0, 0.0]]]])
    direction = torch.tensor([[[1.0, 0.0]]])
    assert correct_pairs(direction, states).tolist() == [[[True, False]]]
    assert correct_pairs(direction * 1e-20, states).tolist() == [[[True, False]]]
    assert correct_pairs(-direction, states).tolist() == [[[True, True]]]


def test_small_differences_of_large_states_are_seen_in_half_precision() -> None:
    positive = torch.full((1, 1, 4096), 100.0).half()
    negative = positive.clone()
    negative[..., 0] = 99.9375
    states = torch.stack([positive, negative], dim=2)
    directions = torch.ones(1, 1, 4096)
    assert correct_pairs(directions, states).all()
    assert not correct_pairs(-directions, states).any()
