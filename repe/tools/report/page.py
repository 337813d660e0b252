"""The report: one HTML page with the figures and tables of an analysis, in the order of the paper."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from repe.constants import SIMILARITIES
from repe.errors import UserError
from repe.files import entries
from repe.plots import figures
from repe.plots.heat_maps import Colouring
from repe.plots.tables import TABLE_1, TABLE_6, table1, table6
from repe.tools.report import run_records
from repe.tools.report.parts import Item, css, images, read_table
from repe.tools.report.traits import NAME as TRAITS
from repe.tools.report.traits import SHARES_NAME

TEMPLATE = "report.html.jinja"
REPAIRED = f"{TABLE_1}_repaired"
# Columns of numbers and columns that identify a row, of the tables that the page arranges; further columns may follow.
KNOWN = {
    TABLE_6: (["accuracy"], ["concept", "model", "language"]),
    "similarity": (["similarity"], ["model", "source", "target"]),
    "similarity_by_layer": (["layer", "relative_depth", "similarity"], ["model", "layer"]),
    TABLE_1: (["direct", "split"], ["model", "distance"]),
    REPAIRED: (["direct", "split", "direct_effect", "split_effect"], ["model", "distance"]),
    "transfer": (["accuracy", "delta"], ["model", "source", "target"]),
    TRAITS: (["value"], ["trait", "model"]),
}
FIGURE2, ACROSS_LAYERS = "figure2_recognition_accuracy", "similarity_across_layers"
SIMILARITY = ("figure4_similarity_7b", "figure7_similarity_all")
TRANSFER = ("figure5_transfer_7b", "figure8_transfer_all")
FLOORS, BY_LAYER, DETECTION = "floors", "accuracy_by_layer", ("detection_auroc", "detection_calibration_gap")
CAPTIONS = {
    FIGURE2: "How often vectors rank the text that agrees with a value above the one that violates it: mean over the "
    "concepts of the best layer's accuracy. Higher is better. The dotted line is chance.",
    FLOORS: "Accuracy in each language beside its floors: vectors of swapped labels, the network with random weights, "
    "and a classifier of the text's letters. A coloured dot is above its highest floor, with the interval of the "
    "difference over test items; a grey one is not; a star marks p margin (Holm) "
    "below 0.05. p is that of the best layer under swapped labels, p margin the "
    "same for the mean margin; Holm: corrected over the model's cells.",
    BY_LAYER: "Accuracy in each layer, mean over languages. Grey: 95 % of vectors of swapped labels, at each layer. "
    "Dotted: the untrained network. Dashed: the training pairs themselves.",
    "detection": "Single texts instead of pairs: mean over concepts at the best layer of recognition, languages of the "
    "vectors in rows, languages of the texts in columns. AUROC: how often a positive text projects higher than a "
    "negative one of any pair; 0.5 is chance. Calibration gap: accuracy with a threshold from the target's training "
    "texts, minus that with the source's. Red: the vectors transfer, and the threshold does not.",
    TABLE_6: "Recognition accuracy of each language's own vectors at the best layer, in percent, one table per "
    "concept. The last column is the mean over languages. Chance is 50.",
    "similarity": "Cosine similarity of a concept's vectors between languages: mean over the concepts of the best "
    "layer. All panels share one scale, which covers the values off the diagonals. Languages are sorted by decreasing "
    "share of the family's pre-training text.",
    ACROSS_LAYERS: "Mean similarity between the languages that all families share, by relative depth (0 is a model's "
    "first layer; its last is close to 1).",
    TABLE_1: "Pearson correlation between the similarity of languages' vectors and their linguistic similarity (1 "
    "minus URIEL distance). Direct: over all language pairs. Split: mean of r over pairs with a high-resource language "
    "and of r over the other pairs. Positive values: related languages have similar vectors.",
    REPAIRED: "Table 1 with the distances that stand for missing features repaired or left out. An effect is r with "
    "the repaired distances minus r with the recorded ones.",
    TRAITS: "Each number beside what the paper says of large models; in brackets, what we take that to mean for the "
    "number. An empty cell: not known for the model. Bars are 95 % intervals over test items, where the files record "
    "which pairs were right; dotted lines are chance or 0. Shares are percent of the training text; without a number, "
    "their order.",
    "transfer": "Accuracy of a source language's vectors (rows) on a target language's texts (columns), minus the "
    "accuracy of the target's own vectors. Blue (0 or more): the source's vectors transfer. Red (below 0): they are "
    "less accurate. All panels share one scale, linear up to 0.01 and logarithmic beyond.",
}
SELECTED = "As above, for layers that were not chosen on the test set (--layer-select)."
# Figures that also exist for other choices of layers.
TITLES = {
    FIGURE2: "Figure 2: recognition accuracy",
    **dict.fromkeys(SIMILARITY, "Similarity between languages"),
    **dict.fromkeys(TRANSFER, "Transfer between languages"),
}
OTHERS = {
    "recognition_intervals": (
        "Intervals of recognition accuracy",
        "95 % bootstrap intervals over test items; `all` is the mean over concepts or languages.",
    ),
    "one_way_transfer": (
        "One-way transfer",
        "Mean of accuracy minus the target's own, from high- to low-resource languages, in the other direction, and "
        "the difference, with 95 % bootstrap intervals. Empty where the high-resource languages are not known.",
    ),
    "similarity_ceilings": (
        "Ceilings of the similarity",
        "Split half: cosine of vectors of two random halves of a language's items. Cross half: of one half in the "
        "source and the other half in the target. Their ceiling is the geometric mean of the two split halves, and "
        "corrected is cross half divided by it: 1 where languages differ no more than halves of one language. It is "
        "not cut at 1, which sampling error can exceed. The plain similarity is of the same items in both languages, "
        "which share noise, so it may be above the ceiling. Empty cells: no --cache-states.",
    ),
    **{
        f"similarity_{measure}": (
            f"Similarity by another measure: {title}",
            "Beside each model its floor: what shuffled items or concepts, or random directions, give.",
        )
        for measure, title in SIMILARITIES.items()
    },
    **{
        f"{TABLE_1}_{measure}": (f"Table 1 by another measure: {title}", "As Table 1, with this measure of similarity.")
        for measure, title in SIMILARITIES.items()
    },
    "linguistic_distances": (
        "Linguistic distances",
        "Distances behind Table 1: recorded for the paper's languages, computed from lang2vec for others, or given "
        "by a file.",
    ),
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
    frames = {path.stem: read_table(path, *KNOWN.get(path.stem, ())) for path in entries(out_dir, "*.csv")}
    models = models_of(frames, res_dir, out_dir)
    sections = {
        **stages(frames, out_dir),
        "Stage 5: control": run_records.control(res_dir, models),
        "The paper's questions in numbers": [traits(frames, out_dir)],
        "Other figures and tables": other_files(frames, out_dir),
    }
    shown = {
        title: found
        for title, items in sections.items()
        if (found := [item for item in items if item.images or item.tables])
    }
    if not shown:
        raise UserError(
            f"no figures or tables in {out_dir}: run recognize_concept.py, consistency_analysis.py or "
            "transferability_analysis.py first, or give the folder that they wrote to with --out-dir"
        )
    if models:
        shown["Settings"] = run_records.settings(res_dir, models)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["css"] = css
    folder = out_dir.resolve().name
    return environment.get_template(TEMPLATE).render(folder=folder, models=models, sections=shown)


def models_of(frames: Frames, res_dir: Path, out_dir: Path) -> list[str]:
    """The models in the tables, in their order, and the model whose results folder this is, if it is one."""
    # The tables that the page arranges come first, since others may be sorted differently.
    tables = [frames[name] for name in [*KNOWN, *frames] if name in frames and "model" in frames[name]]
    # Some traits are of series of models.
    tables = [frame[frame["trait"] == "accuracy"] if frame is frames.get(TRAITS) else frame for frame in tables]
    named, folder = [model for frame in tables for model in frame["model"].dropna()], out_dir.resolve()
    if folder.parent == res_dir.resolve() and entries(folder, "*/*.p[tk]"):
        named.append(folder.name)
    return list(dict.fromkeys(named))


def stages(frames: Frames, out_dir: Path) -> dict[str, list[Item]]:
    """Sections 3.2 to 3.4 of the paper, by title; items may have nothing to show."""
    by_concept = table6(frames[TABLE_6]) if TABLE_6 in frames else {}
    percent = {f"{concept}, percent": wide for concept, wide in by_concept.items()}
    similarity = _cells(frames, "similarity", "similarity", figures.similarity_colouring)
    transfer = _cells(frames, "transfer", "delta", figures.transfer_colouring)
    return {
        "Stage 2: recognition": [
            Item("Figure 2: recognition accuracy", CAPTIONS[FIGURE2], images(out_dir, FIGURE2)),
            Item("Floors", CAPTIONS[FLOORS], _by_model(out_dir, FLOORS), _plain(frames, FLOORS)),
            Item("Accuracy by layer", CAPTIONS[BY_LAYER], _by_model(out_dir, BY_LAYER)),
            Item("Calibration gap and AUROC of single texts", CAPTIONS["detection"], images(out_dir, *DETECTION)),
            Item(
                "Table 6: recognition accuracy by concept",
                CAPTIONS[TABLE_6] + _counts(frames, TABLE_6, "test_items", "Test items of a cell"),
                tables=percent,
                number=".1f",
            ),
        ],
        "Stage 3: consistency": [
            Item(
                "Figures 4 and 7: similarity between languages",
                CAPTIONS["similarity"],
                images(out_dir, *SIMILARITY),
                **similarity,
            ),
            Item("Similarity across layers", CAPTIONS[ACROSS_LAYERS], images(out_dir, ACROSS_LAYERS)),
            Item(
                "Table 1: linguistic correlation",
                CAPTIONS[TABLE_1] + _counts(frames, TABLE_1, "pairs", "Pairs of languages"),
                **_table1(frames, TABLE_1, "Pearson's r"),
            ),
            Item(
                "Table 1 with repaired distances",
                CAPTIONS[REPAIRED],
                **_table1(frames, REPAIRED, "Pearson's r, repaired distances"),
            ),
        ],
        "Stage 4: transfer": [
            Item(
                "Figures 5 and 8: transfer between languages",
                CAPTIONS["transfer"],
                images(out_dir, *TRANSFER),
                **transfer,
            )
        ],
    }


def traits(frames: Frames, out_dir: Path) -> Item:
    """The answers of `python -m repe traits`, one row per trait and one column per model."""
    tables = {}
    if TRAITS in frames:
        facts = ["section", "meaning", "claim"]
        found = frames[TRAITS].reindex(columns=["trait", *facts, "model", "value"])
        wide = found.pivot(index=["trait", *facts], columns="model", values="value")
        wide = wide.loc[
            [*dict.fromkeys(found[["trait", *facts]].itertuples(index=False, name=None))], found["model"].unique()
        ]
        tables["Traits"] = wide.reset_index(level=facts)
    return Item("Traits", CAPTIONS[TRAITS], images(out_dir, f"figure_{TRAITS}"), tables | _plain(frames, SHARES_NAME))


def _cells(frames: Frames, name: str, value: str, colouring_of: Callable[[pd.DataFrame], Colouring]) -> dict[str, Any]:
    """The cells of heat maps as tables in the figure's colours, if there is such a table."""
    if name not in frames:
        return {}
    frame = frames[name]
    tables = figures.squares(frame, frame["model"].unique(), value)
    return {"tables": tables, "number": ".2f", "colouring": colouring_of(frame)}


