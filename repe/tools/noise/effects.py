"""What damaged training items do to `cluster_mean` vectors and to their accuracy on clean test pairs."""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from repe.errors import UserError
from repe.tools.noise.damage import DAMAGES
from repe.tools.noise.states import Items
from repe.uncertainty.bootstrap import ALL
from repe.uncertainty.intervals import paired

# Random choices of the damaged items.
DRAWS = 20


@dataclass(frozen=True, eq=False)
class Cell:
    """One kind, concept, language and share."""

    kind: str
    concept: str
    language: str
    share: float
    items: list[str]
    """Of the test pairs."""
    right: np.ndarray
    """float64 (4, test pairs): share of the draws in which the vectors get a pair right, each at its best layer:
    with damaged items, without these items, with random labels, with nothing damaged."""
    cosines: tuple[float, float]
    """With the undamaged vector, mean over layers: of vectors with damaged items, and without these items."""


def effects(items: Items, kind: str, shares: Sequence[float], seed: int) -> Iterator[Cell]:
    """The cells of a kind in each language and at each share.

    In each draw the damaged items of a smaller share are among those of a larger one, and they are the same in all
    languages. At least one item stays as it is.

    Raises:
        UserError: there is no other language to mix in.
    """
    if kind == "mix" and len(items.languages) < 2:
        raise UserError("--kind mix needs a second language: add one with --lang")
    damaged = items.damaged(kind) if kind in DAMAGES else None
    for place, language in enumerate(items.languages):
        tested = np.concatenate([test for _, test in items.parts])
        names = [f"{items.concept}|{items.names[one]}" for one in tested]
        for share in shares:
            generator = np.random.default_rng([seed, zlib.crc32(items.concept.encode())])
            right, cosines = [], []
            for train, test in items.parts:
                clean = items.clean[place][:, train]
                order = np.argsort(generator.random((DRAWS, len(train))))
                is_damaged = order < min(round(share * len(train)), len(train) - 1)
                others = _others(items, kind, place, damaged, train, generator)
                directions = _directions(clean, others, is_damaged, generator)
                margins = np.einsum("lph,vdlh->vdlp", items.clean[place][:, test], directions)
                right.append(margins >= 0)
                cosines.append([_cosine(one, directions[3]) for one in directions[:2]])
            correct = np.concatenate(right, axis=-1)  # (vectors, draws, layers, test pairs)
            best = correct.mean(axis=-1).argmax(axis=-1)
            chosen = np.take_along_axis(correct, best[..., None, None], axis=2)[:, :, 0]
            low, high = np.mean(cosines, axis=0)
            yield Cell(kind, items.concept, language, share, names, chosen.mean(axis=1), (float(low), float(high)))


def _others(
    items: Items,
    kind: str,
    place: int,
    damaged: np.ndarray | None,
    train: np.ndarray,
    generator: np.random.Generator,
) -> np.ndarray:
    """Differences that take the place of damaged items, (1 or DRAWS, layers, train, hidden)."""
    if damaged is not None:
        return damaged[None, place][:, :, train]
    if kind == "mislabel":
        return -items.clean[None, place][:, :, train]
    rest = [one for one in range(len(items.languages)) if one != place]
    languages = generator.choice(rest, (DRAWS, len(train)))
    return items.clean[languages, :, train].transpose(0, 2, 1, 3)


def _directions(
    clean: np.ndarray, others: np.ndarray, is_damaged: np.ndarray, generator: np.random.Generator
) -> np.ndarray:
    """The vectors of `Cell.right`, float (4, draws, layers, hidden)."""
    kept = (~is_damaged).astype(np.float32)
    intact = np.einsum("dt,lth->dlh", kept, clean)
    gone = np.einsum("dt,dlth->dlh", is_damaged.astype(np.float32), np.broadcast_to(others, (DRAWS, *others.shape[1:])))
    signs = generator.choice(np.array([-1.0, 1.0], dtype=np.float32), is_damaged.shape)
    unharmed = np.broadcast_to(clean.sum(axis=1), intact.shape)
    return np.stack([intact + gone, intact, np.einsum("dt,lth->dlh", signs, clean), unharmed])


def _cosine(one: np.ndarray, other: np.ndarray) -> float:
    """Mean cosine of directions (draws, layers, hidden); NaN where one is zero."""
    products = (one * other).sum(axis=-1)
    with np.errstate(invalid="ignore"):
        return float((products / (np.linalg.norm(one, axis=-1) * np.linalg.norm(other, axis=-1))).mean())


def summary(model: str, cells: Sequence[Cell]) -> Iterator[dict[str, Any]]:
    """Rows of noise.csv: each cell, and means over concepts (`all`) and over languages as well.

    Columns model, kind, concept, language, share, test_items; accuracy (with damaged items), left_out (without these
    items), random_labels, undamaged; cosine, cosine_left_out (with the undamaged vector); loss (undamaged minus
    accuracy) and excess (left_out minus accuracy), each with its 95 % interval over test items.
    """
    groups: dict[tuple[str, str, str, float], list[Cell]] = {}
    for cell in cells:
        for concept, language in product((cell.concept, ALL), (cell.language, ALL)):
            groups.setdefault((cell.kind, concept, language, cell.share), []).append(cell)
    for (kind, concept, language, share), group in groups.items():
        right, items = (
            np.concatenate([cell.right for cell in group], axis=-1),
            [i for cell in group for i in cell.items],
        )
        row = {"model": model, "kind": kind, "concept": concept, "language": language, "share": share}
        row |= {"test_items": len(set(items))}
        row |= dict(zip(("accuracy", "left_out", "random_labels", "undamaged"), right.mean(axis=-1), strict=True))
        row |= dict(zip(("cosine", "cosine_left_out"), np.mean([cell.cosines for cell in group], axis=0), strict=True))
        for name, other in (("loss", right[3]), ("excess", right[1])):
            low, high = paired(other - right[0], items)
            row |= {name: (other - right[0]).mean(), f"{name}_low": float(low), f"{name}_high": float(high)}
        yield row
