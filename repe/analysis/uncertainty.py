"""How sure the accuracies of Table 6 are: intervals over items, and a test against vectors of shuffled labels."""

import zlib
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from repe.analysis.bootstrap import ALL, accuracy_draws, bounds
from repe.analysis.layer_selection import Selection, accuracy_at
from repe.analysis.permutation import better_than, holm
from repe.errors import UserError
from repe.results.accuracy_file import AccuracyFile


def interval_table(
    files: Mapping[str, Mapping[str, AccuracyFile]],
    languages: Sequence[str],
    selection: Selection,
    draws: int,
    seed: int,
) -> pd.DataFrame:
    """95 % bootstrap intervals of Table 6's cells, and of their means over languages, over concepts, and over both.

    Args:
        files: by model and concept.
        draws: of the items of each concept, with all their translations.

    Returns:
        Columns concept (`all` for the mean, as in Figure 2), model, language (`all` for the mean, Table 6's Avg),
        accuracy, accuracy_low, accuracy_high.

    Raises:
        UserError: a file does not say which pairs were right.
    """
    cells = [(language, language) for language in languages]
    frames = []
    for model, by_concept in files.items():
        accuracy = np.array(
            [[accuracy_at(file, [one], [one], selection).item() for one in languages] for file in by_concept.values()]
        )
        drawn = np.stack([accuracy_draws(file, cells, selection, draws, seed) for file in by_concept.values()], axis=1)
        low, high = bounds(_with_means(drawn))
        rows = pd.MultiIndex.from_product([[*by_concept, ALL], [model], [*languages, ALL]]).to_frame(index=False)
        rows.columns = pd.Index(["concept", "model", "language"])
        values = {"accuracy": _with_means(accuracy), "accuracy_low": low, "accuracy_high": high}
        frames.append(rows.assign(**{name: value.ravel() for name, value in values.items()}))
    return pd.concat(frames, ignore_index=True)


def _with_means(values: np.ndarray) -> np.ndarray:
    """Values (..., concepts, languages) with their means over languages and over concepts as the last of each."""
    values = np.concatenate([values, values.mean(axis=-1, keepdims=True)], axis=-1)
    return np.concatenate([values, values.mean(axis=-2, keepdims=True)], axis=-2)


def of_figure2(intervals: pd.DataFrame) -> pd.DataFrame:
    """The intervals of Figure 2's bars, the means over concepts of each model and language."""
    return intervals[(intervals["concept"] == ALL) & (intervals["language"] != ALL)]


def with_intervals(accuracy: pd.DataFrame, intervals: pd.DataFrame) -> pd.DataFrame:
    """Table 6 in long form with the bounds of its cells, accuracy_low and accuracy_high."""
    keys = ["concept", "model", "language"]
    return accuracy.merge(intervals.drop(columns="accuracy"), on=keys, how="left")


def with_p_values(
    accuracy: pd.DataFrame,
    files: Mapping[str, Mapping[str, AccuracyFile]],
    random_files: Mapping[str, Mapping[str, AccuracyFile]],
    selection: Selection,
    permutations: int,
    seed: int,
) -> pd.DataFrame:
    """Table 6 in long form with a test of each cell against vectors of shuffled labels.

    Args:
        accuracy: of `same_language_table`, of the same files and selection.
        files: by model and concept.
        random_files: likewise, of `--random-direction`.
        permutations: see `permutation.better_than`.

    Returns:
        The table with the further columns random_accuracy, p (one-sided), p_holm (for all cells of the model).

    Raises:
        UserError: a file does not say which pairs were right, or the two were tested on other pairs.
    """
    found = []
    for model, concept, language in accuracy[["model", "concept", "language"]].to_numpy():
        file, other = files[model][concept], random_files[model][concept]
        keys = file.content["test_keys"].get(language)
        if other.content["test_keys"].get(language, keys) != keys:
            raise UserError(
                f"{other.path} and {file.path.name} were tested on other pairs of {language}: redo both stages with "
                "--overwrite, with and without --random-direction"
            )
        generator = np.random.default_rng([seed, zlib.crc32(concept.encode()), zlib.crc32(language.encode())])
        found.append(_against_random(file, other, language, selection, permutations, generator))
    table = accuracy.assign(**dict(zip(("random_accuracy", "p"), np.transpose(found), strict=True)))
    return table.assign(p_holm=table.groupby("model")["p"].transform(lambda values: holm(values.to_numpy())))


def _against_random(
    file: AccuracyFile,
    other: AccuracyFile,
    language: str,
    selection: Selection,
    permutations: int,
    generator: np.random.Generator,
) -> tuple[float, float]:
    """Accuracy of the random vectors at their selected layer, and the p-value of the difference."""
    layers = [one.cell("correct", language, language) for one in (file, other)]
    chosen = [selection.accuracy_layer(one, language, language) for one in (file, other)]
    if selection.by != "best":  # chosen on other pairs, so that the choice is no part of the test
        layers = [correct[[layer]] for correct, layer in zip(layers, chosen, strict=True)]
    swaps = generator.integers(2, size=(permutations, layers[0].shape[1]), dtype=np.int8)
    return float(other.accuracy[language][language][chosen[1]]), better_than(layers[0], layers[1], swaps)
