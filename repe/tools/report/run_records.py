"""The runs behind the figures: settings from the meta of result files, and control experiments."""

import itertools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from repe.files import is_plain_name
from repe.paper import CONCEPTS, LANGUAGES, in_paper_order
from repe.tools.report.parts import Item, Section, Table, damaged, images, read_table, table_of

HASH = 12  # digits shown of a SHA-256
CONTENTS = {"reader_dict": "vectors", "acc": "accuracies"}
SHOWN = (
    *("source", "revision", "weights", "family", "template", "special_tokens", "truncate", "dtype", "split"),
    *("split_by", "method", "random_direction", "seed", "versions"),
)
DOWNLOAD = "released download (.pk), which does not record its settings"
NO_FILES = "no result files in the results folder"
# Settings of control that the result files do not have.
STEERING = (
    *("layers", "operator", "scope", "strength_unit", "max_new_tokens"),
    *("temperature", "top_p", "num_beams", "prompts"),
)
EXAMPLE_LANGUAGES = 4


def settings(res_dir: Path, models: Sequence[str]) -> Section:
    """How the models' result files were made, and from which data."""
    runs, data = [], []
    for model in models:
        found = list(_result_files(res_dir, model))
        for path, content in found:
            concept, meta = path.parent.name, _meta(path)
            made_by = DOWNLOAD if path.suffix == ".pk" else "this software"
            runs.append([model, content, concept, made_by, *(_as_text(name, meta.get(name)) for name in SHOWN)])
            data += [[concept, str(language), str(digest), model] for language, digest in meta.get("data", {}).items()]
        if not found:
            runs.append([model, "none", "", NO_FILES, *[""] * len(SHOWN)])
    items = []
    if runs:
        columns = ["model", "files", "concepts", "made by", *(name.replace("_", " ") for name in SHOWN)]
        items.append(_runs_item(pd.DataFrame(runs, columns=columns)))
    if data:
        caption = (
            "Data files that the vectors and accuracies were made from. Files with the same SHA-256 are identical."
        )
        frame = pd.DataFrame(data, columns=["concept", "language", "SHA-256", "models"])
        items.append(Item("Data", caption, tables=[_data_table(frame, models)]))
    return Section("settings", "Settings", items)


def _result_files(res_dir: Path, model: str) -> Iterable[tuple[Path, str]]:
    """A model's result files, and whether they have vectors or accuracies."""
    # A table may have any text as a model: a name with a path in it must not lead out of the folder.
    for path in sorted((res_dir / model).glob("*/*.p[tk]")) if is_plain_name(model) else ():
        for stem, content in CONTENTS.items():
            if path.stem == stem or path.stem.endswith(f"_{stem}"):
                yield path, content


def _meta(path: Path) -> dict[str, Any]:
    """The meta of a result file; empty for a download.

    Raises:
        UserError: the file is damaged, or contains code.
    """
    if path.suffix == ".pk":
        return {}
    try:
        # Tensors are mapped instead of read: those of a large model take gigabytes.
        meta = torch.load(path, map_location="cpu", weights_only=True, mmap=True)["meta"]
        if not isinstance(meta, dict) or not isinstance(meta.get("data", {}), dict):
            raise ValueError("no meta")
    # PyTorch raises errors of many types on a damaged file.
    except Exception as error:
        raise damaged(path, "not an archive of plain data and tensors") from error
    return meta


