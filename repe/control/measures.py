"""Measure replies, with confidence intervals: refusal, language, perplexity, repetition and so on (Section 5)."""

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from repe.control.replies import UNKNOWN, Judgement, judge, language_of
from repe.control.reply_file import CHOICES, SETTINGS_FILE, Row, read_settings, readable
from repe.control.scores import OWN
from repe.files import read_regular
from repe.uncertainty.bootstrap import bounds, weights

RATES = ("refusal_rate", "following_rate", "target_language_rate", "perplexity", "repetition", "empty_rate")
# Their intervals follow those of RATES.
FURTHER = ("degenerate_rate", "concept_score")
GROUP = ["target", "strength", "baseline", "harmful"]

RESAMPLES = 2000


def measure(rows: Sequence[Row], concept: str, seed: int = 1) -> pd.DataFrame:
    """Measure replies by target language, strength, baseline, and whether the prompts are harmful.

    With several random draws, a prompt's value is the mean over the draws, so that intervals are over prompts.

    Args:
        rows: the lines of `generations.jsonl`.
        concept: the one that steers, for its scores.
        seed: random seed of the bootstrap.

    Returns:
        The columns target, strength, baseline, harmful (NaN where prompts do not say) and prompts (their number). Then
        the measures: refusal_rate, following_rate, target_language_rate (among replies whose language is known; NaN if
        none is), perplexity under the unsteered model (of the mean loss), repetition (share of repeated 4-grams),
        empty_rate. Then `<measure>_low` and `_high`, a 95 % percentile bootstrap interval over prompts. Then
        unknown_language_rate and replies (their number), degenerate_rate, concept_score (`repe.control.scores`) and
        `concept_score_<judge>`, each with its interval. Rates are in 0..1.
    """
    judges = list(dict.fromkeys(reader for row in rows for reader in row.get("scores", {}) if reader != OWN))
    frame = _by_reply(rows, concept, judges)
    further = [*FURTHER, *(f"concept_score_{judge}" for judge in judges)]
    groups = frame.groupby(GROUP, sort=False, dropna=False)
    return pd.DataFrame(
        [dict(zip(GROUP, name, strict=True)) | _summary(group, further, seed) for name, group in groups]
    )


def _by_reply(rows: Sequence[Row], concept: str, judges: Sequence[str]) -> pd.DataFrame:
    """The measures of each reply; perplexity columns contain losses."""
    judged = [judge(row["reply"], row["lang"]) for row in rows]
    languages = [language_of(row["reply"]) for row in rows]
    return pd.DataFrame(
        {
            **{name: [row[name] for row in rows] for name in ("lang", "strength", "baseline", "harmful", "id")},
            "refusal_rate": [float(one is Judgement.REFUSAL) for one in judged],
            "following_rate": [float(one is Judgement.FOLLOWING) for one in judged],
            "target_language_rate": [
                np.nan if language == UNKNOWN else float(language == row["lang"])
                for language, row in zip(languages, rows, strict=True)
            ],
            "perplexity": [np.nan if row["loss"] is None else row["loss"] for row in rows],
            "repetition": [row["repetition"] for row in rows],
            "empty_rate": [float(not row["reply"].strip()) for row in rows],
            "unknown_language_rate": [float(language == UNKNOWN) for language in languages],
            "degenerate_rate": [float(one is Judgement.DEGENERATE) for one in judged],
            "concept_score": _scores(rows, OWN, concept),
            **{f"concept_score_{name}": _scores(rows, name, concept) for name in judges},
        }
    ).rename(columns={"lang": "target"})


def _scores(rows: Sequence[Row], reader: str, concept: str) -> list[float]:
    """The score of each reply; NaN where it has none."""
    return [row.get("scores", {}).get(reader, {}).get(concept, np.nan) for row in rows]


