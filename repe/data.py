"""Pairs of texts and their split into training and test pairs (Section 3.1).

`<data-dir>/<concept>/<concept>_<language>.json` is `{group: {name: sample}}`. A sample has the sides `pos` and `neg`, a
deontology sample also a `scenario`, a truthfulness sample a `question`, and optionally an `item` (see `split_pairs`).
"""

import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repe.errors import UserError, first_of
from repe.files import is_plain_name, plain_name, read_regular
from repe.paper import CONCEPTS, LANGUAGES, TRAIN_SHARE, in_paper_order

if TYPE_CHECKING:
    import numpy as np

# Text in front of a side, by the sample's field. The paper's other concepts use the side alone.
CONTEXTS = {"scenario": "{context} {side}", "question": "Question: {context} Answer: {side}"}
CONTEXT_OF = {"deontology": "scenario", "truthfulness": "question"}

FAULTS_SHOWN = 8
# Pairs that languages must share to be compared pair by pair.
FEWEST_SHARED = 4
OTHER_FOLDER = "or name another folder with --data-dir"

# The released code seeds every language's split with this; another seed would make results incomparable.
SPLIT_SEED = 1


@dataclass(frozen=True)
class Pair:
    """The two complete texts of a sample (scenario or question included), before the model's template."""

    pos: str
    neg: str
    key: str = ""
    """`group|name` in the file, the same for all translations of a sample."""
    item: str = ""
    """Samples that share an item belong together: they are split and resampled as one. The key unless the file says."""
    pos_first: bool = True
    """Whether the positive text is the first of the two, in the order drawn by `split_pairs`."""
    first_is_positive: bool = True
    """Whether the first text is labelled positive: `pos_first`, unless labels are random."""


Pairs = Sequence[Pair] | Sequence[tuple[str, str]]
"""Pairs, or plain (positive, negative) texts."""


def as_pairs(pairs: Pairs) -> list[Pair]:
    """`pairs` with every plain tuple (positive, negative) as a `Pair`."""
    return [pair if isinstance(pair, Pair) else Pair(*pair) for pair in pairs]


def texts_of(pairs: Iterable[Pair]) -> list[str]:
    """The texts of `pairs`, two per pair, the positive one first."""
    return [text for pair in pairs for text in (pair.pos, pair.neg)]


def data_file(data_dir: Path, concept: str, language: str) -> Path:
    """The path of the pairs of `concept` in `language`."""
    concept, language = plain_name(concept, "concept"), plain_name(language, "language")
    return data_dir / concept / f"{concept}_{language}.json"


def concepts_in(data_dir: Path) -> list[str]:
    """The concepts of a data folder: the paper's in its order, then the others by name.

    Raises:
        UserError: the folder does not exist or has no data.
    """
    concepts = in_paper_order({path.parent.name for path in data_dir.glob("*/*_*.json") if _language(path)}, CONCEPTS)
    if not concepts:
        folder = data_dir.resolve()
        if is_plain_name(folder.name) and languages_of(folder.parent, folder.name):
            raise UserError(f"{data_dir} is the folder of one concept: give the folder around it with --data-dir")
        raise UserError(
            f"no data in {data_dir}: expected {data_dir}/<concept>/<concept>_<language>.json; "
            f"download MVALUE (see README) {OTHER_FOLDER}"
        )
    return concepts


def languages_of(data_dir: Path, concept: str) -> list[str]:
    """The languages in which a data folder has `concept`: the paper's in its order, then the others by name."""
    paths = (data_dir / plain_name(concept, "concept")).glob(f"{concept}_*.json")
    return in_paper_order(filter(None, map(_language, paths)), LANGUAGES)


def _language(path: Path) -> str:
    prefix = f"{path.parent.name}_"
    return path.stem.removeprefix(prefix) if path.stem.startswith(prefix) else ""


def read_pairs(path: str | Path, concept: str | None = None) -> list[Pair]:
    """Read and check one data file. Pairs with equal sides are dropped, as in the released code.

    Args:
        path: a file `{group: {name: sample}}`.
        concept: decides which field goes in front of the sides; the parent folder's name by default.

    Returns:
        The pairs in file order.

    Raises:
        UserError: the file is missing, is not UTF-8 or JSON, has invalid samples (all are named, up to a limit), or has
            fewer than two pairs.
    """
    path = Path(path)
    concept = concept or path.resolve().parent.name
    found = [
        _pair(concept, f"{group}|{name}", sample)
        for group, items in _parse(path).items()
        for name, sample in items.items()
    ]
    if faults := [fault for fault in found if isinstance(fault, str)]:
        raise UserError(f"{path}: {first_of(faults, FAULTS_SHOWN)}. Fix the file or download it again")
    pairs = [pair for pair in found if isinstance(pair, Pair) and pair.pos != pair.neg]
    if len({pair.key for pair in pairs}) < len(pairs):
        raise UserError(f"{path}: two samples have the same group|name: rename one, or remove '|' from the names")
    if len(pairs) < 2:
        raise UserError(f"{path}: {len(pairs)} pair(s) with different sides; training and testing need at least two")
    return pairs


