"""Measures of similarity other than the cosine, of all models of a comparison."""

import argparse
from collections.abc import Mapping

import numpy as np
import pandas as pd

from repe.analysis import similarity_measures
from repe.analysis.consistency import best_layer_similarity, similarity_table
from repe.constants import OF_STATES, SIMILARITIES
from repe.errors import UserError
from repe.paper import Family
from repe.results.vector_file import VectorFile
from repe.runs.cached_differences import shared_differences
from repe.runs.comparison import Compared
from repe.uncertainty import ceilings

Models = dict[str, tuple[Family, list[str], np.ndarray]]


def measured(args: argparse.Namespace, compared: Compared[VectorFile], measure: str) -> tuple[pd.DataFrame, Models]:
    """One measure of similarity between the languages of each model, at its best layer.

    Returns:
        Columns model, source, target, similarity, floor (shuffled items or concepts, or random directions); and what
        `consistency.table1` needs.

    Raises:
        UserError: the measure does not exist, or what it needs is missing.
    """
    if measure not in SIMILARITIES:
        raise UserError(f"--similarity {measure} does not exist: choose from {', '.join(SIMILARITIES)}")
    if measure in OF_STATES and not args.cache_states:
        raise UserError(f"--similarity {measure} needs hidden states: name their folder with --cache-states")
    found, models = [], Models()
    for model, files in compared.files.items():
        if measure == "rsa" and len(files) < 3:
            raise UserError("--similarity rsa compares concepts with each other: it needs at least three of them")
        languages = compared.languages_of(model)
        if measure in OF_STATES:
            similarity, floor = _of_states(args, files, languages, measure)
        else:
            vectors = {concept: [*file.of(languages).values()] for concept, file in files.items()}
            similarity = best_layer_similarity(similarity_measures.of_vectors(measure, vectors)[None])
            draws = similarity_measures.floor_of_vectors(measure, vectors)
            floor = np.mean([best_layer_similarity(one[None]) for one in draws], axis=0)
        models[model] = (compared.families[model], languages, similarity)
        found.append(similarity_table(model, languages, similarity).assign(floor=floor.ravel()))
    return pd.concat(found), models


def half_cosines(
    args: argparse.Namespace, files: Mapping[str, VectorFile], languages: list[str]
) -> dict[str, np.ndarray] | None:
    """See `ceilings.half_cosines`, by concept; None without `--cache-states`."""
    if not args.cache_states:
        return None
    return {
        concept: ceilings.half_cosines(*shared_differences(args, file, languages)) for concept, file in files.items()
    }


def _of_states(
    args: argparse.Namespace, files: Mapping[str, VectorFile], languages: list[str], measure: str
) -> tuple[np.ndarray, np.ndarray]:
    """Similarity and floor, each (languages, languages): means over concepts of the best layer."""
    values, floors = [], []
    for file in files.values():
        differences, _ = shared_differences(args, file, languages)
        values.append(similarity_measures.of_differences(measure, differences))
        floors.append(similarity_measures.shuffled_floor(measure, differences))
    # The best layer of each shuffle, so that its choice is part of the floor.
    floor = np.mean([best_layer_similarity(np.stack(one)) for one in zip(*floors, strict=True)], axis=0)
    return best_layer_similarity(np.stack(values)), floor
