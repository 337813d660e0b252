"""One page with all figures and tables of an analysis: python -m repe.tools.report.page --res-dir res

Writes report.html into the folder of the figures and tables, which is <res-dir>/cross_model unless --out-dir names
another, such as a single model's. The page holds all it shows and loads nothing: figures, heat maps whose cells tell
their values, tables that can be sorted, replies of control where there are some, and what was run with which settings.
The same files give the same bytes.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from repe.errors import UserError
from repe.runs import arguments as cli

if TYPE_CHECKING:
    import pandas as pd

    from repe.tools.report.parts import Item, Section

NAME = "report.html"
TEMPLATE = "report.html.jinja"
TABLE6, TABLE1 = "table6_recognition_accuracy", "table1_linguistic_correlation"
# Of the tables that the page builds on, the columns of numbers and those that tell rows apart; more may follow.
KNOWN = {
    TABLE6: (["accuracy"], ["concept", "model", "language"]),
    "similarity": (["similarity"], ["model", "source", "target"]),
    "similarity_by_layer": (["layer", "relative_depth", "similarity"], ["model", "layer"]),
    TABLE1: (["direct", "split"], ["model", "distance"]),
    f"{TABLE1}_repaired": (["direct", "split", "direct_effect", "split_effect"], ["model", "distance"]),
    "transfer": (["accuracy", "delta"], ["model", "source", "target"]),
}
FIGURES = {
    "figure2": ["figure2_recognition_accuracy"],
    "layers": ["similarity_across_layers"],
    "similarity": ["figure4_similarity_7b", "figure7_similarity_all"],
    "transfer": ["figure5_transfer_7b", "figure8_transfer_all"],
}
EVERY_ROW = "Every row of {name}.csv"


def main(args: argparse.Namespace) -> None:
    from repe.files import write_whole

    out_dir = args.out_dir or args.res_dir / "cross_model"
    page = render(args.res_dir, out_dir).encode()
    path = write_whole(out_dir / NAME, lambda file: file.write(page))
    print(f"wrote {path} ({len(page) / 2**20:.1f} MiB)")


def render(res_dir: Path, out_dir: Path) -> str:
    """The page.

    Args:
        res_dir: results folder, where the settings and the control of the models shown are.
        out_dir: folder of the figures and tables.

    Raises:
        UserError: there is nothing to show, or a file is damaged.
    """
    import jinja2

    from repe.tools.report import run_records as report_runs
    from repe.tools.report.parts import read_table

    frames = {path.stem: read_table(path, *KNOWN.get(path.stem, ())) for path in sorted(out_dir.glob("*.csv"))}
    models = models_of(frames, res_dir, out_dir)
    sections = [
        *(recognition(frames, out_dir), consistency(frames, out_dir), transfer(frames, out_dir)),
        *(report_runs.control(res_dir, models), further(frames, out_dir)),
    ]
    if not any(section.items for section in sections):
        raise UserError(
            f"no figures or tables in {out_dir}: run recognize_concept.py, consistency_analysis.py or "
            "transferability_analysis.py first, or name the folder of theirs with --out-dir"
        )
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(TEMPLATE).render(
        folder=out_dir.resolve().name,
        models=models,
        sections=[section for section in [*sections, report_runs.settings(res_dir, models)] if section.items],
    )


def models_of(frames: Mapping[str, "pd.DataFrame"], res_dir: Path, out_dir: Path) -> list[str]:
    """The models that the tables name, in their order; else the one whose folder it is."""
    named = [model for frame in frames.values() if "model" in frame for model in frame["model"]]
    own = [out_dir.resolve().name] if out_dir.resolve().parent == res_dir.resolve() else []
    own = [name for name in own if any(out_dir.glob("*/*.p[tk]"))]
    # The order of the tables that the page knows counts, since others may be sorted in ways of their own.
    known = [model for stem in KNOWN if stem in frames for model in frames[stem]["model"]]
    return list(dict.fromkeys([*known, *named, *own]))


def recognition(frames: Mapping[str, "pd.DataFrame"], out_dir: Path) -> "Section":
    """Stage 2: Figure 2 and Table 6."""
    from repe.tools.report.parts import Item, Section, images, table_of, wide_table

    items = []
    if figure := images(_paths(out_dir, "figure2"), "Bars of accuracy by language and model, as in Table 6's means"):
        caption = (
            "How often each model's vectors tell a text that agrees with a value from one that violates it, by "
            "language: mean over the concepts of the best layer. Higher is better; the dotted line is chance."
        )
        items.append(Item("Figure 2: recognition accuracy", caption, figure))
    if TABLE6 in frames:
        frame = frames[TABLE6]
        tables = [
            wide_table(rows, "language", "accuracy", f"{concept}, percent", percent=True)
            for concept, rows in frame.groupby("concept", sort=False)
        ]
        caption = (
            "Recognition accuracy of each language's own vectors at the best layer, a table a concept, in percent. "
            "Along a row, languages of one model compare; down a column, models; the last is the mean over languages. "
            "Chance is 50."
        )
        tables.append(table_of(frame, EVERY_ROW.format(name=TABLE6), folded=True))
        items.append(Item("Table 6: recognition accuracy by concept", caption, tables=tables))
    return Section("recognition", "Stage 2: recognition", items)


def consistency(frames: Mapping[str, "pd.DataFrame"], out_dir: Path) -> "Section":
    """Stage 3: Figures 4 and 7, similarity across layers, Table 1."""
    from repe.tools.report.parts import Item, Section, images, table_of

    caption = (
        "Cosine similarity of a concept's vectors between languages, mean over the concepts of the best layer: the "
        "higher, the more alike. All panels share one scale, which spans what lies off the diagonals. Rows are "
        "sources, columns targets, by falling share of the family's pre-training text."
    )
    items = _mapped(frames, out_dir, "similarity", "Figures 4 and 7: similarity of languages", caption)
    figure = images(_paths(out_dir, "layers"), "Lines of mean similarity against relative depth, one a model")
    if figure or "similarity_by_layer" in frames:
        caption = (
            "Mean similarity between the languages that all families share, at each relative depth of a model, from "
            "its first layer at 0 to its last near 1. Higher means that languages agree more in that layer."
        )
        frame = frames.get("similarity_by_layer")
        tables = [] if frame is None else [table_of(frame, EVERY_ROW.format(name="similarity_by_layer"), folded=True)]
        items.append(Item("Similarity across layers", caption, figure, tables=tables))
    return Section("consistency", "Stage 3: consistency", items + _table1(frames))


def _table1(frames: Mapping[str, "pd.DataFrame"]) -> list["Item"]:
    from repe.tools.report.parts import Item, numbers_of, table_of, wide_table

    items = []
    caption = (
        "Pearson correlation of the similarity of languages' vectors with the languages' linguistic similarity (1 "
        "less the URIEL distance): over all pairs (direct), and the mean of r over pairs with a high-resource "
        "language and of r over the others (split). Above 0, related languages have similar vectors."
    )
    repaired = (
        " Here distances that stand for missing features are repaired or left out; an effect is r with the repaired "
        "distances less r with the recorded ones."
    )
    for name, title, more, what in (
        (TABLE1, "Table 1: linguistic correlation", "", "Pearson's r"),
        (f"{TABLE1}_repaired", "Table 1 with repaired distances", repaired, "Pearson's r, repaired distances"),
    ):
        if name not in frames:
            continue
        frame = frames[name]
        values = [column for column in ("direct", "direct_effect", "split", "split_effect") if column in frame]
        long = frame.melt(["model", "distance"], values, "kind", "r")
        # Where the repair of a distance changes nothing there is no effect to show.
        same = long["kind"].str.endswith("effect") & ~numbers_of(long["r"]).abs().gt(0)
        shown = set(zip(long["distance"][~same], long["kind"][~same], strict=True))
        order = [(distance, kind) for distance in frame["distance"].unique() for kind in values]
        order = [pair for pair in order if pair in shown]
        long["column"] = long["distance"] + " " + long["kind"].str.replace("_", " ")
        long = long.set_index(["distance", "kind"]).loc[order].reset_index()
        tables = [
            wide_table(long, "column", "r", what),
            table_of(frame, EVERY_ROW.format(name=name), folded=True),
        ]
        items.append(Item(title, caption + more, tables=tables))
    return items


def transfer(frames: Mapping[str, "pd.DataFrame"], out_dir: Path) -> "Section":
    """Stage 4: Figures 5 and 8."""
    from repe.tools.report.parts import Section

    caption = (
        "Accuracy of a source language's vectors (rows) on a target language's texts (columns), less that of the "
        "target's own: from 0 on (blue) the source transfers, below (red) something is lost. All panels share one "
        "scale, linear up to 0.01 and logarithmic beyond."
    )
    items = _mapped(frames, out_dir, "transfer", "Figures 5 and 8: transfer between languages", caption)
    return Section("transfer", "Stage 4: transfer", items)


def _mapped(frames: Mapping[str, "pd.DataFrame"], out_dir: Path, name: str, title: str, caption: str) -> list["Item"]:
    """Heat maps, the figures as printed, and the table behind both, of whichever there are."""
    from repe.plots import figures
    from repe.tools.report.parts import Item, heat_maps, images, table_of

    colouring_of, value = {
        "similarity": (figures.similarity_colouring, "similarity"),
        "transfer": (figures.transfer_colouring, "delta"),
    }[name]
    printed = images(_paths(out_dir, name), f"{title}, as printed; the values are in the table below")
    if name not in frames:
        return [Item(title, caption, printed)] if printed else []
    table = table_of(frames[name], EVERY_ROW.format(name=name), folded=True)
    return [Item(title, caption, printed, heat_maps(frames[name], value, colouring_of), [table])]


def further(frames: Mapping[str, "pd.DataFrame"], out_dir: Path) -> "Section":
    """Figures and tables that the page does not know."""
    from repe.tools.report.parts import Item, Section, images, table_of

    known = {stem for stems in FIGURES.values() for stem in stems}
    items = [
        Item(f"Further figure: {path.stem}", f"{path.name}, as it was found.", images([path], path.stem))
        for path in sorted(out_dir.glob("*.png"))
        if path.stem not in known
    ]
    items += [
        Item(f"Further table: {name}", f"{name}.csv, as it was found.", tables=[table_of(frame, name)])
        for name, frame in frames.items()
        if name not in KNOWN
    ]
    return Section("further", "Further figures and tables", items)


def _paths(out_dir: Path, figure: str) -> list[Path]:
    return [out_dir / f"{stem}.png" for stem in FIGURES[figure]]


def start() -> None:
    parser = cli.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--res-dir", type=Path, default=Path("res"), metavar="DIR", help="result files (default: res)")
    add(
        "--out-dir",
        type=Path,
        metavar="DIR",
        help="folder of the figures and tables, for the page too (default: RES_DIR/cross_model)",
    )
    cli.run(main, parser)


if __name__ == "__main__":
    start()
