"""The wrapped model agrees with blocks changed by hand, and unwrapping restores the model."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import HIDDEN, LAYERS, byte_tokenizer
from test_steering import PROMPTS, Replaced, changes, hooks, padded, vectors
from torch import nn
from transformers import AutoModelForCausalLM

from repe.compat.rep_control_reading_vec import WrappedReadingVecModel
from repe.control.steering import change, steered
from repe.models.model import find_blocks

# The last one asks its blocks for their kind of attention.
FAMILIES = ("llama", "qwen2", "bloom", "gpt_neox", "gemma3")
BLOCK = 1
PARTS = ("self_attn", "mlp", "input_layernorm", "post_attention_layernorm")
NEW = 5
GREEDY = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
WIDTH = max(map(len, PROMPTS))

Lms = dict[str, nn.Module]


@pytest.fixture(scope="module")
def lms(model_folders: dict[str, Path]) -> Lms:
    return {family: AutoModelForCausalLM.from_pretrained(model_folders[family]).eval() for family in FAMILIES}


@pytest.fixture(autouse=True)
def bare(lms: Lms) -> Any:
    """Every test gets the models bare."""
    yield
    for lm in lms.values():
        WrappedReadingVecModel(lm, None).unwrap()


def wrapped(lm: nn.Module, blocks: int | list[int] = BLOCK, name: str = "decoder_block") -> WrappedReadingVecModel:
    model = WrappedReadingVecModel(lm, byte_tokenizer())
    model.wrap_block(blocks, name)
    return model


@torch.no_grad()
def logits(lm: nn.Module, side: str = "left") -> list[torch.Tensor]:
    """Of each prompt's own tokens, read in one padded batch."""
    batch = padded(PROMPTS, side)
    found = lm(**batch).logits
    return [row[mask.bool()] for row, mask in zip(found, batch["attention_mask"], strict=True)]


@torch.no_grad()
def by_hand(lm: nn.Module, change: Any, places: Any = slice(None), block: int = BLOCK, name: str = "") -> Any:
    """The same, one prompt at a time, of a block (or a part of it) replaced."""
    holder, key = (find_blocks(lm)[block], name) if name else (find_blocks(lm), str(block))
    original = getattr(holder, key)
    setattr(holder, key, Replaced(original, change, places))
    try:
        return [lm(input_ids=torch.tensor([prompt])).logits[0] for prompt in PROMPTS]
    finally:
        setattr(holder, key, original)


