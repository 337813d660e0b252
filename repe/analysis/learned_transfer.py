"""Transfer after an orthogonal map between two languages' states, learned from a few translated items.

Section 3.4 applies the vectors of one language to another as they are. If the two languages represent the concept alike
up to a rotation, a rotation that is fitted on translations (orthogonal Procrustes: Schönemann 1966) should help.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from repe.errors import UserError
from repe.uncertainty.bootstrap import ALL
from repe.uncertainty.intervals import paired

# Numbers of translated training items that the map is fitted on; None for all of them.
ITEMS = (0, 1, 4, 16, None)
# To take an item to that of another one.
FEWEST = 2
# Random choices of these items.
DRAWS = 4
# Weight of the identity in the fit: it decides only what the items leave open.
IDENTITY = 1e-6
# The vectors that are compared, in the order of `outcomes`.
VECTORS = ("accuracy", "shuffled", "own_same_items", "own")


@dataclass(frozen=True, eq=False)
class Language:
    """One concept's states and vectors in one language."""

    states: np.ndarray
    """float32 (layers, pairs, 2, hidden), the positive text of each pair first."""
    keys: Sequence[str]
    """Of the pairs: equal for translations."""
    items: Sequence[str]
    """Of the pairs."""
    parts: Sequence[tuple[np.ndarray, np.ndarray]]
    """Places of the training and test pairs: one part, or one for each fold."""
    vectors: Sequence[np.ndarray]
    """float32 (layers, hidden): fitted on the training pairs of each part."""


def mapped(vectors: np.ndarray, source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Vectors of one language after the rotation that takes its states closest to those of another language.

    The rotation R minimises |source R - target| over the texts, each language centred. Where fewer texts than
    dimensions leave it open, it is the one nearest to the identity.

    Args:
        vectors: (layers, hidden).
        source: float (layers, texts, hidden).
        target: states of the same texts' translations, same shape.

    Returns:
        float64 (layers, hidden).
    """
    source, target = (one - one.mean(axis=1, keepdims=True, dtype=np.float64) for one in (source, target))
    # Across the span of all states R is the identity, so that only a part of the size of the texts has to be found.
    basis = np.linalg.qr(np.concatenate([source, target], axis=1).swapaxes(1, 2))[0]
    products = (source @ basis).swapaxes(1, 2) @ (target @ basis)
    sizes = np.sqrt((source**2).sum(axis=(1, 2)) * (target**2).sum(axis=(1, 2)))
    left, _, right = np.linalg.svd(products + IDENTITY * sizes[:, None, None] * np.eye(products.shape[-1]))
    inside = vectors[:, None].astype(np.float64) @ basis
    moved = (inside @ left @ right - inside) @ basis.swapaxes(1, 2)
    return vectors + moved[:, 0]  # type: ignore[no-any-return]


def outcomes(
    source: Language, target: Language, items: int | None, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Which of the target's test pairs several vectors get right, each at its best layer.

    Args:
        items: number of shared training items of the map; None for all.

    Returns:
        float64 (VECTORS, test pairs): share of the draws in which a pair is right, by the source's vectors after the
        map; after the map of shuffled items, where a text is taken to that of another item, same side; by vectors of
        the target that are fitted on the same items (NaN without items); by its own vectors. Then the places of the
        test pairs. Without items the first two are the source's vectors as they are.
    """
    tested = np.concatenate([test for _, test in target.parts])
    found = []
    for _ in range(DRAWS if items else 1):
        correct = []
        for part, (_, test) in enumerate(target.parts):
            vectors = _candidates(source, target, part, items, generator)
            differences = target.states[:, test, 0] - target.states[:, test, 1]
            margins = np.einsum("lph,vlh->vlp", differences, vectors)
            correct.append(np.where(np.isnan(margins), np.nan, margins >= 0))
        layers = np.concatenate(correct, axis=-1)  # (vectors, layers, test pairs)
        best = layers.mean(axis=-1).argmax(axis=-1)
        found.append(layers[np.arange(len(layers)), best])
    return np.mean(found, axis=0), tested


def _candidates(
    source: Language, target: Language, part: int, items: int | None, generator: np.random.Generator
) -> np.ndarray:
    """The vectors of VECTORS for one part, float64 (4, layers, hidden)."""
    own, plain = target.vectors[part], source.vectors[part]
    if items == 0:
        return np.stack([plain, plain, np.full_like(own, np.nan), own])
    places = [{one.keys[place]: place for place in one.parts[part][0]} for one in (source, target)]
    shared = [key for key in places[0] if key in places[1]]
    if len(shared) < FEWEST:
        raise UserError(f"a map needs {FEWEST} training pairs with the same keys in both languages, not {len(shared)}")
    order = generator.permutation(len(shared))
    chosen, others = order[:items], np.roll(order, 1)[:items]
    # (layers, items, 2, hidden)
    ours, theirs, wrong = (
        one.states[:, [place[shared[item]] for item in which]]
        for one, place, which in ((source, places[0], chosen), (target, places[1], chosen), (target, places[1], others))
    )
    few = (theirs[:, :, 0] - theirs[:, :, 1]).mean(axis=1)
    shape = (len(ours), -1, ours.shape[-1])
    maps = [mapped(plain, ours.reshape(shape), to.reshape(shape)) for to in (theirs, wrong)]
    return np.stack([*maps, few, own])


def learned_table(model: str, concepts: Iterable[tuple[str, Mapping[str, Language]]], seed: int) -> pd.DataFrame:
    """Accuracy after the map by number of items, means over concepts and draws.

    Args:
        concepts: languages by name, for each concept.
        seed: of the choice of items.

    Raises:
        UserError: two languages share no training items.

    Returns:
        Columns model, source, target, items (`all` for None), test_items, accuracy, shuffled, own_same_items, own (see
        `outcomes`); difference (accuracy minus shuffled) and gain (accuracy minus that without a map), each with its 95
        % interval over test items, `<name>_low` and `<name>_high`. Source `all` is the mean over sources, and target
        `all` that over targets, too.
    """
    cells: dict[tuple[str, str, int | None], tuple[list[np.ndarray], list[str]]] = {}
    for concept, languages in concepts:
        generator = np.random.default_rng([seed, *concept.encode()])
        for source, target in ((one, other) for one in languages for other in languages if one != other):
            without = None
            for items in ITEMS:
                right, tested = outcomes(languages[source], languages[target], items, generator)
                without = right[:1] if without is None else without
                names = [f"{concept}|{languages[target].items[place]}" for place in tested]
                for key in ((source, target, items), (ALL, target, items), (ALL, ALL, items)):
                    rows, known = cells.setdefault(key, ([], []))
                    rows.append(np.concatenate([right, without]))
                    known.extend(names)
    return pd.DataFrame([_row(model, key, np.concatenate(rows, -1), names) for key, (rows, names) in cells.items()])


def _row(model: str, key: tuple[str, str, int | None], right: np.ndarray, names: list[str]) -> dict[str, Any]:
    source, target, items = key
    row: dict[str, Any] = {"model": model, "source": source, "target": target}
    row |= {"items": ALL if items is None else str(items), "test_items": len(set(names))}
    row |= dict(zip(VECTORS, right.mean(axis=-1), strict=False))
    for name, other in (("difference", right[1]), ("gain", right[-1])):
        low, high = paired(right[0] - other, names)
        row |= {name: (right[0] - other).mean(), f"{name}_low": float(low), f"{name}_high": float(high)}
    return row
