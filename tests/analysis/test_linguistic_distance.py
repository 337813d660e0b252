"""Recorded distances against the released file; repaired ones against lang2vec's features, by independent formulas."""

import math
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.optimize import least_squares

from repe.analysis import linguistic_distance
from repe.errors import UserError
from repe.paper import DISTANCES, LANGUAGES


def test_the_distances_are_complete_and_symmetric() -> None:
    table = linguistic_distance.uriel_distances()
    assert len(table) == 16 * 16
    assert not table.isna().any().any()
    for distance in DISTANCES:
        square = table[distance].unstack()
        assert (square == square.T).all().all()
        assert (np.diag(square) == 0).all()
        assert square.min().min() >= 0
        assert square.max().max() <= 1
    # The released gaps: no geographic feature of zh, phonological ones missing in four languages.
    assert (table.loc["zh"].drop("zh").geographic == 1).all()
    assert table.phonological["pt", "zh"] == pytest.approx(0.0002)


ISO = ("eng", "fra", "zho", "spa", "por", "vie", "cat", "ind", "jpn", "kor", "fin", "hun", "tam", "tel", "swh", "nya")
# One of two features of the same two languages, that the recorded distances were made without.
LATER = "P_UVULAR_CONTINUANTS"


@cache
def lang2vec(file: str) -> tuple[np.ndarray, list[str]]:
    """Values (16, features, sources), -1 where unknown, and names of the features, from lang2vec's own data.

    Importing the package takes a quarter of a minute.
    """
    package = find_spec("lang2vec")
    assert package is not None
    assert package.origin is not None
    with np.load(Path(package.origin).parent / "data" / file) as stored:
        codes = stored["langs"].tolist()
        return stored["data"][[codes.index(code) for code in ISO]], stored["feats"].tolist()


def phonology(language: str, value: int) -> set[str]:
    """The features of phonology that some source says are there (1), or says anything about (0)."""
    values, names = lang2vec("features.npz")
    largest = values[LANGUAGES.index(language)].max(axis=1)
    return {
        name
        for name, known in zip(names, largest, strict=True)
        if name.startswith("P_") and name != LATER and known >= value
    }


def by_phonology(language: str, other: str) -> float:
    """The angle between two languages' features, in right angles: of sets, by what they share."""
    one, two = phonology(language, 1), phonology(other, 1)
    return round(math.degrees(math.acos(len(one & two) / math.sqrt(len(one) * len(two)))) / 90, 4)


def haversine(place: np.ndarray, latitude: np.ndarray, longitude: np.ndarray) -> np.ndarray:
    """Great circles from a place (latitude, longitude, radians) as shares of half the circumference."""
    half = np.sin((latitude - place[0]) / 2) ** 2
    half += np.cos(latitude) * np.cos(place[0]) * np.sin((longitude - place[1]) / 2) ** 2
    return 2 / np.pi * np.arcsin(np.sqrt(np.clip(half, 0, 1)))


@cache
def place(language: str) -> np.ndarray:
    """Latitude and longitude whose distances to lang2vec's points are those of `language`."""
    values, names = lang2vec("geocoord_features.npz")
    latitude, longitude = np.radians([[float(part) for part in name.split("_")[1:]] for name in names]).T
    known = values[LANGUAGES.index(language), :, 0]
    nearest = known.argmin()
    start = np.array([latitude[nearest], longitude[nearest]])
    return least_squares(lambda found: haversine(found, latitude, longitude) - known, start).x


def by_geography(language: str, other: str) -> float:
    return round(float(haversine(place(language), *place(other)[:, None])[0]), 1)


BY_FEATURES = {"geographic": (by_geography, {"zh"}), "phonological": (by_phonology, {"zh", "pt", "ta", "ny"})}


@pytest.mark.parametrize("distance", BY_FEATURES)
def test_sound_cells_and_repaired_cells_come_out_of_the_features_by_one_formula(distance: str) -> None:
    by_features, gaps = BY_FEATURES[distance]
    recorded, repaired = (linguistic_distance.uriel_distances(which)[distance] for which in (False, True))
    cells = set()
    for i, language in enumerate(LANGUAGES):
        for other in LANGUAGES[i + 1 :]:
            known = phonology(language, 0) and phonology(other, 0) if distance == "phonological" else True
            if not {language, other} & gaps:
                assert recorded[language, other] == repaired[language, other] == by_features(language, other)
            elif known:
                assert repaired[language, other] == by_features(language, other), (language, other)
                cells.add((language, other))
            else:
                assert np.isnan(repaired[language, other]), (language, other)
                cells.add((language, other))
    table = linguistic_distance.uriel_repaired()
    listed = table[table.distance == distance]
    assert len(listed) == len(cells) == {"geographic": 15, "phonological": 54}[distance]
    assert {*zip(listed.language, listed.other, strict=True)} == cells
    assert (listed.how.str.startswith("left out") == listed.repaired.isna()).all()


