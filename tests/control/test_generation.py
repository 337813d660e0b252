"""Generation agrees with Transformers' own, one prompt at a time; likelihoods with a plain forward pass."""

import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import build, load
from transformers import AutoModelForCausalLM

from repe.control.generation import (
    Decoding,
    generate,
    next_token_log_probabilities,
    prompt_batches,
    read_prompts,
    reply_losses,
    reply_texts,
)
from repe.control.prompts import Prompt
from repe.errors import UserError
from repe.models.source import check_causal

CAUSAL = ("llama", "qwen2", "bloom", "gpt_neox", "gpt2", "gemma2", "mistral")
ROWS = [[1, 5, 9, 70, 33], [1, 40], [1, 7, 19, 90, 8, 12, 6]]


load_causal = partial(load, with_head=True)


@pytest.mark.parametrize("family", CAUSAL)
def test_a_batch_gives_what_transformers_gives_each_prompt_alone(family: str, model_folders: dict[str, Path]) -> None:
    found = generate(load_causal(model_folders[family]), ROWS, Decoding(max_new_tokens=8))
    lm = AutoModelForCausalLM.from_pretrained(model_folders[family])
    for row, reply in zip(ROWS, found, strict=True):
        ids = torch.tensor([row])
        alone = lm.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False)
        expected = alone[0, len(row) :].tolist()
        assert reply == (expected[: expected.index(2)] if 2 in expected else expected)


@pytest.mark.parametrize("family", CAUSAL)
def test_replies_continue_from_prompts_that_were_read(
    family: str, model_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_causal(model_folders[family])
    read, expected = read_prompts(model, ROWS), generate(model, ROWS, Decoding(max_new_tokens=8))
    widths, forward = [], model.trunk.forward

    def counted(*args: Any, **kwargs: Any) -> Any:
        widths.append((args[0] if args else kwargs["input_ids"]).shape[1])
        return forward(*args, **kwargs)

    monkeypatch.setattr(model.trunk, "forward", counted)
    for _ in range(2):
        assert generate(model, ROWS, Decoding(max_new_tokens=8), read=read) == expected
    assert {*widths} == {1}


@pytest.mark.parametrize("family", ["llama", "bloom"])
def test_the_next_token_is_that_of_each_prompt_alone(family: str, model_folders: dict[str, Path]) -> None:
    model = load_causal(model_folders[family])
    lm = AutoModelForCausalLM.from_pretrained(model_folders[family])
    read = read_prompts(model, ROWS)
    for rows in (ROWS, [[*row, 11] for row in ROWS]):  # the prompts that were read, and longer ones
        with torch.no_grad():
            expected = torch.stack([lm(torch.tensor([row])).logits[0, -1].log_softmax(-1) for row in rows])
        for known in (None, read):
            found = next_token_log_probabilities(model, rows, known)
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_a_checkpoints_own_decoding_settings_are_ignored(tmp_path: Path) -> None:
    folder = build(tmp_path / "m", "llama")
    plain = generate(load_causal(folder), ROWS, Decoding(max_new_tokens=8))
    lm = AutoModelForCausalLM.from_pretrained(folder)
    lm.generation_config.update(do_sample=True, temperature=5.0, repetition_penalty=9.0)
    lm.generation_config.save_pretrained(folder)
    assert generate(load_causal(folder), ROWS, Decoding(max_new_tokens=8)) == plain


def test_a_reply_ends_before_the_token_that_ends_it(tmp_path: Path) -> None:
    model = load_causal(build(tmp_path / "m", "llama"))
    whole = generate(model, ROWS, Decoding(max_new_tokens=8))
    model.lm.generation_config.eos_token_id = [2, whole[0][3]]
    assert generate(model, ROWS, Decoding(max_new_tokens=8))[0] == whole[0][: whole[0].index(whole[0][3])]


def test_sampling_depends_on_its_seeds_only_and_leaves_the_global_seed_alone(model_folders: dict[str, Path]) -> None:
    model = load_causal(model_folders["llama"])
    sampled = Decoding(max_new_tokens=8, temperature=2.0)
    torch.manual_seed(5)
    first = generate(model, ROWS, sampled, seed=3)
    after = torch.rand(1)
    assert first == generate(model, ROWS, sampled, seed=3)
    assert first != generate(model, ROWS, sampled, seed=4)
    assert first != generate(model, ROWS, replace(sampled, seed=2), seed=3)
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(1))


