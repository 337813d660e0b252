"""Hidden states of the last token: what the paper's concept vectors are made of (Section 3.1).

State l of a text, for l in 1..N, is what block l (counted from 1) gives for the text's last token; state N is taken
after the model's final norm. That is Transformers' `hidden_states[l]`; the embeddings, `hidden_states[0]`, are left
out.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from repe.errors import UserError
from repe.models.loading import Model
from repe.vectors.batching import in_batches

# Tokenizers keep much more of a text than its tokens until they are done.
ENCODED_AT_ONCE = 1000


@torch.inference_mode()
def last_token_states(model: Model, texts: Sequence[str], batch_size: int | None = None) -> torch.Tensor:
    """Run `texts` through the trunk and keep each one's last token, see `visit_last_tokens`.

    Returns:
        (layers, texts, hidden) in the model's dtype, on the device that token ids go to; texts in the order given.
    """
    states = torch.empty(model.layers, len(texts), model.hidden_size, dtype=model.dtype, device=model.device)

    def keep(rows: list[int], found: list[torch.Tensor]) -> None:
        index = torch.tensor(rows, device=states.device)
        for layer, state in enumerate(found):
            states[layer, index] = state.to(states.device)

    visit_last_tokens(model, texts, keep, batch_size)
    return states


@torch.inference_mode()
def visit_last_tokens(
    model: Model,
    texts: Sequence[str],
    visit: Callable[[list[int], list[torch.Tensor]], None],
    batch_size: int | None = None,
) -> None:
    """Run `texts` through the trunk and hand over each one's last token, a batch at a time.

    Texts of like length share a batch. They are padded on the right whatever the tokenizer's side: a causal model then
    needs neither shifted positions nor a mask for the tokens that count, and an encoder has its mask.

    Where a batch does not fit into memory, half of it is tried, and batches stay that small from then on.

    Args:
        model: trunk, tokenizer and template.
        texts: without the template.
        visit: takes the indices of a batch's texts and, for each layer, their states (texts, hidden), in the model's
            dtype, on the device of the layer.
        batch_size: texts a batch; None for as many as a budget of tokens allows.

    Raises:
        UserError: a text has no token or more than the model has positions for; a state is not finite; a single text
            does not fit into memory.
    """
    tokens = tokenize(model, texts)
    with _kept_last_tokens([*model.blocks][:-1]) as kept:

        def run(rows: list[int]) -> None:
            ids, mask, last = _padded([tokens[row] for row in rows], model)
            kept.start(last)
            output = model.trunk(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
            states = [*kept.states, at_places(output, last)]
            _check_finite(model, states, rows, texts)
            visit(rows, states)

        in_batches(run, [len(ids) for ids in tokens], model, batch_size)


def tokenize(model: Model, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of each text in the model's template.

    Raises:
        UserError: a text has no token, or more than the model has positions for.
    """
    tokens = encode(model, texts)
    for place, (text, ids) in enumerate(zip(texts, tokens, strict=True)):
        if not ids:
            raise UserError(f"{model.label} makes no token of the text {shorten(text)}: mend the text or the template")
        if model.max_tokens and len(ids) > model.max_tokens:
            if not model.truncate:
                raise UserError(
                    f"the text {shorten(text)} has {len(ids)} tokens, {model.label} takes {model.max_tokens}: "
                    "shorten it, or cut it with --truncate"
                )
            tokens[place] = _cut(model, text, model.max_tokens)
    return tokens


def encode(model: Model, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of each text in the model's template, however many."""
    ids: list[list[int]] = []
    for start in range(0, len(texts), ENCODED_AT_ONCE):
        ids += model.tokenizer(
            [model.template.render(text) for text in texts[start : start + ENCODED_AT_ONCE]],
            add_special_tokens=model.template.special_tokens,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )["input_ids"]
    return ids


def _cut(model: Model, text: str, most: int) -> list[int]:
    """Token ids of the longest beginning of `text` that fits, the template around it whole.

    Raises:
        UserError: the template alone does not fit.
    """
    fits, too_long = 0, len(text)
    while too_long - fits > 1:
        middle = (fits + too_long) // 2
        fits, too_long = (middle, too_long) if len(encode(model, [text[:middle]])[0]) <= most else (fits, middle)
    (ids,) = encode(model, [text[:fits]])
    if len(ids) > most:
        raise UserError(f"the template alone is longer than the {most} tokens that {model.label} takes: shorten it")
    return ids


def shorten(text: str, length: int = 60) -> str:
    """`text` in quotes, cut for a message."""
    return repr(text if len(text) <= length else f"{text[:length]}...")


def _padded(tokens: list[list[int]], model: Model) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Token ids and mask (texts, tokens), padded on the right, and the index of each text's last token."""
    lengths = torch.tensor([len(ids) for ids in tokens])
    # What stands in the padding does not matter, but it has to be a token that there is.
    ids = nn.utils.rnn.pad_sequence([torch.tensor(row) for row in tokens], batch_first=True, padding_value=0)
    mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
    return ids.to(model.device), mask.to(model.device), (lengths - 1).to(model.device)


def at_places(states: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Each text's state at its place (texts,), (texts, hidden), from those of all tokens, (texts, tokens, hidden)."""
    # Indexing with tensors copies, so the states of all tokens can be freed.
    return states[torch.arange(len(places), device=states.device), places.to(states.device)]


def states_of(output: Any) -> torch.Tensor:
    """The states (rows, tokens, hidden) in what a block or a part of one gives."""
    # A tensor in some architectures, in others a tuple that begins with it.
    states: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return states


class _Kept:
    """What the hooks have seen of the batch under way."""

    def __init__(self) -> None:
        self.states: list[torch.Tensor] = []
        self.last = torch.empty(0)

    def start(self, last: torch.Tensor) -> None:
        self.states, self.last = [], last

    def hook(self, _block: nn.Module, _inputs: Any, output: Any) -> None:
        self.states.append(at_places(states_of(output), self.last))


@contextmanager
def _kept_last_tokens(blocks: Sequence[nn.Module]) -> Iterator[_Kept]:
    """Keep the last tokens' states of `blocks` while the trunk runs; the hooks go again, whatever happens."""
    kept = _Kept()
    hooks = [block.register_forward_hook(kept.hook) for block in blocks]
    try:
        yield kept
    finally:
        for hook in hooks:
            hook.remove()


def _check_finite(model: Model, states: Sequence[torch.Tensor], rows: Sequence[int], texts: Sequence[str]) -> None:
    for layer, state in enumerate(states, start=1):
        bad = ~torch.isfinite(state).all(dim=-1)
        if bad.any():
            text = shorten(texts[min(row for row, is_bad in zip(rows, bad.tolist(), strict=True) if is_bad)])
            wider = "bfloat16 or float32" if model.dtype == torch.float16 else "float32"
            remedy = "the weights are damaged" if model.dtype == torch.float32 else f"use a wider --dtype ({wider})"
            raise UserError(f"{model.label}: layer {layer} of the text {text} is not finite in {model.dtype}: {remedy}")
