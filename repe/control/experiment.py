"""Control: steer replies in many languages with the concept vector of one language (Section 5).

In each chosen layer, the unit vector that points to the concept's positive side is multiplied by the strength and, with
the strength unit `class`, by the distance between the class means of the source language's training texts. Strengths
are then comparable across layers and models.
"""

import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from repe.control.generation import (
    PromptBatch,
    ReadPrompts,
    decode,
    generate,
    instructed,
    prompt_batches,
    read_prompts,
    reply_losses,
)
from repe.control.prompts import Prompt
from repe.control.replies import repetition
from repe.control.reply_file import Key, ReplyFile, Row
from repe.control.scores import OWN, Reader
from repe.control.settings import Condition, ControlSettings
from repe.control.steering import steered, step_lengths
from repe.models.model import Model
from repe.vectors.concept_vectors import ConceptVectors
from repe.vectors.hidden_states import token_budget

# Seconds between two updates of the reply file.
WRITE_EVERY = 20.0

# Scopes that leave all tokens of a prompt but its last one as they are.
UNCHANGED_PROMPTS = ("generated", "last")


@dataclass
class ControlExperiment:
    """Steering of one concept with the vector of one source language.

    Raises:
        UserError: the strength unit needs class distances or mean norms that the vectors do not have.
    """

    concept: str
    source: str
    vectors: Mapping[str, ConceptVectors]
    """By language: those of the source, and for `target_vector` of all targets."""
    prompts: Sequence[Prompt]
    settings: ControlSettings
    file: ReplyFile
    shuffled: ConceptVectors | None = None
    """For `shuffled`: vectors of the source language from shuffled labels."""
    instructions: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """For `prompt`: by language, the system instructions of the `positive` and the `negative` side."""
    reader: Reader = field(default_factory=lambda: Reader(OWN, {}))
    """The unsteered model's vectors of all concepts, which score the replies."""
    folder: Path = Path()
    """`control/<source>`; the file is in it, or in a folder below it."""

    def __post_init__(self) -> None:
        self._rows = [layer - 1 for layer in self.settings.layers]
        # Computed here so that missing norms are found before the model is loaded.
        lengths = step_lengths(self.vectors[self.source], self.settings.strength_unit, self.settings.operator)
        self._lengths = lengths[self._rows]

    def activations(self, condition: Condition, languages: Sequence[str]) -> dict[int, torch.Tensor]:
        """The activations to steer a batch with.

        Args:
            condition: the direction and its strength.
            languages: the language of each row of the batch.

        Returns:
            By layer number, float32 (1 or rows, hidden) on the CPU.
        """
        if condition.baseline == "random":
            seed = [self.settings.decoding.seed, condition.draw or 0, zlib.crc32(self.concept.encode())]
            shape = self.vectors[self.source].unit_vectors.shape
            drawn = torch.from_numpy(np.random.default_rng(seed).standard_normal(shape, dtype=np.float32))
            directions = torch.nn.functional.normalize(drawn)[:, None]
        else:
            chosen = {
                "target_vector": [self.vectors.get(language) for language in languages],
                "shuffled": [self.shuffled],
            }.get(condition.baseline, [self.vectors[self.source]])
            directions = torch.stack([torch.from_numpy(one.unit_vectors) for one in chosen if one], dim=1)
        steps = directions[self._rows] * (condition.strength * self._lengths)[:, None, None]
        return dict(zip(self.settings.layers, steps, strict=True))

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
        for language, vectors in {**self.vectors, "shuffled": self.shuffled}.items():
            if vectors:
                vectors.check_fit(language, model.layers, model.hidden_size)
        batches = prompt_batches(model, self.prompts, self.settings.decoding.max_new_tokens, batch_size)
        if overwrite:
            self.file.clear()
        rows: list[Row] = []
        written = time.monotonic()
        with tqdm(total=len(self.pending()), desc=f"{self.concept} {self.source}", unit="reply") as bar:
            try:
                for replies in self._missing_replies(model, batches, batch_size):
                    rows += replies
                    bar.update(len(replies))
                    if time.monotonic() - written > WRITE_EVERY:
                        self.file.add(rows)
                        rows, written = [], time.monotonic()
            finally:
                if rows:
                    self.file.add(rows)

    def _missing_replies(
        self, model: Model, batches: Sequence[PromptBatch], batch_size: int | None
    ) -> Iterator[list[Row]]:
        """The replies that are not in the file, one pass at a time.

        Conditions that are generated together are generated whole, so that a resumed run gives the same replies.
        """
        pending = {*self.pending()}
        for batch in batches:
            equal = {condition: self._equal(condition, batch) for condition in self.settings.conditions()}
            missing = {
                condition
                for condition in equal
                if not pending.isdisjoint(_key(condition, prompt) for prompt in batch.prompts)
            }
            if not missing:
                continue
            read = read_prompts(model, batch.tokens)
            for group in self._together(model, batch, list(dict.fromkeys(equal.values())), batch_size):
                wanted = [condition for condition in equal if condition in missing and equal[condition] in group]
                if wanted:
                    replies = dict(zip(group, self._replies(model, batch, read, group), strict=True))
                    yield [row | one._asdict() for one in wanted for row in replies[equal[one]]]

    def _equal(self, condition: Condition, batch: PromptBatch) -> Condition:
        """A condition that gives the same replies to the batch, so that they are generated once."""
        if not condition.strength:
            return Condition("none", 0.0)
        is_own = condition.baseline == "target_vector" and {prompt.lang for prompt in batch.prompts} == {self.source}
        return Condition("concept", condition.strength) if is_own else condition

    def _together(
        self, model: Model, batch: PromptBatch, conditions: Sequence[Condition], batch_size: int | None
    ) -> Iterator[list[Condition]]:
        """Groups of conditions under which the batch's prompts are replied to in one pass.

        Decoding takes nearly as long for a few rows as for many. Conditions stay apart where that would change what
        they are compared by: with sampling, all have the same random numbers.
        """
        decoding = self.settings.decoding
        length = max(map(len, batch.tokens)) + decoding.max_new_tokens
        most = (batch_size or token_budget(model, decoding=True) // length) // len(batch.tokens)
        if most < 1 or decoding.temperature or decoding.num_beams > 1:
            most = 1
        same_prompts = [condition for condition in conditions if condition.baseline != "prompt"]
        yield from (same_prompts[start : start + most] for start in range(0, len(same_prompts), most))
        yield from ([condition] for condition in conditions if condition.baseline == "prompt")

    def _replies(
        self, model: Model, batch: PromptBatch, read: ReadPrompts, conditions: Sequence[Condition]
    ) -> list[list[Row]]:
        """The replies of one pass to the batch, a list for each condition."""
        languages, tokens = [prompt.lang for prompt in batch.prompts], None
        if conditions[0].baseline == "prompt":
            side = "positive" if conditions[0].strength > 0 else "negative"
            given = [self.instructions[language][side] for language in languages]
            tokens = instructed(model, batch.prompts, given, self.settings.decoding.max_new_tokens)
        steps = [self.activations(one, languages) if one.strength and not tokens else {} for one in conditions]
        # The seed depends on the prompts only, so that all conditions sample with the same random numbers.
        seed = zlib.crc32(" ".join(f"{prompt.lang}/{prompt.id}" for prompt in batch.prompts).encode())
        found = steered_replies(model, batch, read, steps, self.settings, tokens=tokens, seed=seed)
        return [
            [
                {
                    "id": prompt.id,
                    "lang": prompt.lang,
                    "harmful": prompt.harmful,
                    "strength": condition.strength,
                    "baseline": condition.baseline,
                    "prompt": prompt.prompt,
                    "reply": decode(model, reply),
                    "draw": condition.draw,
                    "tokens": len(reply),
                    "loss": loss,
                    "repetition": repetition(reply),
                }
                for prompt, (reply, loss) in zip(batch.prompts, replies, strict=True)
            ]
            for condition, replies in zip(conditions, found, strict=True)
        ]


def steered_replies(
    model: Model,
    batch: PromptBatch,
    read: ReadPrompts,
    steps: Sequence[Mapping[int, torch.Tensor]],
    settings: ControlSettings,
    *,
    tokens: Sequence[Sequence[int]] | None = None,
    seed: int = 0,
) -> list[list[tuple[list[int], float | None]]]:
    """Replies to a batch of prompts under several activations, in one pass.

    Args:
        read: the prompts as the unsteered model has read them.
        steps: activations by layer number, (1 or prompts, hidden); empty for unsteered replies.
        settings: operator, scope and decoding.
        tokens: token ids of the prompts with system instructions, to reply to in their place.
        seed: of the batch, see `generate`.

    Returns:
        For each of `steps`, the token ids and the loss (see `reply_losses`) of each reply. Losses are without the
        instruction: replies of all conditions are compared as replies to the same prompts.
    """
    # Each prompt is there once for each of the steps; those without one in a layer add zero.
    zero = torch.zeros(1, model.hidden_size)
    activations = {
        layer: torch.stack([one.get(layer, zero).expand(len(batch.tokens), -1) for one in steps], dim=1).flatten(0, 1)
        for layer in sorted({layer for one in steps for layer in one})
    }
    again, repeated = read.repeated(len(steps)), [ids for ids in tokens or batch.tokens for _ in steps]
    is_changed = tokens or (activations and settings.scope not in UNCHANGED_PROMPTS)
    width = max(map(len, repeated))
    with steered(model.lm, model.blocks, activations, settings.operator, settings.scope, width):
        replies = generate(model, repeated, settings.decoding, seed, None if is_changed else again)
    found = [*zip(replies, reply_losses(model, again, replies), strict=True)]
    return [found[number :: len(steps)] for number in range(len(steps))]


def _key(condition: Condition, prompt: Prompt) -> Key:
    return *condition, prompt.lang, prompt.id
