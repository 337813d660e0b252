"""Control: steering a model's replies in many languages with a concept vector of one (Section 5).

The paper's settings are not published; those here are the project's own. What is added in a layer is the unit vector
that points to the concept's positive side, times a strength, times the mean norm of the layer's states on the source
language's training texts (or times 1), so that strengths compare across layers and models.
"""

import argparse
import dataclasses
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from tqdm import tqdm

from repe.control.generation import Decoding, PromptBatch, generate, next_token_log_probs, reply_losses
from repe.control.prompts import Prompt, read_prompts
from repe.control.replies import repetition
from repe.control.reply_file import Key, ReplyFile, Row
from repe.control.steering import parse_layers, steered, unit_directions
from repe.errors import UserError
from repe.files import plain_name
from repe.models.loading import Model
from repe.results.result_file import SETTINGS
from repe.results.vector_file import VectorFile, Vectors
from repe.runs import chosen as selection
from repe.runs import planning as stages
from repe.runs.chosen import ChosenModel

# Calibration looks for strengths up to 2 ** DOUBLINGS times the given one, and then halves the bracket so many times.
DOUBLINGS = 6
HALVINGS = 12


@dataclass(frozen=True)
class Condition:
    """What the replies of a run are steered with."""

    baseline: str
    """`none`, `concept` (the source language's vector), `random` or `target_vector` (the target language's own)."""
    strength: float
    draw: int | None = None
    """Which of the random directions, from 1 on; None for what is not random."""


def conditions(baselines: Sequence[str], strengths: Sequence[float], draws: int) -> list[Condition]:
    """All conditions of a run: baselines as given, then draws, then strengths, rising."""
    found = []
    for baseline in baselines:
        for draw in range(1, draws + 1) if baseline == "random" else (None,):
            used = {0.0} if baseline == "none" else {*strengths}
            found += [Condition(baseline, strength, draw) for strength in sorted(used)]
    return found


