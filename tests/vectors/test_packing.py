"""Packed texts have the states of single texts, each distinct token is run once, and other models fall back."""

from pathlib import Path

import pytest
import torch
import transformers
from conftest import byte_tokenizer, load
from test_hidden_states import LimitedTrunk, changed

from repe.models.model import Model
from repe.models.source import own_states
from repe.vectors import hidden_states, packing
from repe.vectors.hidden_states import Batches, last_token_states, read, relative_difference, tokenize
from repe.vectors.packing import BATCHES, PACKED, PREFIX, Packs, choose

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
@pytest.mark.parametrize("attention", [None, "eager"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_check_finds_how_a_model_can_be_read(
    family: str, attention: str | None, dtype: torch.dtype, model_folders: dict[str, Path]
) -> None:
    options = {"attn_implementation": attention, "dtype": dtype}
    trunk = transformers.AutoModel.from_pretrained(model_folders[family], **options)
    assert Model(trunk, byte_tokenizer(), TEMPLATE).layout == LAYOUTS[family]


@pytest.mark.parametrize("family", LAYOUTS)
@pytest.mark.parametrize("batch_size", [None, 3])
def test_states_of_texts_that_share_tokens_are_those_of_transformers(
    family: str, batch_size: int | None, model_folders: dict[str, Path]
) -> None:
    model = load(model_folders[family], TEMPLATE)
    states = last_token_states(model, TEXTS, batch_size)
    torch.testing.assert_close(states, own_states(model, TEXTS), rtol=1e-4, atol=1e-5)


def test_each_distinct_token_is_run_once(model_folders: dict[str, Path]) -> None:
    model = load(model_folders["llama"], TEMPLATE)
    last_token_states(model, TEXTS)  # the comparisons with single texts are over
    assert tokens_run(model, TEXTS) == distinct(tokenize(model, TEXTS))


def test_the_template_is_run_once_where_positions_cannot_be_packed(model_folders: dict[str, Path]) -> None:
    model = load(model_folders["bloom"], TEMPLATE)
    assert model.layout == PREFIX
    rest = [len(ids) - 16 for ids in tokenize(model, TEXTS)]
    assert tokens_run(model, TEXTS) == 16 + len(TEXTS) * max(rest)


def test_texts_that_share_too_little_are_read_in_batches(model_folders: dict[str, Path]) -> None:
    model = load(model_folders["llama"])
    model.layout = PACKED
    texts = [f"{letter * 20} and more" for letter in "abcdefgh"]
    assert isinstance(choose(model, tokenize(model, texts), None), Batches)
    assert isinstance(choose(model, tokenize(model, TEXTS), None), Packs)
    assert isinstance(choose(model, tokenize(model, TEXTS), 1), Batches)


@pytest.mark.parametrize(("rows", "prefix"), [(1, 0), (3, 0), (3, 2)])
def test_a_row_is_the_prefix_tree_of_its_texts(rows: int, prefix: int, model_folders: dict[str, Path]) -> None:
    """Against the ancestors of each token found by comparing beginnings of texts."""
    generator = torch.Generator().manual_seed(0)
    tokens = [torch.randint(3, 5, (int(length),), generator=generator).tolist() for length in range(1, 12)] * 2
    packs = Packs(load(model_folders["llama"]), [[7, 8][:prefix] + ids for ids in tokens], prefix)
    groups = [packs.order[start : start + 8] for start in range(0, len(tokens), 8)][:rows]
    inputs, last = packs.inputs(groups)
    width = inputs["input_ids"].shape[1]
    assert inputs["attention_mask"].shape == (rows, 1, width, prefix + width)
    assert bool((inputs["attention_mask"][..., :prefix] == 0).all())
    assert ("past_key_values" in inputs) == bool(prefix)
    for row, group in enumerate(groups):
        ids, positions = inputs["input_ids"][row], inputs["position_ids"][row]
        own = inputs["attention_mask"][row, 0, :, prefix:]
        seen = [(own[token] == 0).nonzero()[:, 0] for token in range(width)]
        read_by = {text: int(index) - row * width for text, index in zip(group, last[row * 8 :], strict=False)}
        for text, index in read_by.items():
            assert ids[seen[index]].tolist() == tokens[text]
            assert positions[seen[index]].tolist() == list(range(prefix, prefix + len(tokens[text])))
        nodes = {tuple(tokens[text][:end]) for text in group for end in range(1, len(tokens[text]) + 1)}
        beginnings = {tuple(ids[seen[index]].tolist()) for end in read_by.values() for index in seen[end].tolist()}
        assert beginnings == nodes
        assert len({index for end in read_by.values() for index in seen[end].tolist()}) == len(nodes)


def test_the_template_is_run_once_for_all_rows(model_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """However many rows there are, the number of tokens is that of the distinct ones."""
    model = load(model_folders["llama"], TEMPLATE)
    texts = [
        f"{question} {answer}" for question in ("Is it far?", "Who gives?", "Do you?") for answer in ("Yes.", "No.")
    ]
    monkeypatch.setitem(packing.ROW_TOKENS, "cpu", 30)
    expected = last_token_states(model, texts, batch_size=1)
    torch.testing.assert_close(last_token_states(model, texts), expected, rtol=1e-4, atol=1e-5)
    assert tokens_run(model, texts) == distinct(tokenize(model, texts))


def test_a_window_that_the_check_texts_do_not_reach_is_found(model_folders: dict[str, Path]) -> None:
    """The texts of a call that reach farther than any before are compared with single texts."""
    trunk = transformers.AutoModel.from_pretrained(model_folders["mistral"])
    trunk.config.sliding_window = 100
    model = Model(trunk, byte_tokenizer(), TEMPLATE)
    last_token_states(model, TEXTS)
    assert model.layout == PACKED
    long = ["Is it far? " + "Yes, very far. " * 8 + end for end in ("No.", "So it is.", "Yes.")]
    states = last_token_states(model, long)
    assert model.layout == BATCHES
    single = last_token_states(model, long, batch_size=1)
    torch.testing.assert_close(states, single, rtol=1e-4, atol=1e-5)
    with torch.inference_mode():
        packed = read(Packs(model, tokenize(model, long)), long, None)
    assert relative_difference(packed, single) > 1e-3


def test_packs_that_do_not_fit_into_memory_are_halved_and_stay_small(model_folders: dict[str, Path]) -> None:
    model = load(model_folders["llama"], TEMPLATE)
    whole = last_token_states(model, TEXTS)
    limited = changed(model, trunk=LimitedTrunk(model.trunk, limit=70))
    torch.testing.assert_close(last_token_states(limited, TEXTS), whole, rtol=1e-4, atol=1e-5)
    assert limited.limits["tokens"] <= 140
    assert set(limited.trunk.sizes) == {1}
    limited.trunk.sizes.clear()
    last_token_states(limited, TEXTS)
    assert len(limited.trunk.sizes) > 1


def test_rows_on_other_devices_are_full_and_hardly_padded(
    model_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU: several rows in a pass, which also hold a text that is longer than a row."""
    model = load(model_folders["llama"], TEMPLATE)
    texts = [f"{question} {answer}" for question in ("Is it far?", "Who gives?", "And why?") for answer in "abcdefgh"]
    texts += [TEXTS[4] * 3]
    expected = last_token_states(model, texts, batch_size=1)
    monkeypatch.delitem(packing.MOST_ROWS, "cpu")
    monkeypatch.setitem(packing.ROW_TOKENS, "cpu", 64)
    monkeypatch.setitem(hidden_states.TOKENS, "cpu", 256)
    torch.testing.assert_close(last_token_states(model, texts), expected, rtol=1e-4, atol=1e-5)
    assert tokens_run(model, texts) < 1.3 * sum(map(len, tokenize(model, texts))) / 2


def test_steered_texts_are_not_packed(model_folders: dict[str, Path]) -> None:
    """Steering's scopes are told from a pass that holds one text in each row."""
    from repe.control.steering import steered

    model = load(model_folders["llama"], TEMPLATE)
    plain = last_token_states(model, TEXTS)
    assert model.layout == PACKED
    steps = {1: torch.full((model.hidden_size,), 0.5)}
    with steered(model.trunk, model.blocks, steps, scope="last"):
        together = last_token_states(model, TEXTS)
        single = last_token_states(model, TEXTS, batch_size=1)
    torch.testing.assert_close(together, single, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(together[0], plain[0])
