"""Measure replies, with confidence intervals: refusal, language, perplexity, repetition and so on (Section 5)."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.stats import bootstrap

from repe.control.replies import UNKNOWN, is_following, is_refusal, language_of
from repe.control.reply_file import Row

RATES = ("refusal_rate", "following_rate", "target_language_rate", "perplexity", "repetition", "empty_rate")
GROUP = ["target", "strength", "baseline", "harmful"]

RESAMPLES = 2000


def measure(rows: Sequence[Row], seed: int = 1) -> pd.DataFrame:
    """Measure replies by target language, strength, baseline, and whether the prompts are harmful.

    With several random draws, a prompt's value is the mean over the draws, so that intervals are over prompts.

    Args:
        rows: the lines of `generations.jsonl`.
        seed: random seed of the bootstrap.

    Returns:
        The columns target, strength, baseline, harmful and prompts (their number). Then the measures:
        refusal_rate, following_rate, target_language_rate (among replies whose language is known; NaN if none is),
        perplexity under the unsteered model (of the mean loss), repetition (share of repeated 4-grams) and empty_rate.
        Then `<measure>_low` and `_high`, a 95 % percentile bootstrap interval over prompts. Then
        unknown_language_rate and replies (their number). Rates are in 0..1.
    """
    replies = [row["reply"] for row in rows]
    languages = [language_of(reply) for reply in replies]
    frame = pd.DataFrame(
        {
            **{name: [row[name] for row in rows] for name in ("lang", "strength", "baseline", "harmful", "id")},
            "refusal_rate": [float(is_refusal(reply)) for reply in replies],
            "following_rate": [float(is_following(reply)) for reply in replies],
            "target_language_rate": [
                np.nan if language == UNKNOWN else float(language == row["lang"])
                for language, row in zip(languages, rows, strict=True)
            ],
            "perplexity": [np.nan if row["loss"] is None else row["loss"] for row in rows],
            "repetition": [row["repetition"] for row in rows],
            "empty_rate": [float(not reply.strip()) for reply in replies],
            "unknown_language_rate": [float(language == UNKNOWN) for language in languages],
        }
    ).rename(columns={"lang": "target"})
    groups = frame.groupby(GROUP, sort=False)
    return pd.DataFrame([dict(zip(GROUP, name, strict=True)) | _summary(group, seed) for name, group in groups])


def _summary(group: pd.DataFrame, seed: int) -> dict[str, float]:
    """The measures of replies to the same kind of prompts under the same condition."""
    by_prompt = group.groupby("id", sort=False)[[*RATES, "unknown_language_rate"]].mean()
    means = by_prompt.mean()
    shown = {rate: means[rate] for rate in RATES}
    for rate in RATES:
        shown[f"{rate}_low"], shown[f"{rate}_high"] = _interval(by_prompt[rate].dropna().to_numpy(float), seed)
    # Until here the perplexity columns contain losses.
    shown |= {column: float(np.exp(value)) for column, value in shown.items() if column.startswith("perplexity")}
    unknown = means["unknown_language_rate"]
    return {"prompts": len(by_prompt), **shown, "unknown_language_rate": unknown, "replies": len(group)}


def _interval(values: np.ndarray, seed: int) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the mean of `values` (prompts,); NaN for fewer than two prompts."""
    if len(values) < 2:
        return np.nan, np.nan
    random = np.random.default_rng(seed)
    found = bootstrap((values,), np.mean, n_resamples=RESAMPLES, method="percentile", rng=random)
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
