"""Exceptions that are meant for the person at the keyboard."""

from collections.abc import Sequence


class UserError(Exception):
    """Something that the user can mend: a file, a key, a flag.

    The message is one line that names the thing, what is wrong with it and what to do; the scripts print it
    without a traceback and end with exit status 2 (`repe.runs.arguments.run`).
    """


class DamagedFileError(UserError):
    """A file that cannot be used as it is; `reason` says in a few words what is wrong with it."""

    def __init__(self, what: str, reason: str, remedy: str) -> None:
        super().__init__(f"{what} ({reason}): {remedy}")
        self.reason = reason


def first_of(faults: Sequence[str], shown: int, between: str = "; ", rest: str = "more") -> str:
    """The first faults of many in one line, and how many more there are.

    Args:
        faults: a few words or a message each.
        shown: how many to tell of.
        between: what stands between two.
        rest: what the others are called, after their number.
    """
    more = [f"and {len(faults) - shown} {rest}"] if len(faults) > shown else []
    return between.join([*faults[:shown], *more])
