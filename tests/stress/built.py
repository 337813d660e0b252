"""Files that are built by rule to hang, to take all memory or to be read wrongly are refused, quickly and in one line.

The files of `fuzz_results` are damaged at random. These are well formed at every level but one: pickles with the right
opcodes and the wrong sizes, archives with valid checksums, tables with the right columns, headers with absurd numbers.
"""

import json
import random
import struct
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from strangers.cases import change, with_pickle

from repe.control.prompts import Prompt, read_prompts
from repe.control.reply_file import ReplyFile
from repe.data import read_pairs
from repe.errors import UserError
from repe.models.gguf_check import check_gguf
from repe.results.accuracy_file import AccuracyFile
from repe.results.result_file import Kind, check_files
from repe.results.vector_file import VectorFile
from repe.tools.report.parts import read_table
from repe.tools.score import read_replies
from stress.forked_process import limit_memory, outcome_in_fork
from stress.outcome import Outcome
from stress.workspace import LABEL, SEED, Workspace

SECONDS, MEMORY = 10, 1 << 30
CHUNK = 100  # files read in one fork
NAMES = ["x^^5cinput{y}", "a%b&c#", "$frac{$", "=HYPERLINK(1)", "\x1b[31m", "../x", "-x", "a\u202eb", "x" * 300]
Build = Callable[[random.Random, Path], object]


