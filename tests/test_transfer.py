"""Transfer and the same-language table against golden numbers."""

from typing import ClassVar

import numpy as np
import pytest
from golden_subset import MODEL, accuracies, assert_agrees, expected

from repe.paper import FAMILIES, LANGUAGES
from repe.recognition import same_language_table
from repe.transfer import transfer_table


def test_transfer_agrees_with_the_released_code() -> None:
    assert_agrees(transfer_table(MODEL, accuracies(), FAMILIES["bloomz"].axis), expected("transfer"))


def test_table_6_agrees_with_the_released_code() -> None:
    found = same_language_table({MODEL: accuracies()}, LANGUAGES)
    assert_agrees(found, expected("table6_recognition_accuracy"))


def test_a_source_that_is_better_than_the_target_itself_transfers() -> None:
    languages = LANGUAGES[:2]

    class File:
        accuracy: ClassVar = {
            "en": {"en": np.array([0.5, 0.9]), "fr": np.array([0.75, 0.7])},
            "fr": {"en": np.array([0.5, 0.5]), "fr": np.array([0.6, 0.5])},
        }

    found = transfer_table("m", {"a": File(), "b": File()}, languages).set_index(["source", "target"])
    assert found.accuracy["en", "fr"] == pytest.approx(0.75)
    assert found.delta["en", "fr"] == pytest.approx(0.15)
    assert found.delta["fr", "en"] == pytest.approx(-0.4)
    assert found.delta["en", "en"] == found.delta["fr", "fr"] == 0


def test_the_lowest_of_equally_good_layers_is_named() -> None:
    class File:
        accuracy: ClassVar = {"en": {"en": np.array([0.5, 0.9, 0.9])}}

    found = same_language_table({"m": {"a": File()}}, ["en"])
    assert found.to_dict("records") == [
        {"concept": "a", "model": "m", "language": "en", "accuracy": 0.9, "best_layer": 2}
    ]
