"""Generating replies in batches, and what a model makes of a reply: its likelihood."""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import transformers
from torch.nn import functional

from repe.control.prompts import Prompt
from repe.errors import UserError
from repe.models.loading import Model
from repe.vectors.batching import batches, generation_budget
from repe.vectors.hidden_states import encode


@dataclass(frozen=True)
class Decoding:
    """How replies are decoded: greedily unless a temperature is given."""

    max_new_tokens: int = 64
    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0
    num_beams: int = 1
    seed: int = 1
    """Of sampling, which also depends on the batch: the same batches give the same replies."""

    def config(self, model: Model) -> transformers.GenerationConfig:
        """As Transformers takes it."""
        sampling: dict[str, Any] = {"do_sample": self.temperature > 0}
        if self.temperature > 0:
            sampling |= {"temperature": self.temperature, "top_p": self.top_p, "top_k": 0}
        ends = end_tokens(model)
        return transformers.GenerationConfig(
            max_new_tokens=self.max_new_tokens,
            num_beams=self.num_beams,
            eos_token_id=ends or None,
            # What stands behind a reply's end does not matter, but it has to be a token that there is.
            pad_token_id=ends[0] if ends else 0,
            **sampling,
        )


def end_tokens(model: Model) -> list[int]:
    """The tokens that end a reply: those that the checkpoint names, else the tokenizer's."""
    named = model.lm.generation_config.eos_token_id
    if named is None:
        named = model.tokenizer.eos_token_id
    return [] if named is None else list(named) if isinstance(named, (list, tuple)) else [int(named)]


@dataclass(frozen=True)
class PromptBatch:
    """Prompts that are run together."""

    prompts: Sequence[Prompt]
    tokens: Sequence[Sequence[int]]
    """Token ids of each in the model's template."""

    @property
    def languages(self) -> list[str]:
        """Of each prompt."""
        return [prompt.lang for prompt in self.prompts]


def prompt_batches(
    model: Model, prompts: Sequence[Prompt], max_new_tokens: int, batch_size: int | None
) -> list[PromptBatch]:
    """Batches of prompts of like length, whatever their language.

    Args:
        max_new_tokens: for which each prompt has to leave room.
        batch_size: prompts a batch; None for as many as a budget of tokens allows.

    Raises:
        UserError: prompts without a token, or too long to leave room for a reply; names their ids.
    """
    tokens = encode(model, [prompt.prompt for prompt in prompts])
    most = model.max_tokens
    bad = [
        f"{prompt.id} ({prompt.lang}, {len(ids)} tokens)"
        for prompt, ids in zip(prompts, tokens, strict=True)
        if not ids or (most and len(ids) + max_new_tokens > most)
    ]
    if bad:
        more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
        raise UserError(
            f"prompts {', '.join(bad[:5])}{more}: none may be empty, nor have more tokens than {model.label} takes "
            f"({most}) less the reply's {max_new_tokens}: shorten them, or give a smaller --max-new-tokens"
        )
    found = batches([len(ids) + max_new_tokens for ids in tokens], generation_budget(model), batch_size)
    return [PromptBatch([prompts[row] for row in rows], [tokens[row] for row in rows]) for rows in found]


@torch.inference_mode()
def generate(model: Model, prompts: Sequence[Sequence[int]], decoding: Decoding, seed: int = 0) -> list[list[int]]:
    """Replies to a batch of prompts.

    Args:
        model: with its head.
        prompts: token ids.
        decoding: how.
        seed: of this batch, beside the decoding's own.

    Returns:
        Token ids of each reply, without what ends it.

    Raises:
        UserError: logits are not finite, or the batch does not fit into memory.
    """
    ids, mask = _padded_left(prompts, model)
    ends = {*end_tokens(model)}
    with _seeded(decoding.seed, seed):
        try:
            output = model.lm.generate(
                input_ids=ids,
                attention_mask=mask,
                generation_config=decoding.config(model),
                logits_processor=transformers.LogitsProcessorList([_Finite(model)]),
            )
        except torch.OutOfMemoryError as error:
            size = f"{len(prompts)} prompts of {ids.shape[1]} tokens"
            raise UserError(f"{model.label}: {size} do not fit into memory: give a smaller --batch-size") from error
    replies = output[:, ids.shape[1] :].tolist()
    return [reply[: next((place for place, id in enumerate(reply) if id in ends), len(reply))] for reply in replies]


class _Finite(transformers.LogitsProcessor):
    """Refuses logits that are not numbers, which would be decoded to the first token of the vocabulary."""

    def __init__(self, model: Model) -> None:
        self.model = model

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        # Some models rule tokens out with minus infinity.
        if bool((scores.isnan() | scores.isposinf()).any()):
            raise UserError(
                f"{self.model.label}: logits are not finite in {self.model.dtype}: give a smaller --strength, or a "
                "wider --dtype"
            )
        return scores


@contextmanager
def _seeded(*seeds: int) -> Iterator[None]:
    """Sampling from `seeds` on; what the process draws later does not depend on it."""
    with torch.random.fork_rng():
        torch.manual_seed(int(np.random.SeedSequence(seeds).generate_state(1)[0]))
        yield


@torch.inference_mode()
def reply_losses(
    model: Model, prompts: Sequence[Sequence[int]], replies: Sequence[Sequence[int]]
) -> list[float | None]:
    """How surprising each reply is to the model: mean negative log-likelihood, nats a token; None for an empty one."""
    whole = [[*prompt, *reply] for prompt, reply in zip(prompts, replies, strict=True)]
    ids, mask = _padded_left(whole, model)
    longest = max(map(len, replies))
    if longest == 0:
        return [None] * len(whole)
    # The logits that predict the replies: those of the tokens before.
    logits = _logits(model, ids, mask, longest + 1)[:, :-1].float()
    targets = ids[:, -longest:].to(logits.device)
    losses = functional.cross_entropy(logits.transpose(1, 2), targets, reduction="none")
    return [
        float(row[longest - len(reply) :].mean()) if reply else None for row, reply in zip(losses, replies, strict=True)
    ]


@torch.inference_mode()
def next_token_log_probs(model: Model, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
    """Log-probabilities of the token after each prompt, float32 (prompts, vocabulary)."""
    ids, mask = _padded_left(prompts, model)
    return functional.log_softmax(_logits(model, ids, mask, 1)[:, -1].float(), dim=-1)


def _logits(model: Model, ids: torch.Tensor, mask: torch.Tensor, count: int) -> torch.Tensor:
    """Logits of the last `count` tokens, (rows, count, vocabulary)."""
    # Positions from the mask: `generate` does the same where a model takes them.
    places = (mask.cumsum(dim=1) - 1).clamp_min(0)
    accepted = inspect.signature(model.lm.forward).parameters
    options: dict[str, Any] = {"position_ids": places} if "position_ids" in accepted else {}
    if "logits_to_keep" in accepted:
        options["logits_to_keep"] = count
    output = model.lm(input_ids=ids, attention_mask=mask, use_cache=False, **options)
    return output.logits[:, -count:]  # type: ignore[no-any-return]


def _padded_left(rows: Sequence[Sequence[int]], model: Model) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and mask (rows, tokens), padded on the left whatever the tokenizer's side, so that replies go on."""
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + [*row] for row in rows], device=model.device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=model.device)
    return ids, mask
