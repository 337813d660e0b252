#!/usr/bin/env python3
"""Stage 2: recognise concepts with the vectors of every language (Sections 3.2 and 3.4 of arXiv 2402.18120).

  python recognize_concept.py --lang en fr zh --concept morality fairness --model-name llama2-chat --model-size 7B
  python recognize_concept.py --cross-model llama2-chat-7B,qwen-chat-7B,bloomz-7B1

Without --cross-model, reads the vectors of stage 1 and the test pairs, and writes <res-dir>/<model>/<concept>/acc.pt:
the accuracy of each language's vectors (source) on each language's pairs (target). With it, draws Figure 2 and writes
Table 6 from such files. Several processes divide the targets of all concepts (without --cross-model):

  accelerate launch --multi_gpu --num_processes 4 recognize_concept.py --lang en fr zh --concept morality
"""

import argparse
from typing import TYPE_CHECKING

from repe import cli

if TYPE_CHECKING:
    from repe.selection import ChosenModel


def main(args: argparse.Namespace) -> None:
    if args.cross_model:
        compare(args)
    else:
        recognize_all(args)


def recognize_all(args: argparse.Namespace) -> None:
    from repe import processes, selection, stages
    from repe.recognition import recognize
    from repe.state_cache import StateSource

    chosen = selection.model(args)
    work = processes.decided(lambda: find_work(args, chosen))
    if not work:
        return
    files, vector_files, wanted, pending, splits, meta = work
    if share := stages.share(pending, splits):
        source = StateSource(chosen, meta, args)
    for concept, target in stages.progress(share, "recognising"):
        untried = [*wanted[concept]] if args.overwrite else files[concept].untried(target, wanted[concept])
        if not untried:  # another run was faster
            continue
        missing = stages.sources(vector_files[concept], untried)
        layers = len(next(iter(missing.values())).directions)
        split = splits[concept, target]
        rows = recognize(source.of(split), split, target, missing, args)
        digests = {
            "data": {target: split.sha256},
            "vectors": {language: vectors.digest for language, vectors in missing.items()},
        }
        files[concept].add(meta | digests, layers, rows, args.overwrite)
    stages.report(pending, files, "accuracies")


def find_work(args: argparse.Namespace, chosen: "ChosenModel") -> tuple | None:
    """What is missing, and what it is made from and with; whatever may be wrong with that is found before a model is
    loaded."""
    from repe import selection, stages
    from repe.results import AccuracyFile, VectorFile

    wanted = selection.concepts_and_languages(args)
    vector_files = selection.result_files(args, chosen, wanted, VectorFile)
    files = selection.result_files(args, chosen, wanted, AccuracyFile)
    for concept, languages in wanted.items():
        stages.sources(vector_files[concept], languages)
    pending = {
        concept: [language for language in languages if args.overwrite or files[concept].untried(language, languages)]
        for concept, languages in wanted.items()
    }
    splits = stages.read_splits(args, wanted, pending)
    meta = stages.checked_meta(args, chosen, files, pending, splits, vector_files=vector_files)
    if not stages.anything(pending, files, "accuracies"):
        return None
    return files, vector_files, wanted, pending, splits, meta


def compare(args: argparse.Namespace) -> None:
    from repe import comparison, figures, print_style, tables
    from repe.recognition import same_language_table
    from repe.results import AccuracyFile

    compared = comparison.open_models(args, AccuracyFile, same_language=True)
    out_dir = comparison.out_dir(args)
    accuracy = same_language_table(compared.files, compared.languages)
    written = tables.write_table6(accuracy, out_dir)
    written += print_style.save(
        figures.recognition_bars(accuracy, compared.families), out_dir, "figure2_recognition_accuracy"
    )
    cli.report_files(written)


def start() -> None:
    cli.run(main, cli.parser(__doc__, cross_model=True))


if __name__ == "__main__":
    start()
