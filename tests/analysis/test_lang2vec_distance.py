"""Distances from lang2vec's features: equal to the recorded ones where the formulas are exact, plausible elsewhere."""

import importlib.util

import numpy as np
import pandas as pd
import pytest

from repe.analysis import lang2vec_distance, linguistic_distance
from repe.paper import DISTANCES, LANGUAGES

ALL = [*LANGUAGES, "sv", "de", "deu", "xx"]
# Languages whose recorded distances stand for missing features (see lang2vec_try.ipynb).
GAPS = {"geographic": {"zh"}, "phonological": {"zh", "pt", "ta", "ny"}}

pytestmark = pytest.mark.skipif(importlib.util.find_spec("lang2vec") is None, reason="lang2vec is not installed")


@pytest.fixture(scope="module")
def computed() -> pd.DataFrame:
    return lang2vec_distance.computed_distances(ALL)


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return linguistic_distance.distances(ALL)


@pytest.mark.parametrize("distance", DISTANCES)
def test_computed_distances_agree_with_the_recorded_ones(distance: str, computed: pd.DataFrame) -> None:
    recorded = linguistic_distance.uriel_distances()[distance]
    sound = [one != other and not {one, other} & GAPS.get(distance, set()) for one, other in recorded.index]
    recorded = recorded[sound]
    found = computed[distance].reindex(recorded.index)
    if distance in GAPS:
        assert np.allclose(found, recorded)
    assert np.corrcoef(found, recorded)[0, 1] > 0.98


def test_other_languages_get_computed_distances_and_recorded_cells_stay(
    table: pd.DataFrame, computed: pd.DataFrame
) -> None:
    recorded = table[table.source == "recorded"]
    assert len(recorded) == 16 * 16
    assert recorded[[*DISTANCES]].equals(linguistic_distance.uriel_distances()[[*DISTANCES]].reindex(recorded.index))
    pd.testing.assert_frame_equal(table.loc[["sv"], [*DISTANCES]], computed.loc[["sv"]])
    # Swedish is closer to German than to Finnish by family, and to Finland than to Japan on the globe.
    assert table.genetic["sv", "de"] < table.genetic["sv", "fi"]
    assert table.geographic["sv", "fi"] < table.geographic["sv", "ja"]
    # The two kinds of codes name the same language.
    assert table.loc[("de", "en")].equals(table.loc[("deu", "en")])
    assert table.loc[("xx", "en"), [*DISTANCES]].isna().all()


def test_a_language_without_features_is_named(table: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linguistic_distance, "distances", lambda languages, _source: table.loc[languages])
    (reason,) = linguistic_distance.unknown_languages(ALL).values()
    assert "no features of 'xx'" in reason


def test_without_lang2vec_other_languages_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lang2vec_distance, "data_folder", lambda: None)
    monkeypatch.setattr(linguistic_distance, "_distances", linguistic_distance._distances.__wrapped__)
    assert linguistic_distance.distances(["en", "sv"]).loc[("en", "sv"), [*DISTANCES]].isna().all()
    assert "pip install lang2vec" in linguistic_distance.unknown_languages(["en", "fr", "sv"])["sv"]
