#!/usr/bin/env python3
"""Nothing lost, nothing let in: runs killed, interrupted, raced and out of disk; files fuzzed and hostile.

  python tests/stress.py
  python tests/stress.py --kills 3 --races 2 --fuzz 50 --full-disk 5

Prints a table of figures and ends with status 1 if anything failed. `test_reliability.py` runs the same with small
counts. What is drawn comes from fixed seeds; when a signal arrives also depends on the machine.
"""

import argparse
import contextlib
import ctypes
import functools
import importlib
import io
import itertools
import json
import multiprocessing
import operator
import os
import pickle
import random
import resource
import runpy
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Run as a script, this file finds the other tests beside it, but neither the package nor the scripts.
sys.path.insert(0, str(Path(__file__).parents[1]))

import hypothesis
import numpy as np
import torch
from conftest import Ended, build, write_data
from hypothesis import strategies as st

from repe.data import read_pairs
from repe.errors import UserError
from repe.rep_readers import ClusterMeanRepReader
from repe.results import AccuracyFile, Kind, VectorFile

FORK = multiprocessing.get_context("fork")
STAGES = ("collect_vector", "recognize_concept")
CONCEPTS = ("morality", "toxicity")
LANGUAGES = ("en", "fr", "zh", "vi")
LABEL = "tiny"
SEED = 1
TIMEOUT = 120
FAILURES_SHOWN = 20
# What Python tells of file operations, each just before it is done.
STEPS = ("open", "os.mkdir", "os.rename", "os.chmod", "os.remove", "tempfile.mkstemp")
# The one that comes when a temporary file is complete.
WRITTEN = ("os.rename",)
MOMENTS = ("time", "step", "write")


@dataclass
class Tally:
    """What a part of the harness tried and what went wrong."""

    what: str
    tried: int = 0
    failures: list[str] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)
    """How often what happened, for the table."""

    def expect(self, right: object, failure: str) -> None:
        """Note `failure` unless `right`."""
        if not right:
            self.failures.append(failure)


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
    # A test runner that collects warnings would keep them from stderr, where a user would see them.
    warnings.showwarning = lambda *warning, **_: print(warnings.formatwarning(*warning[:4]), file=sys.stderr)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        work()
    finally:
        # The script is over; an interrupt from here on would meet the harness alone.
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def answer(work: Callable[[], Any]) -> Any:
    """What `work` returns in a child, through JSON."""
    ended = Child(lambda: print(json.dumps(work()))).end()
    if ended.status:
        raise AssertionError(f"ended with {ended.status}: {ended.err[-2000:]}")
    return json.loads(ended.out.splitlines()[-1])


def script(name: str, *arguments: object) -> None:
    """Run a script in this process, as from a command line; raises the SystemExit that it ends with."""
    sys.argv = [f"{name}.py", *map(str, arguments)]
    importlib.import_module(name).start()


def both_stages(*arguments: object) -> None:
    """Collection, then recognition."""
    for name in STAGES:
        try:
            script(name, *arguments)
        except SystemExit as ended:
            if ended.code:
                raise


@dataclass(frozen=True)
class World:
    """A model and data that all runs share, and what an undisturbed run makes of them."""

    folder: Path
    expected: dict[str, bytes]
    seconds: float
    """Of an undisturbed run of both stages."""
    steps: int
    """File operations below the results folder in such a run."""

    def options(self, res: Path, *more: object) -> list[object]:
        """Options of a run that writes to `res`."""
        return [*_model_options(self.folder), "--res-dir", res, *more]

    def new_results(self) -> Path:
        """An empty results folder."""
        return Path(tempfile.mkdtemp(prefix="res", dir=self.folder))


def _model_options(folder: Path) -> list[object]:
    return ["--model-path", folder / LABEL, "--data-dir", folder / "data", "--device", "cpu"]


