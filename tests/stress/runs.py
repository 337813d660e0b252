"""Runs killed, interrupted, at once on one folder, and out of disk: nothing lost."""

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
from stress.child import FORK, STEPS, TIMEOUT, limit_files, signal_at_step
from stress.tally import Tally
from stress.world import CONCEPTS, LABEL, LANGUAGES, SEED, STAGES, World, litter, results, snapshot

MOMENTS = ("time", "step", "write")
# The file operation that comes when a temporary file is complete.
WRITTEN = ("os.rename",)
# What the stages call their files.
STEMS = dict(zip(STAGES, ("reader_dict", "acc"), strict=True))
RACES = ((("en", "fr"), ("zh", "vi")), (("en", "fr", "zh"), ("en", "fr", "zh")), (("en", "fr"), ("fr", "zh")))


def kills(world: World, count: int) -> Tally:
    """A run killed at any moment, then run again, leaves the bytes of an undisturbed run and nothing else.

    The moments are drawn in turn from the time of the run, from its file operations, and from the writes that are done
    but for the renaming, which time alone would seldom meet.
    """
    tally = Tally("runs killed, then run again")
    for number in range(count):
        generator = random.Random(f"{SEED} kill {number}")
        res = world.new_results()
        ended = killed(world, res, generator, MOMENTS[number % len(MOMENTS)])
        left = snapshot(res)
        moment = moment_of(ended, left)
        tally.seen[f"killed {moment}"] += 1
        again = world.child(res).end()
        after = snapshot(res)
        where = f"kill {number} ({moment})"
        tally.expect(again.status == 0, f"{where}: the second run ended with {again.status}: {again.err[-300:]}")
        tally.expect(results(after) == world.expected, f"{where}: the results differ from an undisturbed run's")
        tally.expect(not litter(after), f"{where}: {litter(after)} left after the second run")
        tally.tried += 1
        shutil.rmtree(res)
    return tally


def killed(world: World, res: Path, generator: random.Random, moment: str) -> Ended:
    """Run both stages until SIGKILL, at a time up to a little after the end or at a file operation, all at random."""
    if moment == "time":
        child = world.child(res)
        time.sleep(generator.uniform(0, 1.1) * world.seconds)
        child.signal(signal.SIGKILL)
        return child.end()
    events, count = (
        (STEPS, world.steps) if moment == "step" else (WRITTEN, len(STAGES) * len(CONCEPTS) * len(LANGUAGES))
    )
    step = generator.randint(1, count)
    return world.child(res, before=lambda: signal_at_step(res, step, signal.SIGKILL, events)).end()


def moment_of(ended: Ended, left: dict[str, bytes]) -> str:
    """Where in its work a run was killed."""
    if ended.status == 0:
        return "after the work"
    if litter(left):
        return "while a file was written"
    return "between two writes" if left else "before the first write"


