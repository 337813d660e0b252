"""What the report says of the runs behind the figures: settings from result files' meta, and control."""

import io
import itertools
import json
import pickle
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from repe.files import Zip, is_plain_name
from repe.paper import CONCEPTS, LANGUAGES, in_paper_order
from repe.tools.report.parts import Cell, Column, Item, Section, Table, damaged, images, read_table, table_of

HASH = 12  # digits shown of a SHA-256
KINDS = {"reader_dict": "vectors", "acc": "accuracies"}
SHOWN = (
    *("source", "revision", "weights", "family", "template", "special_tokens", "truncate", "dtype", "split"),
    *("split_by", "method", "random_direction", "seed", "versions"),
)
DOWNLOAD = "a released download (.pk), which does not say what made it"
NOTHING = "no result files in the results folder"
# Of control's settings, those that are not the vectors' own, which the table of result files has.
STEERING = (
    *("layers", "operator", "scope", "strength_unit", "calibrated_on", "max_new_tokens", "temperature", "top_p"),
    *("num_beams", "prompts"),
)
EXAMPLE_LANGUAGES = 4


def settings(res_dir: Path, models: Sequence[str]) -> Section:
    """What made the result files of the models, a row where all concepts agree, and from which data."""
    files: defaultdict[tuple[str, tuple[str, ...]], defaultdict[str, set[str]]]
    files = defaultdict(lambda: defaultdict(set))
    data: defaultdict[tuple[str, str, str], set[str]] = defaultdict(set)
    for model in models:
        found = list(_result_files(res_dir, model))
        for path, kind in found:
            concept, meta = path.parent.name, _meta(path)
            made_by = DOWNLOAD if path.suffix == ".pk" else "this software"
            files[model, (made_by, *(_told(name, meta.get(name)) for name in SHOWN))][kind].add(concept)
            for language, digest in meta.get("data", {}).items():
                data[concept, str(language), str(digest)].add(model)
        if not found:
            files[model, (NOTHING, *[""] * len(SHOWN))]["none"] = set()
    columns = ["model", "files", "concepts", "made by", *(name.replace("_", " ") for name in SHOWN)]
    rows = []
    for (model, told), by_kind in files.items():
        by_concepts: defaultdict[tuple[str, ...], list[str]] = defaultdict(list)
        for kind, concepts in by_kind.items():
            by_concepts[tuple(in_paper_order(concepts, CONCEPTS))].append(kind)
        rows += [
            [model, ", ".join(sorted(kinds)), ", ".join(concepts), *told] for concepts, kinds in by_concepts.items()
        ]
    facts, table = _without_constants(columns, rows)
    caption = (
        "What the result files say of how they were made. Weights and data are named by the first digits of their "
        "SHA-256."
    )
    items = [Item("Result files", caption, tables=[table], facts=facts)] if rows else []
    if data:
        caption = "The data files that vectors and accuracies were made from: the same digits are the same bytes."
        items.append(Item("Data", caption, tables=[_data_table(data, models)]))
    return Section("settings", "What was run", items)


def _result_files(res_dir: Path, model: str) -> Iterable[tuple[Path, str]]:
    """A model's result files, with the kind of what they hold."""
    # A table may name anything; a path is made of it only if it stays in the folder.
    if is_plain_name(model):
        for path in sorted((res_dir / model).glob("*/*.p[tk]")):
            for stem, kind in KINDS.items():
                if path.stem == stem or path.stem.endswith(f"_{stem}"):
                    yield path, kind


class _Skipped:
    """Whatever a pickle calls and what that gives: it does nothing."""

    __slots__ = ()

    def __call__(self, *_: Any) -> "_Skipped":
        return self

    def __setstate__(self, state: Any) -> None: ...


class _PlainData(pickle.Unpickler):
    """The plain data of a PyTorch archive; tensors and all that is no plain data are skipped, and nothing is run."""

    def find_class(self, module: str, name: str) -> Any:
        return _Skipped()

    def persistent_load(self, pid: Any) -> None: ...


def _meta(path: Path) -> dict[str, Any]:
    """What a result file says of itself, without its tensors, which may take gigabytes; nothing of a download.

    Raises:
        UserError: the file is damaged.
    """
    if path.suffix == ".pk":
        return {}
    try:
        with Zip(path) as archive:
            (member,) = (name for name in archive.namelist() if name.endswith("data.pkl"))
            meta = _PlainData(io.BytesIO(archive.read(member))).load()["meta"]
        if not isinstance(meta, dict) or not isinstance(meta.get("data", {}), dict):
            raise ValueError("no meta")
    # Pickles and archives raise many types where they are damaged.
    except Exception as error:
        raise damaged(path, "no archive of plain data and tensors") from error
    return meta


