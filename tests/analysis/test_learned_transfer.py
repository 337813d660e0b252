"""The map against scipy's, languages that are rotations of each other, and transfer.csv."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import Ended
from scipy.linalg import orthogonal_procrustes

from repe.analysis.learned_transfer import Language, learned_table, mapped

LAYERS, HIDDEN = 2, 12
GENERATOR = np.random.default_rng(0)


def test_the_map_is_scipys_where_the_texts_fix_it() -> None:
    source, target = GENERATOR.standard_normal((2, LAYERS, 40, HIDDEN)) + 1.0
    vectors = GENERATOR.standard_normal((LAYERS, HIDDEN))
    found = mapped(vectors, source, target)
    for layer in range(LAYERS):
        centred = [one[layer] - one[layer].mean(axis=0) for one in (source, target)]
        rotation, _ = orthogonal_procrustes(*centred)
        assert np.allclose(found[layer], vectors[layer] @ rotation, atol=1e-4)


def test_few_texts_move_only_what_they_span() -> None:
    source, target = GENERATOR.standard_normal((2, LAYERS, 3, HIDDEN))
    vectors = GENERATOR.standard_normal((LAYERS, HIDDEN))
    moved = mapped(vectors, source, target) - vectors
    for layer in range(LAYERS):
        # Three texts of each language, centred, span two dimensions each.
        states = np.concatenate([one[layer] - one[layer].mean(axis=0) for one in (source, target)])
        outside = np.linalg.svd(states)[2][4:]
        assert np.allclose(moved[layer] @ outside.T, 0, atol=1e-6)
    assert np.linalg.norm(moved) > 0.1
    assert np.allclose(mapped(vectors, source, source), vectors)


def languages(pairs: int = 240) -> dict[str, Language]:
    """Two languages, the second a rotation of the first: its vectors are useless before the map and perfect after."""
    states = GENERATOR.standard_normal((LAYERS, pairs, 2, HIDDEN))
    # The concept is small beside what else texts say, so that the two sides alone do not fix the rotation.
    states[..., 0] *= 0.3
    states[:, :, 0, 0] += 0.6
    # Every dimension becomes the next one, so that the two concepts are across each other.
    rotation = np.roll(np.eye(HIDDEN), 1, axis=1)
    keys = [str(number) for number in range(pairs)]
    parts = [(np.arange(40), np.arange(40, pairs))]
    found = {}
    for name, turned in (("en", states), ("fr", states @ rotation)):
        vectors = np.tile(np.eye(HIDDEN)[int(name == "fr")], (LAYERS, 1))
        found[name] = Language(turned.astype(np.float32), keys, keys, parts, [vectors.astype(np.float32)])
    return found


def test_a_rotation_between_languages_is_found_and_that_of_shuffled_items_is_not() -> None:
    table = (
        learned_table("tiny", [("morality", languages())], seed=1).set_index(["source", "target", "items"]).sort_index()
    )
    row = table.loc[("en", "fr", "all")]
    assert row["accuracy"] == row["own"] > 0.9
    assert row["difference_low"] > 0
    assert row["gain_low"] > 0
    none = table.loc[("en", "fr", "0")]
    assert none["accuracy"] == none["shuffled"] < 0.7
    assert np.isnan(none["own_same_items"])
    mean = table.loc[("all", "all")]["accuracy"]
    assert mean["all"] == pytest.approx((row["accuracy"] + table.loc[("fr", "en", "all")]["accuracy"]) / 2)
    assert mean["16"] > mean["1"]


def test_without_items_it_is_transfer_csv(
    script: Callable[..., Ended], tmp_path: Path, data_dir: Path, model_folders: dict[str, Path]
) -> None:
    split = ["--folds", "3"]
    where = ["--data-dir", data_dir, "--res-dir", tmp_path / "res", "--cache-states", tmp_path / "states", *split]
    run = ["--model-path", model_folders["llama"], "--concept", "morality", "--lang", "en", "fr"]
    for name in ("collect_vector", "recognize_concept"):
        ended = script(name, *run, *where)
        assert ended.status == 0, ended
    ended = script("transferability_analysis", "--cross-model", "tiny-llama", *where)
    assert ended.status == 0, ended
    assert "transfer after a learned map" in ended.out
    folder = tmp_path / "res/cross_model"
    assert (folder / "transfer_learned.png").exists()
    plain = pd.read_csv(folder / "transfer.csv").set_index(["source", "target"])
    learned = pd.read_csv(folder / "transfer_learned.csv", dtype={"items": str}).set_index(
        ["items", "source", "target"]
    )
    for source, target in (("en", "fr"), ("fr", "en")):
        own = plain.loc[(target, target), "accuracy"]
        assert learned.loc[("0", source, target), "accuracy"] == pytest.approx(plain.loc[(source, target), "accuracy"])
        assert learned.loc[("0", source, target), "own"] == pytest.approx(own)
    ended = script("transferability_analysis", "--cross-model", "tiny-llama", *where[2:4], "--data-dir", "x", *split)
    assert "--data-dir has no effect without --cache-states" in ended.err
