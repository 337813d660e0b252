"""List complete, incomplete, stale and damaged result files.

  python -m repe status res/

Prints a row for each model, concept and kind of result file (cluster_mean, pca, random_direction, ...). Vectors and
accuracies are complete ("all 16"), incomplete ("14 of 16: missing ta te"), stale (made from data, vectors or settings
that have changed since) or damaged. The expected languages are those of --lang, else all languages in any file of the
model. Released downloads (.pk) are expected to have all languages and concepts of the paper. No code in a file is
executed. A second table lists the replies of control, a row for each source language and choice of settings. Exit
status: 0 if all files are complete and up to date, 2 otherwise.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from repe.errors import UserError, printable
from repe.runs import arguments as options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from repe.tools.result_check import ControlRow, Row

REMEDIES = {
    "incomplete": "run {stages} with the options of the other results, or download them again",
    "stale": "run {stages} with --overwrite and all languages",
    "damaged": "delete the file and run {stages}, or download it again",
}


def main(args: argparse.Namespace) -> None:
    # Imported here because it takes seconds.
    from repe.tools import result_check

    folders = result_check.model_folders(args.res_dir, args.model)
    rows = [
        row
        for folder in folders
        for row in result_check.check_model(folder, args.data_dir, concepts=args.concept, languages=args.lang)
    ]
    replies = [row for folder in folders for row in result_check.check_control(folder, args.concept)]
    print(as_table(rows))
    if replies:
        print(f"\ncontrol\n{table_of_replies(replies)}")
    findings = [finding for row in rows for finding in (row.vectors, row.accuracies)]
    findings += [row.replies for row in replies]
    for finding in findings:
        if finding.error:
            print("damaged:", printable(finding.error))
    if problems := summary(rows, replies):
        # Flushed first, so that the summary is last where both streams go to one file.
        print(end="", flush=True)
        raise UserError(f"of {len(findings)} result files, {problems}")
    print(f"all {len(findings)} result files are complete and up to date")


def as_table(rows: "Sequence[Row]") -> str:
    """The rows in columns as wide as their widest cell."""
    from repe.runs.printed import aligned

    cells = [("model", "concept", "kind", "vectors", "accuracies")]
    cells += [(row.model, row.concept, row.kind, row.vectors.text, row.accuracies.text) for row in rows]
    return aligned([tuple(map(printable, line)) for line in cells])


def table_of_replies(rows: "Sequence[ControlRow]") -> str:
    """The replies of control in columns as wide as their widest cell."""
    from repe.runs.printed import aligned

    cells = [("model", "concept", "source", "settings", "replies")]
    cells += [(row.model, row.concept, row.source, row.settings, row.replies.text) for row in rows]
    return aligned([tuple(map(printable, line)) for line in cells])


def summary(rows: "Sequence[Row]", replies: "Sequence[ControlRow]" = ()) -> str:
    """Number of files with each problem and its remedy; empty if there are no problems."""
    parts = []
    for problem, remedy in REMEDIES.items():
        vectors = sum(row.vectors.problem == problem for row in rows)
        accuracies = sum(row.accuracies.problem == problem for row in rows)
        if vectors or accuracies:
            stages = "collect_vector.py, then recognize_concept.py" if vectors else "recognize_concept.py"
            parts.append(f"{vectors + accuracies} {problem} ({remedy.format(stages=stages)})")
    if control := sum(bool(row.replies.problem) for row in replies):
        parts.append(
            f"{control} stale or damaged in control (run control_generation.py with the same options and --overwrite)"
        )
    return ", ".join(parts)


def start() -> None:
    parser = options.Parser(__doc__, options.SUBJECT, options.DATA)
    parser.add_argument("res_dir", nargs="?", type=Path, default=Path("res"), metavar="RES_DIR", help="default: res")
    parser.add_argument("--model", **options.NAMES, metavar="FOLDER", help="model folders in RES_DIR (default: all)")
    options.run(main, parser)
