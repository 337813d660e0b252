"""Choose layers and strengths for a model: the largest effect within a budget of damage (`--tune`).

Each setting is a range of layers and a strength, tried with both signs on a third of the prompts. Damage is measured
against the unsteered model: the KL divergence of the next token's distribution on harmless prompts, as in heretic
(github.com/p-e-w/heretic), and perplexity and repetition of the replies. The effect is the difference of the mean
concept scores of replies between the two signs. In each range of layers, strengths rise until the divergence exceeds
the budget; replies are generated for the strongest two within it.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from repe.control.experiment import UNCHANGED_PROMPTS, ControlExperiment, steered_replies
from repe.control.generation import (
    PromptBatch,
    ReadPrompts,
    decode,
    next_token_log_probabilities,
    prompt_batches,
    read_prompts,
)
from repe.control.prompts import Prompt
from repe.control.replies import repetition
from repe.control.reply_file import readable
from repe.control.scores import concept_scores
from repe.control.settings import Condition
from repe.control.steering import parse_layers, steered
from repe.data import item_position
from repe.errors import UserError
from repe.files import numbered_lines, read_regular
from repe.models.model import Model

RANGES = ("0.2:0.35", "0.25:0.45", "0.3:0.6", "0.4:0.6", "0.5:0.7")
# Multiples of the strength unit.
STRENGTHS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
TRIED_PER_RANGE = 2
TUNING_SHARE = 1 / 3
# Of the tuning prompts, so many are tried: 20 sets of replies then take minutes on a CPU.
MOST_PROMPTS = 16

# The budget: nats of divergence, times the unsteered perplexity, share of repeated 4-grams.
KL, PERPLEXITY, REPETITION = 0.5, 2.0, 0.2
REPLY_TOKENS = 32

# Activations by layer number, and what is measured with several of them.
Steps = Mapping[int, torch.Tensor]
Measured = Callable[[Sequence[Steps]], list[dict[str, float]]]
# What a line of `tune.jsonl` has.
MEASURES = ({"kl"}, {"score", "loss", "repetition"})


def tuning_prompts(experiment: ControlExperiment) -> tuple[list[Prompt], list[Prompt]]:
    """Prompts to tune on (a third, by hash of the id) and the rest.

    Raises:
        UserError: one of the two is empty.
    """
    parts: tuple[list[Prompt], list[Prompt]] = [], []
    for prompt in experiment.prompts:
        parts[item_position(prompt.id) >= TUNING_SHARE].append(prompt)
    if not all(parts):
        raise UserError(f"--tune cannot split {len(experiment.prompts)} prompts into a third and the rest: use more")
    return parts


@dataclass
class Tuner:
    """The trials of one experiment; finished ones are kept in `tune.jsonl`."""

    experiment: ControlExperiment
    model: Model
    rows: dict[str, dict[str, float]] = field(default_factory=dict)
    """Measures by key of layers and signed strength."""

    def __post_init__(self) -> None:
        own = self.experiment.vectors[self.experiment.source]
        if own.midpoint is None:
            raise UserError("--tune needs vectors that say where the class means are: collect them again")
        ordered = sorted(tuning_prompts(self.experiment)[0], key=lambda prompt: item_position(prompt.id))
        self.prompts = ordered[:MOST_PROMPTS]
        harmless = [prompt for prompt in self.prompts if prompt.harmful is False] or self.prompts
        tokens = min(REPLY_TOKENS, self.experiment.settings.decoding.max_new_tokens)
        self.decoding = replace(self.experiment.settings.decoding, max_new_tokens=tokens)
        self.batches = prompt_batches(self.model, self.prompts, tokens)
        self.harmless = [*self._read_harmless(harmless)]
        # The unsteered model reads each batch once.
        self.read = cache(lambda number: read_prompts(self.model, self.batches[number].tokens))
        self.path = self.experiment.folder / "tune.jsonl"
        record = {**self.experiment.file.settings, "layers": None, "ids": [prompt.id for prompt in self.prompts]}
        self.digest = hashlib.sha256(json.dumps([record, tokens], sort_keys=True).encode()).hexdigest()[:16]
        if self.path.exists():
            self._read_trials()

    def _read_trials(self) -> None:
        """Take over what an interrupted run has measured."""
        with readable(self.path, "delete it"):
            for _, line in numbered_lines(read_regular(self.path)):
                row = json.loads(line)
                if row["run"] == self.digest:
                    self.rows.setdefault(row["key"], {}).update(_checked(row["measures"]))

    def choose(self) -> pd.DataFrame:
        """Try all settings.

        Returns:
            One row for each setting that was tested, with the columns layers, strength, kl, perplexity (times the
            unsteered one) and repetition, each the larger of both signs; effect, rise_positive and rise_negative in
            class distances (NaN where no replies were generated), and chosen, true for at most one.
        """
        reference = self._distributions({})
        settings, tried = [], []
        with tqdm(self._ranges(), desc="tuning: divergence", unit="range") as bar:
            for span in bar:
                tested = [(span, strength) for strength in self._until_damage(span, reference)]
                settings += tested
                tried += [pair for pair in tested if self._worst(*pair, "kl") <= KL][-TRIED_PER_RANGE:]
        self._measure((), (0.0,), "score", self._replies)
        with tqdm(tried, desc="tuning: replies", unit="setting") as bar:
            for span, strength in bar:
                self._measure(span, (-strength, strength), "score", self._replies)
        table = pd.DataFrame([self._row(span, strength, (span, strength) in tried) for span, strength in settings])
        fits = (table["perplexity"] <= PERPLEXITY) & (table["repetition"] <= REPETITION) & (table["kl"] <= KL)
        effect = table["effect"].where(fits & (table["effect"] > 0))
        return table.assign(chosen=table.index == effect.idxmax() if effect.notna().any() else False)

    def _until_damage(self, span: tuple[int, ...], reference: torch.Tensor) -> Iterator[float]:
        """Strengths with their divergence measured, up to the first whose divergence exceeds the budget."""
        for strength in STRENGTHS:
            self._measure(span, (-strength, strength), "kl", partial(self._divergences, reference))
            yield strength
            if self._worst(span, strength, "kl") > KL:
                return

    def _ranges(self) -> list[tuple[int, ...]]:
        """The ranges of layers, without repeats."""
        found = []
        for text in RANGES:
            try:
                found.append(tuple(parse_layers(text, self.model.layers)))
            except UserError:  # no layer of a small model is in the range
                continue
        return list(dict.fromkeys(found))

    def _measure(self, layers: Sequence[int], strengths: Sequence[float], name: str, measured: Measured) -> None:
        """Add the measures of trials with the same layers, unless they are there; `name` is one of the measures."""
        keys = [_key(layers, strength) for strength in strengths]
        if all(name in self.rows.get(key, {}) for key in keys):
            return
        settings = replace(self.experiment.settings, layers=[*layers])
        experiment = replace(self.experiment, settings=settings, prompts=self.prompts)
        conditions = [Condition("concept", strength) for strength in strengths]
        found = measured([experiment.activations(one, [experiment.source]) if layers else {} for one in conditions])
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            for key, measures in zip(keys, found, strict=True):
                self.rows.setdefault(key, {}).update(measures)
                file.write(json.dumps({"run": self.digest, "key": key, "measures": measures}) + "\n")

    def _distributions(self, steps: Steps) -> torch.Tensor:
        """Log probabilities of the next token after the harmless prompts, (prompts, vocabulary)."""
        model, settings, found = self.model, self.experiment.settings, []
        is_changed = steps and settings.scope not in UNCHANGED_PROMPTS
        for batch, read, tokens in self.harmless:
            width = max(map(len, batch.tokens))
            with steered(model.lm, model.blocks, steps, settings.operator, settings.scope, width):
                found.append(next_token_log_probabilities(model, tokens, None if is_changed else read))
        return torch.cat(found)

    def _read_harmless(self, prompts: Sequence[Prompt]) -> Iterator[tuple[PromptBatch, ReadPrompts, list[list[int]]]]:
        """Batches of prompts, read once, and the tokens after which the divergence is measured.

        With the scope `generated`, these end with the first token of the unsteered reply, the first to be steered.
        """
        for batch in prompt_batches(self.model, prompts, 2):
            read, tokens = read_prompts(self.model, batch.tokens), [[*ids] for ids in batch.tokens]
            if self.experiment.settings.scope == "generated":
                first = next_token_log_probabilities(self.model, tokens, read).argmax(dim=-1).tolist()
                tokens = [[*ids, one] for ids, one in zip(tokens, first, strict=True)]
            yield batch, read, tokens

    def _divergences(self, reference: torch.Tensor, steps: Sequence[Steps]) -> list[dict[str, float]]:
        """For each activation, the mean KL divergence of the steered from the unsteered distribution, in nats."""
        now = map(self._distributions, steps)
        return [{"kl": float((reference.exp() * (reference - one)).sum(dim=-1).mean())} for one in now]

    def _replies(self, steps: Sequence[Steps]) -> list[dict[str, float]]:
        """For each activation, mean concept score, loss and repetition of the replies."""
        settings = replace(self.experiment.settings, decoding=self.decoding)
        found: list[list[Any]] = [[] for _ in steps]
        for number, batch in enumerate(self.batches):
            replies = steered_replies(self.model, batch, self.read(number), steps, settings)
            for collected, some in zip(found, replies, strict=True):
                collected += [(prompt.lang, *one) for prompt, one in zip(batch.prompts, some, strict=True)]
        return [self._means(replies) for replies in found]

    def _means(self, replies: Sequence[tuple[str, list[int], float | None]]) -> dict[str, float]:
        """Means over replies, of which language, token ids and loss are given."""
        texts = [(language, decode(self.model, reply)) for language, reply, _ in replies]
        scores = [*self._scores([pair for pair in texts if pair[1]])]
        losses = [loss for _, _, loss in replies if loss is not None]
        return {
            "score": float(np.mean(scores)) if scores else math.nan,
            "loss": float(np.mean(losses)) if losses else math.nan,
            "repetition": float(np.mean([repetition(reply) for _, reply, _ in replies])),
        }

    def _scores(self, texts: Iterable[tuple[str, str]]) -> Iterator[float]:
        """Scores of texts, each along the vector of its language, or the source's if that has none."""
        source = self.experiment.vectors[self.experiment.source]
        known = self.experiment.reader.vectors.get(self.experiment.concept, {})
        pairs = [*texts]
        for language in dict.fromkeys(language for language, _ in pairs):
            states = self.model.states([text for other, text in pairs if other == language])
            yield from concept_scores(states, known.get(language, source)).tolist()

    def _worst(self, layers: Sequence[int], strength: float, name: str) -> float:
        return max(self.rows[_key(layers, sign * strength)][name] for sign in (-1, 1))

    def _row(self, layers: Sequence[int], strength: float, is_tried: bool) -> dict[str, Any]:
        """The row of a setting in the table."""
        row: dict[str, Any] = {"layers": f"{layers[0]}-{layers[-1]}", "strength": strength}
        row["kl"] = self._worst(layers, strength, "kl")
        if not is_tried:
            return row | dict.fromkeys(
                ("perplexity", "repetition", "effect", "rise_positive", "rise_negative"), math.nan
            )
        plain = self.rows[_key((), 0.0)]
        low, high = (self.rows[_key(layers, sign * strength)]["score"] for sign in (-1, 1))
        return row | {
            "perplexity": math.exp(self._worst(layers, strength, "loss") - plain["loss"]),
            "repetition": self._worst(layers, strength, "repetition"),
            "effect": high - low,
            "rise_positive": high - plain["score"],
            "rise_negative": plain["score"] - low,
        }


