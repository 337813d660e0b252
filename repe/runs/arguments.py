"""The command line that the five scripts share: options, exit statuses, one-line errors.

Nothing heavy is imported here, so that `--help` answers at once.
"""

import argparse
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from repe.constants import DRAWS, METHODS, PERMUTATIONS
from repe.errors import UserError
from repe.models.registry import DEFAULT_NAME, DEFAULT_SIZE
from repe.paper import FAMILIES, TRAIN_SHARE
from repe.runs import processes

INTERRUPTED = 130


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """One line instead of the whole usage."""
        self.exit(2, f"error: {message} (see {self.prog} --help)\n" if processes.is_main() else None)


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
    group.add_argument(
        "--split-by",
        choices=("pair", "item"),
        default="pair",
        help="item: train on the same items in all languages, so that no translation of one is tested; in folders of "
        "their own (default: pair, each language by itself as published)",
    )
    group.add_argument("--no-validation", action="store_true", help="leave out the accuracy on held-out training pairs")
    group.add_argument("--random-direction", action="store_true", help="baseline: shuffle the training labels")
    group.add_argument("--direction-method", choices=METHODS, default="cluster_mean", help="default: cluster_mean")
    group.add_argument(
        "--seed", type=_seed, default=1, metavar="N", help="of whatever is random but the split (default: 1)"
    )


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
    group.add_argument(
        "--cache-states", type=Path, metavar="DIR", help="keep all texts' states there, and run no text twice"
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
    group.add_argument(
        "--layer-select",
        type=_layer_select,
        default="best",
        metavar="best|validation|L",
        help="also report the layer chosen on validation pairs, number L, or relative depth L like 0.5 (default: best, "
        "on the test set as published)",
    )


def add_bootstrap(parser: argparse.ArgumentParser) -> None:
    """Add the option that asks for intervals."""
    what = "95 %% intervals, from N draws of the test items with all their translations"
    _add_repeats(parser.add_argument_group("how sure it is"), "--bootstrap", DRAWS, what)


def add_permutations(parser: argparse.ArgumentParser, test: str) -> None:
    """Add the option that asks for p-values, of a `test`."""
    _add_repeats(parser.add_argument_group("p-values"), "--permutations", PERMUTATIONS, f"{test}, from N permutations")


def _add_repeats(group: argparse._ArgumentGroup, name: str, usual: int, what: str) -> None:
    """An option that is off unless it is given, with a number or without one."""
    text = f"{what} (N: {usual}; default: none)"
    group.add_argument(name, type=_count, nargs="?", const=usual, default=0, metavar="N", help=text)


def add_collection(parser: Parser) -> Parser:
    """Add the options of collecting vectors to those that all scripts share."""
    parser.add_argument_group("collecting").add_argument(
        "--stream", action="store_true", help="put states aside on the disk: memory does not grow with the texts"
    )
    return parser


def _layer_select(text: str) -> str | int | float:
    if text in ("best", "validation"):
        return text
    if text.isdecimal() and int(text) > 0:
        return int(text)
    try:
        depth = float(text)
    except ValueError:
        depth = math.nan
    if not 0 <= depth < 1 or text.isdecimal():
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither best, validation, a layer from 1 on, nor a relative depth below 1"
        )
    return depth


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 on")
    return int(text)


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
    # PyTorch then takes large tensors on a CPU in huge pages, where Linux offers them: forward passes give back and
    # take anew what they compute in, and with small pages up to a tenth of their time goes to the kernel.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    try:
        main(parser.parse_args())
    except UserError as error:
        if processes.reports_errors():
            # The main process's progress bar may stand in the line.
            start = "" if processes.is_main() else "\n"
            print(f"{start}error:", " ".join(str(error).split()), file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        if processes.is_main():
            print("\ninterrupted: what was finished is on disk; the same command goes on from there", file=sys.stderr)
        sys.exit(INTERRUPTED)
    sys.exit(0)
