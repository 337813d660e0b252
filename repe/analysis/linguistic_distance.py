"""Linguistic distances between the paper's languages (URIEL), as recorded and with their gaps repaired (Table 1)."""

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


def linguistic_similarities(languages: Sequence[str], repaired: bool = False) -> dict[str, np.ndarray]:
    """1 - distance for each distance of Table 1, float64 (languages, languages); NaN where a distance is unknown."""
    table = uriel_distances(repaired).reindex(pd.MultiIndex.from_product([languages, languages]))
    return {distance: 1 - table[distance].to_numpy().reshape(2 * [len(languages)]) for distance in DISTANCES}


def _in_both_orders(half: pd.DataFrame) -> pd.DataFrame:
    swapped = half.rename(columns={"language": "other", "other": "language"})
    return pd.concat([half, swapped]).drop_duplicates(["language", "other"]).set_index(["language", "other"])
