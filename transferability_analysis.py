#!/usr/bin/env python3
"""Stage 4: do concept vectors transfer between languages? (Section 3.4 of arXiv 2402.18120)

  python transferability_analysis.py --cross-model llama2-chat-7B,qwen-chat-7B,bloomz-7B1
  python transferability_analysis.py --model-name bloomz --model-size 560M

Reads the accuracies of stage 2 and writes what each language's vectors gain or lose on each other language, against
that language's own vectors (Figures 5 and 8). Without --cross-model, for the one model that the options name.
"""

import argparse

from repe import cli

HEAT_MAPS = {"7b": "figure5_transfer_7b", "all": "figure8_transfer_all"}


def main(args: argparse.Namespace) -> None:
    import pandas as pd

    from repe import comparison, figures, print_style, tables
    from repe.results import AccuracyFile
    from repe.transfer import transfer_table

    compared = comparison.open_models(args, AccuracyFile)
    transfer = pd.concat(
        transfer_table(model, files, compared.languages_of(model)) for model, files in compared.files.items()
    )
    out_dir = comparison.out_dir(args)
    written = tables.write_csv(transfer, out_dir, "transfer")
    for models, families in compared.panels.items():
        written += print_style.save(figures.transfer_heat_maps(transfer, families), out_dir, HEAT_MAPS[models])
    cli.report_files(written)


def start() -> None:
    cli.run(main, cli.parser(__doc__, cross_model=True))


if __name__ == "__main__":
    start()
