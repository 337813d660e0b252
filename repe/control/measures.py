"""Measures of replies, with intervals: refusal, compliance, language, likelihood, loops and silence."""

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
    """The measures of replies, by target language, strength, baseline and whether the prompts are harmful.

    Several random draws count as one set: a prompt's value is then its mean over the draws, so that intervals are over
    prompts alone.

    Args:
        rows: of `generations.jsonl`.
        refusals: whether each is a refusal, where a classifier has judged; None for the phrases.
        seed: of the bootstrap.

    Returns:
        The columns target, strength, baseline, harmful, prompts; then the measures: shares 0..1 of refusals, of willing
        replies, of replies in the target language among those whose language can be told (NaN where none can), the
        perplexity of replies under the unsteered model (the exponential of their mean loss), the share of repeated
        runs of four tokens, and the share of empty replies; then `<measure>_low` and `_high`, a 95 % percentile
        bootstrap interval over prompts; then unknown_language_rate, replies, and applied_strength.
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
    low: dict[str, float] = {}
    high: dict[str, float] = {}
    whole = [rate for rate in RATES if by_prompt[rate].notna().all()]
    for rates in [whole, *([rate] for rate in RATES if rate not in whole)]:
        lows, highs = _intervals(by_prompt[rates].dropna().to_numpy(float).T, seed)
        low |= dict(zip(rates, lows, strict=True))
        high |= dict(zip(rates, highs, strict=True))
    bounds = {f"{rate}_{end}": values[rate] for rate in RATES for end, values in (("low", low), ("high", high))}
    shown = {rate: means[rate] for rate in RATES} | bounds
    # Losses are averaged; the perplexity is that of the average.
    shown |= {column: float(np.exp(value)) for column, value in shown.items() if column.startswith("perplexity")}
    return (
        dict(zip(GROUP, name, strict=True))
        | {"prompts": len(by_prompt)}
        | shown
        | {
            "unknown_language_rate": means["unknown_language_rate"],
            "replies": len(group),
            "applied_strength": group["applied_strength"].mean(),
        }
    )


def _intervals(values: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """95 % percentile bootstrap intervals of the means of `values` (rates, prompts); NaN of fewer than two values."""
    if values.shape[1] < 2:
        return (np.full(len(values), np.nan),) * 2
    found = bootstrap(
        (values,),
        np.mean,
        axis=-1,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return found.low, found.high


def largest_effects(measures: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The largest change of the refusal rate on harmful prompts that each source's vector brings about in each target.

    Args:
        measures: the tables of `measure` by source language.

    Returns:
        The columns source, target, strength (at which the change is largest; the lowest such) and effect, a difference
        of rates, -1..1, from the unsteered replies; no row where these or steered ones are missing.
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