@dataclass(frozen=True)
class Control:
    """The control of one concept with the vectors of one source language."""

    concept: str
    source: str
    vectors: Mapping[str, Vectors]
    """By language: the source's, and those of the targets where they are compared with."""
    prompts: Sequence[Prompt]
    conditions: Sequence[Condition]
    layers: Sequence[int]
    operator: str
    scope: str
    in_hidden_norms: bool
    """Whether strengths count in mean norms of the layer's states; shares of a component (`projection`) never do."""
    decoding: Decoding
    file: ReplyFile

    def pending(self) -> list[Key]:
        """Replies that are not on disk."""
        keys = [_key(condition, prompt) for condition in self.conditions for prompt in self.prompts]
        return [key for key in keys if key not in self.file.rows]

    @cached_property
    def norms(self) -> torch.Tensor:
        """What a strength of 1 is worth in each chosen layer, float32 (layers,).

        Raises:
            UserError: the file does not say.
        """
        if not self.in_hidden_norms or self.operator == "projection":
            return torch.ones(len(self.layers))
        kept = self.vectors[self.source].details.get("mean_norm")
        if kept is None:
            raise UserError(
                f"the vectors of {self.source} come without mean norms: collect them again, or give --strength-unit raw"
            )
        return self._chosen(kept)

    def directions(self, condition: Condition, languages: Sequence[str]) -> torch.Tensor:
        """The condition's unit vectors, float32 (languages, layers, hidden)."""
        if condition.baseline == "random":
            layers, _, hidden = self.vectors[self.source].directions.shape
            seed = [self.decoding.seed, condition.draw or 0, zlib.crc32(self.concept.encode())]
            drawn = torch.from_numpy(np.random.default_rng(seed).standard_normal((layers, hidden), dtype=np.float32))
            return self._chosen(drawn / drawn.norm(dim=-1, keepdim=True)).expand(len(languages), -1, -1)
        own = condition.baseline == "target_vector"
        return torch.stack([self._units[language if own else self.source] for language in languages])

    @cached_property
    def _units(self) -> dict[str, torch.Tensor]:
        """By language, float32 (layers, hidden) of the chosen layers."""
        return {
            language: self._chosen(unit_directions(one.directions, one.signs)) for language, one in self.vectors.items()
        }

    def _chosen(self, by_layer: torch.Tensor) -> torch.Tensor:
        return by_layer[[layer - 1 for layer in self.layers]]

    def activations(
        self, condition: Condition, languages: Sequence[str], strengths: Sequence[float]
    ) -> dict[int, torch.Tensor]:
        """What is added to a batch.

        Args:
            condition: its baseline and draw decide the directions; its strength does not count here.
            languages: of each row.
            strengths: of each row.

        Returns:
            By layer number, float32 (rows, hidden) on the CPU.
        """
        names = list(dict.fromkeys(languages))
        rows = torch.tensor([names.index(language) for language in languages])
        scale = torch.tensor([*strengths], dtype=torch.float32)[:, None] * self.norms
        steps = self.directions(condition, names)[rows] * scale[..., None]
        return {layer: steps[:, place] for place, layer in enumerate(self.layers)}

    def replies(
        self, model: Model, batches: Sequence[PromptBatch], goals: Mapping[float, float]
    ) -> Iterator[list[Row]]:
        """The replies that are not on disk, a batch of them at a time.

        Batches are the same whatever is on disk, so that a run that was stopped goes on to the same replies.

        Args:
            batches: of all the prompts.
            goals: by strength, the divergence to calibrate to; empty for the strengths as they are.
        """
        unsteered: dict[int, list[Row]] = {}
        for condition in self.conditions:
            missing = [
                place
                for place, batch in enumerate(batches)
                if any(_key(condition, prompt) not in self.file.rows for prompt in batch.prompts)
            ]
            if not missing:
                continue
            strengths = self.strengths(model, condition, batches, goals)
            for place in missing:
                if condition.strength == 0:
                    # Nothing is added, whichever the direction: one run serves all baselines.
                    if place not in unsteered:
                        unsteered[place] = self._reply(model, condition, batches[place], strengths)
                    yield [row | dataclasses.asdict(condition) for row in unsteered[place]]
                else:
                    yield self._reply(model, condition, batches[place], strengths)

    def _reply(
        self, model: Model, condition: Condition, batch: PromptBatch, strengths: Mapping[str, float]
    ) -> list[Row]:
        applied = [strengths[language] for language in batch.languages]
        activations = self.activations(condition, batch.languages, applied) if any(applied) else {}
        width = max(map(len, batch.tokens))
        # The same batch samples the same, whatever it is steered with.
        seed = zlib.crc32(" ".join(f"{prompt.lang}/{prompt.id}" for prompt in batch.prompts).encode())
        with steered(model.lm, model.blocks, activations, self.operator, self.scope, width):
            replies = generate(model, batch.tokens, self.decoding, seed)
        losses = reply_losses(model, batch.tokens, replies)
        return [
            {
                "id": prompt.id,
                "lang": prompt.lang,
                "harmful": prompt.harmful,
                "strength": condition.strength,
                "baseline": condition.baseline,
                "prompt": prompt.prompt,
                "reply": model.tokenizer.decode(reply, skip_special_tokens=True).strip(),
                "draw": condition.draw,
                "applied_strength": strength,
                "tokens": len(reply),
                "loss": loss,
                "repetition": repetition(reply),
            }
            for prompt, strength, reply, loss in zip(batch.prompts, applied, replies, losses, strict=True)
        ]

    def strengths(
        self, model: Model, condition: Condition, batches: Sequence[PromptBatch], goals: Mapping[float, float]
    ) -> dict[str, float]:
        """The strength by language: the condition's, or that at which the mean divergence is the goal.

        The divergence grows with the strength, up to a point; where it does not reach the goal within 2 ** DOUBLINGS
        times the condition's strength, that is what is returned, and a line says so.
        """
        high = {prompt.lang: condition.strength for prompt in self.prompts}
        if condition.strength == 0 or not goals:
            return high
        goal, low = goals[condition.strength], dict.fromkeys(high, 0.0)
        for _ in range(DOUBLINGS):
            found = self.divergence(model, condition, batches, high)
            short = [language for language, value in found.items() if value < goal]
            if not short:
                break
            low |= {language: high[language] for language in short}
            high |= {language: 2 * high[language] for language in short}
        else:
            names = " ".join(short)
            tqdm.write(f"note: {condition.baseline} at {condition.strength:g} never moves {names} as far as the source")
        for _ in range(HALVINGS):
            middle = {language: (low[language] + high[language]) / 2 for language in high}
            for language, value in self.divergence(model, condition, batches, middle).items():
                (low if value < goal else high)[language] = middle[language]
        return high

    def divergence(
        self, model: Model, condition: Condition, batches: Sequence[PromptBatch], strengths: Mapping[str, float]
    ) -> dict[str, float]:
        """How far steering moves what comes after the prompts: mean KL divergence of the next token's distribution.

        Args:
            strengths: by language; prompts in others are left out.

        Returns:
            Nats by language.
        """
        values: dict[str, list[float]] = {}
        for batch in batches:
            rows = [row for row, language in enumerate(batch.languages) if language in strengths]
            if not rows:
                continue
            tokens = [batch.tokens[row] for row in rows]
            languages = [batch.languages[row] for row in rows]
            activations = self.activations(condition, languages, [strengths[language] for language in languages])
            # Anew each time: those of all prompts, a vocabulary each, would not fit beside a large model.
            plain = next_token_log_probs(model, tokens)
            with steered(model.lm, model.blocks, activations, self.operator, self.scope):
                moved = next_token_log_probs(model, tokens)
            each = torch.nn.functional.kl_div(moved, plain, reduction="none", log_target=True).sum(dim=-1)
            for language, value in zip(languages, each.tolist(), strict=True):
                values.setdefault(language, []).append(value)
        return {language: float(np.mean(found)) for language, found in values.items()}

    def goals(self, model: Model, batches: Sequence[PromptBatch]) -> dict[float, float]:
        """By strength, how far the source's vector moves the source's own prompts, in nats: what to calibrate to."""
        strengths = {one.strength for one in self.conditions if one.strength}
        return {
            strength: self.divergence(model, Condition("concept", strength), batches, {self.source: strength})[
                self.source
            ]
            for strength in sorted(strengths)
        }