def _checked(measures: dict[str, float]) -> dict[str, float]:
    """The measures of a line of `tune.jsonl`. Scores and losses are NaN where all replies were empty.

    Raises:
        ValueError: they are not those that a trial writes.
    """
    typed = {*measures} in MEASURES and all(isinstance(value, float) for value in measures.values())
    if not typed or any(math.isinf(value) or (math.isnan(value) and name == "kl") for name, value in measures.items()):
        raise ValueError(f"the measures are {measures!r:.60}")
    return measures


def _key(layers: Sequence[int], strength: float) -> str:
    return f"{','.join(map(str, layers))}|{strength:g}"


def apply_choice(experiment: ControlExperiment, table: pd.DataFrame) -> ControlExperiment:
    """The experiment with the chosen layers and strengths (both signs, whole and half), on the prompts not tuned on.

    Raises:
        UserError: no setting moves the replies within the budget.
    """
    if not table["chosen"].any():
        raise UserError(
            f"--tune found no setting that moves the replies within the budget (kl {KL}, {PERPLEXITY} times the "
            f"perplexity, repetition {REPETITION}): give --layers and --strength without --tune"
        )
    (chosen,) = table[table["chosen"]].to_dict("records")
    first, last = map(int, chosen["layers"].split("-"))
    strengths = [part * chosen["strength"] for part in (-1.0, -0.5, 0.0, 0.5, 1.0)]
    settings = replace(experiment.settings, layers=[*range(first, last + 1)], strengths=strengths)
    record = experiment.file.settings | settings.record()
    file = experiment.file.for_settings(experiment.folder, record, experiment.file.prompts)
    rest = tuning_prompts(experiment)[1]
    return replace(experiment, settings=settings, file=file, prompts=rest)
