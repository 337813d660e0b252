"""First-generation Qwen's tokenizer agrees with the published code and with byte-pair encoding by its definition."""

import base64
import json
import random
import unicodedata
from pathlib import Path

import pytest
from qwen1_checkpoint import VOCABULARY, WORDS, checkpoint, ranks
from transformers import PreTrainedTokenizerFast

from repe.errors import UserError
from repe.models.qwen1.tokenizer import SPECIAL_TOKENS, load_tokenizer

PIECES = [*WORDS, *"athen ig", "xyz", "\n", "\r\n", "\t", "'s", "'LL", "12", "7", "e\u0301", "!", "=="]


@pytest.fixture(scope="module")
def golden_tokenizer(golden: Path) -> PreTrainedTokenizerFast:
    return load_tokenizer(golden / "qwen1_tiny")


def test_golden_ids(golden: Path, golden_tokenizer: PreTrainedTokenizerFast):
    expected = json.loads((golden / "qwen1_tiny" / "expected.json").read_text())
    assert golden_tokenizer(expected["texts"]).input_ids == expected["input_ids"]
    assert golden_tokenizer.pad_token_id == 151646


def reference_ids(text: str, tokens: dict[bytes, int]) -> list[int]:
    """Byte-pair encoding by its definition: in each word join the neighbours of lowest rank, leftmost first."""
    find_words = pytest.importorskip("regex").findall
    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    ids = []
    for word in find_words(pattern, unicodedata.normalize("NFC", text)):
        whole = word.encode()
        parts = [whole] if whole in tokens else [bytes([byte]) for byte in whole]
        while joins := [(tokens[a + b], at) for at, (a, b) in enumerate(zip(parts, parts[1:])) if a + b in tokens]:  # noqa: B905, RUF007
            _, at = min(joins)
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        ids += [tokens[part] for part in parts]
    return ids


def scrambled(count: int, pieces: list[str]) -> list[str]:
    generator = random.Random(0)
    return ["".join(generator.choices(pieces, k=generator.randint(1, 12))) for _ in range(count)]


def test_ids_are_byte_pair_encoding_by_its_definition(tmp_path):
    tokenizer = load_tokenizer(checkpoint(tmp_path))
    tokens = {token: rank for rank, token in enumerate(ranks())}
    for text in scrambled(500, PIECES):
        assert tokenizer(text).input_ids == reference_ids(text, tokens), repr(text)
        assert tokenizer.decode(tokenizer(text).input_ids) == unicodedata.normalize("NFC", text)


def test_ids_of_the_real_vocabulary_are_byte_pair_encoding_by_its_definition(golden, golden_tokenizer):
    lines = (golden / "qwen1_tiny" / "qwen.tiktoken").read_bytes().split()
    tokens = {base64.b64decode(token): int(rank) for token, rank in zip(lines[::2], lines[1::2], strict=True)}
    words = ["It's", "WE'LL", "naïve", "1,234.5", "道德观", "嘘をつく", "약속을", "நான்", "నేను", "kwa", "người", "हिन्दी"]
    for text in scrambled(1500, [*PIECES, *words, *" .,:\u00a0\u3000\u200b"]):
        assert golden_tokenizer(text).input_ids == reference_ids(text, tokens), repr(text)


def test_special_tokens_follow_the_ranks_and_pad_on_the_left(tmp_path):
    tokenizer = load_tokenizer(checkpoint(tmp_path))
    first = len(ranks())
    assert tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == list(range(first, first + 208))
    assert SPECIAL_TOKENS[-1] == "<|extra_204|>"
    assert len(tokenizer) == VOCABULARY
    assert (tokenizer.pad_token, tokenizer.eos_token, tokenizer.bos_token) == ("<|extra_0|>", "<|endoftext|>", None)
    assert (tokenizer.padding_side, tokenizer.model_max_length) == ("left", 64)
    batch = tokenizer(["a<|im_end|>", "a"], padding=True)
    a = ranks().index(b"a")
    assert batch == {"input_ids": [[a, first + 2], [first + 3, a]], "attention_mask": [[1, 1], [0, 1]]}
    assert tokenizer.decode(batch["input_ids"][0], skip_special_tokens=True) == "a"
    # The original looks for special tokens in the normalised text, where this one's last sign is another character.
    assert first + 2 not in tokenizer("<|im_end|>\u0338").input_ids


def test_chat_template_is_chatml_with_the_models_own_system_line(tmp_path):
    folder = checkpoint(tmp_path)
    tokenizer = load_tokenizer(folder)
    turns = [{"role": "user", "content": "Hi"}]
    start = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
    assert tokenizer.apply_chat_template(turns, tokenize=False) == start
    asked = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert asked == start + "<|im_start|>assistant\n"
    own = tokenizer.apply_chat_template([{"role": "system", "content": "S"}, *turns], tokenize=False)
    assert own == "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
    (folder / "generation_config.json").write_text('{"chat_format": "raw"}')
    assert load_tokenizer(folder).chat_template is None


@pytest.mark.parametrize(
    "where", ["gap", "twice", "no rank", "not base64", "cut", "empty", "bytes missing", "too many"]
)
def test_a_damaged_tokenizer_file_is_named(tmp_path, where):
    path = checkpoint(tmp_path) / "qwen.tiktoken"
    lines = path.read_text().splitlines()
    damaged = {
        "gap": lines[:100] + lines[101:],
        "twice": [*lines, f"{lines[5].split()[0]} {len(lines)}"],
        "no rank": [*lines[:-1], lines[-1].split()[0]],
        "not base64": [*lines[:-1], f"=*=* {len(lines) - 1}"],
        "cut": [*lines[:-1], lines[-1][:-2]],
        "empty": [],
        "bytes missing": lines[:200],
        "too many": [*lines, f"{base64.b64encode(b'zzz').decode()} {len(lines)}"],
    }[where]
    path.write_text("\n".join(damaged))
    with pytest.raises(UserError, match=r"qwen\.tiktoken: "):
        load_tokenizer(tmp_path)


def test_a_tokenizer_file_of_the_wrong_length_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"do not match the vocabulary of 151936"):
        load_tokenizer(checkpoint(tmp_path, vocab_size=151936))


def test_a_missing_tokenizer_file_is_named(tmp_path):
    (checkpoint(tmp_path) / "qwen.tiktoken").unlink()
    with pytest.raises(FileNotFoundError, match=r"qwen\.tiktoken"):
        load_tokenizer(tmp_path)