def _key(condition: Condition, prompt: Prompt) -> Key:
    return condition.baseline, condition.strength, condition.draw, prompt.lang, prompt.id


def planned(args: argparse.Namespace, chosen: ChosenModel) -> list[Control]:
    """What the options ask for: a Control for each concept and source language, checked before a model is loaded.

    Raises:
        UserError: prompts, vectors or layers that are not there; vectors or replies made with other settings.
    """
    file_of_prompts = read_prompts(args.prompts)
    prompts = file_of_prompts.of(args.target_lang or args.lang)
    targets = list(dict.fromkeys(prompt.lang for prompt in prompts))
    sources = [plain_name(source, "--source-lang") for source in dict.fromkeys(args.source_lang)]
    if args.calibrate and sources[0] not in targets:
        raise UserError(f"--calibrate compares with prompts in {sources[0]}: add it to --target-lang")
    if args.calibrate and args.operator == "projection":
        raise UserError("--calibrate finds strengths, which --operator projection does not have: give another operator")
    steering = conditions(args.baseline, args.strength, args.random_draws)
    own = targets if any(one.baseline == "target_vector" for one in steering) else []
    meta = chosen.meta()
    found = []
    for concept, file in selection.result_files(args, chosen, args.concept or ["harmfulness"], VectorFile).items():
        vectors = stages.sources(file, list(dict.fromkeys([*sources, *own])))
        file.check_settings(meta, "give these, or collect the vectors again with collect_vector.py --overwrite")
        layers = parse_layers(args.layers, len(next(iter(vectors.values())).directions))
        for source in sources:
            settings = {name: meta[name] for name in SETTINGS if name in meta} | {
                "prompts": file_of_prompts.sha256,
                "vectors": {language: vectors[language].digest for language in (source, *own)},
                "layers": layers,
                "operator": args.operator,
                "scope": args.scope,
                "strength_unit": args.strength_unit,
                "calibrated_on": sources[0] if args.calibrate else None,
                "max_new_tokens": args.max_new_tokens,
                "temperature": args.temperature,
                "top_p": args.top_p,
                "num_beams": args.num_beams,
                "seed": args.seed,
            }
            replies = ReplyFile(file.path.parent / "control" / source, settings, file_of_prompts.prompts)
            if args.overwrite:
                replies.clear()
            replies.check_settings()
            decoding = Decoding(args.max_new_tokens, args.temperature, args.top_p, args.num_beams, args.seed)
            control = Control(
                concept, source, vectors, prompts, steering, layers, args.operator, args.scope,
                args.strength_unit == "hidden", decoding, replies,
            )  # fmt: skip
            control.norms  # noqa: B018  refused now, not when the model is loaded
            found.append(control)
    return found
