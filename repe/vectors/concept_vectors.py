"""Concept vectors of one concept in one language, and how they are collected (Section 3.1)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from repe.constants import LAYERS, METHODS
from repe.data import Pairs, as_pairs, folds_of, train_size
from repe.errors import UserError
from repe.paper import TRAIN_SHARE
from repe.uncertainty.ceilings import split_half_cosine
from repe.vectors.readers import READERS, RandomRepReader, RepReader

if TYPE_CHECKING:
    from repe.models.model import Model
    from repe.vectors.state_cache import CachedStates


@dataclass(frozen=True, eq=False, repr=False)
class ConceptVectors:
    """Concept vectors of one concept in one language, layers 1..N."""

    directions: np.ndarray
    """float32 (layers, components, hidden)."""
    signs: np.ndarray
    """int8 (layers, components): -1 where the positive side has the smaller projection more often, else +1."""
    method: str = "cluster_mean"
    train_pairs: int | None = None
    mean_norm: np.ndarray | None = None
    """float32 (layers,): mean norm of the training texts' states; None in downloads."""
    validation: ConceptVectors | None = None
    """Vectors fitted on the first four fifths of the training pairs, for accuracy on the last fifth."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """What made the vectors: model, template, split, method and so on."""
    split_half: np.ndarray | None = None
    """float32 (layers,): cosine of directions of random halves of the training items; of `cluster_mean` only."""
    folds: Sequence[ConceptVectors] = ()
    """Vectors fitted without the items of fold 0, 1, ..., with which those are tested."""
    class_distance: np.ndarray | None = None
    """float32 (layers,): projection of the positive class mean on the unit vector minus that of the negative one, over
    the training texts; None in downloads and older files."""
    midpoint: np.ndarray | None = None
    """float32 (layers,): projection of the point halfway between the class means on the unit vector."""

    def __repr__(self) -> str:
        layers, _, hidden = self.directions.shape
        pairs = f", {self.train_pairs} training pairs" if self.train_pairs else ""
        return f"ConceptVectors({self.method}, {layers} layers, hidden size {hidden}{pairs})"

    @cached_property
    def digest(self) -> str:
        """SHA-256 of directions and signs: identifies the vectors that accuracies were made with."""
        arrays = (np.ascontiguousarray(array).tobytes() for array in (self.directions, self.signs))
        return hashlib.sha256(b"".join(arrays)).hexdigest()

    @cached_property
    def unit_vectors(self) -> np.ndarray:
        """Unit vectors towards the concept's positive side, float32 (layers, hidden)."""
        # In float64: squares of very small and very large float32 numbers neither vanish nor overflow there.
        first = self.directions[:, 0].astype(np.float64)
        units: np.ndarray = first * self.signs[:, :1] / np.linalg.norm(first, axis=-1, keepdims=True)
        return units.astype(np.float32)

    def check_fit(self, name: str, layers: int, hidden: int) -> None:
        """Refuse vectors of another model.

        Args:
            name: their language, for the message.

        Raises:
            UserError: they have another number of layers or another width.
        """
        found, _, width = self.directions.shape
        if (found, width) != (layers, hidden):
            raise UserError(
                f"the vectors of {name} belong to another model ({found} layers of {width}, not {layers} of {hidden}): "
                "collect them again or name the model that they were made with"
            )

    def apply(
        self, model: Model, layers: str | Sequence[int] = LAYERS, strength: float = 1.0, **settings: Any
    ) -> AbstractContextManager[None]:
        """Steer `model` while the context is open (Section 5), with the defaults of control_generation.py.

        Args:
            model: with its vocabulary head.
            layers: layer numbers, or relative depths such as `0.3:0.6`.
            strength: positive values steer towards the concept's positive side.
            settings: `unit`, `operator` and `scope`, see `repe.control.steering.steer`.

        Raises:
            UserError: the vectors do not fit the model, or a layer cannot be steered.
        """
        from repe.control.steering import steer  # only here, since collecting vectors does not need it

        return steer(model, self, layers, strength, **settings)

    def save(self, folder: str | Path, language: str) -> Path:
        """Add the vectors to `<folder>/reader_dict.pt`; other languages in the file are kept.

        Args:
            folder: `<results>/<model>/<concept>`.

        Raises:
            UserError: the file was made with other settings, or cannot be written.
        """
        from repe.results.vector_file import VectorFile  # which imports this module

        return VectorFile.in_folder(folder, self.method).save(language, self)

    @classmethod
    def load(cls, folder: str | Path, language: str, method: str = "cluster_mean") -> ConceptVectors:
        """Read the vectors of a language from `reader_dict.pt` or a downloaded `reader_dict.pk`.

        Raises:
            UserError: the file does not exist, is damaged, or does not have the language.
        """
        from repe.results.vector_file import VectorFile  # which imports this module

        (vectors,) = VectorFile.in_folder(folder, method).of([language]).values()
        return vectors