def _summary(group: pd.DataFrame, further: Sequence[str], seed: int) -> dict[str, float]:
    """The measures of replies to the same kind of prompts under the same condition."""
    by_prompt = group.groupby("id", sort=False)[[*RATES, "unknown_language_rate", *further]].mean()
    means = by_prompt.mean()
    shown = {rate: means[rate] for rate in RATES}
    for rate in RATES:
        shown[f"{rate}_low"], shown[f"{rate}_high"] = _interval(by_prompt[rate].dropna().to_numpy(float), seed)
    # Until here the perplexity columns contain losses.
    shown |= {column: float(np.exp(value)) for column, value in shown.items() if column.startswith("perplexity")}
    shown |= {"unknown_language_rate": means["unknown_language_rate"], "replies": len(group)}
    for name in further:
        shown[name] = means[name]
        shown[f"{name}_low"], shown[f"{name}_high"] = _interval(by_prompt[name].dropna().to_numpy(float), seed)
    return {"prompts": len(by_prompt), **shown}


def side_effects(rows: Sequence[Row], seed: int = 1) -> pd.DataFrame:
    """What else moves: the scores of every concept under each condition, and their change from the unsteered replies.

    Returns:
        The columns target, strength, baseline, concept, prompts, concept_score, and change with its 95 % interval, a
        paired bootstrap over prompts. NaN where there are no unsteered replies.
    """
    values = pd.DataFrame(
        [
            (row["lang"], row["strength"], row["baseline"], concept, row["id"], score)
            for row in rows
            for concept, score in row.get("scores", {}).get(OWN, {}).items()
        ],
        columns=["target", "strength", "baseline", "concept", "id", "concept_score"],
    )
    plain = values[values["strength"] == 0].groupby(["target", "concept", "id"])["concept_score"].mean()
    found = []
    keys = ["target", "strength", "baseline", "concept"]
    for (target, strength, baseline, concept), group in values.groupby(keys, sort=False):
        by_prompt = group.groupby("id")["concept_score"].mean()
        unsteered = plain.get((target, concept))
        changes = by_prompt[:0] if unsteered is None else (by_prompt - unsteered).dropna()
        row = {"target": target, "strength": strength, "baseline": baseline, "concept": concept}
        row |= {"prompts": len(by_prompt), "concept_score": by_prompt.mean(), "change": changes.mean()}
        row["change_low"], row["change_high"] = _interval(changes.to_numpy(float), seed)
        found.append(row)
    return pd.DataFrame(found)


