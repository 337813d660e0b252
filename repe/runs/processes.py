"""Several processes on one stage: started by `accelerate launch` or torchrun, they divide its sets among them.

The main process finds what there is to do, once, and sends it to the others, since what is on disk changes as soon as
the first of them writes. From then on they meet again only at the end. What they send are small plain objects, so they
talk over the CPU whatever the models run on. Without a launcher there is one process, and nothing of this is set up.
"""

import datetime
import os
import sys
from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

from repe.errors import UserError

# What launchers tell each process.
LAUNCHED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")

# How long processes wait for each other: the main one may be fetching a model, another may have much left to do. One
# that has ended ends the waiting at once.
PATIENCE = datetime.timedelta(days=30)

Decision = TypeVar("Decision")
Name = TypeVar("Name", bound=Hashable)


def count() -> int:
    """How many processes divide the work."""
    return int(os.environ["WORLD_SIZE"]) if all(name in os.environ for name in LAUNCHED) else 1


def rank() -> int:
    """Which of them this one is, from 0."""
    return int(os.environ["RANK"]) if count() > 1 else 0


def local_rank() -> int:
    """Which of those on this machine it is, from 0."""
    return int(os.environ["LOCAL_RANK"]) if count() > 1 else 0


def is_main() -> bool:
    """Whether this process says what is said once."""
    return rank() == 0


def reports_errors() -> bool:
    """Whether an error is this process's to tell: until the work is divided all meet the same ones."""
    if is_main():
        return True
    from torch import distributed

    return distributed.is_initialized()


def alone(what: str) -> None:
    """Refuse work that is not divided.

    Raises:
        UserError: there are several processes.
    """
    if count() > 1:
        raise UserError(f"{what} is not divided among processes: start it with python, without a launcher")


def decided(plan: Callable[[], Decision]) -> Decision:
    """What `plan` gives in the main process, in all processes; the others end with status 2 where it fails.

    Args:
        plan: finds out what there is to do; run in the main process alone. What it gives must be picklable.
    """
    if count() == 1:
        return plan()
    from torch import distributed

    if not is_main():
        return _received()
    distributed.init_process_group("gloo", timeout=PATIENCE)
    try:
        found = [plan()]
    except UserError:
        distributed.broadcast_object_list([_Failed()])
        raise
    distributed.broadcast_object_list(found)
    return found[0]


class _Failed:
    """In place of a plan: the main process could not make one, and has said why."""


def _received() -> Decision:  # type: ignore[type-var]
    """The main process's plan."""
    from torch import distributed

    received: list[Decision | _Failed | None] = [None]
    distributed.init_process_group("gloo", timeout=PATIENCE)
    try:
        distributed.broadcast_object_list(received)
    except RuntimeError:  # the main process is gone
        sys.exit(2)
    (plan,) = received
    if isinstance(plan, _Failed):
        sys.exit(2)
    return plan  # type: ignore[return-value]


def share(lengths: Mapping[Name, int]) -> list[Name]:
    """This process's part of the work, in the order given.

    The longest first, each goes to the process that has least so far, the first of equals.

    Args:
        lengths: of each piece of work, in any unit; the same in all processes.
    """
    loads = [0] * count()
    mine = set()
    for name in sorted(lengths, key=lambda name: -lengths[name]):
        least = loads.index(min(loads))
        loads[least] += lengths[name]
        if least == rank():
            mine.add(name)
    return [name for name in lengths if name in mine]


def finished() -> None:
    """Wait until all processes are done with their parts.

    Raises:
        UserError: in the main process, if another one ended before it was done; others end with status 2.
    """
    if count() == 1:
        return
    from torch import distributed

    try:
        distributed.barrier()
    except RuntimeError as error:
        if not is_main():
            sys.exit(2)
        raise UserError(
            "another process ended before its part was done (see what it said): what was finished is on disk; the same "
            "command goes on from there"
        ) from error
    distributed.destroy_process_group()
