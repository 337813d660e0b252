#!/usr/bin/env python3
"""Stage 1: collect concept vectors (Section 3.1 of arXiv 2402.18120).

  python collect_vector.py --lang en fr zh --concept morality fairness --model-name llama2-chat --model-size 7B
  python collect_vector.py --lang en fr --concept morality --model-path PATH_OR_HUB_ID

Reads <data-dir>/<concept>/<concept>_<lang>.json and writes <res-dir>/<model>/<concept>/reader_dict.pt, one language at
a time. Languages that are in the file already are kept. Several processes divide the work:

  accelerate launch --multi_gpu --num_processes 4 collect_vector.py --lang en fr zh --model-name bloomz --model-size 7B1
"""

import argparse

from repe.runs import arguments as options


def main(args: argparse.Namespace) -> None:
    # Imported here, since PyTorch and Transformers take seconds and --help needs neither.
    import repe
    from repe.runs import stage

    for task in stage.vectors_to_collect(args):
        # The difference between the mean hidden states of positive and negative texts, last token, layers 1 to N.
        vectors = repe.collect(
            *(task.model, task.train, args.direction_method),
            validation=not args.no_validation,
            seed=task.seed,
            folds=args.folds or 0,
        )
        task.file.save(task.language, vectors, task.meta, args.overwrite)


def parser() -> options.Parser:
    data = (options.SUBJECT, options.DATA, options.METHOD, options.SEED, options.VALIDATION)
    return options.Parser(
        __doc__,
        *data,
        options.MODEL,
        options.UNTRAINED,
        options.RUNNING,
        options.CACHE,
        options.RESULTS,
        options.OVERWRITE,
    )


def start() -> None:
    options.run(main, parser())


if __name__ == "__main__":
    start()
