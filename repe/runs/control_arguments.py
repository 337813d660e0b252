"""The options of control_generation.py. Importing this module is fast, so that `--help` answers at once."""

import argparse
import math
from pathlib import Path

from repe.constants import BASELINES, OPERATORS, SCOPES
from repe.runs.arguments import _count


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of control to the shared ones."""
    add = parser.add_argument_group("languages and prompts").add_argument
    add("--source-lang", nargs="+", required=True, metavar="LANG", help="languages whose vectors are used to steer")
    add("--target-lang", nargs="+", metavar="LANG", help="languages of the prompts (default: --lang, else all)")
    add("--prompts", type=Path, required=True, metavar="FILE", help="JSON lines with id, lang, prompt, harmful")
    _add_steering(parser.add_argument_group("steering"))
    _add_replies(parser.add_argument_group("replies"))


def _add_steering(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--layers", default="0.3:0.6", metavar="L", help="e.g. 18,19,20, or relative depths (default: 0.3:0.6)")
    add(
        "--strength",
        type=_numbers,
        default="-1,-0.5,0,0.5,1",
        metavar="S,...",
        help="strengths to compare (default: --strength=-1,-0.5,0,0.5,1)",
    )
    add(
        "--strength-unit",
        choices=("hidden", "raw"),
        default="hidden",
        help="hidden: mean norm of the layer's states on the source's training texts; raw: 1 (default: hidden)",
    )
    add(
        "--operator",
        choices=OPERATORS,
        default="linear_comb",
        help="how the vector changes the states (default: linear_comb, addition)",
    )
    add("--scope", choices=SCOPES, default="all", help="tokens to steer (default: all)")
    add(
        "--baseline",
        type=_baselines,
        default=",".join(BASELINES),
        metavar="B,...",
        help=f"kinds of steering to compare (default: {','.join(BASELINES)})",
    )
    add("--random-draws", type=_count, default=3, metavar="N", help="number of random directions (default: 3)")
    add(
        "--calibrate",
        action="store_true",
        help="adjust the strength in each language until the distribution of the next token changes (KL divergence) as "
        "much as with the first source's vector in its own language",
    )


def _add_replies(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--max-new-tokens", type=_count, default=64, metavar="N", help="maximum number of new tokens (default: 64)")
    add("--temperature", type=_temperature, default=0.0, metavar="T", help="sampling temperature (default: 0, greedy)")
    add("--top-p", type=_share, default=1.0, metavar="P", help="nucleus sampling, with a temperature (default: 1)")
    add("--num-beams", type=_count, default=1, metavar="N", help="number of beams (default: 1)")
    add(
        "--classifier",
        metavar="PATH|HUB_ID",
        help="text classifier that recognizes refusals (default: phrase lists)",
    )


def _numbers(text: str) -> list[float]:
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = [math.nan]
    if not all(map(math.isfinite, values)):
        raise argparse.ArgumentTypeError(f"{text!r} is not valid: must be comma-separated numbers, e.g. -4,-2,0,2,4")
    return values


def _baselines(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if unknown := [name for name in names if name not in BASELINES]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is not valid: choose from {', '.join(BASELINES)}")
    return [name for name in BASELINES if name in names]


def _temperature(text: str) -> float:
    if (value := _numbers(text)[0]) < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not valid: must be a non-negative number")
    return value


def _share(text: str) -> float:
    if not 0 < (value := _numbers(text)[0]) <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not valid: must be greater than 0 and at most 1")
    return value
