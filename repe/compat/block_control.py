"""Changes to the output of one block, or of a part of it, in RepE's way (`repe.compat.rep_control_reading_vec`)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from repe.constants import OPERATORS
from repe.control.steering import Activation, change, reading, with_states
from repe.vectors.hidden_states import states_of

LayerIds = int | Sequence[int] | np.ndarray
TokenPos = int | Sequence[int] | np.ndarray | str | None


def listed(layer_ids: LayerIds) -> list[int]:
    """One block number or several, as a list."""
    return [layer_ids] if np.ndim(layer_ids) == 0 else list(layer_ids)  # type: ignore[list-item,arg-type]


class Padding:
    """The attention mask (rows, tokens) of the current pass; None if all tokens are real."""

    mask: torch.Tensor | None = None

    def start_pass(self, _start: int, _end: int, mask: torch.Tensor | None) -> None:
        """Take the result of `repe.control.steering.reading`."""
        self.mask = mask


class Setting:
    """How one block is controlled: the checked arguments of `WrappedReadingVecModel.set_controller`."""

    def __init__(
        self, activation: torch.Tensor, token_pos: TokenPos, masks: Any, normalize: bool, operator: str
    ) -> None:
        if operator not in OPERATORS:
            raise ValueError(f"operator {operator!r} is not among {OPERATORS}")
        activation = torch.as_tensor(activation)
        if not 1 <= activation.dim() <= 3:
            raise ValueError(
                f"activations of shape {tuple(activation.shape)}: give (hidden,), (rows, hidden) "
                "or (rows, tokens, hidden)"
            )
        self.activation = Activation(activation)
        self.length = activation.shape[1] if activation.dim() == 3 else 1
        self.token_pos = _checked_token_pos(token_pos)
        self.masks = checked_masks(masks)
        self.normalize = normalize
        self.operator = operator

    def controlled(self, padding: Padding, states: torch.Tensor) -> torch.Tensor:
        """The changed states (rows, tokens, hidden).

        Args:
            padding: attention mask of this pass.
            states: (rows, tokens, hidden), the block's output.

        Raises:
            ValueError: activations, masks or positions do not fit the pass.
        """
        positions = self._positions(states.shape[1])
        chosen = states[:, positions]
        activation = self.activation.fitted(states)
        if activation.shape[1] not in (1, chosen.shape[1]):
            raise ValueError(f"activations of {activation.shape[1]} tokens for {chosen.shape[1]} tokens of a pass")
        mask = self._mask(states, positions, padding.mask)
        changed = chosen + change(chosen, activation * mask.to(states), self.operator)
        if self.normalize:
            before, after = (each.float().norm(dim=-1, keepdim=True) for each in (chosen, changed))
            ratio = before / after.clamp_min(torch.finfo(torch.float32).tiny)
            changed = (changed.float() * ratio).to(states.dtype)
        if self.token_pos is None:
            return changed
        states = states.clone()
        states[:, positions] = changed
        return states

    def _positions(self, tokens: int) -> list[int] | slice:
        """The chosen tokens in a pass of `tokens`."""
        if self.token_pos is None:
            return slice(None)
        if isinstance(self.token_pos, str):
            if self.length > tokens:
                raise ValueError(
                    f"activations of {self.length} tokens for {tokens} tokens of a pass: generate with use_cache=False"
                )
            first = 0 if self.token_pos == "start" else tokens - self.length
            return slice(first, first + self.length)
        if outside := [place for place in self.token_pos if not -tokens <= place < tokens]:
            raise ValueError(
                f"token_pos {outside[0]} is out of range in a pass of {tokens} tokens (one, under the KV cache): "
                "use -1, 'end', 'start' or use_cache=False"
            )
        return self.token_pos

    def _mask(
        self, states: torch.Tensor, positions: list[int] | slice, attention_mask: torch.Tensor | None
    ) -> torch.Tensor:
        """The factor of the activation, of a shape that broadcasts to (rows, chosen tokens, 1)."""
        rows, tokens, _ = states.shape
        if self.masks is None:
            real = torch.ones(1, tokens) if attention_mask is None else attention_mask
            return real[:, positions, None].bool()
        masks = torch.as_tensor(self.masks)
        if _broadcasts(masks, (rows, states[:, positions].shape[1], 1)):
            return masks
        if not _broadcasts(masks, (rows, tokens, 1)):
            raise ValueError(
                f"masks of shape {tuple(masks.shape)} do not broadcast to {(rows, tokens, 1)}, the rows and tokens of "
                "the pass"
            )
        return masks[..., positions, :]


class WrappedTrunk(Padding):
    """The hook of a wrapped model's trunk.

    Here and in `BlockControl` the hook is a bound method, so that a deep copy of a model has hooks of its own.
    """

    def __init__(self, trunk: nn.Module) -> None:
        self.handle = trunk.register_forward_pre_hook(self._hook, with_kwargs=True)

    def _hook(self, _trunk: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.start_pass(*reading(args, kwargs))


class BlockControl:
    """The hook of a wrapped block, or part of one."""

    def __init__(self, part: nn.Module, padding: Padding) -> None:
        self.padding = padding
        self.setting: Setting | None = None
        self.output: torch.Tensor | None = None
        # Before the hooks with which Transformers collects `hidden_states`, so that these contain the changed states.
        self.handle = part.register_forward_hook(self._hook, prepend=True)

    def _hook(self, _part: nn.Module, _inputs: Any, output: Any) -> Any:
        self.output = states_of(output)
        if self.setting is None:
            return output
        return with_states(output, self.setting.controlled(self.padding, self.output))


def settings_of(layer_ids: LayerIds, activations: Any, *settings: Any) -> dict[int, Setting]:
    """The setting of each block, from the arguments of `WrappedReadingVecModel.set_controller`.

    Raises:
        ValueError: a block has no activation, or a setting is not valid.
    """
    if np.ndim(layer_ids) == 0:
        if isinstance(activations, Mapping):
            raise ValueError(f"activations of one block must be a tensor, not a dict; for a dict give [{layer_ids}]")
        activations = {layer_ids: activations}
    if not isinstance(activations, Mapping):
        raise ValueError(f"activations of several blocks must be a dict by block, not {type(activations).__name__}")
    if missing := [layer_id for layer_id in listed(layer_ids) if layer_id not in activations]:
        raise ValueError(f"activations have no entry for block {missing[0]}, only for {list(activations)}")
    return {layer_id: Setting(activations[layer_id], *settings) for layer_id in listed(layer_ids)}


def _checked_token_pos(token_pos: TokenPos) -> str | list[int] | None:
    if token_pos is None or (isinstance(token_pos, str) and token_pos in ("start", "end")):
        return token_pos
    places = [token_pos] if np.ndim(token_pos) == 0 else list(token_pos)  # type: ignore[arg-type]
    if any(isinstance(place, bool) or not isinstance(place, (int, np.integer)) for place in places):
        raise ValueError(f"token_pos {token_pos!r} must be None, a position, a list of positions, 'start' or 'end'")
    return [int(place) for place in places]  # type: ignore[arg-type]


def checked_masks(masks: Any) -> Any:
    """`masks`, unchanged.

    Raises:
        ValueError: it is not a number, a tensor or None.
    """
    if masks is not None and not isinstance(masks, (int, float, np.number, np.ndarray, torch.Tensor)):
        raise ValueError(f"masks {masks!r} must be None, a number or a tensor")
    return masks


def _broadcasts(masks: torch.Tensor, shape: tuple[int, int, int]) -> bool:
    try:
        return tuple(torch.broadcast_shapes(masks.shape, shape)) == shape
    except RuntimeError:
        return False
