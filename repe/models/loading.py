"""Loading a model's trunk and tokenizer from a folder of files, whatever its architecture."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers
from torch import nn

from repe.errors import UserError
from repe.models.hub import ModelFolder
from repe.models.qwen1 import checkpoint as qwen1
from repe.models.qwen1 import tokenizer as qwen1_tokenizer
from repe.models.qwen1 import weights as qwen1_weights
from repe.models.templates import Template
from repe.runs import processes

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

# Parts of a checkpoint that stand above or beside the text's trunk.
HEADS = re.compile(
    r"(?:\w+\.)?(?:\w*head\w*|score|\w*classifier|cls|qa_outputs|embed_out|\w*pooler|vocab_\w+|generator_\w+"
    r"|discriminator_\w+|visual|vision_\w+|multi_modal_projector|mm_\w+)\."
)

# Tokenizers without a limit of their own say a number like this.
NO_LIMIT = 1_000_000


@dataclass(frozen=True)
class Model:
    """A trunk (embeddings, blocks, final norm; no vocabulary head) with what it takes to feed it text."""

    label: str
    trunk: nn.Module
    blocks: nn.ModuleList
    tokenizer: Any
    template: Template
    device: torch.device
    """Where token ids go in."""
    dtype: torch.dtype
    max_tokens: int | None
    """Longest text that the positions allow; None where there is no limit."""
    truncate: bool = False
    """Whether longer texts are cut instead of refused."""
    limits: dict[str, int] = field(default_factory=dict)
    """Texts and padded tokens that a batch may have, once memory has run out (see `repe.vectors.batching`)."""
    lm: Any = None
    """The trunk under its vocabulary head, to generate with; None where only states are asked for."""

    @property
    def layers(self) -> int:
        """Number of blocks, N: states are numbered 1..N."""
        return len(self.blocks)

    @property
    def hidden_size(self) -> int:
        """Width of a state."""
        return int(_text_config(self.trunk.config).hidden_size)


def pick_device(name: str) -> torch.device:
    """The device for `--device`: `auto` takes a GPU where there is one; of several processes each takes its own.

    Raises:
        UserError: it is not there, or no device's name; or there are more processes than GPUs.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind, there in available.items() if there)
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"--device {name!r} is no device: use auto, cpu, cuda, cuda:1 or mps") from None
    if not available.get(device.type) or (device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()):
        raise UserError(f"--device {name} is not on this machine: use auto or cpu")
    return _own_gpu() if device == torch.device("cuda") and processes.count() > 1 else device


def _own_gpu() -> torch.device:
    number, there = processes.local_rank(), torch.cuda.device_count()
    if number >= there:
        raise UserError(f"more processes than GPUs on this machine: start at most {there} here (--num_processes)")
    return torch.device("cuda", number)


def pick_dtype(name: str, device: torch.device, published: str) -> torch.dtype:
    """The number type for `--dtype`: `auto` is float32 on a CPU, else that of the published weights."""
    if name == "auto":
        name = "float32" if device.type == "cpu" else published
    return DTYPES[name]


def published_dtype(folder: ModelFolder) -> str:
    """The number type that a checkpoint's config names; float16 where it names none that is known here."""
    config = transformers.PretrainedConfig.get_config_dict(folder.path)[0]
    name = str(config.get("dtype") or config.get("torch_dtype")).removeprefix("torch.")
    return name if name in DTYPES else "float16"


def versions() -> dict[str, str]:
    """The versions of what computes the states."""
    return {"torch": str(torch.__version__), "transformers": transformers.__version__}


def load_tokenizer(folder: ModelFolder, trust_remote_code: bool = False) -> Any:
    """The tokenizer in a model's folder.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    if qwen1.is_first_generation_qwen(folder.path):
        return qwen1_tokenizer.load_tokenizer(folder.path)
    with _readable(folder, "the tokenizer"):
        return transformers.AutoTokenizer.from_pretrained(
            folder.path, trust_remote_code=trust_remote_code, local_files_only=True
        )


@contextmanager
def _readable(folder: ModelFolder, what: str) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    # Transformers raises OSError, ValueError, KeyError, RuntimeError and safetensors' own for what is wrong with files.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        if "trust_remote_code" in reason:
            reason, remedy = (
                "it needs Python code that comes with it",
                "if you trust that code, say --trust-remote-code",
            )
        else:
            remedy = "mend the folder, or download it again"
        raise UserError(f"{what} in {folder.path} cannot be loaded ({reason[:200]}): {remedy}") from error


def load(
    folder: ModelFolder,
    label: str,
    *,
    tokenizer: Any,
    template: Template,
    device: torch.device,
    dtype: torch.dtype,
    truncate: bool = False,
    trust_remote_code: bool = False,
    with_head: bool = False,
) -> Model:
    """Load the trunk; its layers are counted, not looked up.

    Args:
        folder: the model's files.
        label: name for messages and results.
        tokenizer: the model's.
        template: what stands around a text.
        device: where to; a GPU without a number means all of them, with what does not fit kept on the CPU.
        dtype: of the weights and of the states.
        truncate: cut texts that are too long for the model instead of refusing them.
        with_head: read the vocabulary head too, for generation.

    Raises:
        UserError: the files are no causal or encoder model of Transformers, or parts are missing or damaged.
    """
    where = "auto" if device.type == "cuda" and device.index is None else {"": str(device)}
    with _readable(folder, "the model"):
        whole = _read(folder, dtype, where, trust_remote_code, with_head)
    whole.eval()
    if with_head:
        _forget_decoding(whole)
    trunk = whole.base_model if with_head else whole
    # Of a model for images and text, the text's part: what sees images is not run.
    trunk = getattr(trunk, "language_model", trunk)
    embeddings = trunk.get_input_embeddings().weight.device
    return Model(
        label=label,
        trunk=trunk,
        blocks=find_blocks(trunk),
        tokenizer=tokenizer,
        template=template,
        # Weights that wait on the CPU for their turn on a GPU have no device of their own.
        device=device if embeddings.type == "meta" else embeddings,
        dtype=dtype,
        max_tokens=_max_tokens(trunk, tokenizer),
        truncate=truncate,
        lm=whole if with_head else None,
    )


def _forget_decoding(lm: Any) -> None:
    """Keep of a checkpoint's generation settings which tokens are special: how to decode is for the caller to say."""
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    kept = {name: getattr(lm.generation_config, name) for name in names}
    lm.generation_config = transformers.GenerationConfig(**kept)


