"""The config of a first-generation Qwen is recognised, read or refused."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from qwen1_checkpoint import VOCABULARY, checkpoint, config

from repe.errors import UserError
from repe.models.qwen1 import checkpoint as qwen1
from repe.models.qwen1 import tokenizer as qwen1_tokenizer
from repe.models.qwen1.weights import load_model


def test_the_family_is_recognised_by_the_config(tmp_path):
    assert qwen1.is_first_generation_qwen(checkpoint(tmp_path))
    for text in ('{"model_type": "qwen2"}', "[]", "{"):
        (tmp_path / "config.json").write_text(text)
        assert not qwen1.is_first_generation_qwen(tmp_path)
    assert not qwen1.is_first_generation_qwen(tmp_path / "nowhere")


def test_nothing_of_the_remote_code_is_needed(tmp_path):
    script = (
        "import sys; from pathlib import Path; from repe.models.qwen1 import checkpoint\n"
        f"folder = Path({str(checkpoint(tmp_path))!r})\n"
        "assert checkpoint.is_first_generation_qwen(folder)\n"
        "assert not {'torch', 'transformers', 'tokenizers', 'numpy'} & set(sys.modules)\n"
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
        ({"model_type": "llama"}, "model_type is 'llama', not 'qwen'"),
        ({"quantization_config": {"bits": 4}}, "quantised"),
        ({"rotary_pct": 0.5}, "rotary_pct is 0.5"),
        ({"no_bias": False}, "no_bias is False"),
        ({"hidden_size": -16}, "hidden_size is -16"),
        ({"num_hidden_layers": 2.5}, "num_hidden_layers .* is 2.5, not an integer"),
        ({"num_attention_heads": 3}, "3 heads of size 8"),
        ({"kv_channels": "8"}, "kv_channels is '8'"),
        ({"seq_length": None}, "seq_length is None"),
    ],
)
def test_bad_settings_are_named(tmp_path, changes, message):
    with pytest.raises(UserError, match=rf"config\.json: .*{message}"):
        load_model(checkpoint(tmp_path, **changes), dtype=torch.float32)


@pytest.mark.parametrize("key", ["hidden_size", "intermediate_size", "num_hidden_layers", "seq_length", "vocab_size"])
def test_a_missing_key_is_named(tmp_path, key):
    folder = checkpoint(tmp_path)
    (folder / "config.json").write_text(json.dumps({name: value for name, value in config().items() if name != key}))
    with pytest.raises(UserError, match=f"config.json: the key .*{key}.* is missing"):
        load_model(folder, dtype=torch.float32)
