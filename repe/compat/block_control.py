"""How the output of one block, or of a part of it, is changed in RepE's way (`repe.compat.rep_control_reading_vec`)."""

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
    """One layer or several as a list."""
    return [layer_ids] if np.ndim(layer_ids) == 0 else list(layer_ids)  # type: ignore[list-item,arg-type]


class Padding:
    """The attention mask of the tokens of the pass under way, (rows, tokens); None where all are real."""

    def __init__(self, trunk: nn.Module) -> None:
        self.mask: torch.Tensor | None = None
        self.handle = trunk.register_forward_pre_hook(self._hook, with_kwargs=True)

    def _hook(self, _trunk: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        *_, self.mask = reading(args, kwargs)


class Setting:
    """How one block is controlled: the arguments of `WrappedReadingVecModel.set_controller`, checked."""

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

    def controlled(self, states: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """The states (rows, tokens, hidden) as they go on.

        Args:
            states: (rows, tokens, hidden) that the block gives.
            attention_mask: (rows, tokens) of this pass, or None where all tokens are real.

        Raises:
            ValueError: activations, masks or places do not fit the pass.
        """
        places = self._places(states.shape[1])
        chosen = states if places is None else states[:, places]
        activation = self.activation.fitted(states)
        if activation.shape[1] not in (1, chosen.shape[1]):
            raise ValueError(f"activations of {activation.shape[1]} tokens for {chosen.shape[1]} tokens of a pass")
        mask = self._mask(states, places, attention_mask)
        if mask is not None:
            activation = activation * mask.to(device=states.device, dtype=states.dtype)
        changed = chosen + change(chosen, activation, self.operator)
        if self.normalize:
            before, after = (each.float().norm(dim=-1, keepdim=True) for each in (chosen, changed))
            ratio = before / after.clamp_min(torch.finfo(torch.float32).tiny)
            changed = (changed.float() * ratio).to(states.dtype)
        if places is None:
            return changed
        states = states.clone()
        states[:, places] = changed
        return states

    def _places(self, tokens: int) -> list[int] | None:
        """Positions of the chosen tokens in a pass of so many; None for all."""
        if self.token_pos is None:
            return None
        if isinstance(self.token_pos, str):
            if self.length > tokens:
                raise ValueError(
                    f"activations of {self.length} tokens for {tokens} tokens of a pass: generate with use_cache=False"
                )
            first = 0 if self.token_pos == "start" else tokens - self.length
            return list(range(first, first + self.length))
        if outside := [place for place in self.token_pos if not -tokens <= place < tokens]:
            raise ValueError(
                f"token_pos {outside[0]} is out of range in a pass of {tokens} tokens (one, under the KV cache): "
                "take -1, 'end', 'start' or use_cache=False"
            )
        return self.token_pos

    def _mask(
        self, states: torch.Tensor, places: list[int] | None, attention_mask: torch.Tensor | None
    ) -> torch.Tensor | None:
        """What the activation is multiplied with, of a shape that broadcasts to (rows, chosen tokens, 1)."""
        rows, tokens, _ = states.shape
        if self.masks is not None:
            masks = torch.as_tensor(self.masks)
            if _broadcasts(masks, (rows, tokens if places is None else len(places), 1)):
                return masks
            if not _broadcasts(masks, (rows, tokens, 1)):
                raise ValueError(
                    f"masks of shape {tuple(masks.shape)} do not broadcast to {(rows, tokens, 1)}: a row, and a token "
                    "of the pass, each"
                )
            return masks[..., places, :]
        if attention_mask is None:
            return None
        real = attention_mask[..., None].bool()
        return real if places is None else real[:, places]


class BlockControl:
    """The hook of one block, or part of one."""

    def __init__(self, part: nn.Module, padding: Padding, keep: bool, setting: Setting | None = None) -> None:
        self.padding = padding
        self.keep = keep
        self.setting = setting
        self.output: torch.Tensor | None = None
        # Before the hooks that Transformers reads `hidden_states` with, so that those show what was changed.
        self.handle = part.register_forward_hook(self._hook, prepend=True)

    def _hook(self, _part: nn.Module, _inputs: Any, output: Any) -> Any:
        states = states_of(output)
        if self.keep:
            self.output = states
        if self.setting is None:
            return output
        return with_states(output, self.setting.controlled(states, self.padding.mask))


def settings_of(layer_ids: LayerIds, activations: Any, *settings: Any) -> dict[int, Setting]:
    """The setting of each block, from what `WrappedReadingVecModel.set_controller` takes.

    Raises:
        ValueError: a block without an activation, or a setting that there is not.
    """
    if np.ndim(layer_ids) == 0:
        if isinstance(activations, Mapping):
            raise ValueError(f"activations for one block are a tensor, not a dict; with a dict give [{layer_ids}]")
        activations = {layer_ids: activations}
    if not isinstance(activations, Mapping):
        raise ValueError(f"activations for several blocks are a dict by block, not {type(activations).__name__}")
    if missing := [layer_id for layer_id in listed(layer_ids) if layer_id not in activations]:
        raise ValueError(f"activations have no entry for block {missing[0]}, only for {list(activations)}")
    return {layer_id: Setting(activations[layer_id], *settings) for layer_id in listed(layer_ids)}


def _checked_token_pos(token_pos: TokenPos) -> str | list[int] | None:
    if token_pos is None or (isinstance(token_pos, str) and token_pos in ("start", "end")):
        return token_pos
    places = [token_pos] if np.ndim(token_pos) == 0 else list(token_pos)  # type: ignore[arg-type]
    if any(isinstance(place, bool) or not isinstance(place, (int, np.integer)) for place in places):
        raise ValueError(f"token_pos {token_pos!r} is neither None, a position, a list of positions, 'start' nor 'end'")
    return [int(place) for place in places]  # type: ignore[arg-type]


def checked_masks(masks: Any) -> Any:
    """`masks` as given.

    Raises:
        ValueError: neither a number, a tensor nor None.
    """
    if masks is not None and not isinstance(masks, (int, float, np.number, np.ndarray, torch.Tensor)):
        raise ValueError(f"masks {masks!r} are neither None, a number nor a tensor")
    return masks


def _broadcasts(masks: torch.Tensor, shape: tuple[int, int, int]) -> bool:
    try:
        return tuple(torch.broadcast_shapes(masks.shape, shape)) == shape
    except RuntimeError:
        return False