def program(generator: random.Random) -> bytes:
    """A pickle that a stack machine runs without an error, and that no honest file contains."""
    count = generator.randint(100, 50_000)
    pieces = {
        "deep": lambda: generator.choice([b")" + b"\x85" * count, b"]" * count + b"a" * (count - 1)]),
        "key": lambda: b"}" + b")" + b"\x85" * count + b"K\x01s",
        "memo": lambda: b"}r" + struct.pack("<I", generator.randint(2**20, 2**32 - 1)),
        "loop": lambda: b"]q\x00h\x00a",
        "doubled": lambda: (
            b"]q\x00" + b"".join(b"](h%ch%ceq%c" % (n, n, n + 1) for n in range(generator.randint(25, 200)))
        ),
        "hashes": lambda: (
            b"}("
            + b"".join(
                b"\x8a\x09" + ((n + 1) * (2**61 - 1)).to_bytes(9, "little") + b"K\x01" for n in range(count // 50)
            )
            + b"u"
        ),
        "long text": lambda: b"X" + struct.pack("<I", 2**31 + count) + b"a",
        "name": lambda: b"c" + generator.choice([b"os\nsystem\n", b"builtins\neval\n", b"numpy\nload\n"]),
        "call": lambda: b"ccollections\nOrderedDict\n" + b"(K\x01" + b"0" * generator.randint(0, 1) + b"tRb",
        "state": lambda: b"ctorch\nFloatStorage\n}X\x01\x00\x00\x00aK\x01sb",
    }
    return b"\x80\x02" + pieces[generator.choice(sorted(pieces))]() + b"."


def pickles(generator: random.Random, path: Path) -> None:
    """An archive with such a pickle, sometimes in the place of a part of a result file."""
    compression = generator.choice([zipfile.ZIP_STORED] * 3 + [zipfile.ZIP_DEFLATED])
    more = generator.choice([{}, {}, {"constants.pkl": b"x"}, {"DATA.PKL": b"x"}, {"data/0": b"abcd"}])
    with_pickle(path, program(generator), compression, **more)


def contents(generator: random.Random, path: Path) -> None:
    """A valid file with one part that is too large, shared, at the wrong place, or contradicts another part."""
    shared: Any = [1]
    for _ in range(generator.randint(20, 60)):
        shared = [shared, shared]
    wrong: list[Any] = [
        shared,
        torch.ones(1).expand(1 << generator.randint(20, 36)),
        {"a": {"b": "c"}},
        ["a"] * 99,
        "\ud800",
    ]

    def edit(content: dict[str, Any]) -> None:
        tables = [name for name in ("languages", "accuracy") if name in content]
        rows = content[tables[0]]
        kind = generator.randrange(6)
        if kind == 0:
            content["meta"][generator.choice(["seed", "source", "versions", "template", "data"])] = generator.choice(
                wrong
            )
        elif kind == 1:
            rows[generator.choice(NAMES)] = rows.pop(generator.choice(sorted(rows)))
        elif kind == 2:
            changes = {
                "model": "other",
                "concept": "toxicity",
                "method": "random",
                "random_direction": True,
                "split": 0.1,
            }
            name = generator.choice(sorted(changes))
            content["meta"][name] = changes[name]
        elif kind == 3:
            content["layers"] = content["layers"][: generator.randint(0, len(content["layers"]) - 1)]
        elif "correct" in content and kind == 4:
            row = rows[generator.choice(sorted(rows))]
            row[generator.choice(sorted(row))] = torch.full((len(content["layers"]),), 0.123, dtype=torch.float64)
        elif "test_keys" in content:
            keys = content["test_keys"][generator.choice(sorted(content["test_keys"]))]
            keys[0] = keys[-1]
        else:
            entry = rows[generator.choice(sorted(rows))]
            entry["directions"] = torch.ones(1).expand(len(content["layers"]), 1, 1 << generator.randint(16, 32))

    change(path, edit)


def tables(generator: random.Random, path: Path) -> None:
    """A table whose page would have a cell for each combination of its names, too many columns, or an odd name."""
    count = generator.randint(1_000, 5_000)
    header = "model,source,target,similarity"
    rows = "".join(f"m,a{n},b{n},0.5\n" for n in range(count))
    whole = [f"{header}\n{rows}", f"{header}{',x' * count}\n", f"{header}\nm,en,{generator.choice(NAMES[:6])},0.5\n"]
    path.write_text(generator.choice(whole))


def replies(generator: random.Random, path: Path) -> None:
    """A reply with a field of another type, a text that cannot be written, or a field twice."""
    row: dict[str, Any] = {"id": "1", "lang": "en", "harmful": True, "strength": 1.0, "baseline": "none", "draw": None}
    row |= {"prompt": "a", "reply": "b", "tokens": 1, "loss": 1.0, "repetition": 0.0}
    wrong: list[Any] = [["a"], {"a": 1}, "\ud800", float("nan")]
    row[generator.choice(["reply", "lang"])] = generator.choice(wrong)
    path.write_text(generator.choice(["{}", "{}\n{}"]).replace("{}", json.dumps(row)))


def texts(generator: random.Random, path: Path) -> None:
    """JSON with a repeated key among many, deep nesting or long numbers."""
    count = generator.randint(5_000, 30_000)
    sample = '{"pos":"a","neg":"b"}'
    samples = ",".join(f'"{n}":{sample}' for n in range(count))
    whole = [f'{{"g":{{{samples},"{count // 2}":{sample}}}}}', "[" * count, '{"a":' * count, f'{{"g": {"9" * count}}}']
    path.write_text(generator.choice(whole))


def gguf_files(generator: random.Random, path: Path) -> None:
    """A GGUF header whose counts, lengths or sizes are absurd."""
    huge = 1 << generator.randint(20, 63)
    text = struct.pack("<Q", 1) + b"k"
    entries = [
        struct.pack("<Q", huge),
        text + struct.pack("<IQ", 8, huge),
        text + struct.pack("<IIQ", 9, generator.choice([0, 4, 8, 9, 12, 99]), huge),
        text + struct.pack("<IIQ", 9, 0, 3_000_000) + bytes(3_000_000),
        text + struct.pack("<IIQ", 9, 9, 1) + struct.pack("<IQ", 9, 1) * generator.randint(1, 1000),
        text + struct.pack("<I", generator.randint(13, 2**32 - 1)),
    ]
    tensors = [
        text + struct.pack("<IQQIQ", 2, huge, 4, 0, 0),
        text + struct.pack("<IQIQ", 1, 4, 0, huge),
        text + struct.pack("<I", generator.randint(5, 2**32 - 1)) + bytes(400),
        text + struct.pack("<IQIQ", 1, 4, generator.randint(1000, 2**32 - 1), 0),
    ]
    which = generator.randrange(3)
    head = [(0, 1), (1, 0), (huge, huge)][which]
    body = [generator.choice(entries), generator.choice(tensors), b""][which]
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, *head) + body + bytes(generator.randint(400, 900)))


