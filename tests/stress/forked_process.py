"""Forks of this process: their output, signals to them, and limits on their files and memory."""

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

from stress.outcome import Outcome

FORK = multiprocessing.get_context("fork")
TIMEOUT = 120
# Python's audit events of file operations, each raised just before the operation.
STEPS = ("open", "os.mkdir", "os.rename", "os.chmod", "os.remove", "tempfile.mkstemp")


class ForkedProcess:
    """A fork of this process, in which all large modules are already imported.

    Its output is read through pipes, so that a limit on file sizes does not affect it.
    """

    def __init__(self, work: Callable[[], object]) -> None:
        self._ends, (out, err) = zip(*(os.pipe() for _ in range(2)), strict=True)
        self.process = FORK.Process(target=_in_fork, args=(work, out, err))
        self.process.start()
        os.close(out)
        os.close(err)

    def signal(self, number: int) -> None:
        """Send a signal if the process is still running."""
        if self.process.exitcode is None and self.process.pid:
            os.kill(self.process.pid, number)

    def end(self, timeout: float = TIMEOUT) -> Ended:
        """Read the output until the process ends; if a signal ended it, the status is minus the signal's number."""
        texts, deadline = dict.fromkeys(self._ends, b""), time.monotonic() + timeout
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


def _in_fork(work: Callable[[], object], out: int, err: int) -> None:
    for handle, number in ((out, 1), (err, 2)):
        os.dup2(handle, number)
    sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))  # noqa: SIM115
    # Otherwise the tokenizers warn that they were used before the fork.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    # Forks share the lock of the progress bars, which a killed fork can hold forever. Separate runs do not share it.
    for bars in (tqdm.std.tqdm, tqdm.auto.tqdm):
        bars.set_lock(threading.RLock())
    # A test runner would collect warnings, but a user sees them on stderr.
    warnings.showwarning = lambda *warning, **_: print(warnings.formatwarning(*warning[:4]), file=sys.stderr)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        work()
    finally:
        # The script has ended, so an interrupt from here on would only hit this test code.
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def outcome_in_fork(work: Callable[[], Outcome]) -> Outcome:
    """The outcome of `work` in a fork, passed back as JSON."""
    ended = ForkedProcess(lambda: print(json.dumps(vars(work())))).end()
    if ended.status:
        raise AssertionError(f"ended with {ended.status}: {ended.err[-2000:]}")
    found = json.loads(ended.out.splitlines()[-1])
    return Outcome(**found | {"counts": Counter(found["counts"])})


def count_steps(res: Path, counted: Any, events: tuple[str, ...] = STEPS, act_at: int = 0, act: Any = None) -> None:
    """Count this process's file operations below `res`, and call `act` just before number `act_at`.

    This is an audit hook, so the tested code is unchanged. It cannot be removed, so use it in a fork.
    """

    def hook(event: str, arguments: tuple) -> None:
        if event in events and str(arguments[0]).startswith(str(res)):
            counted.value += 1
            if counted.value == act_at:
                act()

    sys.addaudithook(hook)


def signal_at_step(res: Path, step: int, number: int, events: tuple[str, ...] = STEPS) -> None:
    """Make this process send itself a signal just before file operation number `step` below `res`."""
    count_steps(res, ctypes.c_int(), events, step, lambda: os.kill(os.getpid(), number))


def limit_files(size: int) -> None:
    """Make writing more than `size` bytes to a file an error in this process, as on a full disk."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def limit_memory(more: int = 4 << 30) -> None:
    """Limit this process to `more` additional bytes of memory, so that a file cannot exhaust the machine's memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 0
    if pages:
        limit = pages * resource.getpagesize() + more
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))
