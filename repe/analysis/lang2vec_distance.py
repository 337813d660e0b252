"""Linguistic distances of any language, computed from the features of the package lang2vec (URIEL).

The formulas are those that lang2vec_try.ipynb found: they give the recorded geographic and phonological distances
exactly, and the syntactic and genetic ones nearly. (Littell et al. 2017, "URIEL and lang2vec", EACL.)
"""

import json
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd

from repe.paper import DISTANCES

# Two of the paper's languages are recorded under these codes (ISO 639-3).
RECORDED_CODES = {"zh": "zho", "sw": "swh"}
# Digits of the recorded distances.
DIGITS = {"genetic": 4, "syntactic": 2, "geographic": 1, "phonological": 4}
# One of the two features of uvulars did not count in the recorded distances.
LEFT_OUT = "P_UVULAR_CONTINUANTS"


@cache
def data_folder() -> Path | None:
    """The folder of lang2vec's features; None if it is not installed. Importing the package would take seconds."""
    spec = find_spec("lang2vec")
    return Path(spec.origin).parent / "data" if spec and spec.origin else None


def code(language: str) -> str:
    """The ISO 639-3 code of a language that is named by its ISO 639-1 or 639-3 code."""
    folder = data_folder()
    codes = json.loads((folder / "letter_codes.json").read_text(encoding="utf-8")) if folder else {}
    return RECORDED_CODES.get(language) or str(codes.get(language, language))


def computed_distances(languages: Sequence[str]) -> pd.DataFrame:
    """Distances (0..1) from lang2vec's features, rounded like the recorded ones.

    Args:
        languages: ISO 639-1 or 639-3 codes.

    Returns:
        One row per ordered pair (index language, other), one column per distance of Table 1; NaN where one of the two
        has no attested feature, and everywhere if lang2vec is not installed.
    """
    pairs = pd.MultiIndex.from_product([languages, languages], names=["language", "other"])
    if data_folder() is None:
        return pd.DataFrame(np.nan, pairs, [*DISTANCES])
    codes = [code(language) for language in languages]
    phonology = _features("features.npz", codes, "P_")
    squares = {
        "genetic": _angle(_features("family_features.npz", codes)),
        "syntactic": _angle(_features("features.npz", codes, "S_", ("WALS", "SSWL"))),
        "geographic": _great_circle(_features("geocoord_features.npz", codes)),
        "phonological": _angle(phonology.drop(columns=LEFT_OUT)),
    }
    return pd.DataFrame({name: squares[name].ravel().round(DIGITS[name]) for name in DISTANCES}, pairs)


def _features(file: str, codes: Sequence[str], prefix: str = "", sources: Sequence[str] = ()) -> pd.DataFrame:
    """Attested features (languages, features) whose names start with `prefix`; NaN where no source has a value."""
    folder = data_folder()
    assert folder is not None
    with np.load(folder / file) as stored:
        names, known = stored["feats"], pd.Index(stored["langs"])
        columns = np.char.startswith(names, prefix)
        chosen = np.isin(stored["sources"], sources) if sources else np.ones(len(stored["sources"]), dtype=bool)
        rows = known.get_indexer(pd.Index(codes))
        values = stored["data"][rows][:, columns][:, :, chosen].max(axis=2).astype(float)
    values[(values < 0) | (rows < 0)[:, None]] = np.nan
    return pd.DataFrame(values, [*codes], names[columns])


def _angle(features: pd.DataFrame) -> np.ndarray:
    """Angles between languages as a fraction of the right angle. A missing feature counts as absent."""
    filled = features.fillna(0).to_numpy()
    with np.errstate(invalid="ignore"):
        units = filled / np.linalg.norm(filled, axis=1, keepdims=True)
    angles: np.ndarray = np.arccos(np.clip(units @ units.T, -1, 1)) * 2 / np.pi
    return angles


def _great_circle(features: pd.DataFrame) -> np.ndarray:
    """Great circles between languages as a fraction of half the circumference.

    A place follows by least squares from its distances to points whose coordinates are in the features' names.
    """
    latitude, longitude = np.radians([[float(part) for part in str(name).split("_")[1:]] for name in features]).T
    points = np.stack(
        [np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude), np.sin(latitude)], axis=1
    )
    places = np.full((len(features), 3), np.nan)
    has_place = features.notna().all(axis=1).to_numpy()
    places[has_place] = np.linalg.lstsq(points, np.cos(np.pi * features[has_place].to_numpy().T), rcond=None)[0].T
    places /= np.linalg.norm(places, axis=1, keepdims=True)
    arcs: np.ndarray = np.arccos(np.clip(places @ places.T, -1, 1)) / np.pi
    return arcs
