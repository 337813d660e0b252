"""GGUF files: the states of the same model, and refusals of damaged files."""

import shutil
import struct
from pathlib import Path

import gguf
import pytest
import torch
import transformers
from conftest import config, load

import repe
from repe.errors import UserError
from repe.models import hub

TEXTS = ["a dog", "she gives the old bread to a stranger", "no"]
# Parts of a block of Qwen2 and their names in GGUF.
PARTS = {
    **{f"self_attn.{part}_proj": f"attn_{part}" for part in "qkv"},
    "self_attn.o_proj": "attn_output",
    **{f"mlp.{part}_proj": f"ffn_{part}" for part in ("gate", "up", "down")},
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
TOP = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def gguf_name(name: str) -> str:
    """The GGUF name of a tensor of Qwen2."""
    stem, kind = name.rsplit(".", 1)
    if stem in TOP:
        return f"{TOP[stem]}.{kind}"
    _, _, block, part = stem.split(".", 3)
    return f"blk.{block}.{PARTS[part]}.{kind}"


@pytest.fixture(scope="module")
def gguf_file(model_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Qwen2 in float32 in the GGUF format."""
    path = tmp_path_factory.mktemp("gguf") / "tiny.F32.gguf"
    folder, made = model_folders["qwen2"], config("qwen2")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_context_length(made.max_position_embeddings)
    writer.add_block_count(made.num_hidden_layers)
    writer.add_embedding_length(made.hidden_size)
    writer.add_feed_forward_length(made.intermediate_size)
    writer.add_head_count(made.num_attention_heads)
    writer.add_head_count_kv(made.num_key_value_heads)
    writer.add_layer_norm_rms_eps(made.rms_norm_eps)
    writer.add_vocab_size(made.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokenizer.convert_ids_to_tokens(range(made.vocab_size)))
    writer.add_token_types([gguf.TokenType.CONTROL] * 3 + [gguf.TokenType.NORMAL] * (made.vocab_size - 3))
    # Instead of merges, which the tokenizer does not have.
    writer.add_token_scores([0.0] * made.vocab_size)
    writer.add_pad_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    for name, tensor in transformers.AutoModelForCausalLM.from_pretrained(folder).state_dict().items():
        writer.add_tensor(gguf_name(name), tensor.float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_gguf_file_gives_the_states_of_its_checkpoint(gguf_file: Path, model_folders: dict[str, Path]) -> None:
    model = repe.load_model(gguf_file, device="cpu")
    assert model.label == "tiny.F32"
    assert model.lm is not None
    reference = load(model_folders["qwen2"])
    ids = model.tokenizer(TEXTS)["input_ids"]
    # The format does not say that the tokenizer puts a token in front of a text.
    assert [[1, *row] for row in ids] == reference.tokenizer(TEXTS)["input_ids"]
    plain = load(model_folders["qwen2"])
    plain.tokenizer = model.tokenizer
    torch.testing.assert_close(model.states(TEXTS), plain.states(TEXTS), rtol=1e-4, atol=1e-5)


def test_a_file_is_parsed_once(gguf_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed = []

    class Reader(gguf.GGUFReader):
        def __init__(self, path: str) -> None:
            parsed.append(path)
            super().__init__(path)

    monkeypatch.setattr(gguf, "GGUFReader", Reader)
    assert repe.load_model(gguf_file, device="cpu").layers == 3
    assert len(parsed) == 1
    assert gguf.GGUFReader is Reader


def test_the_fingerprint_depends_on_the_file_only(gguf_file: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copy(gguf_file, tmp_path))
    (tmp_path / "config.json").write_text("{}")
    assert hub.find(str(copy)).fingerprint() == hub.find(str(gguf_file)).fingerprint()
    raw = bytearray(copy.read_bytes())
    raw[-1] ^= 1
    copy.write_bytes(raw)
    assert hub.find(str(copy)).fingerprint() != hub.find(str(gguf_file)).fingerprint()


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "is not a GGUF file"),
        (b"PK\x03\x04" + bytes(60), "is not a GGUF file"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1 << 40, 2), "is damaged .*its header promises"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2, 1 << 60) + bytes(500), "is damaged .*its header promises"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + bytes(500), "cannot be loaded"),
    ],
)
def test_a_damaged_file_is_refused(raw: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(raw)
    with pytest.raises(UserError, match=rf"model\.gguf {message}.*: .*download"):
        repe.load_model(path, device="cpu")


def test_a_truncated_file_is_refused(gguf_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(gguf_file.read_bytes()[:-4000])
    with pytest.raises(UserError, match=r"tiny\.gguf cannot be loaded \(.*\): fix the files or download them again"):
        repe.load_model(path, device="cpu")
