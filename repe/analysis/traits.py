"""The paper's questions in numbers, beside what it says of large models (Sections 4.1 to 4.3)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from repe.analysis.consistency import best_layer_similarity, cosines, high_resource, linguistic_correlation
from repe.analysis.layer_selection import PAPER, accuracy_at
from repe.analysis.transfer import ONE_WAY, delta_draws, deltas, one_way
from repe.paper import DISTANCES, SHARED_LANGUAGES, SIZE, Family, billions
from repe.results.accuracy_file import AccuracyFile
from repe.results.vector_file import VectorFile
from repe.uncertainty.bootstrap import accuracy_draws, bounds
from repe.uncertainty.permutation import pearson


@dataclass(frozen=True)
class Trait:
    """A number that answers one of the paper's questions, for a model or a series of models."""

    section: str
    """Of the paper."""
    meaning: str
    claim: str
    """What the paper says of large models; in brackets, what we take it to mean for this number."""


_RICHER = "concepts of languages with more text are captured better (above 0)"
_LARGER = "larger models capture concepts better (slope above 0)"
_CONSISTENT = "imbalance makes concepts inconsistent across languages"
_RELATED = "imbalance distorts linguistic relations (lower in unbalanced models)"
ROUNDED = 9  # digits
TRAITS = {
    "accuracy": Trait("4.2", "accuracy, mean over languages and concepts", _LARGER),
    "accuracy_size_slope": Trait("4.2", "accuracy gained with twice the parameters, in a series of models", _LARGER),
    "accuracy_share_rank": Trait("4.1", "rank correlation of accuracy with share of the training text", _RICHER),
    "accuracy_share_slope": Trait("4.1", "accuracy gained with ten times the share", _RICHER),
    "similarity": Trait("4.3.1", "similarity of the shared languages", f"{_CONSISTENT} (lower in unbalanced models)"),
    "similarity_high": Trait(
        "4.3.1",
        "similarity among high-resource languages minus that among the others",
        f"{_CONSISTENT} (away from 0 in unbalanced models)",
    ),
    "similarity_with_high": Trait(
        "4.3.1",
        "similarity of pairs with a high-resource language minus that of the other pairs",
        f"{_CONSISTENT} (away from 0 in unbalanced models)",
    ),
    **{
        f"r_{distance}_{kind}": Trait("4.3.2", f"Table 1: r with {distance} similarity, {kind}", _RELATED)
        for distance in DISTANCES
        for kind in ("direct", "split")
    },
    "high_to_low": Trait(
        "4.3.3",
        "transfer from high-resource languages to the others: accuracy minus the target's own",
        "high-resource languages transfer to the others (0 or more)",
    ),
    "low_to_high": Trait(
        "4.3.3", "transfer from the others to high-resource languages", "not the reverse in unbalanced models (below 0)"
    ),
    "one_way": Trait(
        "4.3.3",
        "one-way transfer: the difference of the two",
        "one-way in unbalanced models (above 0), both ways in balanced ones",
    ),
}
assert {*ONE_WAY} <= {*TRAITS}


@dataclass(frozen=True)
class Findings:
    """What a model's traits are computed from. Draws are bootstrap samples of test items; downloads have none."""

    family: Family
    shares: Mapping[str, float]
    """Percent of the training text by language, as far as known; the order alone if there are none in the family."""
    languages: Sequence[str]
    """With accuracies."""
    axis: Sequence[str]
    """Languages that are compared with each other, in the family's order."""
    accuracy: np.ndarray
    """float64 (1 + draws, languages), mean over concepts; the first row is the whole test set."""
    delta: np.ndarray
    """float64 (1 + draws, sources, targets): accuracy minus the target's own, mean over concepts."""
    similarity: np.ndarray
    """float64 (languages, languages), mean over concepts of the best layer's cosine."""


def findings(
    family: Family,
    accuracies: Mapping[str, AccuracyFile],
    vectors: Mapping[str, VectorFile],
    languages: Sequence[str],
    shares: Mapping[str, float],
    draws: int,
    seed: int,
) -> Findings:
    """Read what a model's traits are computed from.

    Args:
        accuracies: by concept.
        vectors: by concept.
        languages: that all files have.
        shares: percent by language; the family's if empty.
        draws: bootstrap samples, where the files record which pairs were right.
    """
    axis, own = family.order(languages), [(language, language) for language in languages]
    accuracy = np.mean([np.diagonal(accuracy_at(file, languages, languages)) for file in accuracies.values()], axis=0)
    delta = np.mean([deltas(file, axis) for file in accuracies.values()], axis=0)
    drawn, drawn_delta = np.empty((0, *accuracy.shape)), np.empty((0, *delta.shape))
    if all(has_outcomes(file, languages) for file in accuracies.values()):
        drawn = np.mean([accuracy_draws(file, own, PAPER, draws, seed) for file in accuracies.values()], axis=0)
        drawn_delta = delta_draws(accuracies, axis, PAPER, draws, seed).mean(axis=0)
    return Findings(
        family,
        shares or family.shares,
        languages,
        axis,
        np.concatenate([accuracy[None], drawn]),
        np.concatenate([delta[None], drawn_delta]),
        best_layer_similarity(cosines(vectors, axis)),
    )


def has_outcomes(file: AccuracyFile, languages: Sequence[str]) -> bool:
    """Whether the file records which pairs were right, for all pairs of languages."""
    correct = file.content["correct"]
    return all(target in correct.get(source, {}) for source in languages for target in languages)


