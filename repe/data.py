"""MVALUE files: the pairs of a concept in a language, and their split into training and test (Section 3.1).

`<data-dir>/<concept>/<concept>_<language>.json` is `{group: {item: sample}}`; a sample has the sides `pos` and `neg`,
a deontology sample also a `scenario`, a truthfulness sample a `question`.
"""

import hashlib
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repe.errors import UserError, first_of
from repe.files import plain_name, sha256
from repe.paper import CONCEPTS, LANGUAGES, TRAIN_SHARE, in_paper_order

# What comes before a side, by the sample's field. The paper's other concepts take the side alone.
CONTEXTS = {"scenario": "{context} {side}", "question": "Question: {context} Answer: {side}"}
CONTEXT_OF = {"deontology": "scenario", "truthfulness": "question"}

FAULTS_SHOWN = 8

# The released code seeds every language's split with this; results with another would not be comparable.
SPLIT_SEED = 1


@dataclass(frozen=True)
class Pair:
    """The two texts of a sample, before the model's template."""

    key: str
    """`group|item`, the same for all translations of a sample."""
    positive: str
    negative: str


@dataclass(frozen=True)
class Dataset:
    """The pairs of one file whose sides differ, in file order."""

    path: Path
    sha256: str
    pairs: tuple[Pair, ...]


@dataclass(frozen=True)
class Split:
    """Training and test pairs of one file as the released code draws them."""

    sha256: str
    """Of the file."""
    train: tuple[Pair, ...]
    positive_first: tuple[bool, ...]
    """For each training pair, whether its positive side is the first of its two shuffled texts."""
    labels: tuple[tuple[bool, bool], ...]
    """For each training pair, which of its two shuffled texts is labelled positive (wrong ones with random labels)."""
    test: tuple[Pair, ...]
    pairs: tuple[Pair, ...]
    """All of the file's, in its order."""

    def train_texts(self) -> list[str]:
        """The training texts, two a pair, each pair in its shuffled order."""
        return [
            text
            for pair, first in zip(self.train, self.positive_first, strict=True)
            for text in ((pair.positive, pair.negative) if first else (pair.negative, pair.positive))
        ]


def texts_of(pairs: Sequence[Pair]) -> list[str]:
    """The texts of `pairs`, two a pair, the positive one first."""
    return [text for pair in pairs for text in (pair.positive, pair.negative)]


def data_file(data_dir: Path, concept: str, language: str) -> Path:
    """Where the pairs of `concept` in `language` are."""
    concept, language = plain_name(concept, "the concept"), plain_name(language, "the language")
    return data_dir / concept / f"{concept}_{language}.json"


def concepts_in(data_dir: Path) -> list[str]:
    """The concepts of a data folder: the paper's in its order, then the others by name.

    Raises:
        UserError: there is no such folder, or no data in it.
    """
    concepts = in_paper_order({path.parent.name for path in data_dir.glob("*/*_*.json") if _language(path)}, CONCEPTS)
    if not concepts:
        raise UserError(
            f"no data in {data_dir}: expected {data_dir}/<concept>/<concept>_<language>.json; "
            "download MVALUE as the README says or name another folder with --data-dir"
        )
    return concepts


def languages_of(data_dir: Path, concept: str) -> list[str]:
    """The languages that a data folder has `concept` in: the paper's in its order, then the others by name."""
    paths = (data_dir / plain_name(concept, "the concept")).glob(f"{concept}_*.json")
    return in_paper_order(filter(None, map(_language, paths)), LANGUAGES)


def _language(path: Path) -> str:
    prefix = f"{path.parent.name}_"
    return path.stem.removeprefix(prefix) if path.stem.startswith(prefix) else ""


def read_pairs(data_dir: Path, concept: str, language: str) -> Dataset:
    """Read and check one file; pairs with equal sides are dropped, as released.

    Raises:
        UserError: the file is missing, is not UTF-8 or JSON, has faulty samples (all are named, up to a number), or
            fewer than two pairs.
    """
    path = data_file(data_dir, concept, language)
    raw = _read_bytes(path, data_dir, concept)
    samples = _parse(path, raw)
    faults = [fault for key, sample in _samples(samples) if (fault := _fault(concept, key, sample))]
    if faults:
        raise UserError(f"{path}: {first_of(faults, FAULTS_SHOWN)}. Mend the file, or download it again")
    pairs = tuple(
        Pair(key, _text(concept, sample, "pos"), _text(concept, sample, "neg"))
        for key, sample in _samples(samples)
        if sample["pos"] != sample["neg"]
    )
    if len(pairs) < 2:
        raise UserError(
            f"{path}: {len(pairs)} pair(s) whose sides differ, but a split into training and test needs two"
        )
    return Dataset(path, sha256(raw), pairs)


def _read_bytes(path: Path, data_dir: Path, concept: str) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        known = languages_of(data_dir, concept)
        if known:
            remedy = f"{data_dir} has {concept} in {' '.join(known)}: choose among these with --lang"
        else:
            remedy = f"{data_dir} has {' '.join(concepts_in(data_dir))}: choose among these with --concept"
        raise UserError(f"{path} is not there; {remedy}, or name another folder with --data-dir") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): check its permissions") from error