def _read(
    folder: ModelFolder, dtype: torch.dtype, where: str | dict[str, str], trust_remote_code: bool, with_head: bool
) -> Any:
    """The trunk, or the model with its head."""
    if qwen1.is_first_generation_qwen(folder.path):
        return qwen1_weights.load_model(folder.path, dtype=dtype, device_map=where, trunk_only=not with_head)
    kind = transformers.AutoModelForCausalLM if with_head else transformers.AutoModel
    model, info = kind.from_pretrained(
        folder.path,
        dtype=dtype,
        device_map=where,
        trust_remote_code=trust_remote_code,
        local_files_only=True,
        output_loading_info=True,
        # Reported in `info` like what is missing, instead of an error that names no tensor.
        ignore_mismatched_sizes=True,
    )
    missing_head = [name for name in info["missing_keys"] if with_head and HEADS.match(name)]
    if missing_head:
        raise UserError(
            f"{folder.path} has no head to generate with ({missing_head[0]} is missing): take a causal model"
        )
    _check_weights(folder, getattr(model, "language_model", model), info)
    return model


def _check_weights(folder: ModelFolder, trunk: nn.Module, info: dict[str, Any]) -> None:
    """Refuse a checkpoint that is not all of the trunk and no more; heads and poolers above it do not matter."""
    missing = sorted(name for name in info["missing_keys"] if not name.startswith("pooler."))
    blocks = find_blocks(trunk)
    prefix = next(name for name, module in trunk.named_modules() if module is blocks) + "."
    # Buffers that older versions of Transformers saved and that are computed today.
    computed = ("inv_freq", "masked_bias", "attn.bias", "attention.bias")
    extra = sorted(
        name
        for name in info["unexpected_keys"]
        if not name.endswith(computed) and (prefix in name or not HEADS.match(name))
    )
    reshaped = sorted(str(name) for name, *_ in info["mismatched_keys"])
    for names, what in (
        (missing, "the checkpoint lacks"),
        (extra, "the config does not know of"),
        (reshaped, "have another shape than the config says"),
    ):
        if names:
            raise UserError(
                f"{folder.path}: {len(names)} tensors that {what}, {names[0]} first: download config and weights again"
            )


def _text_config(config: Any) -> Any:
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def find_blocks(trunk: nn.Module) -> nn.ModuleList:
    """The list of blocks: the outermost module list that is as long as the config says the model is deep.

    Raises:
        UserError: there is none, or the model is an encoder with a decoder.
    """
    config = _text_config(trunk.config)
    depth = getattr(config, "num_hidden_layers", None)
    if getattr(config, "is_encoder_decoder", False):
        raise UserError(f"{type(trunk).__name__} has an encoder and a decoder: take a causal or an encoder model")
    for _, module in trunk.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            return module
    raise UserError(f"{type(trunk).__name__} has no list of {depth} blocks: this architecture is not supported")


def _max_tokens(trunk: nn.Module, tokenizer: Any) -> int | None:
    config: Any = trunk.config
    position_embeddings = [module for name, module in trunk.named_modules() if name.endswith("position_embeddings")]
    # Bloom's positions have no limit, and its config none of these.
    positions = getattr(_text_config(config), "max_position_embeddings", None)
    # RoBERTa and its kin count positions from behind the padding's own.
    if positions and any(getattr(module, "padding_idx", None) is not None for module in position_embeddings):
        positions -= (getattr(config, "pad_token_id", 0) or 0) + 1
    limits = [positions, tokenizer.model_max_length]
    return min((int(limit) for limit in limits if limit and 0 < limit < NO_LIMIT), default=None)