def _parse(path: Path) -> dict[str, dict[str, Any]]:
    try:
        # A byte order mark, which some editors write, is not part of the text.
        groups = json.loads(read_regular(path).decode("utf-8-sig"), object_pairs_hook=unique_keys)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; {_alternatives(path)}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): check its permissions") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 (byte {error.start}): save it as UTF-8 or download it again") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise UserError(f"{path} is not valid JSON ({error.msg}, {where}): fix it or download it again") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: {error}. Fix the file or download it again") from None
    levels = groups.values() if isinstance(groups, dict) else [groups]
    # With the texts of a sample in place of samples, a level is missing.
    if not all(isinstance(items, dict) and not isinstance(items.get("pos"), str) for items in levels):
        raise UserError(f"{path} does not have the form {{group: {{name: sample}}}}: put two levels above the samples")
    return groups  # type: ignore[no-any-return]


def _alternatives(path: Path) -> str:
    """What a data folder has in place of the missing file `path`."""
    data_dir, concept = path.parent.parent, path.parent.name
    if languages := languages_of(data_dir, concept):
        return f"{data_dir} has {concept} in {' '.join(languages)}: choose from these with --lang, {OTHER_FOLDER}"
    try:
        return f"{data_dir} has {' '.join(concepts_in(data_dir))}: choose from these with --concept, {OTHER_FOLDER}"
    except UserError as error:
        return str(error)


