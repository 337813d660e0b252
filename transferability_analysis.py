#!/usr/bin/env python3
"""Stage 4: do concept vectors transfer between languages? (Section 3.4 of arXiv 2402.18120)

  python transferability_analysis.py --cross-model llama2-chat-7B,qwen-chat-7B,bloomz-7B1
  python transferability_analysis.py --model-name bloomz --model-size 560M
  python transferability_analysis.py --cross-model bloomz-560M,bloomz-7B1 --layer-select validation --bootstrap

Reads the accuracies of stage 2 and writes what each language's vectors gain or lose on each other language, against
that language's own vectors (Figures 5 and 8). Without --cross-model, for the one model that the options name.
With --layer-select also for layers that were not chosen on the test set; with --bootstrap with 95 % intervals, and
one_way_transfer.csv: is there more transfer from high- to low-resource languages than back?
"""

import argparse

from repe.runs import arguments as cli

HEAT_MAPS = {"7b": "figure5_transfer_7b", "all": "figure8_transfer_all"}


def main(args: argparse.Namespace) -> None:
    import pandas as pd

    from repe.analysis.layer_selection import selections, side_by_side
    from repe.analysis.transfer import delta_draws, one_way_table, transfer_table, with_intervals
    from repe.plots import figures, tables
    from repe.plots import style as print_style
    from repe.results.accuracy_file import AccuracyFile
    from repe.runs import compare as comparison

    compared = comparison.open_models(args, AccuracyFile)
    found, one_way = {}, {}
    for selection in selections(args):
        transfer, numbers = [], []
        for model, files in compared.files.items():
            languages = compared.languages_of(model)
            transfer.append(transfer_table(model, files, languages, selection))
            if args.bootstrap:
                drawn = delta_draws(files, languages, selection, args.bootstrap, args.seed)
                transfer[-1] = with_intervals(transfer[-1], drawn)
                numbers.append(one_way_table(model, compared.families[model], files, languages, drawn, selection))
        found[selection] = pd.concat(transfer)
        if numbers:
            one_way[selection] = pd.concat(numbers)

    out_dir = comparison.out_dir(args)
    written = tables.write_csv(side_by_side(found), out_dir, "transfer")
    if one_way:
        written += tables.write_csv(side_by_side(one_way), out_dir, "one_way_transfer")
    for selection, table in found.items():
        for models, families in compared.panels.items():
            figure = figures.transfer_heat_maps(table, families)
            written += print_style.save(figure, out_dir, f"{HEAT_MAPS[models]}{selection.suffix}")
    cli.report_files(written)


def start() -> None:
    parser = cli.parser(__doc__, cross_model=True)
    cli.add_bootstrap(parser)
    cli.run(main, parser)


if __name__ == "__main__":
    start()
