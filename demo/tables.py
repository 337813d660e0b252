#!/usr/bin/env python3
"""Put the tables of demo/README.md, demo/probes/README.md and demo/pocket/README.md between their markers, from the CSV
files in demo/tables and demo/pocket.

python demo/tables.py           write the tables
python demo/tables.py --copy    first copy the CSV files and figures from demo/res, where `make demo-full` wrote them
"""

import argparse
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import pandas as pd

from repe.runs.printed import with_interval

DEMO = Path(__file__).parent
TABLES = DEMO / "tables"
POCKET = DEMO / "pocket/held_out.csv"
PAGES = (DEMO / "README.md", DEMO / "probes/README.md", DEMO / "pocket/README.md")
# Where `make demo-full` writes the files, below demo/res.
SOURCES = {
    "encoder_floors.csv": "cross_model/floors.csv",
    "encoder_intervals.csv": "cross_model/recognition_intervals.csv",
    "encoder_similarity.csv": "cross_model/similarity.csv",
    "encoder_ceilings.csv": "cross_model/similarity_ceilings.csv",
    "encoder_table1.csv": "cross_model/table1_linguistic_correlation.csv",
    "encoder_transfer.csv": "cross_model/transfer.csv",
    "encoder_traits.csv": "cross_model/traits.csv",
    "encoder_noise.csv": "cross_model_folds/noise.csv",
    "encoder_learned.csv": "cross_model_folds/transfer_learned.csv",
    "chat_floors.csv": "cross_model_chat/floors.csv",
    "chat_intervals.csv": "cross_model_chat/recognition_intervals.csv",
    "chat_table1.csv": "cross_model_chat/table1_linguistic_correlation.csv",
    "chat_traits.csv": "cross_model_chat/traits.csv",
    "chat_control.csv": "SmolLM2-135M-Instruct-item/harmfulness/control/en/control.csv",
    "encoder_similarity.png": "cross_model/figure7_similarity_all.png",
    "encoder_floors.png": "cross_model/floors_multilingual-e5-small-item.png",
    "chat_control.png": "SmolLM2-135M-Instruct-item/harmfulness/control/en/figure_control_score.png",
}
ALL = "all"


def read(name: str | Path) -> pd.DataFrame:
    """A table of TABLES, or of another path."""
    return pd.read_csv(TABLES / name, keep_default_na=False, na_values=[""])


def recognition(model: str = "encoder") -> str:
    """A model's accuracy by language, mean over concepts, beside its floors."""
    floors = ["null_mean", "untrained", "text"]
    means = read(f"{model}_floors.csv").groupby("language", sort=False)[floors].mean()
    found = read(f"{model}_intervals.csv").query("concept == @ALL and language != @ALL")
    rows = [
        (
            row.language,
            cell(row.accuracy),
            interval(row.accuracy_low, row.accuracy_high),
            *map(cell, means.loc[row.language]),
        )
        for row in found.itertuples()
    ]
    return markdown(["language", "accuracy", "95 %", "swapped labels", "untrained", "text"], rows)


def by_concept() -> str:
    """The encoder's accuracy by concept, mean over languages, beside its floors."""
    cells = read("encoder_floors.csv")
    names = ["accuracy", "null_mean", "untrained", "text"]
    is_above = {"above": cells["difference_low"] > 0, "margins": cells["p_margin_holm"] < 0.05}
    counts = cells.assign(**is_above).groupby("concept", sort=False)[[*is_above]].sum()
    rows = [
        (
            concept,
            *map(cell, row),
            *(f"{count} of {(cells['concept'] == concept).sum()}" for count in counts.loc[concept]),
        )
        for concept, row in cells.groupby("concept", sort=False)[names].mean().iterrows()
    ]
    heads = ["accuracy", "swapped labels", "untrained", "text", "above every floor", "margins"]
    return markdown(["concept", *heads], rows)


def nearest() -> str:
    """The two languages whose vectors are most similar to a language's, beside random weights and ceilings."""
    rows = []
    table = read("encoder_similarity.csv").query("source != target")
    trained, untrained = twins(table)
    floor = untrained.groupby("source")["similarity"].max()
    ceilings, _ = twins(read("encoder_ceilings.csv").query("source != target"))
    limits = ceilings.groupby("source")[["split_half_source", "corrected"]].median()
    for language, others in trained.groupby("source", sort=False):
        first, second, *_, last = others.sort_values("similarity", ascending=False).itertuples()
        named = [f"{one.target} {cell(one.similarity)}" for one in (first, second, last)]
        rows.append((language, *named, cell(floor[language]), *map(cell, limits.loc[language])))
    heads = ["nearest", "second", "farthest", "nearest, untrained", "two halves", "corrected"]
    return markdown(["language", *heads], rows)


