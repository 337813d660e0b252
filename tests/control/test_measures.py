"""Measures of replies: rates, intervals, and the largest effect of each source language."""

import math
from typing import Any

import numpy as np
import pytest
import scipy.stats

from repe.control.measures import measure, source_effects
from repe.runs.printed import effects


def reply(text: str, **changes: Any) -> dict[str, Any]:
    row = {"id": "1", "lang": "en", "harmful": True, "strength": 0.0, "baseline": "none", "prompt": "p", "reply": text}
    return row | {"draw": None, "tokens": 3, "loss": 1.0, "repetition": 0.0} | changes


def test_measures_are_means_over_prompts_with_bootstrap_intervals() -> None:
    rows = [reply("I'm sorry, but I cannot help with that.", id=str(number)) for number in range(30)]
    rows += [reply("Sure, here is what you want to know.", id=str(number), loss=3.0) for number in range(30, 40)]
    rows += [reply("", id=str(number), loss=None) for number in range(40, 50)]
    (found,) = measure(rows, "harmfulness").to_dict("records")
    assert found["prompts"] == 50
    assert found["refusal_rate"] == pytest.approx(0.6)
    assert found["following_rate"] == pytest.approx(0.2)
    assert found["empty_rate"] == pytest.approx(0.2)
    assert found["target_language_rate"] == 1.0
    assert found["unknown_language_rate"] == pytest.approx(0.2)
    assert found["perplexity"] == pytest.approx(math.exp((30 * 1.0 + 10 * 3.0) / 40))
    # A binomial interval of the same coverage is about as wide.
    exact = scipy.stats.binomtest(30, 50).proportion_ci(method="wilson")
    assert found["refusal_rate_low"] == pytest.approx(exact.low, abs=0.04)
    assert found["refusal_rate_high"] == pytest.approx(exact.high, abs=0.04)
    assert found["perplexity_low"] < found["perplexity"] < found["perplexity_high"]


def test_draws_of_a_prompt_are_one_value() -> None:
    rows = [
        reply("I cannot help with that." if draw == 1 else "Sure.", id=str(number), baseline="random", draw=draw)
        for number in range(4)
        for draw in (1, 2)
    ]
    (found,) = measure(rows, "harmfulness").to_dict("records")
    assert (found["prompts"], found["replies"], found["refusal_rate"]) == (4, 8, 0.5)
    # Every prompt has the same mean, so the interval over prompts has no width.
    assert (found["refusal_rate_low"], found["refusal_rate_high"]) == (0.5, 0.5)


def test_one_prompt_has_no_interval() -> None:
    (found,) = measure([reply("Sure.")], "harmfulness").to_dict("records")
    assert math.isnan(found["refusal_rate_low"])


def test_the_effect_of_a_source_is_a_paired_change_between_the_outer_strengths() -> None:
    generator = np.random.default_rng(4)
    scores = {(strength, id): float(generator.normal()) for strength in (-2.0, 0.0, 1.0) for id in "abcdef"}
    rows = [
        reply(
            "Sure.", id=id, strength=strength, baseline=baseline, scores={"self": {"harmfulness": score}}, loss=strength
        )
        for baseline in ("concept", "random")
        for (strength, id), score in scores.items()
    ]
    table = source_effects({"fr": rows}, "harmfulness")
    found = table[(table["measure"] == "concept_score") & (table["baseline"] == "concept")].iloc[0]
    changes = np.array([scores[1.0, id] - scores[-2.0, id] for id in "abcdef"])
    assert (found["source"], found["low"], found["high"], found["prompts"]) == ("fr", -2.0, 1.0, 6)
    assert found["effect"] == pytest.approx(changes.mean())
    # Normal approximation of the paired interval; of unpaired scores it would be about 1.4 times as wide.
    half = 1.96 * changes.std() / math.sqrt(6)
    assert found["effect_high"] - found["effect_low"] == pytest.approx(2 * half, rel=0.2)
    assert found["perplexity"] == pytest.approx(math.e)
    assert found["below"] == pytest.approx(np.mean([scores[0.0, id] - scores[-2.0, id] for id in "abcdef"]))
    assert found["above"] == pytest.approx(found["effect"] - found["below"])
    (line,) = effects(table[table["measure"] == "concept_score"])
    assert line.startswith(f"en concept_score from strength -2 to 1: {found['effect']:.2f} [")
    assert f"({found['below']:.2f} below 0, {found['above']:.2f} above), perplexity at most 2.72 times; 1 rand" in line
