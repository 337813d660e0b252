"""Forks of this process, and what happens to them: signals, and limits on files and memory."""

import ctypes
import json
import multiprocessing
import os
import resource
import select
import signal
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tqdm.auto
import tqdm.std
from conftest import Ended

from stress.tally import Tally

FORK = multiprocessing.get_context("fork")
TIMEOUT = 120
# What Python tells of file operations, each just before it is done.
STEPS = ("open", "os.mkdir", "os.rename", "os.chmod", "os.remove", "tempfile.mkstemp")


class Child:
    """A fork of this process, where all heavy modules are imported already; its output comes back through pipes.

    Pipes, because a limit on the size of files must not meet the output.
    """

    def __init__(self, work: Callable[[], object]) -> None:
        self._ends, (out, err) = zip(*(os.pipe() for _ in range(2)), strict=True)
        self.process = FORK.Process(target=_in_child, args=(work, out, err))
        self.process.start()
        os.close(out)
        os.close(err)

    def signal(self, number: int) -> None:
        """Send a signal, if the process is still there."""
        if self.process.exitcode is None and self.process.pid:
            os.kill(self.process.pid, number)

    def end(self) -> Ended:
        """Read until the end; the status is minus the signal's number if one ended it."""
        texts, deadline = dict.fromkeys(self._ends, b""), time.monotonic() + TIMEOUT
        unfinished = list(self._ends)
        while unfinished and (ready := select.select(unfinished, [], [], max(0, deadline - time.monotonic()))[0]):
            for end in ready:
                part = os.read(end, 1 << 16)
                texts[end] += part
                if not part:
                    unfinished.remove(end)
        self.process.join(max(0, deadline - time.monotonic()))
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
        for end in self._ends:
            os.close(end)
        return Ended(int(self.process.exitcode or 0), *(text.decode(errors="replace") for text in texts.values()))


def _in_child(work: Callable[[], object], out: int, err: int) -> None:
    for handle, number in ((out, 1), (err, 2)):
        os.dup2(handle, number)
    sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))  # noqa: SIM115
    # The tokenizers would say on stderr that they were used before the fork.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    # Forks share the progress bars' lock, which a killed one may hold for ever; runs of a user's own do not.
    for bars in (tqdm.std.tqdm, tqdm.auto.tqdm):
        bars.set_lock(threading.RLock())
    # A test runner that collects warnings would keep them from stderr, where a user would see them.
    warnings.showwarning = lambda *warning, **_: print(warnings.formatwarning(*warning[:4]), file=sys.stderr)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        work()
    finally:
        # The script is over; an interrupt from here on would meet the harness alone.
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def tallied(work: Callable[[], Tally]) -> Tally:
    """The tally that `work` makes in a child, through JSON."""
    ended = Child(lambda: print(json.dumps(vars(work())))).end()
    if ended.status:
        raise AssertionError(f"ended with {ended.status}: {ended.err[-2000:]}")
    found = json.loads(ended.out.splitlines()[-1])
    return Tally(**found | {"seen": Counter(found["seen"])})


def count_steps(res: Path, counted: Any, events: tuple[str, ...] = STEPS, act_at: int = 0, act: Any = None) -> None:
    """From now on count this process's file operations below `res`; call `act` just before the one numbered `act_at`.

    A hook of Python's audit, so that the code under test is not touched; it cannot be taken out again: for a child.
    """

    def hook(event: str, arguments: tuple) -> None:
        if event in events and str(arguments[0]).startswith(str(res)):
            counted.value += 1
            if counted.value == act_at:
                act()

    sys.addaudithook(hook)


def signal_at_step(res: Path, step: int, number: int, events: tuple[str, ...] = STEPS) -> None:
    """Let this process send itself a signal just before its file operation numbered `step` below `res`."""
    count_steps(res, ctypes.c_int(), events, step, lambda: os.kill(os.getpid(), number))


def limit_files(size: int) -> None:
    """Let this process write no file beyond `size` bytes: writing more is an error, as on a full disk."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def limit_memory(more: int = 4 << 30) -> None:
    """Let this process take `more` bytes at most, so that a file that asks for all memory ends it, not the machine."""
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 0
    if pages:
        limit = pages * resource.getpagesize() + more
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))
