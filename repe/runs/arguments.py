"""The command line that the scripts share: options, what they name, exit statuses, one-line errors.

A script lists the groups of options that it uses, so that it refuses all others. Nothing heavy is imported here, so
that `--help` answers at once.
"""

import argparse
import math
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from repe.constants import DRAWS, METHODS, PERMUTATIONS
from repe.errors import UserError, printable
from repe.files import plain_name
from repe.models.registry import AUTO, DEFAULT_NAME, DEFAULT_SIZE, Entry, untrained_suffix
from repe.models.registry import entry as registry_entry
from repe.paper import FAMILIES, TRAIN_SHARE, family_by_name, split_suffix
from repe.runs import processes

INTERRUPTED = 130

Group = Mapping[str, Mapping[str, Any]]
"""Options by the title of their group, each with its settings for `add_argument`."""


# Wide enough for most options to take one line.
_FORMATTER = partial(argparse.RawDescriptionHelpFormatter, max_help_position=32, width=110)


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, and which takes `--strength -1,0,1` without an equals sign."""

    def __init__(self, doc: str | None, *groups: Group) -> None:
        settings: Any = {"formatter_class": _FORMATTER, "allow_abbrev": False, "add_help": False}
        super().__init__(description=doc, usage="%(prog)s [options]", **settings)
        self.add_argument("-h", "--help", action="help", help=argparse.SUPPRESS)
        self._negative_number_matcher = re.compile(r"^-[\d.][\d.,eE+-]*$")
        titled: dict[str, argparse._ArgumentGroup] = {}
        for title, options in [item for group in groups for item in group.items()]:
            if title not in titled:
                titled[title] = self.add_argument_group(title)
            for name, settings in options.items():
                titled[title].add_argument(name, **settings)

    def error(self, message: str) -> NoReturn:
        """One line instead of the whole usage."""
        self.exit(2, f"error: {message} (see {self.prog} --help)\n" if processes.is_main() else None)


class _Names(argparse.Action):
    """A list of names, separated by spaces or commas, without repeats."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None) -> None:
        names = [name.strip() for value in values for name in value.split(",") if name.strip()]
        if not names:
            parser.error(f"argument {option_string}: give at least one name")
        setattr(namespace, self.dest, list(dict.fromkeys(names)))


def refuse(args: argparse.Namespace, groups: Sequence[Group], when: str, except_for: Sequence[str] = ()) -> None:
    """Refuse options that would have no effect.

    Args:
        args: the parsed command line.
        groups: of the options.
        when: for the message, such as `with --cross-model`.
        except_for: options of these groups that do have an effect.

    Raises:
        UserError: one of the options was given another value than its default.
    """
    for name, settings in [item for group in groups for options in group.values() for item in options.items()]:
        default = settings.get("default", False if settings.get("action") == "store_true" else None)
        if name not in except_for and getattr(args, name.removeprefix("--").replace("-", "_")) != default:
            raise UserError(f"{name} has no effect {when}: leave it out")


NAMES: dict[str, Any] = {"nargs": "+", "action": _Names}


