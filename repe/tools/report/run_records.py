"""The runs behind the figures: settings from the meta of result files, and control experiments."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from repe.control.reply_file import REPLIES, SETTINGS_FILE
from repe.files import check_inside, entries, exists, is_plain_name
from repe.results.meta import read_meta
from repe.tools.report.parts import Item, images, read, read_table

HASH = 12  # digits shown of a SHA-256
CONTENTS = {"reader_dict": "vectors", "acc": "accuracies"}
SHOWN = (
    *("source", "revision", "weights", "family", "template", "special_tokens", "truncate", "dtype", "split"),
    *("split_by", "folds", "method", "random_direction", "seed", "versions"),
)
DOWNLOAD = "released download (.pk), which does not record its settings"
NO_FILES = "no result files in the results folder"
# Settings of control that the result files do not have.
STEERING = (
    *("layers", "operator", "scope", "strength_unit", "max_new_tokens"),
    *("temperature", "top_p", "num_beams", "prompts"),
)
EXAMPLE_LANGUAGES = 4
EXAMPLE_FIELDS = ("id", "lang", "harmful", "strength", "baseline", "prompt", "reply")


def settings(res_dir: Path, models: Sequence[str]) -> list[Item]:
    """How the models' result files were made, and from which data."""
    runs, data = [], []
    for model in models:
        # A table may have any text as a model: a name with a path in it must not lead out of the folder.
        paths = entries(res_dir / model, "*/*.p[tk]") if is_plain_name(model) else []
        found = [path for path in paths if path.stem.endswith(tuple(CONTENTS))]
        for path in found:
            concept, files = path.parent.name, next(CONTENTS[stem] for stem in CONTENTS if path.stem.endswith(stem))
            meta = {} if path.suffix == ".pk" else read_meta(path)
            made_by = DOWNLOAD if path.suffix == ".pk" else "this software"
            runs.append(
                {"model": model, "files": files, "concepts": concept, "made by": made_by, **_texts(meta, SHOWN)}
            )
            data += [(concept, language, str(sha)[:HASH], model) for language, sha in meta.get("data", {}).items()]
        if not found:
            runs.append({"model": model, "made by": NO_FILES})
    items = [_runs_item(pd.DataFrame(runs).fillna(""))]
    if data:
        keys = ["concept", "language", "SHA-256"]
        tables = {"SHA-256 of data files": _joined(pd.DataFrame(data, columns=[*keys, "models"]), "models", keys)}
        caption = "Data files that the results were made from. Files with the same SHA-256 are identical."
        items.append(Item("Data", caption, tables=tables))
    return items


def _texts(known: Mapping[str, Any], names: Sequence[str]) -> dict[str, str]:
    """Those settings that are known, as texts under the names that the page shows."""
    texts = {}
    for name in names:
        value = known.get(name)
        if isinstance(value, dict):
            value = [f"{key} {item}" for key, item in value.items()]
        text = ", ".join(map(str, value)) if isinstance(value, list) else "" if value is None else str(value)
        text = text[:HASH] if name in ("weights", "prompts") else text
        if name == "prompts" and text:  # the digest of the file, after its name
            text = f"{known.get('prompts_name', 'file')} (SHA-256 {text})"
        text.encode()  # refuses half a surrogate pair, which the page cannot hold
        texts[name.replace("_", " ")] = text
    return {name: text for name, text in texts.items() if text}


def _joined(table: pd.DataFrame, column: str, keys: list[str]) -> pd.DataFrame:
    """One row for each group of rows that agree in `keys`, with their values of `column` in one cell."""
    return table.groupby(keys, sort=False)[column].agg(lambda values: ", ".join(dict.fromkeys(values))).reset_index()


