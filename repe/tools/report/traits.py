"""Answer the paper's questions in numbers, beside what the paper says of large models.

  python -m repe traits --cross-model llama2-chat-7B,qwen-chat-7B,bloomz-7B1
  python -m repe traits --cross-model my-model-1B,my-model-3B --high-resource en zh --shares shares.csv

Are languages with more pre-training text recognized better, and larger models better? Are vectors more similar among
high-resource languages, do they follow linguistic relations, and is transfer one-way? Reads vectors and accuracies,
also released downloads (.pk); loads no model. Writes traits.csv, figure_traits, and the languages' shares that it used,
training_shares.csv. With results of your own, 95 % intervals over test items.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from repe.constants import DRAWS
from repe.errors import UserError
from repe.runs import arguments as options

if TYPE_CHECKING:
    import pandas as pd

    from repe.paper import Family

NAME, SHARES_NAME = "traits", "training_shares"
SHARE_COLUMNS = ("model", "language", "percent", "source")
COMPARISON = {"comparison": {name: options.COMPARISON["comparison"][name] for name in ("--cross-model", "--out-dir")}}
SHARES = {
    "comparison": {
        "--shares": {
            "type": Path,
            "metavar": "FILE",
            "help": f"CSV of languages' shares of the training text: {', '.join(SHARE_COLUMNS)}",
        }
    }
}


def main(args: argparse.Namespace) -> None:
    # Imported here because they take seconds.
    from repe.analysis.traits import findings, trait_table
    from repe.plots import tables
    from repe.plots.style import save
    from repe.plots.trait_figures import trait_panels
    from repe.results.accuracy_file import AccuracyFile
    from repe.results.vector_file import VectorFile
    from repe.runs import comparison, printed

    accuracies, vectors = comparison.open_models(args, AccuracyFile), comparison.open_models(args, VectorFile)
    languages = [language for language in accuracies.languages if language in vectors.languages]
    shares = shares_of(args.shares, accuracies.families)
    models = {}
    for model, files in accuracies.files.items():
        accuracies.languages_of(model)  # refuses a model without any
        family, known = accuracies.families[model], shares[shares["model"] == model].dropna(subset="percent")
        own = dict(zip(known["language"], known["percent"], strict=True))
        models[model] = findings(family, files, vectors.files[model], languages, own, args.bootstrap, args.seed)
    table, out_dir = trait_table(models), comparison.out_dir(args)
    written = tables.write_csv(table, out_dir, NAME) + tables.write_csv(shares, out_dir, SHARES_NAME)
    written += save(trait_panels(table, accuracies.families), out_dir, f"figure_{NAME}")
    options.print_written(written)
    print(printed.shares(shares, accuracies.families))
    print(printed.traits(table))
    accuracies.unknown_high_resource("what compares high-resource languages")


def shares_of(path: Path | None, families: "Mapping[str, Family]") -> "pd.DataFrame":
    """The languages' shares of the training text: those of `path` for the models in it, else the family's.

    Returns:
        Columns of SHARE_COLUMNS, by decreasing share; percent is NaN where only the order is known.

    Raises:
        UserError: the file is not such a table.
    """
    import pandas as pd

    from repe.tools.report.parts import read_table

    given = read_table(path, ["percent"], ["model", "language"]) if path else pd.DataFrame(columns=[*SHARE_COLUMNS])
    if not (given["percent"] > 0).all():
        raise UserError(f"{path}: percent must be above 0; leave out the languages whose share is not known")
    rows = [given.reindex(columns=[*SHARE_COLUMNS]).sort_values(["model", "percent"], ascending=[True, False])]
    for model, family in families.items():
        if model not in set(given["model"]):
            known = [(model, one, family.shares.get(one), family.source) for one in family.axis]
            rows.append(pd.DataFrame(known, columns=[*SHARE_COLUMNS]))
    table = pd.concat([one for one in rows if len(one)] or rows[:1])
    return table[table["model"].isin([*families])].astype({"percent": float})


def parser() -> options.Parser:
    groups = (options.SUBJECT, options.METHOD, options.SEED, options.MODEL, options.RESULTS)
    made = options.Parser(__doc__, *groups, COMPARISON, options.HIGH_RESOURCE, SHARES)
    made.set_defaults(bootstrap=DRAWS)
    return made


def start() -> None:
    options.run(main, parser())
