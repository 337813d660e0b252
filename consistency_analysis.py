#!/usr/bin/env python3
"""Stage 3: are concept vectors consistent across languages? (Section 3.3 of arXiv 2402.18120)

  python consistency_analysis.py --cross-model llama2-chat-7B,qwen-chat-7B,bloomz-7B1
  python consistency_analysis.py --model-name bloomz --model-size 560M
  python consistency_analysis.py --cross-model llama2-chat-7B,qwen-chat-7B,bloomz-7B1 --distances repaired
  python consistency_analysis.py --cross-model llama2-chat-7B,qwen-chat-7B --layer-select validation --permutations
  python consistency_analysis.py --cross-model llama2-chat-7B,qwen-chat-7B --similarity rsa,angles
  python consistency_analysis.py --cross-model llama2-chat-7B,qwen-chat-7B --linguistic-distances lang_sim.pt

Reads the vectors of stage 1 and writes their similarity between languages (Figures 4 and 7), the similarity in each
layer, and its correlation with linguistic similarity (Table 1). Without --cross-model, for the one model that the
options name. --distances repaired also writes Table 1 with repaired distances (see lang2vec_try.ipynb) and the
difference; --linguistic-distances takes a file of your own. --layer-select also reports layers that were not chosen for
their similarity. --permutations adds p-values to Table 1, --similarity tables with other measures of similarity.
"""

import argparse
from typing import TYPE_CHECKING

from repe.constants import SIMILARITIES
from repe.runs import arguments as options

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np

    from repe.results.vector_file import VectorFile
    from repe.runs.comparison import Compared

DISTANCES = {
    "linguistic distance": {
        "--distances": {
            "choices": ("recorded", "repaired"),
            "default": "recorded",
            "metavar": "KIND",
            "help": "recorded (as released), or repaired: also a repaired Table 1 (default: recorded)",
        },
        "--linguistic-distances": {
            "type": options.Path,
            "metavar": "FILE",
            "help": "your own distances: a CSV, or a file such as lang_sim.pt",
        },
    }
}
# Of ceilings, and of --similarity cka and procrustes.
STATES = (options.DATA, options.CACHE)
HEAT_MAPS = {"7b": "figure4_similarity_7b", "all": "figure7_similarity_all"}


def main(args: argparse.Namespace) -> None:
    if not args.cache_states:
        options.refuse(args, (options.DATA,), "without --cache-states")
    if args.linguistic_distances:
        options.refuse(args, [DISTANCES], "with --linguistic-distances", except_for=["--linguistic-distances"])
    # Imported here, since these take seconds and --help does not need them.
    import pandas as pd

    from repe.analysis import consistency, linguistic_distance
    from repe.analysis.layer_selection import PAPER, selections, side_by_side
    from repe.plots import figures, tables
    from repe.plots.style import save
    from repe.results.vector_file import VectorFile
    from repe.runs import comparison, printed

    compared, out_dir = comparison.open_models(args, VectorFile), comparison.out_dir(args)
    languages = {model: compared.languages_of(model) for model in compared.files}
    source = args.linguistic_distances or "recorded"
    cosines = {model: consistency.cosines(files, languages[model]) for model, files in compared.files.items()}

    # The similarity of two languages: the mean over concepts of the best layer's cosine.
    similarity, table1, repaired = {}, {}, {}
    for selection in selections(args.layer_select):
        models = {}
        for model, files in compared.files.items():
            layers = selection.similarity_layers(cosines[model], files, languages[model])
            means = consistency.best_layer_similarity(cosines[model], layers)
            models[model] = (compared.families[model], languages[model], means)
        similarity[selection] = pd.concat(
            consistency.similarity_table(model, names, means) for model, (_, names, means) in models.items()
        )
        table1[selection] = consistency.table1(models, args.permutations, args.seed, source)
        if args.distances == "repaired":
            repaired[selection] = consistency.table1(models, args.permutations, args.seed, "repaired")

    written = tables.write_csv(side_by_side(similarity), out_dir, "similarity")
    written += tables.write_table1(table1, out_dir)
    used = linguistic_distance.distances(compared.languages, args.linguistic_distances or args.distances).reset_index()
    if (used["source"] != "recorded").any():
        written += tables.write_csv(used, out_dir, "linguistic_distances")
    if repaired:
        written += tables.write_table1(repaired, out_dir, repaired=True)
    for selection, table in similarity.items():
        for panels, families in compared.panels.items():
            figure = figures.similarity_heat_maps(table, families)
            written += save(figure, out_dir, f"{HEAT_MAPS[panels]}{selection.suffix}")

    written += across_layers(compared, cosines, out_dir)
    written += further_measures(args, compared, out_dir)
    options.print_written(written)
    print(printed.between_languages(similarity[PAPER], "similarity", "similarity of concept vectors (cosine)"))
    print(printed.table1(table1[PAPER]))
    for language, reason in linguistic_distance.unknown_languages(compared.languages, source).items():
        print(f"{language} is left out of Table 1: {reason}")
    compared.unknown_high_resource("Split of Table 1")


