"""Accuracies beside their floors: swapped labels, the untrained network, and the text alone.

An accuracy means something where it is above all of them: a network with random weights reaches .8 to .9 on one text
and .55 on another, and so may a classifier of letters.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from repe.analysis.layer_selection import PAPER
from repe.data import Pair, texts_of
from repe.results.accuracy_file import AccuracyFile
from repe.uncertainty.intervals import of_outcomes, over_training, paired
from repe.uncertainty.permutation import holm

Files = Mapping[str, Mapping[str, AccuracyFile]]

CHANCE = 0.5
NULL_COLUMNS = {"null_mean": "mean", "null_low": "low", "null_high": "high", "p": "p", "p_margin": "p_margin"}
NGRAMS = (1, 4)


def text_floor(train: Sequence[Pair], test: Sequence[Pair]) -> np.ndarray:
    """Which test pairs a classifier of the text alone gets right.

    A logistic regression on the TF-IDF of character n-grams of 1 to 4 characters (scikit-learn's defaults); a pair is
    right where the positive text scores higher.

    Returns:
        bool (test pairs,).
    """
    from sklearn.feature_extraction.text import TfidfVectorizer  # takes seconds
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    classifier = make_pipeline(
        TfidfVectorizer(analyzer="char", ngram_range=NGRAMS), LogisticRegression(max_iter=1000)
    ).fit(texts_of(train), [True, False] * len(train))
    scores = classifier.decision_function(texts_of(test)).reshape(-1, 2)
    return scores[:, 0] > scores[:, 1]  # type: ignore[no-any-return]


def null_table(files: Files, languages: Sequence[str]) -> pd.DataFrame:
    """Nulls and intervals of every source and target language that has them, at the best layer.

    Args:
        files: by model and concept.

    Returns:
        Columns model, concept, source, target, accuracy, best_layer (from 1); low, high (95 % over test items, for
        these vectors and this layer); training_low, training_high (95 % over training items, for these test pairs);
        null_mean, null_low, null_high (accuracy of swapped labels at the best layer of each swap: mean, 2.5 and 97.5 %
        points), p (one-sided), p_margin (of the mean margin in place of the accuracy).
    """
    rows = []
    for model, by_concept in files.items():
        for concept, file in by_concept.items():
            for source in languages:
                for target in languages:
                    if (cell := file.parts("nulls", source, target)) is not None:
                        keys: dict[str, Any] = {"model": model, "concept": concept, "source": source, "target": target}
                        rows.append(keys | _with_intervals(file, source, target) | _null(cell))
    return pd.DataFrame(rows)


def floor_table(
    files: Files,
    languages: Sequence[str],
    untrained: Mapping[str, Sequence[Mapping[str, AccuracyFile]]],
    texts: Mapping[tuple[str, str], tuple[list[str], np.ndarray]],
) -> pd.DataFrame:
    """Each language's accuracy with its own vectors at the best layer, beside its floors.

    Args:
        files: by model and concept.
        untrained: accuracy files of a model's untrained twins, one mapping by concept for each seed.
        texts: keys of the test pairs and outcomes of `text_floor`, by concept and language.

    Returns:
        Columns model, concept, language; those of `null_table` without `source` and `target` (NaN where there are no
        nulls), p_holm and p_margin_holm (over the model's cells), untrained (mean over seeds, each at its best layer),
        untrained_seeds, text, highest_floor (chance, swapped labels, untrained or text), difference (accuracy minus the
        highest floor) and its bounds over test items, difference_low and difference_high (see `intervals.paired`).
    """
    rows = []
    for model, by_concept in files.items():
        for concept, file in by_concept.items():
            twins = [found[concept] for found in untrained.get(model, ()) if concept in found]
            for language in languages:
                keys = {"model": model, "concept": concept, "language": language}
                rows.append(keys | _row(file, language, twins, texts.get((concept, language))))
    table = pd.DataFrame(rows)
    for column in ("p", "p_margin"):
        corrected = table.groupby("model")[column].transform(lambda values: holm(values.to_numpy()))
        table.insert(list(table).index(column) + 1, f"{column}_holm", corrected)
    return table


def _row(
    file: AccuracyFile, language: str, twins: Sequence[AccuracyFile], text: tuple[list[str], np.ndarray] | None
) -> dict[str, Any]:
    row: dict[str, Any] = _with_intervals(file, language, language) | _null(file.parts("nulls", language, language))
    keys = file.content["test_keys"].get(language)
    best = {twin: PAPER.accuracy_layer(twin, language, language) for twin in twins if language in twin.languages}
    untrained = [float(twin.accuracy[language][language][layer]) for twin, layer in best.items()]
    text = text if text and keys in (None, text[0]) else None
    row |= {
        "untrained": float(np.mean(untrained)) if untrained else np.nan,
        "untrained_seeds": len(untrained),
        "text": float(text[1].mean()) if text else np.nan,
    }
    accuracies = {"chance": CHANCE, "swapped labels": row["null_mean"], **{n: row[n] for n in ("untrained", "text")}}
    highest = max(accuracies, key=lambda name: np.nan_to_num(accuracies[name], nan=-1.0))
    row |= {"highest_floor": highest, "difference": row["accuracy"] - accuracies[highest]}
    row |= {"difference_low": np.nan, "difference_high": np.nan}
    if keys is not None:
        outcomes: Any = accuracies[highest]
        if text and highest == "text":
            outcomes = text[1]
        elif highest == "untrained" and all(twin.content["test_keys"].get(language) == keys for twin in best):
            outcomes = np.mean([twin.cell("correct", language, language)[one] for twin, one in best.items()], axis=0)
        correct = file.cell("correct", language, language)[row["best_layer"] - 1]
        bounds = paired(correct.astype(np.float64) - outcomes, file.test_items(language))
        row["difference_low"], row["difference_high"] = map(float, bounds)
    return row


def _with_intervals(file: AccuracyFile, source: str, target: str) -> dict[str, float]:
    """Accuracy at the best layer with both intervals; NaN where the file does not have what they need."""
    layer = PAPER.accuracy_layer(file, source, target)
    accuracy = float(file.accuracy[source][target][layer])
    row = {"accuracy": accuracy, "best_layer": layer + 1}
    row |= dict.fromkeys(("low", "high", "training_low", "training_high"), np.nan)
    if target in file.content["correct"].get(source, {}):
        correct = file.cell("correct", source, target)[layer]
        row["low"], row["high"] = of_outcomes(correct, file.test_items(target))
    if (cell := file.parts("nulls", source, target)) is not None:
        pairs = file.content["test_pairs"][target]
        row["training_low"], row["training_high"] = map(float, over_training(accuracy, cell["training_sd"][-1], pairs))
    return row


def _null(cell: Mapping[str, np.ndarray] | None) -> dict[str, float]:
    return {column: float(cell[part][-1]) if cell is not None else np.nan for column, part in NULL_COLUMNS.items()}


def layer_table(
    files: Files, languages: Sequence[str], untrained: Mapping[str, Sequence[Mapping[str, AccuracyFile]]]
) -> pd.DataFrame:
    """Accuracy of each language's own vectors in every layer, with null, floor and ceiling (where there are nulls).

    Args:
        files: by model and concept.
        untrained: as for `floor_table`.

    Returns:
        Columns model, concept, language, layer (1..N), accuracy, null_mean, null_low, null_high, p (each of this layer
        alone), training_accuracy (on the training pairs), untrained (mean over seeds; NaN without a twin).
    """
    tables = []
    for model, by_concept in files.items():
        for concept, file in by_concept.items():
            twins = [found[concept] for found in untrained.get(model, ()) if concept in found]
            for language in languages:
                if (cell := file.parts("nulls", language, language)) is None:
                    continue
                accuracy = file.accuracy[language][language]
                table = pd.DataFrame({"model": model, "concept": concept, "language": language}, range(len(accuracy)))
                table["layer"], table["accuracy"] = range(1, len(accuracy) + 1), accuracy
                for column, part in NULL_COLUMNS.items():
                    table[column] = cell[part][:-1]
                table["training_accuracy"] = cell["training_accuracy"][:-1]
                rows = [twin.accuracy[language][language] for twin in twins if language in twin.languages]
                table["untrained"] = np.mean(rows, axis=0) if rows else np.nan
                tables.append(table)
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
