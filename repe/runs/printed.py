"""Results as compact tables in the terminal."""

import sys
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from repe.analysis.accuracy_table import interval_of, with_averages
from repe.analysis.layer_selection import PAPER
from repe.analysis.transfer import ONE_WAY
from repe.data import Pair
from repe.paper import Family
from repe.results.accuracy_file import AccuracyFile
from repe.uncertainty.bootstrap import ALL

# Below this number of test items, an accuracy can be wrong by 0.2 and more.
FEW_ITEMS = 20
# Below this number of pairs of languages, a correlation with their distances says little.
FEW_PAIRS = 10
# Columns of control.csv that are printed.
CONTROL = (
    *("target", "harmful", "baseline", "strength", "prompts", "concept_score", "refusal_rate", "perplexity"),
    *("repetition", "target_language_rate"),
)
# More sets than this become a table of concepts by languages.
ROWS_SHOWN, COLUMNS_SHOWN = 20, 17


def aligned(rows: Sequence[Sequence[str]], numbers_right: bool = False) -> str:
    """Rows in columns as wide as their widest cell; with `numbers_right` all but the first are aligned to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = zip(row, widths, strict=True)
        padded = [cell.rjust(w) if numbers_right and place else cell.ljust(w) for place, (cell, w) in enumerate(cells)]
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def matrix(wide: pd.DataFrame, corner: str = "") -> str:
    """A table of numbers with two decimals, in blocks of columns that fit side by side; NaN is `--`."""
    blocks = []
    for start in range(0, wide.shape[1], COLUMNS_SHOWN):
        part = wide.iloc[:, start : start + COLUMNS_SHOWN]
        cells = [[str(name), *map(_number, row)] for name, row in zip(part.index, part.to_numpy(), strict=True)]
        blocks.append(aligned([[corner, *map(str, part.columns)], *cells], numbers_right=True))
    return "\n\n".join(blocks)


def _number(value: float) -> str:
    if isinstance(value, int) or pd.isna(value):
        return "--" if pd.isna(value) else str(value)
    return f"{value:z.2f}"


def with_interval(value: float, low: float = np.nan, high: float = np.nan, digits: int = 2) -> str:
    """A number and its interval, if it has one; NaN is `--`."""
    if pd.isna(value):
        return "--"
    return f"{value:z.{digits}f}" + (f" [{low:z.{digits}f}, {high:z.{digits}f}]" if pd.notna(low) else "")


def pairs(
    splits: Mapping[tuple[str, str], tuple[Sequence[Pair], Sequence[Pair]]], split: float, folds: int | None = None
) -> str:
    """Numbers of training and test pairs, one row per concept.

    Args:
        splits: training and test pairs by concept and language.
        split: of `--split`.
        folds: of `--folds`.
    """
    by_concept: dict[str, dict[str, tuple[int, int]]] = {}
    for (concept, language), (train, test) in splits.items():
        by_concept.setdefault(concept, {})[language] = (len(train), len(test))
    rows = []
    for concept, counts in by_concept.items():
        languages = " ".join(counts) if len(counts) <= 4 else f"{len(counts)} languages"
        trained, tested = (_range(numbers) for numbers in zip(*counts.values(), strict=True))
        counted = (f"{trained} training pairs", f"{tested} test pairs")
        in_folds = (f"{tested} pairs, each tested once", f"in {folds} folds")
        rows.append((concept, languages, *(in_folds if folds else counted)))
    most = max((len(train) for train, _ in splits.values()), default=0)
    lines = [aligned(rows)] if rows else []
    if split > 1 and most < int(split):
        lines.append(f"--split {split:g} is more than 80 % of the pairs, the largest share that trains: {most} train")
    return "\n".join(lines)


def _range(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low} to {high}"


def accuracies(
    files: Mapping[str, AccuracyFile],
    wanted: Mapping[str, Sequence[str]],
    untrained: Mapping[str, AccuracyFile],
) -> str:
    """Accuracy with a language's own vectors at the best layer: a row per concept and language, or a matrix if many.

    Args:
        files: by concept.
        wanted: languages by concept.
        untrained: the same of the model with random weights, where that has been tried.
    """
    cells = [(concept, language) for concept, languages in wanted.items() for language in languages]
    if len(cells) > ROWS_SHOWN:
        values = {(concept, language): files[concept].accuracy[language][language].max() for concept, language in cells}
        wide = pd.Series(values).unstack(sort=False)
        title = "accuracy of each language's own vectors at the best layer (chance 0.50)"
        return f"{title}\n{matrix(wide.assign(Avg=wide.mean(axis=1)))}"
    return aligned([_row(files[concept], language, untrained.get(concept)) for concept, language in cells])


def _row(file: AccuracyFile, language: str, floor: AccuracyFile | None) -> tuple[str, ...]:
    accuracy = file.accuracy[language][language]
    layer = PAPER.accuracy_layer(file, language, language)
    low, high, items, count = interval_of(file, language, PAPER)
    of = "" if items == count else f" of {items} items"
    known = np.isfinite(low)
    beside = floor.accuracy.get(language, {}).get(language) if floor else None
    return (
        *(file.concept, language, f"{accuracy[layer]:.2f}", f"[{low:.2f}, {high:.2f}]" if known else ""),
        *(f"layer {layer + 1} of {len(accuracy)}", f"{count} pairs{of}" if known else ""),
        f"(untrained {beside.max():.2f})" if beside is not None else "",
    )


def warn_of_few_items(
    files: Mapping[str, AccuracyFile], wanted: Mapping[str, Sequence[str]], folds: int | None = None
) -> None:
    """Warn on stderr of test sets that are too small to tell one accuracy from another."""
    found = {
        concept: [
            items
            for language in languages
            for _, _, items, _ in [interval_of(files[concept], language, PAPER)]
            if items and items < FEW_ITEMS
        ]
        for concept, languages in wanted.items()
    }
    if few := {concept: numbers for concept, numbers in found.items() if numbers}:
        sizes = ", ".join(f"{_range(numbers)} of {concept}" for concept, numbers in few.items())
        remedy = "collect more pairs" + ("" if folds else ", or test every pair once with --folds 5 in stages 1 and 2")
        print(
            f"warning: fewer than {FEW_ITEMS} test items ({sizes}): an accuracy from so few is rough, and the best of "
            f"many layers is too high; {remedy}",
            file=sys.stderr,
        )


def table6(accuracy: pd.DataFrame) -> str:
    """Table 6: concepts by languages for one model; for several, models by languages, mean over concepts."""
    rows = with_averages(accuracy[["concept", "model", "language", "accuracy"]])
    models, concepts = accuracy["model"].unique(), accuracy["concept"].unique()
    if len(models) == 1:
        wide = rows.pivot(index="concept", columns="language", values="accuracy")
        order = [*concepts, *([ALL] if len(concepts) > 1 else [])]
        title = f"accuracy of {models[0]} at the best layer (chance 0.50)"
    else:
        wide = rows[rows["concept"] == ALL].pivot(index="model", columns="language", values="accuracy")
        order, title = [*models], f"accuracy, mean over {len(concepts)} concepts of the best layer's (chance 0.50)"
    languages = [*accuracy["language"].unique(), ALL]
    return f"{title}\n{matrix(wide.loc[order, languages].rename(columns={ALL: 'Avg'}, index={ALL: 'all concepts'}))}"


def between_languages(table: pd.DataFrame, value: str, title: str) -> str:
    """Similarity or transfer: the square of one model; for several models their means and extremes.

    Args:
        table: columns model, source, target and `value`.
    """
    models = table["model"].unique()
    if len(models) == 1:
        languages = table["source"].unique()
        wide = table.pivot(index="source", columns="target", values=value).loc[languages, languages]
        return f"{title}, {models[0]}\n{matrix(wide)}"
    rows = [["", "mean", "lowest", "", "highest", ""]]
    for model in models:
        apart = table[(table["model"] == model) & (table["source"] != table["target"])].dropna(subset=[value])
        cells = [model]
        if len(apart):
            cells.append(_number(apart[value].mean()))
            for row in (apart.loc[apart[value].idxmin()], apart.loc[apart[value].idxmax()]):
                cells += [_number(row[value]), f"{row['source']}-{row['target']}"]
        rows.append(cells + ["--"] * (6 - len(cells)))
    return f"{title}, between different languages\n{aligned(rows, numbers_right=True)}"


def table1(table: pd.DataFrame) -> str:
    """Table 1: Pearson's r by model and distance, direct and split, with the number of language pairs."""
    rows = [["Table 1, Pearson's r", "distance", "direct", "split", "pairs of languages"]]
    for _, row in table.iterrows():
        known = str(row["pairs"]) + (f" ({row['computed_pairs']} computed)" if row["computed_pairs"] else "")
        rows.append([row["model"], row["distance"], _number(row["direct"]), _number(row["split"]), known])
    notes = [] if table["pairs"].max() >= FEW_PAIRS else [f"fewer than {FEW_PAIRS} pairs of languages: r says little"]
    if table["direct"].isna().any():
        notes.append("--: r needs three pairs, and distances that differ")
    return "\n".join([aligned(rows, numbers_right=True), *notes])


