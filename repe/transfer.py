"""Cross-lingual transfer: what other languages' vectors gain or lose on a language (Section 3.4, Figures 5, 8)."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from repe.recognition import best_layer_accuracy
from repe.results import AccuracyFile


def transfer_table(model: str, files: Mapping[str, AccuracyFile], languages: Sequence[str]) -> pd.DataFrame:
    """A model's transfer between languages.

    Args:
        files: the model's accuracy files by concept.
        languages: sources and targets, in the figure's order.

    Returns:
        Columns model, source, target, accuracy (of the source's vectors on the target, mean over concepts of the best
        layer), delta (that less the accuracy of the target's own vectors; from 0 on the source transfers).
    """
    accuracy = np.mean([best_layer_accuracy(file, languages, languages) for file in files.values()], axis=0)
    delta = accuracy - accuracy.diagonal()
    rows = [
        (model, source, target, accuracy[i, j], delta[i, j])
        for i, source in enumerate(languages)
        for j, target in enumerate(languages)
    ]
    return pd.DataFrame(rows, columns=["model", "source", "target", "accuracy", "delta"])