def linguistic(model: str = "encoder") -> str:
    """Table 1: correlation of similarity with linguistic similarity, over pairs of languages."""
    trained, untrained = (table.set_index("distance") for table in twins(read(f"{model}_table1.csv")))
    kinds = ("direct", "split")
    rows = []
    for distance in trained.index:
        found = [(one.loc[distance], kind) for kind in kinds for one in (trained, untrained)]
        rows.append((distance, *(text for row, kind in found for text in correlation(row, kind))))
    heads = [name for kind in kinds for name in (kind, "p (Holm)", f"{kind}, untrained", "p (Holm)")]
    return markdown(["distance", *heads], rows)


def transfer() -> str:
    """Accuracy of other languages' vectors on a language, less that of its own."""
    table = read("encoder_transfer.csv").query("source != target")
    table = table[table["model"] == table["model"].iloc[0]]
    rows = []
    for language, others in table.groupby("target", sort=False):
        english = others[others["source"] == "en"]
        by_english = [(cell(one.delta), interval(one.delta_low, one.delta_high)) for one in english.itertuples()]
        rows.append((language, *(by_english[0] if by_english else ("", "")), cell(others["delta"].mean())))
    return markdown(["target", "from English", "95 %", "mean over sources"], rows)


def noise() -> str:
    """The encoder's accuracy with half of the training pairs damaged, mean over languages and concepts."""
    table = read("encoder_noise.csv").query("language == @ALL and share == 0.5")
    names = ["undamaged", "accuracy", "left_out", "random_labels"]
    rows = [
        (row.kind, *(cell(getattr(row, name)) for name in names), *(change(row, name) for name in ("loss", "excess")))
        for row in table.itertuples()
    ]
    heads = ["undamaged", "damaged", "without these pairs", "random labels", "lost", "lost beyond leaving out"]
    return markdown(["damage", *heads], rows)


def noise_by_language() -> str:
    """What each language loses with half of the training pairs damaged, mean over concepts."""
    table = read("encoder_noise.csv").query("language != @ALL and share == 0.5")
    kinds = list(dict.fromkeys(table["kind"]))
    rows = []
    for language, of in table.groupby("language", sort=False):
        lost = [change(row, "loss") for row in of.itertuples()]
        rows.append((language, cell(of["undamaged"].iloc[0]), *lost))
    return markdown(["language", "undamaged", *(f"lost, {kind}" for kind in kinds)], rows)


def learned() -> str:
    """Transfer between the encoder's languages after learned maps, mean over sources and concepts."""
    table = read("encoder_learned.csv").query("source == @ALL and (target == @ALL or items == @ALL)")
    names = ["accuracy", "shuffled", "own_same_items", "own"]
    rows = [
        (
            *(row.target, row.items),
            *(cell(getattr(row, name)) for name in names),
            *(change(row, name) for name in ("difference", "gain")),
        )
        for row in table.sort_values("target", key=lambda names: names != ALL, kind="stable").itertuples()
    ]
    heads = ["mapped", "shuffled pairs", "target's own, same pairs", "own", "mapped - shuffled", "mapped - unmapped"]
    return markdown(["target", "pairs of the map", *heads], rows)


def chat() -> str:
    """SmolLM2's accuracy by language, mean over concepts, beside its floors."""
    return recognition("chat")


def chat_english() -> str:
    """SmolLM2's accuracy in English by concept, beside its floors."""
    rows = [
        (
            row.concept,
            cell(row.accuracy),
            interval(row.low, row.high),
            cell(row.null_mean),
            cell(row.untrained),
            cell(row.text),
            p_value(row.p_margin_holm),
        )
        for row in read("chat_floors.csv").query("language == 'en'").itertuples()
    ]
    names = ["concept", "accuracy", "95 %", "swapped labels", "untrained", "text", "p (Holm)"]
    return markdown(names, rows)


def chat_linguistic() -> str:
    """Table 1 of SmolLM2."""
    return linguistic("chat")


def control() -> str:
    """SmolLM2's replies under control, English prompts and Spanish ones."""
    table = read("chat_control.csv")
    keys = ["target", "harmful", "strength"]
    random = table[table["baseline"] == "random"].set_index(keys)
    rows = []
    for row in table[table["baseline"] == "concept"].sort_values(keys).itertuples():
        other = random.loc[(row.target, row.harmful, row.strength)]
        score = f"{cell(row.concept_score)} {interval(row.concept_score_low, row.concept_score_high)}"
        kind = "harmful" if str(row.harmful) == "True" else "harmless"
        scores = (score, cell(other.concept_score), cell(row.perplexity), cell(other.perplexity))
        rates = map(cell, (row.repetition, row.refusal_rate, row.target_language_rate))
        rows.append((row.target, kind, f"{row.strength:g}", *scores, *rates))
    names = ["prompts", "kind", "strength", "score", "score, random", "perplexity", "perplexity, random"]
    return markdown([*names, "repetition", "refusals", "language kept"], rows)


