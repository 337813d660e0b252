"""Control: steer replies in many languages with the concept vector of one language (Section 5).

In each chosen layer, the unit vector that points to the concept's positive side is multiplied by the strength and, with
the strength unit `class`, by the distance between the class means of the source language's training texts. Strengths
are then comparable across layers and models.
"""

import dataclasses
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import torch
from tqdm import tqdm

from repe.control.generation import PromptBatch, decode, generate, next_token_log_probs, prompt_batches, reply_losses
from repe.control.prompts import Prompt
from repe.control.replies import repetition
from repe.control.reply_file import Key, ReplyFile, Row
from repe.control.settings import Condition, ControlSettings
from repe.control.steering import steered, step_lengths
from repe.models.model import Model
from repe.vectors.concept_vectors import ConceptVectors

# Seconds between two updates of the reply file.
WRITE_EVERY = 20.0

# Calibration doubles a strength at most this many times, and then bisects this many times.
DOUBLINGS = 6
HALVINGS = 12


@dataclass(frozen=True)
class ControlExperiment:
    """Steering of one concept with the vector of one source language.

    Raises:
        UserError: the strength unit needs mean norms that the vectors do not have.
    """

    concept: str
    source: str
    vectors: Mapping[str, ConceptVectors]
    """By language: those of the source, of `settings.calibrated_on`, and for `target_vector` of all targets."""
    prompts: Sequence[Prompt]
    settings: ControlSettings
    file: ReplyFile

    def __post_init__(self) -> None:
        self._lengths  # noqa: B018  computed here so that missing norms are found before the model is loaded

    @cached_property
    def _lengths(self) -> torch.Tensor:
        """The length of the activation for a strength of 1, float32 (chosen layers,)."""
        vectors = self.vectors[self.source]
        return self._chosen(step_lengths(vectors, self.settings.strength_unit, self.settings.operator))

    def _chosen(self, by_layer: torch.Tensor) -> torch.Tensor:
        """The rows of the chosen layers, of a tensor (model's layers, ...)."""
        return by_layer[[layer - 1 for layer in self.settings.layers]]

    @cached_property
    def _units(self) -> dict[str, torch.Tensor]:
        """Unit vectors by language, float32 (chosen layers, hidden)."""
        return {language: self._chosen(torch.from_numpy(one.unit_vectors)) for language, one in self.vectors.items()}

    def activations(
        self, condition: Condition, languages: Sequence[str], strengths: Sequence[float]
    ) -> dict[int, torch.Tensor]:
        """The activations to steer a batch with.

        Args:
            condition: gives the directions; its own strength is not used.
            languages: the language of each row.
            strengths: the strength of each row.

        Returns:
            By layer number, float32 (rows, hidden) on the CPU.
        """
        if condition.baseline == "random":
            seed = [self.settings.decoding.seed, condition.draw or 0, zlib.crc32(self.concept.encode())]
            layers, _, hidden = self.vectors[self.source].directions.shape
            drawn = torch.from_numpy(np.random.default_rng(seed).standard_normal((layers, hidden), dtype=np.float32))
            directions = self._chosen(torch.nn.functional.normalize(drawn))
        else:
            own = condition.baseline == "target_vector"
            directions = torch.stack([self._units[language if own else self.source] for language in languages])
        lengths = torch.tensor([*strengths], dtype=torch.float32)[:, None] * self._lengths
        return dict(zip(self.settings.layers, (directions * lengths[..., None]).unbind(dim=1), strict=True))

    def pending(self) -> list[Key]:
        """The replies that are not in the file."""
        keys = [_key(condition, prompt) for condition in self.settings.conditions() for prompt in self.prompts]
        return [key for key in keys if key not in self.file.rows]

    def run(self, model: Model, batch_size: int | None = None, overwrite: bool = False) -> None:
        """Generate the replies that are missing and add them to the file.

        Replies are written regularly and at the end, also after Ctrl-C.

        Args:
            model: with its vocabulary head.
            batch_size: prompts in a batch; None sets it from the prompts' lengths.
            overwrite: delete the replies in the file first.

        Raises:
            UserError: the vectors belong to another model, a prompt is too long, logits are not finite, or a batch does
                not fit into memory.
        """
        for language, vectors in self.vectors.items():
            vectors.check_fit(language, model.layers, model.hidden_size)
        batches = prompt_batches(model, self.prompts, self.settings.decoding.max_new_tokens, batch_size)
        if overwrite:
            self.file.clear()
        rows: list[Row] = []
        written = time.monotonic()
        with tqdm(total=len(self.pending()), desc=f"{self.concept} {self.source}", unit="reply") as bar:
            try:
                for replies in self.replies(model, batches):
                    rows += replies
                    bar.update(len(replies))
                    if time.monotonic() - written > WRITE_EVERY:
                        self.file.add(rows)
                        rows, written = [], time.monotonic()
            finally:
                if rows:
                    self.file.add(rows)

    def replies(self, model: Model, batches: Sequence[PromptBatch]) -> Iterator[list[Row]]:
        """The replies that are not in the file, one batch at a time.

        A batch with a missing reply is generated whole, so that a resumed run gives the same replies.
        """
        pending = {*self.pending()}
        unsteered: dict[int, list[Row]] = {}
        for condition in self.settings.conditions():
            missing = [
                number
                for number, batch in enumerate(batches)
                if any(_key(condition, prompt) in pending for prompt in batch.prompts)
            ]
            strengths = self.strengths(model, condition, batches) if missing else {}
            for number in missing:
                if condition.strength:
                    yield self._reply(model, condition, batches[number], strengths)
                    continue
                # With strength 0 all baselines have the same replies.
                if number not in unsteered:
                    unsteered[number] = self._reply(model, condition, batches[number], strengths)
                yield [row | dataclasses.asdict(condition) for row in unsteered[number]]

    def _reply(
        self, model: Model, condition: Condition, batch: PromptBatch, strengths: Mapping[str, float]
    ) -> list[Row]:
        applied = [strengths[language] for language in batch.languages]
        activations = self.activations(condition, batch.languages, applied) if any(applied) else {}
        width = max(map(len, batch.tokens))
        # The seed depends on the prompts only, so that all conditions sample with the same random numbers.
        seed = zlib.crc32(" ".join(f"{prompt.lang}/{prompt.id}" for prompt in batch.prompts).encode())
        with steered(model.lm, model.blocks, activations, self.settings.operator, self.settings.scope, width):
            replies = generate(model, batch.tokens, self.settings.decoding, seed)
        losses = reply_losses(model, batch.tokens, replies)
        return [
            {
                "id": prompt.id,
                "lang": prompt.lang,
                "harmful": prompt.harmful,
                "strength": condition.strength,
                "baseline": condition.baseline,
                "prompt": prompt.prompt,
                "reply": decode(model, reply),
                "draw": condition.draw,
                "applied_strength": strength,
                "tokens": len(reply),
                "loss": loss,
                "repetition": repetition(reply),
            }
            for prompt, strength, reply, loss in zip(batch.prompts, applied, replies, losses, strict=True)
        ]

    def strengths(self, model: Model, condition: Condition, batches: Sequence[PromptBatch]) -> dict[str, float]:
        """The strength to apply in each language: the condition's, calibrated if the settings say so."""
        given = {prompt.lang: condition.strength for prompt in self.prompts}
        if condition.strength == 0 or self.settings.calibrated_on is None:
            return given
        goal = self.goal(model, condition.strength, batches)
        found, short = find_strengths(partial(self.divergence, model, condition, batches), given, goal)
        if short:
            tqdm.write(
                f"note: {condition.baseline} at strength {condition.strength:g} does not reach the divergence of "
                f"{self.settings.calibrated_on} in {' '.join(short)}"
            )
        return found

    def goal(self, model: Model, strength: float, batches: Sequence[PromptBatch]) -> float:
        """The divergence to calibrate to, in nats: of the vector and the prompts of `settings.calibrated_on`."""
        language = self.settings.calibrated_on or self.source
        reference = dataclasses.replace(self, source=language)
        return reference.divergence(model, Condition("concept", strength), batches, {language: strength})[language]

    def divergence(
        self, model: Model, condition: Condition, batches: Sequence[PromptBatch], strengths: Mapping[str, float]
    ) -> dict[str, float]:
        """Mean KL divergence between the steered and the unsteered distributions of the first token of the reply.

        Args:
            strengths: by language. Prompts in other languages are left out.

        Returns:
            By language, in nats.
        """
        values: dict[str, list[float]] = {language: [] for language in strengths}
        for batch in batches:
            rows = [row for row, language in enumerate(batch.languages) if language in strengths]
            if not rows:
                continue
            tokens = [batch.tokens[row] for row in rows]
            languages = [batch.languages[row] for row in rows]
            activations = self.activations(condition, languages, [strengths[language] for language in languages])
            # Computed again each time: kept for all prompts they would not fit into memory with a large model.
            plain = next_token_log_probs(model, tokens)
            with steered(model.lm, model.blocks, activations, self.settings.operator, self.settings.scope):
                moved = next_token_log_probs(model, tokens)
            each = torch.nn.functional.kl_div(moved, plain, reduction="none", log_target=True).sum(dim=-1)
            for language, value in zip(languages, each.tolist(), strict=True):
                values[language].append(value)
        return {language: float(np.mean(found)) for language, found in values.items()}