def test_without_features_a_language_had_the_same_angle_to_all_that_have_as_many() -> None:
    table = linguistic_distance.uriel_repaired()
    gaps = BY_FEATURES["phonological"][1]
    for row in table[table.distance == "phonological"].itertuples():
        others = {row.language, row.other} - gaps
        if others:
            share = len(phonology(*others, 1)) / 28
            assert row.recorded == round(math.degrees(math.acos(math.sqrt(share))) / 90, 4)
        else:
            assert row.recorded == 0.0002
    assert (table[table.distance == "geographic"].recorded == 1).all()


def test_the_repair_leaves_recorded_distances_as_they_are() -> None:
    before = linguistic_distance.uriel_distances().copy()
    repaired = linguistic_distance.uriel_distances(repaired=True)
    table = linguistic_distance.uriel_repaired()
    pd.testing.assert_frame_equal(linguistic_distance.uriel_distances(), before)
    assert repaired.index.equals(before.index)
    listed = {(row.distance, *pair) for row in table.itertuples() for pair in _orders(row.language, row.other)}
    for distance in before.columns:
        for pair, value in before[distance].items():
            if (distance, *pair) not in listed:
                assert repaired.loc[pair, distance] == value
    for row in table.itertuples():
        assert before.loc[(row.language, row.other), row.distance] == row.recorded


def _orders(language: str, other: str) -> tuple[tuple[str, str], tuple[str, str]]:
    return (language, other), (other, language)


def test_recorded_distances_are_those_of_the_released_code(golden: Path) -> None:
    released = torch.load(golden / "uriel/lang_sim.pt", weights_only=True)
    table = linguistic_distance.uriel_distances()
    for language, other in table.index:
        for distance, value in released[language][other].items():
            assert table.loc[(language, other), distance] == pytest.approx(value, abs=1e-9)


def test_the_repaired_distances_are_symmetric_and_zero_to_oneself() -> None:
    table = linguistic_distance.uriel_distances(repaired=True)
    assert len(table) == 16 * 16
    for distance in table.columns:
        square = table[distance].unstack()
        pd.testing.assert_frame_equal(square, square.T, check_names=False)
        assert (np.diag(square) == 0).all()
        assert square.min().min() >= 0
        assert square.max().max() <= 1
        # Of 240 ordered pairs: what has no value is phonological, of three languages with each of the others.
        assert square.isna().sum().sum() == (84 if distance == "phonological" else 0)


@pytest.mark.parametrize("name", ["given.csv", "lang_sim.pt"])
def test_distances_of_a_users_own_file(name: str, tmp_path: Path) -> None:
    """One order of a pair stands for both; what the file lacks is not known."""
    path = tmp_path / name
    if path.suffix == ".csv":
        path.write_text("language,other,genetic,geographic\nen,fr,0.25,0.5\nxx,en,1,\n")
    else:
        content = {"en": {"fr": {"genetic": 0.25, "geographic": 0.5}}, "xx": {"en": {"genetic": 1.0}}}
        torch.save(content, path)
    table = linguistic_distance.distances(["fr", "en", "xx"], path)
    assert table.loc[("fr", "en"), ["genetic", "geographic", "source"]].tolist() == [0.25, 0.5, "given"]
    assert table.genetic["en", "xx"] == 1
    assert table[["syntactic", "phonological"]].isna().all(axis=None)
    assert np.isnan(table.genetic["fr", "xx"])
    assert linguistic_distance.linguistic_similarities(["en", "fr"], path)["genetic"][0, 1] == 0.75
    assert linguistic_distance.unknown_languages(["en", "fr", "sv"], path) == {"sv": f"{path} has no distances of it"}


def test_a_file_without_distances_is_refused(tmp_path: Path) -> None:
    for name, content in {
        "a.csv": b"language,genetic\nen,0.5\n",
        "b.csv": b"language,other,genetic\nen,fr,near\n",
        "c.csv": b"language,other,genetic\nen,fr,1.5\n",
        "d.csv": b"language,other,colour\nen,fr,0.5\n",
        "lang_sim.pt": b"no archive",
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=f"{name} has no linguistic distances"):
            linguistic_distance.distances(["en", "fr"], tmp_path / name)
    with pytest.raises(UserError, match="missing"):
        linguistic_distance.distances(["en", "fr"], tmp_path / "missing.csv")


def test_the_released_file_is_read_as_recorded(golden: Path) -> None:
    given = linguistic_distance.distances(LANGUAGES, golden / "uriel/lang_sim.pt")
    recorded = linguistic_distance.distances(LANGUAGES)
    pd.testing.assert_frame_equal(given[[*DISTANCES]], recorded[[*DISTANCES]], check_exact=False, rtol=0, atol=1e-9)
