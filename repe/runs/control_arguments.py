"""The options of control_generation.py."""

import argparse
from pathlib import Path

from repe.constants import BASELINES, OPERATORS, SCOPES
from repe.runs.arguments import NAMES, finite_number, positive_integer


def numbers(text: str) -> list[float]:
    """The type of `--strength`."""
    return [
        finite_number(part, lambda _: True, "comma-separated numbers, e.g. -4,-2,0,2,4") for part in text.split(",")
    ]


def baselines(text: str) -> list[str]:
    """The type of `--baseline`."""
    names = [name.strip() for name in text.split(",")]
    if unknown := [name for name in names if name not in BASELINES]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is not valid: choose from {', '.join(BASELINES)}")
    return [name for name in BASELINES if name in names]


def temperature(text: str) -> float:
    """The type of `--temperature`."""
    return finite_number(text, lambda value: value >= 0, "a non-negative number")


def top_p(text: str) -> float:
    """The type of `--top-p`."""
    return finite_number(text, lambda value: 0 < value <= 1, "greater than 0 and at most 1")


PROMPTS = {
    "languages and prompts": {
        "--concept": {**NAMES, "metavar": "CONCEPT", "help": "concepts (default: harmfulness)"},
        "--source-lang": {**NAMES, "required": True, "metavar": "LANG", "help": "languages whose vectors steer"},
        "--target-lang": {**NAMES, "metavar": "LANG", "help": "languages of the prompts (default: all in the file)"},
        "--lang": {**NAMES, "metavar": "LANG", "help": "same as --target-lang"},
        "--prompts": {
            "type": Path,
            "required": True,
            "metavar": "FILE",
            "help": "JSON lines with id, lang, prompt, harmful",
        },
    }
}
STEERING = {
    "steering": {
        "--layers": {
            "default": "0.3:0.6",
            "metavar": "L",
            "help": "e.g. 18,19,20, or relative depths (default: 0.3:0.6)",
        },
        "--strength": {
            "type": numbers,
            "default": "-1,-0.5,0,0.5,1",
            "metavar": "S,...",
            "help": "strengths to compare (default: -1,-0.5,0,0.5,1)",
        },
        "--strength-unit": {
            "choices": ("class", "hidden", "raw"),
            "default": "class",
            "metavar": "UNIT",
            "help": "class: distance of the class means; hidden: mean norm of states; raw: 1 (default: class)",
        },
        "--operator": {
            "choices": OPERATORS,
            "default": "linear_comb",
            "help": "how the vector changes the states (default: linear_comb, addition)",
        },
        "--scope": {"choices": SCOPES, "default": "all", "help": "tokens to steer (default: all)"},
        "--baseline": {
            "type": baselines,
            "default": ",".join(BASELINES),
            "metavar": "B,...",
            "help": f"kinds of steering to compare (default: {','.join(BASELINES)})",
        },
        "--random-draws": {
            "type": positive_integer,
            "default": 3,
            "metavar": "N",
            "help": "number of random directions (default: 3)",
        },
        "--calibrate": {
            "action": "store_true",
            "help": "adjust the strength in each language until the next token's distribution changes (KL divergence) "
            "as much as with the first source's vector in its own language",
        },
    }
}
REPLIES = {
    "replies": {
        "--max-new-tokens": {
            "type": positive_integer,
            "default": 64,
            "metavar": "N",
            "help": "maximum number of new tokens (default: 64)",
        },
        "--temperature": {
            "type": temperature,
            "default": 0.0,
            "metavar": "T",
            "help": "sampling temperature (default: 0, greedy)",
        },
        "--top-p": {
            "type": top_p,
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
        "--classifier": {
            "metavar": "PATH|HUB_ID",
            "help": "text classifier that recognizes refusals (default: phrase lists)",
        },
    }
}
