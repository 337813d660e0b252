"""Cross-lingual consistency: similarity of concept vectors, and linguistic distance (Section 3.3, Table 1)."""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from repe.analysis.permutation import holm, mantel, orders
from repe.paper import DISTANCES, Family
from repe.results.vector_file import VectorFile

# Distances between the paper's languages as in the released code's lang_sim.pt, which took them from URIEL through
# lang2vec (Littell et al., EACL 2017); known gaps in them are the released ones.
URIEL_FILE = Path(__file__).with_name("uriel_distances.csv")

# The cells of Table 1's distances that those gaps made, computed again from the features of lang2vec 1.1.2, or empty
# where it has none; lang2vec_try.ipynb shows how.
REPAIRED_FILE = Path(__file__).with_name("uriel_repaired.csv")


def cosines(files: Mapping[str, VectorFile], languages: Sequence[str]) -> np.ndarray:
    """Cosine similarity of signed vectors between languages.

    Args:
        files: a model's vector files by concept.
        languages: languages of both axes.

    Returns:
        float64 (concepts, layers, languages, languages); NaN where a vector is zero.
    """
    similarities = []
    for file in files.values():
        vectors = [file.vectors[language] for language in languages]
        signed = np.stack([one.directions[:, 0] * one.signs[:, :1].astype(np.float64) for one in vectors], axis=1)
        norms = np.linalg.norm(signed, axis=-1, keepdims=True)
        units = signed / np.where(norms > 0, norms, np.nan)  # (layers, languages, hidden)
        similarities.append(units @ units.transpose(0, 2, 1))
    return np.stack(similarities)


def best_layer_similarity(cosine: np.ndarray, layers: np.ndarray | None = None) -> np.ndarray:
    """Mean over concepts of each language pair's most similar layer, with 1 on the diagonal.

    Args:
        cosine: (concepts, layers, languages, languages).
        layers: int (concepts, languages, languages), the layers to take instead, counted from 0.

    Returns:
        float64 (languages, languages).
    """
    chosen = cosine.max(axis=1) if layers is None else np.take_along_axis(cosine, layers[:, None], axis=1)[:, 0]
    similarity = chosen.mean(axis=0)
    np.fill_diagonal(similarity, 1.0)
    return similarity  # type: ignore[no-any-return]


def similarity_table(model: str, languages: Sequence[str], similarity: np.ndarray) -> pd.DataFrame:
    """Figures 4 and 7 in long form: columns model, source, target, similarity."""
    rows = [
        (model, source, target, similarity[i, j])
        for i, source in enumerate(languages)
        for j, target in enumerate(languages)
    ]
    return pd.DataFrame(rows, columns=["model", "source", "target", "similarity"])


def similarity_by_layer(model: str, cosine: np.ndarray) -> pd.DataFrame:
    """Mean similarity of different languages in each layer.

    Args:
        cosine: (concepts, layers, languages, languages), of at least two languages.

    Returns:
        Columns model, layer, relative_depth = (layer - 1) / layers, similarity (mean over pairs and concepts).
    """
    layers = cosine.shape[1]
    means = cosine[..., ~np.eye(cosine.shape[-1], dtype=bool)].mean(axis=(0, 2))
    frame = pd.DataFrame({"model": model, "layer": range(1, layers + 1)})
    return frame.assign(relative_depth=(frame.layer - 1) / layers, similarity=means)


@cache
def uriel_distances(repaired: bool = False) -> pd.DataFrame:
    """Linguistic distances (0..1) of the paper's languages.

    Args:
        repaired: replace the cells of `uriel_repaired`; NaN where it has no value.

    Returns:
        One row an ordered pair of languages (index language, other), one column a kind of distance.
    """
    table = _in_both_orders(pd.read_csv(URIEL_FILE, comment="#"))
    if repaired:
        for distance, cells in uriel_repaired().groupby("distance"):
            values = _in_both_orders(cells)["repaired"]
            table.loc[values.index, str(distance)] = values
    return table


def uriel_repaired() -> pd.DataFrame:
    """The recorded distances that stand for missing features, and what they are with lang2vec 1.1.2's.

    Returns:
        One row an unordered pair; columns distance (its kind), language, other, recorded, repaired (NaN where lang2vec
        attests no feature of one of the two), how.
    """
    return pd.read_csv(REPAIRED_FILE, comment="#")


def _in_both_orders(half: pd.DataFrame) -> pd.DataFrame:
    swapped = half.rename(columns={"language": "other", "other": "language"})
    return pd.concat([half, swapped]).drop_duplicates(["language", "other"]).set_index(["language", "other"])


def linguistic_correlation(
    model: str, family: Family, languages: Sequence[str], similarity: np.ndarray, repaired: bool = False
) -> pd.DataFrame:
    """A model's row of Table 1: does similarity of vectors follow similarity of languages?

    Args:
        languages: of both axes of `similarity`, in the family's order (which `direct_as_released` depends on).
        similarity: (languages, languages).
        repaired: with the repaired distances; a pair that has none counts on neither side.

    Returns:
        Columns model, distance, direct (Pearson's r over ordered pairs of different languages), direct_as_released (the
        released code's value, see `_as_released`), split (mean of r over pairs with a high-resource language and r over
        the others); NaN where an r is undefined.
    """
    different, with_high, without = _pairs(high_resource(family, languages))
    rows = []
    for distance, closeness in linguistic_similarities(languages, repaired).items():
        parts = [pearson(similarity[mask], closeness[mask]) for mask in (with_high, without)]
        rows.append(
            {
                "model": model,
                "distance": distance,
                "direct": pearson(similarity[different], closeness[different]),
                "direct_as_released": pearson(_as_released(similarity)[different], closeness[different]),
                "split": float(np.mean(parts)),
            }
        )
    return pd.DataFrame(rows)


