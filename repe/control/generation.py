"""Generate replies in batches, and compute their likelihood (Section 5)."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import transformers
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from repe.control.prompts import Prompt
from repe.errors import UserError, first_of
from repe.models.model import Model
from repe.models.registry import with_system
from repe.vectors.hidden_states import batches, copied_cache, encode, token_budget


@dataclass(frozen=True)
class Decoding:
    """How replies are decoded."""

    max_new_tokens: int = 64
    temperature: float = 0.0
    """0 for greedy decoding."""
    top_p: float = 1.0
    num_beams: int = 1
    seed: int = 1
    """Random seed of sampling. Together with the batch it determines the replies."""

    def config(self, model: Model) -> transformers.GenerationConfig:
        """The settings for Transformers."""
        ends = end_tokens(model)
        sampling = {"temperature": self.temperature, "top_p": self.top_p, "top_k": 0}
        return transformers.GenerationConfig(
            max_new_tokens=self.max_new_tokens,
            num_beams=self.num_beams,
            eos_token_id=ends or None,
            # Any valid token: what follows the end of a reply is dropped.
            pad_token_id=ends[0] if ends else 0,
            do_sample=self.temperature > 0,
            **(sampling if self.temperature > 0 else {}),
        )


def end_tokens(model: Model) -> list[int]:
    """Ids of the tokens that end a reply: the checkpoint's, else the tokenizer's."""
    named = model.lm.generation_config.eos_token_id
    ends = model.tokenizer.eos_token_id if named is None else named
    return [] if ends is None else np.atleast_1d(ends).tolist()


@dataclass(frozen=True)
class PromptBatch:
    """Prompts of one batch."""

    prompts: Sequence[Prompt]
    tokens: Sequence[Sequence[int]]
    """Token ids of each prompt in the model's template."""


def prompt_batches(
    model: Model, prompts: Sequence[Prompt], max_new_tokens: int, batch_size: int | None = None
) -> list[PromptBatch]:
    """Group prompts of similar length, in any language, into batches.

    Args:
        max_new_tokens: number of tokens to leave for each reply.
        batch_size: prompts in a batch; None sets it from their lengths.

    Raises:
        UserError: a prompt has no tokens, or exceeds the context length together with its reply.
    """
    tokens = encode(model, [prompt.prompt for prompt in prompts])
    limit = model.max_tokens
    bad = [
        f"{prompt.lang} {prompt.id} ({len(ids)} tokens)"
        for prompt, ids in zip(prompts, tokens, strict=True)
        if not ids or (limit and len(ids) + max_new_tokens > limit)
    ]
    if bad:
        raise UserError(
            f"these prompts are empty or exceed the context length of {model.label} ({limit} tokens, including "
            f"{max_new_tokens} new ones): {first_of(bad, 5, ', ')}; shorten them or give a smaller "
            "--max-new-tokens"
        )
    found = batches([len(ids) + max_new_tokens for ids in tokens], token_budget(model, decoding=True), batch_size)
    return [PromptBatch([prompts[row] for row in rows], [tokens[row] for row in rows]) for rows in found]


def instructed(
    model: Model, prompts: Sequence[Prompt], instructions: Sequence[str], max_new_tokens: int
) -> list[list[int]]:
    """Token ids of prompts, each with a system instruction (see `repe.models.registry.with_system`).

    Raises:
        UserError: a prompt exceeds the context length together with its instruction and reply.
    """
    templates = {one: with_system(model.template, model.tokenizer, one) for one in {*instructions}}
    texts = [templates[one].render(prompt.prompt) for prompt, one in zip(prompts, instructions, strict=True)]
    tokens: list[list[int]] = model.tokenizer(texts, add_special_tokens=model.template.special_tokens)["input_ids"]
    limit = model.max_tokens
    for prompt, ids in zip(prompts, tokens, strict=True):
        if limit and len(ids) + max_new_tokens > limit:
            raise UserError(
                f"the prompt {prompt.lang} {prompt.id} with its system instruction exceeds the context length of "
                f"{model.label} ({limit} tokens): shorten it or leave prompt out of --baseline"
            )
    return tokens


