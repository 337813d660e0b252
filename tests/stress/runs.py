"""Killed, interrupted and parallel runs and full disks: no results are lost."""

import functools
import random
import shutil
import signal
import time
from pathlib import Path

from conftest import Ended

from repe.errors import UserError
from repe.results.accuracy_file import AccuracyFile
from repe.results.result_file import Kind
from repe.results.vector_file import VectorFile
from stress.forked_process import FORK, STEPS, TIMEOUT, limit_files, signal_at_step
from stress.outcome import Outcome
from stress.workspace import CONCEPTS, LABEL, LANGUAGES, SEED, STAGES, Workspace, litter, results, snapshot

MOMENTS = ("time", "step", "write")
# The file operation after a temporary file is complete.
WRITTEN = ("os.rename",)
# File names of the stages.
STEMS = dict(zip(STAGES, ("reader_dict", "acc"), strict=True))
RACES = ((("en", "fr"), ("zh", "vi")), (("en", "fr", "zh"), ("en", "fr", "zh")), (("en", "fr"), ("fr", "zh")))


def kills(workspace: Workspace, count: int) -> Outcome:
    """A run that is killed at any moment and repeated leaves the bytes of an undisturbed run and nothing else.

    The moments alternate between random times, random file operations, and writes just before the file is renamed,
    which random times would rarely hit.
    """
    outcome = Outcome("killed runs, repeated")
    for number in range(count):
        generator = random.Random(f"{SEED} kill {number}")
        res = workspace.new_results()
        ended = killed(workspace, res, generator, MOMENTS[number % len(MOMENTS)])
        left = snapshot(res)
        moment = moment_of(ended, left)
        outcome.counts[f"killed {moment}"] += 1
        again = workspace.start(res).end()
        after = snapshot(res)
        where = f"kill {number} ({moment})"
        outcome.expect(again.status == 0, f"{where}: the second run ended with {again.status}: {again.err[-300:]}")
        outcome.expect(results(after) == workspace.expected, f"{where}: the results differ from an undisturbed run's")
        outcome.expect(not litter(after), f"{where}: {litter(after)} left after the second run")
        outcome.tried += 1
        shutil.rmtree(res)
    return outcome


def killed(workspace: Workspace, res: Path, generator: random.Random, moment: str) -> Ended:
    """Run both stages until SIGKILL, at a random time (up to just after the end) or a random file operation."""
    if moment == "time":
        process = workspace.start(res)
        time.sleep(generator.uniform(0, 1.1) * workspace.seconds)
        process.signal(signal.SIGKILL)
        return process.end()
    events, count = (
        (STEPS, workspace.steps) if moment == "step" else (WRITTEN, len(STAGES) * len(CONCEPTS) * len(LANGUAGES))
    )
    step = generator.randint(1, count)
    return workspace.start(res, before=lambda: signal_at_step(res, step, signal.SIGKILL, events)).end()


def moment_of(ended: Ended, left: dict[str, bytes]) -> str:
    """The moment at which a run was killed."""
    if ended.status == 0:
        return "after the end"
    if litter(left):
        return "while a file was written"
    return "between two writes" if left else "before the first write"


