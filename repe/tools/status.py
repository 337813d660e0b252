"""Check which results are complete, stale or damaged: python -m repe.tools.status res/

A row is a model, a concept and a kind of result files (cluster_mean, pca, random_direction, ...). Vectors and
accuracies are complete ("all 16"), lack languages or pairs of them ("14 of 16: no ta te"), are stale (made from other
data, vectors or settings than are there now), or damaged. Languages are those of --lang, else all that any file of the
model has, and the paper's 16, in all seven concepts, where there is a released download (.pk). Nothing in the files is
run. Exit status 0 says that everything is complete and fresh, 2 that something is to be mended.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from repe.constants import METHODS
from repe.errors import DamagedFileError, UserError
from repe.paper import CONCEPTS, LANGUAGES, in_paper_order
from repe.runs import arguments as cli

if TYPE_CHECKING:
    from repe.results.accuracy_file import AccuracyFile
    from repe.results.result_file import Kind, ResultFile
    from repe.results.vector_file import VectorFile

NAMES_SHOWN = 6
# Of the two result files; their own modules, which have them too, load for seconds.
STEMS = ("reader_dict", "acc")
REMEDIES = {
    "missing": "run {stages} with the options of the other results, or download them again",
    "stale": "run {stages} with --overwrite and all of the languages",
    "damaged": "delete the file and run {stages}, or download it again",
}


def main(args: argparse.Namespace) -> None:
    rows = [row for folder in model_folders(args) for row in check_model(args, folder)]
    print(as_table(rows))
    findings = [finding for row in rows for finding in (row.vectors, row.accuracies)]
    for finding in findings:
        if finding.error:
            print(f"damaged: {finding.error}")
    faults = summary(rows)
    if faults:
        # Flushed first, so that the summary is last where both streams go to one file.
        print(end="", flush=True)
        raise UserError(f"of {len(findings)} result files {faults}")
    print(f"all {len(findings)} result files are complete and fresh")


@dataclass(frozen=True)
class Finding:
    """How it stands with one result file."""

    text: str
    """In a few words, for the table."""
    fault: str = ""
    """Key of REMEDIES; empty if nothing is to be mended."""
    error: str = ""
    """The whole message of a file that cannot be used."""


@dataclass(frozen=True)
class Row:
    """How it stands with the two result files of a model, concept and kind."""

    model: str
    concept: str
    kind: str
    vectors: Finding
    accuracies: Finding


def model_folders(args: argparse.Namespace) -> list[Path]:
    """The model folders to check.

    Raises:
        UserError: there are no results, or none of a model that was asked for.
    """
    there = {path.name: path for path in sorted(args.res.glob("*")) if any(_kinds(path))}
    if not there:
        raise UserError(
            f"no results in {args.res}: expected {args.res}/<model>/<concept>/reader_dict.pt or .pk; run "
            "collect_vector.py first, put a download there as the README says, or name another folder"
        )
    for name in args.model or ():
        if name not in there:
            raise UserError(f"no results in {args.res / name} (there are: {' '.join(there)}): choose among these")
    return [there[name] for name in dict.fromkeys(args.model or there)]


def check_model(args: argparse.Namespace, folder: Path) -> list[Row]:
    """A row for each concept and kind that the model has, or as a download should have."""
    from repe.results.accuracy_file import AccuracyFile
    from repe.results.result_file import Kind
    from repe.results.vector_file import VectorFile

    kinds, released = _kinds(folder), any(folder.glob("*/*.pk"))
    concepts = args.concept or in_paper_order([*kinds, *(CONCEPTS if released else ())], CONCEPTS)
    files = [
        (VectorFile(args.res, folder.name, concept, kind), AccuracyFile(args.res, folder.name, concept, kind))
        for concept in concepts
        for kind in kinds.get(concept, [Kind()])
    ]
    found = {language for pair in files for file in pair for language in _languages(file)}
    wanted = args.lang or in_paper_order(found.union(LANGUAGES if released else ()), LANGUAGES)
    return [
        Row(
            folder.name,
            vectors.concept,
            vectors.path.name.removesuffix("reader_dict.pt").rstrip("_") or "cluster_mean",
            check_file(vectors, wanted, {"data": _data_digests(args.data_dir, vectors)}),
            check_accuracies(vectors, accuracies, wanted, args.data_dir),
        )
        for vectors, accuracies in files
    ]


def _kinds(folder: Path) -> dict[str, list["Kind"]]:
    """The kinds of result files in a model's folder, by concept."""
    from repe.results.result_file import Kind

    every = [Kind(method, shuffled) for shuffled in (False, True) for method in METHODS]
    found = {
        path.name: [
            kind
            for kind in every
            if any((path / kind.file_name(stem)).with_suffix(end).exists() for stem in STEMS for end in (".pt", ".pk"))
        ]
        for path in sorted(folder.glob("*"))
    }
    return {concept: kinds for concept, kinds in found.items() if kinds}


