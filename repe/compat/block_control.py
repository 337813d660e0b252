"""Changes to the output of one block, or of a part of it, in RepE's way (`repe.compat.rep_control_reading_vec`)."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from repe.constants import OPERATORS
from repe.control.steering import Activation, change, reading, with_states
from repe.vectors.hidden_states import states_of

LayerIds = int | Sequence[int] | np.ndarray
TokenPos = int | Sequence[int] | np.ndarray | str | None

Change = Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]
"""Takes states (rows, tokens, hidden) and the pass's attention mask (rows, tokens) or None; returns the new states."""


def listed(layer_ids: LayerIds) -> list[int]:
    """One block number or several, as a list."""
    return [layer_ids] if np.ndim(layer_ids) == 0 else list(layer_ids)  # type: ignore[list-item,arg-type]


class BlockControl:
    """A wrapped block, or part of one: how its output is changed, and the latest output before the change.

    The hooks are bound methods, so that a deep copy of a model has hooks of its own.

    Args:
        trunk: the model that every pass calls with the attention mask.
        part: the block, or a part of it.
        change_states: the change; None leaves the output as it is.
    """

    def __init__(self, trunk: nn.Module, part: nn.Module, change_states: Change | None = None) -> None:
        self.change_states = change_states
        self.mask: torch.Tensor | None = None
        self.output: torch.Tensor | None = None
        self.handles = (
            trunk.register_forward_pre_hook(self._start_pass, with_kwargs=True),
            # Before the hooks with which Transformers collects `hidden_states`, so that these are the changed states.
            part.register_forward_hook(self._end_block, prepend=True),
        )

    def close(self) -> None:
        """Remove the hooks."""
        for handle in self.handles:
            handle.remove()

    def _start_pass(self, _trunk: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        _, _, self.mask = reading(args, kwargs)

    def _end_block(self, _part: nn.Module, _inputs: Any, output: Any) -> Any:
        self.output = states_of(output)
        return with_states(output, self.change_states(self.output, self.mask)) if self.change_states else output


def changes_by_block(
    layer_ids: LayerIds,
    activations: torch.Tensor | Mapping[int, torch.Tensor],
    token_pos: TokenPos,
    masks: float | torch.Tensor | None,
    normalize: bool,
    operator: str,
) -> dict[int, Change]:
    """The change of each block, from the arguments of `WrappedReadingVecModel.set_controller`.

    Raises:
        ValueError: a block has no activation, or the operator or token position is not valid.
    """
    if operator not in OPERATORS:
        raise ValueError(f"operator {operator!r} must be one of {OPERATORS}")
    if isinstance(token_pos, str) and token_pos not in ("start", "end"):
        raise ValueError(f"token_pos {token_pos!r} must be None, a position, a list of positions, 'start' or 'end'")
    by_block: Any = {layer_ids: activations} if np.ndim(layer_ids) == 0 else activations
    if missing := [layer_id for layer_id in listed(layer_ids) if layer_id not in by_block]:
        raise ValueError(f"activations have no entry for block {missing[0]}: give a dict with one for each block")
    factor = None if masks is None else torch.as_tensor(masks)
    return {
        layer_id: partial(
            _changed,
            activation=Activation(torch.as_tensor(by_block[layer_id])),
            token_pos=token_pos,
            masks=factor,
            normalize=normalize,
            operator=operator,
        )
        for layer_id in listed(layer_ids)
    }


def _changed(
    states: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    activation: Activation,
    token_pos: TokenPos,
    masks: torch.Tensor | None,
    normalize: bool,
    operator: str,
) -> torch.Tensor:
    """A `Change`. Activations and masks that do not fit the pass raise a ValueError, or PyTorch's own error."""
    added = activation.fitted(states)
    positions = _positions(token_pos, states.shape[1], added.shape[1])
    chosen = states[:, positions]
    if added.shape[1] not in (1, chosen.shape[1]):
        raise ValueError(
            f"activations of {added.shape[1]} tokens for {chosen.shape[1]} tokens of a pass: give one for all tokens, "
            "or generate with use_cache=False"
        )
    if masks is None:
        masks = torch.ones(1) if attention_mask is None else attention_mask[:, positions, None].bool()
    changed = chosen + change(chosen, added * masks.to(states), operator)
    if normalize:
        before, after = (each.float().norm(dim=-1, keepdim=True) for each in (chosen, changed))
        changed = (changed.float() * before / after.clamp_min(torch.finfo(torch.float32).tiny)).to(states.dtype)
    states = states.clone()
    states[:, positions] = changed
    return states


def _positions(token_pos: TokenPos, tokens: int, length: int) -> slice | np.ndarray:
    """The tokens to change in a pass of `tokens`, for activations of `length` tokens."""
    if token_pos is None or isinstance(token_pos, str):
        return {None: slice(None), "start": slice(length), "end": slice(-length, None)}[token_pos]
    # Looked up here, since a position out of range on a GPU would end the process.
    return np.arange(tokens)[token_pos].reshape(-1)
