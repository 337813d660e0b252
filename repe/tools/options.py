"""Options that several tools share. Nothing heavy is imported here, so that `--help` answers at once."""

import argparse
from pathlib import Path

from repe.models.registry import DEFAULT_NAME, DEFAULT_SIZE
from repe.runs.arguments import Parser


def parser(tool: str, doc: str) -> Parser:
    """The parser of `python -m repe <tool>`, described by the tool's docstring."""
    prog = f"python -m repe {tool}".rstrip()
    return Parser(prog=prog, description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)


def add_results_folder(parser: Parser) -> None:
    """Add the results folder as an argument of its own."""
    parser.add_argument(
        "res_dir", nargs="?", type=Path, default=Path("res"), metavar="RES_DIR", help="results folder (default: res)"
    )


def add_model(parser: Parser) -> argparse._ArgumentGroup:
    """Add the options that name a model.

    Returns:
        Their group, for more options about the model.
    """
    group = parser.add_argument_group("model")
    group.add_argument("--model-name", metavar="NAME", help=f"name in the registry (default: {DEFAULT_NAME})")
    group.add_argument("--model-size", metavar="SIZE", help=f"size in the registry (default: {DEFAULT_SIZE})")
    group.add_argument("--model-path", metavar="PATH|HUB_ID", help="model folder or hub id")
    group.add_argument("--revision", metavar="REV", help="revision of a hub id (default: the newest)")
    return group
