"""Convert released downloads (.pk) to result files (.pt).

  python -m repe convert res/

Writes reader_dict.pt and acc.pt beside the .pk files of each model and concept, and keeps the .pk files. Vectors, signs
and accuracies keep their values. The .pt files load faster and need no code of this project:
torch.load(path, weights_only=True). Downloads do not record the settings that they were made with, so the .pt files
have none. No code in a download is executed.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from repe.constants import METHODS
from repe.errors import UserError, first_of
from repe.files import entries
from repe.runs import arguments as options

if TYPE_CHECKING:
    from repe.results.result_file import ResultFile

ERRORS_SHOWN = 5


def main(args: argparse.Namespace) -> None:
    files = downloads(args.res_dir)
    pending = [file for file in files if args.overwrite or not file.has_file]
    errors = []
    for file in pending:
        try:
            convert(file)
        except UserError as error:
            errors.append(str(error))
    kept = f"; {len(files) - len(pending)} already exist (--overwrite replaces them)" if pending != files else ""
    print(f"wrote {len(pending) - len(errors)} of {len(files)} files to {args.res_dir}/*/*/{kept}", flush=True)
    if errors:
        raise UserError(first_of(errors, ERRORS_SHOWN, " || ", "more files"))


def downloads(res_dir: Path) -> "list[ResultFile]":
    """The result files in a results folder that have a download.

    Raises:
        UserError: the folder has no downloads.
    """
    # Imported here because they take seconds.
    from repe.results.accuracy_file import AccuracyFile
    from repe.results.result_file import Kind
    from repe.results.vector_file import VectorFile

    found: list[ResultFile] = [
        file_type(res_dir, path.parent.parent.name, path.parent.name, Kind(method, random_direction))
        for path in entries(res_dir, "*/*/*.pk")
        for file_type in (VectorFile, AccuracyFile)
        for method in METHODS
        for random_direction in (False, True)
        if path.with_suffix(".pt").name == Kind(method, random_direction).file_name(file_type.stem)
    ]
    if not found:
        raise UserError(
            f"no downloads in {res_dir}: expected {res_dir}/<model>/<concept>/reader_dict.pk or acc.pk; copy them "
            "there as the README describes, or give another folder"
        )
    return found


def convert(file: "ResultFile") -> None:
    """Write the `.pt` file of a download; an existing one is replaced.

    Raises:
        UserError: the download is damaged, or the existing `.pt` file has languages that the download lacks.
    """
    layers, tables = file.released_tables()
    if not layers:
        raise UserError(f"{file.released_path} has no languages: download it again")
    (table,) = tables.values()
    if lost := [language for language in file.content[next(iter(file.tables))] if language not in table]:
        raise UserError(
            f"{file.path} has {' '.join(lost)}, which {file.released_path.name} lacks; --overwrite would delete them: "
            "move the file to another folder first"
        )
    try:
        file.add({}, layers, tables, overwrite=True)
    except ValueError as error:
        raise UserError(f"{file.released_path} cannot be converted ({error}): download it again") from error


def start() -> None:
    parser = options.Parser(__doc__)
    parser.add_argument("res_dir", nargs="?", type=Path, default=Path("res"), metavar="RES_DIR", help="default: res")
    parser.add_argument("--overwrite", action="store_true", help="replace existing .pt files")
    options.run(main, parser)
