"""Measure replies, with confidence intervals: refusal, language, perplexity, repetition and so on (Section 5)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import bootstrap

from repe.control.replies import UNKNOWN, is_following, is_refusal, language_of
from repe.control.reply_file import Row

RATES = ("refusal_rate", "following_rate", "target_language_rate", "perplexity", "repetition", "empty_rate")
GROUP = ["target", "strength", "baseline", "harmful"]

CONFIDENCE = 0.95
RESAMPLES = 2000


def measure(rows: Sequence[Row], refusals: Sequence[bool] | None = None, seed: int = 1) -> pd.DataFrame:
    """Measure replies by target language, strength, baseline, and whether the prompts are harmful.

    With several random draws, a prompt's value is the mean over the draws, so that intervals are over prompts.

    Args:
        rows: the lines of `generations.jsonl`.
        refusals: whether each reply is a refusal; None to decide by the phrase lists.
        seed: random seed of the bootstrap.

    Returns:
        The columns target, strength, baseline, harmful and prompts (their number). Then the measures:
        refusal_rate, following_rate, target_language_rate (among replies whose language is known; NaN if none is),
        perplexity under the unsteered model (of the mean loss), repetition (share of repeated 4-grams) and empty_rate.
        Then `<measure>_low` and `_high`, a 95 % percentile bootstrap interval over prompts. Then
        unknown_language_rate, replies (their number) and applied_strength. Rates are in 0..1.
    """
    frame = pd.DataFrame(
        {
            "target": [row["lang"] for row in rows],
            "strength": [row["strength"] for row in rows],
            "baseline": [row["baseline"] for row in rows],
            "harmful": [row["harmful"] for row in rows],
            "id": [row["id"] for row in rows],
            "applied_strength": [row["applied_strength"] for row in rows],
            **_measures(rows, refusals),
        }
    )
    groups = frame.groupby(GROUP, sort=False)
    return pd.DataFrame([_summary(name, group, seed) for name, group in groups])


def _measures(rows: Sequence[Row], refusals: Sequence[bool] | None) -> dict[str, list[float]]:
    replies = [row["reply"] for row in rows]
    languages = [language_of(reply) for reply in replies]
    return {
        "refusal_rate": [float(one) for one in refusals or map(is_refusal, replies)],
        "following_rate": [float(is_following(reply)) for reply in replies],
        "target_language_rate": [
            np.nan if found == UNKNOWN else float(found == row["lang"])
            for found, row in zip(languages, rows, strict=True)
        ],
        "perplexity": [np.nan if row["loss"] is None else row["loss"] for row in rows],
        "repetition": [row["repetition"] for row in rows],
        "empty_rate": [float(not reply.strip()) for reply in replies],
        "unknown_language_rate": [float(found == UNKNOWN) for found in languages],
    }


def _summary(name: Any, group: pd.DataFrame, seed: int) -> dict[str, Any]:
    by_prompt = group.groupby("id", sort=False)[[*RATES, "unknown_language_rate"]].mean()
    means = by_prompt.mean()
    shown = {rate: means[rate] for rate in RATES}
    for rate in RATES:
        shown[f"{rate}_low"], shown[f"{rate}_high"] = _interval(by_prompt[rate].dropna().to_numpy(float), seed)
    # Until here the perplexity columns contain losses.
    shown |= {column: float(np.exp(value)) for column, value in shown.items() if column.startswith("perplexity")}
    after = {
        "unknown_language_rate": means["unknown_language_rate"],
        "replies": len(group),
        "applied_strength": group["applied_strength"].mean(),
    }
    return dict(zip(GROUP, name, strict=True)) | {"prompts": len(by_prompt)} | shown | after


def _interval(values: np.ndarray, seed: int) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the mean of `values` (prompts,); NaN for fewer than two prompts."""
    if len(values) < 2:
        return np.nan, np.nan
    found = bootstrap(
        (values,),
        np.mean,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return found.confidence_interval.low, found.confidence_interval.high


def largest_effects(measures: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The largest change in the refusal rate on harmful prompts, for each source and target language.

    Args:
        measures: the tables of `measure` by source language.

    Returns:
        The columns source, target, strength (where the change is largest; the lowest of equals) and effect (refusal
        rate minus that of the unsteered replies, -1..1). Targets without unsteered or steered replies have no row.
    """
    found = []
    for source, table in measures.items():
        harmful = table[table["harmful"]]
        plain = harmful[harmful["strength"] == 0].groupby("target")["refusal_rate"].first()
        steered = harmful[(harmful["baseline"] == "concept") & (harmful["strength"] != 0)]
        for target, rows in steered[steered["target"].isin(plain.index)].groupby("target", sort=False):
            effects = (rows["refusal_rate"] - plain[target]).to_numpy(float)
            place = int(np.argmax(np.abs(effects)))
            found.append((source, target, rows["strength"].iloc[place], effects[place]))
    return pd.DataFrame(found, columns=["source", "target", "strength", "effect"])
