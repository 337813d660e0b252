"""The options of control_generation.py."""

import argparse
from functools import partial
from pathlib import Path

from repe.constants import BASELINES, DEFAULT_BASELINES, LAYERS, OPERATORS, SCOPES, STRENGTHS
from repe.runs.arguments import NAMES, finite_number, positive_integer

PROMPT_FIELDS = ("id", "lang", "prompt", "harmful")
INSTRUCTIONS = Path(__file__).parents[1] / "control" / "instructions.json"


def numbers(text: str) -> list[float]:
    """The type of `--strength`."""
    what = "comma-separated numbers, e.g. -4,-2,0,2,4"
    try:
        return [finite_number(part, lambda _: True, what) for part in text.split(",")]
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"{text!r} must be {what}") from None


def baselines(text: str) -> list[str]:
    """The type of `--baseline`."""
    names = [name.strip() for name in text.split(",")]
    if unknown := [name for name in names if name not in BASELINES]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is not valid: choose from {', '.join(BASELINES)}")
    return [name for name in BASELINES if name in names]


def prompt_fields(text: str) -> dict[str, str]:
    """The type of `--prompt-fields`."""
    parts = (part.partition("=") for part in text.split(","))
    fields = {ours: theirs for ours, _, theirs in parts}
    if bad := [f"{ours}={theirs}" for ours, theirs in fields.items() if ours not in PROMPT_FIELDS or not theirs]:
        raise argparse.ArgumentTypeError(
            f"{bad[0]!r} is not valid: give OURS=THEIRS with OURS from {', '.join(PROMPT_FIELDS)}"
        )
    return fields


CONTROL = {
    "languages and prompts": {
        "--concept": {**NAMES, "metavar": "NAME", "help": "concepts (default: harmfulness)"},
        "--source-lang": {**NAMES, "required": True, "metavar": "L", "help": "languages whose vectors steer"},
        "--target-lang": {**NAMES, "metavar": "L", "help": "languages of the prompts (default: all in the file)"},
        "--lang": {**NAMES, "metavar": "L", "help": "same as --target-lang"},
        "--prompts": {
            "type": Path,
            "required": True,
            "metavar": "FILE",
            "help": "JSON lines, JSON or CSV with id, lang, prompt and, optional, harmful",
        },
        "--prompt-fields": {
            "type": prompt_fields,
            "metavar": "OURS=THEIRS",
            "help": "names of the fields, e.g. prompt=instruction,lang=:en",
        },
    },
    "steering and generation": {
        "--layers": {
            "default": LAYERS,
            "metavar": "N,...|A:B",
            "help": f"layer numbers, e.g. 18,19,20, or relative depths (default: {LAYERS})",
        },
        "--strength": {
            "type": numbers,
            "default": ",".join(f"{strength:g}" for strength in STRENGTHS),
            "metavar": "S,...",
            "help": f"strengths to compare (default: {','.join(f'{strength:g}' for strength in STRENGTHS)})",
        },
        "--strength-unit": {
            "choices": ("class", "hidden", "raw"),
            "default": "class",
            "metavar": "UNIT",
            "help": "class (distance of class means), hidden (mean norm), raw (default: class)",
        },
        "--operator": {
            "choices": OPERATORS,
            "default": "linear_comb",
            "metavar": "NAME",
            "help": f"{', '.join(OPERATORS)} (default: linear_comb)",
        },
        "--scope": {
            "choices": SCOPES,
            "default": "all",
            "metavar": "NAME",
            "help": f"tokens to steer: {', '.join(SCOPES)} (default: all)",
        },
        "--baseline": {
            "type": baselines,
            "default": ",".join(DEFAULT_BASELINES),
            "metavar": "NAME,...",
            "help": f"of {','.join(BASELINES)} (see docs)",
        },
        "--instructions": {
            "type": Path,
            "default": INSTRUCTIONS,
            "metavar": "FILE",
            "help": "system instructions of --baseline prompt",
        },
        "--judge": {
            "metavar": "PATH|HUB_ID",
            "help": "another model, with vectors of the concept, that also scores the replies",
        },
        "--random-draws": {
            "type": positive_integer,
            "default": 3,
            "metavar": "N",
            "help": "number of random directions (default: 3)",
        },
        "--tune": {
            "action": "store_true",
            "help": "choose layers and strengths on a third of the prompts",
        },
        "--max-new-tokens": {
            "type": positive_integer,
            "default": 64,
            "metavar": "N",
            "help": "maximum number of new tokens (default: 64)",
        },
        "--temperature": {
            "type": partial(finite_number, is_valid=lambda value: value >= 0, what="a non-negative number"),
            "default": 0.0,
            "metavar": "T",
            "help": "sampling temperature (default: 0, greedy)",
        },
        "--top-p": {
            "type": partial(finite_number, is_valid=lambda value: 0 < value <= 1, what="greater than 0 and at most 1"),
            "default": 1.0,
            "metavar": "P",
            "help": "nucleus sampling, with a temperature (default: 1)",
        },
        "--num-beams": {
            "type": positive_integer,
            "default": 1,
            "metavar": "N",
            "help": "number of beams (default: 1)",
        },
    },
}
