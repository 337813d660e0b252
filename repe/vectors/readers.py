"""Readers: a concept's direction in every layer, from the hidden states of labelled training pairs (Section 3.1).

Arrays of training states are (layers, pairs, 2, hidden): the two texts of a pair in their shuffled order, with labels
(pairs, 2) that are True for the one counted as positive.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch

from repe.errors import UserError
from repe.vectors.principal_component import principal_component


class RepReader(ABC):
    """A concept direction for each layer, by layer number.

    Attributes:
        directions: for each layer float32 (components, hidden); components is 1 in all readers here.
        direction_signs: for each layer int8 (components,): -1 if on the training pairs the positive text has the
            smaller projection more often than the larger, else +1.
    """

    method: ClassVar[str]
    """`--direction-method`."""
    signed_recognition: ClassVar[bool]
    """Whether recognition multiplies with the sign; the released code's `cluster_mean` does not."""

    def __init__(self) -> None:
        self.directions: dict[int, np.ndarray] = {}
        self.direction_signs: dict[int, np.ndarray] = {}

    def fit(self, states: torch.Tensor, labels: torch.Tensor, layers: Sequence[int] | None = None) -> "RepReader":
        """Find directions and signs.

        Args:
            states: (layers, pairs, 2, hidden), any dtype and device; the work is done there, in float32.
            labels: bool (pairs, 2).
            layers: numbers of the layers, 1..N unless given.

        Raises:
            UserError: a layer's states do not differ between texts, which leaves no direction.
        """
        labels = labels.to(states.device)
        # A layer at a time: float32 copies of half-precision states are never more than one layer's.
        for layer, state in zip(layers or range(1, len(states) + 1), states, strict=True):
            single = state.float()
            direction = self.direction(single, labels)
            check_direction(direction, self.method, layer, len(labels))
            self.directions[layer] = direction.cpu().numpy()
            self.direction_signs[layer] = signs(single, labels, direction).cpu().numpy()
        return self

    @abstractmethod
    def direction(self, states: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The directions (components, hidden) of one layer's states (pairs, 2, hidden), both float32."""

    def stacked(self) -> tuple[np.ndarray, np.ndarray]:
        """Directions (layers, components, hidden) and signs (layers, components), layers in ascending order."""
        layers = sorted(self.directions)
        return (
            np.stack([self.directions[layer] for layer in layers]).astype(np.float32),
            np.stack([self.direction_signs[layer] for layer in layers]).astype(np.int8),
        )


class ClusterMeanRepReader(RepReader):
    """The mean state of positive texts minus that of negative ones: the paper's method."""

    method = "cluster_mean"
    signed_recognition = False

    def direction(self, states: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The difference of the class means, (1, hidden)."""
        return (states[labels].mean(dim=0) - states[~labels].mean(dim=0))[None]


class PCARepReader(RepReader):
    """RepE's reader (Zou et al., arXiv 2310.01405): the first principal component of the pairs' differences.

    Args:
        n_difference: 1 for each pair's first text minus its second, 0 for the states themselves.
    """

    method = "pca"
    signed_recognition = True

    def __init__(self, n_difference: int = 1) -> None:
        super().__init__()
        if n_difference not in (0, 1):
            raise ValueError(f"n_difference is 0 or 1, not {n_difference}")
        self.n_difference = n_difference

    def direction(self, states: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The unit vector of largest variance, (1, hidden)."""
        rows = states[:, 0] - states[:, 1] if self.n_difference else states.flatten(0, 1)
        return principal_component(rows)[None]


class RandomRepReader(RepReader):
    """A Gaussian direction: the baseline that knows nothing but, through its sign, the training labels.

    Args:
        seed: of the generator; each layer draws on from the one before.
    """

    method = "random"
    # The released code draws directions without sides; a sign fitted on the training labels makes the baseline harder.
    signed_recognition = True

    def __init__(self, seed: int | Sequence[int] = 1) -> None:
        super().__init__()
        self.generator = np.random.default_rng(seed)

    def direction(self, states: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Independent standard normal entries, (1, hidden)."""
        drawn = self.generator.standard_normal((1, states.shape[-1]), dtype=np.float32)
        return torch.from_numpy(drawn).to(states.device)


# The released downloads name the classes by this module.
for _reader in (ClusterMeanRepReader, PCARepReader, RandomRepReader):
    _reader.__module__ = "repe.rep_readers"

READERS: dict[str, type[RepReader]] = {
    reader.method: reader for reader in (ClusterMeanRepReader, PCARepReader, RandomRepReader)
}


def check_direction(direction: torch.Tensor, method: str, layer: int, pairs: int) -> None:
    """Refuse states that leave no direction.

    Raises:
        UserError: a direction of (components, hidden) is zero.
    """
    if not direction.norm(dim=-1).all():
        raise UserError(
            f"the {method} direction of layer {layer} is zero over {pairs} training pair(s): "
            "take more pairs (--split) or check that the template leaves the texts in"
        )


def signs(states: torch.Tensor, labels: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
    """Which way each direction points.

    Args:
        states: float32 (pairs, 2, hidden).
        labels: bool (pairs, 2).
        directions: float32 (components, hidden).

    Returns:
        int8 (components,): -1 if the text labelled positive has the smaller projection more often than the larger.
    """
    return signs_of(states @ (directions / directions.norm(dim=-1, keepdim=True)).T, labels)


def signs_of(projections: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Which way directions point, int8 (components,), by their training texts' projections (pairs, 2, components)."""
    positive = torch.where(labels[:, :1], projections[:, 0], projections[:, 1])
    negative = torch.where(labels[:, :1], projections[:, 1], projections[:, 0])
    larger, smaller = (positive >= negative).sum(dim=0), (positive <= negative).sum(dim=0)
    return torch.where(smaller > larger, -1, 1).to(torch.int8)