def one_way(table: pd.DataFrame) -> str:
    """Transfer from high- to low-resource languages and back, mean over concepts, with 95 % intervals if it has any."""
    rows = [["mean over concepts", "high to low", "low to high", "one-way (difference)"]]
    for _, row in table[table["concept"] == ALL].iterrows():
        cells = [with_interval(*row.reindex([name, f"{name}_low", f"{name}_high"])) for name in ONE_WAY]
        rows.append([row["model"], *cells])
    return aligned(rows, numbers_right=True)


def learned(table: pd.DataFrame) -> str:
    """Transfer after a learned map by number of items, mean over languages and concepts."""
    names = ("accuracy", "shuffled", "own_same_items", "own")
    rows = [["items", "mapped", "shuffled items", "own, same items", "own", "mapped - shuffled", "mapped - unmapped"]]
    for model, part in table[(table["source"] == ALL) & (table["target"] == ALL)].groupby("model", sort=False):
        rows.append([str(model)] + [""] * 6)
        for _, row in part.iterrows():
            cells = [_number(row[name]) for name in names]
            both = [with_interval(row[n], row[f"{n}_low"], row[f"{n}_high"], digits=3) for n in ("difference", "gain")]
            rows.append([row["items"], *cells, *both])
    return f"transfer after a learned map, mean over languages and concepts\n{aligned(rows, numbers_right=True)}"


