"""States are Transformers' own `hidden_states[1:]` of each text's last token."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from conftest import FAMILIES, LAYERS, build, byte_tokenizer, load
from transformers import AutoModel, AutoTokenizer

from repe.errors import UserError
from repe.models.model import Model
from repe.models.registry import Template
from repe.vectors.hidden_states import batches, last_token_states, tokenize

TEXTS = ["a dog", "she gives the old bread to a stranger and takes nothing", "他偷了钱", "no", "a dog helps"]


def changed(model: Model, **attributes: Any) -> Model:
    """A copy of a model with other attributes."""
    other = copy.copy(model)
    other.limits = {}
    vars(other).update(attributes)
    return other


def reference(folder: Path, text: str) -> torch.Tensor:
    """(layers, hidden): the states of a single text from Transformers."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        output = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True)
    return torch.stack(output.hidden_states[1:])[:, 0, -1]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("batch_size", [None, 1, 3])
def test_states_are_transformers_own_hidden_states(
    family: str, batch_size: int | None, model_folders: dict[str, Path]
) -> None:
    states = last_token_states(load(model_folders[family]), TEXTS, batch_size)
    expected = torch.stack([reference(model_folders[family], text) for text in TEXTS], dim=1)
    assert states.shape == (LAYERS, len(TEXTS), 32)
    torch.testing.assert_close(states, expected, rtol=1e-4, atol=1e-5)


def test_the_last_layer_is_after_the_final_norm(model_folders: dict[str, Path]) -> None:
    model = load(model_folders["llama"])
    states = last_token_states(model, TEXTS)
    before_norm = []
    hook = model.blocks[-1].register_forward_hook(lambda _block, _inputs, output: before_norm.append(output))
    with torch.no_grad():
        model.trunk(input_ids=torch.tensor([model.tokenizer(TEXTS[0])["input_ids"]]))
    hook.remove()
    normed = model.trunk.norm(before_norm[0])[0, -1]
    torch.testing.assert_close(states[-1, 0], normed)
    assert not torch.allclose(states[-1, 0], before_norm[0][0, -1])


@pytest.mark.parametrize("family", ["llama", "bloom", "gpt2"])
def test_padding_side_and_missing_pad_token_do_not_matter(family: str, tmp_path: Path) -> None:
    kinds = [{"padding_side": "left"}, {"padding_side": "right"}, {"pad": False}]
    folders = [build(tmp_path / str(number), family, **kind) for number, kind in enumerate(kinds)]
    states = [last_token_states(load(folder), TEXTS) for folder in folders]
    assert torch.equal(states[0], states[1])
    assert torch.equal(states[0], states[2])


def test_the_trunk_runs_without_the_vocabulary_head(model_folders: dict[str, Path]) -> None:
    model = load(model_folders["llama"])
    assert type(model.trunk) is transformers.LlamaModel
    assert not any("lm_head" in name for name, _ in model.trunk.named_parameters())


