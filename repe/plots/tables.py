"""Tables as files: long form with full precision as CSV, and the paper's layout as LaTeX (booktabs and multirow)."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from repe.analysis.accuracy_table import with_averages
from repe.analysis.bootstrap import ALL
from repe.analysis.layer_selection import PAPER, Selection, side_by_side
from repe.files import write_whole
from repe.models.registry import MODELS

NO_VALUE = "--"
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


def _latex_of_table6(accuracy: pd.DataFrame, selection: Selection) -> str:
    parts = []
    cells = accuracy[["concept", "model", "language"]].assign(percent=accuracy["accuracy"] * 100)
    averaged = with_averages(cells)
    for concept in accuracy["concept"].unique():
        rows = averaged[averaged["concept"] == concept]
        wide = rows.pivot(index="model", columns="language", values="percent")
        wide = wide.loc[rows["model"].unique(), rows["language"].unique()].rename(columns={ALL: "Avg"})
        caption = f"{concept.capitalize()}: recognition accuracy (\\%) {selection.words}."
        parts.append(_latex(wide, ".1f", caption, f"tab:accuracy-{concept}"))
    return "\n".join(parts)


def _latex_of_table1(correlation: pd.DataFrame, selection: Selection) -> str:
    repaired = "direct_effect" in correlation
    caption = TABLE_1_CAPTION + (f" Similarity is that {selection.words}." if selection != PAPER else "")
    label = "tab:linguistic-correlation"
    columns = _columns_of_table1(correlation, repaired)
    values = list(dict.fromkeys(value for _, value in columns))
    wide = correlation.pivot(index="model", columns="distance", values=values).swaplevel(axis=1)
    names = {"direct_effect": r"$\Delta$Direct", "split_effect": r"$\Delta$Split"}
    wide = wide.loc[correlation.model.unique(), columns].rename(columns=lambda name: names.get(name, name.capitalize()))
    if repaired:
        caption, label = f"{caption} {REPAIRED_CAPTION}", f"{label}-repaired"
    return _latex(wide, ".2f", caption, label)


def _columns_of_table1(correlation: pd.DataFrame, repaired: bool) -> Sequence[tuple[str, str]]:
    """Distances and values in the order of the columns; effects of the repair only where it changes a distance."""
    columns = []
    for distance, rows in correlation.groupby("distance", sort=False):
        changed = repaired and (rows[["direct_effect", "split_effect"]].abs() > 0).to_numpy().any()
        values = ("direct", "direct_effect", "split", "split_effect") if changed else ("direct", "split")
        columns += [(str(distance), value) for value in values]
    return columns


def _latex(wide: pd.DataFrame, number: str, caption: str, label: str) -> str:
    # Rows by model name and size, as in the paper; a model that is not in the registry keeps its whole name.
    models = [(MODELS[model].name, MODELS[model].size) if model in MODELS else (model, "") for model in wide.index]
    named = wide.set_axis(pd.MultiIndex.from_tuples(models), axis=0)
    # Adding zero turns the -0.0 that rounding can leave into 0.0.
    escaped = named.round(int(number[1])).add(0.0).rename(index=lambda text: str(text).replace("_", r"\_"))
    escaped.columns.names = [None] * escaped.columns.nlevels
    style = escaped.style.format(f"{{:{number}}}", na_rep=NO_VALUE)
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


def _write(text: str, path: Path) -> Path:
    return write_whole(path, lambda file: file.write(text.encode()))
