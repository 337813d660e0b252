#!/usr/bin/env python3
"""Stage 2: recognize concepts with the vectors of every language (Sections 3.2 and 3.4 of arXiv 2402.18120).

  python recognize_concept.py --lang en fr zh --concept morality fairness --model-name llama2-chat --model-size 7B
  python recognize_concept.py --lang en fr --model-name llama2-chat --model-size 7B --vectors-from res --data-dir OTHER
  python recognize_concept.py --cross-model llama2-chat-7B,qwen-chat-7B,bloomz-7B1
  python recognize_concept.py --cross-model bloomz-560M,bloomz-7B1 --layer-select validation --bootstrap --permutations

Without --cross-model, reads the vectors of stage 1 and the test pairs and writes <res-dir>/<model>/<concept>/acc.pt:
the accuracy of each language's vectors (source) on each language's pairs (target); `accelerate launch --multi_gpu`
divides the work. With --vectors-from, tests vectors of one data folder on all pairs of another one, and writes to
<res-dir>/<model>-on-<OTHER>. With --cross-model, draws Figure 2 and writes Table 6 from such files.
"""

import argparse
from typing import TYPE_CHECKING

from repe.runs import arguments as options

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np
    import torch

    from repe.results.accuracy_file import AccuracyFile
    from repe.runs.comparison import Compared
    from repe.runs.stage import Task

FIGURE = "figure2_recognition_accuracy"
# Options that have an effect without --cross-model only, and with it only.
RUNNING = (
    options.DATA,
    options.MODEL,
    options.UNTRAINED,
    options.RUNNING,
    options.CACHE,
    options.NULLS,
    options.OVERWRITE,
    options.VALIDATION,
    options.VECTORS_FROM,
)
COMPARING = (
    options.COMPARISON,
    options.FLOORS,
    options.BOOTSTRAP,
    options.permutations("test against --random-direction vectors"),
)


def main(args: argparse.Namespace) -> None:
    if args.cross_model:
        used = ["--model-family", *(["--data-dir"] if args.floors else [])]
        options.refuse(args, RUNNING, "with --cross-model", except_for=used)
        compare(args)
    else:
        options.refuse(args, COMPARING, "without --cross-model")
        if args.folds:  # the labels of test pairs are those of training pairs of other folds
            options.refuse(args, (options.NULLS,), "with --folds")
        if args.vectors_from:  # the training pairs are in another folder
            options.refuse(args, (options.NULLS, options.VALIDATION), "with --vectors-from")
        recognize(args)


def recognize(args: argparse.Namespace) -> None:
    # Imported here, since PyTorch and Transformers take seconds and --help needs neither.
    from repe.analysis.recognition import correct_pairs, correct_pairs_by_fold, pair_states
    from repe.data import folds_of
    from repe.runs import stage
    from repe.vectors.concept_vectors import fitted_on

    for task in stage.targets_to_recognize(args):
        validating = {} if args.no_validation else {s: v.validation for s, v in task.sources.items() if v.validation}
        held_out = task.train[fitted_on(len(task.train)) :] if validating else []
        states = pair_states(task.model, [*task.test, *held_out])
        # A pair is right where the positive text has the larger projection on the source language's vector.
        if args.folds and not args.vectors_from:
            correct = correct_pairs_by_fold(task.sources, states, folds_of(task.test, args.folds))
        else:
            correct = correct_pairs(task.sources, states[:, : len(task.test)])
        validation = correct_pairs(validating, states[:, len(task.test) :]) if held_out else {}
        # Nulls, and detection of single texts, where the states of the training texts are there.
        more = beside_accuracy(args, task, states[:, : len(task.test)], correct) if task.training else {}
        task.file.save(task.language, task.test, correct, validation, task.meta, args.overwrite, more)


def beside_accuracy(
    args: argparse.Namespace, task: "Task", tested: "torch.Tensor", correct: "Mapping[str, np.ndarray]"
) -> "dict[str, dict[str, dict[str, np.ndarray]]]":
    """Nulls of swapped labels and detection of single texts, by table, source and part."""
    from repe.uncertainty.detection import detection
    from repe.uncertainty.swaps import nulls

    trainings = {source: task.training[source] for source in task.sources if source in task.training}
    more = {"detection": detection(task.sources, tested, trainings, task.training[task.language])}
    if args.direction_method == "cluster_mean" and not args.random_direction:
        more["nulls"] = nulls(tested, trainings, correct, f"{task.concept}|{args.seed}", task.language)
    return more


def compare(args: argparse.Namespace) -> None:
    """Figure 2 and Table 6: accuracy in each language with its own vectors."""
    from repe.analysis import accuracy_table
    from repe.analysis.layer_selection import PAPER, selections, side_by_side
    from repe.plots import figures, tables
    from repe.plots.style import save
    from repe.results.accuracy_file import AccuracyFile
    from repe.runs import comparison, printed

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
    options.print_written(written + beside_accuracies(args, compared, out_dir))
    print(printed.table6(found[PAPER]))


def beside_accuracies(args: argparse.Namespace, compared: "Compared[AccuracyFile]", out_dir: "Path") -> "list[Path]":
    """Nulls, floors and detection, as far as the files have them."""
    from repe.plots import floor_figures, tables
    from repe.plots.style import save
    from repe.runs import floor_inputs
    from repe.uncertainty import floors
    from repe.uncertainty.detection import detection_table

    files, languages = compared.files, compared.languages
    twins = floor_inputs.untrained_files(args, compared)
    written = []
    if args.floors:
        texts = floor_inputs.text_floors(args, compared)
        print(*floor_inputs.lacking(compared, twins, texts), sep="\n")
        table = floors.floor_table(files, languages, twins, texts)
        written += tables.write_csv(table, out_dir, "floors")
        for model, rows in table.groupby("model", sort=False):
            written += save(floor_figures.floor_panels(rows), out_dir, f"floors_{model}")
    if len(nulls := floors.null_table(files, languages)):
        by_layer = floors.layer_table(files, languages, twins)
        written += tables.write_csv(nulls, out_dir, "nulls") + tables.write_csv(by_layer, out_dir, "accuracy_by_layer")
        for model, rows in by_layer.groupby("model", sort=False):
            written += save(floor_figures.accuracy_by_layer(rows), out_dir, f"accuracy_by_layer_{model}")
    if len(detected := detection_table(files, languages, twins)):
        written += tables.write_csv(detected, out_dir, "detection")
        families = {model: family for model, family in compared.families.items() if model in {*detected["model"]}}
        for column in ("auroc", "calibration_gap"):
            figure = floor_figures.detection_heat_maps(detected, families, column)
            written += save(figure, out_dir, f"detection_{column}")
    return written


def parser() -> options.Parser:
    return options.Parser(__doc__, options.SUBJECT, options.METHOD, options.SEED, options.RESULTS, *RUNNING, *COMPARING)


def start() -> None:
    options.run(main, parser())


if __name__ == "__main__":
    start()
