"""Hidden states of each text's last token, from which the paper's concept vectors are made (Section 3.1).

State l of a text, l in 1..N, is the output of block l for the text's last token; state N is taken after the model's
final norm. This equals Transformers' `hidden_states[l]`; the embeddings, `hidden_states[0]`, are not used.

Texts that begin with the same tokens are packed where the model allows it: see `repe.vectors.packing`.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from repe.errors import UserError

if TYPE_CHECKING:
    from repe.models.model import Model

# Texts per call of the tokenizer, which keeps much more of a text than its tokens until the call returns.
TEXTS_PER_CALL = 1000

# Relative differences of states above these are more than rounding, by number type.
ROUNDING = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}

# Padded tokens per batch of a forward pass, and of prompts and replies to decode (one token of each row at a time, so
# that more rows still pay). On a CPU, larger batches gain nothing: with 2,048 tokens, short texts are padded by half.
TOKENS = {"cpu": 512, "mps": 4096}
DECODING_TOKENS = {"cpu": 8192, "mps": 16384}

# On a GPU the budget is what fits into this share of the free memory, within these bounds: fewer tokens leave it idle,
# more gain nothing. Batches above the lower bound are padded by at most this share.
FREE_SHARE = 0.5
CUDA_TOKENS = (2048, 65536)
MOST_PADDING = 0.1

# Packs and prefixes are used if they save more than this share of the tokens; their attention costs a little more.
LEAST_SAVED = 0.1

# Texts of one forward pass: the texts packed into each of its rows.
Rows = list[list[int]]


@torch.inference_mode()
def last_token_states(model: Model, texts: Sequence[str], batch_size: int | None = None) -> torch.Tensor:
    """Run `texts` through the trunk and keep the state of each one's last token in every layer.

    Args:
        model: trunk, tokenizer and template.
        texts: without the template.
        batch_size: texts per batch; None for as many as a budget of tokens allows.

    Returns:
        (layers, texts, hidden) in the model's dtype and on its device, in the order of the texts.

    Raises:
        UserError: a text has no tokens or is too long, a state is not finite, or a single text exceeds the memory.
    """
    tokens = tokenize(model, texts)
    # In lexicographic order, all texts begin with what the first and the last have in common.
    ends = zip(min(tokens, default=[]), max(tokens, default=[]), strict=False)
    saved = (len(tokens) - 1) * sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], ends))
    takes_positions = "position_ids" in inspect.signature(model.trunk.forward).parameters
    may_pack = takes_positions or saved > LEAST_SAVED * sum(map(len, tokens))
    # Hooks that see a whole pass, as for steering, expect a text in each row.
    if may_pack and len(texts) > 1 and batch_size != 1 and not model.trunk._forward_pre_hooks:
        from repe.vectors.packing import shared_states  # which imports this module

        return shared_states(model, tokens, texts, batch_size)
    return read(Batches(model, tokens), texts, batch_size)


def read(plan: Batches, texts: Sequence[str], batch_size: int | None) -> torch.Tensor:
    """States of the last tokens of a plan's texts, (layers, texts, hidden).

    Rows that do not fit into memory are read again in halves, and later passes of the model stay as small.

    Args:
        plan: how to divide the texts into forward passes.
        texts: for messages.
        batch_size: texts per batch; None for the budget of tokens.

    Raises:
        UserError: a state is not finite, or a single text does not fit into memory.
    """
    model, waiting = plan.model, plan.order
    states = torch.empty(model.layers, len(texts), model.hidden_size, dtype=model.dtype, device=model.device)
    budget = token_budget(model)
    while waiting:
        size = min(batch_size, model.limits.get("texts", batch_size)) if batch_size else None
        rows, padded = plan.take(waiting, min(budget, model.limits.get("tokens", budget)), size)
        numbers = [text for row in rows for text in row]
        try:
            found = forward(model, *plan.inputs(rows))
        except torch.OutOfMemoryError as error:
            _halve(model, len(numbers), padded, error)
            continue
        for layer, state in enumerate(found):
            if not torch.isfinite(state).all():
                raise _not_finite(model, layer + 1, state, [texts[number] for number in numbers])
        states[:, numbers] = found
        waiting = waiting[len(numbers) :]
    return states


def _halve(model: Model, texts: int, tokens: int, error: Exception) -> None:
    """Set the model's limits after a pass that did not fit into memory."""
    if texts == 1:
        raise UserError(
            f"{model.label}: a text of {tokens} tokens does not fit into memory: use --dtype float16 or another "
            "--device"
        ) from error
    model.limits.update(texts=texts // 2, tokens=tokens // 2)
    if model.device.type == "cuda":
        torch.cuda.empty_cache()


def tokenize(model: Model, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of each text in the model's template.

    Raises:
        UserError: a text has no tokens or exceeds the context length.
    """
    tokens = encode(model, texts)
    for place, (text, ids) in enumerate(zip(texts, tokens, strict=True)):
        if not ids:
            raise UserError(f"{model.label} produced no tokens for {shorten(text)}: fix the text or the template")
        if model.max_tokens and len(ids) > model.max_tokens:
            if not model.truncate:
                raise UserError(
                    f"the text {shorten(text)} has {len(ids)} tokens and exceeds the context length of {model.label} "
                    f"({model.max_tokens}): shorten it, or cut such texts with --truncate"
                )
            tokens[place] = _cut(model, text, model.max_tokens)
    return tokens


def encode(model: Model, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of each text in the model's template, without any check."""
    ids: list[list[int]] = []
    for start in range(0, len(texts), TEXTS_PER_CALL):
        ids += model.tokenizer(
            [model.template.render(text) for text in texts[start : start + TEXTS_PER_CALL]],
            add_special_tokens=model.template.special_tokens,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )["input_ids"]
    return ids


def _cut(model: Model, text: str, limit: int) -> list[int]:
    """Token ids of the longest beginning of `text` that fits into `limit` tokens, with the template around it intact.

    Raises:
        UserError: the template alone does not fit.
    """
    fits, too_long = 0, len(text)
    while too_long - fits > 1:
        middle = (fits + too_long) // 2
        fits, too_long = (middle, too_long) if len(encode(model, [text[:middle]])[0]) <= limit else (fits, middle)
    (ids,) = encode(model, [text[:fits]])
    if len(ids) > limit:
        raise UserError(f"the template alone exceeds the context length of {model.label} ({limit} tokens): shorten it")
    return ids


def shorten(text: str, length: int = 60) -> str:
    """`text` in quotes, shortened for a message."""
    return repr(text if len(text) <= length else f"{text[:length]}...")


def forward(model: Model, inputs: dict[str, Any], last: torch.Tensor) -> torch.Tensor:
    """One forward pass of the trunk.

    Args:
        inputs: of the trunk.
        last: index of each text's last token in the flattened rows, (texts,), on the CPU.

    Returns:
        States of these tokens in every layer, (layers, texts, hidden), on the model's device.
    """
    seen: list[torch.Tensor] = []
    with ExitStack() as hooks:
        for block in [*model.blocks][:-1]:
            # Indexing with a tensor copies, so that the states of the other tokens can be freed.
            hook = block.register_forward_hook(
                lambda _block, _inputs, output: seen.append(states_of(output).flatten(0, 1)[last].to(model.device))
            )
            hooks.callback(hook.remove)
        output = model.trunk(**{"use_cache": False} | inputs)
    return torch.stack([*seen, output.last_hidden_state.flatten(0, 1)[last].to(model.device)])


class Batches:
    """Batches of texts of similar length, one in each row, padded on the right.

    A causal model then needs neither shifted positions nor a mask for the tokens that count, and an encoder has its
    mask.

    Args:
        tokens: token ids of each text.
        prefix: number of tokens that all texts begin with and that are read only once.
    """

    def __init__(self, model: Model, tokens: Sequence[list[int]], prefix: int = 0) -> None:
        self.model = model
        self.prefix = tokens[0][:prefix] if tokens else []
        self.cache: Any = None  # keys and values of the prefix, once they have been read
        self.tokens = [np.array(ids[prefix:]) for ids in tokens]
        # Longest first, so that padding is small and the largest batch comes first.
        self.order = sorted(range(len(tokens)), key=lambda text: -len(tokens[text]))
        self.lengths = np.array([len(self.tokens[text]) for text in self.order])

    def take(self, waiting: Sequence[int], budget: int, size: int | None) -> tuple[Rows, int]:
        """The rows of the next forward pass, and their number of padded tokens.

        Args:
            waiting: the texts at the end of `order` that have not been read yet.
            budget: maximum number of padded tokens; ignored if `size` is given.
            size: number of texts.
        """
        lengths = self.lengths[len(self.order) - len(waiting) :]
        padded = lengths[0] * np.arange(1, len(lengths) + 1)
        allowed = (padded <= CUDA_TOKENS[0]) | (lengths.cumsum() >= (1 - MOST_PADDING) * padded)
        count = max(1, size or int((allowed & (padded <= budget)).sum()))
        rows = [[text] for text in waiting[:count]]
        return rows, int(padded[len(rows) - 1])

    def inputs(self, rows: Rows) -> tuple[dict[str, Any], torch.Tensor]:
        """Arguments of the trunk, and the index of each text's last token in the flattened rows, (texts,)."""
        device, count = self.model.device, len(self.prefix)
        lengths = torch.tensor([len(self.tokens[text]) for (text,) in rows])
        # The value of the padding does not matter, but it has to be a token of the vocabulary.
        ids = nn.utils.rnn.pad_sequence([torch.from_numpy(self.tokens[text]) for (text,) in rows], batch_first=True)
        mask = (torch.arange(-count, ids.shape[1]) < lengths[:, None]).long()
        inputs: dict[str, Any] = {"input_ids": ids.to(device), "attention_mask": mask.to(device)}
        if self.prefix:
            inputs |= self.past(len(rows))
        return inputs, torch.arange(len(rows)) * ids.shape[1] + lengths - 1

    def past(self, rows: int) -> dict[str, Any]:
        """The arguments with which rows continue from the prefix; read once, and not changed by passes that use it."""
        if not self.prefix:
            return {}
        if self.cache is None:
            from transformers import DynamicCache  # takes seconds

            ids = torch.tensor([self.prefix], device=self.model.device)
            # Of all tokens: the model's own kind may keep a window of them.
            options = {"attention_mask": torch.ones_like(ids), "past_key_values": DynamicCache()}
            self.cache = self.model.trunk(input_ids=ids, use_cache=True, **options).past_key_values
        past = copied_cache(self.cache)
        for layer in past.layers:
            layer.keys, layer.values = (part.expand(rows, *part.shape[1:]) for part in (layer.keys, layer.values))
        return {"past_key_values": past, "use_cache": True}


def copied_cache(cache: Any) -> Any:
    """A copy of a cache that forward passes can extend without changing the original, whose memory it shares."""
    found = copy.copy(cache)
    found.layers = [copy.copy(layer) for layer in cache.layers]
    return found


def relative_difference(found: torch.Tensor, reference: torch.Tensor) -> float:
    """Largest distance of two states (..., hidden), relative to the norm of the reference."""
    difference = (found.float() - reference.float()).norm(dim=-1)
    return float((difference / reference.float().norm(dim=-1)).max())


def at_positions(states: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """The state (texts, hidden) of each text at its position (texts,), from states (texts, tokens, hidden)."""
    # Indexing with tensors copies, so that the states of the other tokens can be freed.
    return states[torch.arange(len(positions), device=states.device), positions.to(states.device)]


def states_of(output: Any) -> torch.Tensor:
    """The states (rows, tokens, hidden) in the output of a block or of a part of one."""
    # Some architectures return a tensor, others a tuple that begins with it.
    states: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return states


def _not_finite(model: Model, layer: int, state: torch.Tensor, texts: Sequence[str]) -> UserError:
    is_bad = (~torch.isfinite(state).all(dim=-1)).tolist()
    text = next(text for text, bad in zip(texts, is_bad, strict=True) if bad)
    wider = "bfloat16 or float32" if model.dtype == torch.float16 else "float32"
    remedy = "the weights are damaged" if model.dtype == torch.float32 else f"use a wider --dtype ({wider})"
    return UserError(
        f"{model.label}: the state of layer {layer} is not finite in {model.dtype} for {shorten(text)}: {remedy}"
    )


def token_budget(model: Model, decoding: bool = False) -> int:
    """Padded tokens per batch for `--batch-size auto`; with `decoding`, of prompts together with their replies."""
    if model.device.type != "cuda":
        return (DECODING_TOKENS if decoding else TOKENS)[model.device.type]
    if decoding:  # each token is kept with its keys and values
        numbers = 2 * model.layers * model.hidden_size
    else:  # a few copies of the widest activation are alive at once, and some states around them
        widest = max(size for parameter in model.blocks[0].parameters() for size in parameter.shape)
        numbers = 4 * widest + 8 * model.hidden_size
    free, _ = torch.cuda.mem_get_info(model.device)
    low, high = CUDA_TOKENS
    return min(max(int(FREE_SHARE * free / (numbers * model.dtype.itemsize)), low), high)


def batches(lengths: Sequence[int], budget: int, batch_size: int | None) -> Iterator[list[int]]:
    """Indices of texts by decreasing length, so that padding is small and the largest batch comes first.

    Args:
        lengths: tokens per text.
        budget: padded tokens per batch, where `batch_size` is None.
        batch_size: texts per batch, or None.
    """
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    start = 0
    while start < len(order):
        size = batch_size or max(1, budget // max(1, lengths[order[start]]))
        yield order[start : start + size]
        start += size
