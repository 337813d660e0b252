"""Control of a model by adding to what its blocks give: RepE's `WrappedReadingVecModel` (Zou et al., arXiv 2310.01405).

Blocks are counted as in RepE, from 0 in the model's list of decoder blocks, or from -1 at its end. That is neither
this project's numbering of layers, 1..N (`repe.control.steering`), nor that of `hidden_states`: a reader's layer l > 0
is what block l - 1 gives. Negative numbers name the same in both, except that `hidden_states[-1]` comes after the final
norm.

Blocks stay what they are: control works through hooks, so that models find their attributes on their blocks, names of
weights do not change, and any family whose blocks `repe.models.loading` finds can be wrapped.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import transformers
from torch import nn

from repe.compat.block_control import BlockControl, LayerIds, Padding, TokenPos, checked_masks, listed, settings_of
from repe.errors import UserError
from repe.models.loading import find_blocks

DECODER_BLOCK = "decoder_block"
# Parts of a block, where it has them under these names.
BLOCK_NAMES = ("self_attn", "mlp", "input_layernorm", "post_attention_layernorm")

# Under this name a wrapped part keeps what controls it, so that every wrapper of the same model finds it.
_KEY = "_repe_control"


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
                vars(part)[_KEY] = BlockControl(part, self._padding(), keep=True)

    def wrap_all(self) -> None:
        """Wrap every block and each of its parts that `BLOCK_NAMES` names."""
        for layer_id, block in enumerate(decoder_blocks(self.model)):
            for block_name in (DECODER_BLOCK, *(name for name in BLOCK_NAMES if hasattr(block, name))):
                self.wrap_block(layer_id, block_name)

    def is_wrapped(self, block: nn.Module) -> bool:
        """Whether a block, or part of one, is wrapped."""
        return isinstance(vars(block).get(_KEY), BlockControl)

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
        token_pos: TokenPos = None,
        masks: float | torch.Tensor | None = None,
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
            operator: `linear_comb`, `piecewise_linear` or `projection`, see `repe.control.steering.steered`.

        Raises:
            ValueError: a block that is not wrapped or has no activation, or a setting that there is not; at the next
                pass, activations, masks or positions that do not fit it.
        """
        settings = settings_of(layer_ids, activations, token_pos, masks, normalize, operator)
        for control, setting in [(self._control(layer, block_name), setting) for layer, setting in settings.items()]:
            control.setting = setting

    def set_masks(self, masks: float | torch.Tensor | None) -> None:
        """Put other masks into every controller that is set, see `set_controller`.

        Raises:
            ValueError: neither a number, a tensor nor None.
        """
        masks = checked_masks(masks)
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
            hooked: BlockControl | Padding | None = vars(module).pop(_KEY, None)
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

    def _padding(self) -> Padding:
        trunk = _trunk(self.model)
        if _KEY not in vars(trunk):
            vars(trunk)[_KEY] = Padding(trunk)
        return vars(trunk)[_KEY]  # type: ignore[no-any-return]


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
    settings = settings_of(layer_ids, activations, token_pos, masks, normalize, operator)
    # By part, so that a block that is named twice is controlled once.
    parts = {find_part(model, layer_id, block_name): setting for layer_id, setting in settings.items()}
    padding = Padding(_trunk(model))
    handles = [padding.handle]
    try:
        for part, setting in parts.items():
            handles.append(BlockControl(part, padding, keep=False, setting=setting).handle)
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
