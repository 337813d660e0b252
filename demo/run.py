#!/usr/bin/env python3
"""The paper's five stages on two real models, on a CPU: make demo

* multilingual-e5-small, an encoder for about 100 languages: stages 1 to 4, seven concepts in sixteen languages;
* SmolLM2-135M-Instruct, a chat model that reads mostly English: stages 1 to 5, three concepts in English and Spanish.

Both also run with random weights (`--untrained`), as a floor of accuracy, in a few of these languages. With --full both
models and their floors have all concepts and languages, there are more prompts, and the encoder's vectors are tried
with damaged text and after learned maps: these are the results in demo/README.md. The text is the probe set in
demo/probes, split by item, so that no item is both trained on and tested. Results go to demo/res; existing results are
kept.
"""

import argparse
import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

from demo.commands import ROOT, run, side_by_side
from demo.real_models import CONVERTERS, model_folder
from repe.errors import UserError
from repe.paper import CONCEPTS

RESULTS = "demo/res"
DATA = "demo/probes/data"
STATES = ("--cache-states", f"{RESULTS}/states")
ENCODER, CHAT = "multilingual-e5-small", "SmolLM2-135M-Instruct"
SEEDS = (1,)  # of random weights


class Size(NamedTuple):
    """How much is run, as options; without a concept or language, all of them."""

    chat: tuple[str, ...]
    """Concepts and languages of SmolLM2."""
    chat_floor: tuple[str, ...]
    """Those of its twin with random weights."""
    encoder_floor: tuple[str, ...]
    """Those of the encoder's."""
    prompts: int
    """Harmful and harmless prompts in each language."""
    compare_floors: bool
    """Whether the twins have all languages, so that all figures can show them too, and keep their states."""


# Three concepts, because a text takes SmolLM2 ten times as long as the encoder.
CHAT_CONCEPTS = ("--concept", "morality", "truthfulness", "harmfulness")
QUICK = Size((*CHAT_CONCEPTS, "--lang", "en", "es"), (*CHAT_CONCEPTS, "--lang", "en"), ("--lang", "en", "sw"), 4, False)
FULL = Size((), (), (), 12, True)
# The first prompts of the probe set: harmful and harmless ones, in each language.
PROMPTS, PROMPT_LANGUAGES = f"{RESULTS}/prompts.jsonl", ("en", "es")
CONTROL = (
    *("--source-lang", "en", "--target-lang", *PROMPT_LANGUAGES, "--prompts", PROMPTS, "--concept", "harmfulness"),
    *("--baseline", "none,concept,random", "--random-draws", "1", "--max-new-tokens", "32"),
)
# What their model cards say of the training data: SmolLM2's is primarily English; of the encoder's labelled data,
# English and Chinese alone have data sets of their own. Neither card names shares.
HIGH_RESOURCE = {CHAT: ("--high-resource", "en"), ENCODER: ("--high-resource", "en", "zh")}
# Languages of four families whose text is damaged, and those between which maps are learned: more would take long.
DAMAGED, MAPPED = ("--lang", "en", "zh", "ta", "sw"), ("--lang", "en", "zh", "sw")
FIGURES = (
    "cross_model/figure7_similarity_all.png",
    f"cross_model/floors_{ENCODER}-item.png",
    f"{CHAT}-item/harmfulness/control/en/figure_control_score.png",
)


def options(model: str) -> tuple[str, ...]:
    """The options that name a model and its results."""
    return "--model-path", f"demo/models/real/{model}", "--res-dir", RESULTS, "--split-by", "item"


def recognize(model: str, *more: str) -> None:
    """Stages 1 and 2 of one model."""
    for script in ("collect_vector.py", "recognize_concept.py"):
        run(script, *options(model), "--data-dir", DATA, *more)


def floors(model: str, *more: str) -> None:
    """Stages 1 and 2 with random weights."""
    for seed in SEEDS:
        recognize(model, "--untrained", "--seed", str(seed), *more)


def control(size: Size) -> None:
    """Stages 1, 2 and 5 of the chat model."""
    write_prompts(ROOT / PROMPTS, size.prompts)
    recognize(CHAT, *size.chat, *STATES)
    run("control_generation.py", *options(CHAT), *CONTROL)


def write_prompts(path: Path, count: int) -> None:
    """Write the first prompts of each kind of the probe set in the languages of the demo."""
    lines = (ROOT / "demo/probes/prompts.jsonl").read_text(encoding="utf-8").splitlines()
    chosen = []
    for language in PROMPT_LANGUAGES:
        for harmful in (True, False):
            wanted = {"lang": language, "harmful": harmful}.items()
            chosen += [line for line in lines if wanted <= json.loads(line).items()][:count]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in chosen), encoding="utf-8")


def compare(model: str, folder: str, size: Size) -> None:
    """Figures and tables of a model, and of its untrained twin where that has all languages."""
    where = ("--res-dir", RESULTS, "--out-dir", f"{RESULTS}/{folder}", "--split-by", "item")
    run("recognize_concept.py", *where, "--cross-model", model, "--bootstrap", "--floors", "--data-dir", DATA)
    models = (model, f"{model}-untrained") if size.compare_floors else (model,)
    compared = (*where, "--cross-model", *models, *HIGH_RESOURCE[model])
    halves = ("--data-dir", DATA, *STATES) if size.compare_floors else ()
    run("consistency_analysis.py", *compared, "--permutations", *halves)
    run("transferability_analysis.py", *compared, "--bootstrap")
    run("-m", "repe", "traits", *compared)


def damage_and_map() -> None:
    """The encoder's vectors of damaged text, and after learned maps between languages. Each item is tested once."""
    data = ("--data-dir", DATA, "--res-dir", RESULTS, "--folds", "5", *STATES)
    model, out = ("--model-path", f"demo/models/real/{ENCODER}"), ("--out-dir", f"{RESULTS}/cross_model_folds")
    for script in ("collect_vector.py", "recognize_concept.py"):
        run(script, *model, *data, *MAPPED)
    learned = ("transferability_analysis.py", *data, *out, "--cross-model", ENCODER, *MAPPED)
    side_by_side([partial(run, "-m", "repe", "noise", *model, *data, *out, *DAMAGED), partial(run, *learned)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--full",
        action="store_true",
        help="both models with all concepts and languages, 48 prompts, damaged text and learned maps",
    )
    size = FULL if parser.parse_args().full else QUICK
    for name in CONVERTERS:
        model_folder(name)
    kept = STATES if size.compare_floors else ()
    # One process for each core, the longest first; the encoder's concepts are two halves of the work.
    side_by_side(
        [
            partial(recognize, ENCODER, "--concept", *CONCEPTS[:4], *STATES),
            partial(control, size),
            partial(recognize, ENCODER, "--concept", *CONCEPTS[4:], *STATES),
            partial(floors, CHAT, *size.chat_floor, *kept),
            partial(floors, ENCODER, *size.encoder_floor, *kept),
        ]
    )
    # The two models know different languages, so each has figures and tables of its own.
    side_by_side([partial(compare, ENCODER, "cross_model", size), partial(compare, CHAT, "cross_model_chat", size)])
    if size is FULL:
        damage_and_map()
    run("-m", "repe", "report", "--res-dir", RESULTS)
    print("\nOpen these first:")
    print(*(f"  {RESULTS}/{figure}" for figure in FIGURES), sep="\n")
    print(f"All figures and tables on one page: {RESULTS}/cross_model/report.html")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except subprocess.CalledProcessError as error:  # its message has been printed
        sys.exit(error.returncode)
