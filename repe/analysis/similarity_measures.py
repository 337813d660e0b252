"""Similarity of languages beyond the cosine of their vectors (`--similarity`).

`rsa` and `angles` compare how a language's concepts lie to each other, so they need vectors only and work from
downloads.
`cka` and `procrustes` compare the differences (positive minus negative) of shared items, so they need hidden states.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from repe.uncertainty.permutation import pearson
from repe.vectors.concept_vectors import ConceptVectors

SHUFFLES = 10


def of_vectors(measure: str, concepts: Mapping[str, Sequence[ConceptVectors]]) -> np.ndarray:
    """Similarity of languages by the vectors of all concepts together.

    Args:
        measure: `rsa`, the correlation of two languages' matrices of cosines between concepts (second-order similarity:
            Kriegeskorte et al. 2008; at least three concepts); or `angles`, the mean cosine of the principal angles
            between the spans of two languages' vectors (Björck and Golub 1973).
        concepts: vectors of each language, in one order, by concept.

    Returns:
        float64 (layers, languages, languages); NaN where it is undefined.
    """
    units = _units(concepts)
    return _correlation(units) if measure == "rsa" else _angles(units)


def floor_of_vectors(
    measure: str, concepts: Mapping[str, Sequence[ConceptVectors]], draws: int = SHUFFLES
) -> np.ndarray:
    """The same for languages that have nothing in common: what each measure gives by its form alone.

    For `rsa` the concepts of every language are in a random order; for `angles` its vectors are random directions,
    whose spans share more the more concepts there are for the hidden size.

    Returns:
        float64 (draws, layers, languages, languages).
    """
    units, generator, found = _units(concepts), np.random.default_rng(0), []
    for _ in range(draws):
        if measure == "rsa":
            orders = [generator.permutation(units.shape[2]) for _ in range(units.shape[1])]
            shuffled = np.stack([units[:, place, order] for place, order in enumerate(orders)], axis=1)
            found.append(_correlation(shuffled))
        else:
            found.append(_angles(generator.standard_normal(units.shape)))
    return np.stack(found)


def _units(concepts: Mapping[str, Sequence[ConceptVectors]]) -> np.ndarray:
    """Unit vectors (layers, languages, concepts, hidden)."""
    units = np.stack([[one.unit_vectors.astype(np.float64) for one in row] for row in concepts.values()])
    return units.transpose(2, 1, 0, 3)


def _correlation(units: np.ndarray) -> np.ndarray:
    above = np.triu_indices(units.shape[2], 1)
    between = (units @ units.swapaxes(-1, -2))[..., above[0], above[1]]
    return pearson(between[:, :, None], between[:, None])


def _angles(units: np.ndarray) -> np.ndarray:
    bases = np.linalg.qr(units.swapaxes(-1, -2))[0]  # (layers, languages, hidden, concepts)
    cosines = np.linalg.svd(np.einsum("lahc,lbhd->labcd", bases, bases), compute_uv=False)
    return np.clip(cosines, 0.0, 1.0).mean(axis=-1)  # type: ignore[no-any-return]


def of_differences(measure: str, differences: Sequence[np.ndarray]) -> np.ndarray:
    """Similarity of languages by the differences of shared items, each language and layer centred.

    Args:
        measure: `cka`, linear centred kernel alignment (Kornblith et al. 2019) with the unbiased estimate of HSIC (Song
            et al. 2012), whose value for unrelated items is 0; or `procrustes`, 1 minus half the squared Procrustes
            distance of the two point clouds at unit size (Schönemann 1966; Ding et al. 2021).
        differences: of each language, (layers, items, hidden), items in one order; at least four.

    Returns:
        float64 (layers, languages, languages).
    """
    layers = [_cka(list(one)) if measure == "cka" else _procrustes(list(one)) for one in zip(*differences, strict=True)]
    return np.stack(layers)


def shuffled_floor(measure: str, differences: Sequence[np.ndarray], shuffles: int = SHUFFLES) -> np.ndarray:
    """The same with the items of every language in a random order of its own.

    Returns:
        float64 (shuffles, layers, languages, languages).
    """
    generator = np.random.default_rng(0)
    found = []
    for _ in range(shuffles):
        orders = [generator.permutation(one.shape[1]) for one in differences]
        found.append(of_differences(measure, [one[:, order] for one, order in zip(differences, orders, strict=True)]))
    return np.stack(found)


def _cka(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Debiased linear CKA of languages' rows (items, hidden)."""
    count = len(rows[0])
    kernels = []
    for one in rows:
        kernel = np.asarray(one, dtype=np.float64) @ np.asarray(one, dtype=np.float64).T
        np.fill_diagonal(kernel, 0.0)
        # U-centring makes the plain inner product of two kernels the unbiased estimate of HSIC.
        means = kernel.sum(axis=0) / (count - 2)
        centred = kernel - means - means[:, None] + kernel.sum() / ((count - 1) * (count - 2))
        np.fill_diagonal(centred, 0.0)
        kernels.append(centred.ravel())
    products = np.stack(kernels) @ np.stack(kernels).T
    sizes = np.sqrt(np.diagonal(products))
    return products / np.outer(sizes, sizes)  # type: ignore[no-any-return]


def _procrustes(rows: Sequence[np.ndarray]) -> np.ndarray:
    """1 minus half the squared Procrustes distance: the nuclear norm of the product of two centred unit clouds."""
    roots = []
    for one in rows:
        centred = np.asarray(one, dtype=np.float64) - np.mean(one, axis=0, dtype=np.float64)
        values, vectors = np.linalg.eigh(centred @ centred.T / (centred**2).sum())
        # Square root of the kernel (items, items): smaller than the clouds, with the same nuclear norms of products.
        roots.append((vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T)
    found = np.eye(len(rows))
    for row in range(len(rows)):
        for column in range(row):
            norm = np.linalg.svd(roots[row] @ roots[column], compute_uv=False).sum()
            found[row, column] = found[column, row] = norm
    return found
