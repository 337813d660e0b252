"""Exceptions that are meant for the person at the keyboard."""


class UserError(Exception):
    """Something that the user can mend: a file, a key, a flag.

    The message is one line that names the thing, what is wrong with it and what to do; the scripts print it
    without a traceback and end with exit status 2 (`repe.cli.run`).
    """


class DamagedFileError(UserError):
    """A file that cannot be used as it is; `reason` says in a few words what is wrong with it."""

    def __init__(self, what: str, reason: str, remedy: str) -> None:
        super().__init__(f"{what} ({reason}): {remedy}")
        self.reason = reason
