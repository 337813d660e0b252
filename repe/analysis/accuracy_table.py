"""Table 6 and Figure 2: accuracy on each language with its own vectors, averages and uncertainty (Section 3.2).

The uncertainty is given by bootstrap intervals over test items, and by a test against vectors of shuffled labels.
"""

import zlib
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from repe.analysis.layer_selection import PAPER, Selection
from repe.errors import UserError
from repe.results.accuracy_file import AccuracyFile
from repe.uncertainty.bootstrap import ALL, accuracy_draws, bounds
from repe.uncertainty.intervals import of_outcomes, wilson
from repe.uncertainty.permutation import better_than, holm

KEYS = ["concept", "model", "language"]
COUNTS = ["test_items", "test_pairs"]


def same_language_table(
    files: Mapping[str, Mapping[str, AccuracyFile]], languages: Sequence[str], selection: Selection = PAPER
) -> pd.DataFrame:
    """Table 6 in long form.

    Args:
        files: by model and concept.
        languages: the table's columns.

    Returns:
        Columns concept, model, language, accuracy (0..1, at the selected layer), best_layer (that layer, from 1),
        wilson_low, wilson_high (see `interval_of`), test_items, test_pairs (empty for downloads).
    """
    rows = [
        (
            *(concept, model, language, float(file.accuracy[language][language][layer]), layer + 1),
            *interval_of(file, language, selection),
        )
        for model, by_concept in files.items()
        for concept, file in by_concept.items()
        for language in languages
        for layer in [selection.accuracy_layer(file, language, language)]
    ]
    table = pd.DataFrame(rows, columns=[*KEYS, "accuracy", "best_layer", "wilson_low", "wilson_high", *COUNTS])
    return table.astype(dict.fromkeys(COUNTS, "Int64"))


def interval_of(
    file: AccuracyFile, language: str, selection: Selection = PAPER
) -> tuple[float, float, int | None, int | None]:
    """Wilson's 95 % interval of the accuracy with a language's own vectors, for the layer as it was selected.

    Returns:
        Lower and upper bound, number of test items, number of test pairs; NaN and None for downloads, which do not
        record which pairs were right.
    """
    if language not in file.content["correct"].get(language, {}):
        return np.nan, np.nan, None, None
    correct = file.cell("correct", language, language)[selection.accuracy_layer(file, language, language)]
    items = file.test_items(language)
    return *of_outcomes(correct, items), len(set(items)), len(items)


def with_averages(table: pd.DataFrame) -> pd.DataFrame:
    """Add the averages of Table 6 over languages, over concepts (Figure 2), and over both.

    Args:
        table: columns concept, model, language; all others are averaged. Missing values (NaN) are left out.

    Returns:
        The same columns; one row per model, concept and language, each also `all` (last) for the average.
    """
    over_languages, over_concepts = {"language": ALL}, {"concept": ALL}
    copies = [{}, over_languages, over_concepts, over_languages | over_concepts]
    means = pd.concat([table.assign(**copy) for copy in copies]).groupby(KEYS, sort=False).mean()
    models, concepts, languages = (table[name].unique() for name in ("model", "concept", "language"))
    order = pd.MultiIndex.from_product([models, [*concepts, ALL], [*languages, ALL]]).swaplevel(0, 1)
    return means.reindex(order.set_names(KEYS)).reset_index()


def interval_table(
    files: Mapping[str, Mapping[str, AccuracyFile]],
    languages: Sequence[str],
    selection: Selection,
    draws: int,
    seed: int,
) -> pd.DataFrame:
    """95 % bootstrap intervals of Table 6's cells and averages.

    Args:
        files: by model and concept.
        draws: number of bootstrap samples of each concept's items, each item with all its translations.

    Returns:
        Columns concept, model, language (`all` for averages, see `with_averages`), accuracy, test_pairs (their mean
        in averages), accuracy_low, accuracy_high: percentiles, or Wilson's interval where all draws are equal.

    Raises:
        UserError: a file does not record which pairs were right.
    """
    cells = [(language, language) for language in languages]
    tables = []
    for model, by_concept in files.items():
        accuracy = same_language_table({model: by_concept}, languages, selection)[[*KEYS, "accuracy", *COUNTS]]
        drawn = [accuracy_draws(file, cells, selection, draws, seed).T for file in by_concept.values()]
        averaged = with_averages(pd.concat([accuracy, pd.DataFrame(np.concatenate(drawn))], axis=1))
        low, high = bounds(averaged.iloc[:, -draws:].to_numpy(float).T)
        # Where all pairs are right, so they are in every draw, and the bootstrap sees no uncertainty.
        items, right = averaged["test_items"].to_numpy(float), averaged["accuracy"].to_numpy()
        low, high = (
            np.where(low == high, edge, bound)
            for edge, bound in zip(wilson(right * items, items), (low, high), strict=True)
        )
        tables.append(averaged[[*KEYS, "accuracy", "test_pairs"]].assign(accuracy_low=low, accuracy_high=high))
    return pd.concat(tables, ignore_index=True)


def of_figure2(table: pd.DataFrame) -> pd.DataFrame:
    """The bars of Figure 2, the averages over concepts for each model and language, from a table with averages."""
    return table[(table["concept"] == ALL) & (table["language"] != ALL)]


def with_intervals(accuracy: pd.DataFrame, intervals: pd.DataFrame) -> pd.DataFrame:
    """Table 6 in long form with the bounds of its cells, accuracy_low and accuracy_high."""
    return accuracy.merge(intervals.drop(columns=["accuracy", "test_pairs"]), on=KEYS, how="left")


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
        accuracy: from `same_language_table`, for the same files and selection.
        files: by model and concept.
        random_files: the same for `--random-direction`.
        permutations: number of random exchanges, see `permutation.better_than`.

    Returns:
        The table with the further columns random_accuracy, p (one-sided), p_holm (corrected over the model's cells).

    Raises:
        UserError: a file does not record which pairs were right, or the two were tested on different pairs.
    """
    found = []
    for model, concept, language in accuracy[["model", "concept", "language"]].to_numpy():
        file, other = files[model][concept], random_files[model][concept]
        keys = file.content["test_keys"].get(language)
        if other.content["test_keys"].get(language, keys) != keys:
            raise UserError(
                f"{other.path} and {file.path.name} were tested on different pairs of {language}: run both stages "
                "again with --overwrite, with and without --random-direction"
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
    if selection.by != "best":  # chosen on other pairs, so the choice of the layer is not part of the test
        layers = [correct[[layer]] for correct, layer in zip(layers, chosen, strict=True)]
    swaps = generator.integers(2, size=(permutations, layers[0].shape[1]), dtype=np.int8)
    return float(other.accuracy[language][language][chosen[1]]), better_than(layers[0], layers[1], swaps)
