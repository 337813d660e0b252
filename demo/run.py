#!/usr/bin/env python3
"""The paper's five stages on two real models, on a CPU, in about ten minutes: make demo

* multilingual-e5-small, an encoder for about 100 languages: stages 1 to 4, seven concepts in sixteen languages;
* SmolLM2-135M-Instruct, a chat model that reads mostly English: stages 1 to 5, three concepts in three languages.

Both run a second time with random weights (`--untrained`), as the floor of every accuracy. Texts are split by item: all
contexts of an act are either trained on or tested. Results go to demo/res; existing results are kept.
"""

import subprocess
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from demo.commands import ROOT, run, side_by_side
from demo.real_models import CONVERTERS, model_folder
from repe.errors import UserError

RESULTS = "demo/res"
DATA = "demo/pocket/data"
PROMPTS = "demo/pocket/prompts.jsonl"
ENCODER, CHAT = "multilingual-e5-small", "SmolLM2-135M-Instruct"
# What SmolLM2 reads well enough, and what takes a few minutes on one core.
CHAT_SETS = ("--lang", "en", "es", "fr", "--concept", "morality", "truthfulness", "harmfulness")
CONTROL = (
    *("--source-lang", "en", "--target-lang", "en", "es", "--prompts", PROMPTS, "--concept", "harmfulness"),
    *("--strength=-1,0,1", "--baseline", "none,concept,random", "--random-draws", "1", "--max-new-tokens", "32"),
)
FIGURES = (
    "cross_model/figure7_similarity_all.png",
    "cross_model/figure2_recognition_accuracy.png",
    f"{CHAT}-item/harmfulness/control/en/figure_control.png",
)


def options(model: str) -> tuple[str, ...]:
    """The options that name a model and its results."""
    return "--model-path", f"demo/models/real/{model}", "--res-dir", RESULTS, "--split-by", "item"


def recognize(model: str, *more: str) -> None:
    """Stages 1 and 2 of one model."""
    for script in ("collect_vector.py", "recognize_concept.py"):
        run(script, *options(model), "--data-dir", DATA, *more)


def chat_model() -> None:
    """Stages 1, 2 and 5 of the chat model, and its floor."""
    recognize(CHAT, *CHAT_SETS)
    run("control_generation.py", *options(CHAT), *CONTROL)
    recognize(CHAT, "--untrained", *CHAT_SETS)


def main() -> None:
    for name in CONVERTERS:
        model_folder(name)
    side_by_side([partial(recognize, ENCODER), chat_model, partial(recognize, ENCODER, "--untrained")])
    # The two models know different languages, so each has figures and tables of its own, with its floor.
    compared = f"{ENCODER},{ENCODER}-untrained"
    for script in ("recognize_concept.py", "consistency_analysis.py", "transferability_analysis.py"):
        for models, folder in ((compared, "cross_model"), (f"{CHAT},{CHAT}-untrained", "cross_model_chat")):
            where = ("--res-dir", RESULTS, "--out-dir", f"{RESULTS}/{folder}", "--split-by", "item")
            run(script, *where, "--cross-model", models)
    run("-m", "repe", "report", "--res-dir", RESULTS)
    print("\nOpen these first:")
    print(*(f"  {(ROOT / RESULTS / figure).relative_to(ROOT)}" for figure in FIGURES), sep="\n")
    print(f"All figures and tables on one page: {RESULTS}/cross_model/report.html")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except subprocess.CalledProcessError as error:  # its message has been printed
        sys.exit(error.returncode)
