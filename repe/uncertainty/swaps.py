"""Nulls for the price of a matrix product: directions of labels that are swapped at random within training pairs.

A `cluster_mean` direction is the mean of the training pairs' differences (positive minus negative), so a direction of
swapped labels is their mean with random signs. The margins of all test pairs on any number of such directions follow
from one product of test and training differences in each layer, and so do their accuracies.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from repe.constants import OWN_SWAPS, SWAPS
from repe.data import Pair
from repe.results.accuracy_file import NULL_PARTS
from repe.uncertainty.bootstrap import CONFIDENCE
from repe.uncertainty.permutation import ROUNDING

RARE = 0.01


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

    @cached_property
    def accuracy(self) -> np.ndarray:
        """Accuracy of the `cluster_mean` directions on the training pairs themselves, float64 (layers,)."""
        own = [(one @ one.mean(dim=0) >= 0).double().mean() for one in self.differences]
        return torch.stack(own).numpy()


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


def swapped(
    tested: torch.Tensor, training: Training, signs: np.ndarray, counted: int = SWAPS
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the directions of swapped labels and of random halves make of the test pairs.

    Args:
        tested: (layers, test pairs, 2, hidden), the positive text first; computed on its device.
        training: of the source language.
        signs: (swaps, training pairs), from `swap_signs`.
        counted: number of swaps whose right pairs are counted; mean margins, which cost little, are of all.

    Returns:
        Number of test pairs that are right with swapped labels, `sum(sign * difference)`, int (layers, counted); the
        same with those training pairs only whose sign is 1, `sum((1 + sign) * difference)`: the same product plus the
        observed margins; and the mean margin along the sums, float64 (layers, 1 + swaps), the observed one first.
    """
    turned = torch.from_numpy(signs[:counted]).to(tested.device, torch.float32).T
    null, halves, means = [], [], []
    for state, differences in zip(tested, training.differences, strict=True):
        margins = (state[:, 0].float() - state[:, 1].float()) @ differences.to(state.device).T  # (test, training pairs)
        moved = margins @ turned
        null.append((moved >= 0).sum(dim=0))
        halves.append((moved + margins.sum(dim=1, keepdim=True) >= 0).sum(dim=0))
        means.append(margins.mean(dim=0))
    counts = (torch.stack(one).cpu().numpy() for one in (null, halves))
    # In float64 on the CPU, so that a swap that changes nothing gives the observed margin.
    kept = np.concatenate([np.ones_like(signs[:1]), signs]).astype(np.float64)
    return (*counts, torch.stack(means).cpu().numpy().astype(np.float64) @ kept.T)  # type: ignore[return-value]


def summary(
    null: np.ndarray, halves: np.ndarray, margins: np.ndarray, correct: np.ndarray, fitted: np.ndarray
) -> dict[str, np.ndarray]:
    """What `acc.pt` keeps of the swaps of one source and target.

    Args:
        null, halves, margins: from `swapped`.
        correct: bool (layers, test pairs), what the vectors themselves get right.
        fitted: float64 (layers,), from `Training.accuracy`.

    Returns:
        float64 (layers + 1,) by NULL_PARTS, last entry: the best layer. `mean`, `low` and `high` (2.5 and 97.5 %
        points) are accuracies with swapped labels. `p` is one-sided, the data themselves counted among the swaps
        (Phipson and Smyth 2010); the best layer of each swap is its own, so that its choice is part of the test.
        `p_margin` is the same for the mean margin instead of the accuracy, each layer's in units of its root mean
        square. `training_sd` is the standard deviation of the accuracy over the choice of training items, see
        `over_training`; `training_accuracy` is that on the training pairs themselves, a ceiling.
    """
    null, halves = (np.concatenate([counts, counts.max(axis=0, keepdims=True)]) for counts in (null, halves))
    right = correct.sum(axis=-1)
    reached = (null >= np.append(right, right.max())[:, None]).sum(axis=1)
    ends = [(1 - CONFIDENCE) / 2, 0.5 * (1 + CONFIDENCE)]
    low, high = np.quantile(null, ends, axis=1) / correct.shape[-1]
    scaled = margins / np.sqrt((margins**2).mean(axis=1, keepdims=True))
    scaled = np.concatenate([scaled, scaled.max(axis=0, keepdims=True)])
    parts = {
        "mean": null.mean(axis=1) / correct.shape[-1],
        "low": low,
        "high": high,
        "p": (1 + reached) / (1 + null.shape[1]),
        "p_margin": (scaled >= scaled[:, :1] - ROUNDING).mean(axis=1),
        "training_sd": halves.std(axis=1) / correct.shape[-1],
        "training_accuracy": np.append(fitted, fitted.max()),
    }
    return {name: parts[name].astype(np.float64) for name in NULL_PARTS}


def nulls(
    tested: torch.Tensor, trainings: Mapping[str, Training], correct: Mapping[str, np.ndarray], name: str, target: str
) -> dict[str, dict[str, np.ndarray]]:
    """The summaries of all sources on one target language.

    The p-values of a language's own vectors are corrected for many cells, so they are from more swaps: p_margin from
    OWN_SWAPS, and so are the accuracies where p of the best layer is below RARE with the first SWAPS. A p-value that is
    refined only where it is small keeps its level.

    Args:
        tested: (layers, test pairs, 2, hidden), the positive text first.
        trainings: by source language.
        correct: by source language, bool (layers, test pairs).
        name: of concept and seed, see `swap_signs`.
        target: the language of the test pairs.
    """
    found = {}
    for source, training in trainings.items():
        signs = swap_signs(training.items, name, OWN_SWAPS if source == target else SWAPS)
        found[source] = summary(*swapped(tested, training, signs), correct[source], training.accuracy)
        if source == target and found[source]["p"][-1] < RARE:
            made = swapped(tested, training, signs, OWN_SWAPS)
            found[source] = summary(*made, correct[source], training.accuracy)
    return found
