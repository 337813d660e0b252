#!/usr/bin/env python3
"""Stage 5: steer replies in many languages with the concept vector of one language (Section 5 of arXiv 2402.18120).

  python control_generation.py --model-path MODEL --source-lang en --target-lang en fr --prompts prompts.jsonl

Reads the vectors of stage 1 and the prompts. Writes replies, measures and figures to <res-dir>/<model>/<concept>/
control/<source>/ (docs/control.md). The paper publishes no settings; these are our own.
"""

import argparse
from itertools import groupby
from typing import TYPE_CHECKING

from repe.runs import arguments as options
from repe.runs.control_arguments import CONTROL

if TYPE_CHECKING:
    from repe.control.experiment import ControlExperiment
    from repe.models.model import Model

# Other modules are imported in the functions that use them: they take seconds, and --help does not need them.


def main(args: argparse.Namespace) -> None:
    from repe.runs import processes, stage
    from repe.runs.control_inputs import judge_replies, prepare

    processes.require_single("control")
    model = stage.model_source(args)
    experiments = prepare(args, model)
    unread = [one for one in experiments if one.pending() or one.reader.unscored(one.file)]
    if args.tune or args.overwrite or unread:
        loaded = model.load(with_head=True)
        experiments = [tuned(one, loaded) for one in experiments] if args.tune else experiments
        for experiment in experiments:
            # In the chosen layers, adds the source language's vector to the states of the prompts and the replies.
            experiment.run(loaded, args.batch_size, args.overwrite)
            # The unsteered model reads all replies.
            experiment.reader.score(loaded, experiment.file)
        del loaded
    else:
        print("nothing to generate: all replies exist (use --overwrite to generate them again)")
    if args.judge:
        judge_replies(args, experiments)
    for _, of_concept in groupby(experiments, lambda experiment: experiment.concept):
        measure_and_draw([*of_concept])


def tuned(experiment: "ControlExperiment", model: "Model") -> "ControlExperiment":
    """The experiment with layers and strengths chosen on a third of the prompts, on the other prompts."""
    from repe.control.tuning import Tuner, apply_choice
    from repe.plots import control_figures
    from repe.plots.style import save
    from repe.plots.tables import write_csv

    table = Tuner(experiment, model).choose()
    print(table[table["effect"].notna()].round(3).to_string(index=False))
    written = write_csv(table, experiment.folder, "tune")
    options.print_written(written + save(control_figures.trade_off(table), experiment.folder, "figure_tune"))
    return apply_choice(experiment, table)


def measure_and_draw(experiments: "list[ControlExperiment]") -> None:
    """Tables and figures of one concept: refusal and other rates in each target language, for each source."""
    import pandas as pd

    from repe.control.measures import compared_settings, measure, side_effects, source_effects
    from repe.plots import control_figures
    from repe.plots.style import save
    from repe.plots.tables import write_csv
    from repe.runs import printed

    effects = []
    for experiment in experiments:
        folder, rows = experiment.file.folder, [*experiment.file.rows.values()]
        effects.append(source_effects({experiment.source: rows}, experiment.concept))
        table = measure(rows, experiment.concept)
        written = write_csv(table, folder, "control")
        if len(effects[-1]):
            written += write_csv(effects[-1], folder, "control_effects")
        if len(other := side_effects(rows)):
            written += write_csv(other, folder, "control_side_effects")
        for name, figure in control_figures.figures(table, experiment.source).items():
            written += save(figure, folder, name)
        if experiment.folder != folder or any(experiment.folder.glob("*/control.csv")):
            written += write_csv(compared_settings(experiment.folder), experiment.folder, "control_settings")
        options.print_written([experiment.file.path, *written])
        print(printed.control(table), *printed.effects(effects[-1]), sep="\n")
    together = pd.concat(effects, ignore_index=True)
    if len(effects) > 1 and len(together):
        figure = control_figures.sources(together)
        top = experiments[0].folder.parent
        written = write_csv(together, top, "control_sources")
        options.print_written(written + save(figure, top, "figure_control_sources"))


def parser() -> options.Parser:
    model = (options.MODEL, options.RUNNING, options.METHOD, options.SEED)
    return options.Parser(__doc__, CONTROL, *model, options.RESULTS, options.OVERWRITE)


def start() -> None:
    options.run(main, parser())


if __name__ == "__main__":
    start()
