#!/usr/bin/env python3
"""Stage 4: do concept vectors transfer between languages? (Section 3.4 of arXiv 2402.18120)

  python transferability_analysis.py --cross-model llama2-chat-7B,qwen-chat-7B,bloomz-7B1
  python transferability_analysis.py --model-name bloomz --model-size 560M
  python transferability_analysis.py --cross-model bloomz-560M,bloomz-7B1 --layer-select validation --bootstrap
  python transferability_analysis.py --cross-model bloomz-560M --cache-states STATES --data-dir data

Reads the accuracies of stage 2 and writes the accuracy of each language's vectors on each other language, minus that of
the other language's own vectors (Figures 5 and 8), and one_way_transfer.csv: is there more transfer from high- to
low-resource languages than the reverse? Without --cross-model, for the one model that the options name. --layer-select
also reports layers that were not chosen on the test set; --bootstrap adds 95 % intervals. --cache-states (of stages 1
and 2) adds learned transfer: the vectors after a rotation between the two languages' states, fitted on 1, 4, 16 or all
of the training items that both have (transfer_learned).
"""

import argparse
from typing import TYPE_CHECKING

from repe.runs import arguments as options

if TYPE_CHECKING:
    from pathlib import Path

    from repe.results.accuracy_file import AccuracyFile
    from repe.runs.comparison import Compared

LEARNED = "transfer_learned"
HEAT_MAPS = {"7b": "figure5_transfer_7b", "all": "figure8_transfer_all"}


def main(args: argparse.Namespace) -> None:
    options.refuse(args, () if args.cache_states else (options.DATA,), "without --cache-states")
    # Imported here, since these take seconds and --help does not need them.
    import pandas as pd

    from repe.analysis.layer_selection import PAPER, selections, side_by_side
    from repe.analysis.transfer import delta_draws, one_way_table, transfer_table, with_intervals
    from repe.plots import figures, tables
    from repe.plots.style import save
    from repe.results.accuracy_file import AccuracyFile
    from repe.runs import comparison, printed

    compared, out_dir = comparison.open_models(args, AccuracyFile), comparison.out_dir(args)
    transfer, one_way = {}, {}
    for selection in selections(args.layer_select):
        deltas, one_way_rows = [], []
        for model, files in compared.files.items():
            languages = compared.languages_of(model)
            delta = transfer_table(model, files, languages, selection)
            drawn = None
            if args.bootstrap:
                drawn = delta_draws(files, languages, selection, args.bootstrap, args.seed)
                delta = with_intervals(delta, drawn)
            deltas.append(delta)
            one_way_rows.append(one_way_table(model, compared.families[model], files, languages, drawn, selection))
        transfer[selection], one_way[selection] = pd.concat(deltas), pd.concat(one_way_rows)

    written = tables.write_csv(side_by_side(transfer), out_dir, "transfer")
    written += tables.write_csv(side_by_side(one_way), out_dir, "one_way_transfer")
    for selection, table in transfer.items():
        for panels, families in compared.panels.items():
            figure = figures.transfer_heat_maps(table, families)
            written += save(figure, out_dir, f"{HEAT_MAPS[panels]}{selection.suffix}")
    options.print_written(written + (learned(args, compared, out_dir) if args.cache_states else []))
    print(printed.between_languages(transfer[PAPER], "delta", "accuracy minus that of the target's own vectors"))
    print(printed.one_way(one_way[PAPER]))
    compared.unknown_high_resource("one-way transfer")


def learned(args: argparse.Namespace, compared: "Compared[AccuracyFile]", out_dir: "Path") -> "list[Path]":
    """Transfer after a map between the languages' states, beside that of a map of shuffled items."""
    import pandas as pd
    from tqdm import tqdm

    from repe.analysis.learned_transfer import learned_table
    from repe.plots import tables
    from repe.plots.item_figures import learned_transfer
    from repe.plots.style import save
    from repe.runs import comparison, printed
    from repe.runs.cached_differences import languages_with_states

    found = []
    for model, by_concept in comparison.vector_files(args, compared).items():
        names = compared.languages_of(model)
        progress = tqdm(by_concept.items(), desc=f"learned transfer of {model}", unit="concept")
        concepts = ((concept, languages_with_states(args, file, names)) for concept, file in progress)
        found.append(learned_table(model, concepts, args.seed))
    table = pd.concat(found)
    print(printed.learned(table))
    return tables.write_csv(table, out_dir, LEARNED) + save(learned_transfer(table), out_dir, LEARNED)


def parser() -> options.Parser:
    subject = (
        options.SUBJECT,
        options.DATA,
        options.CACHE,
        options.METHOD,
        options.SEED,
        options.MODEL,
        options.RESULTS,
    )
    return options.Parser(__doc__, *subject, options.COMPARISON, options.HIGH_RESOURCE, options.BOOTSTRAP)


def start() -> None:
    options.run(main, parser())


if __name__ == "__main__":
    start()