def _by_model(out_dir: Path, name: str) -> list[tuple[str, int]]:
    """The figures of all models, `<name>_<model>`."""
    return images(out_dir, *(path.stem for path in sorted(out_dir.glob(f"{name}_*.png"))))


def _plain(frames: Frames, name: str) -> dict[str, pd.DataFrame]:
    return {f"{name}.csv": frames[name]} if name in frames else {}


def _counts(frames: Frames, name: str, column: str, what: str) -> str:
    """A sentence with the numbers that a table's values are from, if it has them."""
    if column not in frames.get(name, ()):
        return ""
    known = frames[name][column].dropna()
    if known.empty:
        return ""
    low, high = (int(float(number)) for number in (min(known), max(known)))
    return f" {what}: {low if low == high else f'{low} to {high}'}."


def _table1(frames: Frames, name: str, caption: str) -> dict[str, Any]:
    if name not in frames:
        return {}
    wide = table1(frames[name])
    return {"tables": {caption: wide.set_axis(wide.columns.map(" ".join), axis=1)}, "number": ".2f"}


def other_files(frames: Frames, out_dir: Path) -> list[Item]:
    """Figures and tables that the page does not arrange."""
    arranged = {FIGURE2, ACROSS_LAYERS, *SIMILARITY, *TRANSFER, *KNOWN, FLOORS, *DETECTION}
    arranged |= {f"figure_{TRAITS}", SHARES_NAME}
    by_model = (f"{FLOORS}_", f"{BY_LAYER}_")
    stems = (path.stem for path in entries(out_dir, "*.png"))
    names = sorted(stem for stem in stems if stem not in arranged and not stem.startswith(by_model))
    names += [name for name in frames if name not in arranged and name not in names]
    kinds = {name: "figure" if images(out_dir, name) else "table" for name in names}
    return [Item(*_title(name, kind), images(out_dir, name), _plain(frames, name)) for name, kind in kinds.items()]


def _title(name: str, kind: str) -> tuple[str, str]:
    """Title and caption of a figure or table that the page does not arrange."""
    if name in OTHERS:
        return OTHERS[name]
    for known, title in TITLES.items():
        if selection := name.removeprefix(known).strip("_") if name.startswith(known) else "":
            return f"{title}, layers by {selection}", CAPTIONS.get(known, "") or SELECTED
    return f"{name}.{'png' if kind == 'figure' else 'csv'}", f"Another {kind} in this folder."
