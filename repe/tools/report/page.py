"""The report: one HTML page with the figures and tables of an analysis, in the order of the paper."""

from collections.abc import Callable, Mapping
from pathlib import Path

import jinja2
import numpy as np
import pandas as pd

from repe.errors import UserError
from repe.plots import figures
from repe.plots.heat_maps import Colouring
from repe.tools.report import run_records
from repe.tools.report.parts import (
    Item,
    Section,
    all_rows,
    heat_maps,
    images,
    numbers_of,
    read_table,
    rounded,
    table_of,
    wide_table,
)

TEMPLATE = "report.html.jinja"
TABLE6, TABLE1 = "table6_recognition_accuracy", "table1_linguistic_correlation"
REPAIRED = f"{TABLE1}_repaired"
LAYERS = "similarity_by_layer"
# Columns of numbers and columns that identify a row, of the tables that the page arranges; further columns may follow.
KNOWN = {
    TABLE6: (["accuracy"], ["concept", "model", "language"]),
    "similarity": (["similarity"], ["model", "source", "target"]),
    LAYERS: (["layer", "relative_depth", "similarity"], ["model", "layer"]),
    TABLE1: (["direct", "split"], ["model", "distance"]),
    REPAIRED: (["direct", "split", "direct_effect", "split_effect"], ["model", "distance"]),
    "transfer": (["accuracy", "delta"], ["model", "source", "target"]),
}
FIGURE2, ACROSS_LAYERS = "figure2_recognition_accuracy", "similarity_across_layers"
HEAT_MAPS = {
    "similarity": ("figure4_similarity_7b", "figure7_similarity_all"),
    "transfer": ("figure5_transfer_7b", "figure8_transfer_all"),
}
CAPTIONS = {
    FIGURE2: "How often vectors rank the text that agrees with a value above the one that violates it: mean over the "
    "concepts of the best layer's accuracy. Higher is better. The dotted line is chance.",
    TABLE6: "Recognition accuracy of each language's own vectors at the best layer, in percent, one table per concept. "
    "The last column is the mean over languages. Chance is 50.",
    "similarity": "Cosine similarity of a concept's vectors between languages: mean over the concepts of the best "
    "layer. All panels share one scale, which covers the values off the diagonals. Languages are sorted by decreasing "
    "share of the family's pre-training text.",
    LAYERS: "Mean similarity between the languages that all families share, by relative depth (0 is a model's first "
    "layer; its last is close to 1).",
    TABLE1: "Pearson correlation between the similarity of languages' vectors and their linguistic similarity (1 minus "
    "URIEL distance). Direct: over all language pairs. Split: mean of r over pairs with a high-resource language and "
    "of r over the other pairs. Positive values: related languages have similar vectors.",
    REPAIRED: "Table 1 with the distances that stand for missing features repaired or left out. An effect is r with "
    "the repaired distances minus r with the recorded ones.",
    "transfer": "Accuracy of a source language's vectors (rows) on a target language's texts (columns), minus the "
    "accuracy of the target's own vectors. Blue (0 or more): the source's vectors transfer. Red (below 0): they are "
    "less accurate. All panels share one scale, linear up to 0.01 and logarithmic beyond.",
}
Frames = Mapping[str, pd.DataFrame]


def render(res_dir: Path, out_dir: Path) -> str:
    """The page as HTML.

    Args:
        res_dir: results folder, for the models' settings and control experiments.
        out_dir: folder of the figures and tables.

    Raises:
        UserError: there is nothing to show, or a file is damaged.
    """
    frames = {path.stem: read_table(path, *KNOWN.get(path.stem, ())) for path in sorted(out_dir.glob("*.csv"))}
    models = models_of(frames, res_dir, out_dir)
    sections = [
        *(recognition(frames, out_dir), consistency(frames, out_dir), transfer(frames, out_dir)),
        *(run_records.control(res_dir, models), other_files(frames, out_dir)),
    ]
    if not any(section.items for section in sections):
        raise UserError(
            f"no figures or tables in {out_dir}: run recognize_concept.py, consistency_analysis.py or "
            "transferability_analysis.py first, or give the folder that they wrote to with --out-dir"
        )
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["rounded"] = rounded
    return environment.get_template(TEMPLATE).render(
        folder=out_dir.resolve().name,
        models=models,
        sections=[section for section in [*sections, run_records.settings(res_dir, models)] if section.items],
    )


