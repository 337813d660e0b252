"""Differences of shared items from cached hidden states, for measures of similarity that need them."""

import argparse
from typing import Any

import numpy as np

from repe import data
from repe.errors import UserError
from repe.results.vector_file import VectorFile
from repe.vectors.state_cache import SETTINGS, StateCache

FEWEST_ITEMS = 4


def shared_differences(args: argparse.Namespace, file: VectorFile, languages: list[str]) -> list[np.ndarray]:
    """Differences (positive minus negative) of the pairs that all languages have, training and test pairs.

    Args:
        args: with the folders of the cache and of the data.
        file: the vectors that the same states gave; its settings find them.
        languages: of one concept.

    Returns:
        float32 (layers, items, hidden) for each language, items in one order.

    Raises:
        UserError: the cache has no states of a language, or the languages share too few pairs.
    """
    if missing := [name for name in SETTINGS if name not in file.meta]:
        raise UserError(f"{file.path} does not record {missing[0]}, so its states cannot be found: use rsa and angles")
    cache = StateCache(args.cache_states, _NoModel(file.meta["model"]), file.meta)  # type: ignore[arg-type]
    pairs = {}
    for language in languages:
        read = data.read_pairs(data.data_file(args.data_dir, file.concept, language), file.concept)
        pairs[language] = {pair.key: pair for pair in read}
    keys = [key for key in pairs[languages[0]] if all(key in one for one in pairs.values())]
    if len(keys) < FEWEST_ITEMS:
        raise UserError(
            f"{' '.join(languages)} share {len(keys)} pairs of {file.concept}; cka and procrustes need four"
        )
    found = []
    for by_key in pairs.values():
        states = cache.of(data.texts_of(by_key.values())).states(data.texts_of([by_key[key] for key in keys]))
        sides = states.float().unflatten(1, (-1, 2))
        found.append((sides[:, :, 0] - sides[:, :, 1]).numpy())
    return found


class _NoModel:
    """In place of a model that is not to be loaded."""

    def __init__(self, label: str) -> None:
        self.label = label

    def load(self) -> Any:
        raise UserError(
            f"--cache-states has no states of {self.label} for this data: run collect_vector.py with the same "
            "--cache-states and --data-dir first"
        )