def finite_number(text: str, is_valid: Callable[[float], bool], what: str) -> float:
    """`text` as a number.

    Raises:
        argparse.ArgumentTypeError: it is not a number, or `is_valid` refuses it; `what` describes valid values.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and is_valid(value)):
        raise argparse.ArgumentTypeError(f"{text!r} must be {what}")
    return value


def positive_integer(text: str) -> int:
    """The type of an option that takes 1, 2, ..."""
    return int(finite_number(text, lambda value: value >= 1 and text.isdecimal(), "a positive integer"))


def non_negative_integer(text: str) -> int:
    """The type of an option that takes 0, 1, ..."""
    return int(finite_number(text, lambda _: text.isdecimal(), "a non-negative integer"))


def split(text: str) -> float:
    """The type of `--split`."""
    return finite_number(text, lambda value: value > 0, "a share or a number of pairs above 0")


def number_of_folds(text: str) -> int:
    """The type of `--folds`."""
    return int(finite_number(text, lambda value: value >= 2 and text.isdecimal(), "2 or more"))


def batch_size(text: str) -> int | None:
    """The type of `--batch-size`: None for `auto`."""
    return None if text == "auto" else positive_integer(text)


def layer_select(text: str) -> str | int | float:
    """The type of `--layer-select`: `best`, `validation`, a layer number or a relative depth."""
    if text in ("best", "validation"):
        return text
    if text.isdecimal() and int(text) > 0:
        return int(text)
    what = "best, validation, a layer number from 1, or a relative depth from 0 to below 1"
    return finite_number(text, lambda value: 0 <= value < 1 and not text.isdecimal(), what)


SUBJECT = {
    "data": {
        "--lang": {
            **NAMES,
            "metavar": "LANG",
            "help": "languages, in this order (default: all in the data or results)",
        },
        "--concept": {**NAMES, "metavar": "NAME", "help": "concepts (default: all in the data or results)"},
    }
}
DATA = {
    "data": {
        "--data-dir": {"type": Path, "default": Path("data"), "metavar": "DIR", "help": "MVALUE folder (default: data)"}
    }
}
METHOD = {
    "method": {
        "--split": {
            "type": split,
            "default": TRAIN_SHARE,
            "metavar": "S",
            "help": "share (below 1) or number of training pairs, at most 80 %% (default: 0.8)",
        },
        "--split-by": {
            "choices": ("pair", "item"),
            "default": "pair",
            "help": "item: same training items in all languages (default: pair, as published)",
        },
        "--folds": {
            "type": number_of_folds,
            "metavar": "K",
            "help": "test every pair once, in K folds of whole items",
        },
        "--random-direction": {"action": "store_true", "help": "baseline: shuffle the training labels"},
        "--direction-method": {
            "choices": METHODS,
            "default": "cluster_mean",
            "metavar": "METHOD",
            "help": "cluster_mean, pca, logistic, lda or random (default: cluster_mean)",
        },
    }
}
SEED = {
    "method": {
        "--seed": {
            "type": non_negative_integer,
            "default": 1,
            "metavar": "N",
            "help": "random seed (does not affect the split; default: 1)",
        }
    }
}
VALIDATION = {
    "method": {
        "--no-validation": {"action": "store_true", "help": "do not compute accuracy on held-out training pairs"}
    }
}
MODEL = {
    "model": {
        "--model-name": {"metavar": "NAME", "help": f"name in the registry (default: {DEFAULT_NAME})"},
        "--model-size": {"metavar": "SIZE", "help": f"size in the registry (default: {DEFAULT_SIZE})"},
        "--model-path": {
            "metavar": "PATH|HUB_ID",
            "help": "folder, hub id or GGUF file of any causal or encoder model",
        },
        "--model-label": {"metavar": "LABEL", "help": "name of the results folder (default: last part of the path)"},
        "--model-family": {
            "choices": tuple(FAMILIES),
            "metavar": "FAMILY",
            "help": f"{', '.join(FAMILIES)}: whose pre-training shares apply (default: by name)",
        },
    }
}
RUNNING = {
    "running the model": {
        "--template": {
            "metavar": "TEXT",
            "help": 'prompt around "{input}", or auto (default: the registry\'s, or auto)',
        },
        "--device": {"default": "auto", "metavar": "DEVICE", "help": "auto, cpu, cuda, cuda:1 or mps (default: auto)"},
        "--dtype": {
            "choices": ("auto", "float32", "float16", "bfloat16"),
            "default": "auto",
            "metavar": "DTYPE",
            "help": "float32, float16, bfloat16 or auto (as published on a GPU, float32 on a CPU)",
        },
        "--batch-size": {"type": batch_size, "metavar": "auto|N", "help": "texts per batch (default: auto)"},
        "--truncate": {"action": "store_true", "help": "cut texts that exceed the context length"},
        "--revision": {"metavar": "REV", "help": "revision of a hub id (default: the newest)"},
        "--trust-remote-code": {"action": "store_true", "help": "run Python code that comes with the weights"},
    }
}
UNTRAINED = {
    "model": {
        "--untrained": {
            "action": "store_true",
            "help": "random weights (drawn by --seed) in place of the trained ones, as a floor",
        }
    }
}
CACHE = {
    "running the model": {"--cache-states": {"type": Path, "metavar": "DIR", "help": "cache hidden states in DIR"}}
}
NULLS = {
    "running the model": {
        "--nulls": {
            "action": "store_true",
            "help": "add nulls and detection; runs the training texts, unless --cache-states has them",
        }
    }
}
RESULTS = {
    "results": {
        "--res-dir": {"type": Path, "default": Path("res"), "metavar": "DIR", "help": "results folder (default: res)"}
    }
}
VECTORS_FROM = {
    "results": {
        "--vectors-from": {
            "type": Path,
            "metavar": "DIR",
            "help": "test the vectors of results folder DIR on all pairs of --data-dir",
        }
    }
}
OVERWRITE = {"results": {"--overwrite": {"action": "store_true", "help": "redo existing results"}}}
COMPARISON = {
    "comparison": {
        "--cross-model": {**NAMES, "metavar": "M", "help": "results folders to compare; no model is loaded"},
        "--out-dir": {
            "type": Path,
            "metavar": "DIR",
            "help": "folder for figures and tables (default: RES_DIR/cross_model)",
        },
        "--layer-select": {
            "type": layer_select,
            "default": "best",
            "metavar": "L",
            "help": "also report another layer: validation, a number, or a relative depth below 1",
        },
    }
}
SIMILARITY = {
    "comparison": {
        "--similarity": {
            **NAMES,
            "metavar": "MEASURE",
            "default": [],
            "help": "more measures: rsa, angles, and with --cache-states cka, procrustes",
        }
    }
}
FLOORS = {
    "comparison": {
        "--floors": {
            "action": "store_true",
            "help": "accuracy beside nulls, untrained twins and a classifier of the text",
        }
    }
}
BOOTSTRAP = {
    "comparison": {
        "--bootstrap": {
            "type": positive_integer,
            "nargs": "?",
            "const": DRAWS,
            "default": 0,
            "metavar": "N",
            "help": f"95 %% intervals over test items from N bootstrap draws (N: {DRAWS})",
        }
    }
}


HIGH_RESOURCE = {
    "comparison": {
        "--high-resource": {
            **NAMES,
            "metavar": "LANG",
            "help": "high-resource languages, for Split and one-way transfer (default: the family's)",
        }
    }
}


def permutations(test: str) -> dict[str, dict[str, dict[str, Any]]]:
    """The group of the option that asks for p-values of a `test`."""
    settings = {"type": positive_integer, "nargs": "?", "const": PERMUTATIONS, "default": 0, "metavar": "N"}
    what = f"{test} from N permutations (N: {PERMUTATIONS})"
    return {"comparison": {"--permutations": {**settings, "help": what}}}


def named_model(args: argparse.Namespace) -> tuple[str, Entry]:
    """The label of the model that the options name, and its row: the registry's, or one for any model by its path.

    Raises:
        UserError: the registry has no such row, or the label is not a valid name.
    """
    if args.model_path and not (args.model_name or args.model_size):
        label = args.model_label or Path(args.model_path).resolve().name.removesuffix(".gguf")
        row = Entry(label, "", args.model_path, family_by_name(label).name, AUTO, "")
    else:
        row = registry_entry(args.model_name, args.model_size)
        label = args.model_label or row.label
        row = replace(row, hub_id=args.model_path or row.hub_id)
    if vars(args).get("untrained"):  # an option of the scripts that run a model
        label += untrained_suffix(args.seed)
    return plain_name(label, "--model-label"), replace(row, family=args.model_family or row.family)


def results_folder(args: argparse.Namespace, label: str) -> Path:
    """Results of a model: `<label>`, `<label>-0.4`, `<label>-item`, `<label>-0.4-item` or `<label>-folds5`.

    With `--vectors-from`, the name of the data folder follows, as in `<label>-item-on-probes`.

    Raises:
        UserError: the label is not a valid name, or an option of the split would have no effect with `--folds`.
    """
    if folds := vars(args).get("folds"):  # not an option of every tool
        for option, is_set in {"--split": args.split != TRAIN_SHARE, "--split-by": args.split_by != "pair"}.items():
            if is_set:
                raise UserError(f"{option} has no effect with --folds: leave it out")
    tested_on = data_name(args.data_dir) if vars(args).get("vectors_from") else None
    suffix = split_suffix(float(args.split), args.split_by, folds, tested_on)
    return Path(args.res_dir) / f"{plain_name(label, 'model name')}{suffix}"


def data_name(data_dir: Path) -> str:
    """The name of a data folder, or that of the folder around it if it is just called data.

    Raises:
        UserError: it is not a valid name.
    """
    path = data_dir.resolve()
    return plain_name(path.parent.name if path.name == "data" else path.name, "--data-dir")


def print_written(paths: Sequence[Path]) -> None:
    """Print which files were written to which folder."""
    print(f"wrote {', '.join(path.name for path in paths)} to {paths[0].parent}")


def run(main: Callable[[argparse.Namespace], None], parser: argparse.ArgumentParser) -> NoReturn:
    """Parse the command line, call `main`, and exit: 0 done, 2 the user can fix it, 130 interrupted by Ctrl-C."""
    # Lets PyTorch allocate large CPU tensors in huge pages where Linux offers them: with small pages, up to a tenth of
    # the time of a forward pass is spent in the kernel.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    try:
        main(parser.parse_args())
    except UserError as error:
        if processes.reports_errors():
            # Other processes may print into the main process's progress bar.
            start = "" if processes.is_main() else "\n"
            print(f"{start}error:", printable(str(error)), file=sys.stderr)
        sys.exit(2)
    except ModuleNotFoundError as error:
        if not error.name or error.name.startswith("repe"):
            raise
        print(
            f"error: {sys.executable} has no package {error.name}: activate the environment with `source "
            ".venv/bin/activate` (`make .venv` creates it), or install this repository with `pip install -e .`",
            file=sys.stderr,
        )
        sys.exit(2)
    except KeyboardInterrupt:
        if processes.is_main():
            print("\ninterrupted: finished results are saved; run the same command to continue", file=sys.stderr)
        sys.exit(INTERRUPTED)
    sys.exit(0)
