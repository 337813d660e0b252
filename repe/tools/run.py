"""Run stages 1 to 4, the paper's questions in numbers, and the report on one model.

  python -m repe run --model-path PATH_OR_HUB_ID --data-dir data
  python -m repe run --model-path PATH_OR_HUB_ID --data-dir data --concept politeness --lang en sv

Collects vectors, tests them, and writes figures, tables and report.html next to the results in <res-dir>/<model>. It
calls the scripts of the stages, which have more options. Existing results are kept, so a run that was stopped
continues where it ended. With --untrained first, the later run shows the floor of random weights beside each accuracy.
"""

import argparse
import importlib
import sys
from pathlib import Path
from types import ModuleType

from repe.errors import UserError
from repe.runs import arguments as options
from repe.runs import processes

SCRIPTS = ("collect_vector", "recognize_concept", "consistency_analysis", "transferability_analysis")
ROOT = Path(__file__).parents[2]


def main(args: argparse.Namespace) -> None:
    processes.require_single("python -m repe run")
    collect, recognize, consistency, transfer = (script(name) for name in SCRIPTS)
    label = options.named_model(args)[0]
    folder = options.results_folder(args, label)
    _heading("1. vectors")
    collect.main(with_defaults(args, collect))
    _heading("2. recognition")
    recognize.main(with_defaults(args, recognize))
    compared = {"cross_model": [label], "out_dir": folder, **unset_options(args)}
    recognize.main(with_defaults(args, recognize, **compared))
    _heading("3. consistency")
    consistency.main(with_defaults(args, consistency, **compared))
    _heading("4. transfer")
    transfer.main(with_defaults(args, transfer, **compared))
    _heading("the paper's questions in numbers")
    traits = importlib.import_module("repe.tools.report.traits")
    traits.main(with_defaults(args, traits, **compared))
    report = importlib.import_module("repe.tools.report")
    report.main(argparse.Namespace(res_dir=args.res_dir, out_dir=folder))


def script(name: str) -> ModuleType:
    """The script of a stage, which is in the repository beside the package.

    Raises:
        UserError: the package was installed without the repository.
    """
    if not (ROOT / f"{name}.py").exists():
        raise UserError(f"{ROOT} has no {name}.py: clone the repository and install it with pip install -e .")
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    return importlib.import_module(name)


def with_defaults(args: argparse.Namespace, module: ModuleType, **others: object) -> argparse.Namespace:
    """The options of a script: its defaults, those given here that it has, and `others`."""
    defaults = vars(module.parser().parse_args([]))
    return argparse.Namespace(
        **{**defaults, **{name: value for name, value in vars(args).items() if name in defaults}, **others}
    )


def unset_options(args: argparse.Namespace) -> dict[str, object]:
    """Options of running a model at their defaults: comparisons refuse them."""
    groups = (
        options.MODEL,
        options.UNTRAINED,
        options.RUNNING,
        options.CACHE,
        options.DATA,
        options.OVERWRITE,
        options.SEED,
    )
    parser = options.Parser(None, *groups)
    return {**vars(parser.parse_args([])), "model_family": args.model_family}


def _heading(text: str) -> None:
    print(f"\n{text}", flush=True)


def parser() -> options.Parser:
    return options.Parser(
        __doc__,
        *(
            options.MODEL,
            options.SUBJECT,
            options.DATA,
            options.RESULTS,
            options.OVERWRITE,
            options.METHOD,
            options.SEED,
        ),
        *(options.UNTRAINED, options.HIGH_RESOURCE, options.RUNNING, options.CACHE),
    )


def start() -> None:
    options.run(main, parser())
