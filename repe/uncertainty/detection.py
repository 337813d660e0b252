"""Detection without pairs: how well a vector tells single texts of the two sides apart.

Recognition compares the two texts of a pair, which needs no threshold. A detector of single texts does: the vectors of
one language may rank the texts of another well and still put their threshold in the wrong place (arXiv 2606.01196).
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch

from repe.analysis.layer_selection import PAPER
from repe.analysis.recognition import unit_directions
from repe.results.accuracy_file import DETECTION_PARTS, AccuracyFile
from repe.uncertainty.swaps import Training
from repe.vectors.concept_vectors import ConceptVectors

COLUMNS = [
    *("model", "concept", "source", "target", "best_layer", "auroc"),
    *("accuracy_source_threshold", "accuracy_own_threshold", "calibration_gap", "auroc_untrained"),
]


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


def detection_table(
    files: Mapping[str, Mapping[str, AccuracyFile]],
    languages: Sequence[str],
    untrained: Mapping[str, Sequence[Mapping[str, AccuracyFile]]],
) -> pd.DataFrame:
    """Detection of every source and target language that has it, at the best layer of recognition.

    Args:
        files: by model and concept.
        untrained: accuracy files of a model's untrained twins, one mapping by concept for each seed.

    Returns:
        Columns model, concept, source, target, best_layer (from 1), auroc, accuracy_source_threshold,
        accuracy_own_threshold, calibration_gap (the latter minus the former: what the source's threshold loses),
        auroc_untrained (mean over the twins that have it, each at its best layer).
    """
    rows = []
    for model, by_concept in files.items():
        for concept, file in by_concept.items():
            for source in languages:
                for target in languages:
                    if (cell := file.parts("detection", source, target)) is None:
                        continue
                    layer = PAPER.accuracy_layer(file, source, target)
                    area, at_source, at_own = (float(cell[name][layer]) for name in DETECTION_PARTS)
                    keys = (model, concept, source, target, layer + 1)
                    floor = _untrained_auroc([one.get(concept) for one in untrained.get(model, ())], source, target)
                    rows.append((*keys, area, at_source, at_own, at_own - at_source, floor))
    return pd.DataFrame(rows, columns=COLUMNS)


def _untrained_auroc(twins: Sequence[AccuracyFile | None], source: str, target: str) -> float:
    cells = [(twin, twin.parts("detection", source, target)) for twin in twins if twin]
    areas = [cell["auroc"][PAPER.accuracy_layer(twin, source, target)] for twin, cell in cells if cell is not None]
    return float(np.mean(areas)) if areas else np.nan
