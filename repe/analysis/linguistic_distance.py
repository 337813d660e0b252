"""Linguistic distances between languages (URIEL) for Table 1.

Those of the paper's languages are recorded, with their gaps or with the gaps repaired; those of other languages are
computed from lang2vec's features, if that package is installed.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from repe.paper import DISTANCES

# Distances as in the released code's lang_sim.pt, which took them from URIEL through lang2vec (Littell et al., EACL
# 2017), with the gaps that they have there.
URIEL_FILE = Path(__file__).with_name("uriel_distances.csv")

# The distances used in Table 1 that those gaps affect, computed again from the features of lang2vec 1.1.2 (see
# lang2vec_try.ipynb), or empty where the features are missing.
REPAIRED_FILE = Path(__file__).with_name("uriel_repaired.csv")


@cache
def uriel_distances(repaired: bool = False) -> pd.DataFrame:
    """Linguistic distances (0..1) of the paper's languages.

    Args:
        repaired: use the repaired distances of `uriel_repaired`; NaN where there is none.

    Returns:
        One row per ordered pair of languages (index language, other), one column per kind of distance.
    """
    table = _in_both_orders(pd.read_csv(URIEL_FILE, comment="#"))
    if repaired:
        for distance, cells in uriel_repaired().groupby("distance"):
            values = _in_both_orders(cells)["repaired"]
            table.loc[values.index, str(distance)] = values
    return table


def uriel_repaired() -> pd.DataFrame:
    """Recorded distances that were computed from missing features, and their values from lang2vec 1.1.2.

    Returns:
        One row per unordered pair; columns distance (its kind), language, other, recorded, repaired (NaN where
        lang2vec has no feature of one of the two), how.
    """
    return pd.read_csv(REPAIRED_FILE, comment="#")


def distances(languages: Sequence[str], repaired: bool = False) -> pd.DataFrame:
    """The distances of Table 1 between any languages.

    Args:
        languages: names; ISO 639-1 or 639-3 codes for languages other than the paper's.
        repaired: use the repaired distances of `uriel_repaired`.

    Returns:
        One row per ordered pair (index language, other): columns of DISTANCES, NaN where unknown, and `source`:
        `recorded` for two of the paper's languages, else `computed`.
    """
    return _distances(tuple(languages), repaired).copy()


@cache
def _distances(languages: tuple[str, ...], repaired: bool) -> pd.DataFrame:
    pairs = pd.MultiIndex.from_product([languages, languages], names=["language", "other"])
    recorded = uriel_distances(repaired)
    table = recorded.reindex(pairs)[[*DISTANCES]]
    is_recorded = pairs.isin(recorded.index)
    if not is_recorded.all():
        from repe.analysis.lang2vec_distance import computed_distances  # reads large files

        table.loc[~is_recorded] = computed_distances(languages)[~is_recorded]
    return table.assign(source=np.where(is_recorded, "recorded", "computed"))


def unknown_languages(languages: Sequence[str]) -> dict[str, str]:
    """Languages without any linguistic distance to the others, and why."""
    from repe.analysis.lang2vec_distance import code, data_folder

    table = distances(languages)
    apart = table[table.index.get_level_values(0) != table.index.get_level_values(1)]
    known = apart[[*DISTANCES]].notna().any(axis=1).groupby(level=0).any()
    if data_folder() is None:
        reason = "lang2vec is not installed: pip install lang2vec==1.1.2 (see docs/statistics.md)"
        return {language: reason for language in languages if not known.get(language, True)}
    return {
        language: f"lang2vec has no features of {code(language)!r}: name the language by its ISO 639-1 or 639-3 code"
        for language in languages
        if not known.get(language, True)
    }


def linguistic_similarities(languages: Sequence[str], repaired: bool = False) -> dict[str, np.ndarray]:
    """1 - distance for each distance of Table 1, float64 (languages, languages); NaN where a distance is unknown."""
    table = distances(languages, repaired)
    return {distance: 1 - table[distance].to_numpy().reshape(2 * [len(languages)]) for distance in DISTANCES}


def _in_both_orders(half: pd.DataFrame) -> pd.DataFrame:
    swapped = half.rename(columns={"language": "other", "other": "language"})
    return pd.concat([half, swapped]).drop_duplicates(["language", "other"]).set_index(["language", "other"])