@pytest.mark.parametrize("family", CAUSAL)
def test_losses_are_those_of_each_reply_alone(family: str, model_folders: dict[str, Path]) -> None:
    # Some models attend to 16 tokens only.
    rows = [*ROWS, [1, *range(40, 70)]]
    replies = [[9, 9, 12], [], [50], [7, 8, 9, 10]]
    model = load_causal(model_folders[family])
    read = read_prompts(model, rows)
    reply_losses(model, read, [[8, 8], [4], [50, 51, 52, 53, 54], []])  # does not change what was read of the prompts
    found = reply_losses(model, read, replies)
    lm = AutoModelForCausalLM.from_pretrained(model_folders[family]).eval()
    for row, reply, loss in zip(rows, replies, found, strict=True):
        if not reply:
            assert loss is None
            continue
        ids = torch.tensor([row + reply])
        with torch.no_grad():
            expected = lm(ids, labels=torch.tensor([[-100] * len(row) + reply])).loss
        assert loss == pytest.approx(float(expected), rel=1e-4)


def prompt(text: str, id: str = "a") -> Prompt:
    return Prompt(id, "en", text, False)


def test_batches_hold_prompts_of_like_length_in_the_template(model_folders: dict[str, Path]) -> None:
    model = load_causal(model_folders["llama"], template="Q {input}")
    prompts = [prompt("x" * length, str(length)) for length in (3, 40, 5, 38)]
    found = prompt_batches(model, prompts, 8, batch_size=2)
    assert [[one.id for one in batch.prompts] for batch in found] == [["40", "38"], ["5", "3"]]
    assert found[1].tokens[1] == model.tokenizer("Q xxx")["input_ids"]


def test_prompts_that_exceed_the_context_length_are_named(model_folders: dict[str, Path]) -> None:
    model = load_causal(model_folders["llama"])  # 256 positions
    assert prompt_batches(model, [prompt("x" * 247)], 8, None)
    with pytest.raises(UserError, match=r"context length of .*256 tokens.*en long \(249 tokens\).*--max-new-tokens"):
        prompt_batches(model, [prompt("x"), prompt("x" * 248, "long")], 8, None)


def test_reply_texts_come_in_the_order_of_the_prompts(model_folders: dict[str, Path]) -> None:
    model = load_causal(model_folders["llama"])
    texts = ["ab", "a much longer prompt", "c"]
    expected = [
        model.tokenizer.decode(generate(model, [model.tokenizer(text)["input_ids"]], Decoding(8))[0]).strip()
        for text in texts
    ]
    assert reply_texts(model, texts, max_new_tokens=8) == expected
    with pytest.raises(UserError, match="no vocabulary head"):
        reply_texts(load(model_folders["llama"]), texts)


def test_logits_that_are_not_finite_are_an_error(model_folders: dict[str, Path]) -> None:
    model = load_causal(model_folders["llama"])
    with torch.no_grad():
        model.lm.lm_head.weight[7] = math.nan
    with pytest.raises(UserError, match=r"not finite in torch.float32"):
        generate(model, ROWS, Decoding(max_new_tokens=2))


def test_a_model_that_reads_both_ways_or_has_no_head_is_refused(model_folders: dict[str, Path], tmp_path: Path) -> None:
    check_causal(load_causal(model_folders["bloom"]))
    with pytest.raises(UserError, match=r"no vocabulary head|both directions"):
        check_causal(load_causal(model_folders["bert"]))
    lm = AutoModelForCausalLM.from_pretrained(model_folders["llama"])
    lm.model.save_pretrained(tmp_path / "trunk")
    load_causal(model_folders["llama"]).tokenizer.save_pretrained(tmp_path / "trunk")
    with pytest.raises(UserError, match="no vocabulary head"):
        load_causal(tmp_path / "trunk")
