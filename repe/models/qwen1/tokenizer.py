"""The tokenizer of a first-generation Qwen: its `qwen.tiktoken` as a fast tokenizer of Transformers."""

import base64
from collections.abc import Mapping
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from repe.errors import UserError
from repe.models.qwen1.checkpoint import CONFIG_FILE, qwen2_settings, read_json

TOKENIZER_FILE = "qwen.tiktoken"

END_OF_TEXT, IM_START, IM_END, PAD = "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|extra_0|>"
# In the order of their ids, which follow the ids of the mergeable tokens.
SPECIAL_TOKENS = (END_OF_TEXT, IM_START, IM_END, *(f"<|extra_{number}|>" for number in range(205)))
# Mergeable tokens of every published checkpoint. The published code numbers the special tokens from here.
PUBLISHED_RANKS = 151643

# As in Qwen2: GPT-4's splitting, but with single digits.
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

# The format that the chat models were tuned on, with the default system line of their chat function.
CHAT_TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Load a checkpoint's tokenizer; it produces the same ids as the published code.

    It pads on the left with `<|extra_0|>`, adds no tokens around a text and recognises special tokens that are written
    out in a text. Its end token is `<|endoftext|>`, as in the chat models' `generation_config.json`; a chat turn ends
    with `<|im_end|>`, at which models from `weights.load_model` also stop. Its `model_max_length` is the training
    length. It has the ChatML template unless `generation_config.json` describes a base model ("raw").

    Args:
        folder: of the checkpoint.

    Raises:
        UserError: `qwen.tiktoken` is damaged or does not match the config, the config is not valid, or a JSON file is
            damaged.
    """
    settings, generation = qwen2_settings(folder), folder / "generation_config.json"
    is_base = generation.is_file() and read_json(generation).get("chat_format") == "raw"
    ranks = _read_ranks(folder / TOKENIZER_FILE)
    _check_vocabulary(folder, len(ranks), settings["vocab_size"])
    return PreTrainedTokenizerFast(
        tokenizer_object=_byte_pair_encoder(ranks),
        eos_token=END_OF_TEXT,
        pad_token=PAD,
        padding_side="left",
        model_max_length=settings["max_position_embeddings"],
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
        chat_template=None if is_base else CHAT_TEMPLATE,
    )


def special_token_ids(folder: Path) -> dict[str, int]:
    """The id of each special token of the checkpoint in `folder`.

    Raises:
        UserError: `qwen.tiktoken` is damaged.
    """
    first = len(_read_ranks(folder / TOKENIZER_FILE))
    return {token: first + position for position, token in enumerate(SPECIAL_TOKENS)}


def _read_ranks(path: Path) -> dict[bytes, int]:
    """The id of each mergeable token, in the order 0, 1, ...; a lower id is merged first."""
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if not line:
            continue
        try:
            encoded, rank = line.split()
            token = base64.b64decode(encoded, validate=True)
            in_order = int(rank) == len(ranks) and token not in ranks
        except ValueError:
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
    # A file that is cut off after a line would shift the ids of all special tokens.
    if tokens > vocab_size or (vocab_size >= full_size and tokens != full_size):
        raise UserError(
            f"{folder / TOKENIZER_FILE}: {ranks} tokens and {len(SPECIAL_TOKENS)} special ones do not match the "
            f"vocabulary of {vocab_size} in {CONFIG_FILE}: download both files again"
        )


def _byte_pair_encoder(ranks: Mapping[bytes, int]) -> Tokenizer:
    vocabulary, merges = _vocabulary_and_merges(ranks)
    # As in tiktoken, a word that is a token itself is not built by merging.
    encoder = Tokenizer(BPE(vocabulary, merges, ignore_merges=True))
    encoder.normalizer = normalizers.NFC()
    encoder.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORD_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    encoder.decoder = decoders.ByteLevel()
    # As in the published code, special tokens are recognised after normalisation.
    encoder.add_special_tokens([AddedToken(token, special=True, normalized=True) for token in SPECIAL_TOKENS])
    return encoder


def _vocabulary_and_merges(ranks: Mapping[bytes, int]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """The ranks in the form of the tokenizers library: bytes as printable characters, and merges by priority.

    tiktoken merges any two neighbours that form a known token, so every split of a token into two tokens is a merge.
    """
    characters = bytes_to_unicode()
    text = {token: "".join(characters[byte] for byte in token) for token in ranks}
    merges = [
        (text[token[:cut]], text[token[cut:]])
        for token in ranks
        for cut in range(1, len(token))
        if token[:cut] in ranks and token[cut:] in ranks
    ]
    return {text[token]: rank for token, rank in ranks.items()}, merges
