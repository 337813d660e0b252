"""Linguistic distances between languages (URIEL) for Table 1.

Those of the paper's languages are recorded, with their gaps or with the gaps repaired; those of other languages are
computed from lang2vec's features, if that package is installed. Or all of them are from a user's file.
"""

import io
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from repe.errors import UserError
from repe.files import read_regular
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


def distances(languages: Sequence[str], source: str | Path = "recorded") -> pd.DataFrame:
    """The distances of Table 1 between any languages.

    Args:
        languages: names; ISO 639-1 or 639-3 codes for languages other than the paper's.
        source: `recorded`, `repaired` (see `uriel_repaired`), or a file for `given_distances`.

    Returns:
        One row per ordered pair (index language, other): columns of DISTANCES, NaN where unknown, and `source`: `given`
        by the file, `recorded` for two of the paper's languages, else `computed`.

    Raises:
        UserError: the file does not have distances.
    """
    return _distances(tuple(languages), source).copy()


@cache
def _distances(languages: tuple[str, ...], source: str | Path) -> pd.DataFrame:
    pairs = pd.MultiIndex.from_product([languages, languages], names=["language", "other"])
    if isinstance(source, Path):
        return given_distances(source).reindex(pairs).assign(source="given")
    recorded = uriel_distances(source == "repaired")
    table = recorded.reindex(pairs)[[*DISTANCES]]
    is_recorded = pairs.isin(recorded.index)
    if not is_recorded.all():
        from repe.analysis.lang2vec_distance import computed_distances  # reads large files

        table.loc[~is_recorded] = computed_distances(languages)[~is_recorded]
    return table.assign(source=np.where(is_recorded, "recorded", "computed"))


def given_distances(path: Path) -> pd.DataFrame:
    """Distances from a file: a CSV such as linguistic_distances.csv, or an archive such as lang_sim.pt.

    Args:
        path: `.csv` with columns language, other and those of DISTANCES that it has; else a PyTorch archive of numbers
            by language, other language and distance. A pair in one order stands for both.

    Returns:
        One row per ordered pair (index language, other), columns of DISTANCES; NaN where unknown.

    Raises:
        UserError: the file cannot be read, or is something else.
    """
    try:
        if path.suffix == ".csv":
            raw = io.BytesIO(read_regular(path))
            cells = pd.read_csv(raw, comment="#", keep_default_na=False, na_values=[""])
        else:
            from repe.results.torch_archive import read

            nested = read(path)
            rows = [(one, two, of) for one, others in nested.items() for two, of in others.items()]
            known = [{name: of[name] for name in DISTANCES if name in of} for _, _, of in rows]
            cells = pd.DataFrame(known).assign(language=[one for one, *_ in rows], other=[two for _, two, _ in rows])
        if missing := {"language", "other"}.difference(cells):
            raise ValueError(f"no column {missing.pop()}")
        table = _in_both_orders(cells).reindex(columns=[*DISTANCES]).astype(float)
    except UserError:
        raise
    # Damaged files can raise any type.
    except Exception as error:
        remedy = f"give a CSV with columns language, other, {', '.join(DISTANCES)}, or a file such as lang_sim.pt"
        raise UserError(f"{path} has no linguistic distances ({error}): {remedy}") from error
    values = table.to_numpy()
    known = values[~np.isnan(values)]
    if not len(known) or known.min() < 0 or known.max() > 1:
        raise UserError(f"{path} has no linguistic distances between 0 and 1 ({', '.join(DISTANCES)})")
    return table


def unknown_languages(languages: Sequence[str], source: str | Path = "recorded") -> dict[str, str]:
    """Languages without any linguistic distance to the others, and why."""
    from repe.analysis.lang2vec_distance import code, data_folder

    table = distances(languages, source)
    apart = table[table.index.get_level_values(0) != table.index.get_level_values(1)]
    known = apart[[*DISTANCES]].notna().any(axis=1).groupby(level=0).any()
    unknown = [language for language in languages if not known.get(language, True)]
    if isinstance(source, Path):
        return dict.fromkeys(unknown, f"{source} has no distances of it")
    if data_folder() is None:
        return dict.fromkeys(unknown, "lang2vec is not installed: pip install lang2vec==1.1.2 (see docs/statistics.md)")
    reason = "lang2vec has no features of {!r}: name the language by its ISO 639-1 or 639-3 code"
    return {language: reason.format(code(language)) for language in unknown}


def linguistic_similarities(languages: Sequence[str], source: str | Path = "recorded") -> dict[str, np.ndarray]:
    """1 - distance for each distance of Table 1, float64 (languages, languages); NaN where a distance is unknown."""
    table = distances(languages, source)
    return {distance: 1 - table[distance].to_numpy().reshape(2 * [len(languages)]) for distance in DISTANCES}


def _in_both_orders(half: pd.DataFrame) -> pd.DataFrame:
    swapped = half.rename(columns={"language": "other", "other": "language"})
    return pd.concat([half, swapped]).drop_duplicates(["language", "other"]).set_index(["language", "other"])
