"""Several processes on one stage, started by `accelerate launch` or torchrun, divide its sets among them.

The main process plans the work once and sends the plan to the others, since files change as soon as the first process
writes. After that they only meet at the end. The messages are small plain objects and travel over the CPU, also when
the models run on GPUs. Without a launcher there is one process, and none of this is set up.
"""

import datetime
import os
import sys
from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

from repe.errors import UserError

# What launchers set for each process.
LAUNCHED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")

# How long processes wait for each other: the main one may be downloading a model, another may have much work left. A
# process that has ended ends the wait at once.
PATIENCE = datetime.timedelta(days=30)

Planned = TypeVar("Planned")
Name = TypeVar("Name", bound=Hashable)


def count() -> int:
    """Number of processes that share the work."""
    return int(os.environ["WORLD_SIZE"]) if all(name in os.environ for name in LAUNCHED) else 1


def rank() -> int:
    """Index of this process; 0 is the main process."""
    return int(os.environ["RANK"]) if count() > 1 else 0


def is_main() -> bool:
    """Whether this is the main process, which prints what is printed once."""
    return count() == 1 or rank() == 0


def reports_errors() -> bool:
    """Whether this process prints an error: before the work is divided, all processes meet the same ones."""
    if is_main():
        return True
    from torch import distributed

    return distributed.is_initialized()


def require_single(what: str) -> None:
    """Refuse work that is not divided.

    Raises:
        UserError: there are several processes.
    """
    if count() > 1:
        raise UserError(f"{what} runs in one process: start it with python, without a launcher")


def plan_once(plan: Callable[[], Planned]) -> Planned:
    """The result of `plan` in the main process, sent to all; the others end with status 2 if it fails.

    Args:
        plan: called in the main process only; returns something picklable.
    """
    if count() == 1:
        return plan()
    from torch import distributed

    message: list[list[Planned] | None] = [None]
    distributed.init_process_group("gloo", timeout=PATIENCE)
    try:
        if is_main():
            message = [[plan()]]
    finally:  # also when planning failed: the others then receive None
        try:
            distributed.broadcast_object_list(message)
        except RuntimeError:  # the main process is gone
            message = [None]
    if message[0] is None:
        sys.exit(2)
    return message[0][0]


def share(sizes: Mapping[Name, int]) -> list[Name]:
    """This process's part of the work, in the order given.

    The largest piece goes first; each goes to the process with the least work so far, the first of equals.

    Args:
        sizes: of each piece of work, in any unit; the same in all processes.
    """
    if count() == 1:
        return list(sizes)
    loads = [0] * count()
    mine = set()
    for name in sorted(sizes, key=lambda name: -sizes[name]):
        least = loads.index(min(loads))
        loads[least] += sizes[name]
        if least == rank():
            mine.add(name)
    return [name for name in sizes if name in mine]


def finished() -> None:
    """Wait until all processes have finished their parts.

    Raises:
        UserError: in the main process, if another one ended early; others end with status 2.
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
            "another process ended before its part was done (see its message): finished results are saved; run the "
            "same command again to continue"
        ) from error
    distributed.destroy_process_group()
