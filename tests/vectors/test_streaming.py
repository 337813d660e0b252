"""Vectors collected with `--stream`: those of the ordinary way, whatever the batches."""

import argparse
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import Ended, build

from repe import data
from repe.errors import UserError
from repe.models.loading import Model
from repe.results import downloads as released
from repe.results.result_file import Kind
from repe.results.vector_file import VectorFile
from repe.runs import arguments as cli
from repe.runs import chosen as selection
from repe.vectors.collection import collect
from repe.vectors.hidden_states import last_token_states
from repe.vectors.readers import signs
from repe.vectors.streaming import ClassMeans, Spool, collect_streaming

Script = Callable[..., Ended]
ARGS = argparse.Namespace(direction_method="cluster_mean", seed=1, no_validation=False)


@pytest.fixture
def split(data_dir: Path) -> data.Split:
    return data.split_pairs(data.read_pairs(data_dir, "deontology", "zh"))


def load(folder: Path) -> Model:
    return selection.model(cli.parser("").parse_args(["--model-path", str(folder)])).load()


@pytest.fixture(scope="module")
def model(model_folders: dict[str, Path]) -> Model:
    return load(model_folders["bloom"])


@pytest.mark.parametrize("batch_size", [1, 3, None])
def test_directions_signs_and_norms_are_those_of_float64_over_all_states(
    split: data.Split, model: Model, batch_size: int | None
) -> None:
    found = collect_streaming(model, split, batch_size)
    states = last_token_states(model, split.train_texts(), batch_size).unflatten(1, (-1, 2)).double()
    labels = torch.tensor(split.labels)
    assert found["train_pairs"] == len(labels)
    torch.testing.assert_close(found["mean_norm"].double(), states.norm(dim=-1).mean((1, 2)), rtol=1e-6, atol=0)
    for prefix, pairs in (("", len(labels)), ("validation_", int(0.8 * len(labels)))):
        for layer, (state, own) in enumerate(zip(states[:, :pairs], [labels[:pairs]] * len(states), strict=True)):
            expected = (state[own].mean(0) - state[~own].mean(0))[None]
            apart = (found[f"{prefix}directions"][layer] - expected).norm() / expected.norm()
            assert apart <= 1e-6
            assert torch.equal(found[f"{prefix}signs"][layer], signs(state, own, expected))


def test_an_entry_has_the_form_and_within_float32_the_values_of_the_ordinary_one(
    split: data.Split, model: Model
) -> None:
    ordinary = collect(lambda texts: last_token_states(model, texts), split, "deontology", "zh", ARGS)
    found = collect_streaming(model, split)
    assert list(found) == list(ordinary)
    for name, expected in ordinary.items():
        if name == "train_pairs":
            assert found[name] == expected
            continue
        assert (found[name].dtype, found[name].shape) == (expected.dtype, expected.shape)
        # Means are rounded at their own length, which is several times that of their difference.
        torch.testing.assert_close(found[name], expected, rtol=1e-5, atol=1e-6)
    assert not [name for name in collect_streaming(model, split, validation=False) if name.startswith("validation")]


def test_random_labels_and_half_precision_are_the_ordinary_ones(
    script: Script, data_dir: Path, tmp_path: Path, model_folders: dict[str, Path]
) -> None:
    options = ["--model-path", model_folders["llama"], "--data-dir", data_dir, "--concept", "toxicity"]
    options += ["--random-direction", "--dtype", "bfloat16", "--no-validation"]
    for res, more in (("ordinary", []), ("streamed", ["--stream"])):
        assert script("collect_vector", *options, "--res-dir", tmp_path / res, *more).status == 0
    ordinary, streamed = (
        VectorFile(tmp_path / res, "tiny-llama", "toxicity", Kind(random_direction=True)).content["languages"]
        for res in ("ordinary", "streamed")
    )
    for language, expected in ordinary.items():
        torch.testing.assert_close(streamed[language]["directions"], expected["directions"], rtol=1e-4, atol=1e-5)
        assert torch.equal(streamed[language]["signs"], expected["signs"])


def test_a_sign_is_minus_one_where_the_positive_text_is_mostly_the_lower_one() -> None:
    """Two pairs say one thing a little, a third the contrary strongly, which turns the mean."""
    labels = torch.tensor([[True, False], [False, True], [True, False]])
    states = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 0.0], [1.0, 0.0], [-9.0, 0.0], [9.0, 0.0]])
    means = ClassMeans(labels, [3, 2], 1, 2)
    for rows in ([5, 0], [4, 1, 2], [3]):
        means.update(rows, [states[rows]])
    turned, straight = means.directions()[:, 0, 0]
    assert turned == pytest.approx(-7 / 3 - 3)
    assert straight == 1
    assert means.mean_norm() == pytest.approx(20 / 6)


