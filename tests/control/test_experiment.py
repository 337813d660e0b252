"""Control experiments: activations compared with plain computations, and the order of conditions."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import load

from repe.control.experiment import ControlExperiment, steered_replies
from repe.control.generation import Decoding, generate, prompt_batches, read_prompts, reply_losses
from repe.control.prompts import Prompt
from repe.control.reply_file import ReplyFile
from repe.control.settings import Condition, ControlSettings
from repe.control.steering import reading, steered
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


def test_an_activation_is_strength_times_sign_times_unit_direction_times_length(model: Model, tmp_path: Path) -> None:
    languages = ["en", "fr"]
    control = made(model, tmp_path, strength_unit="hidden")
    direction = torch.from_numpy(control.vectors["en"].directions[1, 0])
    (found,) = control.activations(Condition("concept", 2.0), languages)[2]
    torch.testing.assert_close(found, 2.0 * -1 * direction / direction.norm() * 3.0)
    (opposite,) = control.activations(Condition("concept", -1.0), languages)[2]
    torch.testing.assert_close(opposite, -0.5 * found)
    own = control.activations(Condition("target_vector", 1.0), languages)[1]
    for row, language in zip(own, languages, strict=True):
        direction = torch.from_numpy(control.vectors[language].directions[0, 0])
        torch.testing.assert_close(row, direction / direction.norm() * 2.0)
    (classes,) = made(model, tmp_path).activations(Condition("concept", 2.0), languages)[2]
    torch.testing.assert_close(classes, 2.0 * -1 * torch.from_numpy(control.vectors["en"].directions[1, 0]))
    raw = made(model, tmp_path, strength_unit="raw").activations(Condition("concept", 2.0), languages)
    assert raw[2].norm() == pytest.approx(2.0)
    share = made(model, tmp_path, operator="projection").activations(Condition("concept", 1.0), languages)
    assert share[2].norm() == pytest.approx(1.0)


def test_random_directions_have_the_same_norm_and_differ_by_draw_and_layer(model: Model, tmp_path: Path) -> None:
    control = made(model, tmp_path, strength_unit="hidden")
    first = control.activations(Condition("random", 1.0, 1), ["en", "fr"])
    second = control.activations(Condition("random", 1.0, 2), ["en", "fr"])
    assert first[2].norm(dim=-1).tolist() == pytest.approx([3.0])
    assert not torch.allclose(first[2], second[2])
    assert abs(float(torch.cosine_similarity(first[1][0], first[2][0], dim=0))) < 0.9


def test_missing_mean_norms_are_found_before_a_model_is_loaded(model: Model, tmp_path: Path) -> None:
    control = made(model, tmp_path, strength_unit="raw")
    without = {language: ConceptVectors(one.directions, one.signs) for language, one in control.vectors.items()}
    dataclasses.replace(control, vectors=without)
    with pytest.raises(UserError, match="--strength-unit class or raw"):
        dataclasses.replace(control, vectors=without, settings=ControlSettings([1], strength_unit="hidden"))


def test_conditions_are_ordered_by_baseline_draw_and_strength() -> None:
    settings = ControlSettings([1], strengths=[2.0, 0.0, 2.0], baselines=("none", "random"), random_draws=2)
    expected = [("none", 0.0, None), ("random", 0.0, 1), ("random", 2.0, 1), ("random", 0.0, 2), ("random", 2.0, 2)]
    assert settings.conditions() == expected


@pytest.mark.parametrize(("scope", "readings"), [("generated", 1), ("last", 1), ("all", 2)])
def test_prompts_that_are_not_steered_are_read_once(
    scope: str, readings: int, model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"baselines": ("none", "concept"), "strengths": [-1.0, 0.0, 1.0]}
    control = made(model, tmp_path, scope=scope, strength_unit="raw", **changes)
    control.file.settings["vectors"] = {}
    starts, forward = [], model.trunk.forward

    def counted(*args: Any, **kwargs: Any) -> Any:
        starts.append(reading(args, kwargs)[0])
        return forward(*args, **kwargs)

    monkeypatch.setattr(model.trunk, "forward", counted)
    control.run(model)
    assert starts.count(0) == readings


def test_the_targets_own_vector_is_not_run_again_where_it_is_the_sources(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    control = made(model, tmp_path, strengths=[2.0], baselines=("concept", "target_vector"), strength_unit="raw")
    control = dataclasses.replace(control, prompts=[one for one in control.prompts if one.lang == "en"])
    control.file.settings["vectors"] = {}
    ran, real = [], type(control).activations

    def counted(self: Any, condition: Condition, languages: Any) -> Any:
        ran.append(condition)
        return real(self, condition, languages)

    monkeypatch.setattr(type(control), "activations", counted)
    control.run(model)
    assert ran == [Condition("concept", 2.0)]
    first, second = (
        [row["reply"] for row in control.file.rows.values() if row["baseline"] == name]
        for name in ("concept", "target_vector")
    )
    assert first == second
    own = real(control, Condition("target_vector", 2.0), ["en"])
    torch.testing.assert_close(own, real(control, Condition("concept", 2.0), ["en"]))


@pytest.mark.parametrize(
    ("family", "operator", "scope"),
    [
        ("qwen2", "linear_comb", "all"),
        ("qwen2", "projection", "last"),
        ("bloom", "piecewise_linear", "generated"),
        ("bloom", "linear_comb", "prompt"),
    ],
)
def test_replies_under_several_steps_at_once_are_those_under_each_alone(
    family: str, operator: str, scope: str, model_folders: dict[str, Path], tmp_path: Path
) -> None:
    model = load(model_folders[family], with_head=True)
    control = made(model, tmp_path, operator=operator, scope=scope, decoding=Decoding(max_new_tokens=8))
    (batch,) = prompt_batches(model, control.prompts, 8)
    languages = [prompt.lang for prompt in batch.prompts]
    steps = [
        {},
        control.activations(Condition("concept", 3.0), languages),
        control.activations(Condition("target_vector", -3.0), languages),
        {1: control.activations(Condition("random", 5.0, 1), languages)[1]},
    ]
    read = read_prompts(model, batch.tokens)
    together = steered_replies(model, batch, read, steps, control.settings)
    width = max(map(len, batch.tokens))
    for one, found in zip(steps, together, strict=True):
        with steered(model.lm, model.blocks, one, operator, scope, width):
            alone = generate(model, batch.tokens, control.settings.decoding)
        assert [reply for reply, _ in found] == alone
        losses = reply_losses(model, read_prompts(model, batch.tokens), alone)
        assert [loss for _, loss in found] == pytest.approx(losses, abs=1e-5)
    replies = [[reply for reply, _ in found] for found in together]
    assert len({str(one) for one in replies}) == len(steps)


def test_conditions_run_together_where_that_changes_nothing(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Greedy replies of one batch size are those of another; sampled ones keep their random numbers."""
    passes: list[int] = []

    def counted(model: Model, tokens: Any, *others: Any) -> Any:
        passes.append(len(tokens))
        return generate(model, tokens, *others)

    monkeypatch.setattr("repe.control.experiment.generate", counted)
    replies = {}
    for name, temperature, batch_size in (
        ("auto", 0.0, None),
        ("rows", 0.0, 12),
        ("single", 0.0, 1),
        ("drawn", 1.0, None),
    ):
        changes = {"baselines": ("none", "concept"), "strengths": [-3.0, 0.0, 3.0], "strength_unit": "raw"}
        decoding = Decoding(max_new_tokens=4, temperature=temperature)
        control = made(model, tmp_path / name, **changes, decoding=decoding)
        control.file.settings["vectors"] = {}
        passes.clear()
        control.run(model, batch_size)
        assert passes == {"auto": [18], "rows": [12, 6], "single": [1] * 18, "drawn": [6] * 3}[name]
        replies[name] = {key: row["reply"] for key, row in control.file.rows.items()}
        assert len(replies[name]) == 4 * 6
    assert replies["auto"] == replies["rows"] == replies["single"]
