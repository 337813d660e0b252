"""Control experiments: activations, divergence and calibration, compared with plain computations."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from conftest import load

from repe.control.experiment import ControlExperiment, find_strengths
from repe.control.generation import Decoding, prompt_batches
from repe.control.prompts import Prompt
from repe.control.reply_file import ReplyFile
from repe.control.settings import Condition, ControlSettings
from repe.control.steering import steered
from repe.errors import UserError
from repe.models.model import Model
from repe.vectors.concept_vectors import ConceptVectors


@pytest.fixture(scope="module")
def model(model_folders: dict[str, Path]) -> Model:
    return load(model_folders["qwen2"], with_head=True)


def made(model: Model, tmp_path: Path, **changes: Any) -> ControlExperiment:
    generator = np.random.default_rng(2)
    vectors = {
        language: ConceptVectors(
            generator.standard_normal((model.layers, 1, model.hidden_size)).astype(np.float32),
            np.array([[1], [-1], [1]], dtype=np.int8),
            mean_norm=np.array([2.0, 3.0, 5.0], dtype=np.float32),
        )
        for language in ("en", "fr")
    }
    prompts = [
        Prompt(str(number), language, f"{language} {number}" * 3, True)
        for language in ("en", "fr")
        for number in range(3)
    ]
    settings = ControlSettings(**({"layers": [1, 2], "decoding": Decoding(max_new_tokens=4)} | changes))
    return ControlExperiment("harmfulness", "en", vectors, prompts, settings, ReplyFile(tmp_path, {}, prompts))


def test_an_activation_is_strength_times_sign_times_unit_direction_times_mean_norm(
    model: Model, tmp_path: Path
) -> None:
    control = made(model, tmp_path)
    found = control.activations(Condition("concept", 0.0), ["en", "fr"], [2.0, -1.0])
    direction = torch.from_numpy(control.vectors["en"].directions[1, 0])
    torch.testing.assert_close(found[2][0], 2.0 * -1 * direction / direction.norm() * 3.0)
    torch.testing.assert_close(found[2][1], -0.5 * found[2][0])
    own = control.activations(Condition("target_vector", 0.0), ["en", "fr"], [1.0, 1.0])
    direction = torch.from_numpy(control.vectors["fr"].directions[0, 0])
    torch.testing.assert_close(own[1][1], direction / direction.norm() * 2.0)
    raw = made(model, tmp_path, strength_unit="raw").activations(Condition("concept", 0.0), ["en"], [2.0])
    assert raw[2].norm() == pytest.approx(2.0)
    share = made(model, tmp_path, operator="projection").activations(Condition("concept", 0.0), ["en"], [1.0])
    assert share[2].norm() == pytest.approx(1.0)


def test_random_directions_have_the_same_norm_and_differ_by_draw_and_layer(model: Model, tmp_path: Path) -> None:
    control = made(model, tmp_path)
    first = control.activations(Condition("random", 0.0, 1), ["en", "fr"], [1.0, 1.0])
    second = control.activations(Condition("random", 0.0, 2), ["en", "fr"], [1.0, 1.0])
    assert first[2].norm(dim=-1).tolist() == pytest.approx([3.0, 3.0])
    assert torch.equal(first[2][0], first[2][1])
    assert not torch.allclose(first[2], second[2])
    assert abs(float(torch.cosine_similarity(first[1][0], first[2][0], dim=0))) < 0.9


def test_divergence_is_scipys_relative_entropy(model: Model, tmp_path: Path) -> None:
    control = made(model, tmp_path)
    batches = prompt_batches(model, control.prompts, 4, batch_size=4)
    condition = Condition("concept", 3.0)
    found = control.divergence(model, condition, batches, {"en": 3.0, "fr": 3.0})
    expected: dict[str, list[float]] = {"en": [], "fr": []}
    for prompt in control.prompts:
        ids = torch.tensor([model.tokenizer(prompt.prompt)["input_ids"]])
        activations = control.activations(condition, ["en"], [3.0])
        with torch.no_grad():
            plain = model.lm(ids).logits[0, -1].double().softmax(dim=-1)
            with steered(model.lm, model.blocks, activations):
                moved = model.lm(ids).logits[0, -1].double().softmax(dim=-1)
        expected[prompt.lang].append(float(scipy.stats.entropy(plain, moved)))
    assert found == pytest.approx({language: np.mean(values) for language, values in expected.items()}, rel=1e-3)


def test_calibrated_strengths_move_all_languages_as_far(model: Model, tmp_path: Path) -> None:
    control = made(model, tmp_path, calibrated_on="en")
    batches = prompt_batches(model, control.prompts, 4, None)
    goal = control.goal(model, -0.05, batches)
    for baseline in ("concept", "target_vector"):
        condition = Condition(baseline, -0.05)
        strengths = control.strengths(model, condition, batches)
        assert all(strength < 0 for strength in strengths.values())
        found = control.divergence(model, condition, batches, strengths)
        assert found == pytest.approx(dict.fromkeys(("en", "fr"), goal), rel=0.02)
    assert control.strengths(model, Condition("concept", -0.05), batches)["en"] == pytest.approx(-0.05, rel=1e-3)
    # All sources are calibrated to the divergence of the same language.
    assert dataclasses.replace(control, source="fr").goal(model, -0.05, batches) == goal
    plain = made(model, tmp_path)
    assert plain.strengths(model, Condition("concept", -0.05), batches) == {"en": -0.05, "fr": -0.05}


def test_strengths_are_found_by_doubling_and_bisection_and_unreachable_goals_are_reported() -> None:
    def divergence(strengths: Any) -> dict[str, float]:
        return {"en": strengths["en"] ** 2, "fr": min(strengths["fr"] ** 2, 1.0)}

    found, short = find_strengths(divergence, {"en": 0.5, "fr": 0.5}, goal=9.0)
    assert found["en"] == pytest.approx(3.0, rel=1e-3)
    assert short == ["fr"]


def test_missing_mean_norms_are_found_before_a_model_is_loaded(model: Model, tmp_path: Path) -> None:
    control = made(model, tmp_path)
    without = {language: ConceptVectors(one.directions, one.signs) for language, one in control.vectors.items()}
    with pytest.raises(UserError, match="--strength-unit raw"):
        dataclasses.replace(control, vectors=without)
    dataclasses.replace(control, vectors=without, settings=ControlSettings([1], strength_unit="raw"))


def test_conditions_are_ordered_by_baseline_draw_and_strength() -> None:
    settings = ControlSettings([1], strengths=[2.0, 0.0, 2.0], baselines=("none", "random"), random_draws=2)
    expected = [("none", 0.0, None), ("random", 0.0, 1), ("random", 2.0, 1), ("random", 0.0, 2), ("random", 2.0, 2)]
    assert [dataclasses.astuple(condition) for condition in settings.conditions()] == expected