def interrupts(workspace: Workspace, count: int) -> Outcome:
    """After Ctrl-C a stage exits with status 130 and a line on how to continue; finished files are intact."""
    outcome = Outcome("interrupted stages, repeated")
    for number in range(count):
        generator = random.Random(f"{SEED} interrupt {number}")
        res = workspace.new_results()
        name = STAGES[number // 2 % 2]
        if name == STAGES[1]:
            workspace.start(res, stages=STAGES[:1]).end()
        ended = interrupted(workspace, res, name, generator, at_step=number % 2 == 1)
        left = snapshot(res)
        outcome.counts["interrupted" if ended.status else "finished before"] += 1
        where = f"interrupt {number} of {name}"
        if ended.status:
            outcome.expect(ended.status == 130, f"{where}: status {ended.status}: {ended.err[-300:]}")
            last = ended.err.splitlines()[-1:] or [""]
            outcome.expect(last[0].startswith("interrupted: ") and "same command" in last[0], f"{where}: {last}")
            outcome.expect("Traceback" not in ended.err, f"{where}: a traceback")
        outcome.expect(not litter(left), f"{where}: {litter(left)} left")
        outcome.expect(_all_readable(res), f"{where}: a file is not readable")
        again = workspace.start(res).end()
        same = snapshot(res) == workspace.expected
        outcome.expect(again.status == 0 and same, f"{where}: the second run ended with {again.status}, same: {same}")
        outcome.tried += 1
        shutil.rmtree(res)
    return outcome


def interrupted(workspace: Workspace, res: Path, name: str, generator: random.Random, at_step: bool) -> Ended:
    """Run a stage until SIGINT, at a random file operation or some time after its first result is written."""
    if at_step:
        step = generator.randint(1, workspace.steps // 2)
        return workspace.start(res, stages=(name,), before=lambda: signal_at_step(res, step, signal.SIGINT)).end()
    process = workspace.start(res, stages=(name,))
    while not any(res.glob(f"*/*/{STEMS[name]}.pt")) and process.process.exitcode is None:
        time.sleep(0.001)
    time.sleep(generator.uniform(0, 0.2) * workspace.seconds)
    process.signal(signal.SIGINT)
    return process.end()


def _all_readable(res: Path) -> bool:
    for concept in CONCEPTS:
        try:
            _ = VectorFile(res, LABEL, concept, Kind()).vectors, AccuracyFile(res, LABEL, concept, Kind()).accuracy
        except UserError:
            return False
    return True


def races(workspace: Workspace, count: int) -> Outcome:
    """Two parallel runs on one folder leave the same bytes as sequential runs; files are readable at all times.

    In turn, their languages are different, the same, or overlap.
    """
    outcome = Outcome("two parallel runs")
    expected: dict[int, dict[str, bytes]] = {}
    for number in range(count):
        turn = number % len(RACES)
        if turn not in expected:
            res = workspace.new_results()
            for languages in RACES[turn]:
                workspace.start(res, "--lang", *languages).end()
            expected[turn] = snapshot(res)
        res = workspace.new_results()
        for name in STAGES:
            ended, unreadable = raced(workspace, res, name, RACES[turn])
            statuses = [one.status for one in ended]
            outcome.expect(statuses == [0, 0], f"race {number}, {name}: {statuses}: {ended[0].err[-200:]}")
            outcome.expect(not unreadable, f"race {number}, {name}: a file was not readable during the run")
        outcome.expect(snapshot(res) == expected[turn], f"race {number}: the results differ from sequential runs")
        outcome.tried += 1
        shutil.rmtree(res)
    return outcome


def raced(
    workspace: Workspace, res: Path, name: str, languages: tuple[tuple[str, ...], ...]
) -> tuple[list[Ended], bool]:
    """Run a stage twice in parallel; how both ended, and whether a file could not be read meanwhile."""
    barrier = FORK.Barrier(len(languages))
    processes = [
        workspace.start(res, "--lang", *chosen, stages=(name,), before=lambda: barrier.wait(TIMEOUT))
        for chosen in languages
    ]
    unreadable = False
    while any(process.process.exitcode is None for process in processes):
        unreadable = unreadable or not _all_readable(res)
        time.sleep(0.005)
    return [process.end() for process in processes], unreadable


def full_disks(workspace: Workspace, count: int) -> Outcome:
    """If the disk is full after any number of bytes: status 2, one error line, and all files are unchanged."""
    outcome = Outcome("disk full at a random byte")
    begun = workspace.new_results()
    for name, languages in zip(STAGES, (("en", "fr", "zh"), ("en",)), strict=True):
        ended = workspace.start(begun, "--lang", *languages, stages=(name,)).end()
        assert ended.status == 0, ended
    before = snapshot(begun)
    for number in range(count):
        generator = random.Random(f"{SEED} disk {number}")
        name, languages = ((STAGES[0], LANGUAGES), (STAGES[1], ("en", "fr", "zh")))[number % 2]
        # The new file is larger than the existing one.
        limit = generator.randint(0, len(before[f"{LABEL}/morality/{STEMS[name]}.pt"]))
        full = functools.partial(limit_files, limit)
        ended = workspace.start(begun, "--lang", *languages, stages=(name,), before=full).end()
        where = f"disk full after {limit} bytes in {name}"
        errors = [line for line in ended.err.splitlines() if line.startswith("error: ")]
        outcome.expect(ended.status == 2, f"{where}: status {ended.status}: {ended.err[-300:]}")
        outcome.expect(len(errors) == 1 and "cannot be written" in errors[0], f"{where}: {ended.err[-300:]}")
        outcome.expect("Traceback" not in ended.err and not ended.out, f"{where}: more than one line")
        outcome.expect(snapshot(begun) == before, f"{where}: files changed, or {litter(snapshot(begun))} left")
        outcome.tried += 1
    return outcome
