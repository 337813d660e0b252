"""A tiny checkpoint in the format of first-generation Qwen, built by hand."""

import base64
import json
from pathlib import Path

import torch
from safetensors.torch import save_file

BLOCKS, HEADS, HIDDEN, WIDTH = 3, 2, 16, 24
WORDS = ["th", "he", "the", " the", "in", "ing", "aa", "aaa", "aaaa", "  ", "\n\n", "é", "道", "道德", "한"]


def ranks() -> list[bytes]:
    """Tokens in the order of their ids: all bytes, then words and their prefixes."""
    tokens = [bytes([byte]) for byte in range(256)]
    for word in WORDS:
        spelled = word.encode()
        tokens += [spelled[:end] for end in range(2, len(spelled) + 1) if spelled[:end] not in tokens]
    # One that merges cannot reach, and one that the splitting into words never produces.
    return [*tokens, b"xyz", b"12"]


VOCABULARY = len(ranks()) + 208


def config(spelling: str = "new", **changes) -> dict:
    shared = {
        "model_type": "qwen",
        "kv_channels": HIDDEN // HEADS,
        "layer_norm_epsilon": 1e-5,
        "rotary_emb_base": 5000,
        "rotary_pct": 1.0,
        "no_bias": True,
        "seq_length": 64,
        "vocab_size": VOCABULARY,
        "tie_word_embeddings": False,
    }
    numbers = (HIDDEN, 2 * WIDTH, BLOCKS, HEADS, 512)
    keys = {
        "new": (
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
            "max_position_embeddings",
        ),
        "old": ("n_embd", "ffn_hidden_size", "n_layer", "n_head", "n_positions"),
    }[spelling]
    return shared | dict(zip(keys, numbers, strict=True)) | changes


def tensors(tied: bool = False) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator) * 0.3

    made = {"transformer.wte.weight": normal(VOCABULARY, HIDDEN), "transformer.ln_f.weight": 1 + normal(HIDDEN)}
    for block in range(BLOCKS):
        made |= {
            f"transformer.h.{block}.{name}": tensor
            for name, tensor in {
                "ln_1.weight": 1 + normal(HIDDEN),
                "ln_2.weight": 1 + normal(HIDDEN),
                "attn.c_attn.weight": normal(3 * HIDDEN, HIDDEN),
                "attn.c_attn.bias": normal(3 * HIDDEN),
                "attn.c_proj.weight": normal(HIDDEN, HIDDEN),
                "mlp.w1.weight": normal(WIDTH, HIDDEN),
                "mlp.w2.weight": normal(WIDTH, HIDDEN),
                "mlp.c_proj.weight": normal(HIDDEN, WIDTH),
            }.items()
        }
    return made if tied else made | {"lm_head.weight": normal(VOCABULARY, HIDDEN)}


def write_weights(folder: Path, made: dict[str, torch.Tensor], layout: str) -> None:
    """layout: "safetensors" or "bin", with "sharded " before it for three shards and an index."""
    kind = layout.removeprefix("sharded ")
    stem = {"safetensors": "model", "bin": "pytorch_model"}[kind]
    save = {"safetensors": save_file, "bin": torch.save}[kind]
    if layout == kind:
        save(made, folder / f"{stem}.{kind}")
        return
    weight_map = {name: f"{stem}-{1 + place % 3:05}-of-00003.{kind}" for place, name in enumerate(made)}
    for file in set(weight_map.values()):
        save({name: made[name] for name in made if weight_map[name] == file}, folder / file)
    (folder / f"{stem}.{kind}.index.json").write_text(json.dumps({"weight_map": weight_map}))


def write_ranks(folder: Path, tokens: list[bytes]) -> None:
    lines = [base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(tokens)]
    (folder / "qwen.tiktoken").write_bytes(b"".join(lines))


def checkpoint(folder: Path, layout: str = "safetensors", spelling: str = "new", tied: bool = False, **changes) -> Path:
    folder.mkdir(exist_ok=True)
    settings = config(spelling, tie_word_embeddings=tied, **changes)
    (folder / "config.json").write_text(json.dumps(settings))
    write_weights(folder, tensors(tied), layout)
    write_ranks(folder, ranks())
    return folder
