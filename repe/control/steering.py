"""Steering: adding to a model's hidden states while it runs (Section 5; the paper's settings are not published).

Layers are numbered as in the result files: a vector of layer l, 1..N-1, acts on the output of block l (counted from 1),
which is `model.blocks[l - 1]`. Layer N was collected after the final norm, where no block gives its output.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from repe.constants import OPERATORS, SCOPES
from repe.errors import UserError
from repe.vectors.hidden_states import states_of


@contextmanager
def steered(
    model: nn.Module,
    blocks: nn.ModuleList,
    activations: Mapping[int, torch.Tensor],
    operator: str = "linear_comb",
    scope: str = "all",
    prompt_tokens: int | None = None,
) -> Iterator[None]:
    """Change the hidden states of some layers in every forward pass of `model`; no hook stays, whatever happens.

    Padding is never touched: it is told from `attention_mask`. Tokens under the KV cache, beams and rows of a batch are
    each steered by their own row's activation.

    Args:
        model: what is called: the causal model, or its trunk.
        blocks: its decoder blocks.
        activations: by layer number, a in (hidden,) for all rows or (rows, hidden) for each row of a batch its own.
        operator: `linear_comb` gives h + a, `piecewise_linear` h + a * sign(h . a), `projection` takes from h the share
            |a| of its component along a (all of it where a is a unit vector).
        scope: which tokens: `all`, the `prompt`'s, the `generated` ones (as they are read to predict the next), or the
            prompt's `last`, which the reply's first token comes from.
        prompt_tokens: length of the prompts with their padding; None for that of every pass without a cache, which
            is not right where `generate` runs with `use_cache=False`.

    Raises:
        ValueError: an operator, scope or layer that there is not.
    """
    if operator not in OPERATORS or scope not in SCOPES:
        raise ValueError(f"operator {operator!r} and scope {scope!r} are not among {OPERATORS} and {SCOPES}")
    if unknown := [layer for layer in activations if not 1 <= layer <= len(blocks)]:
        raise ValueError(f"there is no block that gives layer {unknown[0]}: there are {len(blocks)}")
    places = _Places(scope, prompt_tokens)
    handles = [model.register_forward_pre_hook(places.hook, with_kwargs=True)]
    try:
        for layer, activation in activations.items():
            steer = _Steer(activation, operator, places)
            # Before the hooks that Transformers reads `hidden_states` with, so that those show what was steered.
            handles.append(blocks[layer - 1].register_forward_hook(steer.hook, prepend=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Places:
    """Which tokens of the forward pass under way are steered: what all layers' hooks share."""

    def __init__(self, scope: str, prompt_tokens: int | None) -> None:
        self.scope = scope
        self.fixed = prompt_tokens
        self.prompt_tokens = prompt_tokens or 0
        self.mask: torch.Tensor | None = None
        """bool (1 or rows, tokens), or None for all tokens."""
        self.any = True

    def hook(self, _model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        start, total, mask = reading(args, kwargs)
        if self.fixed is None and start == 0:
            self.prompt_tokens = total
        real = None
        # A token that has just been generated is never padding.
        if mask is not None and start < self.prompt_tokens and not bool(mask.all()):
            real = mask.bool()
        chosen = self._chosen(start, total, real)
        self.any = chosen is None or bool(chosen.any())
        if chosen is not None and real is not None:
            chosen = chosen & real
        self.mask = chosen if chosen is not None else real

    def _chosen(self, start: int, total: int, real: torch.Tensor | None) -> torch.Tensor | None:
        """Which of the tokens from `start` to `total` are in the scope, (1 or rows, tokens); None for all."""
        end = self.prompt_tokens
        first, behind = {
            "all": (0, total),
            "prompt": (0, end),
            "generated": (end, total),
            "last": (end - 1, end),
        }[self.scope]
        if first <= start and total <= behind:
            return None
        place = torch.arange(start, total, device=None if real is None else real.device)[None]
        if self.scope == "last" and real is not None:
            # Padding on the right leaves each prompt its own end.
            within = torch.where(real & (place < end), place, -1)
            return place == within.max(dim=1, keepdim=True).values
        return (place >= first) & (place < behind)


def reading(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[int, int, torch.Tensor | None]:
    """What a model that is called with `args` and `kwargs` reads in this pass.

    Returns:
        The place of its first token in all that has been read and the place behind its last, and their attention mask
        (rows, tokens); None for the mask where there is none, or one that does not say which tokens are padding.
    """
    ids = kwargs["input_ids"] if kwargs.get("input_ids") is not None else kwargs.get("inputs_embeds")
    width = (args[0] if ids is None else ids).shape[1]
    # Static caches come with masks of other forms; no token attends to padding then either.
    mask = kwargs.get("attention_mask")
    mask = mask if isinstance(mask, torch.Tensor) and mask.dim() == 2 else None
    past: Any = kwargs.get("past_key_values")
    if hasattr(past, "get_seq_length"):
        start = int(past.get_seq_length())
    else:
        # Under a cache the mask is as long as all that has been read, the ids only as what is new.
        start = 0 if mask is None else mask.shape[1] - width
    return start, start + width, None if mask is None else mask[:, start : start + width]


class _Steer:
    """The hook of one block."""

    def __init__(self, activation: torch.Tensor, operator: str, places: _Places) -> None:
        self.activation = Activation(activation)
        self.operator = operator
        self.places = places

    def hook(self, _block: nn.Module, _inputs: Any, output: Any) -> Any:
        if not self.places.any:
            return output
        states = states_of(output)
        added = change(states, self.activation.fitted(states), self.operator)
        mask = self.places.mask
        if mask is not None:
            added = added * mask[..., None].to(device=states.device, dtype=states.dtype)
        return with_states(output, states + added)


def with_states(output: Any, states: torch.Tensor) -> Any:
    """What a block gave, with other states in it."""
    return (states, *output[1:]) if isinstance(output, tuple) else states


def change(states: torch.Tensor, activation: torch.Tensor, operator: str) -> torch.Tensor:
    """What an operator of `steered` adds to states.

    Args:
        states: (rows, tokens, hidden).
        activation: of the same device and dtype, (1 or rows, 1 or tokens, hidden).
        operator: one of `repe.constants.OPERATORS`.

    Returns:
        In the states' dtype, of a shape that broadcasts to theirs; zero where the activation is.
    """
    if operator == "linear_comb":
        return activation
    # In float32: products of half-precision states overflow.
    wide, along = states.float(), activation.float()
    length = along.norm(dim=-1, keepdim=True)
    unit = along / length.clamp_min(torch.finfo(torch.float32).tiny)
    component = (wide * unit).sum(dim=-1, keepdim=True)
    wide_change = along * component.sign() if operator == "piecewise_linear" else -component * along
    added: torch.Tensor = wide_change.to(states.dtype)
    return added


class Activation:
    """An activation to steer with, where and in the number type that a block computes in.

    Args:
        activation: (hidden,) for all rows and tokens, (rows, hidden) for each row of a batch its own, or
            (1 or rows, 1 or tokens, hidden).
    """

    def __init__(self, activation: torch.Tensor) -> None:
        if activation.dim() == 1:
            activation = activation[None]
        self.activation = activation[:, None] if activation.dim() == 2 else activation
        self.cached: dict[tuple[torch.device, torch.dtype, int], torch.Tensor] = {}

    def fitted(self, states: torch.Tensor) -> torch.Tensor:
        """The activation for `states` (rows, tokens, hidden): (1 or rows, 1 or tokens, hidden).

        Raises:
            ValueError: it has another width than the states, or rows that the batch's are no multiple of.
        """
        rows, _, hidden = states.shape
        key = states.device, states.dtype, rows
        if key not in self.cached:
            own = self.activation.to(states.device, states.dtype)
            if own.shape[-1] != hidden:
                raise ValueError(f"activations of width {own.shape[-1]} for states of width {hidden}")
            if rows % len(own):
                raise ValueError(f"activations of {len(own)} rows for a batch of {rows}")
            if len(own) > 1:
                # Beams of a row stand one after the other.
                own = own.repeat_interleave(rows // len(own), dim=0)
            self.cached[key] = own
        return self.cached[key]


def unit_directions(directions: np.ndarray, signs: np.ndarray) -> torch.Tensor:
    """Unit vectors that point to the concept's positive side.

    Args:
        directions: (layers, components, hidden); the first component is taken.
        signs: (layers, components).

    Returns:
        float32 (layers, hidden).
    """
    first = torch.from_numpy(directions[:, 0]).float()
    unit: torch.Tensor = first / first.norm(dim=-1, keepdim=True)
    return torch.from_numpy(signs[:, :1]).float() * unit


def parse_layers(text: str, layers: int) -> list[int]:
    """The layers that `--layers` names: numbers `18,19,20`, or relative depths `0.3:0.6`.

    A layer's relative depth is (layer - 1) / layers, as in the tables; both ends count.

    Args:
        text: of the option.
        layers: of the model, N; the last one cannot be steered.

    Raises:
        UserError: not of this form, out of range, or no layer lies between the depths.
    """
    try:
        if ":" in text:
            low, high = (float(part) for part in text.split(":"))
            chosen = [layer for layer in range(1, layers) if low <= (layer - 1) / layers <= high]
        else:
            chosen = sorted({int(part) for part in text.split(",")})
    except ValueError:
        raise UserError(f"--layers {text!r} is neither like 18,19,20 nor like 0.3:0.6 (relative depth)") from None
    if not chosen:
        raise UserError(f"--layers {text!r} leaves no layer of {layers}: widen the range")
    if wrong := [layer for layer in chosen if not 1 <= layer < layers]:
        last = f"; layer {layers} is collected after the final norm" if layers in wrong else ""
        raise UserError(f"--layers: {wrong[0]} cannot be steered, choose from 1 to {layers - 1}{last}")
    return chosen
