"""Control of a model by adding to what its blocks give: RepE's `WrappedReadingVecModel` (Zou et al., arXiv 2310.01405).

Blocks are counted as in RepE, from 0 in the model's list of decoder blocks, or from -1 at its end. That is neither
this project's numbering of layers, 1..N (`repe.steering`), nor that of `hidden_states`: a reader's layer l > 0 is what
block l - 1 gives. Negative numbers name the same in both, except that `hidden_states[-1]` comes after the final norm.

Blocks stay what they are: control works through hooks, so that models find their attributes on their blocks, names of
weights do not change, and any family whose blocks `repe.models` finds can be wrapped.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import transformers
from torch import nn

from repe.cli import OPERATORS
from repe.errors import UserError
from repe.hidden_states import states_of
from repe.models import find_blocks
from repe.steering import Activation, change, reading, with_states

DECODER_BLOCK = "decoder_block"
# Parts of a block, where it has them under these names.
BLOCK_NAMES = ("self_attn", "mlp", "input_layernorm", "post_attention_layernorm")

# Under this name a wrapped part keeps what controls it, so that every wrapper of the same model finds it.
_KEY = "_repe_control"

LayerIds = int | Sequence[int] | np.ndarray


class WrappedReadingVecModel(nn.Module):
    """A model whose blocks' outputs can be read and changed.

    What is wrapped is the model itself: passes through it count as well as those through this object, and two wrappers
    of one model share what is wrapped and set.

    Args:
        model: of Transformers, with a head or without.
        tokenizer: for `run_prompt`.

    Raises:
        ValueError: the model has no list of decoder blocks.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        super().__init__()
        decoder_blocks(model)
        self.model = model
        self.tokenizer = tokenizer

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The model's own pass."""
        return self.model(*args, **kwargs)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """The model's own generation."""
        return self.model.generate(*args, **kwargs)

    @torch.no_grad()
    def get_logits(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits (rows, tokens, vocabulary) for token ids (rows, tokens) without padding."""
        logits: torch.Tensor = self.model(tokens.to(self.model.device)).logits
        return logits

    @torch.no_grad()
    def run_prompt(self, prompt: str | list[str], **kwargs: Any) -> Any:
        """The model's output for texts, padded to the longest and cut at 512 tokens.

        Args:
            prompt: one text or several.
            kwargs: for the model, `output_hidden_states=True` for example.
        """
        inputs = self.tokenizer(prompt, return_tensors="pt", padding=True, max_length=512, truncation=True)
        ids, mask = inputs["input_ids"].to(self.model.device), inputs["attention_mask"].to(self.model.device)
        return self.model(input_ids=ids, attention_mask=mask, **kwargs)

    def wrap_block(self, layer_ids: LayerIds, block_name: str = DECODER_BLOCK) -> None:
        """Make blocks, or a part of them, readable and controllable; what is wrapped already stays as it is.

        Args:
            layer_ids: one block or several, from 0, or from -1 at the end.
            block_name: `decoder_block`, or one of `BLOCK_NAMES` that the blocks have.

        Raises:
            ValueError: there is no such block or part.
        """
        for part in [find_part(self.model, layer_id, block_name) for layer_id in listed(layer_ids)]:
            if not self.is_wrapped(part):
                vars(part)[_KEY] = _Control(part, self._padding(), keep=True)

    def wrap_all(self) -> None:
        """Wrap every block and each of its parts that `BLOCK_NAMES` names."""
        for layer_id, block in enumerate(decoder_blocks(self.model)):
            for block_name in (DECODER_BLOCK, *(name for name in BLOCK_NAMES if hasattr(block, name))):
                self.wrap_block(layer_id, block_name)

    def is_wrapped(self, block: nn.Module) -> bool:
        """Whether a block, or part of one, is wrapped."""
        return isinstance(vars(block).get(_KEY), _Control)

    def get_activations(self, layer_ids: LayerIds, block_name: str = DECODER_BLOCK) -> Any:
        """What blocks, or a part of them, gave in the latest pass, before it was changed.

        Args:
            layer_ids: one wrapped block or several.
            block_name: as in `wrap_block`.

        Returns:
            (rows, tokens, hidden) for one block, for several a dict of such by block as written; None where no pass has
            been made since `wrap_block` or `reset`. Under the KV cache the latest pass of `generate` read one token.

        Raises:
            ValueError: not wrapped.
        """
        found = {layer_id: self._control(layer_id, block_name).output for layer_id in listed(layer_ids)}
        return found[layer_ids] if np.ndim(layer_ids) == 0 else found  # type: ignore[index]

    def set_controller(
        self,
        layer_ids: LayerIds,
        activations: torch.Tensor | Mapping[int, torch.Tensor],
        block_name: str = DECODER_BLOCK,
        token_pos: "TokenPos" = None,
        masks: "float | torch.Tensor | None" = None,
        normalize: bool = False,
        operator: str = "linear_comb",
    ) -> None:
        """Change what wrapped blocks give in every pass from now on, until `reset` or `unwrap`.

        Args:
            layer_ids: one block, or several.
            activations: (hidden,) for all rows and tokens, (rows, hidden) for each row its own, or (1 or rows, 1 or
                tokens, hidden); for several blocks a dict of such by block, whose other entries do not count.
            block_name: as in `wrap_block`.
            token_pos: which tokens of each pass, on the padded sequence: None for all, one position or several (from 0,
                or from -1 at the end), `start` or `end` for as many as the activation has. Under the KV cache, passes
                of `generate` after the first read one token, with positions 0 and -1.
            masks: what the activation is multiplied with: a number, or a tensor that broadcasts to (rows, tokens, 1),
                of the chosen tokens or of all in the pass. None for 1 at tokens and 0 at padding, which is told from
                the attention mask.
            normalize: give each changed state its former length.
            operator: `linear_comb`, `piecewise_linear` or `projection`, see `repe.steering.steered`.

        Raises:
            ValueError: a block that is not wrapped or has no activation, or a setting that there is not; at the next
                pass, activations, masks or positions that do not fit it.
        """
        settings = _settings(layer_ids, activations, token_pos, masks, normalize, operator)
        for control, setting in [(self._control(layer, block_name), setting) for layer, setting in settings.items()]:
            control.setting = setting

    def set_masks(self, masks: "float | torch.Tensor | None") -> None:
        """Put other masks into every controller that is set, see `set_controller`.

        Raises:
            ValueError: neither a number, a tensor nor None.
        """
        masks = _checked_masks(masks)
        for control in self._controls():
            if control.setting:
                control.setting.masks = masks

    def reset(self) -> None:
        """Take all controllers off and forget activations; what is wrapped stays wrapped."""
        for control in self._controls():
            control.setting = control.output = None

    def unwrap(self) -> None:
        """Leave the model as it was before anything was wrapped."""
        for module in self.model.modules():
            hooked: _Control | _Padding | None = vars(module).pop(_KEY, None)
            if hooked:
                hooked.handle.remove()

    def _control(self, layer_id: int, block_name: str) -> "_Control":
        control = vars(find_part(self.model, layer_id, block_name)).get(_KEY)
        if control is None:
            raise ValueError(f"{block_name} of block {layer_id} is not wrapped: call wrap_block first")
        return control  # type: ignore[no-any-return]

    def _controls(self) -> "list[_Control]":
        kept = (vars(module).get(_KEY) for module in self.model.modules())
        return [control for control in kept if isinstance(control, _Control)]

    def _padding(self) -> "_Padding":
        trunk = _trunk(self.model)
        if _KEY not in vars(trunk):
            vars(trunk)[_KEY] = _Padding(trunk)
        return vars(trunk)[_KEY]  # type: ignore[no-any-return]


TokenPos = int | Sequence[int] | np.ndarray | str | None


@contextmanager
def controlled(
    model: nn.Module,
    layer_ids: LayerIds,
    activations: torch.Tensor | Mapping[int, torch.Tensor],
    block_name: str = DECODER_BLOCK,
    token_pos: TokenPos = None,
    masks: float | torch.Tensor | None = None,
    normalize: bool = False,
    operator: str = "linear_comb",
) -> Iterator[None]:
    """Control a model's passes for a while, whatever is wrapped; nothing of it stays, whatever happens.

    Args:
        model: of Transformers.
        layer_ids: and the others, as in `WrappedReadingVecModel.set_controller`.

    Raises:
        ValueError: as there.
    """
    settings = _settings(layer_ids, activations, token_pos, masks, normalize, operator)
    # By part, so that a block that is named twice is controlled once.
    parts = {find_part(model, layer_id, block_name): setting for layer_id, setting in settings.items()}
    padding = _Padding(_trunk(model))
    handles = [padding.handle]
    try:
        for part, setting in parts.items():
            handles.append(_Control(part, padding, keep=False, setting=setting).handle)
        yield
    finally:
        for handle in handles:
            handle.remove()


def decoder_blocks(model: Any) -> nn.ModuleList:
    """The model's list of decoder blocks.

    Raises:
        ValueError: it has none, or an encoder beside a decoder.
    """
    if not hasattr(model, "config"):
        raise ValueError(f"{type(model).__name__} is no model of Transformers")
    try:
        return find_blocks(model)
    except UserError as error:
        raise ValueError(str(error)) from error


def find_part(model: Any, layer_id: int, block_name: str) -> nn.Module:
    """A block, or a part of it.

    Raises:
        ValueError: there is no such block or part.
    """
    blocks = decoder_blocks(model)
    if not isinstance(layer_id, (int, np.integer)) or not -len(blocks) <= layer_id < len(blocks):
        raise ValueError(f"there is no block {layer_id!r}: blocks go from {-len(blocks)} to {len(blocks) - 1}")
    block = blocks[int(layer_id)]
    if block_name == DECODER_BLOCK:
        return block
    if block_name not in BLOCK_NAMES or not hasattr(block, block_name):
        there = (DECODER_BLOCK, *(name for name in BLOCK_NAMES if hasattr(block, name)))
        raise ValueError(f"block_name {block_name!r} is not among {there}, what {type(block).__name__} has")
    return block.get_submodule(block_name)


def _trunk(model: nn.Module) -> nn.Module:
    """The innermost model around the blocks: every pass goes through it, and it is told the attention mask."""
    blocks = decoder_blocks(model)
    around = [module for module in model.modules() if any(inner is blocks for inner in module.modules())]
    # From the outermost in.
    return next((module for module in reversed(around) if isinstance(module, transformers.PreTrainedModel)), model)


def listed(layer_ids: LayerIds) -> list[int]:
    """One layer or several as a list."""
    return [layer_ids] if np.ndim(layer_ids) == 0 else list(layer_ids)  # type: ignore[list-item,arg-type]


class _Padding:
    """The attention mask of the tokens of the pass under way, (rows, tokens); None where all are real."""

    def __init__(self, trunk: nn.Module) -> None:
        self.mask: torch.Tensor | None = None
        self.handle = trunk.register_forward_pre_hook(self._hook, with_kwargs=True)

    def _hook(self, _trunk: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        *_, self.mask = reading(args, kwargs)


class _Setting:
    """How one block is controlled."""

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
        self.masks = _checked_masks(masks)
        self.normalize = normalize
        self.operator = operator

    def controlled(self, states: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """The states (rows, tokens, hidden) as they go on."""
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


class _Control:
    """The hook of one block, or part of one."""

    def __init__(self, part: nn.Module, padding: _Padding, keep: bool, setting: _Setting | None = None) -> None:
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


def _settings(layer_ids: LayerIds, activations: Any, *settings: Any) -> dict[int, _Setting]:
    """The setting of each block."""
    if np.ndim(layer_ids) == 0:
        if isinstance(activations, Mapping):
            raise ValueError(f"activations for one block are a tensor, not a dict; with a dict give [{layer_ids}]")
        activations = {layer_ids: activations}
    if not isinstance(activations, Mapping):
        raise ValueError(f"activations for several blocks are a dict by block, not {type(activations).__name__}")
    if missing := [layer_id for layer_id in listed(layer_ids) if layer_id not in activations]:
        raise ValueError(f"activations have no entry for block {missing[0]}, only for {list(activations)}")
    return {layer_id: _Setting(activations[layer_id], *settings) for layer_id in listed(layer_ids)}


def _checked_token_pos(token_pos: TokenPos) -> str | list[int] | None:
    if token_pos is None or (isinstance(token_pos, str) and token_pos in ("start", "end")):
        return token_pos
    places = [token_pos] if np.ndim(token_pos) == 0 else list(token_pos)  # type: ignore[arg-type]
    if any(isinstance(place, bool) or not isinstance(place, (int, np.integer)) for place in places):
        raise ValueError(f"token_pos {token_pos!r} is neither None, a position, a list of positions, 'start' nor 'end'")
    return [int(place) for place in places]  # type: ignore[arg-type]


def _checked_masks(masks: Any) -> Any:
    if masks is not None and not isinstance(masks, (int, float, np.number, np.ndarray, torch.Tensor)):
        raise ValueError(f"masks {masks!r} are neither None, a number nor a tensor")
    return masks


def _broadcasts(masks: torch.Tensor, shape: tuple[int, int, int]) -> bool:
    try:
        return tuple(torch.broadcast_shapes(masks.shape, shape)) == shape
    except RuntimeError:
        return False