def collect(
    model: Model | CachedStates,
    pairs: Pairs,
    method: str = "cluster_mean",
    *,
    validation: bool = True,
    seed: int | Sequence[int] = 1,
    folds: int = 0,
) -> ConceptVectors:
    """Collect concept vectors from training pairs (Section 3.1).

    Args:
        model: the model, or cached states of the pairs' texts.
        pairs: training pairs, in the order and with the labels of `split_pairs`.
        method: `cluster_mean` (the paper's difference of class means), `pca` or `random`.
        validation: also fit on the first four fifths of the pairs.
        seed: of `random`.
        folds: also fit without each of so many folds of items (`repe.data.folds_of`), in place of validation.

    Raises:
        UserError: the states leave no direction, or what `Model.states` raises.
        ValueError: the method does not exist.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, not {method!r}")
    pairs = as_pairs(pairs)
    if not pairs:
        raise UserError("no training pairs: concept vectors need at least one")
    items = [pair.item or pair.key or str(place) for place, pair in enumerate(pairs)]
    labels = torch.tensor([[pair.first_is_positive, not pair.first_is_positive] for pair in pairs])
    texts = [text for pair in pairs for text in ((pair.pos, pair.neg) if pair.pos_first else (pair.neg, pair.pos))]
    states = model.states(texts).unflatten(1, (len(pairs), 2))
    reader: Callable[[], RepReader] = READERS.get(method, partial(_linear_reader, method))
    if method == RandomRepReader.method:
        reader = partial(RandomRepReader, seed)
    directions, signs = reader().fit(states, labels).stacked()
    norms = torch.stack([state.float().norm(dim=-1).mean().cpu() for state in states]).numpy()
    split_half = split_half_cosine(states, labels, items) if method == "cluster_mean" else None
    held_out = None
    if part := fitted_on(len(pairs)) if validation and not folds else 0:
        fitted = reader().fit(states[:, :part], labels[:part])
        held_out = ConceptVectors(*fitted.stacked(), method, part)
    without = _without_folds(reader, method, states, labels, folds_of(pairs, folds), folds) if folds else ()
    record = getattr(model, "record", {})
    vectors = ConceptVectors(directions, signs, method, len(pairs), norms, held_out, record, split_half, without)
    distance, midpoint = _class_means(vectors, states, labels)
    return replace(vectors, class_distance=distance, midpoint=midpoint)


def _class_means(vectors: ConceptVectors, states: torch.Tensor, labels: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """`class_distance` and `midpoint` of vectors.

    Args:
        vectors: directions and signs.
        states: (layers, pairs, 2, hidden).
        labels: bool (pairs, 2).
    """
    labels, means = labels.to(states.device), []
    for state, unit in zip(states, torch.from_numpy(vectors.unit_vectors), strict=True):
        projections = state.float() @ unit.to(states.device)
        means.append([float(projections[side].double().mean()) for side in (labels, ~labels)])
    positive, negative = np.array(means).T
    distance, middle = positive - negative, (positive + negative) / 2
    return distance.astype(np.float32), middle.astype(np.float32)


def _without_folds(
    reader: Callable[[], RepReader],
    method: str,
    states: torch.Tensor,
    labels: torch.Tensor,
    fold_of: Sequence[int],
    folds: int,
) -> list[ConceptVectors]:
    """Vectors fitted without the pairs of each fold; states (layers, pairs, 2, hidden), labels bool (pairs, 2)."""
    vectors = []
    for fold in range(folds):
        kept = torch.from_numpy(np.flatnonzero(np.array(fold_of) != fold))
        fitted = reader().fit(states[:, kept.to(states.device)], labels[kept])
        vectors.append(ConceptVectors(*fitted.stacked(), method, len(kept)))
    return vectors


def _linear_reader(method: str) -> RepReader:
    from repe.vectors.linear_reader import LinearRepReader  # scikit-learn takes seconds

    return LinearRepReader(method)


def fitted_on(train_pairs: int) -> int:
    """Number of training pairs (the first ones) that fit the vectors for validation on the remaining fifth."""
    return train_size(train_pairs, TRAIN_SHARE)