def models_of(frames: Frames, res_dir: Path, out_dir: Path) -> list[str]:
    """The models in the tables, in their order, and the model whose results folder this is, if it is one."""
    # The tables that the page arranges come first, since others may be sorted differently.
    tables = [*(frames[name] for name in KNOWN if name in frames), *frames.values()]
    named = [model for frame in tables if "model" in frame for model in frame["model"]]
    folder = out_dir.resolve()
    is_model = folder.parent == res_dir.resolve() and any(folder.glob("*/*.p[tk]"))
    return list(dict.fromkeys([*named, *([folder.name] if is_model else [])]))


def recognition(frames: Frames, out_dir: Path) -> Section:
    """Section 3.2: Figure 2 and Table 6."""
    items = []
    if figure := images([out_dir / f"{FIGURE2}.png"], "Bar chart of recognition accuracy by language and model"):
        items.append(Item("Figure 2: recognition accuracy", CAPTIONS[FIGURE2], figure))
    if TABLE6 in frames:
        by_concept = frames[TABLE6].groupby("concept", sort=False)
        tables = [
            wide_table(rows, "language", "accuracy", f"{name}, percent", percent=True) for name, rows in by_concept
        ]
        tables += all_rows(frames, TABLE6)
        items.append(Item("Table 6: recognition accuracy by concept", CAPTIONS[TABLE6], tables=tables))
    return Section("recognition", "Stage 2: recognition", items)


def consistency(frames: Frames, out_dir: Path) -> Section:
    """Section 3.3: Figures 4 and 7, similarity across layers, Table 1."""
    title = "Figures 4 and 7: similarity between languages"
    items = _heat_maps(frames, out_dir, "similarity", "similarity", title, figures.similarity_colouring)
    figure = images([out_dir / f"{ACROSS_LAYERS}.png"], "Mean similarity against relative depth, one line per model")
    if figure or LAYERS in frames:
        items.append(Item("Similarity across layers", CAPTIONS[LAYERS], figure, tables=all_rows(frames, LAYERS)))
    items += _table1(frames, TABLE1, "Table 1: linguistic correlation", "Pearson's r")
    items += _table1(frames, REPAIRED, "Table 1 with repaired distances", "Pearson's r, repaired distances")
    return Section("consistency", "Stage 3: consistency", items)


def _table1(frames: Frames, name: str, title: str, caption: str) -> list[Item]:
    if name not in frames:
        return []
    frame = frames[name]
    kinds = [kind for kind in ("direct", "direct_effect", "split", "split_effect") if kind in frame]
    long = frame.melt(["model", "distance"], kinds, "kind", "r")
    # Distances that the repair does not change have no effect to show.
    has_effect = numbers_of(long["r"]).abs().gt(0)
    shown = long[~long["kind"].str.endswith("effect") | has_effect]
    long = long.merge(shown[["distance", "kind"]].drop_duplicates())
    order = {distance: place for place, distance in enumerate(frame["distance"].unique())}
    long = long.sort_values("distance", key=lambda names: names.map(order), kind="stable")
    long["column"] = long["distance"] + " " + long["kind"].str.replace("_", " ")
    return [Item(title, CAPTIONS[name], tables=[wide_table(long, "column", "r", caption), *all_rows(frames, name)])]


def transfer(frames: Frames, out_dir: Path) -> Section:
    """Section 3.4: Figures 5 and 8."""
    title = "Figures 5 and 8: transfer between languages"
    items = _heat_maps(frames, out_dir, "transfer", "delta", title, figures.transfer_colouring)
    return Section("transfer", "Stage 4: transfer", items)


def _heat_maps(
    frames: Frames, out_dir: Path, name: str, value: str, title: str, colouring_of: Callable[[np.ndarray], Colouring]
) -> list[Item]:
    """Heat maps of a table's column `value`, the figure files, and the table, if there are any."""
    paths = [out_dir / f"{stem}.png" for stem in HEAT_MAPS[name]]
    figure = images(paths, f"{title} (the values are in the table below)")
    maps = heat_maps(frames[name], value, colouring_of) if name in frames else None
    return [Item(title, CAPTIONS[name], figure, maps, all_rows(frames, name))] if figure or maps else []


def other_files(frames: Frames, out_dir: Path) -> Section:
    """Figures and tables that the page does not arrange."""
    known = {FIGURE2, ACROSS_LAYERS, *(stem for stems in HEAT_MAPS.values() for stem in stems)}
    items = [
        Item(path.name, "Another figure in this folder.", images([path], path.stem))
        for path in sorted(out_dir.glob("*.png"))
        if path.stem not in known
    ]
    items += [
        Item(f"{name}.csv", "Another table in this folder.", tables=[table_of(frame, name)])
        for name, frame in frames.items()
        if name not in KNOWN
    ]
    return Section("other", "Other figures and tables", items)
