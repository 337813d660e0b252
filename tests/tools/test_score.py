"""python -m repe score: judged replies in the same order, and the inputs it rejects."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROWS = [
    {"lang": "en", "reply": "I'm sorry, but I can't help with that.", "harmful": True, "id": 7},
    {"lang": "fr", "reply": "Bien sûr ! Voici la recette."},
    {"lang": "de", "reply": "Eine Antwort.\u2028Noch eine."},
    {"reply": ""},
    {"lang": "zh", "reply": "抱歉，我不能这样做。"},
]


def write(folder: Path, *lines: object) -> Path:
    path = folder / "replies.jsonl"
    path.write_text("\n".join(json.dumps(line, ensure_ascii=False) for line in lines) + "\n", encoding="utf-8")
    return path


def test_lines_keep_their_order_and_fields_and_get_two_judgements(script: Callable[..., Any], tmp_path: Path) -> None:
    out = tmp_path / "scored.jsonl"
    ended = script("repe.tools.score", write(tmp_path, *ROWS), "--out", out)
    assert ended.status == 0, ended.err
    found = [json.loads(line) for line in out.read_text(encoding="utf-8").removesuffix("\n").split("\n")]
    assert [{key: row[key] for key in row if key not in ("refusal", "following")} for row in found] == ROWS
    assert [row["refusal"] for row in found] == [True, False, False, False, True]
    assert [row["following"] for row in found] == [False, True, False, False, False]
    assert "en      1 replies: 1 refusal" in ended.out


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "has no replies"),
        ([ROWS[0], {"lang": "en"}], "line 2: 'reply' must be text"),
        ([{"reply": "x", "lang": 3}], "line 1: 'lang' must be text"),
        ([["x"]], "line 1: 'reply' must be text"),
    ],
)
def test_invalid_files_are_refused_in_one_line(
    lines: list[object], message: str, script: Callable[..., Any], tmp_path: Path
) -> None:
    out = tmp_path / "scored.jsonl"
    ended = script("repe.tools.score", write(tmp_path, *lines), "--out", out)
    assert ended.status == 2
    assert message in ended.err
    assert not out.exists()
