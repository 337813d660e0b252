"""Detection without pairs: how well a vector tells single texts of the two sides apart.

Recognition compares the two texts of a pair, which needs no threshold. A detector of single texts does: the vectors of
one language may rank the texts of another well and still put their threshold in the wrong place (arXiv 2606.01196).
"""

from collections.abc import Mapping

import numpy as np
import torch

from repe.analysis.recognition import unit_directions
from repe.uncertainty.swaps import Training
from repe.vectors.concept_vectors import ConceptVectors


def detection(
    vectors: Mapping[str, ConceptVectors], tested: torch.Tensor, trainings: Mapping[str, Training], own: Training
) -> dict[str, dict[str, np.ndarray]]:
    """Detection of a target language's single texts by the vectors of each source language.

    Args:
        vectors: by source language, used as in recognition.
        tested: (layers, test pairs, 2, hidden), the positive text of each pair first.
        trainings: by source language; sources without one are left out.
        own: of the target language.

    Returns:
        By source language float64 (layers,): `auroc`; `source_threshold` and `own_threshold`, the accuracy (of texts)
        with the threshold halfway between the class means of the source's, or of the target's own, training texts. A
        threshold halfway between class means is the mean of all texts, so that neither needs labels.
    """
    directions = unit_directions({source: vectors[source] for source in trainings}).to(tested.device)
    projections = np.stack(
        [(state.float() @ directions[:, layer].T).cpu().numpy() for layer, state in enumerate(tested)]
    )  # (layers, pairs, 2, sources)
    directions = directions.cpu()
    found = {}
    for place, (source, training) in enumerate(trainings.items()):
        positive, negative = projections[:, :, 0, place], projections[:, :, 1, place]
        thresholds = {
            name: (one.midpoints * directions[place]).sum(dim=-1, keepdim=True).numpy()
            for name, one in (("source_threshold", training), ("own_threshold", own))
        }
        found[source] = {"auroc": auroc(positive, negative)} | {
            name: 0.5 * ((positive >= one).mean(axis=-1) + (negative < one).mean(axis=-1))
            for name, one in thresholds.items()
        }
    return found


def auroc(positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """Area under the ROC curve: the share of pairs of a positive and a negative value in the right order, ties half.

    Args:
        positive, negative: (layers, values).

    Returns:
        float64 (layers,).
    """
    areas = []
    for high, low in zip(positive, negative, strict=True):
        ordered = np.sort(low)
        below, up_to = (np.searchsorted(ordered, high, side) for side in ("left", "right"))
        areas.append((below + up_to).mean() / (2 * len(low)))
    return np.array(areas)
