#!/usr/bin/env python3
"""Stage 2: recognize concepts with the vectors of every language (Sections 3.2 and 3.4 of arXiv 2402.18120).

  python recognize_concept.py --lang en fr zh --concept morality fairness --model-name llama2-chat --model-size 7B
  python recognize_concept.py --cross-model llama2-chat-7B,qwen-chat-7B,bloomz-7B1
  python recognize_concept.py --cross-model bloomz-560M,bloomz-7B1 --layer-select validation --bootstrap --permutations

Without --cross-model, reads the vectors of stage 1 and the test pairs and writes <res-dir>/<model>/<concept>/acc.pt:
the accuracy of each language's vectors (source) on each language's pairs (target). Several processes divide the work:

  accelerate launch --multi_gpu --num_processes 4 recognize_concept.py --lang en fr zh --concept morality

With --cross-model, draws Figure 2 and writes Table 6 from such files.
"""

import argparse

from repe.runs import arguments as options

FIGURE = "figure2_recognition_accuracy"
ONLY_COMPARING = (options.COMPARISON, options.BOOTSTRAP, options.permutations(""))
ONLY_RUNNING = (options.DATA, options.MODEL, options.RUNNING, options.CACHE, options.OVERWRITE, options.VALIDATION)


def main(args: argparse.Namespace) -> None:
    if args.cross_model:
        compare(args)
    else:
        recognize(args)


def recognize(args: argparse.Namespace) -> None:
    # Imported here, since PyTorch and Transformers take seconds and --help needs neither.
    from repe.analysis.recognition import correct_pairs, pair_states
    from repe.runs import stage
    from repe.vectors.concept_vectors import fitted_on

    for task in stage.targets_to_recognize(args):
        validating = {} if args.no_validation else {s: v.validation for s, v in task.sources.items() if v.validation}
        held_out = task.train[fitted_on(len(task.train)) :] if validating else []
        states = pair_states(task.model, [*task.test, *held_out])
        # A pair is right where the positive text has the larger projection: (sources, layers, pairs).
        correct = correct_pairs(task.sources, states[:, : len(task.test)])
        validation = correct_pairs(validating, states[:, len(task.test) :]) if held_out else None
        keys = [pair.key for pair in task.test]
        task.file.save(
            task.language, [*task.sources], keys, correct, [*validating], validation, task.meta, args.overwrite
        )
