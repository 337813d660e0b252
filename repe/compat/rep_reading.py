"""RepE's readers (Zou et al., arXiv 2310.01405): directions of a concept by RepE's own rules, for its 'rep-reading'.

The principal component and the class means are those of `repe.vectors`. What differs is RepE's interface: a layer is an
index into Transformers' `hidden_states` as the caller gave it (0 the embeddings, -1 the last), and texts come in
consecutive pairs or groups, with lists of labels.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from repe.vectors.principal_component import principal_component
from repe.vectors.readers import ClusterMeanRepReader

# Those of `--direction-method` that RepE has, too.
METHODS = ("pca", "cluster_mean", "random")


class RepEReader:
    """The directions and signs of a concept, by layer.

    Args:
        direction_method: `pca`, `cluster_mean` or `random`.
        n_components: number of principal components of `pca`.

    Attributes:
        directions: float32 (components, hidden) for each layer.
        direction_signs: float32 (components,) for each layer, -1 or +1; None without labels.
        H_train_means: for `pca` the mean training row, float32 (1, hidden) for each layer, which is subtracted before a
            projection. Empty for the other methods.

    Raises:
        ValueError: the method is not valid.
    """

    def __init__(self, direction_method: str = "pca", n_components: int = 1) -> None:
        if direction_method not in METHODS:
            raise ValueError(f"direction_method {direction_method!r} must be one of {METHODS}")
        self.direction_method = direction_method
        self.n_components = n_components
        self.directions: dict[int, np.ndarray] = {}
        self.direction_signs: dict[int, np.ndarray] | None = None
        self.H_train_means: dict[int, np.ndarray] = {}

    def fit(
        self, states: Mapping[int, np.ndarray], n_difference: int = 1, train_labels: Sequence[Any] | None = None
    ) -> "RepEReader":
        """Find the directions, and the signs if there are labels.

        Args:
            states: for each layer float32 (texts, hidden), the texts of a pair next to each other.
            n_difference: how often consecutive rows are replaced by first minus second before directions are computed.
            train_labels: for each pair (or longer group of texts) a list of 0 and 1, in which the first 1 marks the
                positive text; or for each pair the index 0 or 1 of the positive text. `cluster_mean` forms its two
                classes from them.

        Raises:
            ValueError: texts, labels and settings do not match, or the states leave no direction.
        """
        groups = None if train_labels is None else [_one_hot(label) for label in train_labels]
        for layer, single in states.items():
            if len(single) % 2**n_difference:
                raise ValueError(f"n_difference {n_difference} needs a multiple of {2**n_difference} texts")
            if groups is not None and sum(map(len, groups)) != len(single):
                raise ValueError(f"train_labels are for {sum(map(len, groups))} texts, but there are {len(single)}")
            rows = single
            for _ in range(n_difference):
                rows = rows[::2] - rows[1::2]
            self.directions[layer] = self._direction(layer, rows, groups).astype(np.float32)
        if groups is not None:
            self.direction_signs = {layer: self._signs(layer, single, groups) for layer, single in states.items()}
        return self

    def _direction(self, layer: int, rows: np.ndarray, groups: list[list[int]] | None) -> np.ndarray:
        """The directions (components, hidden) of one layer's training rows."""
        if self.direction_method == "random":
            # NumPy's global generator, so that a script that seeds it draws the same directions as with RepE.
            return np.random.randn(1, rows.shape[-1])
        if self.direction_method == "cluster_mean":
            second = torch.tensor([group.index(1) == 1 for group in groups or ()])
            if len(second) != len(rows) or len(second.unique()) != 2:
                raise ValueError("cluster_mean needs n_difference=1 and train_labels with pairs of both orders")
            return ClusterMeanRepReader().direction(torch.from_numpy(rows), second).numpy()
        if (rows == rows[0]).all() or self.n_components > min(rows.shape):
            raise ValueError(f"the states of layer {layer} do not vary in {self.n_components} directions")
        self.H_train_means[layer] = rows.mean(axis=0, keepdims=True)
        return _components(rows - self.H_train_means[layer], self.n_components)

    def _signs(self, layer: int, states: np.ndarray, groups: list[list[int]]) -> np.ndarray:
        """For each component -1 if the positive text has its group's least projection more often than the largest."""
        projections = self._projected(layer, states)
        starts = np.cumsum([0, *map(len, groups[:-1])])
        positive = projections[starts + [group.index(1) for group in groups]]
        larger, smaller = (
            (positive == extreme.reduceat(projections, starts)).sum(axis=0) for extreme in (np.maximum, np.minimum)
        )
        return np.where(smaller > larger, -1, 1).astype(np.float32)

    def _projected(self, layer: int, states: np.ndarray) -> np.ndarray:
        """Projections of states (rows, hidden) onto each of a layer's unit directions, (rows, components)."""
        directions = self.directions[layer]
        units = directions / np.linalg.norm(directions, axis=-1, keepdims=True)
        centred = states - self.H_train_means.get(layer, np.float32(0))
        # Not a matrix product, in which equal rows can give different numbers, so that ties would not be ties.
        return np.stack([(centred * unit).sum(axis=-1) for unit in units], axis=-1)

    def transform(
        self, hidden_states: Mapping[int, Any], hidden_layers: Sequence[int], component_index: int = 0
    ) -> dict[int, np.ndarray]:
        """Project states onto one component. As in RepE, the signs are not applied.

        Args:
            hidden_states: for each layer (rows, hidden).
            hidden_layers: the layers to project; a KeyError if the reader does not have one.
            component_index: the component to project on; an IndexError if the reader does not have it.

        Returns:
            float32 (rows,) for each layer.
        """
        return {
            layer: self._projected(layer, np.asarray(hidden_states[layer], dtype=np.float32))[:, component_index]
            for layer in hidden_layers
        }


def _one_hot(label: Any) -> list[int]:
    """A group's label as a list of 0 and 1 with a 1."""
    values = [int(value) for value in ([label == 0, label == 1] if np.ndim(label) == 0 else label)]
    if 1 not in values:
        raise ValueError(f"train_labels contain {label!r}: give a list of 0 and 1 with a 1, or 0, or 1")
    return values


def _components(rows: np.ndarray, count: int) -> np.ndarray:
    """The first `count` principal components, (count, hidden), of rows whose mean is zero."""
    left, found = torch.from_numpy(rows), []
    for _ in range(count):
        found.append(principal_component(left))
        left = left - torch.outer(left @ found[-1], found[-1])
    return torch.stack(found).numpy()
