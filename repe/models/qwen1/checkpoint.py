"""First-generation Qwen (Qwen/Qwen-1_8B-Chat, 7B, 14B) without its remote code.

Its published code no longer runs on current Transformers, but up to the training length its network is that of
Transformers' built-in Qwen2 classes under other names. So a folder in its checkpoint format (`config.json` in either of
its two spellings, safetensors or `.bin` weights, `qwen.tiktoken`) is read straight into those classes and into a fast
tokenizer. Beyond the training length (`seq_length`) the two part: its own code then scales queries (logn) and stretches
the rotary base (dynamic NTK). That length, not `max_position_embeddings`, is the limit that tokenizer and model get.

How the names correspond (`h.i` is block i; every weight is (out, in)):

    transformer.wte                 embed_tokens
    transformer.h.i.ln_1, ln_2      layers.i.input_layernorm, post_attention_layernorm
    transformer.h.i.attn.c_attn     layers.i.self_attn.q_proj, k_proj, v_proj   stacked along `out`, the only biases
    transformer.h.i.attn.c_proj     layers.i.self_attn.o_proj
    transformer.h.i.mlp.w1, w2      layers.i.mlp.up_proj, gate_proj             half of the config's MLP width each
    transformer.h.i.mlp.c_proj      layers.i.mlp.down_proj
    transformer.ln_f, lm_head       norm, lm_head

This module says what the format is; `qwen1_weights` and `qwen1_tokenizer` read it. Torch and Transformers are imported
where they are used, so that asking `is_first_generation_qwen` costs nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repe.errors import UserError

if TYPE_CHECKING:
    import torch
    from transformers import Qwen2Config

CONFIG_FILE = "config.json"

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
        return read_json(Path(folder) / CONFIG_FILE).get("model_type") == "qwen"
    except (OSError, UserError):
        return False


@dataclass(frozen=True)
class Settings:
    """What is needed of `config.json`, whichever its spelling."""

    vocab_size: int
    """Rows of the embedding and of the head, at least as many as there are tokens."""
    hidden_size: int
    mlp_width: int
    """Of w1 and of w2: half of the config's number, which counts both."""
    layers: int
    heads: int
    seq_length: int
    """Training length in tokens."""
    norm_eps: float
    rope_base: float
    tied: bool
    """The head is the embedding."""


def read_settings(folder: Path) -> Settings:
    """Read `config.json`.

    Args:
        folder: the checkpoint's.

    Returns:
        The settings, checked to describe a network that the Qwen2 classes can be.

    Raises:
        UserError: the file is missing or damaged, a key is missing or no such number, or the family is another.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise UserError(f"{path}: no such file: give the folder of a first-generation Qwen checkpoint")
    config = read_json(path)
    _check_family(path, config)
    settings = Settings(
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


def read_json(path: Path) -> dict[str, Any]:
    """The object in `path`, empty if there is no such file.

    Raises:
        UserError: the file is not readable, or no JSON object.
    """
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable as JSON ({error}): download it again") from error
    if not isinstance(found, dict):
        raise UserError(f"{path}: holds no JSON object: download it again")
    return found


def qwen2_config(settings: Settings, dtype: torch.dtype) -> Qwen2Config:
    """The config of the Qwen2 model that computes the same.

    Args:
        settings: the checkpoint's.
        dtype: of the weights.
    """
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


def tensor_names(settings: Settings, trunk_only: bool) -> dict[str, tuple[str, ...]]:
    """The tensors to read, and where in the Qwen2 model they go.

    Args:
        settings: the checkpoint's.
        trunk_only: for `Qwen2Model`, which has no head, instead of `Qwen2ForCausalLM`.

    Returns:
        Name in the checkpoint -> names in the model of its equal parts along the first axis.
    """
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
