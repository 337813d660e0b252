"""Damaged texts, and vectors from them against plain formulas."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import Ended, load

from repe.data import Pair, read_pairs, split_pairs
from repe.tools.noise import effects
from repe.tools.noise.damage import drop, swap
from repe.tools.noise.effects import DRAWS
from repe.tools.noise.states import Items

Script = Callable[..., Ended]
TEXTS = (
    "I gave the money back to the old man who had lost it.",
    "Question: 为什么天空是蓝色的？ Answer: 因为阳光被散射。",
    "நான் அவருக்குப் பணத்தைத் திருப்பிக் கொடுத்தேன்.",
)


@pytest.mark.parametrize("text", TEXTS)
def test_swap_keeps_the_characters_and_the_spaces(text: str) -> None:
    damaged = swap(text, 1)
    assert sorted(damaged) == sorted(text)
    assert damaged != text
    assert [len(word) for word in damaged.split()] == [len(word) for word in text.split()]
    assert swap(text, 1) == damaged != swap(text, 2)


def test_swap_leaves_marks_with_their_letters() -> None:
    letters, mark = "abcdefghij", "\u0301"
    damaged = swap("".join(f"{letter}{mark}" for letter in letters), 1)
    assert damaged[1::2] == mark * len(letters)
    assert sum(one != other for one, other in zip(damaged[::2], letters, strict=True)) == 4  # two swaps of two


@pytest.mark.parametrize(("text", "left"), [("one two three four", 3), ("eins", 1), ("我把钱还给老人了", 6)])
def test_drop_deletes_a_quarter_of_the_words_and_keeps_the_order(text: str, left: int) -> None:
    words = text.split() if " " in text else [text] if text.isascii() else list(text)
    found = drop(text, 1)
    kept = found.split() if " " in text else [found] if text.isascii() else list(found)
    assert len(kept) == left
    remaining = iter(words)
    assert all(word in remaining for word in kept)


@pytest.fixture
def table(
    script: Script, tmp_path: Path, data_dir: Path, model_folders: dict[str, Path]
) -> Callable[..., pd.DataFrame]:
    def run(*more: object) -> pd.DataFrame:
        ended = script(
            *("repe.__main__", "noise", "--model-path", model_folders["llama"], "--data-dir", data_dir),
            *("--concept", "morality", "--lang", "en", "fr", "--res-dir", tmp_path / "res", *more),
        )
        assert ended.status == 0, ended
        assert (tmp_path / "res/tiny-llama/noise.png").exists()
        return (
            pd.read_csv(tmp_path / "res/tiny-llama/noise.csv")
            .set_index(["kind", "concept", "language", "share"])
            .sort_index()
        )

    return run


def test_vectors_are_those_of_the_training_pairs_with_some_replaced(
    table: Callable[..., pd.DataFrame], data_dir: Path, model_folders: dict[str, Path]
) -> None:
    found = table("--share", "0:0.5")
    model = load(model_folders["llama"])
    read = {
        one: {pair.key: pair for pair in read_pairs(data_dir / f"morality/morality_{one}.json")} for one in ("en", "fr")
    }
    shared = [pair for key, pair in read["en"].items() if key in read["fr"]]
    train, test = split_pairs(shared, 0.8)

    def differences(pairs: list) -> np.ndarray:
        return (model.states([one.pos for one in pairs]) - model.states([one.neg for one in pairs])).double().numpy()

    own = differences(train).mean(axis=1)
    expected = (np.einsum("lph,lh->lp", differences(test), own) >= 0).mean(axis=-1).max()
    for kind in ("swap", "drop", "mislabel", "mix"):
        none = found.loc[(kind, "morality", "en", 0.0)]
        assert none["accuracy"] == none["left_out"] == none["undamaged"] == pytest.approx(expected)
        assert none["cosine"] == pytest.approx(1)
    # Of equal numbers of right and wrong labels, nothing of the direction is left on average.
    half = found.loc[("mislabel", "morality", "en", 0.5)]
    assert abs(half["cosine"]) < 0.3 < half["cosine_left_out"]
    assert found.loc[("swap", "morality", "en", 0.5)]["cosine"] < 0.999
    means = found.loc[("swap", "all", "all", 0.5)]["accuracy"]
    assert means == pytest.approx(
        found.loc[("swap", "morality")].xs(0.5, level="share")["accuracy"].loc[["en", "fr"]].mean()
    )


@pytest.mark.parametrize("kind", ["mislabel", "mix"])
def test_damaged_vectors_are_means_over_a_loop(kind: str) -> None:
    generator = np.random.default_rng(0)
    states = generator.standard_normal((3, 2, 9, 5)).astype(np.float32)  # languages, layers, pairs, hidden
    pairs = {language: [Pair("a", "b", str(n)) for n in range(9)] for language in ("en", "fr", "zh")}
    items = Items("morality", pairs, [], lambda _: np.zeros(0), 1)
    items.clean = states
    train = np.array([0, 2, 3, 5, 8])
    damaged = generator.random((DRAWS, 5)) < 0.5
    others = effects._others(items, kind, 0, None, train, np.random.default_rng(1))
    found = effects._directions(states[0][:, train], others, damaged, generator)
    languages = set()
    for draw in range(DRAWS):
        whole = np.zeros((2, 5))
        for place, pair in enumerate(train):
            other = -states[0, :, pair] if kind == "mislabel" else others[draw, :, place]
            languages |= {one for one in range(3) if np.allclose(states[one, :, pair], other)}
            whole += other if damaged[draw, place] else states[0, :, pair]
        left = sum((states[0, :, pair] for pair, gone in zip(train, damaged[draw], strict=True) if not gone), start=0)
        assert np.allclose(found[0, draw], whole, atol=1e-5)
        assert np.allclose(found[1, draw], left, atol=1e-5)
    assert languages == ({1, 2} if kind == "mix" else set())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--kind", "hail"], "--kind hail does not exist: choose from swap, drop, mislabel, mix"),
        (["--share", "0.5:0.1"], "must be two shares from 0 to below 1"),
        (["--kind", "mix", "--lang", "en"], "--kind mix needs a second language"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    script: Script, data_dir: Path, model_folders: dict[str, Path], options: list[str], message: str
) -> None:
    where = ["--model-path", model_folders["llama"], "--data-dir", data_dir, "--concept", "morality"]
    ended = script("repe.__main__", "noise", *where, *options)
    assert ended.status == 2
    assert message in ended.err
