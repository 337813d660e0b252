#!/usr/bin/env python3
"""Stage 3: are concept vectors consistent across languages? (Section 3.3 of arXiv 2402.18120)

  python consistency_analysis.py --cross-model llama2-chat-7B,qwen-chat-7B,bloomz-7B1
  python consistency_analysis.py --model-name bloomz --model-size 560M

Reads the vectors of stage 1 and writes the similarity of languages (Figures 4 and 7), its course over the layers, and
its correlation with linguistic distance (Table 1). Without --cross-model, for the one model that the options name.
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
    similarity, by_layer, correlation = [], [], []
    for model, files in compared.files.items():
        languages = compared.languages_of(model)
        mean = consistency.best_layer_similarity(consistency.cosines(files, languages))
        similarity.append(consistency.similarity_table(model, languages, mean))
        correlation.append(consistency.linguistic_correlation(model, compared.families[model], languages, mean))
        if len(shared) > 1:
            by_layer.append(consistency.similarity_by_layer(model, consistency.cosines(files, shared)))

    out_dir = comparison.out_dir(args)
    written = tables.write_csv(pd.concat(similarity), out_dir, "similarity")
    written += tables.write_table1(pd.concat(correlation), out_dir)
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
    cli.run(main, cli.parser(__doc__, cross_model=True))


if __name__ == "__main__":
    start()