def reply_texts(model: Model, prompts: Sequence[str], max_new_tokens: int = 64) -> list[str]:
    """Greedy replies to prompts, in their order.

    Args:
        model: with its vocabulary head.
        prompts: texts without the model's template.
        max_new_tokens: maximum length of a reply.

    Raises:
        UserError: the model has no vocabulary head, or as for `prompt_batches` and `generate`.
    """
    if model.lm is None:
        raise UserError(f"{model.label} has no vocabulary head and cannot generate text: load a causal language model")
    numbered = [Prompt(str(number), "prompt", text) for number, text in enumerate(prompts)]
    replies: dict[str, str] = {}
    for batch in prompt_batches(model, numbered, max_new_tokens):
        found = generate(model, batch.tokens, Decoding(max_new_tokens))
        replies |= {prompt.id: decode(model, reply) for prompt, reply in zip(batch.prompts, found, strict=True)}
    return [replies[prompt.id] for prompt in numbered]


def decode(model: Model, reply: Sequence[int]) -> str:
    """The text of a reply, without special tokens and surrounding white space."""
    return str(model.tokenizer.decode(reply, skip_special_tokens=True)).strip()


@dataclass(frozen=True)
class ReadPrompts:
    """A batch of prompts that the unsteered model has read, from which passes of all conditions continue."""

    ids: torch.Tensor
    mask: torch.Tensor
    """Token ids and attention mask (prompts, tokens), padded on the left."""
    cache: Any = None
    """Keys and values of all tokens but the last; None for prompts of one token and for models without such a cache."""

    def repeated(self, times: int) -> "ReadPrompts":
        """The batch with each prompt so many times, one after the other."""
        if times == 1:
            return self
        cache = None if self.cache is None else copied_cache(self.cache)
        if cache is not None:
            cache.batch_repeat_interleave(times)
        return ReadPrompts(self.ids.repeat_interleave(times, 0), self.mask.repeat_interleave(times, 0), cache)


@torch.inference_mode()
def read_prompts(model: Model, prompts: Sequence[Sequence[int]]) -> ReadPrompts:
    """Read a batch of prompts (token ids) once."""
    ids, mask = _padded_left(prompts, model)
    if ids.shape[1] == 1:
        return ReadPrompts(ids, mask)
    options = _accepted(model.trunk, {"position_ids": _positions(mask)[:, :-1], "use_cache": True})
    output = model.trunk(input_ids=ids[:, :-1], attention_mask=mask[:, :-1], **options)
    cache = getattr(output, "past_key_values", None)
    return ReadPrompts(ids, mask, cache if hasattr(cache, "layers") else None)


@torch.inference_mode()
def generate(
    model: Model,
    prompts: Sequence[Sequence[int]],
    decoding: Decoding,
    seed: int = 0,
    read: ReadPrompts | None = None,
) -> list[list[int]]:
    """Generate replies to a batch of prompts.

    Args:
        model: with its vocabulary head.
        prompts: token ids.
        decoding: how to decode.
        seed: random seed of this batch, combined with the decoding's seed.
        read: the same prompts, where no token but their last is steered; they are not read again then.

    Returns:
        Token ids of each reply, without the token that ends it.

    Raises:
        UserError: logits are not finite, or the batch does not fit into memory.
    """
    ids, mask = _padded_left(prompts, model)
    ends = {*end_tokens(model)}
    # Beam search has several rows for each prompt.
    past = _past(read if decoding.num_beams == 1 else None)
    with torch.random.fork_rng():  # the state of the random numbers is restored
        torch.manual_seed(int(np.random.SeedSequence([decoding.seed, seed]).generate_state(1)[0]))
        try:
            output = model.lm.generate(
                input_ids=ids,
                attention_mask=mask,
                generation_config=decoding.config(model),
                logits_processor=transformers.LogitsProcessorList([_Finite(model)]),
                **past,
            )
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"{model.label}: {len(prompts)} prompts of {ids.shape[1]} tokens do not fit into memory: "
                "give a smaller --batch-size"
            ) from error
    replies = output[:, ids.shape[1] :].tolist()
    return [reply[: next((place for place, id in enumerate(reply) if id in ends), len(reply))] for reply in replies]


