"""What `--floors` needs besides the results: untrained twins of the models, and the text that they were tested on."""

import argparse
import hashlib
import re
from typing import Any

import numpy as np

from repe import data
from repe.errors import UserError
from repe.results.accuracy_file import AccuracyFile
from repe.runs.comparison import Compared

Twins = dict[str, list[dict[str, AccuracyFile]]]
Texts = dict[tuple[str, str], tuple[list[str], np.ndarray]]


def untrained_files(args: argparse.Namespace, compared: Compared[AccuracyFile]) -> Twins:
    """Accuracy files of the `--untrained` runs of each model, of all seeds that are there.

    Returns:
        By results folder, one dict by concept for each seed; a concept without results is left out.
    """
    found: Twins = {}
    for given, folder in zip(args.cross_model, compared.files, strict=True):
        # The name that is given may end in a suffix, as in <model>-on-<data>.
        name = next(iter(compared.files[folder].values())).meta.get("model", given)
        suffix = folder.removeprefix(name)
        is_twin = re.compile(rf"{re.escape(name)}-untrained(-\d+)?{re.escape(suffix)}").fullmatch
        twins = sorted(path.name for path in args.res_dir.glob("*") if path.is_dir() and is_twin(path.name))
        files = [
            {concept: AccuracyFile(args.res_dir, twin, concept, file.kind) for concept, file in by_concept.items()}
            for twin in twins
            for by_concept in [compared.files[folder]]
        ]
        found[folder] = [
            {concept: file for concept, file in by_concept.items() if file.path.exists()} for by_concept in files
        ]
    return found


def text_floors(args: argparse.Namespace, compared: Compared[AccuracyFile]) -> Texts:
    """Keys of the test pairs and outcomes of the text floor, by concept and language.

    Left out where the data file is missing, or where it is not the one that results were made from.
    """
    from repe.uncertainty.floors import text_floor  # takes seconds

    found: Texts = {}
    for concept in next(iter(compared.files.values())):
        metas = [by_concept[concept].meta for by_concept in compared.files.values()]
        if any("tested_on" in meta for meta in metas):
            continue  # the training pairs are in another folder
        for language in compared.languages:
            path = data.data_file(args.data_dir, concept, language)
            if not path.exists() or not _is_current(path.read_bytes(), metas, language):
                continue
            try:
                pairs = data.read_pairs(path, concept)
                parts = data.parts_of(pairs, args.split, args.split_by, args.folds)
            except UserError as error:
                raise UserError(f"--floors: {error}") from error
            right = np.zeros(len(pairs), dtype=bool)
            for train, test in parts:
                right[test] = text_floor([pairs[place] for place in train], [pairs[place] for place in test])
            tested = np.arange(len(pairs)) if args.folds else parts[0][1]  # in the order of the results
            found[concept, language] = [pairs[place].key for place in tested], right[tested]
    return found


def lacking(compared: Compared[AccuracyFile], twins: Twins, texts: Texts) -> list[str]:
    """Lines for the user: which floors are missing, and how to get them."""
    files = [(model, concept, file) for model, one in compared.files.items() for concept, file in one.items()]
    cells = [(model, concept, file, language) for model, concept, file in files for language in compared.languages]
    no_nulls = {model for model, _, file, one in cells if file.parts("nulls", one, one) is None}
    no_nulls -= {model for model, _, file, _ in cells if "tested_on" in file.meta}
    in_folds = {model for model in no_nulls if any("folds" in file.meta for file in compared.files[model].values())}
    lines = []
    if in_folds:
        lines.append(f"no nulls in {' '.join(sorted(in_folds))}: with --folds, test pairs are training pairs too")
    if no_nulls := no_nulls - in_folds:
        lines.append(f"no nulls in {' '.join(sorted(no_nulls))}: run recognize_concept.py --nulls (not for downloads)")
    if without := [model for model in compared.files if not twins[model]]:
        lines.append(f"no untrained twin of {' '.join(without)}: run both stages with --untrained")
    if none := list(dict.fromkeys(f"{c} {one}" for _, c, _, one in cells if (c, one) not in texts)):
        shown = ", ".join(none[:4]) + (", ..." if len(none) > 4 else "")
        lines.append(f"no text floor for {shown}: --data-dir does not have the data of the results")
    return lines


def _is_current(content: bytes, metas: list[dict[str, Any]], language: str) -> bool:
    """Whether results were made from a data file's content, as far as they record it."""
    digest = hashlib.sha256(content).hexdigest()
    return all(meta.get("data", {}).get(language, digest) == digest for meta in metas)