def questions() -> str:
    """The paper's questions in numbers, without Table 1, of both models and of their twins with random weights."""
    known = pd.concat([read("encoder_traits.csv"), read("chat_traits.csv")]).dropna(subset="value")
    known = known[~known["trait"].str.startswith("r_")]
    models, rows = list(dict.fromkeys(known["model"])), []
    for (section, meaning), of in known.groupby(["section", "meaning"], sort=False):
        found = of.set_index("model").reindex(models)
        cells = [f"{cell(row.value)} {interval(row.low, row.high)}".strip() for row in found.itertuples()]
        rows.append((section, meaning, *cells))
    return markdown(["section", "number", *(model.removesuffix("-item") for model in models)], rows)


def encoder_cells() -> str:
    """The encoder's accuracy in each concept and language, beside random weights and character n-grams."""
    return cells("encoder_floors.csv")


def chat_cells() -> str:
    """The same of SmolLM2."""
    return cells("chat_floors.csv")


def cells(name: str) -> str:
    """A row a language, a column a concept: accuracy (untrained, text)."""
    table = read(name).set_index(["language", "concept"])
    concepts = list(dict.fromkeys(table.index.get_level_values("concept")))
    rows = []
    for language in dict.fromkeys(table.index.get_level_values("language")):
        found = [table.loc[(language, concept)] for concept in concepts]
        rows.append((language, *(with_floors(one.accuracy, one.untrained, one.text) for one in found)))
    return markdown(["language", *concepts], rows)


def pocket_models() -> str:
    """Accuracy of the pocket models, and in brackets of the same networks with random weights."""
    table = read(POCKET)
    means = table.groupby(["model", "weights"], sort=False)[["accuracy", "held_out"]].mean()
    rows = [
        (model, *(with_floors(means[one][model, "trained"], means[one][model, "random"]) for one in means))
        for model in dict.fromkeys(table["model"])
    ]
    return markdown(["model", "paper's split", "acts held out"], rows)


def pocket_languages() -> str:
    """The same by language, with acts held out."""
    table = read(POCKET).set_index(["model", "weights", "language"])["held_out"]
    models, languages = (list(dict.fromkeys(table.index.get_level_values(one))) for one in ("model", "language"))
    rows = [
        (one, *(with_floors(table[one, "trained", name], table[one, "random", name]) for name in languages))
        for one in models
    ]
    return markdown(["model", *languages], rows)


_TRANSFER = (transfer, noise, noise_by_language, learned)
_CHAT = (chat, chat_english, chat_linguistic, control, questions)
_OTHER_PAGES = (encoder_cells, chat_cells, pocket_models, pocket_languages)
_ALL = (recognition, by_concept, nearest, linguistic, *_TRANSFER, *_CHAT, *_OTHER_PAGES)
BLOCKS: dict[str, Callable[[], str]] = {one.__name__: one for one in _ALL}


def twins(table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of a model and those of its twin with random weights, which follow."""
    trained, untrained = (table[table["model"] == model] for model in table["model"].unique())
    return trained, untrained


def correlation(row: Any, kind: str) -> tuple[str, str]:
    """A correlation of Table 1 with its corrected p-value."""
    return cell(row[kind]), p_value(row[f"{kind}_p_holm"])


def cell(value: float) -> str:
    return "" if pd.isna(value) else f"{value:.2f}"


def with_floors(value: float, *floors: float) -> str:
    return f"{cell(value)} ({', '.join(map(cell, floors))})"


def interval(low: float, high: float) -> str:
    return "" if pd.isna(low) else f"[{low:.2f}, {high:.2f}]"


def change(row: Any, name: str) -> str:
    """A small difference with its 95 % interval."""
    return with_interval(*(getattr(row, name + end) for end in ("", "_low", "_high")), digits=3)


def p_value(value: float) -> str:
    return "" if pd.isna(value) else f"{value:.4f}"


def markdown(names: list[str], rows: list[tuple[object, ...]]) -> str:
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--copy", action="store_true", help="copy the CSV files and figures from demo/res first")
    if parser.parse_args().copy:
        TABLES.mkdir(exist_ok=True)
        for name, source in SOURCES.items():
            shutil.copyfile(DEMO / "res" / source, TABLES / name)
        read("encoder_noise.csv").query("concept == @ALL").to_csv(TABLES / "encoder_noise.csv", index=False)
    written = {path: path.read_text(encoding="utf-8") for path in PAGES}
    for name, block in BLOCKS.items():
        pattern = re.compile(f"(<!-- {name} -->).*?(<!-- /{name} -->)", flags=re.DOTALL)
        (page,) = (path for path, text in written.items() if pattern.search(text))
        written[page] = pattern.sub(rf"\1\n{block()}\n\2", written[page])
    for path, text in written.items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
