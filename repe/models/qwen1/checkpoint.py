"""First-generation Qwen (Qwen/Qwen-1_8B-Chat, 7B, 14B) without its remote code.

Its published code does not run on current Transformers. Up to the training length its network equals Transformers'
built-in Qwen2 under other names, so a folder in its format (`config.json` in either of its two spellings, safetensors
or `.bin` weights, `qwen.tiktoken`) is read into the Qwen2 classes and a fast tokenizer. Beyond the training length
(`seq_length`) the networks differ: the published code scales queries (logn) and the rotary base (dynamic NTK). So the
limit of tokenizer and model is `seq_length`, not `max_position_embeddings`.

Corresponding names (`h.i` is block i; every weight is (out, in)):

    transformer.wte                 embed_tokens
    transformer.h.i.ln_1, ln_2      layers.i.input_layernorm, post_attention_layernorm
    transformer.h.i.attn.c_attn     layers.i.self_attn.q_proj, k_proj, v_proj   stacked along `out`, the only biases
    transformer.h.i.attn.c_proj     layers.i.self_attn.o_proj
    transformer.h.i.mlp.w1, w2      layers.i.mlp.up_proj, gate_proj             each half of the config's MLP width
    transformer.h.i.mlp.c_proj      layers.i.mlp.down_proj
    transformer.ln_f, lm_head       norm, lm_head

This module reads the config; `weights` and `tokenizer` read the rest.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from repe.errors import UserError

CONFIG_FILE = "config.json"

# Settings with which the network would differ from Qwen2, and their value in all published checkpoints.
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
    """Whether the `config.json` in `folder` has the `model_type` "qwen"; never raises."""
    try:
        return read_json(Path(folder) / CONFIG_FILE).get("model_type") == "qwen"
    except (OSError, UserError):
        return False


def qwen2_settings(folder: Path) -> dict[str, Any]:
    """The arguments of the `Qwen2Config` that describes the network of a checkpoint.

    `max_position_embeddings` is the training length in tokens.

    Args:
        folder: of the checkpoint.

    Raises:
        UserError: the config is missing or damaged, lacks a key or has an invalid number, or is of another family.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise UserError(f"{path} does not exist: give the folder of a first-generation Qwen checkpoint")
    config = read_json(path)
    _check_family(path, config)
    hidden_size = _count(path, config, "hidden_size", "n_embd")
    heads = _count(path, config, "num_attention_heads", "n_head")
    head_size = _count(path, {"kv_channels": hidden_size // heads} | config, "kv_channels")
    if head_size * heads != hidden_size or head_size % 2:
        raise UserError(
            f"{path}: {heads} heads of size {head_size} do not match the hidden size {hidden_size}: "
            "correct num_attention_heads, kv_channels or hidden_size"
        )
    base = _positive(path, {"rotary_emb_base": 10000} | config, "rotary_emb_base")
    return {
        # In the oldest configs vocab_size is the number of tokens, and padded_vocab_size the rows of the weights.
        "vocab_size": _count(path, config, "padded_vocab_size", "vocab_size"),
        "hidden_size": hidden_size,
        # The config counts w1 and w2 together.
        "intermediate_size": _count(path, config, "intermediate_size", "ffn_hidden_size") // 2,
        "num_hidden_layers": _count(path, config, "num_hidden_layers", "n_layer"),
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "max_position_embeddings": _count(path, config, "seq_length"),
        "rms_norm_eps": _positive(path, config, "layer_norm_epsilon"),
        "rope_parameters": {"rope_type": "default", "rope_theta": base},
        "tie_word_embeddings": bool(config.get("tie_word_embeddings", False)),
    }


def _check_family(path: Path, config: Mapping[str, Any]) -> None:
    if config.get("model_type") != "qwen":
        raise UserError(f"{path}: model_type is {config.get('model_type')!r}, not 'qwen': load it as that model type")
    if config.get("quantization_config"):
        raise UserError(f"{path}: the weights are quantised (quantization_config): use the unquantised checkpoint")
    for key, value in _FIXED_SETTINGS.items():
        if config.get(key, value) != value:
            raise UserError(
                f"{path}: {key} is {config[key]!r}, only {value!r} is supported: use a published checkpoint"
            )


def _count(path: Path, config: Mapping[str, Any], *spellings: str) -> int:
    value = _positive(path, config, *spellings)
    if not isinstance(value, int):
        raise UserError(f"{path}: {' or '.join(spellings)} is {value!r}, not an integer: download it again")
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
    """The object in the JSON file at `path`, empty if there is no such file.

    Raises:
        UserError: the file cannot be read, or does not hold a JSON object.
    """
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error}): download it again") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} does not hold a JSON object: download it again")
    return found


def tensor_names(settings: Mapping[str, Any], trunk_only: bool) -> dict[str, tuple[str, ...]]:
    """The tensors to read, and their names in the Qwen2 model.

    Args:
        settings: from `qwen2_settings`.
        trunk_only: for `Qwen2Model`, which has no head, instead of `Qwen2ForCausalLM`.

    Returns:
        By name in the checkpoint, the names in the model of its equal parts along the first axis.
    """
    trunk = "" if trunk_only else "model."
    names: dict[str, tuple[str, ...]] = {
        "transformer.wte.weight": (f"{trunk}embed_tokens.weight",),
        "transformer.ln_f.weight": (f"{trunk}norm.weight",),
    }
    for block in range(settings["num_hidden_layers"]):
        for source, targets in _BLOCK_NAMES.items():
            names[f"transformer.h.{block}.{source}"] = tuple(f"{trunk}layers.{block}.{name}" for name in targets)
    if not trunk_only and not settings["tie_word_embeddings"]:
        names["lm_head.weight"] = ("lm_head.weight",)
    return names