def _languages(file: "ResultFile") -> list[str]:
    """The languages of a file; none if it is damaged, which is told elsewhere."""
    try:
        return file.languages
    except UserError:
        return []


def check_accuracies(vectors: "VectorFile", file: "AccuracyFile", wanted: Sequence[str], data_dir: Path) -> Finding:
    """How it stands with accuracies, also beside the vectors they should have been made with."""
    from repe.results.result_file import SETTINGS, setting

    now = {"data": _data_digests(data_dir, file)}
    other = []
    if _languages(vectors):
        now["vectors"] = {language: one.digest for language, one in vectors.vectors.items()}
        if vectors.meta and _languages(file) and file.meta:
            other = [name for name in SETTINGS if setting(file.meta, name) != setting(vectors.meta, name)]
    finding = check_file(file, wanted, now)
    if other and not finding.fault:
        return Finding(f"stale: other {', '.join(other)} than the vectors", "stale")
    return finding


def check_file(file: "ResultFile", wanted: Sequence[str], now: Mapping[str, Mapping[str, str]]) -> Finding:
    """How it stands with one file.

    Args:
        file: vectors or accuracies.
        wanted: the languages it should have.
        now: digests by language of the inputs as they are now, by the name they have in the file's meta.
    """
    try:
        there = [language for language in wanted if language in file.languages]
        stale = sorted({language for name, digests in now.items() for language in file.changed(name, digests)})
    except DamagedFileError as error:
        return Finding(f"damaged: {error.reason[:60]}", "damaged", str(error))
    except UserError as error:
        return Finding("cannot be read", "damaged", str(error))
    missing = [language for language in wanted if language not in there]
    missing += file.lacking(there, same_language=False)
    if missing:
        whole = [language for language in there if not any(name.endswith(f"->{language}") for name in missing)]
        return Finding(f"{len(whole)} of {len(wanted)}: no {_some(missing)}" if there else "none", "missing")
    if stale:
        return Finding(f"all {len(wanted)}; stale: {_some(stale)}", "stale")
    return Finding(f"all {len(wanted)}")


def _data_digests(data_dir: Path, file: "ResultFile") -> dict[str, str]:
    """Digests of the data files that are there, of those languages whose data the results remember."""
    from repe.data import data_file
    from repe.files import sha256

    paths = {
        language: data_file(data_dir, file.concept, language)
        for language in (file.meta.get("data", {}) if _languages(file) else ())
    }
    return {language: sha256(path.read_bytes()) for language, path in paths.items() if path.exists()}


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return " ".join(names[:NAMES_SHOWN]) + more


def as_table(rows: Sequence[Row]) -> str:
    """The rows in columns as wide as their widest cell."""
    cells = [("model", "concept", "kind", "vectors", "accuracies")]
    cells += [(row.model, row.concept, row.kind, row.vectors.text, row.accuracies.text) for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in cells]
    return "\n".join(line.rstrip() for line in lines)


def summary(rows: Sequence[Row]) -> str:
    """What is to be mended and how, in a line; empty if nothing is."""
    parts = []
    for fault, remedy in REMEDIES.items():
        vectors = sum(row.vectors.fault == fault for row in rows)
        accuracies = sum(row.accuracies.fault == fault for row in rows)
        if vectors or accuracies:
            stages = "collect_vector.py, then recognize_concept.py" if vectors else "recognize_concept.py"
            parts.append(f"{vectors + accuracies} {fault} ({remedy.format(stages=stages)})")
    return ", ".join(parts)


def start() -> None:
    parser = cli.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("res", nargs="?", type=Path, default=Path("res"), metavar="RES_DIR", help="results folder (default: res)")
    add("--data-dir", type=Path, default=Path("data"), metavar="DIR", help="MVALUE, if there (default: data)")
    add("--model", nargs="+", metavar="FOLDER", help="folders of models in it (default: all there are)")
    add("--concept", nargs="+", metavar="CONCEPT", help="concepts (default: all of the model)")
    add("--lang", nargs="+", metavar="LANG", help="languages (default: all of the model)")
    cli.run(main, parser)


if __name__ == "__main__":
    start()
