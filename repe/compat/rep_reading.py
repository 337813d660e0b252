"""RepE's readers (Zou et al., arXiv 2310.01405): directions of a concept by RepE's own rules, for its 'rep-reading'.

The principal component, the class means and the signs are those of `repe.vectors`. What differs is RepE's interface: a
layer is an index into Transformers' `hidden_states` as the caller gave it (0 the embeddings, -1 the last), and texts
come in consecutive pairs or groups, with lists of labels.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from repe.constants import METHODS
from repe.vectors.principal_component import principal_component
from repe.vectors.readers import ClusterMeanRepReader, signs

# Keys of `direction_finder_kwargs` for each method.
OPTIONS = {"pca": ("n_components",), "cluster_mean": (), "random": ("needs_hiddens",)}


class RepEReader:
    """The directions and signs of a concept, by layer.

    Args:
        direction_method: `pca`, `cluster_mean` or `random`.
        n_components: number of principal components of `pca`.
        needs_hiddens: whether the signs of `random` are fitted on the training texts; if not, all are +1.

    Attributes:
        directions: float32 (components, hidden) for each layer.
        direction_signs: float32 (components,) for each layer, -1 or +1; None without labels.
        H_train_means: for `pca` the mean training row, float32 (1, hidden) for each layer, which is subtracted before a
            projection. Empty for the other methods.

    Raises:
        ValueError: the method or the number of components is not valid.
    """

    def __init__(self, direction_method: str = "pca", n_components: int = 1, needs_hiddens: bool = True) -> None:
        if direction_method not in METHODS:
            raise ValueError(f"direction_method {direction_method!r} is not among {METHODS}")
        if not isinstance(n_components, (int, np.integer)) or n_components < 1:
            raise ValueError(f"n_components {n_components!r} must be a positive integer")
        self.direction_method = direction_method
        self.n_components = int(n_components)
        self.needs_hiddens = needs_hiddens
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
        texts = len(next(iter(states.values())))
        if not isinstance(n_difference, (int, np.integer)) or n_difference < 0:
            raise ValueError(f"n_difference {n_difference!r} must be a non-negative integer (usually 1)")
        if texts % 2**n_difference:
            raise ValueError(f"n_difference {n_difference} needs a multiple of {2**n_difference} texts, not {texts}")
        if self.direction_method == "cluster_mean" and (n_difference != 1 or train_labels is None):
            raise ValueError("cluster_mean needs n_difference=1 and train_labels")
        groups = None if train_labels is None else _Groups(train_labels, texts if self.needs_hiddens else None)
        for layer, single in states.items():
            rows = single
            for _ in range(n_difference):
                rows = rows[::2] - rows[1::2]
            self.directions[layer] = self._direction(layer, rows, groups).astype(np.float32)
        if groups is not None:
            self.direction_signs = {layer: self._signs(layer, single, groups) for layer, single in states.items()}
        return self

    def _direction(self, layer: int, rows: np.ndarray, groups: "_Groups | None") -> np.ndarray:
        """The directions (components, hidden) of one layer's training rows."""
        if self.direction_method == "random":
            # NumPy's global generator, so that a script that seeds it draws the same directions as with RepE.
            return np.random.randn(1, rows.shape[-1])
        if groups is not None and self.direction_method == "cluster_mean":
            classes = torch.from_numpy(groups.classes(len(rows)))
            return ClusterMeanRepReader().direction(torch.from_numpy(rows), classes).numpy()
        if (rows == rows[0]).all():
            raise ValueError(f"the states of layer {layer} do not vary over {len(rows)} training rows: no direction")
        self.H_train_means[layer] = rows.mean(axis=0, keepdims=True)
        return _components(rows - self.H_train_means[layer], self.n_components)

    def _signs(self, layer: int, states: np.ndarray, groups: "_Groups") -> np.ndarray:
        """For each component -1 if the positive text has its group's least projection more often than the largest."""
        if not self.needs_hiddens:
            return np.ones(len(self.directions[layer]), dtype=np.float32)
        projections = self._projected(layer, states)
        positive = projections[groups.positive]
        extremes = [extreme.reduceat(projections, groups.starts) for extreme in (np.maximum, np.minimum)]
        # A group counts as two pairs, with its largest and with its smallest projection: a text in the middle of a
        # longer group then counts once for either sign.
        pairs = np.stack([np.concatenate([positive, positive]), np.concatenate(extremes)], axis=1)
        labels = torch.tensor([[True, False]]).expand(len(pairs), 2)
        # The projections are along the axes of their own space.
        return signs(torch.from_numpy(pairs), labels, torch.eye(pairs.shape[-1])).numpy().astype(np.float32)

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
            hidden_layers: the layers to project.
            component_index: the component to project on.

        Returns:
            float32 (rows,) for each layer.

        Raises:
            ValueError: the reader does not have the layer or component.
        """
        found = {}
        for layer in hidden_layers:
            if layer not in self.directions:
                raise ValueError(f"the reader has no directions for layer {layer}, only for {list(self.directions)}")
            components = len(self.directions[layer])
            if not -components <= component_index < components:
                raise ValueError(f"component_index {component_index} is out of range: the reader has {components}")
            states = np.asarray(hidden_states[layer], dtype=np.float32)
            found[layer] = self._projected(layer, states)[:, component_index]
        return found


def make_reader(direction_method: str, options: Mapping[str, Any]) -> RepEReader:
    """A reader with RepE's `direction_finder_kwargs`.

    Raises:
        ValueError: the method or an option is not valid.
    """
    if unknown := [name for name in options if name not in OPTIONS.get(direction_method, tuple(options))]:
        allowed = OPTIONS[direction_method] or "nothing"
        raise ValueError(f"direction_finder_kwargs of {direction_method} take {allowed}, not {unknown[0]!r}")
    return RepEReader(direction_method, **options)


class _Groups:
    """Texts that belong together, and the positive one among them.

    Attributes:
        starts: index of each group's first text.
        within: place of the positive text in each group.
        positive: index of each group's positive text.
    """

    def __init__(self, labels: Sequence[Any], texts: int | None) -> None:
        within, sizes = [], []
        for place, label in enumerate(labels):
            values = np.asarray(label).tolist()
            values = [int(values == 0), int(values == 1)] if np.ndim(label) == 0 else values
            if any(value not in (0, 1) for value in values) or 1 not in values:
                raise ValueError(f"train_labels[{place}] is {label!r}: give a list of 0 and 1 with a 1, or 0, or 1")
            within.append(values.index(1))
            sizes.append(len(values))
        if texts is not None and sum(sizes) != texts:
            raise ValueError(f"train_labels are for {sum(sizes)} texts, but there are {texts}")
        self.starts = np.cumsum([0, *sizes[:-1]])
        self.within = np.array(within)
        self.positive = self.starts + self.within

    def classes(self, pairs: int) -> np.ndarray:
        """Whether the second text of each pair is the positive one, bool (pairs,)."""
        if len(self.within) != pairs:
            raise ValueError(f"cluster_mean needs a label for each of the {pairs} pairs, not {len(self.within)}")
        second: np.ndarray = self.within == 1
        if second.all() or not second.any():
            raise ValueError("cluster_mean needs pairs of both orders: the positive text is always at the same place")
        return second


def _components(centred: np.ndarray, count: int) -> np.ndarray:
    """The first `count` principal components, (count, hidden), of rows whose mean is zero."""
    if count > min(centred.shape):
        raise ValueError(f"n_components {count} is more than {min(centred.shape)}, of {centred.shape} rows and columns")
    rows = torch.from_numpy(centred)
    if count == 1:
        return principal_component(rows)[None].numpy()
    components: torch.Tensor = torch.linalg.svd(rows.double(), full_matrices=False).Vh[:count]
    # As in scikit-learn, the entry of largest size is positive.
    largest = components.gather(1, components.abs().argmax(dim=1, keepdim=True))
    return np.asarray((components * largest.sign()).float())