def test_hooks_are_removed_after_an_error(model_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(model_folders["llama"])
    # Transformers leaves hooks of its own.
    before = [list(block._forward_hooks) for block in model.blocks]

    def fail(**_: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(model.trunk, "forward", fail)
    with pytest.raises(RuntimeError, match="broken"):
        last_token_states(model, TEXTS)
    assert [list(block._forward_hooks) for block in model.blocks] == before


def test_states_that_are_not_finite_are_an_error_that_names_layer_and_text(model_folders: dict[str, Path]) -> None:
    model = load(model_folders["llama"])
    with torch.no_grad():
        model.blocks[1].mlp.down_proj.weight.fill_(float("nan"))
    with pytest.raises(
        UserError, match=r"tiny-llama: the state of layer 2 is not finite in torch.float32 for 'a dog': the weights"
    ):
        last_token_states(model, TEXTS[:1])


def test_a_text_that_exceeds_the_context_length_is_refused_and_named(model_folders: dict[str, Path]) -> None:
    with pytest.raises(
        UserError,
        match=r"'word word.*\.\.\.' has 1251 tokens and exceeds the context length of tiny-gpt2 \(256\): .*--truncate",
    ):
        last_token_states(load(model_folders["gpt2"]), ["word " * 250])


def test_a_text_without_tokens_is_refused(tmp_path: Path) -> None:
    folder = build(tmp_path / "tiny-gpt2", "gpt2", bos=False)
    with pytest.raises(UserError, match="tiny-gpt2 produced no tokens for '': fix the text"):
        last_token_states(load(folder), ["a", ""])


def test_half_precision_states_keep_the_models_dtype(model_folders: dict[str, Path]) -> None:
    half = last_token_states(load(model_folders["llama"], dtype="bfloat16"), TEXTS)
    assert half.dtype == torch.bfloat16
    whole = last_token_states(load(model_folders["llama"]), TEXTS)
    assert torch.nn.functional.cosine_similarity(half.float(), whole, dim=-1).min() > 0.99


def test_batches_contain_every_text_once_longest_first() -> None:
    lengths = [5, 900, 7, 7, 1, 2000, 3000, 4]
    for batch_size in (None, 1, 3):
        found = list(batches(lengths, 2048, batch_size))
        assert sorted(row for rows in found for row in rows) == list(range(len(lengths)))
        in_order = [lengths[row] for rows in found for row in rows]
        assert in_order == sorted(lengths, reverse=True)
        assert all(len(rows) <= (batch_size or len(rows)) for rows in found)
    assert [len(rows) for rows in batches([600] * 5, 2048, None)] == [3, 2]


def test_each_text_is_put_into_the_template(model_folders: dict[str, Path]) -> None:
    plain, asked = load(model_folders["llama"]), load(model_folders["llama"], "[INST] {input} [/INST] ")
    inside = last_token_states(asked, ["a {dog} {}"])
    assert torch.equal(inside, last_token_states(plain, ["[INST] a {dog} {} [/INST] "]))


def test_the_byte_tokenizer_has_one_token_per_byte() -> None:
    assert len(byte_tokenizer()("他 a")["input_ids"]) == 1 + 3 + 1 + 1


def test_truncation_cuts_the_text_and_keeps_the_template(model_folders: dict[str, Path]) -> None:
    model = changed(load(model_folders["gpt2"], "Q: {input} A:"), truncate=True)
    long, short = "ab " * 200, "ab"
    cut, whole = tokenize(model, [long, short])
    # <s>, 252 bytes of text and the template's 3 + 3 bytes.
    assert len(cut) == 256
    assert model.tokenizer.decode(cut[1:]) == f"Q: {long[:249]} A:"
    assert whole == tokenize(load(model_folders["gpt2"], "Q: {input} A:"), [short])[0]
    with pytest.raises(UserError, match=r"the template alone exceeds the context length of tiny-gpt2 \(256 tokens\)"):
        tokenize(changed(model, template=Template("x" * 300 + "{input}", True)), ["a"])


class LimitedTrunk(torch.nn.Module):
    """A trunk that runs out of memory above a number of padded tokens."""

    def __init__(self, trunk: torch.nn.Module, limit: int) -> None:
        super().__init__()
        self.trunk, self.limit, self.sizes = trunk, limit, []
        self.config = trunk.config

    def forward(self, input_ids: torch.Tensor, position_ids: torch.Tensor | None = None, **options: object) -> object:
        self.sizes.append(len(input_ids))
        if input_ids.numel() > self.limit:
            raise torch.OutOfMemoryError
        return self.trunk(input_ids=input_ids, position_ids=position_ids, **options)


@pytest.mark.parametrize("batch_size", [None, 8])
def test_when_memory_runs_out_batches_are_halved_and_stay_small(
    batch_size: int | None, model_folders: dict[str, Path]
) -> None:
    model = load(model_folders["llama"])
    texts = [f"{number:03d} a dog" for number in range(16)]  # 10 tokens each
    limited = changed(model, trunk=LimitedTrunk(model.trunk, limit=25), layout="batches")
    states = last_token_states(limited, texts, batch_size)
    torch.testing.assert_close(states, last_token_states(model, texts), rtol=1e-4, atol=1e-5)
    first = batch_size or 16
    assert limited.trunk.sizes[: limited.trunk.sizes.index(2)] == [
        first // 2**step for step in range(first.bit_length() - 2)
    ]
    limited.trunk.sizes.clear()
    last_token_states(limited, texts, batch_size)
    assert set(limited.trunk.sizes) == {2}


def test_a_text_that_does_not_fit_alone_is_an_error(model_folders: dict[str, Path]) -> None:
    model = load(model_folders["llama"])
    limited = changed(model, trunk=LimitedTrunk(model.trunk, limit=5))
    with pytest.raises(UserError, match="a text of 10 tokens does not fit into memory"):
        last_token_states(limited, ["001 a dog", "a"])


def test_texts_are_tokenized_in_several_calls_and_none_is_lost(
    model_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(model_folders["llama"])
    texts = [f"{number} " * (number + 1) for number in range(8)]
    whole = tokenize(model, texts)
    assert len(whole) == 8
    monkeypatch.setattr("repe.vectors.hidden_states.TEXTS_PER_CALL", 3)
    assert tokenize(model, texts) == whole
