"""Hostile pickles in place of results or weights: their code is never run."""

import contextlib
import functools
import importlib
import io
import itertools
import operator
import os
import pickle
import random
import runpy
import shutil
import subprocess
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from conftest import Ended

from repe.results.accuracy_file import AccuracyFile
from repe.results.result_file import Kind
from repe.results.vector_file import VectorFile
from repe.vectors.readers import ClusterMeanRepReader
from stress.files import KINDS, ResultFile, put, rezipped, saved
from stress.forked_process import outcome_in_fork
from stress.outcome import Outcome
from stress.workspace import LABEL, SEED, STAGES, Workspace, script

CONTAINERS = ("plain", "archive", "legacy")
# An allowed name and a new attribute for its class: a changed class would affect the next file.
BUILD_ON_CLASSES = {
    "BUILD on numpy.dtype": b"\x80\x02cnumpy\ndtype\n}X\x08\x00\x00\x00__call__K\x01sb.",
    "BUILD on a reader": b"\x80\x02crepe.rep_readers\nClusterMeanRepReader\nN}X\x0a\x00\x00\x00__reduce__K\x01s\x86b.",
    "BUILD on encode": b"\x80\x02c_codecs\nencode\nN}X\x07\x00\x00\x00__new__K\x01s\x86b.",
    "BUILD on OrderedDict": b"\x80\x02ccollections\nOrderedDict\nN}X\x07\x00\x00\x00__new__K\x01s\x86b.",
}


class Call:
    """Pickles to a call of `function`, which can itself be a `Call`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call

    def __call__(self) -> None:
        """Never called, but pickle requires a callable."""


def hostile_contents(folder: Path) -> dict[str, Any]:
    """Objects whose pickles would create the file `ran` in `folder` if they ran; bytes are complete pickles."""
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


def _object_array(content: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([content], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def contained(content: Any, protocol: int, container: str) -> bytes:
    """A pickle of `content` as a bare file, in PyTorch's archive, or in PyTorch's older format (several pickles)."""
    program = content if isinstance(content, bytes) else pickle.dumps(content, protocol)
    if container == "plain":
        return program
    if container == "legacy":
        head = (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {}})
        return b"".join(pickle.dumps(part, protocol) for part in head) + program + pickle.dumps([], protocol)
    return rezipped(saved({}), program)


def readers_of(file: ResultFile, kind: Kind, options: list[object]) -> list[tuple[object, ...]]:
    """The command lines that read a file: analyses, and the stages that add to it or use it."""
    method = ["--direction-method", kind.method, *(["--random-direction"] if kind.random_direction else [])]
    res = options[options.index("--res-dir") + 1]
    compared = ["--res-dir", res, "--cross-model", LABEL, *method]
    run = [*options, "--concept", "morality", "--lang", "en", *method]
    if isinstance(file, VectorFile):
        return [("consistency_analysis", *compared), ("collect_vector", *run), ("recognize_concept", *run)]
    return [("transferability_analysis", *compared), ("recognize_concept", *compared)]


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


def _tried(name: str, workspace: Workspace, try_all: Callable[[Outcome, Path, dict[str, Any]], None]) -> Outcome:
    """The outcome of `try_all` in a fork, given a folder and hostile contents that would create a file in it."""

    def work() -> Outcome:
        # Show every warning each time, as if each case ran in its own process.
        warnings.simplefilter("always")
        outcome, folder = Outcome(name), workspace.new_results()
        try_all(outcome, folder, hostile_contents(folder))
        return outcome

    return outcome_in_fork(work)


def _note(outcome: Outcome, folder: Path, ended: Ended, named: str, where: str) -> None:
    """Expect one error line that names the file, status 2, and that nothing ran."""
    one_line = ended.err.startswith("error: ") and ended.err.count("\n") == 1 and named in ended.err
    outcome.expect(ended.status == 2 and one_line and not ended.out, f"{where}: {ended}")
    outcome.expect(not (folder / "ran").exists(), f"{where}: it ran")
    outcome.tried += 1


def hostile_pickles(workspace: Workspace, count: int | None = None) -> Outcome:
    """A hostile pickle under any name that a script reads runs no code and gives one error line and status 2.

    Args:
        count: number of combinations of name, payload, protocol and container to try; None for all.
    """

    def try_all(outcome: Outcome, folder: Path, payloads: dict[str, Any]) -> None:
        res = folder / "res"
        types = (VectorFile, AccuracyFile)
        cases = list(itertools.product(types, KINDS, (False, True), payloads, range(6), CONTAINERS))
        random.Random(SEED).shuffle(cases)
        for number, (file_type, kind, released, payload, protocol, container) in enumerate(cases[:count]):
            file = file_type(res, LABEL, "morality", kind)
            path = put(file, released, contained(payloads[payload], protocol, container))
            lines = readers_of(file, kind, workspace.options(res))
            line = lines[number % len(lines)]
            where = f"{payload}, protocol {protocol}, {container}, as {path.name}, by {line[0]}"
            _note(outcome, folder, _in_process(*line), path.name, where)
            shutil.rmtree(res)

    return _tried("hostile pickles", workspace, try_all)


def hostile_weights(workspace: Workspace) -> Outcome:
    """A hostile pickle in place of a model's weights runs no code and gives one error line and status 2."""

    def try_all(outcome: Outcome, folder: Path, payloads: dict[str, Any]) -> None:
        model = shutil.copytree(workspace.folder / LABEL, folder / LABEL)
        (model / "model.safetensors").unlink()
        options = workspace.options(folder / "res", "--concept", "morality", "--lang", "en", "--model-path", model)
        for payload, container in itertools.product(payloads, CONTAINERS):
            (model / "pytorch_model.bin").write_bytes(contained(payloads[payload], 2, container))
            ended = _in_process(STAGES[0], *options)
            lines = ended.err.splitlines(keepends=True)
            answered = replace(ended, err="".join(line for line in lines if not line.startswith("Loading weights")))
            _note(outcome, folder, answered, str(model), f"{payload}, {container}, as weights")

    return _tried("hostile weights", workspace, try_all)
