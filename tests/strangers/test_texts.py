"""Data, prompts and replies from strangers: large, repeated, odd and endless files are refused in time."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from stress.forked_process import limit_memory

from repe.control.prompts import read_prompts
from repe.control.reply_file import ReplyFile
from repe.data import read_pairs
from repe.errors import UserError
from repe.plots.tables import latex_text
from strangers.cases import MEMORY, SECONDS, in_limits

PROMPT = {"id": "1", "lang": "en", "prompt": "a", "harmful": True}
Make = Callable[[Path], Any]


def text(content: str) -> Make:
    return lambda path: path.write_text(content)


def prompt(**change: object) -> Make:
    return text(json.dumps(PROMPT | change))


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def repeated_keys(path: Path) -> None:
    samples = ",".join(f'"{number}":{{"pos":"a","neg":"b"}}' for number in range(120_000))
    path.write_text(f'{{"g":{{{samples},"5":{{"pos":"a","neg":"b"}}}}}}')


def replies(path: Path) -> dict[Any, Any]:
    return ReplyFile(path.parent, {"vectors": {}}, ()).rows


ATTACKS: dict[str, tuple[Make, Make]] = {
    "data: 120,000 keys and one twice": (repeated_keys, read_pairs),
    "data: two samples with one key": (
        text('{"a": {"b|c": {"pos": "a", "neg": "b"}}, "a|b": {"c": {"pos": "a", "neg": "b"}}}'),
        read_pairs,
    ),
    "data: nested": (text("[" * 200_000), read_pairs),
    "data: nested objects": (text('{"a":' * 200_000), read_pairs),
    "data: a long number": (text('{"g": {"1": ' + "9" * 200_000 + "}}"), read_pairs),
    "data: a pipe": (os.mkfifo, read_pairs),
    "data: without an end": (endless, read_pairs),
    "data: a folder": (Path.mkdir, read_pairs),
    "prompts: nested": (text("[" * 200_000), read_prompts),
    "prompts: a long number": (text('{"id": ' + "9" * 200_000 + "}"), read_prompts),
    "prompts: a pipe": (os.mkfifo, read_prompts),
    "prompts: without an end": (endless, read_prompts),
    "prompts: 100,000 times the same": (text(f"{json.dumps(PROMPT)}\n" * 100_000), read_prompts),
    "prompts: an escape code as a language": (prompt(lang="\x1b[31m"), read_prompts),
    "prompts: a formula as a language": (prompt(lang="=HYPERLINK(1)"), read_prompts),
    "prompts: mathematics as a language": (prompt(lang="$frac{$"), read_prompts),
    "prompts: half a surrogate pair": (prompt(prompt="\ud800"), read_prompts),
    "prompts: a number as text": (prompt(prompt=1), read_prompts),
    "replies: nested": (text("[" * 200_000), replies),
    "replies: a pipe": (os.mkfifo, replies),
    "replies: without an end": (endless, replies),
    "replies: a list": (text("[]"), replies),
    "replies: no text": (text(json.dumps(PROMPT | {"reply": 1})), replies),
    "replies: half a surrogate pair": (text(json.dumps(PROMPT | {"reply": "\ud800"})), replies),
}


def test_attacks_are_refused(tmp_path: Path) -> None:
    """All in one fork, which names the attack that it is at."""

    def work() -> None:
        for number, (name, (make, read)) in enumerate(ATTACKS.items()):
            print(name, flush=True)
            path = tmp_path / str(number) / "generations.jsonl"
            path.parent.mkdir()
            make(path)
            limit_memory(MEMORY)
            start = time.monotonic()
            with pytest.raises(UserError, match=r"generations\.jsonl") as refused:
                read(path)
            assert len(str(refused.value)) < 2000, name
            assert time.monotonic() - start < SECONDS, name

    ended = in_limits(work)
    assert ended.status == 0, f"{ended.out[-200:]} {ended.err[-2000:]}"


@pytest.mark.parametrize(
    ("name", "escaped"),
    [
        ("x^^5cinput{secret}", r"x\textasciicircum{}\textasciicircum{}5cinput\{secret\}"),
        ("a%b&c#_$~", r"a\%b\&c\#\_\$\textasciitilde{}"),
        ("\\input", r"\textbackslash{}input"),
        ("llama2-chat-7B", "llama2-chat-7B"),
    ],
)
def test_names_are_plain_text_in_latex(name: str, escaped: str) -> None:
    assert latex_text(name) == escaped