def trait_table(models: Mapping[str, Findings]) -> pd.DataFrame:
    """All traits of all models.

    Returns:
        Columns trait, model (for `accuracy_size_slope` a series, with `*` for the size), family, kind, value, low, high
        (95 % bootstrap interval over test items), count (languages, pairs of languages or models behind the value),
        section, meaning, claim; in the order of TRAITS. NaN where a value is undefined or a file does not allow it.
    """
    rows: list[tuple[str, str, Family, np.ndarray, int]] = [
        (name, model, found.family, values, count)
        for model, found in models.items()
        for name, values, count in _of_model(found)
    ]
    rows += [("accuracy_size_slope", *row) for row in _of_series(models)]
    table = pd.DataFrame(
        [
            (name, model, family.label or family.name, family.kind, values[0], *_interval(values), count)
            for name, model, family, values, count in rows
        ],
        columns=["trait", "model", "family", "kind", "value", "low", "high", "count"],
    )
    order = {name: place for place, name in enumerate(TRAITS)}
    table = table.sort_values("trait", key=lambda names: names.map(order), kind="stable", ignore_index=True)
    facts = ("section", "meaning", "claim")
    return table.assign(**{fact: [getattr(TRAITS[name], fact) for name in table["trait"]] for fact in facts})


def _interval(values: np.ndarray) -> tuple[float, float]:
    if len(values) == 1 or np.isnan(values[0]):
        return np.nan, np.nan
    low, high = bounds(values[1:])
    return float(low), float(high)


def _of_model(found: Findings) -> Iterator[tuple[str, np.ndarray, int]]:
    """Name, values (1 + draws,) and count of a model's traits."""
    yield "accuracy", found.accuracy.mean(axis=-1), len(found.languages)
    known, shares = _known_shares(found)
    yield "accuracy_share_rank", rank_correlation(found.accuracy[:, known], shares), int(known.sum())
    logarithms = np.log10(shares) if found.shares else np.full(len(shares), np.nan)
    yield "accuracy_share_slope", slope(found.accuracy[:, known], logarithms), int(known.sum()) if found.shares else 0
    high = high_resource(found.family, found.axis)
    shared = np.isin(found.axis, SHARED_LANGUAGES)
    for name, (first, second) in {
        "similarity": (np.logical_and.outer(shared, shared), None),
        "similarity_high": (np.logical_and.outer(high, high), np.logical_and.outer(~high, ~high)),
        "similarity_with_high": (np.logical_or.outer(high, high), np.logical_and.outer(~high, ~high)),
    }.items():
        yield name, *mean_difference(found.similarity, first, second)
    for row in linguistic_correlation("", found.family, found.axis, found.similarity).to_dict("records"):
        for kind in ("direct", "split"):
            yield f"r_{row['distance']}_{kind}", np.array([row[kind]]), row["pairs"]
    directions = one_way(found.delta, high)
    for place, name in enumerate(ONE_WAY):
        yield name, directions[:, place], int(high.sum() * (~high).sum())


def _known_shares(found: Findings) -> tuple[np.ndarray, np.ndarray]:
    """Languages with a known share, bool (languages,), and their shares, or numbers in the order of the shares."""
    order = found.shares or {language: -float(place) for place, language in enumerate(found.family.axis, 1)}
    known = np.isin(found.languages, [*order])
    return known, np.array([order[language] for language in np.array(found.languages)[known]], dtype=float)


def mean_difference(similarity: np.ndarray, first: np.ndarray, second: np.ndarray | None) -> tuple[np.ndarray, int]:
    """Mean similarity of two kinds of pairs of different languages, compared.

    Args:
        similarity: (languages, languages).
        first: the pairs of one kind, bool (languages, languages).
        second: those of the other kind, if any.

    Returns:
        Mean of the first minus mean of the second, float64 (1,), NaN if there are none of a kind; number of pairs.
    """
    apart = ~np.eye(len(similarity), dtype=bool)
    known = apart & np.isfinite(similarity)
    parts = [similarity[part & known] for part in (first, second) if part is not None]
    means = [float(part.mean()) if len(part) else np.nan for part in parts]
    return np.array([means[0] - means[1] if len(means) > 1 else means[0]]), sum(map(len, parts)) // 2


def _of_series(models: Mapping[str, Findings]) -> Iterator[tuple[str, Family, np.ndarray, int]]:
    """Series, family, values (1 + draws,) and number of models: names that differ in the size only."""
    series: dict[str, list[str]] = {}
    for model in models:
        if billions(model):
            series.setdefault(SIZE.sub("*", model), []).append(model)
    for name, members in series.items():
        if len(members) > 1:
            found = [models[model] for model in members]
            # Bootstrap samples of different models have the same items, so they are taken together.
            draws = min(len(one.accuracy) for one in found)
            means = np.stack([one.accuracy[:draws].mean(axis=-1) for one in found], axis=-1)
            yield name, found[0].family, slope(means, np.log2([billions(model) for model in members])), len(members)


def rank_correlation(values: np.ndarray, by: np.ndarray) -> np.ndarray:
    """Spearman's rank correlation of `values` (..., entries) with `by` (entries,); NaN where undefined."""
    # Equal accuracies whose means over concepts differ by rounding errors are ties.
    return pearson(rankdata(values.round(ROUNDED), axis=-1), rankdata(by))


def slope(values: np.ndarray, by: np.ndarray) -> np.ndarray:
    """Slope of the least-squares line of `values` (..., entries) over `by` (entries,); NaN where undefined."""
    if len(by) < 2 or np.ptp(by) == 0:
        return np.full(values.shape[:-1], np.nan)
    apart = by - by.mean()
    slopes: np.ndarray = values @ apart / (apart @ apart)
    return slopes
