"""Control of a model through the outputs of its blocks: RepE's `WrappedReadingVecModel` (Zou et al., arXiv 2310.01405).

Blocks are numbered as in RepE: from 0 in the model's list of decoder blocks, or from -1 at its end. This differs from
the layer numbers 1..N of `repe.control.steering` and from the indices of `hidden_states`: layer l > 0 of a reader is
the output of block l - 1. Negative numbers agree, except that `hidden_states[-1]` is taken after the final norm.

Control works through hooks and does not replace the blocks. Attributes and weight names stay the same, and any family
whose blocks `repe.models.model.find_blocks` finds can be wrapped.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import numpy as np
import torch
import transformers
from torch import nn

from repe.compat.block_control import (
    BlockControl,
    LayerIds,
    Padding,
    TokenPos,
    WrappedTrunk,
    checked_masks,
    listed,
    settings_of,
)
from repe.control.steering import block_hooks
from repe.errors import UserError
from repe.models.model import find_blocks

DECODER_BLOCK = "decoder_block"
# Parts of a block, if it has them.
BLOCK_NAMES = ("self_attn", "mlp", "input_layernorm", "post_attention_layernorm")

# Attribute of a wrapped part that holds its control, so that all wrappers of a model share it.
_KEY = "_repe_control"


class WrappedReadingVecModel(nn.Module):
    """A model whose blocks' outputs can be read and changed.

    Control also acts on calls of the model itself, and all wrappers of one model share the wrapped blocks and their
    settings.

    Args:
        model: a Transformers model, with or without a head.
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
        """Call the model."""
        return self.model(*args, **kwargs)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Call the model's `generate`."""
        return self.model.generate(*args, **kwargs)

    @torch.no_grad()
    def get_logits(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits (rows, tokens, vocabulary) for token ids (rows, tokens) without padding."""
        logits: torch.Tensor = self.model(tokens.to(self.model.device)).logits
        return logits

    @torch.no_grad()
    def run_prompt(self, prompt: str | list[str], **kwargs: Any) -> Any:
        """The model's output for texts, padded to the longest and truncated to 512 tokens.

        Args:
            prompt: one text or several.
            kwargs: for the model, for example `output_hidden_states=True`.
        """
        inputs = self.tokenizer(prompt, return_tensors="pt", padding=True, max_length=512, truncation=True)
        ids, mask = inputs["input_ids"].to(self.model.device), inputs["attention_mask"].to(self.model.device)
        return self.model(input_ids=ids, attention_mask=mask, **kwargs)

    def wrap_block(self, layer_ids: LayerIds, block_name: str = DECODER_BLOCK) -> None:
        """Make blocks, or a part of them, readable and controllable. Wrapping again changes nothing.

        Args:
            layer_ids: one block or several, from 0, or from -1 at the end.
            block_name: `decoder_block`, or one of `BLOCK_NAMES` that the blocks have.

        Raises:
            ValueError: the block or part does not exist.
        """
        for part in [find_part(self.model, layer_id, block_name) for layer_id in listed(layer_ids)]:
            if not self.is_wrapped(part):
                trunk = _trunk(self.model)
                if _KEY not in vars(trunk):
                    vars(trunk)[_KEY] = WrappedTrunk(trunk)
                vars(part)[_KEY] = BlockControl(part, vars(trunk)[_KEY])

    def wrap_all(self) -> None:
        """Wrap every block and each of its parts in `BLOCK_NAMES`."""
        for layer_id, block in enumerate(decoder_blocks(self.model)):
            for block_name in _part_names(block):
                self.wrap_block(layer_id, block_name)

    def is_wrapped(self, block: nn.Module) -> bool:
        """Whether a block, or part of one, is wrapped."""
        return isinstance(vars(block).get(_KEY), BlockControl)

    def get_activations(self, layer_ids: LayerIds, block_name: str = DECODER_BLOCK) -> Any:
        """The outputs of blocks, or of a part of them, in the latest pass, before they were changed.

        Args:
            layer_ids: one wrapped block or several.
            block_name: as in `wrap_block`.

        Returns:
            (rows, tokens, hidden) for one block, a dict of these by the given numbers for several; None if there was no
            pass since `wrap_block` or `reset`. With a KV cache the latest pass of `generate` has one token.

        Raises:
            ValueError: a block is not wrapped.
        """
        found = {layer_id: self._control(layer_id, block_name).output for layer_id in listed(layer_ids)}
        return found[layer_ids] if np.ndim(layer_ids) == 0 else found  # type: ignore[index]

    def set_controller(
        self,
        layer_ids: LayerIds,
        activations: torch.Tensor | Mapping[int, torch.Tensor],
        block_name: str = DECODER_BLOCK,
        token_pos: TokenPos = None,
        masks: float | torch.Tensor | None = None,
        normalize: bool = False,
        operator: str = "linear_comb",
    ) -> None:
        """Change the outputs of wrapped blocks in every pass until `reset` or `unwrap`.

        Args:
            layer_ids: one block or several.
            activations: (hidden,) for all rows and tokens, (rows, hidden) with one for each row, or (1 or rows, 1 or
                tokens, hidden); for several blocks a dict of these by block, whose other entries are ignored.
            block_name: as in `wrap_block`.
            token_pos: the tokens to change, as positions in the padded sequence of each pass: None for all, one
                position or several (from 0, or from -1 at the end), `start` or `end` for as many as the activation has.
                With a KV cache, passes of `generate` after the first have one token, at positions 0 and -1.
            masks: factor of the activation: a number, or a tensor that broadcasts to (rows, tokens, 1), where tokens
                are the chosen ones or all of the pass. None means 1 for tokens and 0 for padding (by the attention
                mask).
            normalize: rescale each changed state to its previous norm.
            operator: `linear_comb`, `piecewise_linear` or `projection`, see `repe.control.steering.steered`.

        Raises:
            ValueError: a block is not wrapped or has no activation, or a setting is not valid; at the next pass,
                activations, masks or positions do not fit it.
        """
        settings = settings_of(layer_ids, activations, token_pos, masks, normalize, operator)
        for control, setting in [(self._control(layer, block_name), setting) for layer, setting in settings.items()]:
            control.setting = setting

    def set_masks(self, masks: float | torch.Tensor | None) -> None:
        """Replace the masks of every controller that is set, see `set_controller`.

        Raises:
            ValueError: it is not a number, a tensor or None.
        """
        masks = checked_masks(masks)
        for control in self._controls():
            if control.setting:
                control.setting.masks = masks

    def reset(self) -> None:
        """Remove all controllers and stored activations. Wrapped blocks stay wrapped."""
        for control in self._controls():
            control.setting = control.output = None

    def unwrap(self) -> None:
        """Restore the model to its state before `wrap_block`."""
        for module in self.model.modules():
            hooked: BlockControl | WrappedTrunk | None = vars(module).pop(_KEY, None)
            if hooked:
                hooked.handle.remove()

    def _control(self, layer_id: int, block_name: str) -> BlockControl:
        control = vars(find_part(self.model, layer_id, block_name)).get(_KEY)
        if control is None:
            raise ValueError(f"{block_name} of block {layer_id} is not wrapped: call wrap_block first")
        return control  # type: ignore[no-any-return]

    def _controls(self) -> list[BlockControl]:
        kept = (vars(module).get(_KEY) for module in self.model.modules())
        return [control for control in kept if isinstance(control, BlockControl)]


def controlled(
    model: nn.Module,
    layer_ids: LayerIds,
    activations: torch.Tensor | Mapping[int, torch.Tensor],
    block_name: str = DECODER_BLOCK,
    token_pos: TokenPos = None,
    masks: float | torch.Tensor | None = None,
    normalize: bool = False,
    operator: str = "linear_comb",
) -> AbstractContextManager[None]:
    """Control all passes of a model while the context is open, wrapped or not. The hooks are always removed.

    Args:
        model: a Transformers model.
        layer_ids: this and the other arguments are those of `WrappedReadingVecModel.set_controller`.

    Raises:
        ValueError: as there.
    """
    padding = Padding()
    settings = settings_of(layer_ids, activations, token_pos, masks, normalize, operator)
    # By part, so that a block that is named twice is controlled once.
    changes = {
        find_part(model, layer_id, block_name): partial(setting.controlled, padding)
        for layer_id, setting in settings.items()
    }
    return block_hooks(_trunk(model), changes, padding.start_pass)


def decoder_blocks(model: Any) -> nn.ModuleList:
    """The model's list of decoder blocks.

    Raises:
        ValueError: it has none, or both an encoder and a decoder.
    """
    if not hasattr(model, "config"):
        raise ValueError(f"{type(model).__name__} is not a Transformers model")
    try:
        return find_blocks(model)
    except UserError as error:
        raise ValueError(str(error)) from error


def find_part(model: Any, layer_id: int, block_name: str) -> nn.Module:
    """A block, or a part of it.

    Raises:
        ValueError: the block or part does not exist.
    """
    blocks = decoder_blocks(model)
    if not isinstance(layer_id, (int, np.integer)) or not -len(blocks) <= layer_id < len(blocks):
        raise ValueError(f"block {layer_id!r} does not exist: choose from {-len(blocks)} to {len(blocks) - 1}")
    block = blocks[int(layer_id)]
    if block_name not in _part_names(block):
        raise ValueError(
            f"block_name {block_name!r} is not a part of {type(block).__name__}: choose from {_part_names(block)}"
        )
    return block if block_name == DECODER_BLOCK else block.get_submodule(block_name)


def _part_names(block: nn.Module) -> tuple[str, ...]:
    return (DECODER_BLOCK, *(name for name in BLOCK_NAMES if hasattr(block, name)))


def _trunk(model: nn.Module) -> nn.Module:
    """The innermost Transformers model around the blocks: every pass calls it with the attention mask."""
    blocks = decoder_blocks(model)
    around = [module for module in model.modules() if any(inner is blocks for inner in module.modules())]
    # `modules` yields the outermost first.
    return next((module for module in reversed(around) if isinstance(module, transformers.PreTrainedModel)), model)
