"""Results of a made-up model, and how a script ends that reads them within limits of time and memory."""

import contextlib
import io
import itertools
import json
import os
import sys
import time
import traceback
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from conftest import RESULT_META, Ended
from stress.forked_process import ForkedProcess, limit_memory
from stress.workspace import script

from repe.results.accuracy_file import AccuracyFile
from repe.results.result_file import Kind
from repe.results.vector_file import VectorFile

MODEL, CONCEPTS, LANGUAGES = "tiny", ("morality", "harmfulness"), ("en", "fr", "zh")
LAYERS, HIDDEN, PAIRS = 3, 8, 10
SECONDS, MEMORY = 10, 1 << 30
# The scripts and tools that read results, by a letter.
COMMANDS: dict[str, list[str]] = {
    "T": ["transferability_analysis", "--res-dir", "{res}", "--cross-model", MODEL],
    "A": ["recognize_concept", "--res-dir", "{res}", "--cross-model", MODEL, "--bootstrap", "20"],
    "C": ["consistency_analysis", "--res-dir", "{res}", "--cross-model", MODEL],
    "S": ["repe.tools.status", "{res}", "--data-dir", "{res}/none"],
    "R": ["repe.tools.report", "--res-dir", "{res}"],
    "X": ["repe.tools.export", "--res-dir", "{res}", "--model-path", MODEL],
}


def write_results(res: Path) -> None:
    """Vectors and accuracies, as the stages write them."""
    generator = np.random.default_rng(0)
    for concept in CONCEPTS:
        data = {language: f"digest {language}" for language in LANGUAGES}
        rows = {
            language: {
                "directions": torch.from_numpy(generator.standard_normal((LAYERS, 1, HIDDEN), dtype=np.float32)),
                "signs": torch.ones(LAYERS, 1, dtype=torch.int8),
                "train_pairs": 40,
            }
            for language in LANGUAGES
        }
        vectors = VectorFile(res, MODEL, concept, Kind())
        vectors.add({**RESULT_META, "data": data}, LAYERS, {"languages": rows})
        digests = {language: one.digest for language, one in vectors.vectors.items()}
        tables: dict[str, Any] = {"accuracy": {}, "correct": {}, "test_pairs": {}, "test_keys": {}}
        for source, target in itertools.product(LANGUAGES, LANGUAGES):
            right = torch.from_numpy(generator.integers(0, 2, (LAYERS, PAIRS), dtype=np.uint8))
            tables["correct"].setdefault(source, {})[target] = right
            tables["accuracy"].setdefault(source, {})[target] = right.double().mean(-1)
            tables["test_pairs"][target] = PAIRS
            tables["test_keys"][target] = [f"{concept}|{number}" for number in range(PAIRS)]
        accuracies = AccuracyFile(res, MODEL, concept, Kind())
        accuracies.add({**RESULT_META, "data": data, "vectors": digests}, LAYERS, tables)


def change(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Change the content of a result file, without any check."""
    content = torch.load(path, weights_only=True)
    edit(content)
    torch.save(content, path)


def with_pickle(path: Path, program: bytes, compression: int = zipfile.ZIP_STORED, **more: bytes) -> None:
    """An archive as PyTorch writes them, with another pickle and more members in it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, raw in {"data.pkl": program, "byteorder": b"little", "version": b"3\n", **more}.items():
            archive.writestr(f"archive/{name}", raw)
    path.write_bytes(buffer.getvalue())


def run(letters: str, res: Path, user: int | None = None) -> dict[str, tuple[Ended, float]]:
    """How commands end and the seconds that each took, in one fork with limited memory."""
    lines = {letter: command(letter, res) for letter in letters}

    def work() -> None:
        os.setuid(os.getuid() if user is None else user)
        for letter, line in lines.items():
            start = time.monotonic()
            ended = run_here(*line)
            print(json.dumps([letter, vars(ended), time.monotonic() - start]), flush=True)

    whole = in_limits(work)
    found = {letter: (Ended(**one), seconds) for letter, one, seconds in map(json.loads, whole.out.splitlines())}
    assert [*found] == [*letters], f"after {[*found]}: {whole.status}, {whole.err[-500:]}"
    return found


def command(letter: str, res: Path) -> list[str]:
    """A name and arguments for `script`."""
    return [part.format(res=res) for part in COMMANDS[letter]]


def run_here(name: str, *arguments: object) -> Ended:
    """How a script ends in this process, so that its modules are there for the forks."""
    out, err, argv = io.StringIO(), io.StringIO(), sys.argv
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            script(name, *arguments)
        except SystemExit as ended:
            return Ended(int(ended.code or 0), out.getvalue(), err.getvalue())
        except Exception:
            return Ended(1, out.getvalue(), traceback.format_exc())
        finally:
            sys.argv = argv
    raise AssertionError("a script ends with SystemExit")


def good_results(folder: Path, letters: str) -> Path:
    """Results in `folder`, and what these commands write of them."""
    res = folder / "res"
    write_results(res)
    for letter in letters:
        ended = run_here(*command(letter, res))
        assert ended.status == 0, ended
    return res


def in_limits(work: Callable[[], object], memory: int = MEMORY) -> Ended:
    """How `work` ends in a fork that may take so much more memory than this process."""
    return ForkedProcess(lambda: (limit_memory(memory), work())).end(4 * SECONDS)


def assert_refused(ended: Ended, seconds: float, *named: str, where: str = "") -> None:
    """Status 2, one error line that names the file, no traceback, in time."""
    assert ended.status == 2, f"{where}: {ended}"
    lines = [line for line in ended.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, ended
    assert len(ended.err.splitlines()) == 1, ended
    shown = ended.out + ended.err
    assert all(name in shown for name in named), ended
    assert all(mark.isprintable() or mark == "\n" for mark in shown), ended
    assert seconds < SECONDS, seconds