def interrupts(world: World, count: int) -> Tally:
    """Ctrl-C ends a stage with 130 and a line on how to go on; what was finished is whole, and can be gone on from."""
    tally = Tally("stages interrupted, then run again")
    for number in range(count):
        generator = random.Random(f"{SEED} interrupt {number}")
        res = world.new_results()
        name = STAGES[number // 2 % 2]
        if name == STAGES[1]:
            world.child(res, stages=STAGES[:1]).end()
        ended = interrupted(world, res, name, generator, at_step=number % 2 == 1)
        left = snapshot(res)
        tally.seen["interrupted" if ended.status else "done before"] += 1
        where = f"interrupt {number} of {name}"
        if ended.status:
            tally.expect(ended.status == 130, f"{where}: status {ended.status}: {ended.err[-300:]}")
            last = ended.err.splitlines()[-1:] or [""]
            tally.expect(last[0].startswith("interrupted: ") and "same command goes on" in last[0], f"{where}: {last}")
            tally.expect("Traceback" not in ended.err, f"{where}: a traceback")
        tally.expect(not litter(left), f"{where}: {litter(left)} left")
        tally.expect(_all_readable(res), f"{where}: a file is not readable")
        again = world.child(res).end()
        same = snapshot(res) == world.expected
        tally.expect(again.status == 0 and same, f"{where}: the second run ended with {again.status}, same: {same}")
        tally.tried += 1
        shutil.rmtree(res)
    return tally


def interrupted(world: World, res: Path, name: str, generator: random.Random, at_step: bool) -> Ended:
    """Run a stage until SIGINT: at a random file operation, or some time after its first result is on disk."""
    if at_step:
        step = generator.randint(1, world.steps // 2)
        return world.child(res, stages=(name,), before=lambda: signal_at_step(res, step, signal.SIGINT)).end()
    child = world.child(res, stages=(name,))
    while not any(res.glob(f"*/*/{STEMS[name]}.pt")) and child.process.exitcode is None:
        time.sleep(0.001)
    time.sleep(generator.uniform(0, 0.2) * world.seconds)
    child.signal(signal.SIGINT)
    return child.end()


def _all_readable(res: Path) -> bool:
    for concept in CONCEPTS:
        try:
            _ = VectorFile(res, LABEL, concept, Kind()).vectors, AccuracyFile(res, LABEL, concept, Kind()).accuracy
        except UserError:
            return False
    return True


def races(world: World, count: int) -> Tally:
    """Two runs at once on one folder leave the bytes that one after the other leave; files are readable all the time.

    The languages of the two are different, the same, or some of each in turn.
    """
    tally = Tally("two runs at once")
    expected: dict[int, dict[str, bytes]] = {}
    for number in range(count):
        turn = number % len(RACES)
        if turn not in expected:
            res = world.new_results()
            for languages in RACES[turn]:
                world.child(res, "--lang", *languages).end()
            expected[turn] = snapshot(res)
        res = world.new_results()
        for name in STAGES:
            ended, unreadable = raced(world, res, name, RACES[turn])
            statuses = [one.status for one in ended]
            tally.expect(statuses == [0, 0], f"race {number}, {name}: {statuses}: {ended[0].err[-200:]}")
            tally.expect(not unreadable, f"race {number}, {name}: a file was not readable meanwhile")
        tally.expect(snapshot(res) == expected[turn], f"race {number}: not what one run after the other leaves")
        tally.tried += 1
        shutil.rmtree(res)
    return tally


def raced(world: World, res: Path, name: str, languages: tuple[tuple[str, ...], ...]) -> tuple[list[Ended], bool]:
    """Run a stage twice at once; how both ended, and whether a reader met a file that it could not read."""
    barrier = FORK.Barrier(len(languages))
    children = [
        world.child(res, "--lang", *chosen, stages=(name,), before=lambda: barrier.wait(TIMEOUT))
        for chosen in languages
    ]
    unreadable = False
    while any(child.process.exitcode is None for child in children):
        unreadable = unreadable or not _all_readable(res)
        time.sleep(0.005)
    return [child.end() for child in children], unreadable


def full_disks(world: World, count: int) -> Tally:
    """A disk that is full after any number of bytes: status 2, one line, and every file is what it was."""
    tally = Tally("disks full at a random byte")
    begun = world.new_results()
    for name, languages in zip(STAGES, (("en", "fr", "zh"), ("en",)), strict=True):
        ended = world.child(begun, "--lang", *languages, stages=(name,)).end()
        assert ended.status == 0, ended
    before = snapshot(begun)
    for number in range(count):
        generator = random.Random(f"{SEED} disk {number}")
        name, languages = ((STAGES[0], LANGUAGES), (STAGES[1], ("en", "fr", "zh")))[number % 2]
        # The file that will be written is larger than the one that is there.
        limit = generator.randint(0, len(before[f"{LABEL}/morality/{STEMS[name]}.pt"]))
        full = functools.partial(limit_files, limit)
        ended = world.child(begun, "--lang", *languages, stages=(name,), before=full).end()
        where = f"disk full after {limit} bytes in {name}"
        errors = [line for line in ended.err.splitlines() if line.startswith("error: ")]
        tally.expect(ended.status == 2, f"{where}: status {ended.status}: {ended.err[-300:]}")
        tally.expect(len(errors) == 1 and "cannot be written" in errors[0], f"{where}: {ended.err[-300:]}")
        tally.expect("Traceback" not in ended.err and not ended.out, f"{where}: more than one line")
        tally.expect(snapshot(begun) == before, f"{where}: files changed, or {litter(snapshot(begun))} left")
        tally.tried += 1
    return tally
