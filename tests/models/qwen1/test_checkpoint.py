"""The config of a first-generation Qwen is recognised, read or refused."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from qwen1_checkpoint import VOCABULARY, checkpoint, config

from repe import load_model as load_checked
from repe.errors import UserError
from repe.models.qwen1 import tokenizer as qwen1_tokenizer
from repe.models.qwen1.weights import load_model


def test_nothing_of_the_remote_code_is_needed(tmp_path):
    script = (
        "import sys; from pathlib import Path\n"
        f"folder = Path({str(checkpoint(tmp_path))!r})\n"
        "sys.modules.update(tiktoken=None, einops=None)\n"
        "from repe.models.qwen1 import tokenizer\n"
        "tokenizer.load_tokenizer(folder)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[3])


def test_the_limit_is_the_training_length_not_the_extrapolated_one(tmp_path):
    for folder, length in (
        (checkpoint(tmp_path / "new"), 64),
        (checkpoint(tmp_path / "old", spelling="old", seq_length=32), 32),
    ):
        assert qwen1_tokenizer.load_tokenizer(folder).model_max_length == length


def test_oldest_config_counts_rows_in_padded_vocab_size(tmp_path):
    folder = checkpoint(tmp_path, spelling="old", vocab_size=VOCABULARY - 5, padded_vocab_size=VOCABULARY)
    assert load_model(folder, dtype=torch.float32).config.vocab_size == VOCABULARY


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"quantization_config": {"bits": 4}}, "quantization_config is"),
        ({"rotary_pct": 0.5}, "rotary_pct is 0.5"),
        ({"no_bias": False}, "no_bias is False"),
        ({"num_attention_heads": 3}, "do not match"),
        ({"kv_channels": "8"}, "do not match"),
        ({"hidden_size": -16}, "hidden_size is -16, not 0 to 100000"),
        ({"num_hidden_layers": 2.5}, "num_hidden_layers.* expected int, got float"),
        ({"seq_length": None}, "max_position_embeddings.* expected int, got NoneType"),
    ],
)
def test_bad_settings_are_named_in_one_line(tmp_path, changes, message):
    with pytest.raises(UserError, match=message) as caught:
        load_checked(checkpoint(tmp_path, **changes), device="cpu")
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["hidden_size", "intermediate_size", "num_hidden_layers", "seq_length", "vocab_size"])
def test_a_missing_key_is_named(tmp_path, key):
    folder = checkpoint(tmp_path)
    (folder / "config.json").write_text(json.dumps({name: value for name, value in config().items() if name != key}))
    with pytest.raises(UserError, match=f"config.json: the key .*{key}.* is missing"):
        load_model(folder, dtype=torch.float32)
