"""Hidden states of each text's last token, from which the paper's concept vectors are made (Section 3.1).

State l of a text, l in 1..N, is the output of block l for the text's last token; state N is taken after the model's
final norm. This equals Transformers' `hidden_states[l]`; the embeddings, `hidden_states[0]`, are not used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from repe.errors import UserError

if TYPE_CHECKING:
    from repe.models.model import Model

# Texts per call of the tokenizer, which keeps much more of a text than its tokens until the call returns.
TEXTS_PER_CALL = 1000

# Padded tokens per batch of a forward pass, and of prompts and replies to decode (one token of each row at a time, so
# that more rows still pay). On a CPU, larger batches gain nothing: with 2,048 tokens, short texts are padded by half.
TOKENS = {"cpu": 512, "mps": 4096}
DECODING_TOKENS = {"cpu": 8192, "mps": 16384}

# On a GPU the budget is what fits into this share of the free memory, within these bounds: fewer tokens leave it idle,
# more gain nothing.
FREE_SHARE = 0.5
CUDA_TOKENS = (2048, 65536)


@torch.inference_mode()
def last_token_states(model: Model, texts: Sequence[str], batch_size: int | None = None) -> torch.Tensor:
    """Run `texts` through the trunk and keep the state of each one's last token in every layer.

    Texts are padded on the right: a causal model then needs neither shifted positions nor a mask for the tokens that
    count, and an encoder has its mask.

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
    states = torch.empty(model.layers, len(texts), model.hidden_size, dtype=model.dtype, device=model.device)
    seen: list[torch.Tensor] = []
    last = torch.empty(0)

    def keep(_block: nn.Module, _inputs: Any, output: Any) -> None:
        seen.append(at_positions(states_of(output), last))

    def run(rows: list[int]) -> None:
        nonlocal last
        seen.clear()
        ids, mask, last = _padded([tokens[row] for row in rows], model)
        keep(model.trunk, None, model.trunk(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state)
        for layer, state in enumerate(seen):
            if not torch.isfinite(state).all():
                raise _not_finite(model, layer + 1, state, rows, texts)
            states[layer, rows] = state.to(states.device)

    with ExitStack() as hooks:
        for block in [*model.blocks][:-1]:
            hooks.callback(block.register_forward_hook(keep).remove)
        in_batches(run, [len(ids) for ids in tokens], model, batch_size)
    return states


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


def _padded(tokens: list[list[int]], model: Model) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Token ids and mask (texts, tokens), padded on the right, and the index of each text's last token (texts,)."""
    lengths = torch.tensor([len(ids) for ids in tokens])
    # The value of the padding does not matter, but it has to be a token of the vocabulary.
    ids = nn.utils.rnn.pad_sequence([torch.tensor(row) for row in tokens], batch_first=True, padding_value=0)
    mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
    return ids.to(model.device), mask.to(model.device), (lengths - 1).to(model.device)


def at_positions(states: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """The state (texts, hidden) of each text at its position (texts,), from states (texts, tokens, hidden)."""
    # Indexing with tensors copies, so that the states of the other tokens can be freed.
    return states[torch.arange(len(positions), device=states.device), positions.to(states.device)]


def states_of(output: Any) -> torch.Tensor:
    """The states (rows, tokens, hidden) in the output of a block or of a part of one."""
    # Some architectures return a tensor, others a tuple that begins with it.
    states: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return states


def _not_finite(model: Model, layer: int, state: torch.Tensor, rows: Sequence[int], texts: Sequence[str]) -> UserError:
    is_bad = (~torch.isfinite(state).all(dim=-1)).tolist()
    text = texts[min(row for row, bad in zip(rows, is_bad, strict=True) if bad)]
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


def in_batches(run: Callable[[list[int]], None], lengths: Sequence[int], model: Model, batch_size: int | None) -> None:
    """Call `run` with the indices of one batch of texts after another.

    A batch that does not fit into memory is run again in halves, and later batches of the model stay as small.

    Args:
        run: processes one batch.
        lengths: tokens per text.
        model: its device and its limits decide the batch size.
        batch_size: texts per batch; None for the budget of tokens.

    Raises:
        UserError: a single text does not fit.
    """
    budget = token_budget(model)
    waiting = list(range(len(lengths)))
    while waiting:
        size = min(batch_size, model.limits.get("texts", batch_size)) if batch_size else None
        tokens = min(budget, model.limits.get("tokens", budget))
        rows = [waiting[place] for place in next(batches([lengths[row] for row in waiting], tokens, size))]
        try:
            run(rows)
        except torch.OutOfMemoryError as error:
            longest, half = max(lengths[row] for row in rows), len(rows) // 2
            if half == 0:
                raise UserError(
                    f"{model.label}: a text of {longest} tokens does not fit into memory: use --dtype float16 or "
                    "another --device"
                ) from error
            model.limits.update(texts=half, tokens=half * longest)
            if model.device.type == "cuda":
                torch.cuda.empty_cache()
        else:
            done = set(rows)
            waiting = [row for row in waiting if row not in done]
