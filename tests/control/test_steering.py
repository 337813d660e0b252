"""Steering agrees with a plain computation: one row, no cache, no padding, the output of the block replaced."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import LAYERS, load
from torch import nn
from transformers import AutoModelForCausalLM

from repe.control.steering import parse_layers, reading, steer, steered
from repe.errors import UserError
from repe.models.model import find_blocks
from repe.vectors.concept_vectors import ConceptVectors

CAUSAL = ("llama", "qwen2", "bloom", "gpt_neox", "gpt2", "mistral", "qwen3", "gemma2", "gemma3")
PROMPTS = [[5, 9, 70, 33, 12, 8], [40, 41], [7, 7, 19, 90]]
NEW = 6
HIDDEN = 32

Change = Callable[[torch.Tensor], torch.Tensor]


@pytest.fixture(scope="module")
def lms(model_folders: dict[str, Path]) -> dict[str, nn.Module]:
    return {family: AutoModelForCausalLM.from_pretrained(model_folders[family]).eval() for family in CAUSAL}


class Replaced(nn.Module):
    """A block with its output changed at given places of a single row."""

    def __init__(self, block: nn.Module, change: Change, places: slice) -> None:
        super().__init__()
        self.block, self.change, self.places = block, change, places

    def __getattr__(self, name: str) -> object:  # models ask their blocks for things like the kind of attention
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("block"), name)

    def forward(self, *args: object, **kwargs: object) -> object:
        output = self.block(*args, **kwargs)
        states = (output[0] if isinstance(output, tuple) else output).clone()
        states[:, self.places] = self.change(states[:, self.places])
        return (states, *output[1:]) if isinstance(output, tuple) else states


@torch.no_grad()
def by_hand(lm: nn.Module, prompt: list[int], layer: int, change: Change, scope: str, new: int = NEW) -> list[int]:
    """Greedy reply of one prompt: the whole text anew for every token."""
    blocks, ids = find_blocks(lm), list(prompt)
    places = {
        "all": slice(None),
        "prompt": slice(0, len(prompt)),
        "generated": slice(len(prompt), None),
        "last": slice(len(prompt) - 1, len(prompt)),
    }[scope]
    original = blocks[layer - 1]
    blocks[layer - 1] = Replaced(original, change, places)
    try:
        for _ in range(new):
            row = torch.tensor([ids])
            ids.append(
                int(lm(input_ids=row, attention_mask=torch.ones_like(row), use_cache=False).logits[0, -1].argmax())
            )
    finally:
        blocks[layer - 1] = original
    return ids[len(prompt) :]


def padded(prompts: list[list[int]], side: str = "left") -> dict[str, torch.Tensor]:
    width = max(map(len, prompts))
    ids, mask = [], []
    for prompt in prompts:
        pad = [0] * (width - len(prompt))
        ids.append(pad + prompt if side == "left" else prompt + pad)
        ones = [1] * len(prompt)
        mask.append(pad + ones if side == "left" else ones + pad)
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


def generated(lm: nn.Module, prompts: list[list[int]], **options: object) -> list[list[int]]:
    batch = padded(prompts)
    output = lm.generate(
        **batch, max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False, eos_token_id=None, pad_token_id=0, **options
    )
    return output[:, batch["input_ids"].shape[1] :].tolist()


def vectors(rows: int | None = None, seed: int = 0, length: float = 30.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn((rows, HIDDEN) if rows else (HIDDEN,), generator=generator)
    return length * drawn / drawn.norm(dim=-1, keepdim=True)


def changes(operator: str, a: torch.Tensor) -> Change:
    def piecewise(h: torch.Tensor) -> torch.Tensor:
        return h + torch.where((h @ a)[..., None] > 0, a, -a)

    def projection(h: torch.Tensor) -> torch.Tensor:
        unit = a / a.norm()
        return h - a.norm() * (h @ unit)[..., None] * unit

    return {"linear_comb": lambda h: h + a, "piecewise_linear": piecewise, "projection": projection}[operator]


@pytest.mark.parametrize("family", CAUSAL)
def test_every_row_and_every_generated_token_is_steered(family: str, lms: dict[str, nn.Module]) -> None:
    lm, a = lms[family], vectors()
    with steered(lm, find_blocks(lm), {2: a}):
        found = generated(lm, PROMPTS)
    assert found == [by_hand(lm, prompt, 2, changes("linear_comb", a), "all") for prompt in PROMPTS]
    assert found != generated(lm, PROMPTS)


@pytest.mark.parametrize("family", ["llama", "bloom"])
@pytest.mark.parametrize("scope", ["all", "prompt", "generated", "last"])
@pytest.mark.parametrize("operator", ["linear_comb", "piecewise_linear", "projection"])
def test_operators_and_scopes_agree_with_their_definitions(
    family: str, scope: str, operator: str, lms: dict[str, nn.Module]
) -> None:
    lm = lms[family]
    a = vectors(length=2.0 if operator == "projection" else 30.0)
    with steered(lm, find_blocks(lm), {1: a}, operator, scope):
        found = generated(lm, PROMPTS)
    assert found == [by_hand(lm, prompt, 1, changes(operator, a), scope) for prompt in PROMPTS]


@pytest.mark.parametrize("scope", ["all", "prompt", "generated", "last"])
def test_without_a_cache_the_length_of_the_prompts_can_be_given(scope: str, lms: dict[str, nn.Module]) -> None:
    lm, a = lms["llama"], vectors()
    with steered(lm, find_blocks(lm), {2: a}, scope=scope, prompt_tokens=6):
        found = generated(lm, PROMPTS, use_cache=False)
    assert found == [by_hand(lm, prompt, 2, changes("linear_comb", a), scope) for prompt in PROMPTS]


def test_each_row_can_have_a_vector_of_its_own_in_several_layers(lms: dict[str, nn.Module]) -> None:
    lm, first, second = lms["qwen2"], vectors(rows=3), vectors(rows=3, seed=1)
    with steered(lm, find_blocks(lm), {1: first, 2: second}):
        together = generated(lm, PROMPTS)
    for row, prompt in enumerate(PROMPTS):
        with steered(lm, find_blocks(lm), {1: first[row], 2: second[row]}):
            assert generated(lm, [prompt]) == [together[row]]


def test_beams_are_steered_by_their_prompts_vector(lms: dict[str, nn.Module]) -> None:
    lm, a = lms["llama"], vectors(rows=3)
    with steered(lm, find_blocks(lm), {2: a}):
        together = generated(lm, PROMPTS, num_beams=3)
    for row, prompt in enumerate(PROMPTS):
        with steered(lm, find_blocks(lm), {2: a[row]}):
            assert generated(lm, [prompt], num_beams=3) == [together[row]]
    assert together != generated(lm, PROMPTS, num_beams=3)


@pytest.mark.parametrize("family", CAUSAL)
def test_a_zero_vector_changes_no_bit(family: str, lms: dict[str, nn.Module]) -> None:
    lm, batch = lms[family], padded(PROMPTS)
    with torch.no_grad():
        plain = lm(**batch).logits
        with steered(lm, find_blocks(lm), {1: torch.zeros(HIDDEN)}):
            assert torch.equal(lm(**batch).logits, plain)


@pytest.mark.parametrize("scope", ["all", "prompt", "last"])
@pytest.mark.parametrize("family", ["llama", "bloom", "gpt2"])
def test_padding_on_either_side_gives_the_same(family: str, scope: str, lms: dict[str, nn.Module]) -> None:
    lm, a = lms[family], vectors()
    found = []
    for side in ("left", "right"):
        batch = padded(PROMPTS, side)
        if family != "bloom":  # whose positions come from the mask
            batch["position_ids"] = (batch["attention_mask"].cumsum(dim=1) - 1).clamp_min(0)
        with torch.no_grad(), steered(lm, find_blocks(lm), {2: a}, scope=scope):
            logits = lm(**batch).logits
        found.append(torch.cat([row[mask.bool()] for row, mask in zip(logits, batch["attention_mask"], strict=True)]))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_keeps_its_type_and_large_states_stay_finite(
    dtype: torch.dtype, model_folders: dict[str, Path]
) -> None:
    lm = AutoModelForCausalLM.from_pretrained(model_folders["qwen2"], dtype=dtype).eval()
    for operator in ("linear_comb", "piecewise_linear", "projection"):
        a = vectors(length=1.0 if operator == "projection" else 3000.0)
        with torch.no_grad(), steered(lm, find_blocks(lm), {1: a}, operator):
            logits = lm(**padded(PROMPTS)).logits
        assert logits.dtype == dtype
        assert torch.isfinite(logits).all()


def hooks(lm: nn.Module) -> int:
    """Number of hooks, without those that Transformers leaves behind after `output_hidden_states=True`."""
    found = [hook for module in lm.modules() for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks)]
    return sum("output_captur" not in str(hook) for hook in found)


def test_hooks_are_always_removed(lms: dict[str, nn.Module]) -> None:
    lm = lms["llama"]
    with steered(lm, find_blocks(lm), {1: vectors()}):
        assert hooks(lm) == 2
    assert hooks(lm) == 0
    with pytest.raises(KeyError), steered(lm, find_blocks(lm), {1: vectors()}):
        raise KeyError
    assert hooks(lm) == 0
    with pytest.raises(ValueError, match="rows"), steered(lm, find_blocks(lm), {1: vectors(rows=2)}), torch.no_grad():
        lm(**padded(PROMPTS))
    assert hooks(lm) == 0
    with pytest.raises(ValueError, match="layer 4"), steered(lm, find_blocks(lm), {4: vectors()}):
        pass
    with pytest.raises(ValueError, match="operator"), steered(lm, find_blocks(lm), {1: vectors()}, "add"):
        pass
    assert hooks(lm) == 0


def concept_vectors(**details: object) -> ConceptVectors:
    drawn = np.random.default_rng(0).standard_normal((LAYERS, 1, HIDDEN)).astype(np.float32)
    return ConceptVectors(drawn, np.array([[1], [-1], [1]], dtype=np.int8), **details)


def test_steer_adds_strength_times_length_times_the_signed_unit_vector(model_folders: dict[str, Path]) -> None:
    model = load(model_folders["llama"], with_head=True)
    own = concept_vectors(mean_norm=np.array([5.0, 6.0, 7.0], dtype=np.float32))
    a = 3.0 * 6.0 * -1 * torch.from_numpy(own.directions[1, 0]) / float(np.linalg.norm(own.directions[1, 0]))
    with torch.no_grad():
        with steered(model.lm, model.blocks, {2: a}):
            expected = model.lm(**padded(PROMPTS)).logits
        for layers in ("2", [2], "0.3:0.6"):
            with steer(model, own, layers, 3.0, unit="hidden"):
                torch.testing.assert_close(model.lm(**padded(PROMPTS)).logits, expected)
        with steer(model, own, [2], 3.0 * 6.0 / float(np.linalg.norm(own.directions[1, 0]))):
            torch.testing.assert_close(model.lm(**padded(PROMPTS)).logits, expected)
        with steer(model, own, [2], 3.0 * 6.0, unit="raw"):
            torch.testing.assert_close(model.lm(**padded(PROMPTS)).logits, expected)
    assert hooks(model.lm) == 0


def test_steer_refuses_vectors_that_do_not_fit(model_folders: dict[str, Path]) -> None:
    model = load(model_folders["llama"])
    with pytest.raises(UserError, match="mean norms"), steer(model, concept_vectors(), [2], unit="hidden"):
        pass
    with pytest.raises(UserError, match="another model"):
        steer(load(model_folders["llama"]), ConceptVectors(np.ones((2, 1, HIDDEN)), np.ones((2, 1))), [1], unit="raw")


def test_hidden_states_are_the_steered_ones(lms: dict[str, nn.Module]) -> None:
    lm, a, batch = lms["llama"], vectors(), padded(PROMPTS)
    with torch.no_grad():
        plain = lm(**batch, output_hidden_states=True).hidden_states
        with steered(lm, find_blocks(lm), {1: a}):
            moved = lm(**batch, output_hidden_states=True).hidden_states
        after = lm(**batch, output_hidden_states=True).hidden_states
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(moved[1][real], plain[1][real] + a)
    assert torch.equal(moved[1][~real], plain[1][~real])
    assert torch.equal(after[2], plain[2])


def test_a_pass_reads_the_tokens_after_those_in_the_cache() -> None:
    batch = padded(PROMPTS)
    start, end, mask = reading((), batch)
    assert (start, end) == (0, 6)
    assert torch.equal(mask, batch["attention_mask"])
    # One new token: the mask covers the whole sequence.
    start, end, mask = reading((batch["input_ids"][:, -1:],), {"attention_mask": batch["attention_mask"]})
    assert (start, end, mask.shape) == (5, 6, (3, 1))


def test_directions_have_unit_length_and_point_to_the_positive_side() -> None:
    directions = np.array([[[3.0, 4.0]], [[0.0, -2.0]]], dtype=np.float32)
    unit = ConceptVectors(directions, np.array([[1], [-1]], dtype=np.int8)).unit_vectors
    np.testing.assert_allclose(unit, [[0.6, 0.8], [0.0, 1.0]], rtol=1e-6)


def test_layers_by_number_and_by_relative_depth() -> None:
    assert parse_layers("5,3,3", layers=10) == [3, 5]
    # (layer - 1) / 10 from 0.3 to 0.6
    assert parse_layers("0.3:0.6", layers=10) == [4, 5, 6, 7]
    assert parse_layers("0:1", layers=LAYERS) == [1, 2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("10", "after the final norm"),
        ("0", "from 1 to 9"),
        ("11", "from 1 to 9"),
        ("x", "18,19,20"),
        ("0.55:0.56", "wider"),
    ],
)
def test_layers_that_cannot_be_steered_are_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_layers(text, layers=10)