def _past(read: ReadPrompts | None) -> dict[str, Any]:
    """The option with which generation continues from prompts that have been read."""
    return {} if read is None or read.cache is None else {"past_key_values": copied_cache(read.cache)}


@torch.inference_mode()
def next_token_log_probabilities(
    model: Model, prompts: Sequence[Sequence[int]], read: ReadPrompts | None = None
) -> torch.Tensor:
    """Log probabilities of the token that follows each prompt of a batch, float32 (prompts, vocabulary).

    Args:
        model: with its vocabulary head.
        prompts: token ids.
        read: the same prompts, or their beginnings, where no token but the last of them is steered.
    """
    ids, mask = _padded_left(prompts, model)
    config = Decoding(max_new_tokens=1).config(model)
    config.update(output_logits=True, return_dict_in_generate=True)
    output = model.lm.generate(input_ids=ids, attention_mask=mask, generation_config=config, **_past(read))
    return output.logits[0].float().log_softmax(dim=-1)  # type: ignore[no-any-return]


class _Finite(transformers.LogitsProcessor):
    """Raises an error for logits that are not finite, which would be decoded as the first token of the vocabulary."""

    def __init__(self, model: Model) -> None:
        self.model = model

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        # Minus infinity is valid: some models exclude tokens with it.
        if bool((scores.isnan() | scores.isposinf()).any()):
            raise UserError(
                f"{self.model.label}: logits are not finite in {self.model.dtype}: give a smaller --strength or a "
                "wider --dtype"
            )
        return scores


@torch.inference_mode()
def reply_losses(model: Model, read: ReadPrompts, replies: Sequence[Sequence[int]]) -> list[float | None]:
    """Mean negative log-likelihood of each reply under the model, in nats per token; None for an empty reply."""
    lengths = torch.tensor([len(reply) for reply in replies], device=read.ids.device)
    longest = int(lengths.max())
    if longest == 0:
        return [None] * len(replies)
    tokens = pad_sequence([torch.tensor([*reply], dtype=torch.long) for reply in replies], batch_first=True)
    targets = tokens.to(read.ids.device)
    is_reply = torch.arange(longest, device=read.ids.device) < lengths[:, None]
    ids, mask = torch.cat([read.ids, targets], dim=1), torch.cat([read.mask, is_reply.to(read.mask)], dim=1)
    start = read.ids.shape[1] - 1 if read.cache is not None else 0
    # Positions are computed from the mask, as in `generate`. Not every model accepts these options.
    options = {"position_ids": _positions(mask)[:, start:], "logits_to_keep": longest + 1}
    past = {"past_key_values": copied_cache(read.cache)} if start else {"use_cache": False}
    output = model.lm(input_ids=ids[:, start:], attention_mask=mask, **past, **_accepted(model.lm, options))
    # The logits at a token predict the next one.
    logits = output.logits[:, -longest - 1 : -1].float()
    losses = functional.cross_entropy(logits.transpose(1, 2), targets.to(logits.device), reduction="none")
    return [float(row[: len(reply)].mean()) if reply else None for row, reply in zip(losses, replies, strict=True)]


def _positions(mask: torch.Tensor) -> torch.Tensor:
    """The position of each token in its row, without padding."""
    return (mask.cumsum(dim=1) - 1).clamp_min(0)


def _accepted(module: torch.nn.Module, options: dict[str, Any]) -> dict[str, Any]:
    """Those of the options that the module's forward pass accepts."""
    names = inspect.signature(module.forward).parameters
    return {name: value for name, value in options.items() if name in names}


def _padded_left(rows: Sequence[Sequence[int]], model: Model) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask (rows, tokens), padded on the left so that replies follow the prompts."""
    tokens = [torch.tensor([*row]) for row in rows]
    ids, mask = (
        pad_sequence(values, batch_first=True, padding_side="left").to(model.device)
        for values in (tokens, [torch.ones_like(row) for row in tokens])
    )
    return ids, mask
