"""Packed texts have the states of single texts, each distinct token is run once, and other models fall back."""

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from conftest import build, byte_tokenizer, config, load
from test_hidden_states import LimitedTrunk, changed, reference

from repe.models.model import Model
from repe.vectors import packing
from repe.vectors.hidden_states import Batches, last_token_states, read, relative_difference, tokenize
from repe.vectors.packing import BATCHES, PACKED, PREFIX, Packs, choose, find_layout

# Pairs that share a question, an equal text, one text inside another, and one that shares nothing.
TEXTS = [
    *("Is it far? Yes, very far.", "Is it far? No.", "Is it far? No. It is near.", "Is it far? No."),
    *("Who gives bread to a stranger? A friend.", "Who gives bread to a stranger? Nobody does.", "他偷了钱", "Is"),
]
TEMPLATE = "You are asked: {input} END"

LAYOUTS = {
    **dict.fromkeys(("llama", "qwen2", "qwen3", "gpt_neox", "gpt2"), PACKED),
    # The check texts are longer than the windows of 16 tokens.
    **dict.fromkeys(("bloom", "mistral", "gemma2", "gemma3"), PREFIX),
    "bert": BATCHES,
}


def tokens_run(model: Model, texts: list[str], batch_size: int | None = None) -> int:
    """The number of padded tokens that the trunk reads for some texts."""
    counts: list[int] = []
    embeddings = model.trunk.get_input_embeddings()
    hook = embeddings.register_forward_pre_hook(lambda _module, inputs: counts.append(inputs[0].numel()))
    last_token_states(model, texts, batch_size)
    hook.remove()
    return sum(counts)


def distinct(tokens: list[list[int]]) -> int:
    """The number of nodes of the texts' prefix tree."""
    return len({tuple(ids[:end]) for ids in tokens for end in range(1, len(ids) + 1)})


@pytest.mark.parametrize("family", LAYOUTS)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_check_finds_how_a_model_can_be_read(family: str, attention: str) -> None:
    torch.manual_seed(0)
    if (family, attention) == ("gemma2", "sdpa"):
        pytest.skip("Transformers runs it with eager attention only")
    trunk = transformers.AutoModel.from_config(config(family), attn_implementation=attention)
    with torch.no_grad():
        for parameter in trunk.parameters():
            parameter.mul_(4 if parameter.ndim > 1 else 1)
    model = Model(trunk, byte_tokenizer(), TEMPLATE)
    assert find_layout(model) == LAYOUTS[family]
    assert find_layout(Model(trunk.bfloat16(), byte_tokenizer(), TEMPLATE)) == LAYOUTS[family]


@pytest.mark.parametrize("family", LAYOUTS)
@pytest.mark.parametrize("batch_size", [None, 3])
def test_states_of_texts_that_share_tokens_are_those_of_transformers(
    family: str, batch_size: int | None, model_folders: dict[str, Path]
) -> None:
    model = load(model_folders[family], TEMPLATE)
    states = last_token_states(model, TEXTS, batch_size)
    expected = [reference(model_folders[family], TEMPLATE.replace("{input}", text)) for text in TEXTS]
    torch.testing.assert_close(states, torch.stack(expected, dim=1), rtol=1e-4, atol=1e-5)


def test_each_distinct_token_is_run_once(model_folders: dict[str, Path]) -> None:
    model = load(model_folders["llama"], TEMPLATE)
    last_token_states(model, TEXTS)  # the comparisons with single texts are over
    assert tokens_run(model, TEXTS) == distinct(tokenize(model, TEXTS))


def test_the_template_is_run_once_where_positions_cannot_be_packed(model_folders: dict[str, Path]) -> None:
    model = load(model_folders["bloom"], TEMPLATE)
    assert model.layout == PREFIX
    rest = [len(ids) - 16 for ids in tokenize(model, TEXTS)]
    assert tokens_run(model, TEXTS) == 16 + len(TEXTS) * max(rest)
