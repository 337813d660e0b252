"""Data, prompts and replies from strangers: large, repeated, odd and endless files are refused in time."""

import json
import math
import os
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from stress.forked_process import limit_memory

from repe.analysis.linguistic_distance import given_distances
from repe.control.prompts import Prompt, read_prompts
from repe.control.reply_file import ReplyFile, read_settings
from repe.data import read_pairs
from repe.errors import UserError
from repe.plots.tables import latex_text
from repe.tools.score import main
from strangers.cases import MEMORY, SECONDS, in_limits, with_pickle

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


REPLY = PROMPT | {"strength": 1.0, "baseline": "concept", "draw": None, "tokens": 1, "loss": 1.0, "repetition": 0.0}


def reply(**change: object) -> Make:
    return text(json.dumps(REPLY | {"reply": "a"} | change))


def replies(path: Path) -> dict[Any, Any]:
    return ReplyFile(path.parent, {"vectors": {}}, [Prompt("1", "en", "a", True)]).rows


def csv_prompts(path: Path) -> None:
    read_prompts(path.rename(path.with_suffix(".csv")))


def score(path: Path) -> None:
    """As its command, with refusal as an error."""
    main(Namespace(replies=path, out=path.with_name("scored.jsonl")))


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
    "prompts: a field twice": (text('{"id": "1", "lang": "en", "prompt": "a", "prompt": "b"}'), read_prompts),
    "prompts: a cell too many": (text("id,lang,prompt\n1,en,a,b\n"), csv_prompts),
    "prompts: sparse": (lambda path: (path.touch(), os.truncate(path, 1 << 34)), read_prompts),
    "score: nested": (text("[" * 200_000), score),
    "score: nested objects": (text('{"reply": "a", "x": ' + "[" * 900 + "]" * 900 + "}\n{"), score),
    "score: a pipe": (os.mkfifo, score),
    "score: without an end": (endless, score),
    "score: a list": (text("[]"), score),
    "score: a field twice": (text('{"reply": "a", "reply": "b"}'), score),
    "score: an escape code as a language": (text(json.dumps({"reply": "a", "lang": "\x1b[31m"})), score),
    "score: a formula as a language": (text(json.dumps({"reply": "a", "lang": "=HYPERLINK(1)"})), score),
    "score: a list as a language": (text('{"reply": "a", "lang": ["en"]}'), score),
    "score: half a surrogate pair in another field": (text('{"reply": "a", "id": "\\ud800"}'), score),
    "score: half a surrogate pair as a field": (text('{"reply": "a", "\\ud800": 1}'), score),
    "score: a long number": (text('{"reply": "a", "x": ' + "9" * 200_000 + "}"), score),
    "distances: a pipe": (os.mkfifo, given_distances),
    "distances: without an end": (endless, given_distances),
    "distances: nested": (lambda path: with_pickle(path, b"\x80\x02" + b"]" * 99_999 + b"."), given_distances),
    "settings: a pipe": (os.mkfifo, read_settings),
    "settings: nested": (text("[" * 200_000), read_settings),
    "settings: half a surrogate pair": (text('{"vectors": {}, "operator": "\\ud800"}'), read_settings),
    "settings: vectors that are no table": (text('{"vectors": []}'), read_settings),
    **{
        f"replies: {name} is {value!r:.20}": (reply(**{name: value}), replies)
        for name, value in [
            *((name, [1]) for name in ("strength", "loss", "repetition", "draw", "tokens", "id", "baseline")),
            *(("scores", one) for one in (1, {"own": 1}, {"own": {"a": "b"}}, {"=1+1": {}}, {"\x1b[31m": {"a": 0.5}})),
            *(("baseline", "x"), ("loss", math.nan), ("prompt", "\ud800"), ("note", "\ud800")),
        ]
    },
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
            with pytest.raises(UserError, match=r"generations\.(jsonl|csv)") as refused:
                read(path)
            assert len(str(refused.value)) < 2000, name
            assert time.monotonic() - start < SECONDS, name

    ended = in_limits(work)
    assert ended.status == 0, f"{ended.out[-200:]} {ended.err[-2000:]}"


def test_a_good_reply_is_read(tmp_path: Path) -> None:
    reply(scores={"own": {"morality": 0.5}})(tmp_path / "generations.jsonl")
    assert len(replies(tmp_path / "generations.jsonl")) == 1


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