def make_world(folder: Path) -> World:
    """Build a model and data in `folder` and run both stages undisturbed."""
    build(folder / LABEL, "llama")
    for concept, language in itertools.product(CONCEPTS, LANGUAGES):
        write_data(folder / "data", concept, language, 14)
    # Once in this process, so that every fork finds all modules imported.
    argv = sys.argv
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        both_stages(*_model_options(folder), "--res-dir", folder / "warm", "--lang", "en", "--concept", "morality")
    sys.argv = argv
    times, counted = [], FORK.RawValue("i", 0)
    for number in range(3):
        res = folder / f"undisturbed{number}"
        options = [*_model_options(folder), "--res-dir", res]
        start = time.perf_counter()
        ended = Child(lambda res=res, options=options: (count_steps(res, counted), both_stages(*options))).end()
        times.append(time.perf_counter() - start)
        assert ended.status == 0, ended
    return World(folder, snapshot(res), sorted(times)[1], counted.value // 3)


def snapshot(res: Path) -> dict[str, bytes]:
    """All files below a results folder but the locks, by relative path."""
    files = (path for path in sorted(res.rglob("*")) if path.is_file() and not path.name.endswith(".lock"))
    return {str(path.relative_to(res)): path.read_bytes() for path in files}


def litter(files: dict[str, bytes]) -> list[str]:
    """Temporary files among those of a snapshot."""
    return [name for name in files if Path(name).name.startswith(".")]


def results(files: dict[str, bytes]) -> dict[str, bytes]:
    """Those of a snapshot that are no temporary files."""
    return {name: raw for name, raw in files.items() if name not in litter(files)}


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


# Kills


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
        again = Child(lambda res=res: both_stages(*world.options(res))).end()
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
        child = Child(lambda: both_stages(*world.options(res)))
        time.sleep(generator.uniform(0, 1.1) * world.seconds)
        child.signal(signal.SIGKILL)
        return child.end()
    events, count = (
        (STEPS, world.steps) if moment == "step" else (WRITTEN, len(STAGES) * len(CONCEPTS) * len(LANGUAGES))
    )
    step = generator.randint(1, count)
    return Child(lambda: (signal_at_step(res, step, signal.SIGKILL, events), both_stages(*world.options(res)))).end()


def moment_of(ended: Ended, left: dict[str, bytes]) -> str:
    """Where in its work a run was killed."""
    if ended.status == 0:
        return "after the work"
    if litter(left):
        return "while a file was written"
    return "between two writes" if left else "before the first write"


# Interrupts


def interrupts(world: World, count: int) -> Tally:
    """Ctrl-C ends a stage with 130 and a line on how to go on; what was finished is whole, and can be gone on from."""
    tally = Tally("stages interrupted, then run again")
    for number in range(count):
        generator = random.Random(f"{SEED} interrupt {number}")
        res = world.new_results()
        name = STAGES[number // 2 % 2]
        if name == STAGES[1]:
            Child(lambda res=res: script(STAGES[0], *world.options(res))).end()
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
        again = Child(lambda res=res: both_stages(*world.options(res))).end()
        same = snapshot(res) == world.expected
        tally.expect(again.status == 0 and same, f"{where}: the second run ended with {again.status}, same: {same}")
        tally.tried += 1
        shutil.rmtree(res)
    return tally


def interrupted(world: World, res: Path, name: str, generator: random.Random, at_step: bool) -> Ended:
    """Run a stage until SIGINT: at a random file operation, or some time after its first result is on disk."""
    options = world.options(res)
    if at_step:
        step = generator.randint(1, world.steps // 2)
        return Child(lambda: (signal_at_step(res, step, signal.SIGINT), script(name, *options))).end()
    child = Child(lambda: script(name, *options))
    stem = {"collect_vector": "reader_dict", "recognize_concept": "acc"}[name]
    while not any(res.glob(f"*/*/{stem}.pt")) and child.process.exitcode is None:
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


# Races

RACES = ((("en", "fr"), ("zh", "vi")), (("en", "fr", "zh"), ("en", "fr", "zh")), (("en", "fr"), ("fr", "zh")))


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
                Child(lambda res=res, chosen=languages: both_stages(*world.options(res, "--lang", *chosen))).end()
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
        Child(lambda chosen=chosen: (barrier.wait(TIMEOUT), script(name, *world.options(res, "--lang", *chosen))))
        for chosen in languages
    ]
    unreadable = False
    while any(child.process.exitcode is None for child in children):
        unreadable = unreadable or not _all_readable(res)
        time.sleep(0.005)
    return [child.end() for child in children], unreadable


# Full disks


def full_disks(world: World, count: int) -> Tally:
    """A disk that is full after any number of bytes: status 2, one line, and every file is what it was."""
    tally = Tally("disks full at a random byte")
    begun = world.new_results()
    for name, languages in zip(STAGES, (("en", "fr", "zh"), ("en",)), strict=True):
        ended = Child(lambda name=name, chosen=languages: script(name, *world.options(begun, "--lang", *chosen))).end()
        assert ended.status == 0, ended
    before = snapshot(begun)
    for number in range(count):
        generator = random.Random(f"{SEED} disk {number}")
        name, languages = ((STAGES[0], LANGUAGES), (STAGES[1], ("en", "fr", "zh")))[number % 2]
        # The file that will be written is larger than the one that is there.
        size = len(before[f"{LABEL}/morality/{'reader_dict' if number % 2 == 0 else 'acc'}.pt"])
        limit = generator.randint(0, size)
        ended = Child(
            lambda limit=limit, name=name, chosen=languages: (
                limit_files(limit),
                script(name, *world.options(begun, "--lang", *chosen)),
            )
        ).end()
        where = f"disk full after {limit} bytes in {name}"
        errors = [line for line in ended.err.splitlines() if line.startswith("error: ")]
        tally.expect(ended.status == 2, f"{where}: status {ended.status}: {ended.err[-300:]}")
        tally.expect(len(errors) == 1 and "cannot be written" in errors[0], f"{where}: {ended.err[-300:]}")
        tally.expect("Traceback" not in ended.err and not ended.out, f"{where}: more than one line")
        tally.expect(snapshot(begun) == before, f"{where}: files changed, or {litter(snapshot(begun))} left")
        tally.tried += 1
    return tally


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


@contextlib.contextmanager
def temporary_world() -> Iterator[World]:
    """A world in a folder that is gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        yield make_world(Path(folder))


# Fuzzed files: bytes and trees changed at random

Change = Callable[[Any], Any]


class _Gone:
    """Stands for an entry that a change takes away."""


def places(tree: Any, path: tuple = ()) -> Iterator[tuple]:
    """The paths of all nodes of nested dicts and lists; of a long list the first nodes, of an endless one some."""
    yield path
    if len(path) > 5:
        return
    nodes = tree.items() if isinstance(tree, dict) else enumerate(tree[:4]) if isinstance(tree, list) else ()
    for name, node in nodes:
        yield from places(node, (*path, name))


def changed(tree: Any, path: tuple, change: Change) -> Any:
    """A copy of `tree` with the node at `path` changed."""
    if not path:
        return change(tree)
    node = changed(tree[path[0]], path[1:], change)
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree)
    new = [(name, node if name == path[0] else old) for name, old in pairs if name != path[0] or node is not _Gone]
    return dict(new) if isinstance(tree, dict) else [old for _, old in new]


def rename(name: Any) -> Change:
    """Give the first entry of a dict another name."""
    return lambda node: (
        dict([(name, next(iter(node.values()))), *list(node.items())[1:]])
        if isinstance(node, dict) and node
        else [name]
    )


def unwrap(node: Any) -> Any:
    """One level of nesting less."""
    nodes = list(node.values()) if isinstance(node, dict) else node if isinstance(node, list) else []
    return nodes[0] if nodes else _Gone


def changes(junk: st.SearchStrategy, names: st.SearchStrategy) -> st.SearchStrategy[Change]:
    """Changes of a node: gone, something else, one level more or less, an entry renamed."""
    fixed: list[Change] = [lambda _: _Gone, lambda node: [node], lambda node: {"x": node}, unwrap]
    return st.one_of(st.sampled_from(fixed), junk.map(lambda value: lambda _: value), names.map(rename))


@st.composite
def mutated(draw: st.DrawFn, tree: Any, change: st.SearchStrategy[Change]) -> Any:
    """`tree` with one to three nodes changed."""
    for _ in range(draw(st.integers(1, 3))):
        tree = changed(tree, draw(st.sampled_from(list(places(tree)))), draw(change))
        tree = None if tree is _Gone else tree
    return tree


@st.composite
def damaged(draw: st.DrawFn, raw: bytes) -> bytes:
    """`raw` with a few bytes changed, cut out, put in, repeated or cleared, or cut off at the end."""
    for _ in range(draw(st.integers(1, 3))):
        kind = draw(st.integers(0, 5))
        at, end = sorted((draw(st.integers(0, len(raw))), draw(st.integers(0, len(raw)))))
        if kind == 0:
            raw = raw[:at]
        elif kind == 1:
            raw = raw[:at] + draw(st.binary(min_size=1, max_size=8)) + raw[at:]
        elif kind == 2:
            raw = raw[:at] + bytes(len(raw[at:end])) + raw[end:]
        elif kind == 3:
            raw = raw[:at] + raw[end:]
        elif kind == 4:
            raw = raw[:end] + raw[at:]
        elif raw[at:]:
            raw = raw[:at] + bytes([raw[at] ^ draw(st.integers(1, 255))]) + raw[at + 1 :]
    return raw


@st.composite
def flipped(draw: st.DrawFn, raw: bytes) -> bytes:
    """`raw` with one to three bits the other way."""
    changing = bytearray(raw)
    for _ in range(draw(st.integers(1, 3))):
        changing[draw(st.integers(0, len(raw) - 1))] ^= 1 << draw(st.integers(0, 7))
    return bytes(changing)


@st.composite
def flipped_member(draw: st.DrawFn, raw: bytes) -> bytes:
    """An archive with one bit of a member the other way."""
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        member = draw(st.sampled_from([member for member in archive.infolist() if member.file_size]))
    # The lengths of the name and of what is between it and the data stand in the last four bytes of the header.
    header = raw[member.header_offset :][:30]
    start = member.header_offset + len(header) + sum(struct.unpack("<HH", header[-4:]))
    at = start + draw(st.integers(0, member.file_size - 1))
    return raw[:at] + bytes([raw[at] ^ 1 << draw(st.integers(0, 7))]) + raw[at + 1 :]


def fuzz(what: str, files: st.SearchStrategy, check: Callable[[Any], str], count: int) -> Tally:
    """Check `count` drawn files; `check` says what became of each, or raises where that is wrong.

    In a child, since a file may ask for all memory. All files are tried; of failures at one place the first is kept.
    """
    settings = hypothesis.settings(
        max_examples=count,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.generate],
    )
    seen: Counter[str] = Counter()
    failures: dict[tuple, str] = {}

    def checked(drawn: Any) -> None:
        try:
            seen[check(drawn)] += 1
        except Exception as error:
            seen["FAILED"] += 1
            place = traceback.extract_tb(error.__traceback__)[-1]
            text = f"{what}: {type(error).__name__} at {Path(place.filename).name}:{place.lineno}: {error!s:.400}"
            failures.setdefault((type(error), place.filename, place.lineno, str(error)[:40]), text)

    def work() -> dict[str, Any]:
        limit_memory()
        # What numpy says of impossible numbers is no answer to a user.
        warnings.simplefilter("error", RuntimeWarning)
        settings(hypothesis.given(files)(checked))()
        return {"seen": seen, "failures": list(failures.values())}

    found = answer(work)
    return Tally(what, sum(found["seen"].values()), found["failures"], Counter(found["seen"]))


# Fuzzed data files

CONTEXT = {"morality": "", "deontology": "scenario", "truthfulness": "question"}
JSON_JUNK = st.one_of(
    st.sampled_from([None, True, 0, -1, 1.5, float("nan"), 10**30, "", " ", "\ufeff", "\ud800", "\udc00\ud800", "\0"]),
    st.sampled_from([[], {}, ["text"], {"pos": "yes", "neg": "no"}, {"": ""}]),
    st.text(max_size=5),
)


@st.composite
def data_files(draw: st.DrawFn) -> tuple[str, bytes]:
    """A concept and the bytes of a data file for it: valid JSON that was changed, or anything."""
    concept = draw(st.sampled_from(sorted(CONTEXT)))
    sample = {"pos": "helps a friend", "neg": "hurts a friend", "scenario": "At work.", "question": "What?"}
    tree = {f"g{group}": {str(item): sample | {"neg": f"no {item}"} for item in range(3)} for group in range(2)}
    names = st.sampled_from(["", "pos", "neg", "Pos", "x", "g0", "1", "\ud800"])
    tree = draw(st.one_of(mutated(tree, changes(JSON_JUNK, names)), st.just(tree)))
    text = json.dumps(tree, ensure_ascii=draw(st.booleans()))
    if draw(st.integers(0, 7)) == 0:
        text = text.replace(
            draw(st.sampled_from(['"1"', '"g1"', '"neg"', '"question"'])), '"0"', draw(st.integers(1, 3))
        )
    encoding = draw(st.sampled_from(["utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-32-be", "latin-1"]))
    raw = text.encode(encoding, "surrogatepass" if encoding.startswith("utf") else "replace")
    return concept, draw(st.one_of(st.just(raw), damaged(raw), flipped(raw), st.binary(max_size=40)))


def simple_pairs(concept: str, raw: bytes) -> list[tuple[str, str, str]]:
    """Key and texts of the pairs of a valid file, read without any care."""

    def unique(items: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len(dict(items)) == len(items), "a repeated key was accepted"
        return dict(items)

    groups = json.loads(raw.decode("utf-8").removeprefix("\ufeff"), object_pairs_hook=unique)
    form = {"": "{1}", "scenario": "{0} {1}", "question": "Question: {0} Answer: {1}"}[CONTEXT[concept]]
    return [
        (f"{group}|{item}", *(form.format(sample.get(CONTEXT[concept]), sample[side]) for side in ("pos", "neg")))
        for group, items in groups.items()
        for item, sample in items.items()
        if sample["pos"] != sample["neg"]
    ]


def fuzz_data(folder: Path, count: int) -> Tally:
    """A data file is read as a careless reader reads it, all texts whole and not empty, or refused in a line."""

    def check(drawn: tuple[str, bytes]) -> str:
        concept, raw = drawn
        path = folder / "fuzz" / concept / f"{concept}_en.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(raw)
        try:
            pairs = read_pairs(folder / "fuzz", concept, "en").pairs
        except UserError as error:
            assert path.name in str(error)
            return "refused"
        assert len(pairs) > 1
        for text in (text for pair in pairs for text in (pair.positive, pair.negative)):
            assert isinstance(text, str)
            assert text.strip()
            assert text.encode()
        assert [(pair.key, pair.positive, pair.negative) for pair in pairs] == simple_pairs(concept, raw)
        return "read"

    return fuzz("fuzzed data files", data_files(), check, count)


# Fuzzed result files

KINDS = tuple(Kind(method, labels) for method in ("cluster_mean", "pca", "random") for labels in (False, True))
TABLES = {VectorFile: ("languages",), AccuracyFile: tuple(AccuracyFile.tables)}


def _looped() -> list:
    loop: list = []
    loop.append(loop)
    return loop


def result_junk() -> list[Any]:
    """Values that belong in no result file, or at another place in it."""
    plain = [None, -3, 1.5, float("nan"), 10**400, "text", "../x", b"raw", [], {}, [1], {"a": 1}, _looped()]
    numbers = [torch.tensor(0.5), torch.zeros(2), torch.zeros(0, 1, 4), torch.zeros(3, dtype=torch.complex64)]
    odd = [torch.eye(3).to_sparse(), torch.nn.Parameter(torch.zeros(3)), torch.empty(3, device="meta")]
    arrays = [np.zeros(3), np.float64("nan"), np.array(["text"]), np.zeros(2, complex)]
    return plain + numbers + odd + arrays


def spoilt(node: Any) -> list[Any]:
    """An array or a tensor in ways that it must not be."""
    if isinstance(node, torch.Tensor):
        filled = [torch.full_like(node, bad) for bad in (torch.nan, torch.inf)] if node.is_floating_point() else []
        values = [node * 7] if node.dtype in (torch.int8, torch.uint8) else []
        shapes = [node[:-1], node[None], node.reshape(-1, 1), node.reshape(1, -1).squeeze(0)]
        types = [node.double() if node.dtype == torch.float32 else node.float(), node.half(), node.long()]
        return [*filled, *values, *shapes, *types, node.clone().to_sparse()]
    if isinstance(node, np.ndarray):
        bad = [np.full_like(node, np.nan), np.full_like(node, np.inf), node[:, :-1], node[0], node[None]]
        return [*bad, node.astype("U"), node.astype(complex), node.astype(object)]
    return [[node], -7, np.inf, [7], [0], [np.nan]]


def result_changes() -> st.SearchStrategy[Change]:
    """Changes of a node of a result file."""
    names = st.sampled_from(["x", "", 3, 0, None, float("inf"), ("a",), "layers"])

    def spoil(number: int) -> Change:
        def change(node: Any) -> Any:
            # What an earlier change has made need not have the shape for this one.
            with contextlib.suppress(IndexError, RuntimeError, TypeError, ValueError):
                return spoilt(node)[number % len(spoilt(node))]
            return "spoilt"

        return change

    return st.one_of(st.integers(0, 11).map(spoil), changes(st.sampled_from(result_junk()), names))


def saved(content: Any) -> bytes:
    """The bytes of a PyTorch archive."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def rezipped(raw: bytes, pickled: bytes) -> bytes:
    """The archive with another pickle in it, and a check sum that is right."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(raw)) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            new.writestr(name, pickled if name.endswith("/data.pkl") else old.read(name))
    return buffer.getvalue()


def pickled_part(raw: bytes) -> bytes:
    """The pickle of an archive."""
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        return archive.read(next(name for name in archive.namelist() if name.endswith("/data.pkl")))


@st.composite
def result_files(draw: st.DrawFn, tree: Any, as_content: Change) -> tuple[Kind, str, bytes]:
    """A kind of file, how it was damaged, and its bytes.

    Args:
        tree: the content of a good file.
        as_content: makes what is pickled of a tree.
    """
    good = saved(as_content(tree))
    how = draw(st.sampled_from(["bytes", "bytes", "content", "content", "pickle"]))
    if how == "bytes":
        raw = draw(st.one_of(damaged(good), flipped(good), flipped_member(good), st.binary(max_size=60)))
    elif how == "content":
        raw = saved(as_content(draw(mutated(tree, result_changes()))))
    else:
        program = pickled_part(good)
        raw = rezipped(good, draw(st.one_of(damaged(program), flipped(program))))
    return draw(st.sampled_from(KINDS)), how, raw


def as_readers(tree: Any) -> Any:
    """What a released file pickles: each language's attributes in a reader."""

    def reader(attributes: Any) -> Any:
        if not isinstance(attributes, dict) or not all(isinstance(name, str) for name in attributes):
            return attributes
        made = ClusterMeanRepReader()
        made.__dict__.clear()
        made.__dict__.update(attributes)
        return made

    return {name: reader(node) for name, node in tree.items()} if isinstance(tree, dict) else tree


def read_all(file: VectorFile | AccuracyFile, meta: dict[str, Any]) -> dict[str, Any]:
    """All that the program reads of a result file, in the ways in which it does."""
    file.family()
    file.check_settings(meta)
    file.check_inputs("data", {"en": meta["data"]["en"]})
    for same_language in (True, False):
        file.lacking(["en", "fr"], same_language)
    if isinstance(file, AccuracyFile):
        file.check_inputs("vectors", {"en": meta["vectors"]["en"]})
        file.lacks_target("en", ["en", "fr"])
        tables = {name: file.content[name] for name in TABLES[AccuracyFile]}
        assert file.languages == [name for name in file.accuracy if name in file.accuracy[name]]
        return tables | {"accuracy": file.accuracy}
    assert file.languages == list(file.vectors)
    return {
        language: {"directions": one.directions, "signs": one.signs, "digest": one.digest, **one.details}
        for language, one in file.vectors.items()
    }


def alike(found: Any, good: Any, all_of_it: bool) -> bool:
    """Whether what was read is what is in the good file: all of it, or nothing else under any name that is there."""
    if isinstance(good, dict):
        same = isinstance(found, dict) and (not all_of_it or list(found) == list(good))
        return same and all(alike(found[name], good[name], all_of_it) for name in good if name in found)
    if isinstance(good, torch.Tensor | np.ndarray):
        if type(found) is not type(good) or found.dtype != good.dtype or found.shape != good.shape:
            return False
        return np.asarray(found).tobytes() == np.asarray(good).tobytes()
    if isinstance(good, list) and type(found) is list:
        return len(found) == len(good) and all(alike(*both, all_of_it) for both in zip(found, good, strict=True))
    # Another text in the place of a name is as good a name.
    return type(found) is type(good) and (found == good or (isinstance(good, str) and not all_of_it))


def fuzz_results(world: World, file_type: type[VectorFile] | type[AccuracyFile], released: bool, count: int) -> Tally:
    """A result file is read as it was written, or refused in a line: no damage passes for results."""
    good_file = file_type(world.folder / "undisturbed2", LABEL, "morality", Kind())
    tree: Any = good_file.content
    meta = tree["meta"]
    if released:
        tree = _released_tree(good_file)
    folder = world.new_results()
    good: dict[str, Any] = {}

    def read(kind: Kind, raw: bytes) -> dict[str, Any]:
        file = file_type(folder, LABEL, "morality", kind)
        path = file.released_path if released else file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(raw)
        try:
            return read_all(file, meta)
        except UserError as error:
            assert path.name in str(error), str(error)
            raise
        finally:
            path.unlink()

    def check(drawn: tuple[Kind, str, bytes]) -> str:
        kind, how, raw = drawn
        try:
            found = read(kind, raw)
        except UserError:
            return f"{how}: refused"
        # A pickle that was changed and has a right check sum may say something else that is as good.
        assert how == "pickle" or alike(found, good, how == "bytes"), (
            f"{how}: {_difference(found, good, how == 'bytes')}"
        )
        return f"{how}: read"

    as_content: Change = as_readers if released and file_type is VectorFile else lambda content: content
    good |= read(Kind(), saved(as_content(tree)))
    what = f"fuzzed {good_file.released_path.name if released else good_file.path.name}"
    return fuzz(what, result_files(tree, as_content), check, count)


def _released_tree(good: VectorFile | AccuracyFile) -> dict[str, Any]:
    """The content of a released file with the same results."""
    if isinstance(good, AccuracyFile):
        return {
            source: {target: dict(enumerate(map(np.float64, row), 1)) for target, row in targets.items()}
            for source, targets in good.accuracy.items()
        }
    return {
        language: {
            "directions": dict(enumerate(one.directions, 1)),
            "direction_signs": {layer: sign.tolist() for layer, sign in enumerate(one.signs, 1)},
        }
        for language, one in good.vectors.items()
    }


def _difference(found: dict[str, Any], good: dict[str, Any], all_of_it: bool) -> str:
    paths = [path for path in places(good) if path]
    for path in sorted(paths, key=len, reverse=True):
        here, there = found, good
        with contextlib.suppress(KeyError, TypeError, IndexError):
            for name in path:
                here, there = here[name], there[name]
            if not alike(here, there, all_of_it):
                return f"{'/'.join(map(str, path))} is {here!r:.200}, not {there!r:.200}"
    return f"{list(found)}, not {list(good)}"


# Hostile pickles


class Call:
    """Pickles to a call of `function`, which can be such a call itself."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call

    def __call__(self) -> None:
        """Never called; pickle wants what is called to be callable."""


def hostile_contents(folder: Path) -> dict[str, Any]:
    """Objects whose pickles, if they ran, would make the file `ran` in `folder`; bytes are pickles as they are."""
    mark = folder / "ran"
    code, command = f"open({str(mark)!r}, 'w')", f"touch {mark}"
    (folder / "module.py").write_text(code)
    (folder / "array.npy").write_bytes(_object_array(Call(os.system, command)))
    (folder / "nested.pt").write_bytes(saved(Call(os.system, command)))
    reader = ClusterMeanRepReader()
    reader.directions = {1: Call(os.system, command)}  # type: ignore[dict-item]
    calls = {
        "os.system": Call(os.system, command),
        "eval": Call(eval, code),
        "exec": Call(exec, code),
        "pathlib": Call(Path.touch, mark),
        "numpy.load": Call(np.load, str(folder / "array.npy"), None, True),
        "torch.load": Call(functools.partial(torch.load, str(folder / "nested.pt"), weights_only=False)),
        "importlib": Call(Call(operator.attrgetter("system"), Call(importlib.import_module, "os")), command),
        "runpy": Call(runpy.run_path, str(folder / "module.py")),
        "functools.partial": Call(functools.partial(os.system, command)),
        "subprocess": Call(subprocess.check_call, ["touch", str(mark)]),
        "nested": Call(list, (Call(tuple, (Call(os.system, command),)),)),
        "in a reader": reader,
    }
    return {name: {"en": call} for name, call in calls.items()} | BUILD_ON_CLASSES


# An allowed name, then an attribute of what it stands for: a class that was changed would act on the next file.
BUILD_ON_CLASSES = {
    "BUILD on numpy.dtype": b"\x80\x02cnumpy\ndtype\n}X\x08\x00\x00\x00__call__K\x01sb.",
    "BUILD on a reader": b"\x80\x02crepe.rep_readers\nClusterMeanRepReader\nN}X\x0a\x00\x00\x00__reduce__K\x01s\x86b.",
    "BUILD on encode": b"\x80\x02c_codecs\nencode\nN}X\x07\x00\x00\x00__new__K\x01s\x86b.",
    "BUILD on OrderedDict": b"\x80\x02ccollections\nOrderedDict\nN}X\x07\x00\x00\x00__new__K\x01s\x86b.",
}


def _object_array(content: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([content], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def contained(content: Any, protocol: int, container: str) -> bytes:
    """A pickle of `content` as a bare file, in PyTorch's archive, or in the form before that, pickles in a row."""
    program = content if isinstance(content, bytes) else pickle.dumps(content, protocol)
    if container == "plain":
        return program
    if container == "legacy":
        head = (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {}})
        return b"".join(pickle.dumps(part, protocol) for part in head) + program + pickle.dumps([], protocol)
    return rezipped(saved({}), program)


def readers_of(file: VectorFile | AccuracyFile, kind: Kind, options: list[object]) -> list[tuple[object, ...]]:
    """The command lines that read a file: the analyses of folders, and the stages that add to it or work from it."""
    method = ["--direction-method", kind.method, *(["--random-direction"] if kind.random_direction else [])]
    res = options[options.index("--res-dir") + 1]
    compared = ["--res-dir", res, "--cross-model", LABEL, *method]
    run = [*options, "--concept", "morality", "--lang", "en", *method]
    if isinstance(file, VectorFile):
        return [("consistency_analysis", *compared), ("collect_vector", *run), ("recognize_concept", *run)]
    return [("transferability_analysis", *compared), ("recognize_concept", *compared)]


def hostile(world: World, count: int | None = None) -> Tally:
    """A hostile pickle runs nothing under any name that a script reads, and ends in one line and status 2.

    Args:
        count: how many of all combinations of name, payload, protocol and container to try; None for all.
    """

    def work() -> dict[str, Any]:
        # Each warning each time, as if each case had a process of its own.
        warnings.simplefilter("always")
        folder = world.new_results()
        payloads = hostile_contents(folder)
        tally = Tally("hostile pickles")
        cases = list(
            itertools.product(
                (VectorFile, AccuracyFile), KINDS, (False, True), payloads, range(6), ("plain", "archive", "legacy")
            )
        )
        random.Random(SEED).shuffle(cases)
        for number, (file_type, kind, released, payload, protocol, container) in enumerate(cases[:count]):
            res = folder / "res"
            file = file_type(res, LABEL, "morality", kind)
            path = file.released_path if released else file.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(contained(payloads[payload], protocol, container))
            lines = readers_of(file, kind, world.options(res))
            line = lines[number % len(lines)]
            ended = _in_process(*line)
            where = f"{payload}, protocol {protocol}, {container}, as {path.name}, by {line[0]}"
            one_line = ended.err.startswith("error: ") and ended.err.count("\n") == 1 and path.name in ended.err
            tally.expect(ended.status == 2 and one_line and not ended.out, f"{where}: {ended}")
            tally.expect(not (folder / "ran").exists(), f"{where}: it ran")
            tally.tried += 1
            shutil.rmtree(res)
        return vars(tally)

    return Tally(**{**(found := answer(work)), "seen": Counter(found["seen"])})


def hostile_weights(world: World) -> Tally:
    """A hostile pickle in the place of a model's weights runs nothing, and ends in one line and status 2."""

    def work() -> dict[str, Any]:
        warnings.simplefilter("always")
        folder = world.new_results()
        tally = Tally("hostile weights")
        model = shutil.copytree(world.folder / LABEL, folder / LABEL)
        (model / "model.safetensors").unlink()
        payloads = hostile_contents(folder)
        for payload, container in itertools.product(payloads, ("plain", "archive", "legacy")):
            (model / "pytorch_model.bin").write_bytes(contained(payloads[payload], 2, container))
            options = world.options(folder / "res", "--concept", "morality", "--lang", "en")
            ended = _in_process(STAGES[0], *options, "--model-path", model)
            where = f"{payload}, {container}, as weights"
            errors = [line for line in ended.err.splitlines() if not line.startswith("Loading weights")]
            one_line = len(errors) == 1 and errors[0].startswith("error: ") and str(model) in errors[0]
            tally.expect(ended.status == 2 and one_line and not ended.out, f"{where}: {ended}")
            tally.expect(not (folder / "ran").exists(), f"{where}: it ran")
            tally.tried += 1
        return vars(tally)

    return Tally(**{**(found := answer(work)), "seen": Counter(found["seen"])})


def _in_process(name: str, *arguments: object) -> Ended:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            script(name, *arguments)
        except SystemExit as ended:
            return Ended(int(ended.code or 0), out.getvalue(), err.getvalue())
        except BaseException as error:
            return Ended(1, out.getvalue(), repr(error))
    raise AssertionError("a script ends with SystemExit")


# The full counts


def all_parts(world: World, args: argparse.Namespace) -> Iterator[Tally]:
    """Every part of the harness."""
    yield kills(world, args.kills)
    yield interrupts(world, args.interrupts)
    yield races(world, args.races)
    yield full_disks(world, args.full_disk)
    yield fuzz_data(world.folder, args.fuzz)
    for file_type, released in itertools.product((VectorFile, AccuracyFile), (False, True)):
        yield fuzz_results(world, file_type, released, args.fuzz)
    yield hostile(world, args.hostile)
    yield hostile_weights(world)


def main() -> None:
    """Run all parts and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("kills", 100), ("interrupts", 50), ("races", 20), ("fuzz", 1000), ("full-disk", 100)):
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help=f"default: {default}")
    parser.add_argument("--hostile", type=int, metavar="N", help="default: all combinations")
    args = parser.parse_args()
    tallies, start = [], time.perf_counter()
    with temporary_world() as world:
        for tally in all_parts(world, args):
            tallies.append(tally)
            details = ", ".join(f"{count} {what}" for what, count in sorted(tally.seen.items()))
            print(f"{tally.what:34} {tally.tried:6} tried {len(tally.failures):5} failed   {details}", flush=True)
    print(f"{time.perf_counter() - start:.0f} s")
    for failure in itertools.chain.from_iterable(tally.failures[:FAILURES_SHOWN] for tally in tallies):
        print(f"\n{failure}")
    sys.exit(any(tally.failures for tally in tallies))


if __name__ == "__main__":
    main()