def high_resource(family: Family, languages: Sequence[str]) -> np.ndarray:
    """Which of `languages` Table 1 counts as high-resource, bool (languages,)."""
    return np.array([family.is_high_resource(language, list(languages)) for language in languages], dtype=bool)


def linguistic_similarities(languages: Sequence[str], repaired: bool = False) -> dict[str, np.ndarray]:
    """1 - distance by kind of distance, float64 (languages, languages); NaN where there is none."""
    table = uriel_distances(repaired).reindex(pd.MultiIndex.from_product([languages, languages]))
    return {distance: 1 - table[distance].to_numpy().reshape(2 * (len(languages),)) for distance in DISTANCES}


def _pairs(high: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of different languages, those with a high-resource one, and the others; bool (languages, languages)."""
    different = ~np.eye(len(high), dtype=bool)
    with_high = different & (high[:, None] | high[None, :])
    return different, with_high, different & ~with_high


def with_p_values(
    correlation: pd.DataFrame,
    family: Family,
    languages: Sequence[str],
    similarity: np.ndarray,
    permutations: int,
    seed: int,
    repaired: bool = False,
) -> pd.DataFrame:
    """A model's row of Table 1 with two-sided p-values of Mantel's test (`permutation.mantel`).

    For `direct` the languages of the similarity change places with all others; for `split` with those of their own
    kind, high-resource or not, since its two correlations are over pairs of given kinds.

    Args:
        correlation: of `linguistic_correlation` or `repaired_correlation`, of the same languages and similarity.
        permutations: random orders, or all orders where there are no more.

    Returns:
        The table with the further columns direct_p, split_p; NaN where the correlation is undefined.
    """
    high = high_resource(family, languages)
    different, *kinds = _pairs(high)
    generator = np.random.default_rng(seed)
    ways = {
        "direct_p": ([different], orders([0] * len(high), permutations, generator)),
        "split_p": (kinds, orders(high.tolist(), permutations, generator)),
    }
    closeness = linguistic_similarities(languages, repaired)
    values = {
        name: [mantel(similarity, closeness[distance], parts, permuted) for distance in correlation.distance]
        for name, (parts, permuted) in ways.items()
    }
    return correlation.assign(**values)


def table1(
    models: Mapping[str, tuple[Family, Sequence[str], np.ndarray]],
    permutations: int = 0,
    seed: int = 1,
    repaired: bool = False,
) -> pd.DataFrame:
    """Table 1 in long form.

    Args:
        models: family, languages in its order, and similarity (languages, languages), by model.
        permutations: of the p-values; without any, there are none.
        repaired: with the repaired distances, and what they change.

    Returns:
        Columns of `linguistic_correlation`, or of `repaired_correlation`; with permutations also of `with_p_values`,
        direct_p_holm and split_p_holm: corrected for all cells, of all models, distances and both ways together.
    """
    correlate = repaired_correlation if repaired else linguistic_correlation
    rows = []
    for model, given in models.items():
        row = correlate(model, *given)
        rows.append(with_p_values(row, *given, permutations, seed, repaired) if permutations else row)
    table = pd.concat(rows)
    return _with_holm(table) if permutations else table


def _with_holm(correlation: pd.DataFrame) -> pd.DataFrame:
    given = correlation[["direct_p", "split_p"]]
    direct, split = holm(given.to_numpy()).T
    rest = correlation.drop(columns=given.columns)
    return rest.assign(direct_p=given.direct_p, direct_p_holm=direct, split_p=given.split_p, split_p_holm=split)


def repaired_correlation(model: str, family: Family, languages: Sequence[str], similarity: np.ndarray) -> pd.DataFrame:
    """A model's row of Table 1 with the repaired distances, and what the repair changes.

    Args:
        languages: of both axes of `similarity`, in the family's order.
        similarity: (languages, languages).

    Returns:
        The columns of `linguistic_correlation`, then direct_recorded, split_recorded (r with the recorded distances),
        direct_effect, split_effect (r with the repaired less r with the recorded ones; NaN where either is undefined).
    """
    recorded = linguistic_correlation(model, family, languages, similarity)
    repaired = linguistic_correlation(model, family, languages, similarity, repaired=True)
    return repaired.assign(
        direct_recorded=recorded.direct,
        split_recorded=recorded.split,
        direct_effect=repaired.direct - recorded.direct,
        split_effect=repaired.split - recorded.split,
    )


def _as_released(similarity: np.ndarray) -> np.ndarray:
    """Each cell holds the one before it in reading order, which is what the released code pairs with distances.

    It appends a value before updating it, so that a pair of languages gets its neighbour's similarity.
    """
    return np.roll(similarity.ravel(), 1).reshape(similarity.shape)


def pearson(x: np.ndarray, y: np.ndarray) -> float:
    """Pearson's r over the entries where both are known; NaN for fewer than two, or if either does not vary."""
    known = np.isfinite(x) & np.isfinite(y)
    if known.sum() < 2 or np.ptp(x[known]) == 0 or np.ptp(y[known]) == 0:
        return float("nan")
    return float(np.corrcoef(x[known], y[known])[0, 1])
