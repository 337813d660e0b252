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

# Settings of `Qwen2Config`, and their spellings in the checkpoint's config.
_SPELLINGS = {
    # In the oldest configs vocab_size is the number of tokens, and padded_vocab_size the rows of the weights.
    "vocab_size": ("padded_vocab_size", "vocab_size"),
    "hidden_size": ("hidden_size", "n_embd"),
    "intermediate_size": ("intermediate_size", "ffn_hidden_size"),
    "num_hidden_layers": ("num_hidden_layers", "n_layer"),
    "num_attention_heads": ("num_attention_heads", "n_head"),
    "max_position_embeddings": ("seq_length",),
    "rms_norm_eps": ("layer_norm_epsilon",),
}

# Settings with which the network would differ from Qwen2, and their value in all published checkpoints.
_FIXED_SETTINGS = {
    "rotary_pct": 1.0,
    "no_bias": True,
    "apply_residual_connection_post_layernorm": False,
    "quantization_config": None,
}

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


def qwen2_settings(folder: Path) -> dict[str, Any]:
    """The arguments of the `Qwen2Config` that describes the network of a checkpoint, which checks their types.

    `max_position_embeddings` is the training length in tokens.

    Args:
        folder: of the checkpoint.

    Raises:
        UserError: the config is damaged, lacks a key, or describes a network that differs from Qwen2.
    """
    path = folder / CONFIG_FILE
    config = read_json(path)
    for key, value in _FIXED_SETTINGS.items():
        if config.get(key, value) != value:
            raise UserError(f"{path}: {key} is {config[key]!r}, not {value!r}: use a published, unquantized checkpoint")
    settings: dict[str, Any] = {}
    for name, spellings in _SPELLINGS.items():
        found = [config[spelling] for spelling in spellings if spelling in config]
        if not found:
            raise UserError(f"{path}: the key {' or '.join(spellings)} is missing: download it again")
        settings[name] = found[0]
    # The config counts w1 and w2 together.
    settings["intermediate_size"] //= 2
    width, heads = settings["hidden_size"], settings["num_attention_heads"]
    if config.get("kv_channels", width // heads) * heads != width:
        raise UserError(f"{path}: num_attention_heads, kv_channels and hidden_size do not match: download it again")
    return settings | {
        "num_key_value_heads": heads,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.get("rotary_emb_base", 10000)},
        "tie_word_embeddings": bool(config.get("tie_word_embeddings", False)),
    }


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        UserError: it is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} cannot be read as JSON ({error}): download it again") from error


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