def _parse(path: Path, raw: bytes) -> dict[str, Any]:
    try:
        # A byte order mark, which some editors write, is no part of the text.
        samples = json.loads(raw.decode("utf-8-sig"), object_pairs_hook=_without_repeats)
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 (byte {error.start}): save it as UTF-8, or download it again") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise UserError(f"{path} is not JSON ({error.msg} at {where}): mend it, or download it again") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: {error}. Mend the file, or download it again") from None
    if not isinstance(samples, dict) or not all(isinstance(group, dict) for group in samples.values()):
        raise UserError(f"{path} is not {{group: {{item: sample}}}}: two levels of names above the samples are needed")
    return samples


def _without_repeats(items: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; json.loads would silently keep the last of two equal keys."""
    names = [name for name, _ in items]
    if repeated := sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []:
        raise ValueError(f"key {repeated[0]!r} stands twice in one object")
    return dict(items)


def _samples(groups: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for group, items in groups.items():
        for item, sample in items.items():
            yield f"{group}|{item}", sample


def _fault(concept: str, key: str, sample: Any) -> str:
    """What is wrong with a sample, in a few words; empty if nothing is."""
    if not isinstance(sample, dict):
        return f"{key} is no object with 'pos' and 'neg'"
    for name in ("pos", "neg", *_contexts(concept, sample)):
        if name not in sample:
            return f"{key} has no {name!r}"
        if not isinstance(sample[name], str):
            return f"{key}: {name!r} is no text"
        if not sample[name].strip():
            return f"{key}: {name!r} is empty"
        if any("\ud800" <= mark <= "\udfff" for mark in sample[name]):
            return f"{key}: {name!r} holds half of a surrogate pair"
    return ""


def _contexts(concept: str, sample: dict[str, Any]) -> list[str]:
    """Fields whose text comes before a side: by concept for the paper's, else those that the sample has."""
    if concept in CONCEPTS:
        return [CONTEXT_OF[concept]] if concept in CONTEXT_OF else []
    return [name for name in CONTEXTS if name in sample]


def _text(concept: str, sample: dict[str, Any], side: str) -> str:
    text = str(sample[side])
    # The question, if there is one, stands next to its answer; the scenario comes before both.
    for name in reversed(_contexts(concept, sample)):
        text = CONTEXTS[name].format(context=sample[name], side=text)
    return text


def train_size(pairs: int, split: float) -> int:
    """How many of `pairs` are trained on: a share below 1, a number from 1 on, at most 80 % in either case."""
    wanted = int(split) if split >= 1 else int(split * pairs)
    return min(wanted, int(TRAIN_SHARE * pairs))


def place(key: str) -> float:
    """Where an item stands in the order that `--split-by item` splits, 0..1: from 0.8 on it is tested.

    A hash of its key alone, so that the place is the same in every language, whichever languages there are, and stays
    when a data folder grows. The share of test items is 0.2 on average, not exactly.
    """
    digest = hashlib.sha256(f"{SPLIT_SEED}|{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _by_item(dataset: Dataset, split: float) -> tuple[list[Pair], list[Pair]]:
    """Training and test pairs, all languages split at the same items."""
    pairs = sorted(dataset.pairs, key=lambda pair: place(pair.key))
    count = sum(place(pair.key) < TRAIN_SHARE for pair in pairs)
    if not 0 < count < len(pairs):
        what = "test" if count else "train"
        raise UserError(
            f"--split-by item leaves none of the {len(pairs)} pairs of {dataset.path} to {what} on: give more pairs, "
            "or --split-by pair"
        )
    # A share is one of all pairs, so that 0.8 trains on all that are not tested, and 0.4 on half of them.
    return pairs[: min(count, int(split) if split >= 1 else int(split / TRAIN_SHARE * count))], pairs[count:]


def split_pairs(
    dataset: Dataset, split: float = TRAIN_SHARE, random_labels: bool = False, split_by: str = "pair"
) -> Split:
    """Split one language's pairs as released: shuffled with a fixed seed, the first part trains, the last 20 % tests.

    Args:
        split: share (below 1) or number (1 and above) of training pairs; the test set does not depend on it.
        random_labels: shuffle each training pair's labels, for the baseline of `--random-direction`.
        split_by: `pair`, or `item`: instead of a shuffle, the items' places (see `place`) decide, which are the same in
            all languages, so that no translation of a training item is tested in any of them.

    Raises:
        UserError: no pair is left to train on, or to test on.
    """
    # One generator for all three shuffles, in this order: what the released code draws depends on it.
    generator = random.Random(SPLIT_SEED)
    pairs = list(dataset.pairs)
    if split_by == "item":
        train, test = _by_item(dataset, split)
    else:
        generator.shuffle(pairs)
        train, test = pairs[: train_size(len(pairs), split)], pairs[int(TRAIN_SHARE * len(pairs)) :]
    if not train:
        raise UserError(
            f"--split {split} leaves none of the {len(pairs)} pairs of {dataset.path} to train on: raise it"
        )
    labels = [_shuffled([True, False], generator) for _ in train]
    positive_first = tuple(label[0] for label in labels)
    if random_labels:
        labels = [_shuffled(label, generator) for label in labels]
    sides = tuple((label[0], label[1]) for label in labels)
    return Split(dataset.sha256, tuple(train), positive_first, sides, tuple(test), dataset.pairs)


def _shuffled(items: list[bool], generator: random.Random) -> list[bool]:
    generator.shuffle(items)
    return items