def shares(table: pd.DataFrame, families: Mapping[str, Family]) -> str:
    """The languages' shares of each model's training text, where they are from, and the high-resource languages.

    Args:
        table: columns model, language, percent (NaN where only the order is known), source.
        families: of the models.
    """
    alike: dict[str, list[str]] = {}
    for model, family in families.items():
        rows = table[table["model"] == model]
        known = [f"{one} {share:g}".removesuffix(" nan") for one, share in rows[["language", "percent"]].to_numpy()]
        source = "; ".join(dict.fromkeys(rows["source"].dropna())) or "source not named"
        line = f"{', '.join(known)} ({source})" if known else "not known; --shares FILE reads them"
        high = " ".join(family.high_resource) or "not known"
        alike.setdefault(f"{line}; high-resource: {high}", []).append(f"{model}{_of_kind(family.kind)}")
    lines = [f"  {', '.join(models)}: {line}" for line, models in alike.items()]
    return "\n".join(["languages' shares of the training text, percent", *lines])


def _of_kind(kind: str) -> str:
    return f" ({kind})" if kind else ""


def traits(table: pd.DataFrame) -> str:
    """The paper's questions in numbers, with the paper's claims; Table 1 without Split; then what is not known.

    Args:
        table: from `repe.analysis.traits.trait_table`.
    """
    lines, said, unknown = [], "", []
    for _, rows in table[~table["trait"].str.endswith("_split")].groupby("trait", sort=False):
        first = rows.iloc[0]
        if rows["value"].isna().all():
            unknown.append(first["meaning"])
        else:
            if first["claim"] != said:
                said = first["claim"]
                lines.append(f"Section {first['section']}, paper: {said}")
            lines.append(f"  {first['meaning']}")
            for kind, alike in rows.groupby("kind", sort=False):
                numbers = alike[["value", "low", "high"]].to_numpy(dtype=float)
                named = zip(alike["model"], numbers, strict=True)
                cells = [f"{model} {with_interval(value, low, high, 3)}" for model, (value, low, high) in named]
                lines.append(f"    {', '.join(cells)}{_of_kind(str(kind))}")
    return "\n".join([*lines, *([f"not known: {'; '.join(unknown)}"] if unknown else [])])


def control(table: pd.DataFrame) -> str:
    """Measures of the replies without a vector, with the source's vector and with random directions.

    Args:
        table: from `repe.control.measures.measure`; columns without any value are left out.
    """
    shown = table[table["baseline"].isin(["none", "concept", "random"])]
    known = [name for name in CONTROL if shown[name].notna().any()]
    return shown[known].round(2).to_string(index=False, na_rep="")


def effects(table: pd.DataFrame) -> list[str]:
    """How far the vector moves each target language, beside random directions: a line for each measure.

    Args:
        table: from `repe.control.measures.source_effects`, of one source.
    """
    lines = []
    for (target, measure), rows in table.groupby(["target", "measure"], sort=False) if len(table) else ():
        for row in rows[rows["baseline"] == "concept"].to_dict("records"):
            line = f"{target} {measure} from strength {row['low']:g} to {row['high']:g}: "
            line += with_interval(row["effect"], row["effect_low"], row["effect_high"])
            if pd.notna(row["below"]):
                line += f" ({row['below']:z.2f} below 0, {row['above']:z.2f} above)"
            if pd.notna(row["perplexity"]):
                line += f", perplexity at most {row['perplexity']:.2f} times"
            drawn = rows[rows["baseline"] == "random"]["effect"]
            if len(drawn):
                least, most = drawn.min(), drawn.max()
                line += f"; {len(drawn)} random: mean {drawn.mean():z.2f}, {least:z.2f} to {most:z.2f}"
            lines.append(line)
    return lines
