"""Judge replies from anywhere: does each refuse, or follow the request?

  python -m repe score REPLIES.jsonl --out SCORED.jsonl

Reads JSON lines with `reply` and, optional, `lang` (the language of the prompt), and writes the same lines in the same
order with `refusal` and `following` (true or false) added. Replies that are empty, loops or fragments are neither.
Prints how many refuse, by language. The rules are those of control_generation.py.
"""

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

from repe.data import unique_keys
from repe.errors import UserError, first_of
from repe.files import is_plain_name, numbered_lines, read_regular, write_whole
from repe.runs import arguments as options


def main(args: argparse.Namespace) -> None:
    from repe.control.replies import Judgement, judge

    rows = read_replies(args.replies)
    judged = [judge(row["reply"], row.get("lang")) for row in rows]
    added = [
        row | {"refusal": one is Judgement.REFUSAL, "following": one is Judgement.FOLLOWING}
        for row, one in zip(rows, judged, strict=True)
    ]
    lines = "".join(map(as_json, added))
    write_whole(args.out, lambda file: file.write(lines.encode("utf-8")))
    counts = Counter((str(row.get("lang") or "unknown"), one) for row, one in zip(rows, judged, strict=True))
    for language in dict.fromkeys(language for language, _ in counts):
        found = {one: counts[language, one] for one in Judgement}
        shown = ", ".join(f"{number} {one.value}" for one, number in found.items() if number)
        print(f"{language:<8}{sum(found.values())} replies: {shown}")
    options.print_written([args.out])


def read_replies(path: Path) -> list[dict[str, Any]]:
    """The lines of a file of replies.

    Raises:
        UserError: the file cannot be read, has no replies, or has invalid lines.
    """
    try:
        lines = numbered_lines(read_regular(path))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}): give a JSON lines file") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not valid UTF-8: save it as UTF-8") from error
    rows, faults = [], []
    for number, line in lines:
        try:
            rows.append(_row(line))
        except UnicodeEncodeError:
            faults.append(f"line {number}: a text contains an unpaired surrogate")
        except (ValueError, RecursionError) as error:
            faults.append(f"line {number}: {error}")
    if faults:
        raise UserError(f"{path} has invalid lines: {first_of(faults, shown=5)}")
    if not rows:
        raise UserError(f"{path} has no replies: write one JSON object per line with lang and reply")
    return rows


def _row(line: str) -> dict[str, Any]:
    """One line; ValueError says what is wrong with it."""
    row = json.loads(line, object_pairs_hook=unique_keys)
    if not (isinstance(row, dict) and isinstance(row.get("reply"), str)):
        raise ValueError("'reply' must be text")
    if not isinstance(row.get("lang"), str | None):
        raise ValueError("'lang' must be text")
    if row.get("lang") and not is_plain_name(row["lang"]):
        raise ValueError(f"'lang' {row['lang']!r:.40} is not a valid name")
    as_json(row).encode()
    return row


def as_json(row: dict[str, Any]) -> str:
    """One line of the output."""
    return json.dumps(row, ensure_ascii=False) + "\n"


def start() -> None:
    parser = options.Parser(__doc__)
    parser.add_argument("replies", type=Path, metavar="REPLIES.jsonl", help="JSON lines with reply and, optional, lang")
    parser.add_argument("--out", type=Path, required=True, metavar="SCORED.jsonl", help="output file")
    options.run(main, parser)
