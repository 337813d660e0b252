"""First-generation Qwen (Qwen/Qwen-1_8B-Chat, 7B, 14B) without its remote code.

Its published code no longer runs on current Transformers, but up to the training length its network is that of
Transformers' built-in Qwen2 classes under other names. So a folder in its checkpoint format (`config.json` in either of
its two spellings, safetensors or `.bin` weights, `qwen.tiktoken`) is read straight into those classes and into a fast
tokenizer. Beyond the training length the two part (logn attention, dynamic NTK): `max_length` says where that is.

How the names correspond (`h.i` is block i; every weight is (out, in)):

    transformer.wte                 embed_tokens
    transformer.h.i.ln_1, ln_2      layers.i.input_layernorm, post_attention_layernorm
    transformer.h.i.attn.c_attn     layers.i.self_attn.q_proj, k_proj, v_proj   stacked along `out`, the only biases
    transformer.h.i.attn.c_proj     layers.i.self_attn.o_proj
    transformer.h.i.mlp.w1, w2      layers.i.mlp.up_proj, gate_proj             half of the config's MLP width each
    transformer.h.i.mlp.c_proj      layers.i.mlp.down_proj
    transformer.ln_f, lm_head       norm, lm_head

Torch and Transformers are imported where they are used, so that asking `is_first_generation_qwen` costs nothing.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repe.errors import UserError

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM, Qwen2Model

CONFIG_FILE = "config.json"
TOKENIZER_FILE = "qwen.tiktoken"
# The first of these that a folder has is read.
WEIGHT_FILES = (
    "model.safetensors.index.json",
    "model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
)

END_OF_TEXT, IM_START, IM_END, PAD = "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|extra_0|>"
# In the order of their ids, which follow those of the mergeable ranks.
SPECIAL_TOKENS = (END_OF_TEXT, IM_START, IM_END, *(f"<|extra_{number}|>" for number in range(205)))
# Every published checkpoint has this many; its code starts the special tokens there whatever the file holds.
PUBLISHED_RANKS = 151643

# As in Qwen2: GPT-4's splitting, but each digit by itself.
WORD_PATTERN = "|".join(
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)",
        r"[^\r\n\p{L}\p{N}]?\p{L}+",
        r"\p{N}",
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    )
)

# What the chat models were tuned on; the system line is what their own chat function sends unless told otherwise.
CHAT_TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

# Settings that would make the network another one than Qwen2's, with the value that all published checkpoints have.
_FIXED_SETTINGS = {"rotary_pct": 1.0, "no_bias": True, "apply_residual_connection_post_layernorm": False}

_BLOCK_NAMES = {
    "ln_1.weight": ("input_layernorm.weight",),
    "ln_2.weight": ("post_attention_layernorm.weight",),
    "attn.c_attn.weight": ("self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"),
    "attn.c_attn.bias": ("self_attn.q_proj.bias", "self_attn.k_proj.bias", "self_attn.v_proj.bias"),
    "attn.c_proj.weight": ("self_attn.o_proj.weight",),
    "mlp.w1.weight": ("mlp.up_proj.weight",),
    "mlp.w2.weight": ("mlp.gate_proj.weight",),
    "mlp.c_proj.weight": ("mlp.down_proj.weight",),
}


def is_first_generation_qwen(folder: Path) -> bool:
    """Whether `folder` holds a `config.json` of a first-generation Qwen (`model_type` "qwen"); never raises."""
    try:
        config = json.loads((Path(folder) / CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and config.get("model_type") == "qwen"


def max_length(folder: Path) -> int:
    """The checkpoint's training length in tokens (`seq_length`).

    On longer texts its own code scales the queries (logn) and stretches the rotary base (dynamic NTK), which the Qwen2
    classes do not: the caller must refuse those texts. `max_position_embeddings` is where that scaling ends, not where
    it begins, and is no bound for us. Raises UserError as `load_model` does for the config.
    """
    return _read_settings(Path(folder)).seq_length


def load_model(
    folder: Path,
    *,
    dtype: torch.dtype,
    trunk_only: bool = True,
    device_map: str | dict[str, Any] | None = None,
) -> Qwen2Model | Qwen2ForCausalLM:
    """The checkpoint in `folder` as a Qwen2 model in `dtype`, in evaluation mode, its parameters without gradients.

    trunk_only: leave out the vocabulary head, which is then never read. device_map: None (the CPU), a device, "auto"
    (all GPUs, then the CPU) or a map from module names to devices, as in Accelerate. The model is built without memory
    and filled one tensor at a time, so the peak is the model and its largest tensor. Stop tokens for `generate` are
    `<|endoftext|>` (the chat models' generation settings) and `<|im_end|>`, `<|im_start|>` (their chat function).

    Raises UserError, naming file, key or tensor, for a config that is missing, damaged or of another family, a missing
    or damaged weight file, a missing or unknown tensor, a wrong shape, or a device map that does not work out.
    """
    import torch
    from transformers import Qwen2ForCausalLM, Qwen2Model

    folder = Path(folder)
    settings = _read_settings(folder)
    config = _qwen2_config(settings, dtype)
    with torch.device("meta"):
        model = Qwen2Model(config) if trunk_only else Qwen2ForCausalLM(config)
    model.to(dtype)
    names = _tensor_names(settings, trunk_only)
    files = _locate_tensors(folder, names, dict(model.named_parameters()))
    devices = _place(model, device_map, dtype)
    for source, path in files.items():
        parts = _read_tensor(path, source).chunk(len(names[source]))
        for target, part in zip(names[source], parts, strict=True):
            # A copy even where device and type are right already: a view would keep the whole file mapped.
            copy = torch.empty(part.shape, dtype=dtype, device=_device_of(target, devices)).copy_(part)
            _put(model, target, copy)
    _finish(model, devices, folder)
    return model


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """`qwen.tiktoken` as a fast tokenizer that gives the same ids as the checkpoint's own.

    It pads on the left with `<|extra_0|>`, puts nothing before or after a text, reads special tokens written out in a
    text as such, has `<|endoftext|>` as its end token (the chat models' `generation_config.json` names that one; a
    chat turn ends with `<|im_end|>`, on which `load_model` makes `generate` stop too), `max_length` as its
    `model_max_length`, and the ChatML template unless `generation_config.json` says that it is a base model ("raw").

    Raises UserError for a missing or damaged `qwen.tiktoken`, one that does not fit the config, or a bad config.
    """
    from transformers import PreTrainedTokenizerFast

    folder = Path(folder)
    settings = _read_settings(folder)
    generation = _read_json(folder / "generation_config.json")
    ranks = _read_ranks(folder / TOKENIZER_FILE)
    _check_vocabulary(folder, len(ranks), settings.vocab_size)
    return PreTrainedTokenizerFast(
        tokenizer_object=_byte_pair_encoder(ranks),
        eos_token=END_OF_TEXT,
        pad_token=PAD,
        padding_side="left",
        model_max_length=settings.seq_length,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
        chat_template=None if generation.get("chat_format") == "raw" else CHAT_TEMPLATE,
    )


@dataclass(frozen=True)
class _Settings:
    """What is needed of `config.json`, whichever its spelling."""

    vocab_size: int
    hidden_size: int
    mlp_width: int
    """Of w1 and of w2: half of the config's number, which counts both."""
    layers: int
    heads: int
    seq_length: int
    norm_eps: float
    rope_base: float
    tied: bool


def _read_settings(folder: Path) -> _Settings:
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise UserError(f"{path}: no such file: give the folder of a first-generation Qwen checkpoint")
    config = _read_json(path)
    _check_family(path, config)
    settings = _Settings(
        # The oldest configs count the tokens in vocab_size and the rows of the weights in padded_vocab_size.
        vocab_size=_count(path, config, "padded_vocab_size", "vocab_size"),
        hidden_size=_count(path, config, "hidden_size", "n_embd"),
        mlp_width=_count(path, config, "intermediate_size", "ffn_hidden_size") // 2,
        layers=_count(path, config, "num_hidden_layers", "n_layer"),
        heads=_count(path, config, "num_attention_heads", "n_head"),
        seq_length=_count(path, config, "seq_length"),
        norm_eps=_positive(path, config, "layer_norm_epsilon"),
        rope_base=_positive(path, {"rotary_emb_base": 10000} | config, "rotary_emb_base"),
        tied=bool(config.get("tie_word_embeddings", False)),
    )
    head_size = _count(path, {"kv_channels": settings.hidden_size // settings.heads} | config, "kv_channels")
    if head_size * settings.heads != settings.hidden_size or head_size % 2:
        raise UserError(
            f"{path}: {settings.heads} heads of {head_size} numbers do not make up the hidden size "
            f"{settings.hidden_size}: correct num_attention_heads, kv_channels or hidden_size"
        )
    return settings


def _check_family(path: Path, config: Mapping[str, Any]) -> None:
    if config.get("model_type") != "qwen":
        raise UserError(f"{path}: model_type is {config.get('model_type')!r}, not 'qwen': load it as what it is")
    if config.get("quantization_config"):
        raise UserError(f"{path}: quantization_config: the weights are quantised: use the unquantised checkpoint")
    for key, value in _FIXED_SETTINGS.items():
        if config.get(key, value) != value:
            raise UserError(f"{path}: {key} is {config[key]!r}, supported is {value!r}: use a published checkpoint")


def _read_json(path: Path) -> dict[str, Any]:
    """The object in `path`, empty if there is no such file."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable as JSON ({error}): download it again") from error
    if not isinstance(found, dict):
        raise UserError(f"{path}: holds no JSON object: download it again")
    return found


def _count(path: Path, config: Mapping[str, Any], *spellings: str) -> int:
    value = _positive(path, config, *spellings)
    if not isinstance(value, int):
        raise UserError(f"{path}: {' or '.join(spellings)} is {value!r}, not a whole number: download it again")
    return value


def _positive(path: Path, config: Mapping[str, Any], *spellings: str) -> float:
    key = next((spelling for spelling in spellings if spelling in config), None)
    if key is None:
        raise UserError(f"{path}: the key {' or '.join(spellings)} is missing: download it again")
    value = config[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise UserError(f"{path}: {key} is {value!r}, not a positive number: download it again")
    return value


def _qwen2_config(settings: _Settings, dtype: torch.dtype) -> Qwen2Config:
    from transformers import Qwen2Config

    return Qwen2Config(
        vocab_size=settings.vocab_size,
        hidden_size=settings.hidden_size,
        intermediate_size=settings.mlp_width,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.heads,
        max_position_embeddings=settings.seq_length,
        rms_norm_eps=settings.norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": settings.rope_base},
        tie_word_embeddings=settings.tied,
        dtype=dtype,
    )


def _tensor_names(settings: _Settings, trunk_only: bool) -> dict[str, tuple[str, ...]]:
    """The checkpoint's tensors that are read: name -> names in the model of its equal parts along the first axis."""
    trunk = "" if trunk_only else "model."
    names: dict[str, tuple[str, ...]] = {
        "transformer.wte.weight": (f"{trunk}embed_tokens.weight",),
        "transformer.ln_f.weight": (f"{trunk}norm.weight",),
    }
    for block in range(settings.layers):
        for source, targets in _BLOCK_NAMES.items():
            names[f"transformer.h.{block}.{source}"] = tuple(f"{trunk}layers.{block}.{name}" for name in targets)
    if not trunk_only and not settings.tied:
        names["lm_head.weight"] = ("lm_head.weight",)
    return names


def _locate_tensors(
    folder: Path, names: Mapping[str, tuple[str, ...]], parameters: Mapping[str, torch.Tensor]
) -> dict[str, Path]:
    """The file of each tensor in `names`, file by file, once it is sure that they are all there, and no others."""
    found: dict[str, tuple[Path, tuple[int, ...]]] = {}
    for path in _weight_files(folder):
        for name, shape in _read_shapes(path).items():
            if name in found:
                raise UserError(f"{path}: the tensor {name} is also in {found[name][0].name}: download {folder} again")
            found[name] = path, shape
    if missing := [name for name in names if name not in found]:
        raise UserError(f"{folder}: the tensor {_some(missing)} is missing from the weights: download the folder again")
    # The head is not read for the trunk alone or where it is tied; rotary tables follow from the config.
    known = {*names, "lm_head.weight"}
    if extra := [name for name in found if name not in known and not name.endswith("rotary_emb.inv_freq")]:
        raise UserError(
            f"{found[extra[0]][0]}: a first-generation Qwen language model has no tensor {_some(extra)}: "
            "use one of the published checkpoints, or their config.json if this one names too few layers"
        )
    for source, targets in names.items():
        rows, *rest = parameters[targets[0]].shape
        expected = (rows * len(targets), *rest)
        path, shape = found[source]
        if shape != expected:
            raise UserError(
                f"{path}: the tensor {source} is of shape {shape}, {CONFIG_FILE} says {expected}: "
                "take both files from one checkpoint"
            )
    return {name: path for name, (path, _) in found.items() if name in names}


def _some(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} (and {len(names) - 1} more)"


def _weight_files(folder: Path) -> list[Path]:
    path = next((folder / name for name in WEIGHT_FILES if (folder / name).is_file()), None)
    if path is None:
        raise UserError(f"{folder}: no weights: one of {', '.join(WEIGHT_FILES)} is needed: download the folder again")
    if path.suffix != ".json":
        return [path]
    shards = _read_json(path).get("weight_map")
    # Bare file names: an index from elsewhere must not lead out of the folder.
    if not (isinstance(shards, dict) and shards and all(name == Path(str(name)).name for name in shards.values())):
        raise UserError(f"{path}: no usable weight_map of tensors to files beside it: download it again")
    files = [folder / name for name in sorted(set(shards.values()))]
    if missing := [file.name for file in files if not file.is_file()]:
        raise UserError(f"{folder}: the weight file {_some(missing)} is missing, {path.name} names it: download it")
    return files


def _read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    with _opened(path) as shard:
        if path.suffix == ".safetensors":
            return {name: tuple(shard.get_slice(name).get_shape()) for name in shard.keys()}  # noqa: SIM118
        return {name: tuple(tensor.shape) for name, tensor in shard.items()}


def _read_tensor(path: Path, name: str) -> torch.Tensor:
    # Each tensor by an opening of its own: what has been read of a mapped file counts as this process's memory until
    # the file is closed.
    with _opened(path) as shard:
        tensor: torch.Tensor = shard.get_tensor(name) if path.suffix == ".safetensors" else shard[name]
    if not tensor.is_floating_point():
        raise UserError(f"{path}: the tensor {name} holds {tensor.dtype}: use the unquantised checkpoint")
    return tensor


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A safetensors file, or the dictionary of a `.bin` file, mapped and not read."""
    import torch
    from safetensors import SafetensorError, safe_open

    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt", device="cpu") as file:
                yield file
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path}: no readable safetensors file ({error}): download it again") from error
        return
    try:
        tensors = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    # Damage shows as almost any exception, of pickle's, zip's or torch's own code; and torch's texts, which advise to
    # load without the check, are not passed on.
    except Exception as error:
        raise UserError(
            f"{path}: damaged, or not a file of plain tensors ({type(error).__name__}): "
            "download it again, or the safetensors files in its place"
        ) from error
    if not isinstance(tensors, dict) or any(
        not (isinstance(name, str) and isinstance(tensor, torch.Tensor)) for name, tensor in tensors.items()
    ):
        raise UserError(f"{path}: not a dictionary of names to tensors: use the checkpoint's own weight files")
    yield tensors


def _place(model: Qwen2Model | Qwen2ForCausalLM, device_map: Any, dtype: torch.dtype) -> dict[str, Any]:
    """Device of each named module; the name "" stands for all that no longer name covers."""
    import torch

    if device_map is None:
        return {"": "cpu"}
    devices = _share_out(model, dtype) if device_map == "auto" else device_map
    if not isinstance(devices, dict):
        devices = {"": devices}
    if "disk" in devices.values():
        raise UserError("the model fits into no memory here: take a smaller model, --dtype float16 or a larger machine")
    for device in devices.values():
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError, TypeError) as error:
            raise UserError(f"device map: no device {device!r} here: give cpu, cuda, cuda:1, mps or auto") from error
    for name, _ in [*model.named_parameters(), *model.named_buffers()]:
        _device_of(name, devices)
    return devices


def _share_out(model: Qwen2Model | Qwen2ForCausalLM, dtype: torch.dtype) -> dict[str, Any]:
    from accelerate import infer_auto_device_map
    from accelerate.utils import get_balanced_memory

    whole = list(model._no_split_modules)
    memory = get_balanced_memory(model, dtype=dtype, no_split_module_classes=whole)
    # A GPU filled to the brim with weights has no room for the hidden states.
    memory = {device: size if device == "cpu" else int(0.9 * size) for device, size in memory.items()}
    devices: dict[str, Any] = infer_auto_device_map(
        model, max_memory=memory, dtype=dtype, no_split_module_classes=whole
    )
    return devices


def _device_of(name: str, devices: Mapping[str, Any]) -> Any:
    module = name
    while module and module not in devices:
        module = module.rpartition(".")[0]
    if module not in devices:
        raise UserError(f"device map: nothing covers {name}: add its module, or '' for all the rest")
    return devices[module]


def _put(model: torch.nn.Module, name: str, tensor: torch.Tensor) -> None:
    from torch.nn import Parameter

    module, _, leaf = name.rpartition(".")
    model.get_submodule(module).register_parameter(leaf, Parameter(tensor, requires_grad=False))


def _finish(model: Qwen2Model | Qwen2ForCausalLM, devices: dict[str, Any], folder: Path) -> None:
    """All that is not in the weight files: the rotary table, the tied head, the stop tokens, hooks between devices."""
    trunk, name = (model.model, "model.rotary_emb") if hasattr(model, "lm_head") else (model, "rotary_emb")
    # Its buffers are not saved, and were computed without memory: computed again here, in float32 whatever the dtype.
    trunk.rotary_emb = type(trunk.rotary_emb)(model.config).to(_device_of(name, devices))
    if hasattr(model, "lm_head"):
        model.tie_weights()
        _set_stop_tokens(model, folder)
    model.eval()
    if len(set(devices.values())) > 1:
        from accelerate import dispatch_model

        dispatch_model(model, devices, skip_keys="past_key_values")


def _set_stop_tokens(model: Qwen2ForCausalLM, folder: Path) -> None:
    if not (folder / TOKENIZER_FILE).is_file():
        return
    first = len(_read_ranks(folder / TOKENIZER_FILE))
    ids = {token: first + position for position, token in enumerate(SPECIAL_TOKENS)}
    model.generation_config.eos_token_id = [ids[END_OF_TEXT], ids[IM_END], ids[IM_START]]
    model.generation_config.pad_token_id = ids[PAD]


def _read_ranks(path: Path) -> dict[bytes, int]:
    """The mergeable tokens in the order of their ids 0, 1, ..., each with its id, which is its merging priority too."""
    if not path.is_file():
        raise UserError(f"{path}: no such file: download it from the model's page")
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if not line:
            continue
        try:
            encoded, rank = line.split()
            token = base64.b64decode(encoded, validate=True)
            in_order = int(rank) == len(ranks) and token not in ranks
        except (ValueError, binascii.Error):
            in_order = False
        if not in_order:
            raise UserError(f"{path}: line {number} is not the next token and its rank: download it again")
        ranks[token] = len(ranks)
    if absent := sum(bytes([byte]) not in ranks for byte in range(256)):
        raise UserError(f"{path}: {absent} of the 256 single bytes are missing: download it again")
    return ranks


def _check_vocabulary(folder: Path, ranks: int, vocab_size: int) -> None:
    tokens = ranks + len(SPECIAL_TOKENS)
    full_size = PUBLISHED_RANKS + len(SPECIAL_TOKENS)
    # A file cut off after a line would move every special token.
    if tokens > vocab_size or (vocab_size >= full_size and tokens != full_size):
        raise UserError(
            f"{folder / TOKENIZER_FILE}: {ranks} tokens and {len(SPECIAL_TOKENS)} special ones do not fit the "
            f"vocabulary of {vocab_size} in {CONFIG_FILE}: download both files again"
        )


def _byte_pair_encoder(ranks: Mapping[bytes, int]) -> Tokenizer:
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
    from tokenizers.models import BPE

    vocabulary, merges = _vocabulary_and_merges(ranks)
    # A word that is a token itself is taken whole, without merging, as tiktoken does.
    encoder = Tokenizer(BPE(vocabulary, merges, ignore_merges=True))
    encoder.normalizer = normalizers.NFC()
    encoder.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORD_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    encoder.decoder = decoders.ByteLevel()
    # Looked for after normalisation, the order of the original.
    encoder.add_special_tokens([AddedToken(token, special=True, normalized=True) for token in SPECIAL_TOKENS])
    return encoder


def _vocabulary_and_merges(ranks: Mapping[bytes, int]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """The ranks as the tokenizers library wants them: each byte as a printable character, and merges by priority.

    tiktoken merges whichever neighbours make a known token, so every split of a token into two tokens is a merge.
    """
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    characters = bytes_to_unicode()
    text = {token: "".join(characters[byte] for byte in token) for token in ranks}
    merges = [
        (text[token[:cut]], text[token[cut:]])
        for token in ranks
        for cut in range(1, len(token))
        if token[:cut] in ranks and token[cut:] in ranks
    ]
    return {text[token]: rank for token, rank in ranks.items()}, merges
