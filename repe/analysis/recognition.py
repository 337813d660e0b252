"""Recognising a concept: does the positive text of a pair have the larger projection (Sections 3.2 and 3.4)."""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from repe.data import Split, texts_of
from repe.results.vector_file import Vectors, check_fit
from repe.vectors.collection import fitted_on
from repe.vectors.readers import READERS
from repe.vectors.state_cache import States


def correct_pairs(directions: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
    """Which pairs each source's vectors get right.

    Args:
        directions: float32 (sources, layers, hidden), of any length.
        states: (layers, pairs, 2, hidden), the positive text of each pair first.

    Returns:
        bool (sources, layers, pairs): the positive text's projection is the larger; a tie counts as right.
    """
    directions = directions.to(states.device)
    units = directions / directions.norm(dim=-1, keepdim=True)
    # The difference first: one product instead of two, and no rounding of two large numbers that differ little.
    margins = [
        (state[:, 0].float() - state[:, 1].float()) @ units[:, layer].T for layer, state in enumerate(states)
    ]  # each (pairs, sources)
    return (torch.stack(margins) >= 0).permute(2, 0, 1)


def accuracy(correct: torch.Tensor) -> torch.Tensor:
    """Share of pairs that are right, float64, over the last axis."""
    return correct.double().mean(dim=-1)


def stacked_directions(vectors: Sequence[Vectors], signed: bool, prefix: str = "") -> torch.Tensor:
    """The first component of each source's directions, float32 (sources, layers, hidden), times its sign if `signed`.

    Args:
        prefix: `validation_` for the vectors that validation is done with.
    """
    rows = []
    for one in vectors:
        directions = torch.as_tensor(one.details[f"{prefix}directions"] if prefix else one.directions)
        signs = torch.as_tensor(one.details[f"{prefix}signs"] if prefix else one.signs)
        rows.append(directions[:, 0] * signs[:, :1] if signed else directions[:, 0])
    return torch.stack(rows)


def recognize(
    states_of: States, split: Split, target: str, sources: Mapping[str, Vectors], args: argparse.Namespace
) -> dict[str, Any]:
    """Recognise one target language's pairs with the vectors of every source language.

    Args:
        states_of: gives texts' states.
        split: the target language's pairs.
        target: its code.
        sources: vectors by source language, of the same model.
        args: direction_method and no_validation as on the command line.

    Returns:
        New rows for `acc.pt`, by table, for this target.

    Raises:
        UserError: the vectors do not fit the model.
    """
    signed = READERS[args.direction_method].signed_recognition
    validating = {
        source: one
        for source, one in sources.items()
        if "validation_directions" in one.details and not args.no_validation
    }
    held_out = split.train[fitted_on(len(split.train)) :] if validating else ()
    states = states_of(texts_of([*split.test, *held_out])).unflatten(1, (-1, 2))
    check_fit(sources, len(states), states.shape[-1])
    correct = correct_pairs(stacked_directions([*sources.values()], signed), states[:, : len(split.test)]).cpu()
    rows: dict[str, Any] = {
        "accuracy": _by_source(sources, target, accuracy(correct)),
        "correct": _by_source(sources, target, correct.to(torch.uint8)),
        "test_pairs": {target: len(split.test)},
        "test_keys": {target: [pair.key for pair in split.test]},
    }
    if held_out:
        fitted = stacked_directions([*validating.values()], signed, "validation_")
        values = accuracy(correct_pairs(fitted, states[:, len(split.test) :])).cpu()
        rows["validation"] = _by_source(validating, target, values)
    return rows


def _by_source(sources: Mapping[str, Vectors], target: str, rows: torch.Tensor) -> dict[str, dict[str, torch.Tensor]]:
    return {source: {target: row} for source, row in zip(sources, rows, strict=True)}
