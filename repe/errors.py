"""Errors that the user can fix."""

from collections.abc import Sequence


class UserError(Exception):
    """Something that the user can fix: a file, a key, a flag.

    The message is one line that names the thing, what is wrong and what to do; the scripts print it without a traceback
    and exit with status 2 (`repe.runs.arguments.run`). For a damaged file, `reason` says in a few words what is wrong.
    """

    reason = ""


def printable(text: str) -> str:
    """`text` in one line, with escapes in place of characters that would control a terminal."""
    return "".join(mark if mark.isprintable() else ascii(mark)[1:-1] for mark in " ".join(text.split()))


def damaged_file(what: str, reason: str, remedy: str) -> UserError:
    """The error for a file that cannot be used as it is."""
    error = UserError(f"{what} ({reason}): {remedy}")
    error.reason = reason
    return error


def first_of(faults: Sequence[str], shown: int, between: str = "; ", rest: str = "more") -> str:
    """The first faults of many in one line, and the number of the others.

    Args:
        faults: a few words or a message each.
        shown: maximum number of faults to list.
        between: separator.
        rest: name of the others, after their number.
    """
    more = [f"and {len(faults) - shown} {rest}"] if len(faults) > shown else []
    return between.join([*faults[:shown], *more])
