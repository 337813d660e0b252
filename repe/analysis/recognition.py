"""Recognition: does the positive text of a pair have the larger projection on a concept vector? (Sections 3.2, 3.4)"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch

from repe.data import Pairs, as_pairs, texts_of
from repe.models.model import Model
from repe.vectors.concept_vectors import ConceptVectors
from repe.vectors.readers import READERS
from repe.vectors.state_cache import CachedStates


def recognize(
    model: Model | CachedStates, vectors: Mapping[str, ConceptVectors], tests: Mapping[str, Pairs]
) -> pd.DataFrame:
    """Accuracy of every source language's vectors on every target language's pairs, in every layer.

    Args:
        model: the model, or cached states of the pairs' texts.
        vectors: by source language, of the model.
        tests: test pairs by target language.

    Returns:
        Columns source, target, layer (1..N), accuracy (0..1).

    Raises:
        UserError: the vectors do not fit the model, or what `Model.states` raises.
    """
    rows = [
        (source, target, layer, float(accuracy))
        for target, pairs in tests.items()
        for source, correct in correct_pairs(vectors, pair_states(model, pairs)).items()
        for layer, accuracy in enumerate(correct.mean(axis=-1), start=1)
    ]
    return pd.DataFrame(rows, columns=["source", "target", "layer", "accuracy"])


def pair_states(model: Model | CachedStates, pairs: Pairs) -> torch.Tensor:
    """States of pairs, (layers, pairs, 2, hidden), the positive text of each pair first."""
    states: torch.Tensor = model.states(texts_of(as_pairs(pairs))).unflatten(1, (-1, 2))
    return states


def correct_pairs(vectors: Mapping[str, ConceptVectors], states: torch.Tensor) -> dict[str, np.ndarray]:
    """Which pairs each source's vectors get right.

    A pair is right when the positive text's projection is at least as large as the negative one's. As in the released
    code, `cluster_mean` directions are used without their sign.

    Args:
        vectors: by source language.
        states: (layers, pairs, 2, hidden), the positive text of each pair first.

    Returns:
        bool (layers, pairs) by source language.

    Raises:
        UserError: vectors have another number of layers or another width than the states.
    """
    for source, one in vectors.items():
        one.check_fit(source, len(states), states.shape[-1])
    if not vectors:
        return {}
    units = unit_directions(vectors).to(states.device)
    # The difference first: one product instead of two, and no rounding of two large numbers that differ little.
    margins = [(state[:, 0].float() - state[:, 1].float()) @ units[:, layer].T for layer, state in enumerate(states)]
    correct = (torch.stack(margins) >= 0).permute(2, 0, 1).cpu().numpy()
    return dict(zip(vectors, correct, strict=True))


def unit_directions(vectors: Mapping[str, ConceptVectors]) -> torch.Tensor:
    """The first components as recognition uses them, at unit length, float32 (sources, layers, hidden)."""
    directions = torch.stack([_direction(one) for one in vectors.values()])
    units: torch.Tensor = directions / directions.norm(dim=-1, keepdim=True)
    return units


def correct_pairs_by_fold(
    vectors: Mapping[str, ConceptVectors], states: torch.Tensor, folds: Sequence[int]
) -> dict[str, np.ndarray]:
    """Which pairs each source's vectors get right, each pair by the vectors that were fitted without its item.

    Args:
        vectors: by source language, with `ConceptVectors.folds`.
        states: as for `correct_pairs`.
        folds: of each pair.

    Returns:
        bool (layers, pairs) by source language.
    """
    correct = {source: np.zeros(states.shape[:2], dtype=bool) for source in vectors}
    for fold in set(folds):
        at = np.flatnonzero(np.array(folds) == fold)
        without = {source: one.folds[fold] for source, one in vectors.items()}
        for source, part in correct_pairs(without, states[:, torch.from_numpy(at).to(states.device)]).items():
            correct[source][:, at] = part
    return correct


def _direction(vectors: ConceptVectors) -> torch.Tensor:
    first = vectors.directions[:, 0]
    signed = vectors.method not in READERS or READERS[vectors.method].signed_recognition
    return torch.from_numpy(first * vectors.signs[:, :1] if signed else first)
