"""Damage a share of the training texts: how do vectors and accuracies change, and in which languages first?

  python -m repe noise --model-path PATH_OR_HUB_ID --kind swap drop --share 0:0.5
  python -m repe noise --model-path PATH_OR_HUB_ID --kind mislabel mix --share 0:0.5 --folds 5 --cache-states STATES

Kinds: `swap` exchanges neighbouring characters (a fifth of a text's), `drop` deletes a quarter of its words, `mislabel`
exchanges the sides of a pair, `mix` takes the item in another language. Only the pairs that all languages have are
used; test pairs are never damaged. Writes noise.csv and a figure to <res-dir>/<model>: accuracy with damaged items
beside that without these items, and that of random labels.
"""

import argparse

from repe.errors import UserError
from repe.runs import arguments as options

STEPS = 6
KINDS = ("swap", "drop", "mislabel", "mix")


def shares(text: str) -> tuple[float, ...]:
    """The type of `--share`: `0:0.5` is 0, 0.1, ... 0.5."""
    first, _, last = text.partition(":")
    what = "two shares from 0 to below 1, such as 0:0.5"
    ends = [options.finite_number(end, lambda value: 0 <= value < 1, what) for end in (first, last)]
    if ends[0] >= ends[1]:
        raise argparse.ArgumentTypeError(f"{text!r} must be {what}, the smaller one first")
    return tuple(round(ends[0] + (ends[1] - ends[0]) * step / (STEPS - 1), 4) for step in range(STEPS))


SPLIT = {"method": {name: options.METHOD["method"][name] for name in ("--split", "--split-by", "--folds")}}
NOISE = {
    "noise": {
        "--kind": {**options.NAMES, "default": KINDS, "metavar": "KIND", "help": "swap, drop, mislabel, mix"},
        "--share": {
            "type": shares,
            "default": "0:0.5",
            "metavar": "FIRST:LAST",
            "help": "shares of damaged training items, in six steps (default: 0:0.5)",
        },
    }
}


def main(args: argparse.Namespace) -> None:
    if unknown := [kind for kind in args.kind if kind not in KINDS]:
        raise UserError(f"--kind {' '.join(unknown)} does not exist: choose from {', '.join(KINDS)}")
    # Imported here because they take seconds.
    import pandas as pd

    from repe.plots import tables
    from repe.plots.item_figures import noise_panels
    from repe.plots.style import save
    from repe.runs import stage
    from repe.tools.noise.effects import effects, summary
    from repe.tools.noise.states import shared_items

    source = stage.model_source(args)
    folder = args.out_dir or options.results_folder(args, source.label)
    cells = []
    for concept, items in shared_items(args, source):
        print(f"{concept}: {len(items.names)} items that all {len(items.languages)} languages have", flush=True)
        cells += [cell for kind in args.kind for cell in effects(items, kind, args.share, args.seed)]
    table = pd.DataFrame(summary(source.label, cells))
    written = tables.write_csv(table, folder, "noise") + save(noise_panels(table), folder, "noise")
    options.print_written(written)
    print(as_text(table))


def as_text(table: object) -> str:
    """The accuracies at the largest share, mean over concepts and languages."""
    import pandas as pd

    from repe.runs.printed import matrix
    from repe.uncertainty.bootstrap import ALL

    assert isinstance(table, pd.DataFrame)
    means = table[(table["concept"] == ALL) & (table["language"] == ALL)]
    columns = ["accuracy", "left_out", "random_labels", "cosine", "cosine_left_out"]
    rows = means.assign(row=means["kind"] + " " + means["share"].map("{:.2f}".format)).set_index("row")[columns]
    return f"mean over concepts and languages, by kind and share of damaged items\n{matrix(rows)}"


def start() -> None:
    groups = (options.SUBJECT, options.DATA, SPLIT, options.SEED, options.MODEL, options.UNTRAINED)
    parser = options.Parser(__doc__, NOISE, *groups, options.RUNNING, options.CACHE, options.RESULTS)
    parser.add_argument("--out-dir", type=options.Path, metavar="DIR", help="folder (default: RES_DIR/MODEL)")
    options.run(main, parser)
