"""Checks of result files: languages that are missing, inputs that have changed, damage."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from repe.constants import METHODS
from repe.control.reply_file import REPLIES, SETTINGS_FILE, read_settings, readable
from repe.data import data_file
from repe.errors import UserError, first_of
from repe.files import entries, plain_name, read_regular
from repe.paper import CONCEPTS, LANGUAGES, in_paper_order
from repe.results.accuracy_file import AccuracyFile
from repe.results.result_file import SETTINGS, Kind, ResultFile, check_files, setting
from repe.results.vector_file import VectorFile

NAMES_SHOWN = 6
STEMS = (VectorFile.stem, AccuracyFile.stem)
KINDS = [Kind(method, random_direction) for random_direction in (False, True) for method in METHODS]


@dataclass(frozen=True)
class Finding:
    """The state of one result file."""

    text: str
    """A few words for the table."""
    problem: str = ""
    """`incomplete`, `stale` or `damaged`; empty if there is none."""
    error: str = ""
    """The error message of a file that cannot be read."""


@dataclass(frozen=True)
class Row:
    """The two result files of a model, concept and kind."""

    model: str
    concept: str
    kind: str
    vectors: Finding
    accuracies: Finding


@dataclass(frozen=True)
class ControlRow:
    """The replies of one source language with one choice of settings."""

    model: str
    concept: str
    source: str
    settings: str
    """`first`, or the name of the folder of other settings."""
    replies: Finding


def model_folders(res_dir: Path, names: Sequence[str] | None = None) -> list[Path]:
    """The folders of models in a results folder: those named, else all.

    Raises:
        UserError: there are no results, or none of a named model.
    """
    found = {path.name: path for path in entries(res_dir, "*") if _kinds_by_concept(path)}
    if not found:
        raise UserError(
            f"no results in {res_dir}: expected {res_dir}/<model>/<concept>/reader_dict.pt or .pk; run "
            "collect_vector.py first, copy a download there as the README describes, or give another folder"
        )
    for name in names or ():
        if name not in found:
            raise UserError(f"no results in {res_dir / name}: choose from {' '.join(found)}")
    return [found[name] for name in dict.fromkeys(names or found)]


def check_model(
    folder: Path, data_dir: Path, *, concepts: Sequence[str] | None = None, languages: Sequence[str] | None = None
) -> list[Row]:
    """One row for each concept and kind of a model.

    Args:
        folder: the model's folder of results.
        data_dir: the data files now, which the results are compared with.
        concepts: default: all in the folder, and all of the paper if it holds a download.
        languages: that every file should have. Default: all in any file, and all of the paper for a download.
    """
    kinds, released, rows, pairs = _kinds_by_concept(folder), any(folder.glob("*/*.pk")), [], []
    for concept in concepts or in_paper_order([*kinds, *(CONCEPTS if released else ())], CONCEPTS):
        for kind in kinds.get(concept, [Kind()]):
            try:
                place = (folder.parent, plain_name(folder.name, "model folder"), concept, kind)
                pairs.append((VectorFile(*place), AccuracyFile(*place)))
            except UserError as error:
                if concept not in kinds:  # an option's
                    raise
                rows.append(Row(folder.name, concept, "", *[Finding("not a valid name", "damaged", str(error))] * 2))
    files = [file for pair in pairs for file in pair if _languages(file)]
    found = {language for file in files for language in file.languages}
    wanted = languages or in_paper_order(found.union(LANGUAGES if released else ()), LANGUAGES)
    return rows + [
        Row(
            folder.name,
            vectors.concept,
            vectors.path.name.removesuffix("reader_dict.pt").rstrip("_") or "cluster_mean",
            _elsewhere(vectors, accuracies)
            or check_file(vectors, wanted, {"data": _data_digests(data_dir, vectors)}, files),
            check_accuracies(_tested_vectors(vectors, accuracies), accuracies, wanted, data_dir, files),
        )
        for vectors, accuracies in pairs
    ]


def _elsewhere(vectors: VectorFile, accuracies: AccuracyFile) -> Finding | None:
    """Where the vectors of accuracies with `--vectors-from` are; None for other results."""
    tested = _tested_vectors(vectors, accuracies)
    if tested is vectors:
        return None
    return Finding(f"in {tested.path.parents[1] if tested else accuracies.meta['vectors_from']}")


def _tested_vectors(vectors: VectorFile, accuracies: AccuracyFile) -> VectorFile | None:
    """The vectors that accuracies were made with: those beside them, or with `--vectors-from` another folder's.

    None if they are in a folder that is not read, see `_is_named`.
    """
    meta = accuracies.meta if _languages(accuracies) else {}
    if not meta.get("vectors_from"):
        return vectors
    if not _is_named(accuracies, "vectors_from", vectors.path.parents[2]):
        return None
    folder = vectors.path.parents[1].name.removesuffix(f"-on-{meta.get('tested_on')}")
    return VectorFile(Path(str(meta["vectors_from"])), folder, vectors.concept, vectors.kind)


def _kinds_by_concept(folder: Path) -> dict[str, list[Kind]]:
    """Kinds of result files by concept; of a folder that cannot be read one, so that it is not left out."""
    found = {}
    try:
        folders = entries(folder, "*")
    except UserError:
        return {"": [Kind()]}
    for path in folders:
        try:
            names = {file.with_suffix(".pt").name for file in entries(path, "*.p[tk]")}
        except UserError:
            names = {Kind().file_name(VectorFile.stem)}
        found[path.name] = [kind for kind in KINDS if names & {kind.file_name(stem) for stem in STEMS}]
    return {concept: kinds for concept, kinds in found.items() if kinds}


def _languages(file: ResultFile) -> list[str]:
    """The languages of a file; none if it is damaged, which `check_file` reports."""
    try:
        return file.languages
    except UserError:
        return []


def check_accuracies(
    vectors: VectorFile | None,
    file: AccuracyFile,
    wanted: Sequence[str],
    data_dir: Path,
    others: Sequence[ResultFile] = (),
) -> Finding:
    """The state of an accuracy file, compared with the vectors that it should have been made with."""
    known = vectors.vectors if vectors and _languages(vectors) else {}
    digests = {language: one.digest for language, one in known.items()}
    finding = check_file(file, wanted, {"data": _data_digests(data_dir, file), "vectors": digests}, others)
    if finding.problem:
        return finding
    places = {"data_dir": data_dir, "vectors_from": file.path.parents[2]}
    places = {name: given for name, given in places.items() if _languages(file) and name in file.meta}
    if unread := [str(file.meta[name]) for name, given in places.items() if not _is_named(file, name, given)]:
        return Finding(f"{finding.text}; not compared with {' '.join(unread)}")
    if (vectors and digests and vectors.meta and file.meta) and (
        changed := [name for name in SETTINGS if setting(file.meta, name) != setting(vectors.meta, name)]
    ):
        return Finding(f"stale: settings differ from the vectors' ({', '.join(changed)})", "stale")
    return finding


def check_file(
    file: ResultFile, wanted: Sequence[str], now: Mapping[str, Mapping[str, str]], others: Sequence[ResultFile] = ()
) -> Finding:
    """The state of one file.

    Args:
        file: vectors or accuracies.
        wanted: the languages that it should have.
        now: digests of the inputs as they are now, by input (`data`, `vectors`) and language.
        others: readable files of the same model, whose first one it must agree with.
    """
    try:
        if file.has_file or file.has_download:
            check_files([*others[:1], file])
        present = [language for language in wanted if language in file.languages]
        stale = sorted({language for name, digests in now.items() for language in file.changed(name, digests)})
    except UserError as error:
        text = f"damaged: {error.reason[:60]}" if error.reason else "cannot be read"
        return Finding(text, "damaged", str(error))
    missing = [language for language in wanted if language not in present]
    missing += file.lacking(present, same_language=False)
    if missing and not present:
        return Finding("none", "incomplete")
    if missing:
        whole = [language for language in present if not any(name.endswith(f"->{language}") for name in missing)]
        return Finding(f"{len(whole)} of {len(wanted)}: missing {_some(missing)}", "incomplete")
    return Finding(f"all {len(wanted)}; stale: {_some(stale)}", "stale") if stale else Finding(f"all {len(wanted)}")


def _data_digests(data_dir: Path, file: ResultFile) -> dict[str, str]:
    """Digests of the data files that exist now, for the languages whose data the results record."""
    recorded = file.meta.get("data", {}) if _languages(file) else ()
    if recorded and "data_dir" in file.meta:
        if not _is_named(file, "data_dir", data_dir):
            return {}
        data_dir = Path(str(file.meta["data_dir"]))
    paths = {language: data_file(data_dir, file.concept, language) for language in recorded}
    return {
        language: hashlib.sha256(read_regular(path)).hexdigest() for language, path in paths.items() if path.exists()
    }


def check_control(folder: Path, concepts: Sequence[str] | None = None) -> list[ControlRow]:
    """One row for each file of steered replies of a model.

    Args:
        folder: the model's folder of results.
        concepts: default: all.
    """
    found = [(path, "first") for path in entries(folder, f"*/control/*/{REPLIES}")]
    found += [(path, path.parts[-2]) for path in entries(folder, f"*/control/*/*/{REPLIES}")]
    rows = []
    for path, name in found:
        concept, _, source = path.relative_to(folder).parts[:3]
        if not concepts or concept in concepts:
            rows.append(ControlRow(folder.name, concept, source, name, _check_replies(path, folder, concept)))
    return sorted(rows, key=lambda row: (row.concept, row.source))


def _check_replies(path: Path, folder: Path, concept: str) -> Finding:
    """The state of one file of replies, compared with the vectors that steered them."""
    try:
        settings = read_settings(path.with_name(SETTINGS_FILE))
        with readable(path):
            count = read_regular(path).count(b"\n")
            kind = Kind(settings["method"], settings["random_direction"])
            vectors = VectorFile(folder.parent, folder.name, concept, kind).vectors
            known = {language: digest for language, digest in settings["vectors"].items() if language in vectors}
            stale = [language for language, digest in known.items() if vectors[language].digest != digest]
    except UserError as error:
        return Finding("damaged", "damaged", f"{path} cannot be checked: {error}")
    return Finding(f"{count}; stale: {_some(stale)}", "stale") if stale else Finding(str(count))


def _is_named(file: ResultFile, name: str, given: Path) -> bool:
    """Whether a folder that a file records is in the one given or in the current folder.

    A file from somebody else must not choose what is read.
    """
    folder = Path(str(file.meta[name])).resolve()
    return any(folder.is_relative_to(one.resolve()) for one in (given, Path()))


def _some(names: Sequence[str]) -> str:
    return first_of(names, NAMES_SHOWN, between=" ")
