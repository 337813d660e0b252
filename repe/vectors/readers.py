"""Readers: find a concept's direction in every layer from the hidden states of labelled training pairs (Section 3.1).

Arrays of training states are (layers, pairs, 2, hidden): the two texts of a pair in their shuffled order, with labels
(pairs, 2) that are True for the text labelled positive.
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
        directions: float32 (components, hidden) by layer; components is 1 in all readers here.
        direction_signs: int8 (components,) by layer: -1 if the positive training text has the smaller projection of its
            pair more often than the larger, else +1.
    """

    method: ClassVar[str]
    """`--direction-method`."""
    signed_recognition: ClassVar[bool]
    """Whether recognition uses the sign; the released code's `cluster_mean` does not."""

    def __init__(self) -> None:
        self.directions: dict[int, np.ndarray] = {}
        self.direction_signs: dict[int, np.ndarray] = {}

    def fit(self, states: torch.Tensor, labels: torch.Tensor, layers: Sequence[int] | None = None) -> "RepReader":
        """Find directions and signs.

        Args:
            states: (layers, pairs, 2, hidden), any dtype and device; computed on that device, in float32.
            labels: bool (pairs, 2).
            layers: layer numbers, 1..N by default.

        Raises:
            UserError: the states of a layer do not differ between texts, which leaves no direction.
        """
        labels = labels.to(states.device)
        # Layer by layer, so that only one layer of half-precision states is copied to float32 at a time.
        for layer, state in zip(layers or range(1, len(states) + 1), states, strict=True):
            single = state.float()
            direction = self.direction(single, labels)
            if not direction.norm(dim=-1).all():
                raise UserError(
                    f"the {self.method} direction of layer {layer} is zero for {len(labels)} training pair(s): "
                    "use more pairs (--split) or check that the template contains the text"
                )
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
    """The mean state of the positive texts minus that of the negative ones: the paper's method."""

    method = "cluster_mean"
    signed_recognition = False

    def direction(self, states: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The difference of the class means, (1, hidden)."""
        return (states[labels].mean(dim=0) - states[~labels].mean(dim=0))[None]


class PCARepReader(RepReader):
    """RepE's reader (Zou et al., arXiv 2310.01405): the first principal component of the pairs' differences.

    Args:
        n_difference: 1 for first text minus second of each pair, 0 for the states themselves.
    """

    method = "pca"
    signed_recognition = True

    def __init__(self, n_difference: int = 1) -> None:
        super().__init__()
        if n_difference not in (0, 1):
            raise ValueError(f"n_difference must be 0 or 1, not {n_difference}")
        self.n_difference = n_difference

    def direction(self, states: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The unit vector along which the rows vary most, (1, hidden)."""
        rows = states[:, 0] - states[:, 1] if self.n_difference else states.flatten(0, 1)
        return principal_component(rows)[None]


class RandomRepReader(RepReader):
    """A Gaussian direction: a baseline that uses the training labels only for its sign.

    Args:
        seed: of the generator; the layers are drawn one after another.
    """

    method = "random"
    # The released code ignores the sign; a sign fitted on the training labels makes the baseline harder.
    signed_recognition = True

    def __init__(self, seed: int | Sequence[int] = 1) -> None:
        super().__init__()
        self.generator = np.random.default_rng(seed)

    def direction(self, states: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Independent standard normal entries, (1, hidden)."""
        drawn = self.generator.standard_normal((1, states.shape[-1]), dtype=np.float32)
        return torch.from_numpy(drawn).to(states.device)


READERS: dict[str, type[RepReader]] = {
    reader.method: reader for reader in (ClusterMeanRepReader, PCARepReader, RandomRepReader)
}
# The released downloads name the classes by this module.
for _reader in READERS.values():
    _reader.__module__ = "repe.rep_readers"


def signs(states: torch.Tensor, labels: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
    """Sign of each direction.

    Args:
        states: float32 (pairs, 2, hidden).
        labels: bool (pairs, 2).
        directions: float32 (components, hidden).

    Returns:
        int8 (components,): -1 if the positive text has the smaller projection more often than the larger, else +1.
    """
    projections = states @ (directions / directions.norm(dim=-1, keepdim=True)).T  # (pairs, 2, components)
    positive = torch.where(labels[:, :1], projections[:, 0], projections[:, 1])
    negative = torch.where(labels[:, :1], projections[:, 1], projections[:, 0])
    larger, smaller = (positive >= negative).sum(dim=0), (positive <= negative).sum(dim=0)
    return torch.where(smaller > larger, -1, 1).to(torch.int8)
