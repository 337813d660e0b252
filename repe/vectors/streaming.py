"""Concept vectors in memory that does not grow with the texts: `collect_vector.py --stream` (Section 3.1).

Class sums take in a batch of states at a time. What needs the finished direction, its sign, is read from a temporary
file in which the states were put aside: running the texts again would take as long as the first time.
"""

import argparse
import os
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from repe.data import Split
from repe.errors import UserError
from repe.models.loading import Model
from repe.vectors.collection import fitted_on
from repe.vectors.hidden_states import visit_last_tokens
from repe.vectors.readers import ClusterMeanRepReader, check_direction, signs_of


def check_options(args: argparse.Namespace) -> None:
    """Refuse what does not go with `--stream`.

    Raises:
        UserError: another method than the difference of class means, or a folder of states.
    """
    if args.stream and args.direction_method != ClusterMeanRepReader.method:
        raise UserError(
            f"--stream sums states as they come, which --direction-method {args.direction_method} does not do: leave "
            "out one of the two"
        )
    if args.stream and args.cache_states:
        raise UserError("--stream keeps no states, and --cache-states keeps them all: leave out one of the two")


class ClassMeans:
    """The mean state of positive texts minus that of negative ones, and the mean norm, from batches in any order.

    Sums are float64: a difference of means is small beside the means, and so many texts are added one by one.

    Args:
        labels: bool (pairs, 2), True for the text counted as positive.
        parts: how many of the first pairs each direction is fitted on.
        layers, hidden: of the states.
    """

    def __init__(self, labels: torch.Tensor, parts: Sequence[int], layers: int, hidden: int) -> None:
        inside = torch.arange(len(labels))[:, None] < torch.tensor(parts)[:, None, None]
        classes = torch.stack([inside & labels, inside & ~labels], dim=1)
        self.classes = classes.flatten(2).double()
        """(parts, 2, texts): 1 where a text counts as positive, and as negative."""
        self.sums = torch.zeros(layers, len(parts), 2, hidden, dtype=torch.float64)
        self.norms = torch.zeros(layers, dtype=torch.float64)

    def update(self, rows: Sequence[int], states: Sequence[torch.Tensor]) -> None:
        """Take in the texts at `rows`, whose states are (texts, hidden) for each layer."""
        classes = self.classes[:, :, rows]
        for layer, state in enumerate(states):
            wide = state.double()
            self.sums[layer] += classes @ wide
            self.norms[layer] += wide.norm(dim=-1).sum()

    def directions(self) -> torch.Tensor:
        """The differences of the class means, float32 (parts, layers, hidden)."""
        means = self.sums / self.classes.sum(dim=-1)[..., None]
        return (means[:, :, 0] - means[:, :, 1]).transpose(0, 1).float()

    def mean_norm(self) -> torch.Tensor:
        """The mean norm of a text's state, float32 (layers,)."""
        return (self.norms / self.classes.shape[-1]).float()


class Spool:
    """States put aside in a temporary file, which is gone with the process, however that ends.

    Args:
        dtype: of the states.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.file = tempfile.TemporaryFile()  # noqa: SIM115  # closed by __exit__
        self.batches: list[tuple[Sequence[int], int]] = []
        """Rows, and how many layers."""

    def __enter__(self) -> "Spool":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def add(self, rows: Sequence[int], states: Sequence[torch.Tensor]) -> None:
        """Put aside the states, (texts, hidden) for each layer, of the texts at `rows`.

        Raises:
            UserError: there is no room for them.
        """
        try:
            for state in states:
                self.file.write(state.contiguous().view(torch.uint8).numpy().data)
        except OSError as error:
            raise UserError(
                f"the states that --stream puts aside cannot be written to {tempfile.gettempdir()} ({error.strerror}): "
                "name a folder with more room in the variable TMPDIR"
            ) from error
        self.batches.append((rows, len(states)))

    def __iter__(self) -> Iterator[tuple[Sequence[int], int, torch.Tensor]]:
        """Rows, layer (from 0) and their states (texts, hidden), in the order in which they came."""
        size = self.file.seek(0, os.SEEK_END) // max(1, sum(len(rows) * layers for rows, layers in self.batches))
        self.file.seek(0)
        for rows, layers in self.batches:
            for layer in range(layers):
                raw = bytearray(self.file.read(len(rows) * size))
                yield rows, layer, torch.frombuffer(raw, dtype=self.dtype).view(len(rows), -1)


def collect_streaming(
    model: Model, split: Split, batch_size: int | None = None, validation: bool = True
) -> dict[str, Any]:
    """What `repe.vectors.collection.collect` gives for `cluster_mean`, from states that are not kept in memory.

    Args:
        model: gives the states.
        split: the pairs and their labels.
        batch_size: texts a batch; None for as many as a budget of tokens allows.
        validation: also fit on the first four fifths of the training pairs.

    Raises:
        UserError: what `visit_last_tokens` raises; a direction is zero; there is no room for the temporary file.
    """
    labels, texts = torch.tensor(split.labels), split.train_texts()
    part = fitted_on(len(labels)) if validation else 0
    parts = [len(labels), part] if part else [len(labels)]
    means = ClassMeans(labels, parts, model.layers, model.hidden_size)
    with Spool(model.dtype) as spool:

        def take(rows: list[int], states: list[torch.Tensor]) -> None:
            # All at once before any is counted: a batch that runs out of memory on the way is run again.
            on_cpu = [state.cpu() for state in states]
            spool.add(rows, on_cpu)
            means.update(rows, on_cpu)

        visit_last_tokens(model, texts, take, batch_size)
        directions = means.directions()
        for pairs, of_part in zip(parts, directions, strict=True):
            for layer, direction in enumerate(of_part, start=1):
                check_direction(direction[None], ClusterMeanRepReader.method, layer, pairs)
        projections = _projections(spool, directions, len(texts))
    signs = [signs_of(projections[:pairs, :, place], labels[:pairs]) for place, pairs in enumerate(parts)]
    entry = {"directions": directions[0][:, None], "signs": signs[0][:, None], "train_pairs": len(labels)}
    entry["mean_norm"] = means.mean_norm()
    if part:
        entry |= {"validation_directions": directions[1][:, None], "validation_signs": signs[1][:, None]}
    return entry


def _projections(spool: Spool, directions: torch.Tensor, texts: int) -> torch.Tensor:
    """Projections, float32 (pairs, 2, parts, layers), of the spooled states onto directions (parts, layers, hidden)."""
    units = directions / directions.norm(dim=-1, keepdim=True)
    projections = torch.empty(texts, *units.shape[:2])
    for rows, layer, state in spool:
        projections[rows, :, layer] = state.float() @ units[:, layer].T
    return projections.view(-1, 2, *units.shape[:2])
