"""Tables as files: long form with full precision as CSV, and the paper's layout as LaTeX (booktabs and multirow)."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from repe.analysis.accuracy_table import with_averages
from repe.analysis.layer_selection import PAPER, Selection, side_by_side
from repe.files import write_whole
from repe.models.registry import MODELS
from repe.uncertainty.bootstrap import ALL

MATHEMATICS = (r"$\Delta$Direct", r"$\Delta$Split")
LATEX = str.maketrans(
    {
        **{mark: f"\\{mark}" for mark in "#$%&_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
    }
)
PACKAGES = "% \\usepackage{booktabs,multirow}\n"
TABLE_1 = "table1_linguistic_correlation"
TABLE_6 = "table6_recognition_accuracy"
TABLE_1_CAPTION = (
    "Pearson correlation of concept vectors' similarity with linguistic similarity (1 - URIEL distance): over all "
    "pairs of languages (direct), and the mean of that over pairs with a high-resource language and that over the "
    "others (split)."
)
REPAIRED_CAPTION = (
    "Distances that stand for missing features are repaired or left out; $\\Delta$ is the difference that makes."
)


def write_csv(frame: pd.DataFrame, out_dir: Path, name: str) -> list[Path]:
    """Write `<out_dir>/<name>.csv` with full precision; an undefined value is an empty cell."""
    return [_write(frame.to_csv(index=False), out_dir / f"{name}.csv")]


def write_table6(accuracies: Mapping[Selection, pd.DataFrame], out_dir: Path) -> list[Path]:
    """Write Table 6 as one .csv and, for each layer selection, as .tex: one sub-table per concept, in percent.

    Args:
        accuracies: by selection; columns concept, model, language, accuracy, best_layer.
    """
    return _write_table(accuracies, out_dir, TABLE_6, _latex_of_table6)


def write_table1(correlations: Mapping[Selection, pd.DataFrame], out_dir: Path, repaired: bool = False) -> list[Path]:
    """Write Table 1 as one .csv and, for each layer selection, as .tex: rows models, columns distances.

    Args:
        correlations: by selection; from `consistency.table1`.
        repaired: it has the repaired distances. File names end in `_repaired`, and the .tex also shows the difference
            that the repair makes, for those distances that it changes.
    """
    return _write_table(correlations, out_dir, f"{TABLE_1}_repaired" if repaired else TABLE_1, _latex_of_table1)


def _write_table(
    tables: Mapping[Selection, pd.DataFrame],
    out_dir: Path,
    name: str,
    latex: Callable[[pd.DataFrame, Selection], str],
) -> list[Path]:
    texts = {selection: latex(table, selection) for selection, table in tables.items()}
    written = write_csv(side_by_side(tables), out_dir, name)
    return written + [_write(text, out_dir / f"{name}{selection.suffix}.tex") for selection, text in texts.items()]


def table6(accuracy: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Table 6 in the paper's layout: by concept, percentages of models (rows) and languages, `Avg` last.

    Args:
        accuracy: columns concept, model, language, accuracy.
    """
    cells = accuracy[["concept", "model", "language"]].assign(percent=accuracy["accuracy"] * 100)
    rows, models, languages = with_averages(cells), cells["model"].unique(), cells["language"].unique()
    wide = rows.pivot(index=["concept", "model"], columns="language", values="percent")
    wide = wide[[*languages, ALL]].rename(columns={ALL: "Avg"})
    return {concept: wide.loc[concept].loc[models] for concept in cells["concept"].unique()}


def table1(correlation: pd.DataFrame) -> pd.DataFrame:
    """Table 1 in the paper's layout: models (rows) and, by distance, the correlations (columns).

    Args:
        correlation: columns model, distance, direct, split and, with repaired distances, the effects of the repair,
            direct_effect and split_effect, which are shown for those distances that have any.
    """
    kinds = [kind for kind in ("direct", "direct_effect", "split", "split_effect") if kind in correlation]
    wide = correlation.pivot(index="model", columns="distance", values=kinds).swaplevel(axis=1)
    effects = correlation.set_index("distance").filter(like="_effect").abs()
    changed = effects.index[(effects > 0).any(axis=1)]
    columns = [
        (distance, kind)
        for distance in correlation["distance"].unique()
        for kind in kinds
        if kind in ("direct", "split") or distance in changed
    ]
    return wide.loc[correlation["model"].unique(), columns]


def _latex_of_table6(accuracy: pd.DataFrame, selection: Selection) -> str:
    caption = "{}: recognition accuracy (\\%) {}."
    return "\n".join(
        _latex(
            wide, ".1f", caption.format(latex_text(concept.capitalize()), selection.words), f"tab:accuracy-{concept}"
        )
        for concept, wide in table6(accuracy).items()
    )


def _latex_of_table1(correlation: pd.DataFrame, selection: Selection) -> str:
    caption = TABLE_1_CAPTION + (f" Similarity is that {selection.words}." if selection != PAPER else "")
    label = "tab:linguistic-correlation"
    if "direct_effect" in correlation:
        caption, label = f"{caption} {REPAIRED_CAPTION}", f"{label}-repaired"
    names = dict(zip(("direct_effect", "split_effect"), MATHEMATICS, strict=True))
    wide = table1(correlation).rename(columns=lambda name: names.get(name, name.capitalize()))
    return _latex(wide, ".2f", caption, label)


def _latex(wide: pd.DataFrame, number: str, caption: str, label: str) -> str:
    # Rows by model name and size, as in the paper; a model that is not in the registry keeps its whole name.
    models = [(MODELS[model].name, MODELS[model].size) if model in MODELS else (model, "") for model in wide.index]
    named = wide.set_axis(pd.MultiIndex.from_tuples(models), axis=0)
    # Adding zero turns the -0.0 that rounding can leave into 0.0.
    escaped = named.round(int(number[1])).add(0.0).rename(index=latex_text, columns=latex_text)
    escaped.columns.names = [None] * escaped.columns.nlevels
    style = escaped.style.format(f"{{:{number}}}", na_rep="--")
    return PACKAGES + str(
        style.to_latex(
            hrules=True,
            caption=caption,
            label=label,
            position="ht",
            position_float="centering",
            column_format="ll" + "r" * wide.shape[1],
            multicol_align="c",
            multirow_align="t",
        )
    )


def latex_text(text: Any) -> str:
    """`text` with LaTeX's special characters escaped; our own mathematics stays as it is."""
    return str(text) if text in MATHEMATICS else str(text).translate(LATEX)


def _write(text: str, path: Path) -> Path:
    return write_whole(path, lambda file: file.write(text.encode()))
