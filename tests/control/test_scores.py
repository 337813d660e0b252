"""Concept scores: class means lie at -0.5 and 0.5, and replies are read alone in the template."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import load

from repe.control.scores import concept_scores, middle_layers
from repe.control.steering import step_lengths
from repe.errors import UserError
from repe.models.model import Model
from repe.vectors.concept_vectors import ConceptVectors, collect

PAIRS = [(f"kind word {number}", f"cruel deed {number * 7}") for number in range(12)]


@pytest.fixture(scope="module")
def model(model_folders: dict[str, Path]) -> Model:
    return load(model_folders["llama"])


def test_the_middle_layers_have_relative_depth_one_to_two_thirds() -> None:
    for layers in (3, 12, 30, 32):
        expected = [layer for layer in range(1, layers + 1) if 1 / 3 - 1e-9 <= (layer - 1) / layers <= 2 / 3 + 1e-9]
        assert middle_layers(layers) == expected
    assert middle_layers(30) == list(range(11, 22))


@pytest.mark.parametrize("method", ["cluster_mean", "pca"])
def test_the_class_means_of_the_training_texts_score_one_half(method: str, model: Model) -> None:
    vectors = collect(model, PAIRS, method)
    for side, expected in enumerate((0.5, -0.5)):
        scores = concept_scores(model.states([pair[side] for pair in PAIRS]), vectors)
        assert scores.mean() == pytest.approx(expected, abs=1e-4)
        assert scores.std() > 0


@torch.inference_mode()
def test_a_score_is_the_mean_position_in_the_hidden_states_of_transformers(model: Model) -> None:
    def reference(text: str) -> list[torch.Tensor]:
        ids = torch.tensor([model.tokenizer(text)["input_ids"]])
        return [state[0, -1] for state in model.trunk(ids, output_hidden_states=True).hidden_states]

    text = "some other reply"
    sides = [[reference(pair[side]) for pair in PAIRS] for side in (0, 1)]
    found = []
    for layer in middle_layers(model.layers):
        positive, negative = (torch.stack([states[layer] for states in side]).mean(0) for side in sides)
        gap = positive - negative
        found.append(float((reference(text)[layer] - (positive + negative) / 2) @ gap / gap.norm() ** 2))
    assert concept_scores(model.states([text]), collect(model, PAIRS))[0] == pytest.approx(np.mean(found), abs=1e-4)


def test_the_class_distance_is_the_length_of_the_difference_of_means(model: Model) -> None:
    vectors = collect(model, PAIRS)
    assert vectors.class_distance is not None
    lengths = np.linalg.norm(vectors.directions[:, 0], axis=-1) * vectors.signs[:, 0]
    np.testing.assert_allclose(vectors.class_distance, lengths, rtol=1e-4)
    assert (vectors.class_distance.dtype, vectors.midpoint.dtype) == (np.float32, np.float32)


@pytest.mark.parametrize("method", ["pca", "cluster_mean"])
def test_a_strength_of_one_carries_one_class_mean_onto_the_other(method: str, model: Model) -> None:
    vectors = collect(model, PAIRS, method)
    positive, negative = (model.states([pair[side] for pair in PAIRS]).mean(dim=1) for side in (0, 1))
    units = torch.from_numpy(vectors.unit_vectors)
    expected = ((positive - negative) * units).sum(dim=-1).abs()
    torch.testing.assert_close(step_lengths(vectors, "class", "linear_comb"), expected, rtol=1e-3, atol=1e-4)
    if method == "pca":
        with pytest.raises(UserError, match="pca vectors have no class distances: collect them again"):
            step_lengths(replace(vectors, class_distance=None), "class", "linear_comb")


def test_vectors_without_class_means_give_no_score(model: Model) -> None:
    full = collect(model, PAIRS)
    old = ConceptVectors(full.directions, full.signs)
    assert np.isnan(concept_scores(model.states(["a"]), old)).all()
