"""Errors that the user can fix, and lists of them cut to a readable length."""

from collections.abc import Sequence


class UserError(Exception):
    """An error that the user can fix: in a file, a key or a flag.

    The message is one line that names the file, key or flag, says what is wrong and what to do. The scripts print it
    without a traceback and exit with status 2 (`repe.runs.arguments.run`).
    """


class DamagedFileError(UserError):
    """A file that cannot be used; `reason` says in a few words what is wrong with it."""

    def __init__(self, what: str, reason: str, remedy: str) -> None:
        super().__init__(f"{what} ({reason}): {remedy}")
        self.reason = reason


def first_of(faults: Sequence[str], shown: int, between: str = "; ", rest: str = "more") -> str:
    """The first of many faults in one line, and the number of the others.

    Args:
        faults: a few words or a message each.
        shown: number of faults to list.
        between: separator.
        rest: noun for the others, after their number.
    """
    more = [f"and {len(faults) - shown} {rest}"] if len(faults) > shown else []
    return between.join([*faults[:shown], *more])