def test_each_part_has_the_sign_of_its_own_direction(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fifth pair, which validation leaves out, turns the direction over against the other four."""
    states = torch.tensor([[1.0], [0.0]] * 4 + [[-30.0], [0.0]])
    monkeypatch.setattr(
        "repe.vectors.streaming.visit_last_tokens", lambda _model, _texts, take, _size: take([*range(10)], [states])
    )
    texts = SimpleNamespace(labels=((True, False),) * 5, train_texts=lambda: [""] * 10)
    found = collect_streaming(SimpleNamespace(layers=1, hidden_size=1, dtype=torch.float32), texts)  # type: ignore[arg-type]
    assert (found["directions"].item(), found["signs"].item()) == (pytest.approx(-5.2), -1)
    assert (found["validation_directions"].item(), found["validation_signs"].item()) == (1, 1)


def test_a_difference_that_is_small_beside_the_means_keeps_its_digits() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([[True, False]] * 300)
    states = 100 + torch.randn(600, 5, generator=generator)
    means = ClassMeans(labels, [300], 1, 5)
    for start in range(0, 600, 7):
        rows = [*range(start, min(600, start + 7))]
        means.update(rows, [states[rows]])
    expected = states[::2].double().mean(0) - states[1::2].double().mean(0)
    assert (means.directions()[0, 0] - expected).norm() <= 1e-6 * expected.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_spool_gives_back_what_was_put_in(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = [[2, 0], [1, 3, 4]]
    batches = [[torch.randn(len(few), 8, generator=generator).to(dtype) for _ in range(3)] for few in rows]
    with Spool(dtype) as spool:
        for few, states in zip(rows, batches, strict=True):
            spool.add(few, states)
        for _ in range(2):
            found = [*spool]
            assert [(few, layer) for few, layer, _ in found] == [(few, layer) for few in rows for layer in range(3)]
            expected = [state for states in batches for state in states]
            assert all(torch.equal(*pair) for pair in zip((state for *_, state in found), expected, strict=True))


def test_what_does_not_go_with_it_is_refused_in_a_line(script: Script, data_dir: Path, tmp_path: Path) -> None:
    for options, word in (
        (("--direction-method", "pca"), "--direction-method pca"),
        (("--direction-method", "random"), "--direction-method random"),
        (("--cache-states", tmp_path / "states"), "--cache-states"),
    ):
        ended = script("collect_vector", "--stream", "--data-dir", data_dir, *options)
        assert (ended.status, ended.err.count("\n")) == (2, 1)
        assert word in ended.err
        assert "leave out one of the two" in ended.err


def test_states_that_are_all_alike_are_refused(split: data.Split, tmp_path: Path) -> None:
    model = load(build(tmp_path / "blind", "bloom"))
    with torch.no_grad():
        model.trunk.get_input_embeddings().weight.zero_()
    with pytest.raises(UserError, match="cluster_mean direction of layer 1 is zero"):
        collect_streaming(model, split)


def test_a_full_disk_is_told_in_a_line(
    script: Script, data_dir: Path, tmp_path: Path, model_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.TemporaryFile", lambda: open("/dev/full", "r+b", buffering=0))  # noqa: SIM115, PTH123
    options = ["--model-path", model_folders["llama"], "--data-dir", data_dir, "--res-dir", tmp_path / "res"]
    ended = script("collect_vector", *options, "--stream", "--concept", "morality")
    assert ended.status == 2, ended
    assert "No space left on device" in ended.err
    assert "TMPDIR" in ended.err
    assert not list((tmp_path / "res").rglob("*.pt"))


def test_a_streamed_run_agrees_with_the_released_run(script: Script, golden: Path, tmp_path: Path) -> None:
    run = golden / "released_run"
    model = ["--model-name", "llama2-chat", "--model-size", "7B", "--model-path", run / "models/llama2-chat-7B"]
    options = [*model, "--concept", "toxicity", "--data-dir", run / "data", "--res-dir", tmp_path]
    assert script("collect_vector", *options, "--lang", "en", "ta", "sw", "--stream").status == 0
    vectors = VectorFile(tmp_path, "llama2-chat-7B", "toxicity", Kind()).vectors
    expected = released.read_vectors(run / "res/llama2-chat-7B/toxicity/reader_dict.pk")
    assert any((expected[language]["signs"] == -1).any() for language in vectors)
    for language, entry in ((language, expected[language]) for language in vectors):
        difference = np.linalg.norm(vectors[language].directions - entry["directions"], axis=-1)
        assert (difference <= 3e-5 * np.linalg.norm(entry["directions"], axis=-1)).all()
        assert np.array_equal(vectors[language].signs, entry["signs"])
