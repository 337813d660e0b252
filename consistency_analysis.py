#!/usr/bin/env python3
"""Stage 3: are concept vectors consistent across languages? (Section 3.3 of arXiv 2402.18120)

  python consistency_analysis.py --cross-model llama2-chat-7B,qwen-chat-7B,bloomz-7B1
  python consistency_analysis.py --model-name bloomz --model-size 560M
  python consistency_analysis.py --cross-model llama2-chat-7B,qwen-chat-7B,bloomz-7B1 --distances repaired

Reads the vectors of stage 1 and writes the similarity of languages (Figures 4 and 7), its course over the layers, and
its correlation with linguistic distance (Table 1). Without --cross-model, for the one model that the options name.
With --distances repaired, Table 1 is also written with those distances (lang2vec_try.ipynb), and what they change.
"""

import argparse

from repe import cli

HEAT_MAPS = {"7b": "figure4_similarity_7b", "all": "figure7_similarity_all"}


def main(args: argparse.Namespace) -> None:
    import pandas as pd

    from repe import comparison, consistency, figures, print_style, tables
    from repe.paper import SHARED_LANGUAGES
    from repe.results import VectorFile

    compared = comparison.open_models(args, VectorFile)
    shared = [language for language in SHARED_LANGUAGES if language in compared.languages]
    similarity, by_layer, correlation, repaired = [], [], [], []
    for model, files in compared.files.items():
        languages = compared.languages_of(model)
        mean = consistency.best_layer_similarity(consistency.cosines(files, languages))
        similarity.append(consistency.similarity_table(model, languages, mean))
        correlation.append(consistency.linguistic_correlation(model, compared.families[model], languages, mean))
        if args.distances == "repaired":
            repaired.append(consistency.repaired_correlation(model, compared.families[model], languages, mean))
        if len(shared) > 1:
            by_layer.append(consistency.similarity_by_layer(model, consistency.cosines(files, shared)))

    out_dir = comparison.out_dir(args)
    written = tables.write_csv(pd.concat(similarity), out_dir, "similarity")
    written += tables.write_table1(pd.concat(correlation), out_dir)
    if repaired:
        written += tables.write_repaired_table1(pd.concat(repaired), out_dir)
    for models, families in compared.panels.items():
        written += print_style.save(
            figures.similarity_heat_maps(pd.concat(similarity), families), out_dir, HEAT_MAPS[models]
        )
    if by_layer:
        layers = pd.concat(by_layer)
        written += tables.write_csv(layers, out_dir, "similarity_by_layer")
        figure = figures.similarity_across_layers(layers, compared.families)
        written += print_style.save(figure, out_dir, "similarity_across_layers")
    else:
        print("no similarity across layers: it takes two of the languages that the families share,", *SHARED_LANGUAGES)
    cli.report_files(written)


def start() -> None:
    parser = cli.parser(__doc__, cross_model=True)
    parser.add_argument_group("linguistic distance").add_argument(
        "--distances",
        choices=("recorded", "repaired"),
        default="recorded",
        help="as the released code recorded them; or Table 1 also with the faulty ones repaired (default: recorded)",
    )
    cli.run(main, parser)


if __name__ == "__main__":
    start()
