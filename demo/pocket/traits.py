"""The paper's questions in numbers, for mixes of languages that are no family of the paper: what mix.py compares.

`python -m repe traits` takes high-resource languages from the family. Here, of the languages of a model's cross-lingual
figures in the order of their shares, the first half is rich and the last half is poor.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from repe.analysis.traits import mean_difference
from repe.analysis.transfer import one_way
from repe.paper import FAMILIES

# The balanced family's languages of high share: among these the paper expects transfer both ways.
EIGHT = FAMILIES["bloomz"].high_resource


def halves(shares: dict[str, float], languages: list[str]) -> tuple[list[str], list[str]]:
    """Rich and poor: the first and the last half of `languages` in the order of their shares."""
    order = sorted(languages, key=lambda language: -shares.get(language, 0.0))
    half = len(order) // 2
    return order[:half], order[len(order) - half :]


def traits(tables: Path, model: str, shares: dict[str, float]) -> dict[str, float]:
    """The traits of one model.

    Args:
        tables: folder of the analyses' CSV files.
        model: results folder.
        shares: percent of the model's text a language.

    Returns:
        accuracy: same-language accuracy at the best layer, mean over concepts and all languages;
        rich_accuracy: that of rich languages less that of poor ones;
        rich_similarity: similarity among rich languages less that among poor ones;
        linguistic: Pearson's r of similarity with linguistic similarity, mean over Table 1's distances ("Direct");
        one_way: transfer gain from rich to poor languages less that from poor to rich ones;
        one_way_eight: the same within the balanced family's eight, first four against last four.
    """
    accuracy = pd.read_csv(tables / "table6_recognition_accuracy.csv").query("model == @model")
    similarity = pd.read_csv(tables / "similarity.csv").query("model == @model")
    transfer = pd.read_csv(tables / "transfer.csv").query("model == @model")
    linguistic = pd.read_csv(tables / "table1_linguistic_correlation.csv").query("model == @model")
    by_language = accuracy.groupby("language").accuracy.mean()
    rich, poor = halves(shares, list(dict.fromkeys(similarity.source)))
    square, is_rich = _square(similarity, "similarity", rich + poor), np.isin(rich + poor, rich)
    eight = [language for language in EIGHT if language in set(similarity.source)]
    return {
        "accuracy": by_language.mean(),
        "rich_accuracy": by_language[rich].mean() - by_language[poor].mean(),
        "rich_similarity": float(
            mean_difference(square, np.outer(is_rich, is_rich), np.outer(~is_rich, ~is_rich))[0][0]
        ),
        "linguistic": linguistic.direct.mean(),
        "one_way": _one_way(transfer, rich, poor),
        "one_way_eight": _one_way(transfer, *halves(shares, eight)),
    }


def _square(table: pd.DataFrame, value: str, languages: list[str]) -> np.ndarray:
    """A column of the table as (sources, targets)."""
    wide = table.pivot(index="source", columns="target", values=value).loc[languages, languages]
    return wide.to_numpy(dtype=float)


def _one_way(transfer: pd.DataFrame, rich: list[str], poor: list[str]) -> float:
    delta = _square(transfer, "delta", rich + poor)
    return float(one_way(delta, np.isin(rich + poor, rich))[2])


def control_effects(table: Path, source: str) -> dict[str, float]:
    """What steering with the source's vector does to refusals, at the strengths that change them most.

    Returns:
        Mean refusal rates over target languages: `unsteered_harmful` and `unsteered_harmless`; `released`, that on
        harmful prompts steered towards harmlessness, in the source language and, as `released_others`, in the others;
        `refused_others`, that on harmless prompts steered the other way; `random_released` and `random_refused`, the
        same with random directions of the same norm.
    """
    rows = pd.read_csv(table)
    plain = rows[rows.strength == 0].drop_duplicates(["target", "harmful"])
    others = rows.target != source

    def rate(baseline: str, harmful: bool, strength: float, chosen: pd.Series) -> float:
        found = rows[(rows.baseline == baseline) & (rows.harmful == harmful) & (rows.strength == strength) & chosen]
        return float(found.refusal_rate.mean())

    high, low = rows.strength.max(), rows.strength.min()
    return {
        "unsteered_harmful": float(plain[plain.harmful].refusal_rate.mean()),
        "unsteered_harmless": float(plain[~plain.harmful].refusal_rate.mean()),
        "released": rate("concept", True, high, ~others),
        "released_others": rate("concept", True, high, others),
        "refused_others": rate("concept", False, low, others),
        "random_released": rate("random", True, high, others),
        "random_refused": rate("random", False, low, others),
    }


def interval(values: list[float]) -> tuple[float, float, float]:
    """Mean and 95 % interval over seeds, by Student's t; a single seed has no interval (NaN)."""
    from scipy.stats import t

    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, np.nan, np.nan
    half = float(t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
    return mean, mean - half, mean + half
