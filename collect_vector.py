#!/usr/bin/env python3
"""Stage 1: collect concept vectors (Section 3.1 of arXiv 2402.18120).

  python collect_vector.py --lang en fr zh --concept morality fairness --model-name llama2-chat --model-size 7B
  python collect_vector.py --lang en fr --concept morality --model-path PATH_OF_ANY_TRANSFORMERS_MODEL

Reads <data-dir>/<concept>/<concept>_<lang>.json and writes <res-dir>/<model>/<concept>/reader_dict.pt, a language at a
time. Languages that are there already stay as they are.
"""

import argparse

from repe import cli


def main(args: argparse.Namespace) -> None:
    from repe import selection, stages
    from repe.collection import collect
    from repe.results import VectorFile

    chosen = selection.model(args)
    wanted = selection.concepts_and_languages(args)
    files = selection.result_files(args, chosen, wanted, VectorFile)
    pending = {
        concept: [language for language in languages if args.overwrite or language not in files[concept].vectors]
        for concept, languages in wanted.items()
    }
    # Whatever may be wrong with the input is found before a model is loaded.
    splits = stages.read_splits(args, wanted, pending)
    meta = stages.checked_meta(args, chosen, files, pending, splits)
    if not stages.anything(pending, files, "vectors"):
        return
    model = chosen.load()
    for concept, language in stages.progress(pending, "collecting"):
        entry = collect(model, splits[concept, language], concept, language, args)
        digests = {"data": {language: splits[concept, language].sha256}}
        files[concept].add(meta | digests, model.layers, {"languages": {language: entry}}, args.overwrite)
    stages.report(pending, files, "vectors")


def start() -> None:
    cli.run(main, cli.parser(__doc__))


if __name__ == "__main__":
    start()
