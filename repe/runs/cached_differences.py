"""States of items from the cache of hidden states, for analyses that vectors are not enough for."""

import argparse
import hashlib
from typing import Any

import numpy as np

from repe import data
from repe.analysis.learned_transfer import Language
from repe.data import Pair
from repe.errors import UserError
from repe.results.meta import setting
from repe.results.vector_file import VectorFile
from repe.vectors.state_cache import SETTINGS, StateCache


def shared_differences(
    args: argparse.Namespace, file: VectorFile, languages: list[str]
) -> tuple[list[np.ndarray], list[str]]:
    """Differences (positive minus negative) of the pairs that all languages have, training and test pairs.

    Args:
        args: with the folders of the cache and of the data.
        file: the vectors that the same states gave; its settings find them.
        languages: of one concept.

    Returns:
        float32 (layers, pairs, hidden) for each language, pairs in one order; and the item of each pair.

    Raises:
        UserError: the cache has no states of a language, or the languages share too few pairs.
    """
    states = [cached_states(args, file, language) for language in languages]
    pairs_of = {language: pairs for language, (pairs, _) in zip(languages, states, strict=True)}
    keys = data.shared_keys(pairs_of, file.concept)
    places = [{pair.key: place for place, pair in enumerate(pairs)} for pairs, _ in states]
    chosen = [one[:, [place[key] for key in keys]] for (_, one), place in zip(states, places, strict=True)]
    item_of = {pair.key: pair.item or pair.key for pair in states[0][0]}
    return [one[:, :, 0] - one[:, :, 1] for one in chosen], [item_of[key] for key in keys]


def cached_states(args: argparse.Namespace, file: VectorFile, language: str) -> tuple[list[Pair], np.ndarray]:
    """All pairs of a language in file order, and their states.

    Returns:
        The pairs, and float32 (layers, pairs, 2, hidden), the positive text of each pair first.

    Raises:
        UserError: the cache has no states of the language.
    """
    if missing := [name for name in SETTINGS if name not in file.meta]:
        raise UserError(f"{file.path} does not record {missing[0]}, so its states cannot be found: run stage 1 again")
    cache = StateCache(args.cache_states, _NoModel(file.meta["model"]), file.meta)  # type: ignore[arg-type]
    pairs = data.read_pairs(data.data_file(args.data_dir, file.concept, language), file.concept)
    texts = data.texts_of(pairs)
    return pairs, cache.of(texts).states(texts).float().unflatten(1, (-1, 2)).numpy()


def languages_with_states(args: argparse.Namespace, file: VectorFile, languages: list[str]) -> dict[str, Language]:
    """States, vectors and split of languages of one concept, for `learned_transfer`.

    Raises:
        UserError: the cache has no states of a language, or the data have changed since its vectors were collected.
    """
    found, split = {}, [setting(file.meta, name) for name in ("split", "split_by", "folds")]
    for language, vectors in file.of(languages).items():
        content = data.data_file(args.data_dir, file.concept, language).read_bytes()
        file.check_inputs("data", {language: hashlib.sha256(content).hexdigest()})
        pairs, states = cached_states(args, file, language)
        keys, parts = [pair.key for pair in pairs], data.parts_of(pairs, *split)
        fitted = [one.directions[:, 0] for one in (vectors.folds or [vectors])]
        found[language] = Language(states, keys, [pair.item or pair.key for pair in pairs], parts, fitted)
    return found


class _NoModel:
    """In place of a model that is not to be loaded."""

    def __init__(self, label: str) -> None:
        self.label = label

    def load(self) -> Any:
        raise UserError(
            f"--cache-states has no states of {self.label} for this data: run collect_vector.py with the same "
            "--cache-states and --data-dir first, and with --overwrite if it has collected the vectors without a cache"
        )
