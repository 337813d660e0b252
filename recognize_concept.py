#!/usr/bin/env python3
"""Stage 2: recognise concepts with the vectors of every language (Sections 3.2 and 3.4 of arXiv 2402.18120).

  python recognize_concept.py --lang en fr zh --concept morality fairness --model-name llama2-chat --model-size 7B
  python recognize_concept.py --cross-model llama2-chat-7B,qwen-chat-7B,bloomz-7B1
  python recognize_concept.py --cross-model bloomz-560M,bloomz-7B1 --layer-select validation --bootstrap --permutations

Without --cross-model, reads the vectors of stage 1 and the test pairs, and writes <res-dir>/<model>/<concept>/acc.pt:
the accuracy of each language's vectors (source) on each language's pairs (target). With it, draws Figure 2 and writes
Table 6 from such files; with --layer-select also for layers that were not chosen on the test set, with --bootstrap with
95 % intervals, with --permutations with p-values of the difference from vectors of shuffled labels.
Several processes divide the targets of all concepts (without --cross-model):

  accelerate launch --multi_gpu --num_processes 4 recognize_concept.py --lang en fr zh --concept morality
"""

import argparse
from typing import TYPE_CHECKING

from repe.errors import UserError
from repe.runs import arguments as cli

FIGURE = "figure2_recognition_accuracy"

if TYPE_CHECKING:
    from repe.results.accuracy_file import AccuracyFile
    from repe.runs.chosen import ChosenModel
    from repe.runs.planning import Plan


def main(args: argparse.Namespace) -> None:
    if args.cross_model:
        compare(args)
    elif args.layer_select != "best" or args.bootstrap or args.permutations:
        raise UserError(
            "--layer-select, --bootstrap and --permutations say how models are compared: give --cross-model"
        )
    else:
        recognize_all(args)


def recognize_all(args: argparse.Namespace) -> None:
    from repe.analysis.recognition import recognize
    from repe.results.vector_file import VectorFile
    from repe.runs import chosen as selection
    from repe.runs import planning as stages
    from repe.runs import processes
    from repe.vectors.state_cache import StateSource

    chosen = selection.model(args)
    plan = processes.decided(lambda: planned(args, chosen))
    if not plan:
        return
    vector_files = selection.result_files(args, chosen, plan.wanted, VectorFile)
    if share := stages.share(plan):
        source = StateSource(chosen, plan.meta, args)
    for concept, target in stages.progress(share, "recognising"):
        file, languages = plan.files[concept], plan.wanted[concept]
        untried = languages if args.overwrite else file.untried(target, languages)
        if not untried:  # another run was faster
            continue
        missing = stages.sources(vector_files[concept], untried)
        layers = len(next(iter(missing.values())).directions)
        split = plan.splits[concept, target]
        rows = recognize(source.of(split), split, target, missing, args)
        digests = {
            "data": {target: split.sha256},
            "vectors": {language: vectors.digest for language, vectors in missing.items()},
        }
        file.add({**plan.meta, **digests}, layers, rows, args.overwrite)
    stages.report(plan, "accuracies")


def planned(args: argparse.Namespace, chosen: "ChosenModel") -> "Plan[AccuracyFile] | None":
    """What to do, if anything; whatever may be wrong with it is found before a model is loaded."""
    from repe.results.accuracy_file import AccuracyFile
    from repe.results.vector_file import VectorFile
    from repe.runs import chosen as selection
    from repe.runs import planning as stages

    wanted = selection.concepts_and_languages(args)
    vector_files = selection.result_files(args, chosen, wanted, VectorFile)
    files = selection.result_files(args, chosen, wanted, AccuracyFile)
    for concept, languages in wanted.items():
        stages.sources(vector_files[concept], languages)
    pending = {
        concept: [language for language in languages if args.overwrite or files[concept].untried(language, languages)]
        for concept, languages in wanted.items()
    }
    return stages.plan(args, chosen, files, wanted, pending, "accuracies", vector_files)


def compare(args: argparse.Namespace) -> None:
    """Figure 2 and Table 6: accuracy on each language with its own vectors."""
    from repe.analysis import accuracy_table
    from repe.analysis.layer_selection import selections, side_by_side
    from repe.plots import figures, tables
    from repe.plots.style import save
    from repe.results.accuracy_file import AccuracyFile
    from repe.runs import compare as comparison

    compared = comparison.open_models(args, AccuracyFile, same_language=True)
    random_files = comparison.random_files(args, compared) if args.permutations else {}
    out_dir, files, languages = comparison.out_dir(args), compared.files, compared.languages
    found, intervals = {}, {}
    for selection in selections(args.layer_select):
        accuracy = accuracy_table.same_language_table(files, languages, selection)
        if args.bootstrap:
            intervals[selection] = accuracy_table.interval_table(files, languages, selection, args.bootstrap, args.seed)
            accuracy = accuracy_table.with_intervals(accuracy, intervals[selection])
        if args.permutations:
            accuracy = accuracy_table.with_p_values(
                accuracy, files, random_files, selection, args.permutations, args.seed
            )
        found[selection] = accuracy

    written = tables.write_table6(found, out_dir)
    if intervals:
        written += tables.write_csv(side_by_side(intervals), out_dir, "recognition_intervals")
    for selection, accuracy in found.items():
        averaged = intervals[selection] if intervals else accuracy_table.with_averages(accuracy)
        figure = figures.recognition_bars(accuracy_table.of_figure2(averaged), compared.families)
        written += save(figure, out_dir, f"{FIGURE}{selection.suffix}")
    cli.report_files(written)


def start() -> None:
    parser = cli.parser(__doc__, cross_model=True)
    cli.add_bootstrap(parser)
    cli.add_permutations(parser, "test each accuracy against vectors of shuffled labels (--random-direction)")
    cli.run(main, parser)


if __name__ == "__main__":
    start()
