#!/usr/bin/env python3
"""Change the mix of languages, one thing at a time, and see what becomes of the traits and of control.

  python demo/pocket/mix.py                    all variants, three seeds: about an hour and a half on two cores
  python demo/pocket/mix.py --only llama zh    some variants

Trains models of size M into demo/res/pocket/mix/models, runs stages 1 to 5 on each, and writes demo/pocket/mix.csv (one
row per model), and prints the table of demo/pocket/README.md. Existing models and results are kept.
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import pandas as pd
import torch

from demo.pocket import build_models, run
from demo.pocket.build_models import KINDS, Recipe
from repe.paper import DISTANCES, FAMILIES

DEMO = Path(__file__).parent
OUT = run.RESULTS / "mix"
SEEDS = (1, 2, 3)
SIZE = "M"


def swapped(shares: dict[str, float], first: str, second: str) -> dict[str, float]:
    """`shares` with those of two languages exchanged."""
    return shares | {first: shares[second], second: shares[first]}


@dataclass(frozen=True)
class Variant:
    """One way to make models."""

    meaning: str
    recipe: Recipe
    source: str
    """The dominant language, whose vectors steer."""


_ENGLISH = KINDS["llama"].shares
VARIANTS = {
    "llama": Variant("English dominates", Recipe("llama", SIZE), "en"),
    "qwen": Variant("Chinese and English dominate", Recipe("qwen", SIZE), "zh"),
    "bloom": Variant("balanced", Recipe("bloom", SIZE), "en"),
    "zh": Variant(
        "English-dominated mix, but Chinese in its place",
        Recipe("llama", SIZE, shares=swapped(_ENGLISH, "en", "zh")),
        "zh",
    ),
    "unbalanced": Variant(
        "balanced mix made unbalanced: the shares of llama", Recipe("bloom", SIZE, shares=_ENGLISH), "en"
    ),
    "own-words": Variant(
        "English dominates, no mark is shared: verdicts in each language's own words",
        Recipe("llama", SIZE, shared_marks=False),
        "en",
    ),
    "translated": Variant(
        "likewise, but a fifth of the lines are a sentence and its translation",
        Recipe("llama", SIZE, shared_marks=False, translations=0.2),
        "en",
    ),
}


# The balanced family's languages of high share: among these the paper expects transfer both ways.
EIGHT = FAMILIES["bloomz"].high_resource

# Columns of the table in demo/pocket/README.md, and what of demo/pocket/mix.csv they show.
SHOWN = {
    "accuracy": lambda rows: rows.accuracy,
    "accuracy, rich - poor": lambda rows: rows.rich_accuracy,
    "similarity, rich - poor": lambda rows: rows.rich_similarity,
    "r, linguistic": lambda rows: rows.linguistic,
    "transfer, down - up": lambda rows: rows.one_way,
    "the same, eight": lambda rows: rows.one_way_eight,
    "still refused, own": lambda rows: rows.released,
    "taken away, others": lambda rows: rows.random_released - rows.released_others,
    "brought about, others": lambda rows: rows.refused_others - rows.random_refused,
}


def label_of(name: str, seed: int) -> str:
    """Results folder of one model."""
    return f"{name}-{seed}"


def train(names: list[str]) -> None:
    """Train the models that are not there."""
    recipes = {
        label_of(name, seed): Recipe(**(vars(VARIANTS[name].recipe) | {"seed": seed}))
        for name in names
        for seed in SEEDS
        if not (OUT / "models" / label_of(name, seed) / "model.safetensors").exists()
    }
    if recipes:
        build_models.build_models(recipes, OUT / "models", "cuda" if torch.cuda.is_available() else "cpu")


def measure(names: list[str]) -> pd.DataFrame:
    """Stages 1 to 5 of each model, and its traits."""
    place = str(OUT.relative_to(run.ROOT))
    labels = {label_of(name, seed): name for name in names for seed in SEEDS}
    run.all_stages(
        [
            (label, VARIANTS[name].recipe.kind, f"{place}/models", place, VARIANTS[name].source)
            for label, name in labels.items()
        ]
    )
    run.compare([*labels], place)
    rows = []
    for name in names:
        variant = VARIANTS[name]
        family = FAMILIES[run.KINDS[variant.recipe.kind][0]]
        shares = variant.recipe.shares or KINDS[variant.recipe.kind].shares
        answers = traits([label_of(name, seed) for seed in SEEDS], family.axis, shares, place, f"{place}/{name}")
        for seed in SEEDS:
            label = label_of(name, seed)
            table = OUT / label / "harmfulness/control" / variant.source / "control.csv"
            rows.append({"variant": name, "seed": seed} | answers[label] | run.control_effects(table, variant.source))
    return pd.DataFrame(rows)


def halves(shares: dict[str, float], languages: Sequence[str]) -> tuple[list[str], list[str]]:
    """Rich and poor: the first and the last half of `languages` in the order of their shares."""
    order = sorted(languages, key=lambda language: -shares.get(language, 0.0))
    half = len(order) // 2
    return order[:half], order[half:]


def traits(
    labels: list[str], axis: Sequence[str], shares: dict[str, float], results: str, out_dir: str
) -> dict[str, dict[str, float]]:
    """What `python -m repe traits` says of models with the same mix, with the rich half as high-resource languages.

    Args:
        labels: of the models.
        axis: languages of their cross-lingual figures, an even number.
        shares: percent of their text by language.
        results: folder of results, with the tables of `run.compare`.
        out_dir: folder for the traits.

    Returns:
        By label. accuracy: mean over languages; rich_accuracy: that of rich languages minus that of poor ones;
        rich_similarity: similarity among rich languages minus that among poor ones; linguistic: Table 1's direct r,
        mean over distances; one_way: transfer from rich to poor languages minus the reverse; one_way_eight: the same
        within EIGHT.
    """
    rich, poor = halves(shares, axis)
    found = {}
    for part, options in {
        "all": ("--high-resource", *rich),
        "eight": ("--high-resource", *halves(shares, EIGHT)[0], "--lang", *EIGHT),
    }.items():
        where = ("--res-dir", results, "--out-dir", f"{out_dir}/{part}", "--cross-model", ",".join(labels))
        run.run("-m", "repe", "traits", *where, *options)
        table = pd.read_csv(run.ROOT / out_dir / part / "traits.csv")
        found[part] = table.pivot(index="model", columns="trait", values="value")
    table = pd.read_csv(run.ROOT / results / "cross_model/table6_recognition_accuracy.csv")
    accuracy = table.pivot_table(index="model", columns="language", values="accuracy")
    values = pd.DataFrame(
        {
            "accuracy": found["all"]["accuracy"],
            "rich_accuracy": accuracy[rich].mean(axis=1) - accuracy[poor].mean(axis=1),
            "rich_similarity": found["all"]["similarity_high"],
            "linguistic": found["all"][[f"r_{distance}_direct" for distance in DISTANCES]].mean(axis=1),
            "one_way": found["all"]["one_way"],
            "one_way_eight": found["eight"]["one_way"],
        }
    )
    return values.loc[labels].to_dict("index")  # type: ignore[return-value]


def interval(values: list[float]) -> tuple[float, float, float]:
    """Mean and 95 % interval over seeds, by Student's t."""
    from scipy.stats import t

    mean = float(np.mean(values))
    half = float(t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
    return mean, mean - half, mean + half


def as_markdown(table: pd.DataFrame) -> str:
    """Means over seeds with 95 % intervals, a row a variant."""
    lines = ["| variant | " + " | ".join(SHOWN) + " |", "|---" * (len(SHOWN) + 1) + "|"]
    for name, rows in table.groupby("variant", sort=False):
        cells = []
        for values in SHOWN.values():
            mean, low, high = (round(value, 2) + 0.0 for value in interval([*values(rows)]))
            cells.append(f"{mean:.2f} [{low:.2f}, {high:.2f}]")
        lines.append(f"| {name}: {VARIANTS[str(name)].meaning} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=[*VARIANTS], help="variants (default: all)")
    names = parser.parse_args().only
    train(names)
    table = measure(names).round(4)
    table.to_csv(DEMO / "mix.csv", index=False)
    print(as_markdown(table))


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:  # what was wrong has been said
        sys.exit(error.returncode)
