"""The command line that the five scripts share: options, exit statuses, one-line errors.

Nothing heavy is imported here, so that `--help` answers at once.
"""

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from repe.errors import UserError
from repe.paper import FAMILIES, TRAIN_SHARE
from repe.registry import DEFAULT_NAME, DEFAULT_SIZE

METHODS = ("cluster_mean", "pca", "random")
INTERRUPTED = 130


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """One line instead of the whole usage."""
        self.exit(2, f"error: {message} (see {self.prog} --help)\n")


def parser(doc: str, cross_model: bool = False) -> Parser:
    """A parser with the shared options, described by the script's docstring.

    Args:
        doc: the description.
        cross_model: also take the options of scripts that compare models.
    """
    parser = Parser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    _add_subject(parser.add_argument_group("what to study"))
    _add_model(parser.add_argument_group("the model"))
    _add_running(parser.add_argument_group("how to run it"))
    results = parser.add_argument_group("results")
    results.add_argument("--res-dir", type=Path, default=Path("res"), metavar="DIR", help="result files (default: res)")
    results.add_argument("--overwrite", action="store_true", help="redo what is there already")
    if cross_model:
        _add_cross_model(parser.add_argument_group("comparing models"))
    return parser


def _add_subject(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--lang", nargs="+", metavar="LANG", help="languages, in this order (default: all there are)")
    group.add_argument("--concept", nargs="+", metavar="CONCEPT", help="concepts (default: all there are)")
    group.add_argument("--data-dir", type=Path, default=Path("data"), metavar="DIR", help="MVALUE (default: data)")
    group.add_argument(
        "--split",
        type=_split,
        default=TRAIN_SHARE,
        metavar="S",
        help="share (below 1) or number of pairs to train on, at most 0.8 of them; the test set stays (default: 0.8)",
    )
    group.add_argument("--no-validation", action="store_true", help="leave out the accuracy on held-out training pairs")
    group.add_argument("--random-direction", action="store_true", help="baseline: shuffle the training labels")
    group.add_argument("--direction-method", choices=METHODS, default="cluster_mean", help="default: cluster_mean")
    group.add_argument("--seed", type=_seed, default=1, metavar="N", help="of random directions (default: 1)")


def _add_model(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--model-name", metavar="NAME", help=f"in the registry (default: {DEFAULT_NAME})")
    group.add_argument("--model-size", metavar="SIZE", help=f"in the registry (default: {DEFAULT_SIZE})")
    group.add_argument(
        "--model-path", metavar="PATH|HUB_ID", help="where the weights are; alone, any causal or encoder model"
    )
    group.add_argument(
        "--model-label", metavar="LABEL", help="name of the results folder (default: the path's last part)"
    )
    group.add_argument(
        "--model-family", choices=FAMILIES, help="whose language shares apply (default: the registry's, else by name)"
    )
    group.add_argument("--revision", metavar="REV", help="of a hub id (default: its newest)")
    group.add_argument(
        "--trust-remote-code", action="store_true", help="run Python that comes with the weights (default: refuse)"
    )
    group.add_argument(
        "--template", metavar="TEXT", help='prompt around "{input}", or auto (default: the registry\'s, else auto)'
    )


def _add_running(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--device", default="auto", metavar="DEVICE", help="auto, cpu, cuda, cuda:1 or mps (default: auto)"
    )
    group.add_argument(
        "--dtype",
        choices=("auto", "float32", "float16", "bfloat16"),
        default="auto",
        help="default: auto, as published on a GPU, float32 on a CPU",
    )
    group.add_argument("--truncate", action="store_true", help="cut texts that are too long (default: refuse them)")
    group.add_argument(
        "--batch-size", type=_batch_size, metavar="auto|N", help="texts a batch (default: auto, by number of tokens)"
    )


def _add_cross_model(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--cross-model", type=_names, metavar="A,B,...", help="compare these results folders; no model is loaded"
    )
    group.add_argument(
        "--out-dir", type=Path, metavar="DIR", help="for figures and tables (default: RES_DIR/cross_model)"
    )


def _split(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a share nor a number of pairs above 0")
    return value


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 0 on")
    return int(text)


def _batch_size(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is neither auto nor a number from 1 on")
    return int(text)


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise argparse.ArgumentTypeError("name at least one results folder")
    return list(dict.fromkeys(names))


def report_files(paths: Sequence[Path]) -> None:
    """One line that says which files were written where."""
    print(f"wrote {', '.join(path.name for path in paths)} to {paths[0].parent}")


def run(main: Callable[[argparse.Namespace], None], parser: argparse.ArgumentParser) -> NoReturn:
    """Parse the command line, run `main`, and end with the status that users can rely on.

    0 is done (also when there was nothing to do), 2 is for what the user can mend, 130 is after Ctrl-C.
    """
    try:
        main(parser.parse_args())
    except UserError as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\ninterrupted: what was finished is on disk; the same command goes on from there", file=sys.stderr)
        sys.exit(INTERRUPTED)
    sys.exit(0)