def _runs_item(runs: pd.DataFrame) -> Item:
    """One row per model and group of files with the same settings; columns with one value become facts."""
    columns = [str(column) for column in runs]
    for column in ("concepts", "files"):
        runs = _joined(runs, column, [name for name in columns if name != column]) if column in runs else runs
    shared = [column for column in columns if runs[column].nunique() == 1 and column != "model"]
    caption = "Settings that the result files record. Weights are identified by the first digits of their SHA-256."
    tables = {"Differences": runs[columns].drop(columns=shared)}
    return Item("Result files", caption, tables=tables, facts={column: runs[column][0] for column in shared})


def control(res_dir: Path, models: Sequence[str]) -> list[Item]:
    """Section 5: one item for each model, concept and source, then one for each comparison of sources."""
    folders = [
        check_inside(folder, res_dir / model)
        for model in models
        if is_plain_name(model)
        for folder in entries(res_dir / model, "*/control")
    ]
    # Replies with the first settings are in the source's folder, others in folders below it.
    items = [
        _source_item(path, path.relative_to(folder).parts)
        for folder in folders
        for path in sorted([*entries(folder, "*"), *entries(folder, "*/*")])
        if path.is_dir()
    ]
    caption = "Change from the lowest to the highest strength by language of the prompts, for each source language."
    for folder in folders:
        title = f"{folder.parent.parent.name}, {folder.parent.name}: comparison of sources"
        items.append(Item(title, caption, images(folder, "figure_control_sources"), _tables(folder)))
    return items


def _tables(folder: Path) -> dict[str, pd.DataFrame]:
    return {path.name: read_table(path) for path in entries(folder, "*.csv")}


def _source_item(folder: Path, names: tuple[str, ...]) -> Item:
    """The figures, measures and example replies in the folder of a source language and, in a second part, settings."""
    model, concept = folder.parts[-3 - len(names) : -1 - len(names)]
    source = names[0]
    tables, facts = _tables(folder), {}
    if exists(path := folder / REPLIES):
        tables["Example replies"] = read(path, lambda path: _examples(path, source))
    if exists(path := folder / SETTINGS_FILE):
        facts = read(path, lambda path: _texts(json.loads(path.read_text(encoding="utf-8")), STEERING))
    caption = (
        f"Replies of {model} when the {concept} vectors of {source} are added to its hidden states: refusal rate (of "
        "prompts that are marked as harmful or harmless) and concept score. Positive "
        "strengths point to the concept's positive side; strength 0 is unsteered; bands are 95 % intervals. The "
        "concept has an effect where its line differs from that of random directions. The example replies are the "
        "first of each condition, without selection."
    )
    title = ", ".join([model, concept, f"source {source}", *names[1:]])
    drawn = images(folder, "figure_control", "figure_control_score", "figure_tune")
    return Item(title, caption, drawn, tables, facts=facts)


def _examples(path: Path, source: str) -> pd.DataFrame:
    """Replies to the first harmful and harmless prompt of some languages, at -max, 0 and +max strength."""
    # splitlines would also split at characters that are valid in a reply, such as U+2028.
    lines = path.read_bytes().decode().removesuffix("\n").split("\n")
    found = [json.loads(line) for line in lines]
    # Other fields are left out here: a table has a cell for each field of each line.
    rows = pd.DataFrame([{name: row[name] for name in EXAMPLE_FIELDS} for row in found])
    rows = rows[rows["baseline"].isin(["none", "concept"])].rename(columns={"lang": "language"})
    rows["request"] = rows["harmful"].map({True: "harmful", False: "harmless"}).fillna("")
    ends = rows["strength"].isin([rows["strength"].min(), 0, rows["strength"].max()])
    prompt = ["language", "request"]
    first = rows["id"] == rows.groupby(prompt)["id"].transform("first")
    languages = sorted(rows["language"].unique(), key=lambda language: language != source)[:EXAMPLE_LANGUAGES]
    rows["language"] = pd.Categorical(rows["language"], languages)
    "".join(rows["prompt"] + rows["reply"]).encode()  # half a surrogate pair cannot be written
    shown = rows[ends & first].dropna(subset="language").drop_duplicates([*prompt, "strength"])
    return shown.sort_values([*prompt, "strength"])[[*prompt, "prompt", "strength", "reply"]]
