#!/usr/bin/env python3
"""Stage 5: steer replies in many languages with the concept vector of one (Section 5 of arXiv 2402.18120).

  python control_generation.py --model-name llama2-chat --model-size 7B --concept harmfulness \\
      --source-lang en --target-lang en fr zh --prompts prompts.jsonl --layers 0.3:0.6 --strength=-1,-0.5,0,0.5,1

Reads the vectors of stage 1 and prompts (JSON lines with id, lang, prompt, harmful), and writes to
<res-dir>/<model>/<concept>/control/<source>/ generations.jsonl (a reply a line), control.csv (refusal and other rates
with 95 % intervals) and figure_control; for several source languages also control/figure_control_sources. The
paper's settings are not published: these are the project's own.
"""

import argparse
import time
from itertools import groupby
from typing import TYPE_CHECKING

from repe.runs import arguments as cli

if TYPE_CHECKING:
    from repe.control.experiment import Control
    from repe.runs.chosen import ChosenModel

# Replies are written when so many seconds have passed since the last time, and at the end.
WRITE_EVERY = 20.0


def main(args: argparse.Namespace) -> None:
    from repe.control import experiment as control
    from repe.runs import chosen as selection
    from repe.runs import processes

    processes.alone("control")
    chosen = selection.model(args)
    controls = control.planned(args, chosen)
    if any(one.pending() for one in controls):
        generate(args, chosen, controls)
    else:
        print("nothing to generate: all replies asked for are there (--overwrite redoes them)")
    summarize(args, chosen, controls)


def generate(args: argparse.Namespace, chosen: "ChosenModel", controls: "list[Control]") -> None:
    from tqdm import tqdm

    from repe.control.generation import prompt_batches
    from repe.results.vector_file import check_fit

    model = chosen.load(with_head=True)
    for one in controls:
        check_fit(one.vectors, model.layers, model.hidden_size)
    batches = prompt_batches(model, controls[0].prompts, args.max_new_tokens, args.batch_size)
    goals: dict[str, dict[float, float]] = {}
    with tqdm(total=sum(len(one.pending()) for one in controls), desc="generating", unit="reply") as bar:
        for one in controls:
            bar.set_postfix_str(f"{one.concept} {one.source}")
            if args.calibrate and one.concept not in goals:  # the first source's
                goals[one.concept] = one.goals(model, batches)
            rows, written = [], time.monotonic()
            try:
                for replies in one.replies(model, batches, goals.get(one.concept, {})):
                    rows += replies
                    bar.update(len(replies))
                    if time.monotonic() - written > WRITE_EVERY:
                        one.file.add(rows)
                        rows, written = [], time.monotonic()
            finally:  # also after Ctrl-C
                if rows:
                    one.file.add(rows)


def summarize(args: argparse.Namespace, chosen: "ChosenModel", controls: "list[Control]") -> None:
    from repe.control.measures import largest_effects, measure
    from repe.control.replies import Classifier
    from repe.plots import control_figures, tables
    from repe.plots import style as print_style

    judge = Classifier(args.classifier, chosen.device) if args.classifier else None
    for _, by_source in groupby(controls, lambda one: one.concept):
        measures = {}
        for one in by_source:
            rows = [*one.file.rows.values()]
            measures[one.source] = measure(rows, judge.are_refusals([row["reply"] for row in rows]) if judge else None)
            written = [one.file.path, *tables.write_csv(measures[one.source], one.file.folder, "control")]
            figure = control_figures.refusal_panels(measures[one.source], one.source)
            cli.report_files(written + print_style.save(figure, one.file.folder, "figure_control"))
        effects = largest_effects(measures)
        if len(measures) > 1 and len(effects):
            folder = one.file.folder.parent
            figure = control_figures.effect_heat_map(effects, matched=args.calibrate)
            written = tables.write_csv(effects, folder, "control_sources")
            cli.report_files(written + print_style.save(figure, folder, "figure_control_sources"))


def parser() -> argparse.ArgumentParser:
    parser = cli.parser(__doc__)
    cli.add_control(parser)
    return parser


def start() -> None:
    cli.run(main, parser())


if __name__ == "__main__":
    start()