def unique_keys(items: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, for `object_pairs_hook`; json.loads alone would silently keep the last of two equal keys.

    Raises:
        ValueError: two keys are equal.
    """
    unique = dict(items)
    if len(unique) < len(items):
        repeated = Counter(name for name, _ in items).most_common(1)[0][0]
        raise ValueError(f"the key {repeated!r} appears twice in one object")
    return unique


def _pair(concept: str, key: str, sample: Any) -> Pair | str:
    """The pair of a sample, or what is wrong with the sample."""
    if not isinstance(sample, dict):
        return f"{key} is not an object with 'pos' and 'neg'"
    # In front of a side: by concept for the paper's concepts, else those fields that the sample has.
    contexts = [name for name in CONTEXTS if name in sample]
    if concept in CONCEPTS:
        contexts = [CONTEXT_OF[concept]] if concept in CONTEXT_OF else []
    for name in ("pos", "neg", *contexts, *(["item"] if "item" in sample else [])):
        if name not in sample:
            return f"{key} has no {name!r}"
        if not isinstance(sample[name], str):
            return f"{key}: {name!r} is not text"
        if not sample[name].strip():
            return f"{key}: {name!r} is empty"
        if any("\ud800" <= mark <= "\udfff" for mark in sample[name]):
            return f"{key}: {name!r} contains half of a surrogate pair"
    pos, neg = sample["pos"], sample["neg"]
    # With both, the question stands next to its answer and the scenario in front.
    for name in reversed(contexts):
        pos, neg = (CONTEXTS[name].format(context=sample[name], side=side) for side in (pos, neg))
    return Pair(pos, neg, key, sample.get("item", key))


def train_size(pairs: int, split: float) -> int:
    """Number of training pairs out of `pairs`: a share below 1, a number from 1 on, at most 80 % in either case."""
    wanted = int(split) if split >= 1 else int(split * pairs)
    return min(max(wanted, 0), int(TRAIN_SHARE * pairs))


def item_position(item: str) -> float:
    """Position of an item in the order that `by="item"` splits, in [0, 1): from 0.8 on it is a test item.

    A hash of the item's name alone: the position is the same in all languages and does not change when a data folder
    grows. The share of test items is 0.2 on average, not exactly.
    """
    digest = hashlib.sha256(f"{SPLIT_SEED}|{item}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def folds_of(pairs: Sequence[Pair], folds: int) -> list[int]:
    """The fold of each pair, 0..folds-1: that of its item, the same in all languages.

    Raises:
        UserError: all items are in one fold.
    """
    found = [int(item_position(pair.item or pair.key) * folds) for pair in pairs]
    if len(set(found)) < 2:
        raise UserError(f"--folds {folds} leaves no training pairs: all items are in one fold; add items")
    return found


def split_pairs(
    pairs: Pairs, split: float = TRAIN_SHARE, by: str = "pair", random_labels: bool = False
) -> tuple[list[Pair], list[Pair]]:
    """Split one language's pairs into training and test pairs as the released code does.

    Args:
        pairs: in file order.
        split: share (below 1) or number (1 and above) of training pairs; the test set does not depend on it.
        by: `pair` shuffles each language's pairs by themselves with a fixed seed; the first part trains, the last 20 %
            test. `item` splits all languages at the same items, so that no translation of a training item is tested.
            `folds` returns all pairs twice: `collect` with `folds` holds out the items of one fold after the other.

    Returns:
        Training pairs with their drawn order of sides and labels, and test pairs.

    Raises:
        UserError: no pair is left to train on or to test on; a split by item of pairs without item and key.
        ValueError: `by` is none of the three.
    """
    if by not in ("pair", "item", "folds"):
        raise ValueError(f"by must be 'pair', 'item' or 'folds', not {by!r}")
    # One generator for all three shuffles, in this order: the released code's draws depend on it.
    generator = random.Random(SPLIT_SEED)
    pairs = as_pairs(pairs)
    if by == "item":
        train, test = _by_item(pairs, split)
    elif by == "folds":
        train, test = pairs, pairs
    else:
        generator.shuffle(pairs)
        train, test = pairs[: train_size(len(pairs), split)], pairs[int(TRAIN_SHARE * len(pairs)) :]
    if not train:
        raise UserError(f"--split {split} leaves no training pairs out of {len(pairs)}: use a larger value")
    labels = [[True, False] for _ in train]
    for label in labels:
        generator.shuffle(label)
    order = [first for first, _ in labels]
    if random_labels:
        for label in labels:
            generator.shuffle(label)
    drawn = zip(train, order, labels, strict=True)
    return [replace(pair, pos_first=first, first_is_positive=label[0]) for pair, first, label in drawn], test


def shared_keys(pairs: Mapping[str, Sequence[Pair]], concept: str) -> list[str]:
    """Keys that the pairs of all languages have, in the order of the first language.

    Args:
        pairs: by language.
        concept: for the message.

    Raises:
        UserError: there are fewer than FEWEST_SHARED.
    """
    first, *others = ([pair.key for pair in one] for one in pairs.values())
    shared = set(first).intersection(*others)
    keys = [key for key in first if key in shared]
    if len(keys) < FEWEST_SHARED:
        raise UserError(
            f"{' '.join(pairs)} share {len(keys)} pairs of {concept}, and {FEWEST_SHARED} are needed: give "
            "translations of a pair the same key"
        )
    return keys


def parts_of(pairs: Sequence[Pair], split: float, by: str, folds: int | None) -> "list[tuple[np.ndarray, np.ndarray]]":
    """Places of the training and test pairs among all pairs: one part, or one for each of the folds."""
    import numpy as np  # slow, and reading data does not need it

    if folds:
        fold_of = np.array(folds_of(pairs, folds))
        return [(np.flatnonzero(fold_of != fold), np.flatnonzero(fold_of == fold)) for fold in range(folds)]
    places = {pair.key: place for place, pair in enumerate(pairs)}
    train, test = split_pairs(pairs, split, by)
    return [(np.array([places[pair.key] for pair in train]), np.array([places[pair.key] for pair in test]))]


def _by_item(pairs: list[Pair], split: float) -> tuple[list[Pair], list[Pair]]:
    """Training and test pairs, split at the same items in all languages."""
    if not all(pair.item or pair.key for pair in pairs):
        raise UserError("a split by item needs the item of each pair: use read_pairs, or Pair(pos, neg, item=...)")
    pairs = sorted(pairs, key=lambda pair: item_position(pair.item or pair.key))
    count = sum(item_position(pair.item or pair.key) < TRAIN_SHARE for pair in pairs)
    if not 0 < count < len(pairs):
        what = "test" if count else "training"
        raise UserError(f"--split-by item leaves no {what} pairs out of {len(pairs)}: add pairs or use --split-by pair")
    # A share refers to all pairs: 0.8 trains on every pair that is not tested, 0.4 on half of them.
    return pairs[: min(count, int(split) if split >= 1 else int(split / TRAIN_SHARE * count))], pairs[count:]
