"""States of the items that all languages of a concept have, clean and damaged."""

import argparse
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import numpy as np

from repe import data
from repe.analysis.recognition import pair_states
from repe.data import Pair
from repe.models.source import ModelSource
from repe.runs.stage import concepts_and_languages
from repe.tools.noise.damage import DAMAGES


class Items:
    """Differences (positive minus negative) of one concept's items in several languages.

    Args:
        concept: name.
        pairs: by language, of the same items in one order.
        parts: places of training and test pairs, for each fold.
        states: the differences of pairs, float32 (layers, pairs, hidden).
        seed: of the damage.
    """

    def __init__(
        self,
        concept: str,
        pairs: dict[str, list[Pair]],
        parts: list[tuple[np.ndarray, np.ndarray]],
        states: Callable[[list[Pair]], np.ndarray],
        seed: int,
    ) -> None:
        self.concept, self.pairs, self.parts, self.states, self.seed = concept, pairs, parts, states, seed
        self.languages = list(pairs)
        self.names = [pair.item or pair.key for pair in pairs[self.languages[0]]]
        """Item of each pair."""

    @cached_property
    def clean(self) -> np.ndarray:
        """float32 (languages, layers, pairs, hidden)."""
        return np.stack([self.states(pairs) for pairs in self.pairs.values()])

    def damaged(self, kind: str) -> np.ndarray:
        """The same of damaged texts, for the kinds of `DAMAGES`."""
        damage = DAMAGES[kind]
        return np.stack(
            [
                self.states([Pair(damage(pair.pos, self.seed), damage(pair.neg, self.seed)) for pair in pairs])
                for pairs in self.pairs.values()
            ]
        )


def shared_items(args: argparse.Namespace, source: ModelSource) -> Iterator[tuple[str, Items]]:
    """Items of each concept in the options, by concept.

    Raises:
        UserError: the languages share too few pairs, and what data and model raise.
    """
    of_texts = _states(args, source)
    for concept, languages in concepts_and_languages(args).items():
        read = {one: data.read_pairs(data.data_file(args.data_dir, concept, one), concept) for one in languages}
        keys = data.shared_keys(read, concept)
        by_key = {language: {pair.key: pair for pair in pairs} for language, pairs in read.items()}
        pairs = {language: [one[key] for key in keys] for language, one in by_key.items()}
        parts = data.parts_of(pairs[languages[0]], args.split, args.split_by, args.folds)
        yield concept, Items(concept, pairs, parts, of_texts, args.seed)


def _states(args: argparse.Namespace, source: ModelSource) -> Callable[[list[Pair]], np.ndarray]:
    """Differences of pairs, from the cache where there is one."""
    cache: Any = None
    if args.cache_states:
        from repe.vectors.state_cache import StateCache  # only with this option

        cache = StateCache(args.cache_states, source, source.record)
    model: Any = None if cache else source.load()

    def of(pairs: list[Pair]) -> np.ndarray:
        states = pair_states(cache.of(data.texts_of(pairs)) if cache else model, pairs).float()
        return (states[:, :, 0] - states[:, :, 1]).cpu().numpy()

    return of
