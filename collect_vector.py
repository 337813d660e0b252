#!/usr/bin/env python3
"""Stage 1: collect concept vectors (Section 3.1 of arXiv 2402.18120).

  python collect_vector.py --lang en fr zh --concept morality fairness --model-name llama2-chat --model-size 7B
  python collect_vector.py --lang en fr --concept morality --model-path PATH_OF_ANY_TRANSFORMERS_MODEL

Reads <data-dir>/<concept>/<concept>_<lang>.json and writes <res-dir>/<model>/<concept>/reader_dict.pt, a language at a
time. Languages that are there already stay as they are. Several processes divide the sets:

  accelerate launch --multi_gpu --num_processes 4 collect_vector.py --lang en fr zh --model-name bloomz --model-size 7B1
"""

import argparse
from typing import TYPE_CHECKING

from repe.runs import arguments as cli

if TYPE_CHECKING:
    from repe.results.vector_file import VectorFile
    from repe.runs.chosen import ChosenModel
    from repe.runs.planning import Plan


def main(args: argparse.Namespace) -> None:
    from repe.runs import chosen as selection
    from repe.runs import planning as stages
    from repe.runs import processes
    from repe.vectors.collection import collect
    from repe.vectors.state_cache import StateSource
    from repe.vectors.streaming import check_options, collect_streaming

    check_options(args)
    chosen = selection.model(args)
    plan = processes.decided(lambda: planned(args, chosen))
    if not plan:
        return
    if share := stages.share(plan):
        source = StateSource(chosen, plan.meta, args)
    for concept, language in stages.progress(share, "collecting"):
        split = plan.splits[concept, language]
        if args.stream:
            entry = collect_streaming(source.model, split, args.batch_size, not args.no_validation)
        else:
            entry = collect(source.of(split), split, concept, language, args)
        meta = {**plan.meta, "data": {language: split.sha256}}
        plan.files[concept].add(meta, len(entry["directions"]), {"languages": {language: entry}}, args.overwrite)
    stages.report(plan, "vectors")


def planned(args: argparse.Namespace, chosen: "ChosenModel") -> "Plan[VectorFile] | None":
    """What to do, if anything; whatever may be wrong with it is found before a model is loaded."""
    from repe.results.vector_file import VectorFile
    from repe.runs import chosen as selection
    from repe.runs import planning as stages

    wanted = selection.concepts_and_languages(args)
    files = selection.result_files(args, chosen, wanted, VectorFile)
    pending = {
        concept: [language for language in languages if args.overwrite or language not in files[concept].vectors]
        for concept, languages in wanted.items()
    }
    return stages.plan(args, chosen, files, wanted, pending, "vectors")


def start() -> None:
    cli.run(main, cli.add_collection(cli.parser(__doc__)))


if __name__ == "__main__":
    start()
