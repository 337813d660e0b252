"""Nulls for the price of a matrix product: directions of labels that are swapped at random within training pairs.

A `cluster_mean` direction is the mean of the training pairs' differences (positive minus negative), so a direction of
swapped labels is their mean with random signs. The margins of all test pairs on any number of such directions follow
from one product of test and training differences in each layer, and so do their accuracies.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from repe.constants import SWAPS
from repe.data import Pair
from repe.results.accuracy_file import NULL_PARTS
from repe.uncertainty.bootstrap import CONFIDENCE


@dataclass(frozen=True, eq=False)
class Training:
    """Training pairs of one concept and language, as what nulls and thresholds need of their states."""

    differences: torch.Tensor
    """float32 (layers, pairs, hidden): positive minus negative."""
    midpoints: torch.Tensor
    """float32 (layers, hidden): halfway between the means of the two sides."""
    items: list[str]
    """Item of each pair."""

    @classmethod
    def of(cls, states: torch.Tensor, pairs: Sequence[Pair]) -> "Training":
        """Keep what is needed, on the CPU.

        Args:
            states: (layers, pairs, 2, hidden), the positive text of each pair first.
            pairs: the training pairs.
        """
        differences = torch.stack([(state[:, 0].float() - state[:, 1].float()).cpu() for state in states])
        midpoints = torch.stack([state.float().mean(dim=(0, 1)).cpu() for state in states])
        return cls(differences, midpoints, [pair.item or pair.key for pair in pairs])


def swap_signs(items: Sequence[str], name: str, swaps: int = SWAPS) -> np.ndarray:
    """Which pairs each swap turns around: int8 (swaps, pairs) of 1 and -1.

    Pairs of one item are swapped together, in all languages alike: a sign depends on the item's name alone, not on
    which languages and items are there.

    Args:
        items: item of each pair.
        name: other names (such as concept and seed) give other signs.
    """
    size = -(-swaps // 8)
    drawn = b"".join(hashlib.shake_128(f"{name}|{item}".encode()).digest(size) for item in items)
    bits = np.unpackbits(np.frombuffer(drawn, np.uint8).reshape(len(items), size), axis=1, count=swaps)
    return (1 - 2 * bits.astype(np.int8)).T


def swapped_counts(tested: torch.Tensor, training: Training, signs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many test pairs the directions of random halves and of swapped labels get right.

    Args:
        tested: (layers, test pairs, 2, hidden), the positive text first; computed on its device.
        training: of the source language.
        signs: (swaps, training pairs), from `swap_signs`.

    Returns:
        Two int arrays (layers, swaps). The first is for swapped labels, `sum(sign * difference)`; the second for those
        training pairs only whose sign is 1, `sum((1 + sign) * difference)`: the same product plus the observed margins.
    """
    turned = torch.from_numpy(signs).to(tested.device, torch.float32).T
    null, halves = [], []
    for state, differences in zip(tested, training.differences, strict=True):
        margins = (state[:, 0].float() - state[:, 1].float()) @ differences.to(state.device).T  # (test, training pairs)
        moved = margins @ turned
        null.append((moved >= 0).sum(dim=0))
        halves.append((moved + margins.sum(dim=1, keepdim=True) >= 0).sum(dim=0))
    return torch.stack(null).cpu().numpy(), torch.stack(halves).cpu().numpy()


def summary(null: np.ndarray, halves: np.ndarray, correct: np.ndarray) -> dict[str, np.ndarray]:
    """What `acc.pt` keeps of the swaps of one source and target.

    Args:
        null, halves: (layers, swaps), from `swapped_counts`.
        correct: bool (layers, test pairs), what the vectors themselves get right.

    Returns:
        float64 (layers + 1,) by NULL_PARTS, last entry: the best layer. `mean`, `low` and `high` (2.5 and 97.5 % points)
        are accuracies with swapped labels, `p` is one-sided, the data themselves counted among the swaps (Phipson and
        Smyth 2010). The best layer of each swap is its own, so that the choice of the layer is part of the test.
        `training_sd` is the standard deviation of the accuracy over the choice of training items, see `over_training`.
    """
    null, halves = (np.concatenate([counts, counts.max(axis=0, keepdims=True)]) for counts in (null, halves))
    right = correct.sum(axis=-1)
    reached = (null >= np.append(right, right.max())[:, None]).sum(axis=1)
    ends = [(1 - CONFIDENCE) / 2, 0.5 * (1 + CONFIDENCE)]
    low, high = np.quantile(null, ends, axis=1) / correct.shape[-1]
    parts = {
        "mean": null.mean(axis=1) / correct.shape[-1],
        "low": low,
        "high": high,
        "p": (1 + reached) / (1 + null.shape[1]),
        "training_sd": halves.std(axis=1) / correct.shape[-1],
    }
    return {name: parts[name].astype(np.float64) for name in NULL_PARTS}


def nulls(
    tested: torch.Tensor, trainings: Mapping[str, Training], correct: Mapping[str, np.ndarray], name: str
) -> dict[str, dict[str, np.ndarray]]:
    """The summaries of all sources on one target language.

    Args:
        tested: (layers, test pairs, 2, hidden), the positive text first.
        trainings: by source language.
        correct: by source language, bool (layers, test pairs).
        name: of concept and seed, see `swap_signs`.
    """
    found = {}
    for source, training in trainings.items():
        counts = swapped_counts(tested, training, swap_signs(training.items, name))
        found[source] = summary(*counts, correct[source])
    return found
