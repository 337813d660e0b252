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
    chosen = _first_halves(items, halves)
    if chosen is None:
        return np.full(len(states), np.nan, dtype=np.float32)
    turned = torch.where(labels[:, :1], 1.0, -1.0).to(states.device)
    first = torch.from_numpy(chosen).to(states.device, torch.float32)  # (halves, pairs)
    found = []
    for state in states:
        differences = turned * (state[:, 0].float() - state[:, 1].float())
        one, other = first @ differences, (1 - first) @ differences  # (halves, hidden)
        found.append(torch.cosine_similarity(one, other, dim=-1).mean().cpu())
    return torch.stack(found).numpy()


def half_cosines(differences: Sequence[np.ndarray], items: Sequence[str], halves: int = HALVES) -> np.ndarray:
    """Cosine of each language's `cluster_mean` direction of one half of the items with each language's of the other.

    Directions of the same items in two languages share the noise of these items, so that their cosine can be larger
    than that of two halves of one language. Directions of different items do not.

    Args:
        differences: positive minus negative, (layers, pairs, hidden) of each language, pairs in one order.
        items: item of each pair; an item is in one half as a whole.
        halves: number of random halvings.

    Returns:
        float64 (layers, languages, languages), mean over random halvings: on the diagonal the split-half cosine. NaN
        where there is only one item.
    """
    first = _first_halves(items, halves)
    if first is None:
        return np.full((len(differences[0]), len(differences), len(differences)), np.nan)
    found = []
    for rows in zip(*differences, strict=True):
        one, other = (_units(np.stack([part @ row for row in rows])) for part in (first, ~first))
        cosine = np.einsum("ahd,bhd->ab", one, other) / halves
        found.append((cosine + cosine.T) / 2)
    return np.stack(found)


def _first_halves(items: Sequence[str], halves: int) -> np.ndarray | None:
    """Which pairs are in the first half of each random halving, bool (halves, pairs); None if there is one item."""
    _, place = np.unique(np.asarray(items), return_inverse=True)
    count = place.max() + 1
    order = np.random.default_rng(0).permuted(np.tile(np.arange(count), (halves, 1)), axis=1)
    return order[:, place] < count // 2 if count > 1 else None


def _units(directions: np.ndarray) -> np.ndarray:
    return directions / np.linalg.norm(directions, axis=-1, keepdims=True)  # type: ignore[no-any-return]
