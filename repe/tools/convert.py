"""Turn released downloads (.pk) into this project's result files (.pt): python -m repe.tools.convert res/

Writes reader_dict.pt and acc.pt beside the .pk files of each model and concept, which stay. Vectors, signs and
accuracies are the same numbers; the .pt files load faster, and anywhere: torch.load(path, weights_only=True). What a
download does not say, such as the settings it was made with, the .pt does not say either. Nothing in a download is run.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from repe.constants import METHODS
from repe.errors import UserError, first_of
from repe.runs import arguments as cli

if TYPE_CHECKING:
    from repe.results.result_file import ResultFile

# How many faulty files one message tells of.
FILES_SHOWN = 5


def main(args: argparse.Namespace) -> None:
    files = downloads(args.res)
    written, there, faults = 0, 0, []
    for file in files:
        if file.path.exists() and not args.overwrite:
            there += 1
            continue
        try:
            convert(file)
            written += 1
        except UserError as error:
            faults.append(str(error))
    kept = f"; {there} are there already (--overwrite replaces them)" if there else ""
    print(f"wrote {written} of {len(files)} files to {args.res}/*/*/{kept}", flush=True)
    if faults:
        raise UserError(first_of(faults, FILES_SHOWN, " || ", "more files"))


def downloads(res: Path) -> "list[ResultFile]":
    """The result files below `res` of which there is a download.

    Raises:
        UserError: there is none.
    """
    from repe.results.accuracy_file import AccuracyFile
    from repe.results.result_file import Kind
    from repe.results.vector_file import VectorFile

    found: list[ResultFile] = [
        file_type(res, path.parent.parent.name, path.parent.name, Kind(method, random))
        for path in sorted(res.glob("*/*/*.pk"))
        for file_type in (VectorFile, AccuracyFile)
        for method in METHODS
        for random in (False, True)
        if path.with_suffix(".pt").name == Kind(method, random).file_name(file_type.stem)
    ]
    if not found:
        raise UserError(
            f"no downloads in {res}: expected {res}/<model>/<concept>/reader_dict.pk or acc.pk; put them there as the "
            "README says, or name another folder"
        )
    return found


def convert(file: "ResultFile") -> None:
    """Write the `.pt` of a download, in place of one that may be there.

    Raises:
        UserError: the download is damaged; the `.pt` that is there has languages that the download lacks.
    """
    layers, tables = file.released_tables()
    if not layers:
        raise UserError(f"{file.released_path} holds no language: download it again")
    (table,) = tables.values()
    if lost := [language for language in file.content[next(iter(file.tables))] if language not in table]:
        raise UserError(
            f"{file.path} has {' '.join(lost)}, which {file.released_path.name} lacks, and --overwrite would lose "
            "them: move the file elsewhere first"
        )
    try:
        file.add({}, layers, tables, overwrite=True)
    except ValueError as error:
        raise UserError(f"{file.released_path} cannot be converted ({error}): download it again") from error


def start() -> None:
    parser = cli.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("res", nargs="?", type=Path, default=Path("res"), metavar="RES_DIR", help="results folder (default: res)")
    add("--overwrite", action="store_true", help="replace .pt files that are there already")
    cli.run(main, parser)


if __name__ == "__main__":
    start()