def _told(name: str, value: object) -> str:
    """A setting in words."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {one}" for key, one in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if name in ("weights", "prompts"):
        return str(value or "")[:HASH]
    return "" if value is None else str(value)


def _without_constants(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> tuple[list[tuple[str, str]], Table]:
    """What all rows share, as facts, and a table of the rest; the first column always stays."""
    shared = {place for place in range(1, len(columns)) if len({row[place] for row in rows}) == 1}
    facts = [(columns[place], rows[0][place]) for place in sorted(shared) if rows[0][place]]
    kept = [place for place in range(len(columns)) if place not in shared]
    cells = [[Cell(row[place]) for place in kept] for row in rows]
    return facts, Table("What differs", [Column(columns[place]) for place in kept], cells)


def _data_table(data: dict[tuple[str, str, str], set[str]], models: Sequence[str]) -> Table:
    concepts = in_paper_order((concept for concept, _, _ in data), CONCEPTS)
    languages = in_paper_order((language for _, language, _ in data), LANGUAGES)
    keys = sorted(data, key=lambda key: (concepts.index(key[0]), languages.index(key[1]), key[2]))
    rows = [
        [
            *(Cell(concept), Cell(language), Cell(digest[:HASH], digest)),
            Cell("all" if len(data[concept, language, digest]) == len(models) else
                 ", ".join(model for model in models if model in data[concept, language, digest])),
        ]
        for concept, language, digest in keys
    ]  # fmt: skip
    return Table("SHA-256 of data files", [Column(n) for n in ("concept", "language", "SHA-256", "models")], rows, True)


def control(res_dir: Path, models: Sequence[str]) -> Section:
    """Stage 5, of all models that have it: an item a model, concept and source, then those of several sources."""
    folders = [
        folder for model in models if is_plain_name(model) for folder in sorted((res_dir / model).glob("*/control"))
    ]
    items = [item for folder in folders for source in sorted(folder.glob("*/")) for item in _steered(source)]
    for folder in folders:
        concept, model = folder.parent.name, folder.parent.parent.name
        figure = images([folder / "figure_control_sources.png"], f"Heat map of sources against targets, {model}")
        tables = [table_of(read_table(path), path.name) for path in sorted(folder.glob("*.csv"))]
        if figure or tables:
            caption = (
                "The largest change of the refusal rate on harmful prompts, by source (rows) and target (columns)."
            )
            items.append(Item(f"{model}, {concept}: sources compared", caption, figure, tables=tables))
    return Section("control", "Stage 5: control", items)


def _steered(folder: Path) -> list[Item]:
    """The figure, rates and replies in the folder of a source language, if any."""
    model, concept, source = folder.parts[-4], folder.parts[-3], folder.name
    alt = f"Refusal rate against strength, a panel a target language: {model}, {concept}, source {source}"
    figure = images([folder / "figure_control.png"], alt)
    tables = [table_of(read_table(path), f"Every row of {path.name}") for path in sorted(folder.glob("*.csv"))]
    tables += _examples(folder / "generations.jsonl", source)
    if not figure and not tables:
        return []
    caption = (
        f"How often {model} refuses as {source}'s {concept} vectors are added to its states: positive strengths point "
        "to the concept's positive side, strength 0 is not steered, bands are 95 % intervals. An effect of the "
        "concept shows where its line leaves the random direction's. The replies are the first of each kind, not "
        "chosen."
    )
    return [Item(f"{model}, {concept}, source {source}", caption, figure, tables=tables, facts=_steering(folder))]


def _steering(folder: Path) -> list[tuple[str, str]]:
    path = folder / "settings.json"
    if not path.exists():
        return []
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        return [(name.replace("_", " "), told) for name in STEERING if (told := _told(name, known.get(name)))]
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise damaged(path, str(error)) from error


def _examples(path: Path, source: str) -> list[Table]:
    """The replies to the first harmful and the first harmless prompt of a few languages, at the ends and the middle.

    Raises:
        UserError: the file is damaged.
    """
    if not path.exists():
        return []
    try:
        with path.open(encoding="utf-8") as file:
            # Replies stand in a fixed order, unsteered ones and the concept's first.
            rows = list(itertools.takewhile(lambda row: row["baseline"] in ("none", "concept"), map(json.loads, file)))
        languages = sorted(dict.fromkeys(str(row["lang"]) for row in rows), key=lambda language: language != source)
        strengths = [row["strength"] for row in rows if row["baseline"] == "concept"] or [0.0]
        wanted = [("concept", min(strengths)), ("none", 0.0), ("concept", max(strengths))]
        cells = []
        for language, harmful in itertools.product(languages[:EXAMPLE_LANGUAGES], (True, False)):
            kind = [row for row in rows if row["lang"] == language and row["harmful"] is harmful]
            for baseline, strength in wanted:
                alike = (
                    row
                    for row in kind
                    if row["id"] == kind[0]["id"] and row["baseline"] == baseline and row["strength"] == strength
                )
                cells += [_reply(row) for row in itertools.islice(alike, 1)]
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise damaged(path, repr(error)) from error
    columns = [Column(name, name == "strength") for name in ("language", "request", "prompt", "strength", "reply")]
    return [Table("Example replies", columns, cells, folded=True)] if cells else []


def _reply(row: dict[str, Any]) -> list[Cell]:
    language = str(row["lang"])
    strength = "not steered" if row["baseline"] == "none" else f"{row['strength']:+g}".replace("-", "−")
    return [
        *(Cell(language), Cell("harmful" if row["harmful"] else "harmless"), Cell(str(row["prompt"]), "", language)),
        *(Cell(strength, str(row["strength"])), Cell(str(row["reply"]), "", language)),
    ]
