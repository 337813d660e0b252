"""Control of a model through the outputs of its blocks: RepE's `WrappedReadingVecModel` (Zou et al., arXiv 2310.01405).

Blocks are numbered as in RepE: from 0 in the model's list of decoder blocks, or from -1 at its end. This differs from
the layer numbers 1..N of `repe.control.steering` and from the indices of `hidden_states`: layer l > 0 of a reader is
the output of block l - 1. Negative numbers agree, except that `hidden_states[-1]` is taken after the final norm.

Control works through hooks and does not replace the blocks. Attributes and weight names stay the same, and any family
whose blocks `repe.models.model.find_blocks` finds can be wrapped.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import numpy as np
import torch
import transformers
from torch import nn

from repe.compat.block_control import BlockControl, LayerIds, TokenPos, changes_by_block, listed
from repe.models.model import find_blocks

DECODER_BLOCK = "decoder_block"

# Attribute of a wrapped part that holds its control, so that all wrappers of a model share it.
_KEY = "_repe_control"


class WrappedReadingVecModel(nn.Module):
    """A model whose blocks' outputs can be read and changed.

    Control also acts on calls of the model itself, and all wrappers of one model share the wrapped blocks and their
    settings.

    Args:
        model: a Transformers model, with or without a head.
        tokenizer: of the model; kept for callers.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the model."""
        return self.model(*args, **kwargs)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Call the model's `generate`."""
        return self.model.generate(*args, **kwargs)

    def wrap_block(self, layer_ids: LayerIds, block_name: str = DECODER_BLOCK) -> None:
        """Make blocks, or a part of them, readable and controllable. Wrapping again changes nothing.

        Args:
            layer_ids: one block or several, from 0, or from -1 at the end.
            block_name: `decoder_block`, or a part of the blocks such as `self_attn`, `mlp`, `input_layernorm` or
                `post_attention_layernorm`.

        Raises:
            UserError: the model has no list of decoder blocks.
            IndexError: the block does not exist.
            AttributeError: the part does not exist.
        """
        for part in [find_part(self.model, layer_id, block_name) for layer_id in listed(layer_ids)]:
            if not self.is_wrapped(part):
                vars(part)[_KEY] = BlockControl(_trunk(self.model), part)

    def is_wrapped(self, block: nn.Module) -> bool:
        """Whether a block, or part of one, is wrapped."""
        return _KEY in vars(block)

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
            masks: factor of the activation: a number, or a tensor that broadcasts to (rows, chosen tokens, 1). None
                means 1 for tokens and 0 for padding (by the attention mask).
            normalize: rescale each changed state to its previous norm.
            operator: `linear_comb`, `piecewise_linear` or `projection`, see `repe.control.steering.steered`.

        Raises:
            ValueError: a block is not wrapped or has no activation, or the operator or token position is not valid. At
                the next pass, activations that do not fit it.
            IndexError, RuntimeError: at the next pass, positions or masks do not fit it.
        """
        changes = changes_by_block(layer_ids, activations, token_pos, masks, normalize, operator)
        for control, change in [(self._control(layer_id, block_name), change) for layer_id, change in changes.items()]:
            control.change_states = change

    def reset(self) -> None:
        """Remove all controllers and stored activations. Wrapped blocks stay wrapped."""
        for control in [vars(module)[_KEY] for module in self.model.modules() if self.is_wrapped(module)]:
            control.change_states = control.output = None

    def unwrap(self) -> None:
        """Restore the model to its state before `wrap_block`."""
        for module in self.model.modules():
            if self.is_wrapped(module):
                vars(module).pop(_KEY).close()

    def _control(self, layer_id: int, block_name: str) -> BlockControl:
        part = find_part(self.model, layer_id, block_name)
        if not self.is_wrapped(part):
            raise ValueError(f"{block_name} of block {layer_id} is not wrapped: call wrap_block first")
        return vars(part)[_KEY]  # type: ignore[no-any-return]


@contextmanager
def controlled(
    model: nn.Module,
    layer_ids: LayerIds,
    activations: torch.Tensor | Mapping[int, torch.Tensor],
    block_name: str = DECODER_BLOCK,
    token_pos: TokenPos = None,
    operator: str = "linear_comb",
) -> Iterator[None]:
    """Control all passes of a model while the context is open, wrapped or not. The hooks are always removed.

    Args:
        model: a Transformers model.
        layer_ids: this and the other arguments are those of `WrappedReadingVecModel.set_controller`.

    Raises:
        ValueError: as there.
    """
    changes = changes_by_block(layer_ids, activations, token_pos, None, False, operator)
    # By part, so that a block that is named twice is controlled once.
    by_part = {find_part(model, layer_id, block_name): change for layer_id, change in changes.items()}
    with ExitStack() as hooks:
        for part, change in by_part.items():
            hooks.enter_context(closing(BlockControl(_trunk(model), part, change)))
        yield


def find_part(model: Any, layer_id: int, block_name: str) -> nn.Module:
    """A block, or a part of it; the errors are those of `WrappedReadingVecModel.wrap_block`."""
    block = find_blocks(model)[layer_id]
    return block if block_name == DECODER_BLOCK else block.get_submodule(block_name)


def _trunk(model: nn.Module) -> nn.Module:
    """The innermost Transformers model around the blocks: every pass calls it with the attention mask."""
    blocks = find_blocks(model)
    models: list[nn.Module] = [module for module in model.modules() if isinstance(module, transformers.PreTrainedModel)]
    # `modules` yields the outermost first.
    return [module for module in models if any(inner is blocks for inner in module.modules())][-1]
