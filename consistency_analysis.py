#!/usr/bin/env python3
"""Stage 3: are concept vectors consistent across languages? (Section 3.3 of arXiv 2402.18120)

  python consistency_analysis.py --cross-model llama2-chat-7B,qwen-chat-7B,bloomz-7B1
  python consistency_analysis.py --model-name bloomz --model-size 560M
  python consistency_analysis.py --cross-model llama2-chat-7B,qwen-chat-7B,bloomz-7B1 --distances repaired
  python consistency_analysis.py --cross-model llama2-chat-7B,qwen-chat-7B --layer-select validation --permutations

Reads the vectors of stage 1 and writes the similarity of languages (Figures 4 and 7), its course over the layers, and
its correlation with linguistic distance (Table 1). Without --cross-model, for the one model that the options name.
With --distances repaired, Table 1 is also written with those distances (lang2vec_try.ipynb), and what they change.
With --layer-select also for layers that were not chosen for their similarity; with --permutations with p-values of
Table 1.
"""

import argparse

from repe.runs import arguments as cli

HEAT_MAPS = {"7b": "figure4_similarity_7b", "all": "figure7_similarity_all"}


def main(args: argparse.Namespace) -> None:
    import pandas as pd

    from repe.analysis import consistency
    from repe.analysis.layer_selection import selections, side_by_side
    from repe.paper import SHARED_LANGUAGES
    from repe.plots import figures, tables
    from repe.plots import style as print_style
    from repe.results.vector_file import VectorFile
    from repe.runs import compare as comparison

    compared = comparison.open_models(args, VectorFile)
    shared = [language for language in SHARED_LANGUAGES if language in compared.languages]
    models = {model: (compared.families[model], compared.languages_of(model)) for model in compared.files}
    cosines = {model: consistency.cosines(compared.files[model], models[model][1]) for model in models}
    similarity, table1, repaired = {}, {}, {}
    for selection in selections(args):
        means = {}
        for model, (family, languages) in models.items():
            layers = selection.similarity_layers(cosines[model], compared.files[model], languages)
            means[model] = (family, languages, consistency.best_layer_similarity(cosines[model], layers))
        similarity[selection] = pd.concat(
            consistency.similarity_table(model, languages, mean) for model, (_, languages, mean) in means.items()
        )
        table1[selection] = consistency.table1(means, args.permutations, args.seed)
        if args.distances == "repaired":
            repaired[selection] = consistency.table1(means, args.permutations, args.seed, repaired=True)

    out_dir = comparison.out_dir(args)
    written = tables.write_csv(side_by_side(similarity), out_dir, "similarity")
    written += tables.write_table1(table1, out_dir)
    if repaired:
        written += tables.write_repaired_table1(repaired, out_dir)
    for selection, table in similarity.items():
        for panels, families in compared.panels.items():
            figure = figures.similarity_heat_maps(table, families)
            written += print_style.save(figure, out_dir, f"{HEAT_MAPS[panels]}{selection.suffix}")
    if len(shared) > 1:
        by_layer = []
        for model, (_, languages) in models.items():
            at = [languages.index(language) for language in shared]
            by_layer.append(consistency.similarity_by_layer(model, cosines[model][:, :, at][..., at]))
        layers = pd.concat(by_layer)
        written += tables.write_csv(layers, out_dir, "similarity_by_layer")
        figure = figures.similarity_across_layers(layers, compared.families)
        written += print_style.save(figure, out_dir, "similarity_across_layers")
    else:
        print("no similarity across layers: it takes two of the languages that the families share,", *SHARED_LANGUAGES)
    cli.report_files(written)


def start() -> None:
    parser = cli.parser(__doc__, cross_model=True)
    cli.add_permutations(parser, "Mantel's test of Table 1, two-sided")
    parser.add_argument_group("linguistic distance").add_argument(
        "--distances",
        choices=("recorded", "repaired"),
        default="recorded",
        help="as the released code recorded them; or Table 1 also with the faulty ones repaired (default: recorded)",
    )
    cli.run(main, parser)


if __name__ == "__main__":
    start()