def find_strengths(
    divergence: Callable[[Mapping[str, float]], Mapping[str, float]], given: Mapping[str, float], goal: float
) -> tuple[dict[str, float], list[str]]:
    """The strength in each language at which the divergence reaches a goal.

    The divergence is assumed to grow with the strength. A strength is doubled until the divergence reaches the goal,
    at most DOUBLINGS times, and then found by bisection.

    Args:
        divergence: takes strengths by language and returns divergences by language.
        given: strengths by language to start from.
        goal: the divergence to reach.

    Returns:
        Strengths by language, and the languages whose divergence does not reach the goal.
    """
    low, high, short = dict.fromkeys(given, 0.0), dict(given), [*given]
    for _ in range(DOUBLINGS):
        short = [language for language, value in divergence(high).items() if value < goal]
        if not short:
            break
        low |= {language: high[language] for language in short}
        high |= {language: 2 * high[language] for language in short}
    for _ in range(HALVINGS):
        middle = {language: (low[language] + high[language]) / 2 for language in high}
        for language, value in divergence(middle).items():
            (low if value < goal else high)[language] = middle[language]
    return high, short


def _key(condition: Condition, prompt: Prompt) -> Key:
    return condition.baseline, condition.strength, condition.draw, prompt.lang, prompt.id
