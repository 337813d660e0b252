"""Cross-lingual consistency: similarity of concept vectors between languages (Section 3.3, Figures 4 and 7).

Table 1 is its correlation with linguistic similarity.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from repe.analysis.linguistic_distance import distances, linguistic_similarities
from repe.paper import Family
from repe.results.vector_file import VectorFile
from repe.uncertainty.permutation import holm, mantel, orders, pearson
from repe.vectors.concept_vectors import ConceptVectors


def similarity(vectors: Mapping[str, ConceptVectors]) -> pd.DataFrame:
    """Cosine similarity of a concept's vectors between languages, in each layer.

    Args:
        vectors: by language, of one model and concept.

    Returns:
        Columns source, target, layer (1..N), cosine (of the vectors times their signs).
    """
    cosine = np.moveaxis(cosine_similarity([*vectors.values()]), 0, -1)  # (sources, targets, layers)
    layers = range(1, cosine.shape[-1] + 1)
    rows = pd.MultiIndex.from_product([vectors, vectors, layers], names=["source", "target", "layer"])
    return rows.to_frame(index=False).assign(cosine=cosine.ravel())


def cosine_similarity(vectors: Sequence[ConceptVectors]) -> np.ndarray:
    """Cosine similarity of a concept's signed vectors in each layer.

    Args:
        vectors: the concept vectors of each language.

    Returns:
        float64 (layers, languages, languages); NaN where a vector is zero.
    """
    signed = np.stack([one.directions[:, 0] * one.signs[:, :1].astype(np.float64) for one in vectors], axis=1)
    norms = np.linalg.norm(signed, axis=-1, keepdims=True)
    units = signed / np.where(norms > 0, norms, np.nan)  # (layers, languages, hidden)
    return units @ units.transpose(0, 2, 1)


def cosines(files: Mapping[str, VectorFile], languages: Sequence[str]) -> np.ndarray:
    """Cosine similarity of a model's concept vectors.

    Args:
        files: the model's vector files by concept.
        languages: languages of both axes.

    Returns:
        float64 (concepts, layers, languages, languages).
    """
    return np.stack([cosine_similarity([file.vectors[one] for one in languages]) for file in files.values()])


def best_layer_similarity(cosine: np.ndarray, layers: np.ndarray | None = None) -> np.ndarray:
    """Similarity of each language pair at its most similar layer, averaged over concepts, with 1 on the diagonal.

    Args:
        cosine: (concepts, layers, languages, languages).
        layers: int (concepts, languages, languages), the layers to use instead, counted from 0.

    Returns:
        float64 (languages, languages).
    """
    chosen = cosine.max(axis=1) if layers is None else np.take_along_axis(cosine, layers[:, None], axis=1)[:, 0]
    similarity = chosen.mean(axis=0)
    np.fill_diagonal(similarity, 1.0)
    return similarity  # type: ignore[no-any-return]


def similarity_table(model: str, languages: Sequence[str], similarity: np.ndarray) -> pd.DataFrame:
    """Figures 4 and 7 in long form: columns model, source, target, similarity."""
    pairs = pd.MultiIndex.from_product([[model], languages, languages], names=["model", "source", "target"])
    return pairs.to_frame(index=False).assign(similarity=similarity.ravel())


def ceiling_table(
    model: str,
    files: Mapping[str, VectorFile],
    languages: Sequence[str],
    half_cosines: Mapping[str, np.ndarray] | None = None,
) -> pd.DataFrame:
    """Similarities beside the agreement of random halves of a language's items, and corrected for it.

    Vectors of a finite number of items are noisy, which lowers their cosine. Two languages' vectors of the same items
    share the noise of these items, so the correction (Spearman 1904) is of the cosine of vectors of different items:
    divided by the geometric mean of the two languages' split-half cosines. Sampling error can put it above 1.

    Args:
        files: the model's vector files by concept; those without split halves are left out.
        languages: in the family's order.
        half_cosines: by concept, from `ceilings.half_cosines`; without them, split halves are those of the files.

    Returns:
        Columns model, source, target, split_half_source, split_half_target (cosine of halves), similarity, cross_half
        (cosine of one half in the source and the other in the target), ceiling (of cross_half), corrected (cross_half
        divided by it); NaN without half_cosines. Means over concepts, each at the pair's most similar layer.
    """
    known = {
        concept: file
        for concept, file in files.items()
        if all(file.vectors[one].split_half is not None for one in languages)
    }
    if not known:
        return pd.DataFrame()
    cosine = cosines(known, languages)  # (concepts, layers, languages, languages)
    halves = np.array([[file.vectors[one].split_half for one in languages] for file in known.values()])
    halves = halves.swapaxes(1, 2).astype(np.float64)  # (concepts, layers, languages)
    crossed = np.full_like(cosine, np.nan)
    if half_cosines:
        crossed = np.stack([half_cosines[concept] for concept in known])
        halves = np.diagonal(crossed, axis1=-2, axis2=-1)
    layers = cosine.argmax(axis=1)
    values = {
        "split_half_source": np.broadcast_to(halves[..., :, None], cosine.shape),
        "split_half_target": np.broadcast_to(halves[..., None, :], cosine.shape),
        "similarity": cosine,
        "cross_half": crossed,
    }
    rows = {name: np.take_along_axis(one, layers[:, None], axis=1)[:, 0].mean(axis=0) for name, one in values.items()}
    table = similarity_table(model, languages, rows["similarity"]).assign(**{n: one.ravel() for n, one in rows.items()})
    table = table[table["source"] != table["target"]]
    # A ratio of means, since a ratio for each concept would explode where one has no signal.
    ceiling = (table["split_half_source"].clip(0) * table["split_half_target"].clip(0)) ** 0.5
    ceiling = ceiling.where((ceiling > 0) & table["cross_half"].notna())
    return table.assign(ceiling=ceiling, corrected=table["cross_half"] / ceiling)


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


def linguistic_correlation(
    model: str,
    family: Family,
    languages: Sequence[str],
    similarity: np.ndarray,
    source: str | Path = "recorded",
) -> pd.DataFrame:
    """A model's row of Table 1: does the similarity of vectors follow the similarity of languages?

    Args:
        languages: of both axes of `similarity`, in the family's order (which `direct_as_released` depends on).
        similarity: (languages, languages).
        source: of the distances, see `linguistic_distance.distances`; pairs without one are left out.

    Returns:
        Columns model, distance, direct (Pearson's r over ordered pairs of different languages), direct_as_released (the
        released code's value, see `_as_released`), split (mean of r over pairs with a high-resource language and r over
        the others), pairs (number of unordered pairs of languages behind direct), computed_pairs (those of them whose
        distance is computed, see `linguistic_distance.distances`). NaN where an r is undefined, and for split where
        the high-resource languages are not known.
    """
    different, with_high, without = _pairs(high_resource(family, languages))
    computed = (distances(languages, source)["source"] == "computed").to_numpy().reshape(similarity.shape)
    rows = [
        {
            "model": model,
            "distance": distance,
            "direct": float(pearson(similarity[different], expected[different])),
            "direct_as_released": float(pearson(_as_released(similarity)[different], expected[different])),
            "split": float(np.mean([pearson(similarity[part], expected[part]) for part in (with_high, without)])),
            "pairs": int(known.sum()) // 2,
            "computed_pairs": int((known & computed).sum()) // 2,
        }
        for distance, expected in linguistic_similarities(languages, source).items()
        for known in [different & np.isfinite(expected) & np.isfinite(similarity)]
    ]
    return pd.DataFrame(rows)


def repaired_correlation(model: str, family: Family, languages: Sequence[str], similarity: np.ndarray) -> pd.DataFrame:
    """A model's row of Table 1 with the repaired distances, and the difference that the repair makes.

    Args:
        languages: of both axes of `similarity`, in the family's order.
        similarity: (languages, languages).

    Returns:
        The columns of `linguistic_correlation`, then direct_recorded, split_recorded (r with the recorded distances),
        direct_effect, split_effect (r with the repaired less r with the recorded ones; NaN where either is undefined).
    """
    recorded = linguistic_correlation(model, family, languages, similarity)
    repaired = linguistic_correlation(model, family, languages, similarity, "repaired")
    return repaired.assign(
        direct_recorded=recorded.direct,
        split_recorded=recorded.split,
        direct_effect=repaired.direct - recorded.direct,
        split_effect=repaired.split - recorded.split,
    )


def table1(
    models: Mapping[str, tuple[Family, Sequence[str], np.ndarray]],
    permutations: int = 0,
    seed: int = 1,
    source: str | Path = "recorded",
) -> pd.DataFrame:
    """Table 1 in long form.

    Args:
        models: family, languages in its order, and similarity (languages, languages), by model.
        permutations: random orders of languages for the p-values; 0 leaves the p-values out.
        source: of the distances, see `linguistic_distance.distances`; `repaired` adds the columns of
            `repaired_correlation`.

    Returns:
        Columns of `linguistic_correlation`; with permutations also direct_p, direct_p_holm, split_p, split_p_holm
        (NaN where the correlation is undefined). Holm's correction is over all models, distances, direct and split.
    """
    correlate = repaired_correlation if source == "repaired" else partial(linguistic_correlation, source=source)
    table = pd.concat(correlate(model, *given) for model, given in models.items())
    if not permutations:
        return table
    p_values = np.concatenate([_p_values(*given, permutations, seed, source) for given in models.values()])
    (direct, split), (direct_holm, split_holm) = p_values.T, holm(p_values).T
    return table.assign(direct_p=direct, direct_p_holm=direct_holm, split_p=split, split_p_holm=split_holm)


def high_resource(family: Family, languages: Sequence[str]) -> np.ndarray:
    """Which of `languages` Table 1 counts as high-resource, bool (languages,); none if the family does not say."""
    return np.isin(np.array(languages, dtype=str), family.high_resource)


def _pairs(high: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of different languages, those with a high-resource one, and the others; bool (languages, languages)."""
    different = ~np.eye(len(high), dtype=bool)
    with_high = different & (high[:, None] | high[None, :])
    return different, with_high, different & ~with_high


def _p_values(
    family: Family, languages: Sequence[str], similarity: np.ndarray, permutations: int, seed: int, source: str | Path
) -> np.ndarray:
    """Two-sided p-values of Mantel's test of direct and split, (distances, 2).

    For `direct` all languages of the similarity are permuted; for `split` high-resource languages and the others are
    permuted among themselves, since its two correlations are over given kinds of pairs.
    """
    high = high_resource(family, languages)
    different, *kinds = _pairs(high)
    generator = np.random.default_rng(seed)
    tests = [
        ([different], orders([0] * len(high), permutations, generator)),
        (kinds, orders(high.tolist(), permutations, generator)),
    ]
    expected = linguistic_similarities(languages, source).values()
    return np.array([[mantel(similarity, one, parts, permuted) for parts, permuted in tests] for one in expected])


def _as_released(similarity: np.ndarray) -> np.ndarray:
    """Each cell holds the one before it in reading order, which the released code pairs with distances.

    It appends a value before updating it, so that a pair of languages gets its neighbour's similarity.
    """
    return np.roll(similarity.ravel(), 1).reshape(similarity.shape)
