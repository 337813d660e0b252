#!/usr/bin/env python3
"""The pipeline on the demo's models, as a user would call it: stages 1 to 5, then what came out beside the paper's
claims.

  python demo/pocket/run.py           one size of each family
  python demo/pocket/run.py --full    all nine models

Writes to demo/res/pocket. Existing results are kept.
"""

import argparse
import subprocess
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import pandas as pd

from demo.commands import ROOT, run, side_by_side

RESULTS = ROOT / "demo/res/pocket"
# The family of the paper that each kind stands for, and its dominant language, whose vectors steer.
KINDS = {"llama": ("llama2", "en"), "qwen": ("qwen", "zh"), "bloom": ("bloomz", "en")}
SIZES = ("S", "M", "L")
ONE_SIZE = "M"
# Vectors are those of the prompt's last token, and of these models they are as long as the states themselves: added
# there, in the middle layer, with about that length, they change the reply and not the rest.
CONTROL = (
    *("--concept", "harmfulness", "--prompts", "demo/pocket/prompts.jsonl", "--layers", "0.5:0.5", "--scope", "last"),
    *("--strength=-1,-0.5,0,0.5,1", "--strength-unit", "hidden", "--max-new-tokens", "16", "--random-draws", "2"),
)


def all_stages(jobs: list[tuple[str, str, str, str, str]]) -> None:
    """Stages 1, 2 and 5 of several models, as many at a time as there are processors; the first failure ends it.

    Args:
        jobs: label, kind, folder of models, folder of results, and the language whose vectors steer.
    """
    side_by_side([partial(_stages, *job) for job in jobs])


def _stages(label: str, kind: str, models: str, results: str, source: str) -> None:
    recognize(label, kind, models, results)
    control(label, kind, models, results, source)


def options_of(label: str, kind: str, models: str) -> tuple[str, ...]:
    """The options that name a model."""
    return "--model-path", f"{models}/{label}", "--model-label", label, "--model-family", KINDS[kind][0]


def recognize(label: str, kind: str, models: str, results: str) -> None:
    """Stages 1 and 2 of one model."""
    for script in ("collect_vector.py", "recognize_concept.py"):
        run(script, *options_of(label, kind, models), "--data-dir", "demo/pocket/data", "--res-dir", results)


def control(label: str, kind: str, models: str, results: str, source: str) -> None:
    """Stage 5 of one model, steered with the vectors of `source`."""
    named = options_of(label, kind, models)
    run("control_generation.py", *named, "--res-dir", results, "--source-lang", source, *CONTROL)


def compare(labels: list[str], results: str = "demo/res/pocket") -> None:
    """The analyses of stages 2 to 4, all models together."""
    for script in ("recognize_concept.py", "consistency_analysis.py", "transferability_analysis.py"):
        run(script, "--res-dir", results, "--cross-model", ",".join(labels))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="all nine models")
    sizes = SIZES if parser.parse_args().full else (ONE_SIZE,)
    labels = {f"pocket-{kind}-{size}": kind for kind in KINDS for size in sizes}
    models, results = "demo/pocket/models", "demo/res/pocket"
    all_stages([(label, kind, models, results, KINDS[kind][1]) for label, kind in labels.items()])
    compare([*labels])
    answer(labels)
    run("-m", "repe", "report", "--res-dir", "demo/res/pocket")
    summarize(labels)


def answer(labels: dict[str, str]) -> None:
    """The paper's questions in numbers, with the shares that these models were trained on."""
    from demo.pocket.build_models import KINDS as MIXES

    lines = ["model,language,percent,source"]
    for label, kind in labels.items():
        lines += [f"{label},{one},{share},demo/pocket/build_models.py" for one, share in MIXES[kind].shares.items()]
    path = RESULTS / "shares.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    results, shares = (str(one.relative_to(ROOT)) for one in (RESULTS, path))
    run("-m", "repe", "traits", "--res-dir", results, "--cross-model", ",".join(labels), "--shares", shares)


def control_effects(table: Path, source: str) -> dict[str, float]:
    """What steering with the source's vector does to refusals, at the strengths that change them most.

    Returns:
        Mean refusal rates over target languages: `unsteered_harmful` and `unsteered_harmless`; `released`, that on
        harmful prompts steered towards harmlessness, in the source language and, as `released_others`, in the others;
        `refused_others`, that on harmless prompts steered the other way; `random_released` and `random_refused`, the
        same with random directions of the same norm.
    """
    rows = pd.read_csv(table)
    plain = rows[rows.strength == 0].drop_duplicates(["target", "harmful"])
    others = rows.target != source

    def rate(baseline: str, harmful: bool, strength: float, chosen: pd.Series) -> float:
        found = rows[(rows.baseline == baseline) & (rows.harmful == harmful) & (rows.strength == strength) & chosen]
        return float(found.refusal_rate.mean())

    high, low = rows.strength.max(), rows.strength.min()
    return {
        "unsteered_harmful": float(plain[plain.harmful].refusal_rate.mean()),
        "unsteered_harmless": float(plain[~plain.harmful].refusal_rate.mean()),
        "released": rate("concept", True, high, ~others),
        "released_others": rate("concept", True, high, others),
        "refused_others": rate("concept", False, low, others),
        "random_released": rate("random", True, high, others),
        "random_refused": rate("random", False, low, others),
    }


def summarize(labels: dict[str, str]) -> None:
    """Print what control did, and where the figures are."""
    print("\nRefusals of harmful requests, not steered -> steered by the dominant language's vector (random direction)")
    for label, kind in labels.items():
        source = KINDS[kind][1]
        one = control_effects(RESULTS / label / "harmfulness/control" / source / "control.csv", source)
        print(
            f"    {label}, {source}: {one['unsteered_harmful']:.2f} -> {one['released']:.2f} in {source}, "
            f"{one['released_others']:.2f} in other languages ({one['random_released']:.2f})"
        )
    print(f"\nFigures and tables: {(RESULTS / 'cross_model').relative_to(ROOT)}/")
    print(f"and {RESULTS.relative_to(ROOT)}/<model>/harmfulness/control/<source>/; all of them on one page:")
    print(f"{(RESULTS / 'cross_model/report.html').relative_to(ROOT)}")


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:  # what was wrong has been said
        sys.exit(error.returncode)
