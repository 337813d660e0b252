"""Tables as files: long form with full precision as CSV, and the paper's layout as LaTeX (booktabs and multirow)."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from repe.analysis.layer_selection import PAPER, Selection, side_by_side
from repe.files import write_whole
from repe.models.registry import MODELS

NO_VALUE = "--"
PACKAGES = "% \\usepackage{booktabs,multirow}\n"
TABLE_1_CAPTION = (
    "Pearson correlation of concept vectors' similarity with linguistic similarity (1 - URIEL distance): over all "
    "pairs of languages (direct), and the mean of that over pairs with a high-resource language and that over the "
    "others (split)."
)


def write_csv(frame: pd.DataFrame, out_dir: Path, name: str) -> list[Path]:
    """Write `<out_dir>/<name>.csv`: every digit, an undefined value as an empty cell."""
    return [_write(frame.to_csv(index=False), out_dir / f"{name}.csv")]


def write_table6(accuracies: Mapping[Selection, pd.DataFrame], out_dir: Path) -> list[Path]:
    """Write Table 6 as one .csv and, for each selection of layers, as .tex.

    A .tex has a sub-table a concept, in percent with the mean over languages last.

    Args:
        accuracies: by selection; columns concept, model, language, accuracy, best_layer.
    """
    name = "table6_recognition_accuracy"
    latex = {selection: _latex_of_table6(accuracy, selection) for selection, accuracy in accuracies.items()}
    return [
        *write_csv(side_by_side(accuracies), out_dir, name),
        *(_write(text, out_dir / f"{name}{selection.suffix}.tex") for selection, text in latex.items()),
    ]


def _latex_of_table6(accuracy: pd.DataFrame, selection: Selection) -> str:
    parts = []
    for concept, rows in accuracy.groupby("concept", sort=False):
        wide = rows.pivot(index="model", columns="language", values="accuracy") * 100
        wide = wide.loc[rows.model.unique(), rows.language.unique()]
        wide["Avg"] = wide.mean(axis=1)
        caption = f"{str(concept).capitalize()}: recognition accuracy (\\%) {selection.words}."
        parts.append(_latex(_by_name_and_size(wide), ".1f", caption, f"tab:accuracy-{concept}"))
    return "\n".join(parts)


def write_table1(correlations: Mapping[Selection, pd.DataFrame], out_dir: Path) -> list[Path]:
    """Write Table 1 as one .csv and, for each selection of layers, as .tex: rows models, columns distances.

    Args:
        correlations: by selection; columns model, distance, direct, direct_as_released, split.
    """
    name = "table1_linguistic_correlation"
    written = write_csv(side_by_side(correlations), out_dir, name)
    for selection, correlation in correlations.items():
        columns = [(distance, value) for distance in correlation.distance.unique() for value in ("direct", "split")]
        latex = _latex_of_table1(correlation, columns, _caption(selection), "tab:linguistic-correlation")
        written.append(_write(latex, out_dir / f"{name}{selection.suffix}.tex"))
    return written


def _caption(selection: Selection) -> str:
    return TABLE_1_CAPTION + (f" Similarity is that {selection.words}." if selection != PAPER else "")


def write_repaired_table1(correlations: Mapping[Selection, pd.DataFrame], out_dir: Path) -> list[Path]:
    """Write Table 1 with the repaired distances, beside the other, as one .csv and, for each selection, as .tex.

    Args:
        correlations: by selection; columns of `consistency.repaired_correlation`.
    """
    name = "table1_linguistic_correlation_repaired"
    latex = {selection: _latex_of_repaired(table, selection) for selection, table in correlations.items()}
    return [
        *write_csv(side_by_side(correlations), out_dir, name),
        *(_write(text, out_dir / f"{name}{selection.suffix}.tex") for selection, text in latex.items()),
    ]


def _latex_of_repaired(correlation: pd.DataFrame, selection: Selection) -> str:
    """Table 1, in which distances that the repair changes also show by how much.

    Args:
        correlation: columns model, distance, direct, direct_as_released, split, direct_recorded, split_recorded,
            direct_effect, split_effect.
    """
    changes = correlation.set_index("distance")[["direct_effect", "split_effect"]].abs().max(axis=1) > 0
    columns = []
    for distance in correlation.distance.unique():
        effects = changes[[distance]].any()
        columns += [
            (distance, value)
            for value in ("direct", "direct_effect", "split", "split_effect")
            if effects or not value.endswith("effect")
        ]
    caption = (
        f"{_caption(selection)} Distances that stand for missing features are repaired or left out; $\\Delta$ is the "
        "difference that makes."
    )
    return _latex_of_table1(correlation, columns, caption, "tab:linguistic-correlation-repaired")


def _latex_of_table1(correlation: pd.DataFrame, columns: list[tuple[str, str]], caption: str, label: str) -> str:
    values = list(dict.fromkeys(value for _, value in columns))
    wide = correlation.pivot(index="model", columns="distance", values=values).swaplevel(axis=1)
    names = {"direct_effect": r"$\Delta$Direct", "split_effect": r"$\Delta$Split"}
    wide = wide.loc[correlation.model.unique(), columns].rename(columns=lambda name: names.get(name, name.capitalize()))
    return _latex(_by_name_and_size(wide), ".2f", caption, label)


def _by_name_and_size(wide: pd.DataFrame) -> pd.DataFrame:
    """Rows by model name and size, as in the paper; a model that the registry does not know keeps its whole name."""
    labels = [(MODELS[model].name, MODELS[model].size) if model in MODELS else (model, "") for model in wide.index]
    return wide.set_axis(pd.MultiIndex.from_tuples(labels), axis=0)


def _latex(wide: pd.DataFrame, number: str, caption: str, label: str) -> str:
    # Adding zero turns the -0.0 that rounding can leave into 0.0.
    escaped = wide.round(int(number[1])).add(0.0).rename(index=lambda text: str(text).replace("_", r"\_"))
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
