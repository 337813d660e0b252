"""The part of the golden numbers that is kept beside the tests, as the files and tables that analyses work on."""

from functools import cache
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd

from repe.paper import CONCEPTS, LANGUAGES

FOLDER = Path(__file__).with_name("golden")
MODEL = "bloomz-560M"


class GivenVectors:
    """Stands for a vector file with these vectors."""

    def __init__(self, directions: np.ndarray, signs: np.ndarray) -> None:
        self.vectors = {
            language: _One(directions[place][:, None], signs[place][:, None])
            for place, language in enumerate(LANGUAGES)
        }


class _One:
    def __init__(self, directions: np.ndarray, signs: np.ndarray) -> None:
        self.directions, self.signs, self.split_half = directions, signs, None


class GivenAccuracy:
    """Stands for a download with these accuracies."""

    content: ClassVar = {"correct": {}}

    def __init__(self, accuracy: np.ndarray) -> None:
        self.accuracy = {
            source: {target: accuracy[i, j] for j, target in enumerate(LANGUAGES)} for i, source in enumerate(LANGUAGES)
        }

    def parts(self, *_cell: str) -> None:
        """It has no nulls and no detection."""


@cache
def vectors() -> dict[str, GivenVectors]:
    """By concept."""
    data = np.load(FOLDER / f"{MODEL}.npz")
    pairs = zip(data["directions"], data["signs"], strict=True)
    return {concept: GivenVectors(*pair) for concept, pair in zip(CONCEPTS, pairs, strict=True)}


@cache
def accuracies() -> dict[str, GivenAccuracy]:
    """By concept."""
    right = np.load(FOLDER / f"{MODEL}.npz")["correct_of_200"]
    return {concept: GivenAccuracy(rows / 200) for concept, rows in zip(CONCEPTS, right, strict=True)}


def expected(name: str) -> pd.DataFrame:
    """A table to agree with."""
    return pd.read_csv(FOLDER / f"{name}.csv")


def assert_agrees(found: pd.DataFrame, expected: pd.DataFrame) -> None:
    """The expected columns first, the same rows in the same order, numbers within 1e-9."""
    pd.testing.assert_frame_equal(
        found.reset_index(drop=True).iloc[:, : expected.shape[1]],
        expected,
        check_dtype=False,
        check_exact=False,
        rtol=0,
        atol=1e-9,
    )