def assert_equal(found: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    for row, other in zip(found, expected, strict=True):
        torch.testing.assert_close(row, other, rtol=1e-4, atol=2e-4)


def differ(found: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return any((row - before).abs().max() > 1e-2 for row, before in zip(found, other, strict=True))


# Reading


@pytest.mark.parametrize("family", FAMILIES)
def test_activations_are_transformers_states_before_control(family: str, lms: Lms) -> None:
    lm, batch = lms[family], padded(PROMPTS)
    with torch.no_grad():
        states = lm(**batch, output_hidden_states=True).hidden_states
        model = wrapped(lm, [0, -2])
        assert model.get_activations(0) is None
        model.set_controller(-2, vectors())
        model(**batch)
        found = model.get_activations([0, -2])
        assert list(found) == [0, -2]
        torch.testing.assert_close(found[0], states[1], rtol=0, atol=0)
        torch.testing.assert_close(found[-2], states[-2], rtol=0, atol=0)
        # The blocks before a controlled one give what they gave, those behind it do not.
        after = lm(**batch, output_hidden_states=True).hidden_states
        real = batch["attention_mask"].bool()
        torch.testing.assert_close(
            (after[-2] - states[-2])[real], vectors().expand(int(real.sum()), -1), atol=1e-4, rtol=0
        )
    model.generate(**batch, **GREEDY)
    assert model.get_activations(np.array([0]))[0].shape == (len(PROMPTS), 1, HIDDEN)


@pytest.mark.parametrize("asked_before", [False, True])
def test_hidden_states_show_what_was_changed(asked_before: bool, model_folders: dict[str, Path]) -> None:
    lm, batch = AutoModelForCausalLM.from_pretrained(model_folders["llama"]).eval(), padded(PROMPTS[:1])
    with torch.no_grad():
        # Transformers hooks onto the blocks when it is first asked for their states, and stays there.
        plain = lm(**batch, output_hidden_states=asked_before).hidden_states
        model = wrapped(lm)
        model.set_controller(BLOCK, vectors())
        found = lm(**batch, output_hidden_states=True).hidden_states[BLOCK + 1]
        model.unwrap()
        with steered(lm, find_blocks(lm), {BLOCK + 1: vectors()}):
            same = lm(**batch, output_hidden_states=True).hidden_states[BLOCK + 1]
        plain = plain or lm(**batch, output_hidden_states=True).hidden_states
    torch.testing.assert_close(found - plain[BLOCK + 1], vectors().expand_as(found), atol=1e-4, rtol=0)
    torch.testing.assert_close(same, found)


@pytest.mark.parametrize("name", PARTS)
def test_parts_of_a_block_are_read_and_changed(name: str, lms: Lms) -> None:
    lm, a = lms["llama"], vectors(length=3)
    model = wrapped(lm, [0, 1], name)
    seen = []
    handle = getattr(find_blocks(lm)[BLOCK], name).register_forward_hook(lambda _m, _i, output: seen.append(output))
    lm(**padded(PROMPTS))
    handle.remove()
    torch.testing.assert_close(
        model.get_activations(BLOCK, name), seen[0][0] if isinstance(seen[0], tuple) else seen[0]
    )
    model.set_controller(BLOCK, a, name)
    found = logits(lm)
    model.unwrap()
    assert_equal(found, by_hand(lm, changes("linear_comb", a), name=name))


# Changing


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", FAMILIES)
def test_control_is_what_a_block_changed_by_hand_gives(family: str, side: str, lms: Lms) -> None:
    lm, a = lms[family], vectors(length=5)
    plain = logits(lm, side)
    model = wrapped(lm, [BLOCK])
    model.set_controller([BLOCK], {BLOCK: a[None], 7: "another's"})
    found = logits(lm, side)
    model.unwrap()
    assert_equal(found, by_hand(lm, changes("linear_comb", a)))
    assert differ(found, plain)


@pytest.mark.parametrize("operator", ["linear_comb", "piecewise_linear", "projection"])
def test_operators_are_those_of_steering(operator: str, lms: Lms) -> None:
    lm, a = lms["bloom"], vectors(length=2)
    model = wrapped(lm)
    model.set_controller(BLOCK, a, operator=operator)
    found = logits(lm)
    model.unwrap()
    assert_equal(found, by_hand(lm, changes(operator, a)))


@torch.no_grad()
def states_of_block(lm: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return lm(**batch, output_hidden_states=True).hidden_states[BLOCK + 1]


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_touched_only_where_masks_say_so(side: str, lms: Lms) -> None:
    lm, a, batch = lms["llama"], vectors(), padded(PROMPTS, side)
    real = batch["attention_mask"][..., None].float()
    plain, model = states_of_block(lm, batch), wrapped(lm)
    weights = torch.rand(len(PROMPTS), WIDTH, 1, generator=torch.Generator().manual_seed(0))
    for masks, expected in ((None, real), (1, 1.0), (0.5, 0.5), (weights, weights), (real, real)):
        model.set_controller(BLOCK, a, masks=masks)
        torch.testing.assert_close(states_of_block(lm, batch), plain + a * expected, atol=1e-4, rtol=0)
    model.set_controller(BLOCK, a)
    found = states_of_block(lm, batch)
    assert torch.equal(found[real[..., 0] == 0], plain[real[..., 0] == 0])
    # No mask, no padding; and the mask of the pass before is forgotten.
    bare_batch = {"input_ids": batch["input_ids"]}
    found = states_of_block(lm, bare_batch)
    model.reset()
    torch.testing.assert_close(found, states_of_block(lm, bare_batch) + a, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("token_pos", "places"),
    [(0, [0]), (-1, [5]), ([1, -2], [1, 4]), (np.array([3]), [3]), ("start", [0]), ("end", [5])],
)
def test_positions_are_those_of_the_padded_sequence(token_pos: Any, places: list[int], lms: Lms) -> None:
    lm, a, batch = lms["qwen2"], vectors(), padded(PROMPTS)
    plain, model = states_of_block(lm, batch), wrapped(lm)
    chosen = torch.zeros(1, WIDTH, 1).index_fill(1, torch.tensor(places), 1)
    for masks, real in ((None, batch["attention_mask"][..., None]), (1, 1)):
        model.set_controller(BLOCK, a, token_pos=token_pos, masks=masks)
        torch.testing.assert_close(states_of_block(lm, batch), plain + a * chosen * real, atol=1e-4, rtol=0)
        assert torch.equal(model.get_activations(BLOCK), plain)


@pytest.mark.parametrize("token_pos", ["start", "end"])
def test_activations_of_several_tokens_go_to_one_end(token_pos: str, lms: Lms) -> None:
    lm, batch = lms["llama"], padded([[5, 6, 7, 8], [9, 10, 11, 12]])
    plain, model = states_of_block(lm, batch), wrapped(lm)
    activation = torch.randn(2, 3, HIDDEN, generator=torch.Generator().manual_seed(0))
    weights = torch.tensor([[1, 0, 0.5], [0, 1, 2]])[..., None]
    place = slice(0, 3) if token_pos == "start" else slice(1, 4)
    model.set_controller(BLOCK, activation, token_pos=token_pos, masks=weights)
    expected = plain.clone()
    expected[:, place] += activation * weights
    torch.testing.assert_close(states_of_block(lm, batch), expected, atol=1e-4, rtol=0)
    model.set_controller(BLOCK, torch.cat([activation, activation[:, :1]], dim=1))
    expected = plain + torch.cat([activation, activation[:, :1]], dim=1)
    torch.testing.assert_close(states_of_block(lm, batch), expected, atol=1e-4, rtol=0)


def test_normalize_turns_states_and_keeps_their_length(lms: Lms) -> None:
    lm, a, batch = lms["llama"], vectors(), padded(PROMPTS)
    plain, model = states_of_block(lm, batch), wrapped(lm)
    model.set_controller(BLOCK, a, normalize=True)
    found = states_of_block(lm, batch)
    torch.testing.assert_close(found.norm(dim=-1), plain.norm(dim=-1))
    real = batch["attention_mask"].bool()
    cosines = torch.cosine_similarity(found[real], (plain + a)[real], dim=-1)
    torch.testing.assert_close(cosines, torch.ones_like(cosines))
    assert torch.equal(found[~real], plain[~real])
    model.set_controller(BLOCK, a, normalize=True, token_pos=-1)
    assert torch.equal(states_of_block(lm, batch)[:, :-1], plain[:, :-1])


def replies(model: Any, prompts: list[list[int]], **options: object) -> list[list[int]]:
    batch = padded(prompts)
    return model.generate(**batch, **GREEDY, **options)[:, batch["input_ids"].shape[1] :].tolist()


def test_rows_and_their_beams_have_their_own_activations(lms: Lms) -> None:
    lm, a = lms["llama"], vectors(rows=3, length=2)
    model = wrapped(lm)
    model.set_controller(BLOCK, a)
    together = {beams: replies(model, PROMPTS, num_beams=beams) for beams in (1, 3)}
    for row, prompt in enumerate(PROMPTS):
        model.set_controller(BLOCK, a[row])
        for beams, found in together.items():
            assert replies(lm, [prompt], num_beams=beams) == [found[row]]
    model.reset()
    assert replies(model, PROMPTS) != together[1]


@pytest.mark.parametrize("family", ["llama", "bloom"])
@pytest.mark.parametrize("options", [{"use_cache": False}, {"cache_implementation": "static"}])
def test_any_cache_gives_the_same(family: str, options: dict[str, object], lms: Lms) -> None:
    model = wrapped(lms[family])
    model.set_controller(BLOCK, vectors(length=30 if family == "bloom" else 2))
    assert replies(model, PROMPTS, **options) == replies(model, PROMPTS)


def test_several_tokens_at_the_end_without_a_cache(lms: Lms) -> None:
    model = wrapped(lms["llama"])
    activation = vectors(length=2).repeat(1, 2, 1)
    model.set_controller(BLOCK, activation, token_pos="end")
    same = replies(model, PROMPTS[:1], use_cache=False)
    model.set_controller(BLOCK, vectors(length=2), token_pos=[-2, -1])
    assert same == replies(model, PROMPTS[:1], use_cache=False)
    with pytest.raises(ValueError, match="2 tokens for 1 tokens of a pass: give one for all tokens"):
        model.set_controller(BLOCK, activation, token_pos="end")
        replies(model, PROMPTS[:1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_half_and_finite(dtype: torch.dtype, model_folders: dict[str, Path]) -> None:
    lm = AutoModelForCausalLM.from_pretrained(model_folders["qwen2"], dtype=dtype).eval()
    model = wrapped(lm)
    for operator in ("linear_comb", "piecewise_linear", "projection"):
        for normalize in (False, True):
            length = 1.0 if operator == "projection" else 3000.0
            model.set_controller(BLOCK, vectors(length=length), operator=operator, normalize=normalize, masks=1)
            found = lm(**padded(PROMPTS)).logits
            assert found.dtype == dtype
            assert torch.isfinite(found).all()


def test_products_of_half_precision_do_not_overflow() -> None:
    states = torch.full((1, 1, HIDDEN), 6e4, dtype=torch.float16)
    unit = torch.full((1, 1, HIDDEN), HIDDEN**-0.5, dtype=torch.float16)
    torch.testing.assert_close(change(states, unit, "projection"), -states, rtol=1e-3, atol=0)
    assert torch.equal(change(states, unit, "piecewise_linear"), unit)


def test_a_trunk_called_alone_is_controlled(lms: Lms) -> None:
    lm, a, batch = lms["llama"], vectors(), padded(PROMPTS)
    plain = states_of_block(lm, batch)
    model = wrapped(lm)
    model.set_controller(BLOCK, a)
    with torch.no_grad():
        found = lm.model(**batch, output_hidden_states=True).hidden_states[BLOCK + 1]
    torch.testing.assert_close(found, plain + a * batch["attention_mask"][..., None], atol=1e-4, rtol=0)


# Wrapping


@pytest.mark.parametrize("family", FAMILIES)
def test_unwrapping_leaves_the_model_as_it_was(family: str, lms: Lms) -> None:
    lm = lms[family]
    modules, names, before, plain = [*lm.named_modules()], [*lm.state_dict()], hooks(lm), logits(lm)
    own = [set(vars(module)) for _, module in modules]
    model = WrappedReadingVecModel(lm, byte_tokenizer())
    blocks, names_of_parts = find_blocks(lm), [name for name in PARTS if hasattr(find_blocks(lm)[0], name)]
    for name in ("decoder_block", *names_of_parts):
        model.wrap_block(range(LAYERS), name)
    parts = [getattr(block, name) for block in blocks for name in names_of_parts]
    assert all(model.is_wrapped(part) for part in (*blocks, *parts))
    assert not model.is_wrapped(lm.base_model)
    model.set_controller(list(range(LAYERS)), {layer: vectors() for layer in range(LAYERS)}, normalize=True)
    assert [*lm.named_modules()] == modules
    assert [*lm.state_dict()] == names
    assert differ(logits(lm), plain)
    model.unwrap()
    assert not any(model.is_wrapped(part) for part in (*blocks, *parts))
    assert hooks(lm) == before
    assert [*lm.named_modules()] == modules
    assert [set(vars(module)) for _, module in modules] == own
    assert all(torch.equal(row, other) for row, other in zip(logits(lm), plain, strict=True))


def test_reset_takes_controllers_off_and_keeps_blocks_wrapped(lms: Lms) -> None:
    lm = lms["gpt_neox"]
    plain, model = logits(lm), wrapped(lm)
    model.set_controller(BLOCK, vectors())
    assert differ(logits(lm), plain)
    model.reset()
    assert model.get_activations(BLOCK) is None
    assert all(torch.equal(row, other) for row, other in zip(logits(lm), plain, strict=True))
    assert model.is_wrapped(find_blocks(lm)[BLOCK])
    model.set_controller(BLOCK, vectors())
    model.wrap_block(BLOCK)
    assert differ(logits(lm), plain)


def test_a_pass_that_fails_leaves_the_model_usable(lms: Lms) -> None:
    lm = lms["llama"]
    plain, model = logits(lm), wrapped(lm)
    model.set_controller(BLOCK, vectors(rows=2))
    with pytest.raises(ValueError, match="2 rows for a batch of 3"):
        logits(lm)
    model.unwrap()
    assert all(torch.equal(row, other) for row, other in zip(logits(lm), plain, strict=True))


def test_wrappers_of_one_model_share_what_is_wrapped(lms: Lms) -> None:
    lm = lms["qwen2"]
    plain, first = logits(lm), wrapped(lm)
    first.set_controller(BLOCK, vectors(length=5))
    controlled = logits(lm)
    second = WrappedReadingVecModel(lm.model, byte_tokenizer())
    assert second.is_wrapped(find_blocks(lm)[BLOCK])
    second.wrap_block([BLOCK])
    assert_equal(logits(lm), controlled)
    copied = copy.deepcopy(lm)
    second.unwrap()
    assert not differ(logits(lm), plain)
    # A copy is controlled like its original, and independently of it.
    assert_equal(logits(copied), controlled)
    third = WrappedReadingVecModel(copied, None)
    third.reset()
    assert not differ(logits(copied), plain)
    assert torch.equal(third.get_activations(BLOCK), states_of_block(copied, padded(PROMPTS)))
    third.unwrap()
    assert not differ(logits(copied), plain)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda model: model.wrap_block(3), IndexError, "index 3 is out of range"),
        (lambda model: model.wrap_block([0, -4]), IndexError, "index -4 is out of range"),
        (lambda model: model.wrap_block(0, "attn"), AttributeError, "BloomBlock has no attribute `attn`"),
        (lambda model: model.get_activations(0), ValueError, "decoder_block of block 0 is not wrapped"),
        (lambda model: model.get_activations(BLOCK, "mlp"), ValueError, "mlp of block 1 is not wrapped"),
        (lambda model: model.set_controller(0, vectors()), ValueError, "call wrap_block first"),
        (lambda model: model.set_controller([BLOCK, 0], {BLOCK: vectors()}), ValueError, "no entry for block 0"),
        (lambda model: model.set_controller([BLOCK], vectors()), ValueError, "give a dict with one for each block"),
        (lambda model: model.set_controller(BLOCK, vectors(), operator="add"), ValueError, "'add' must be one of"),
        (lambda model: model.set_controller(BLOCK, vectors(), token_pos="last"), ValueError, "token_pos 'last'"),
        (lambda model: model.set_controller(BLOCK, vectors(), masks="left"), TypeError, "str"),
    ],
)
def test_what_cannot_be_wrapped_or_set_is_refused(call: Any, error: type[Exception], message: str, lms: Lms) -> None:
    model = wrapped(lms["bloom"])
    with pytest.raises(error, match=message):
        call(model)


@pytest.mark.parametrize(
    ("activation", "options", "error", "message"),
    [
        (torch.zeros(HIDDEN + 1), {}, ValueError, "width 33 for states of width 32"),
        (torch.zeros(1, 2, HIDDEN), {}, ValueError, "of 2 tokens for 6 tokens"),
        (torch.zeros(1, 7, HIDDEN), {"token_pos": "end"}, ValueError, "of 7 tokens for 6"),
        (vectors(), {"token_pos": 6}, IndexError, "index 6 is out of bounds .* with size 6"),
        (vectors(), {"token_pos": [0.5]}, IndexError, "only integers"),
        (vectors(), {"masks": torch.ones(3, 5, 1)}, RuntimeError, "must match"),
        (vectors(), {"masks": torch.ones(2, 3, 6, 1)}, RuntimeError, "expand|shape|dimension"),
    ],
)
def test_what_does_not_fit_a_pass_is_refused_at_the_pass(
    activation: torch.Tensor, options: dict[str, Any], error: type[Exception], message: str, lms: Lms
) -> None:
    model = wrapped(lms["llama"])
    model.set_controller(BLOCK, activation, **options)
    with pytest.raises(error, match=message):
        model(**padded(PROMPTS))