def across_layers(
    compared: "Compared[VectorFile]", cosines: "Mapping[str, np.ndarray]", out_dir: "Path"
) -> "list[Path]":
    """The similarity in each layer, over the languages that all families share."""
    import pandas as pd

    from repe.analysis import consistency
    from repe.paper import SHARED_LANGUAGES
    from repe.plots import figures, tables
    from repe.plots.style import save

    shared = [language for language in SHARED_LANGUAGES if language in compared.languages]
    if len(shared) < 2:
        print("no similarity across layers: this needs at least two of the shared languages", *SHARED_LANGUAGES)
        return []
    by_layer = []
    for model, cosine in cosines.items():
        at = [compared.languages_of(model).index(language) for language in shared]
        by_layer.append(consistency.similarity_by_layer(model, cosine[:, :, at][..., at]))
    layers = pd.concat(by_layer)
    written = tables.write_csv(layers, out_dir, "similarity_by_layer")
    return written + save(
        figures.similarity_across_layers(layers, compared.families), out_dir, "similarity_across_layers"
    )


def further_measures(args: argparse.Namespace, compared: "Compared[VectorFile]", out_dir: "Path") -> "list[Path]":
    """Ceilings of the similarities, and heat maps and Table 1 with other measures of similarity."""
    import pandas as pd

    from repe.analysis import consistency
    from repe.plots import figures, tables
    from repe.plots.style import save
    from repe.runs.similarity import half_cosines, measured

    ceilings = [
        consistency.ceiling_table(model, files, languages, half_cosines(args, files, languages))
        for model, files in compared.files.items()
        for languages in [compared.languages_of(model)]
    ]
    written = []
    if len(table := pd.concat(ceilings)):
        written += tables.write_csv(table, out_dir, "similarity_ceilings")
    for measure in args.similarity:
        similarity, models = measured(args, compared, measure)
        written += tables.write_csv(similarity, out_dir, f"similarity_{measure}")
        figure = figures.similarity_heat_maps(similarity, compared.families, SIMILARITIES[measure])
        written += save(figure, out_dir, f"similarity_{measure}")
        source = args.linguistic_distances or "recorded"
        table1 = consistency.table1(models, args.permutations, args.seed, source)
        written += tables.write_csv(table1, out_dir, f"{tables.TABLE_1}_{measure}")
    return written


def parser() -> options.Parser:
    subject = (options.SUBJECT, *STATES, options.METHOD, options.SEED, options.MODEL, options.RESULTS)
    p_values = options.permutations("Mantel's test of Table 1, two-sided,")
    return options.Parser(
        __doc__, *subject, options.COMPARISON, options.HIGH_RESOURCE, DISTANCES, options.SIMILARITY, p_values
    )


def start() -> None:
    options.run(main, parser())


if __name__ == "__main__":
    start()
