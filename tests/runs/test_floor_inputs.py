"""Nulls, floors, detection and further measures end to end, on a tiny model and made-up data."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import Ended, write_data

pytestmark = pytest.mark.usefixtures("undrawn")

Script = Callable[..., Ended]
CONCEPTS = ("morality", "fairness", "toxicity")


@pytest.fixture
def common(tmp_path: Path, model_folders: dict[str, Path]) -> list[object]:
    """Options of a run: two languages of three concepts whose positive side always ends in the same word."""
    for concept in CONCEPTS:
        for language in ("en", "fr"):
            write_data(tmp_path / "data", concept, language, 30, ("helps", "hurts"))
    options = ["--model-path", model_folders["llama"], "--data-dir", tmp_path / "data", "--res-dir", tmp_path / "res"]
    return [*options, "--concept", *CONCEPTS]


def test_nulls_can_be_added_and_need_states_of_training_texts(
    script: Script, common: list[object], tmp_path: Path
) -> None:
    assert script("collect_vector", *common).status == 0
    assert script("recognize_concept", *common).status == 0
    path = tmp_path / "res/tiny-llama/morality/acc.pt"
    without = torch.load(path, weights_only=True)
    assert "nulls" not in without
    assert "detection" not in without
    assert script("recognize_concept", *common, "--nulls").status == 0
    content = torch.load(path, weights_only=True)
    for source in ("en", "fr"):
        for target in ("en", "fr"):
            assert torch.equal(content["correct"][source][target], without["correct"][source][target])
            assert content["nulls"][source][target]["p"].shape == (4,)
            assert content["detection"][source][target]["auroc"].shape == (3,)
    assert "nothing to do" in script("recognize_concept", *common, "--nulls").out
    # States from a cache give the same numbers.
    cached = [*common, "--cache-states", tmp_path / "cache", "--model-label", "cached"]
    assert script("collect_vector", *cached).status == 0
    assert script("recognize_concept", *cached).status == 0
    again = torch.load(tmp_path / "res/cached/morality/acc.pt", weights_only=True)
    for part, values in content["nulls"]["en"]["fr"].items():
        assert torch.allclose(again["nulls"]["en"]["fr"][part], values, atol=1e-3), part


def test_floors_and_measures_are_written_beside_the_papers_tables(
    script: Script, common: list[object], tmp_path: Path
) -> None:
    cache, out = ["--cache-states", tmp_path / "cache"], tmp_path / "res/cross_model"
    for extra in ([], ["--untrained"], ["--untrained", "--seed", "2"]):
        for name in ("collect_vector", "recognize_concept"):
            assert script(name, *common, *cache, *extra).status == 0
    compare = ["--res-dir", tmp_path / "res", "--cross-model", "tiny-llama", "--data-dir", tmp_path / "data"]
    ended = script("recognize_concept", *compare, "--floors")
    assert ended.status == 0, ended
    table = pd.read_csv(out / "floors.csv")
    accuracy = pd.read_csv(out / "table6_recognition_accuracy.csv")
    assert len(table) == 6
    assert table["accuracy"].tolist() == accuracy["accuracy"].tolist()
    assert (table["untrained_seeds"] == 2).all()
    assert (table["text"] == 1).all()  # the last words give the sides away
    floors = table[["null_mean", "untrained", "text"]].max(axis=1)
    assert table["difference"].tolist() == pytest.approx((table["accuracy"] - floors).tolist())
    assert (table["difference_low"] <= 0).all()  # nothing is above a perfect floor
    assert (table["difference_high"] < 1).all()
    written = {path.stem for path in out.iterdir()}
    assert {"nulls", "detection", "accuracy_by_layer", "detection_auroc", "floors_tiny-llama"} <= written
    measures = [*compare, *cache, "--similarity", "rsa,angles,cka,procrustes"]
    ended = script("consistency_analysis", *measures)
    assert ended.status == 0, ended
    for measure in ("rsa", "angles", "cka", "procrustes"):
        assert len(pd.read_csv(out / f"table1_linguistic_correlation_{measure}.csv")) == 4
        assert (out / f"similarity_{measure}.png").exists()
    ceilings = pd.read_csv(out / "similarity_ceilings.csv")
    assert len(ceilings) == 2
    means = np.sqrt(ceilings["split_half_source"] * ceilings["split_half_target"])
    assert ceilings["corrected"].tolist() == pytest.approx((ceilings["cross_half"] / means).tolist())
    # Both languages have the same made-up text apart from a name, so that halves agree across them as within one.
    assert (ceilings["corrected"] > 0.9).all()
    detected = pd.read_csv(out / "detection.csv")
    assert detected["auroc_untrained"].between(0, 1).all()
    page = script("repe.tools.report", "--res-dir", tmp_path / "res")
    assert page.status == 0, page
    text = (out / "report.html").read_text()
    assert "Floors" in text
    assert "Calibration gap" in text


def test_what_is_missing_is_said(script: Script, common: list[object], tmp_path: Path) -> None:
    for name in ("collect_vector", "recognize_concept"):
        assert script(name, *common).status == 0
    compare = ["--res-dir", tmp_path / "res", "--cross-model", "tiny-llama"]
    ended = script("recognize_concept", *compare, "--floors", "--data-dir", tmp_path / "none")
    assert ended.status == 0, ended
    assert "no nulls in tiny-llama" in ended.out
    assert "no untrained twin of tiny-llama" in ended.out
    assert "no text floor for" in ended.out
    table = pd.read_csv(tmp_path / "res/cross_model/floors.csv")
    assert table[["null_mean", "p", "untrained", "text"]].isna().all().all()
    assert (table["highest_floor"] == "chance").all()
    ended = script("consistency_analysis", *compare, "--similarity", "cka")
    assert (ended.status, "needs hidden states" in ended.err) == (2, True)
    empty = ["--cache-states", tmp_path / "empty", "--data-dir", tmp_path / "data"]
    ended = script("consistency_analysis", *compare, "--similarity", "cka", *empty)
    assert (ended.status, "has no states of tiny-llama" in ended.err, "--overwrite" in ended.err) == (2, True, True)
    assert "which also fills --cache-states" in script("collect_vector", *common, *empty[:2]).out
    assert script("collect_vector", *common, *empty[:2], "--overwrite").status == 0
    assert script("consistency_analysis", *compare, "--similarity", "cka", *empty).status == 0
    ended = script("consistency_analysis", *compare, *empty[2:])
    assert (ended.status, "has no effect without --cache-states" in ended.err) == (2, True)


def test_with_folds_every_pair_has_a_text_floor_from_the_other_folds(
    script: Script, common: list[object], tmp_path: Path
) -> None:
    folds = ["--folds", 3, "--concept", "morality"]
    for name in ("collect_vector", "recognize_concept"):
        assert script(name, *common[:6], *folds).status == 0
    ended = script("recognize_concept", *common[:6], *folds, "--nulls", "--overwrite")
    assert (ended.status, "--nulls has no effect with --folds" in ended.err) == (2, True)
    compare = ["--res-dir", tmp_path / "res", "--cross-model", "tiny-llama", "--folds", 3, "--data-dir"]
    ended = script("recognize_concept", *compare, tmp_path / "data", "--floors")
    assert ended.status == 0, ended
    assert "no nulls in tiny-llama-folds3: with --folds" in ended.out
    table = pd.read_csv(tmp_path / "res/cross_model/floors.csv")
    assert (table["text"] == 1).all()  # the last words give the sides away
