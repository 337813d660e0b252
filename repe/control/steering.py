"""Steering: change a model's hidden states while it runs (Section 5; the paper's settings are not published).

Layers are numbered as in the result files. The vector of layer l (1..N-1) is added to the output of block l, which is
`model.blocks[l - 1]`. Layer N cannot be steered: its states were collected after the final norm, not from a block.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from repe.constants import LAYERS, OPERATORS, SCOPES
from repe.errors import UserError
from repe.models.model import Model
from repe.vectors.concept_vectors import ConceptVectors
from repe.vectors.hidden_states import states_of


def steer(
    model: Model,
    vectors: ConceptVectors,
    layers: str | Sequence[int] = LAYERS,
    strength: float = 1.0,
    *,
    unit: str = "class",
    operator: str = "linear_comb",
    scope: str = "all",
) -> AbstractContextManager[None]:
    """Steer all forward passes of `model` with concept vectors while the context is open.

    Args:
        model: with or without its vocabulary head.
        vectors: of this model.
        layers: layer numbers, or text for `parse_layers`.
        strength: a positive strength steers towards the concept's positive side.
        unit: see `step_lengths`.
        operator: see `steered`.
        scope: see `steered`.

    Raises:
        UserError: the vectors belong to another model or have no mean norms, or a layer cannot be steered.
    """
    vectors.check_fit("this concept", model.layers, model.hidden_size)
    chosen = parse_layers(layers, model.layers)
    rows = [layer - 1 for layer in chosen]
    lengths = strength * step_lengths(vectors, unit, operator)
    steps = (lengths[:, None] * torch.from_numpy(vectors.unit_vectors))[rows]
    return steered(model.trunk, model.blocks, dict(zip(chosen, steps, strict=True)), operator, scope)


def step_lengths(vectors: ConceptVectors, unit: str, operator: str) -> torch.Tensor:
    """The length of the activation for a strength of 1 in each layer, float32 (layers,).

    Args:
        vectors: those to steer with.
        unit: `class` for the distance between the means of the two classes along the direction, which is the length of
            a `cluster_mean` direction; `hidden` for the mean norm of the layer's states on the training texts; `raw`
            for 1.
        operator: with `projection` the length is always 1, since its strength is a fraction.

    Raises:
        UserError: the vectors do not tell the class distance or the mean norm.
    """
    if unit == "raw" or operator == "projection":
        return torch.ones(len(vectors.directions))
    if unit == "class":
        if vectors.method == "cluster_mean":  # downloads included
            return torch.from_numpy(np.linalg.norm(vectors.directions[:, 0], axis=-1))
        if vectors.class_distance is None:
            raise UserError(
                f"the {vectors.method} vectors have no class distances: collect them again, or use --strength-unit "
                "hidden or raw"
            )
        # Along a direction that does not separate the training pairs the distance can be negative.
        return torch.from_numpy(np.abs(vectors.class_distance))
    if vectors.mean_norm is None:
        raise UserError("the vectors have no mean norms: collect them again, or use --strength-unit class or raw")
    return torch.from_numpy(vectors.mean_norm)


@contextmanager
def steered(
    model: nn.Module,
    blocks: nn.ModuleList,
    activations: Mapping[int, torch.Tensor],
    operator: str = "linear_comb",
    scope: str = "all",
    prompt_tokens: int | None = None,
) -> Iterator[None]:
    """Change the hidden states of some layers in every forward pass of `model`. The hooks are always removed.

    Padding tokens are never changed. This works with a KV cache, beam search and a different activation in each row.

    Args:
        model: the model that is called: a causal model or its trunk.
        blocks: its decoder blocks.
        activations: by layer number, an activation a of shape (hidden,), or (1 or rows, hidden).
        operator: `linear_comb` gives h + a, `piecewise_linear` gives h + a * sign(h . a), and `projection` subtracts
            the fraction |a| of the component of h along a (all of it if a is a unit vector).
        scope: the tokens to change: `all`, those of the `prompt`, the `generated` ones, or the prompt's `last` token.
        prompt_tokens: length of the padded prompts. None uses the length of each pass without a cache, which is wrong
            for `generate` with `use_cache=False`.

    Raises:
        ValueError: the operator, the scope or a layer number is not valid.
    """
    if operator not in OPERATORS or scope not in SCOPES:
        raise ValueError(f"operator {operator!r} must be one of {OPERATORS}, scope {scope!r} one of {SCOPES}")
    if unknown := [layer for layer in activations if not 1 <= layer <= len(blocks)]:
        raise ValueError(f"layer {unknown[0]} does not exist: choose from 1 to {len(blocks)}")
    tokens = _SteeredTokens(scope, prompt_tokens)
    with ExitStack() as hooks:
        hooks.callback(model.register_forward_pre_hook(tokens.start_pass, with_kwargs=True).remove)
        for layer, activation in activations.items():
            hook = partial(_steer, Activation(activation), operator, tokens)
            # Before the hooks with which Transformers collects `hidden_states`, so that these are the changed states.
            hooks.callback(blocks[layer - 1].register_forward_hook(hook, prepend=True).remove)
        yield


def _steer(
    activation: "Activation", operator: str, tokens: "_SteeredTokens", _block: nn.Module, _inputs: Any, output: Any
) -> Any:
    """The hook of a block: its output with the chosen tokens steered."""
    if not tokens.any:
        return output
    states = states_of(output)
    added = change(states, activation.fitted(states), operator)
    return with_states(output, states + (added if tokens.mask is None else added * tokens.mask[..., None].to(states)))


class _SteeredTokens:
    """The tokens of the current forward pass to change. The hooks of all layers share it."""

    def __init__(self, scope: str, prompt_tokens: int | None) -> None:
        self.scope = scope
        self.fixed_length = prompt_tokens
        self.prompt_tokens = prompt_tokens or 0
        self.any = True
        self.mask: torch.Tensor | None = None  # bool (1 or rows, tokens), or None for all tokens

    def start_pass(self, _model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The hook of the model, called before each forward pass."""
        start, end, attention_mask = reading(args, kwargs)
        if self.fixed_length is None and start == 0:
            self.prompt_tokens = end
        real = torch.ones(1, end - start, dtype=torch.bool)
        # Generated tokens are never padding. Not reading their mask also avoids waiting for the GPU.
        if attention_mask is not None and start < self.prompt_tokens:
            real = attention_mask.bool()
        position = torch.arange(start, end, device=real.device)[None]
        in_prompt = real & (position < self.prompt_tokens)
        # With padding on the right, prompts end at different positions.
        last = torch.where(in_prompt, position, -1).max(dim=1, keepdim=True).values
        chosen = {
            "all": real,
            "prompt": in_prompt,
            "generated": real & (position >= self.prompt_tokens),
            "last": in_prompt & (position == last) & (end >= self.prompt_tokens),
        }[self.scope]
        self.any = bool(chosen.any())
        self.mask = None if chosen.all() else chosen


