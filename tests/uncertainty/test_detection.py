"""Detection of single texts against scikit-learn and thresholds computed by hand."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from repe.data import Pair
from repe.uncertainty.detection import auroc, detection
from repe.uncertainty.swaps import Training
from repe.vectors.concept_vectors import ConceptVectors

LAYERS, PAIRS, HIDDEN = 2, 30, 6


def states(seed: int, shift: float = 0.0) -> torch.Tensor:
    """(layers, pairs, 2, hidden); the sides differ along the first axis, all texts are moved by `shift` along it."""
    drawn = torch.randn(LAYERS, PAIRS, 2, HIDDEN, generator=torch.Generator().manual_seed(seed))
    drawn[..., 0] += shift
    drawn[:, :, 0, 0] += 2
    return drawn


def training(given: torch.Tensor) -> Training:
    return Training.of(given, [Pair("p", "n", str(number)) for number in range(PAIRS)])


@pytest.mark.parametrize("rounding", [1, 8])
def test_auroc_is_scikit_learns_with_and_without_ties(rounding: int) -> None:
    generator = np.random.default_rng(0)
    positive, negative = (
        generator.normal(0.7, 1, (4, 25)).round(rounding),
        generator.normal(0, 1, (4, 40)).round(rounding),
    )
    if rounding == 1:
        positive[:, 0] = negative[:, 0]
    labels = [1] * 25 + [0] * 40
    for found, high, low in zip(auroc(positive, negative), positive, negative, strict=True):
        assert found == pytest.approx(roc_auc_score(labels, [*high, *low]))


def test_a_shifted_language_keeps_its_order_and_loses_its_threshold() -> None:
    """The target's texts are moved along the vector: ranking stays, the source's threshold is at the wrong place."""
    source, target, tested = states(0), states(1, shift=3.0), states(2, shift=3.0)
    directions = (source[:, :, 0] - source[:, :, 1]).mean(dim=1)[:, None]
    vectors = {"en": ConceptVectors(directions.numpy(), np.ones((LAYERS, 1), dtype=np.int8))}
    found = detection(vectors, tested, {"en": training(source)}, training(target))["en"]
    for layer in range(LAYERS):
        unit = directions[layer, 0] / directions[layer, 0].norm()
        projected = (tested[layer] @ unit).numpy()
        assert found["auroc"][layer] == pytest.approx(roc_auc_score([1, 0] * PAIRS, projected.ravel()))
        for name, given in (("source_threshold", source), ("own_threshold", target)):
            means = given[layer].mean(dim=0) @ unit  # of the two sides
            right = np.r_[projected[:, 0] >= means.mean().item(), projected[:, 1] < means.mean().item()]
            assert found[name][layer] == pytest.approx(right.mean())
        assert found["own_threshold"][layer] > 0.75
        assert found["source_threshold"][layer] < 0.65