def _as_text(name: str, value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = "" if value is None else str(value)
    return text[:HASH] if name in ("weights", "prompts") else text


def _runs_item(runs: pd.DataFrame) -> Item:
    """One row per model and group of files with the same settings; columns with one value become facts."""
    columns, settings = [*runs], [column for column in runs if column not in ("files", "concepts")]
    for column, other, order in (("concepts", "files", CONCEPTS), ("files", "concepts", ())):
        names = runs.groupby([other, *settings], sort=False)[column].agg(list)
        runs = names.map(lambda names, order=order: ", ".join(in_paper_order(names, order))).reset_index()
    shared = [column for column in columns[1:] if runs[column].nunique() == 1]
    facts = [(column, runs[column][0]) for column in shared if runs[column][0]]
    differences = runs[[column for column in columns if column not in shared]]
    caption = "Settings that the result files record. Weights are identified by the first digits of their SHA-256."
    return Item("Result files", caption, tables=[Table("Differences", differences, differences)], facts=facts)


def _data_table(data: pd.DataFrame, models: Sequence[str]) -> Table:
    for column, order in (("concept", CONCEPTS), ("language", LANGUAGES)):
        data[column] = pd.Categorical(data[column], in_paper_order(data[column], order))
    names = data.drop_duplicates().groupby(["concept", "language", "SHA-256"], observed=True)["models"].agg(list)
    table = names.map(lambda names: "all" if len(names) == len(models) else ", ".join(names)).reset_index()
    shown = table.assign(**{"SHA-256": table["SHA-256"].str[:HASH]})
    return Table("SHA-256 of data files", table, shown, folded=True)


def control(res_dir: Path, models: Sequence[str]) -> Section:
    """Section 5: one item for each model, concept and source, then one for each comparison of sources."""
    folders = [
        folder for model in models if is_plain_name(model) for folder in sorted((res_dir / model).glob("*/control"))
    ]
    items = [item for folder in folders for source in sorted(folder.glob("*/")) for item in _source_items(source)]
    for folder in folders:
        concept, model = folder.parent.name, folder.parent.parent.name
        figure = images([folder / "figure_control_sources.png"], f"Heat map of sources against targets, {model}")
        tables = [table_of(read_table(path), path.name) for path in sorted(folder.glob("*.csv"))]
        if figure or tables:
            caption = "Largest change of the refusal rate on harmful prompts, by source (rows) and target (columns)."
            items.append(Item(f"{model}, {concept}: comparison of sources", caption, figure, tables=tables))
    return Section("control", "Stage 5: control", items)


def _source_items(folder: Path) -> list[Item]:
    """The figure, rates and example replies in the folder of a source language, if any."""
    model, concept, source = folder.parts[-4], folder.parts[-3], folder.name
    alt = f"Refusal rate against strength, one panel per target language: {model}, {concept}, source {source}"
    figure = images([folder / "figure_control.png"], alt)
    tables = [table_of(read_table(path), f"All rows of {path.name}") for path in sorted(folder.glob("*.csv"))]
    tables += _examples(folder / "generations.jsonl", source)
    if not figure and not tables:
        return []
    caption = (
        f"Refusal rate of {model} when the {concept} vectors of {source} are added to its hidden states. Positive "
        "strengths point to the concept's positive side; strength 0 is unsteered; bands are 95 % intervals. The "
        "concept has an effect where its line differs from that of random directions. The example replies are the "
        "first of each condition, without selection."
    )
    return [Item(f"{model}, {concept}, source {source}", caption, figure, tables=tables, facts=_steering(folder))]


def _steering(folder: Path) -> list[tuple[str, str]]:
    path = folder / "settings.json"
    if not path.exists():
        return []
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        return [(name.replace("_", " "), text) for name in STEERING if (text := _as_text(name, known.get(name)))]
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise damaged(path, str(error)) from error


def _examples(path: Path, source: str) -> list[Table]:
    """Replies to the first harmful and the first harmless prompt of some languages, at -max, 0 and +max strength.

    Raises:
        UserError: the file is damaged.
    """
    if not path.exists():
        return []
    try:
        with path.open(encoding="utf-8") as file:
            # Unsteered replies and those of the concept come first in the file.
            rows = list(itertools.takewhile(lambda row: row["baseline"] in ("none", "concept"), map(json.loads, file)))
        languages = sorted(dict.fromkeys(str(row["lang"]) for row in rows), key=lambda language: language != source)
        strengths = [row["strength"] for row in rows if row["baseline"] == "concept"] or [0.0]
        conditions = [("concept", min(strengths)), ("none", 0.0), ("concept", max(strengths))]
        replies: list[dict[str, str]] = []
        for language, harmful in itertools.product(languages[:EXAMPLE_LANGUAGES], (True, False)):
            group = [row for row in rows if row["lang"] == language and row["harmful"] is harmful]
            first = [row for row in group if row["id"] == group[0]["id"]]
            by_condition = {(row["baseline"], row["strength"]): _reply(row) for row in reversed(first)}
            replies += [by_condition[condition] for condition in conditions if condition in by_condition]
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise damaged(path, repr(error)) from error
    if not replies:
        return []
    shown = pd.DataFrame(replies)
    values = shown.assign(strength=shown.pop("exact"))
    return [Table("Example replies", values, shown, numeric=["strength"], foreign=["prompt", "reply"], folded=True)]


def _reply(row: dict[str, Any]) -> dict[str, str]:
    return {
        "language": str(row["lang"]),
        "request": "harmful" if row["harmful"] else "harmless",
        "prompt": str(row["prompt"]),
        "strength": "unsteered" if row["baseline"] == "none" else f"{row['strength']:+g}".replace("-", "−"),
        "reply": str(row["reply"]),
        "exact": str(row["strength"]),
    }
