"""A language model as this package sees it: a stack of blocks that read texts in a template (Section 3.1)."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import nn

from repe.errors import UserError
from repe.models.registry import AUTO, Template, resolve_template
from repe.vectors.hidden_states import last_token_states

# Tokenizers without a limit of their own report a number like this or a larger one.
NO_LIMIT = 1_000_000


class Model:
    """A model of Transformers with its tokenizer and template.

    Args:
        lm: a causal language model, or a trunk without vocabulary head (then `generate` is not available).
        tokenizer: its tokenizer.
        template: text with `{input}` in the place of a sample's text, or `auto` (also None): the chat template if there
            is one, else plain text.
        label: name in messages and result files.
        truncate: cut texts that exceed the context length instead of refusing them.
        batch_size: texts per batch; None for as many as a budget of tokens allows.

    Attributes:
        trunk: embeddings, blocks and final norm.
        blocks: the list of blocks; layer l in 1..N is the output of block l, layer N is after the final norm.
        layers: number of blocks, N.
        hidden_size: width of a state.
        device: where token ids go.
        max_tokens: context length, None if there is no limit.
        record: what result files keep of the model.
        layout: how several texts are read at once (see `repe.vectors.packing.find_layout`); found when first needed.
        verified: largest length of a text, and largest index in a row, for which packed texts agreed with single ones.
        limits: texts and padded tokens per batch, set once memory has run out (see `repe.vectors.hidden_states`).

    Raises:
        UserError: the architecture has no list of blocks, or the template does not contain `{input}`.
    """

    def __init__(
        self,
        lm: Any,
        tokenizer: Any,
        template: str | Template | None = None,
        *,
        label: str = "model",
        truncate: bool = False,
        batch_size: int | None = None,
    ) -> None:
        lm.eval()
        self.lm: Any = lm if lm.base_model is not lm else None
        # In a model for images and text, the part for text: the vision tower is not run.
        self.trunk = getattr(lm.base_model, "language_model", lm.base_model)
        self.blocks = find_blocks(self.trunk)
        self.layers = len(self.blocks)
        self.hidden_size = int(self.trunk.config.get_text_config().hidden_size)
        self.tokenizer = tokenizer
        if not isinstance(template, Template):
            template = resolve_template(template or AUTO, tokenizer)
        self.template = template
        self.label, self.truncate, self.batch_size = label, truncate, batch_size
        self.record: dict[str, Any] = {"model": label, "template": self.template.text}
        weight = self.trunk.get_input_embeddings().weight
        self.dtype: torch.dtype = weight.dtype
        # Weights that are offloaded to the CPU while they wait have no device of their own.
        self.device: torch.device = torch.device("cuda") if weight.device.type == "meta" else weight.device
        self.max_tokens = _max_tokens(self.trunk, tokenizer)
        self.verified = (0, 0)
        self.limits: dict[str, int] = {}

    def __repr__(self) -> str:
        return f"Model({self.label}, {self.layers} layers, hidden size {self.hidden_size}, on {self.device})"

    @cached_property
    def layout(self) -> str:
        from repe.vectors.packing import find_layout  # only where several texts share tokens

        return find_layout(self)

    def states(self, texts: Sequence[str]) -> torch.Tensor:
        """Hidden states of each text's last token, (layers, texts, hidden), layers 1..N (Section 3.1).

        Args:
            texts: without the template.

        Raises:
            UserError: a text has no tokens or exceeds the context length, a state is not finite, or a single text does
                not fit into memory.
        """
        return last_token_states(self, texts, self.batch_size)

    def generate(self, prompts: Sequence[str], max_new_tokens: int = 64) -> list[str]:
        """Greedy replies to prompts in the model's template; under `ConceptVectors.apply`, steered replies.

        Raises:
            UserError: the model has no vocabulary head, or a prompt leaves no room for a reply.
        """
        from repe.control.generation import reply_texts  # only here, since collecting vectors does not need it

        return reply_texts(self, prompts, max_new_tokens)


def find_blocks(trunk: nn.Module) -> nn.ModuleList:
    """The outermost module list with as many entries as the config says the model has layers.

    Raises:
        UserError: there is none, or the model is an encoder-decoder.
    """
    config: Any = trunk.config.get_text_config()  # type: ignore[union-attr, operator]
    depth = getattr(config, "num_hidden_layers", None)
    if getattr(config, "is_encoder_decoder", False):
        raise UserError(f"{type(trunk).__name__} is an encoder-decoder: use a causal or an encoder model")
    for module in trunk.modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            return module
    raise UserError(f"{type(trunk).__name__} has no list of {depth} blocks: this architecture is not supported")


def _max_tokens(trunk: nn.Module, tokenizer: Any) -> int | None:
    config: Any = trunk.config
    position_embeddings = [module for name, module in trunk.named_modules() if name.endswith("position_embeddings")]
    # Bloom's positions have no limit, and its config has none of these.
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    # RoBERTa and its relatives start counting positions after the padding's own.
    if positions and any(getattr(module, "padding_idx", None) is not None for module in position_embeddings):
        positions -= (getattr(config, "pad_token_id", 0) or 0) + 1
    limits = [positions, tokenizer.model_max_length]
    return min((int(limit) for limit in limits if limit and 0 < limit < NO_LIMIT), default=None)