def reading(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[int, int, torch.Tensor | None]:
    """The part of the sequence that a forward pass with these arguments reads.

    Returns:
        The position of the first token of this pass in the whole sequence, the position after its last token, and the
        attention mask of its tokens (rows, tokens), or None if there is no two-dimensional mask.
    """
    ids = kwargs["input_ids"] if kwargs.get("input_ids") is not None else kwargs.get("inputs_embeds")
    width = (args[0] if ids is None else ids).shape[1]
    # Static caches use masks with more dimensions; their masks also keep tokens from attending to padding.
    mask = kwargs.get("attention_mask")
    mask = mask if isinstance(mask, torch.Tensor) and mask.dim() == 2 else None
    past: Any = kwargs.get("past_key_values")
    if hasattr(past, "get_seq_length"):
        start = int(past.get_seq_length())
    else:
        # With a cache, the mask covers the whole sequence and the ids only the new tokens.
        start = 0 if mask is None else mask.shape[1] - width
    return start, start + width, None if mask is None else mask[:, start : start + width]


def with_states(output: Any, states: torch.Tensor) -> Any:
    """A block's output with its states replaced."""
    return (states, *output[1:]) if isinstance(output, tuple) else states


def change(states: torch.Tensor, activation: torch.Tensor, operator: str) -> torch.Tensor:
    """The tensor that an operator of `steered` adds to the states.

    Args:
        states: (rows, tokens, hidden).
        activation: (1 or rows, 1 or tokens, hidden), on the same device and with the same dtype.
        operator: one of `repe.constants.OPERATORS`.

    Returns:
        A tensor that broadcasts to the states, in their dtype. It is zero where the activation is zero.
    """
    if operator == "linear_comb":
        return activation
    # In float32, because products of half-precision states overflow.
    wide, along = states.float(), activation.float()
    length = along.norm(dim=-1, keepdim=True)
    unit = along / length.clamp_min(torch.finfo(torch.float32).tiny)
    component = (wide * unit).sum(dim=-1, keepdim=True)
    added: torch.Tensor = along * component.sign() if operator == "piecewise_linear" else -component * along
    return added.to(states.dtype)


class Activation:
    """An activation to steer with, moved to the device and dtype of the states when it is used.

    Args:
        activation: (hidden,), (rows, hidden) with one for each row of a batch, or (1 or rows, 1 or tokens, hidden).
    """

    def __init__(self, activation: torch.Tensor) -> None:
        self.activation = activation if activation.dim() == 3 else torch.atleast_2d(activation)[:, None]
        self.cached: dict[tuple[torch.device, torch.dtype, int], torch.Tensor] = {}

    def fitted(self, states: torch.Tensor) -> torch.Tensor:
        """The activation for `states` (rows, tokens, hidden), of shape (1 or rows, 1 or tokens, hidden).

        Raises:
            ValueError: the width differs, or the rows of the states are not a multiple of the activation's rows.
        """
        rows, _, hidden = states.shape
        key = states.device, states.dtype, rows
        if key not in self.cached:
            own = self.activation.to(states)
            if own.shape[-1] != hidden:
                raise ValueError(f"activation has width {own.shape[-1]} for states of width {hidden}: must be equal")
            if rows % len(own):
                raise ValueError(
                    f"activation has {len(own)} rows for a batch of {rows}: give one row, or one per prompt"
                )
            # Beam search repeats each row of the batch.
            self.cached[key] = own if len(own) == 1 else own.repeat_interleave(rows // len(own), dim=0)
        return self.cached[key]


def parse_layers(text: str | Sequence[int], layers: int) -> list[int]:
    """Numbers of the layers to steer, in increasing order.

    Args:
        text: layer numbers such as `18,19,20`, or relative depths such as `0.3:0.6`, both ends included. The relative
            depth of a layer is (layer - 1) / layers, as in the tables. A sequence of numbers is also accepted.
        layers: number of layers N of the model. The last layer cannot be steered.

    Raises:
        UserError: the text has another form, a number is out of range, or no layer lies in the range.
    """
    try:
        if not isinstance(text, str):
            chosen = sorted({*text})
        elif ":" in text:
            low, high = (float(part) for part in text.split(":"))
            chosen = [layer for layer in range(1, layers) if low <= (layer - 1) / layers <= high]
        else:
            chosen = sorted({int(part) for part in text.split(",")})
    except ValueError:
        raise UserError(
            f"--layers {text!r} is not valid: give layer numbers, e.g. 18,19,20, or relative depths, e.g. {LAYERS}"
        ) from None
    if not chosen:
        raise UserError(f"--layers {text!r} contains none of the {layers} layers: give a wider range")
    if wrong := [layer for layer in chosen if not 1 <= layer < layers]:
        note = f" (layer {layers} is collected after the final norm)" if layers in wrong else ""
        raise UserError(f"--layers: layer {wrong[0]} cannot be steered{note}: choose from 1 to {layers - 1}")
    return chosen