def _interval(values: np.ndarray, seed: int) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the mean of `values` (prompts,); NaN for fewer than two prompts."""
    if len(values) < 2:
        return np.nan, np.nan
    low, high = bounds(_weights(len(values), seed) @ values)
    return float(low), float(high)


@cache
def _weights(prompts: int, seed: int) -> np.ndarray:
    """The weight of each prompt in each bootstrap sample, float64 (RESAMPLES, prompts); rows sum to 1."""
    return weights(prompts, RESAMPLES, np.random.default_rng(seed)).astype(np.float64) / prompts


def source_effects(replies: Mapping[str, Sequence[Row]], concept: str, seed: int = 1) -> pd.DataFrame:
    """How far each source language moves each target language: from the lowest to the highest strength.

    Args:
        replies: the lines of `generations.jsonl` by source language.
        concept: the one that steers.
        seed: random seed of the bootstrap.

    Returns:
        The columns source, target, measure (refusal_rate, of harmful prompts; concept_score; concept_score_<judge>),
        baseline, draw, low and high (strengths), prompts, effect (the measure at `high` minus that at `low`) with its
        95 % interval (a paired bootstrap over prompts), and of both strengths the higher perplexity, as a multiple
        of the unsteered one, and the lower target_language_rate. Then the two parts of the effect, `below` and `above`
        strength 0, with their intervals (NaN without unsteered replies). Effects that are not known have no row.
    """
    return pd.DataFrame([row for source, rows in replies.items() for row in _effects(source, rows, concept, seed)])


def _effects(source: str, rows: Sequence[Row], concept: str, seed: int) -> Iterator[dict[str, Any]]:
    """The rows of `source_effects` of one source."""
    judges = list(dict.fromkeys(reader for row in rows for reader in row.get("scores", {}) if reader != OWN))
    frame = _by_reply(rows, concept, judges).assign(draw=pd.Series([row.get("draw") for row in rows], dtype=float))
    measures = ("refusal_rate", "concept_score", *(f"concept_score_{name}" for name in judges))
    frame["refusal_rate"] = frame["refusal_rate"].where(frame["harmful"].eq(True))
    unsteered = frame[frame["strength"] == 0].groupby(["target", "id"]).mean(numeric_only=True)
    losses = unsteered["perplexity"].groupby("target").mean()
    for (target, baseline, draw), group in frame.groupby(["target", "baseline", "draw"], sort=False, dropna=False):
        low, high = group["strength"].min(), group["strength"].max()
        ends = {strength: group[group["strength"] == strength].set_index("id") for strength in (low, high)}
        loss = max(end["perplexity"].mean() for end in ends.values())
        language = min(end["target_language_rate"].mean() for end in ends.values())
        zero = unsteered[unsteered.index.get_level_values("target") == target].droplevel("target")
        for measure in measures:
            parts = _parts(ends[low][measure], zero[measure], ends[high][measure], seed)
            if low == high or np.isnan(parts["effect"]):
                continue
            row = {"source": source, "target": target, "measure": measure, "baseline": baseline, "draw": draw}
            row |= {"low": low, "high": high, "prompts": parts.pop("prompts")}
            row |= {name: parts.pop(name) for name in ("effect", "effect_low", "effect_high")}
            row["perplexity"] = float(np.exp(loss - losses.get(target, np.nan)))
            yield row | {"target_language_rate": language, **parts}


def _parts(low: pd.Series, zero: pd.Series, high: pd.Series, seed: int) -> dict[str, float]:
    """The mean change of a measure (by id) between two strengths, and its parts below and above 0, with intervals."""
    found: dict[str, float] = {}
    for name, changes in {"effect": high - low, "below": zero - low, "above": high - zero}.items():
        known = changes.dropna().to_numpy(float)
        found.setdefault("prompts", len(known))
        found[name] = known.mean() if len(known) else np.nan
        found[f"{name}_low"], found[f"{name}_high"] = _interval(known, seed)
    return found


def compared_settings(folder: Path) -> pd.DataFrame:
    """The measures of all settings of one source language, in one table.

    Args:
        folder: `control/<source>`, with the first settings in it and others in folders below it.

    Returns:
        The columns settings (name of the folder; `first` for the first), those settings in which the folders differ
        (the name of the prompts' file and the start of its digest as prompts_file), and the columns of `control.csv`.
    """
    paths = [path for path in (folder / "control.csv", *sorted(folder.glob("*/control.csv"))) if path.exists()]
    known = [read_settings(path.with_name(SETTINGS_FILE)) for path in paths]
    differing = [name for name in CHOICES if len({json.dumps(one.get(name)) for one in known}) > 1]
    parts = []
    for path, settings in zip(paths, known, strict=True):
        name = "first" if path.parent == folder else path.parent.name
        with readable(path):
            raw = io.BytesIO(read_regular(path))
            part = pd.read_csv(raw, dtype={"target": str}, keep_default_na=False, na_values=[""])
        values = {one: ",".join(map(str, np.atleast_1d(settings.get(one, "None")))) for one in differing}
        if "prompts" in values:
            values["prompts"] = f"{settings.get('prompts_name', '')} {values['prompts'][:8]}".strip()
        for column, value in reversed({"settings": name, **values}.items()):
            # In `control.csv`, `prompts` is their number.
            part.insert(0, f"{column}_file" if column in part else column, value)
        parts.append(part)
    return pd.concat(parts, ignore_index=True)
