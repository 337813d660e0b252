"""Ceilings of similarity: how similar the vectors of a language are to vectors of other items of the same language."""

from collections.abc import Sequence

import numpy as np
import torch

HALVES = 50


def split_half_cosine(
    states: torch.Tensor, labels: torch.Tensor, items: Sequence[str], halves: int = HALVES
) -> np.ndarray:
    """Cosine of the `cluster_mean` directions of two random halves of the training items, mean over random halvings.

    Args:
        states: (layers, pairs, 2, hidden).
        labels: bool (pairs, 2): which text of a pair is labelled positive.
        items: item of each pair; an item is in one half as a whole.
        halves: number of random halvings.

    Returns:
        float32 (layers,); NaN where there is only one item.
    """
    _, place = np.unique(np.asarray(items), return_inverse=True)
    count = place.max() + 1
    if count < 2:
        return np.full(len(states), np.nan, dtype=np.float32)
    order = np.random.default_rng(0).permuted(np.tile(np.arange(count), (halves, 1)), axis=1)
    turned = torch.where(labels[:, :1], 1.0, -1.0).to(states.device)
    first = torch.from_numpy(order[:, place] < count // 2).to(states.device, torch.float32)  # (halves, pairs)
    found = []
    for state in states:
        differences = turned * (state[:, 0].float() - state[:, 1].float())
        one, other = first @ differences, (1 - first) @ differences  # (halves, hidden)
        found.append(torch.cosine_similarity(one, other, dim=-1).mean().cpu())
    return torch.stack(found).numpy()


def reliability(split_half: np.ndarray) -> np.ndarray:
    """Reliability of directions of all training items, from the cosine of their halves (Spearman and Brown 1910).

    The expected cosine with the direction of as many other items; 0 where the halves point apart.
    """
    half = np.clip(split_half, 0.0, 1.0)
    return 2 * half / (1 + half)  # type: ignore[no-any-return]
