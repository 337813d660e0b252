"""Collecting concept vectors of one concept in one language (Section 3.1)."""

import argparse
import zlib
from typing import Any

import torch

from repe.data import Split, train_size
from repe.paper import TRAIN_SHARE
from repe.vectors.readers import READERS, RandomRepReader, RepReader
from repe.vectors.state_cache import States


def fitted_on(train_pairs: int) -> int:
    """How many training pairs, the first ones, fit the vectors that the remaining fifth validates."""
    return train_size(train_pairs, TRAIN_SHARE)


def new_reader(method: str, seed: int, concept: str, language: str) -> RepReader:
    """A reader of a method; random directions depend on seed, concept and language, not on what was run before."""
    if method == RandomRepReader.method:
        return RandomRepReader([seed, zlib.crc32(concept.encode()), zlib.crc32(language.encode())])
    return READERS[method]()


def collect(states_of: States, split: Split, concept: str, language: str, args: argparse.Namespace) -> dict[str, Any]:
    """Collect a language's vectors: the training texts' states, and the readers fitted on them.

    Args:
        states_of: gives texts' states.
        args: direction_method, seed, no_validation as on the command line.

    Returns:
        What `reader_dict.pt` keeps of the language, see `vectors_entry`.
    """
    states = states_of(split.train_texts()).unflatten(1, (len(split.train), 2))
    readers = [new_reader(args.direction_method, args.seed, concept, language) for _ in range(2)]
    return vectors_entry(states, split, readers[0], None if args.no_validation else readers[1])


def vectors_entry(
    states: torch.Tensor, split: Split, reader: RepReader, validation_reader: RepReader | None
) -> dict[str, Any]:
    """What `reader_dict.pt` keeps of a language.

    Args:
        states: (layers, pairs, 2, hidden) of the training pairs.
        split: the pairs and their labels.
        reader: fitted here on all training pairs.
        validation_reader: fitted here on the first four fifths of them; None for no validation.

    Returns:
        directions float32 (layers, components, hidden), signs int8 (layers, components), train_pairs, mean_norm float32
        (layers,): the mean norm of a training text's state; and, where there are enough pairs, the directions and signs
        for validation.
    """
    labels = torch.tensor(split.labels)
    entry = _tensors(reader.fit(states, labels))
    entry["train_pairs"] = len(split.train)
    entry["mean_norm"] = torch.stack([state.float().norm(dim=-1).mean().cpu() for state in states])
    count = fitted_on(len(split.train))
    if validation_reader and count:
        part = _tensors(validation_reader.fit(states[:, :count], labels[:count]))
        entry |= {f"validation_{name}": value for name, value in part.items()}
    return entry


def _tensors(reader: RepReader) -> dict[str, Any]:
    directions, signs = reader.stacked()
    return {"directions": torch.from_numpy(directions), "signs": torch.from_numpy(signs)}