def read_results(file: VectorFile | AccuracyFile) -> None:
    """What every analysis does first."""
    check_files([file])
    assert file.languages


def built_cases(
    workspace: Workspace, folder: Path, count: int
) -> Iterator[tuple[str, Build, Path, Callable[[], object]]]:
    """Name, builder, path and reader of each file."""
    kinds: dict[str, tuple[Build, Path, Callable[[], object]]] = {}
    for file_type in (VectorFile, AccuracyFile):
        good = file_type(workspace.undisturbed, LABEL, "morality", Kind()).path.read_bytes()
        file = file_type(folder, LABEL, "morality", Kind())
        file.path.parent.mkdir(parents=True, exist_ok=True)

        def read(file_type: Any = file_type) -> None:
            read_results(file_type(folder, LABEL, "morality", Kind()))

        def edited(generator: random.Random, path: Path, good: bytes = good) -> None:
            path.write_bytes(good)
            contents(generator, path)

        kinds |= {
            f"pickles in {file.path.name}": (pickles, file.path, read),
            f"pickles in {file.released_path.name}": (pickles, file.released_path, read),
            f"contents of {file.path.name}": (edited, file.path, read),
        }
    keys = ["model", "source", "target"]
    kept, prompt = folder / "generations.jsonl", Prompt("1", "en", "a")
    data, prompts, gguf = folder / "data.json", folder / "prompts.jsonl", folder / "x.gguf"
    kinds |= {
        "tables": (
            tables,
            folder / "similarity.csv",
            lambda: read_table(folder / "similarity.csv", ["similarity"], keys),
        ),
        "data": (texts, data, lambda: read_pairs(data)),
        "prompts": (texts, prompts, lambda: read_prompts(prompts)),
        "replies": (replies, kept, lambda: ReplyFile(kept.parent, {"vectors": {}}, [prompt]).rows),
        "replies to score": (replies, kept, lambda: read_replies(kept)),
        "GGUF": (gguf_files, gguf, lambda: check_gguf(gguf)),
    }
    names = sorted(kinds)
    for number in range(count):
        yield (names[number % len(names)], *kinds[names[number % len(names)]])


def built_files(workspace: Workspace, count: int) -> Outcome:
    """Each file is refused with its name in one line, in seconds and a gigabyte."""
    folder, whole = workspace.new_results(), Outcome("files built by rule")
    cases = list(enumerate(built_cases(workspace, folder, count)))
    for start in range(0, count, CHUNK):
        part = outcome_in_fork(lambda start=start: _tried(cases[start : start + CHUNK]))
        whole.tried += part.tried
        whole.failures += part.failures
        whole.counts += part.counts
    return whole


def _tried(cases: list[tuple[int, tuple[str, Build, Path, Callable[[], object]]]]) -> Outcome:
    outcome = Outcome("files built by rule")
    limit_memory(MEMORY)
    for number, (name, build, path, read) in cases:
        build(random.Random(f"{SEED} built {number}"), path)
        start, said = time.monotonic(), ""
        try:
            read()
        except UserError as error:
            said = str(error)
        except BaseException as error:
            outcome.failures.append(f"{name} {number}: {error!r:.300}")
        outcome.expect(path.name in said and len(said) < 2000, f"{name} {number}: {said:.300}")
        outcome.expect(time.monotonic() - start < SECONDS, f"{name} {number}: took {time.monotonic() - start:.0f} s")
        outcome.counts[name] += 1
        outcome.tried += 1
        path.unlink()
    return outcome
