"""Prompt files: what is right is read in order, what is wrong is named by its line."""

import hashlib
import json
from pathlib import Path

import pytest

from repe.control.prompts import Prompt, read_prompts
from repe.errors import UserError

GOOD = {"id": "a", "lang": "en", "prompt": "Help me.", "harmful": False}


def write(folder: Path, *lines: object) -> Path:
    path = folder / "prompts.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), encoding="utf-8")
    return path


def test_prompts_come_in_the_files_order_and_ids_may_be_numbers(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD | {"lang": "zh", "prompt": "帮我。"}, "", GOOD, GOOD | {"id": 7, "harmful": True})
    file = read_prompts(path)
    assert file.prompts == (
        Prompt("a", "zh", "帮我。", False),
        Prompt("a", "en", "Help me.", False),
        Prompt("7", "en", "Help me.", True),
    )
    assert file.of(None) == [*file.prompts]
    assert file.of(["en"]) == [*file.prompts[1:]]
    assert file.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\x0c", "\u2028\r\n"])
def test_what_breaks_a_line_in_print_does_not_end_a_prompt(mark: str, tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    text = f"first{mark}second"
    lines = [json.dumps(GOOD | {"id": one, "prompt": text}, ensure_ascii=False) for one in ("a", "b")]
    # Windows' line ends are no part of a prompt either.
    path.write_text("\r\n".join(lines), encoding="utf-8", newline="")
    assert [prompt.prompt for prompt in read_prompts(path).prompts] == [text, text]


def test_a_byte_order_mark_is_no_fault(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(read_prompts(path).prompts) == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: no JSON object"),
        ([GOOD], "line 2: no JSON object"),
        ("[" * 100_000, "line 2: no JSON object"),
        ({name: value for name, value in GOOD.items() if name != "prompt"}, "line 2: 'prompt' is missing"),
        (GOOD | {"harmful": "no"}, "line 2: 'harmful' is \"no\", not true or false"),
        (GOOD | {"id": True}, "line 2: 'id' is true, not text"),
        (GOOD | {"prompt": 3}, "line 2: 'prompt' is 3, not text"),
        (GOOD | {"prompt": "  "}, "line 2: 'id' or 'prompt' is blank"),
        (GOOD | {"lang": "../x"}, "line 2: 'lang' is no plain name"),
        (GOOD | {"prompt": "\ud800"}, "line 2: half a surrogate pair"),
        (GOOD, "line 2: the id 'a' is there twice in en"),
    ],
)
def test_a_faulty_line_is_named(line: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        read_prompts(write(tmp_path, GOOD, line))
    assert message in str(error.value)


def test_many_faults_are_counted(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"line 5: no JSON object; and 3 more$"):
        read_prompts(write(tmp_path, *["x"] * 8))


def test_a_file_without_what_is_asked_for_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no prompt in fr, but in en: choose among these with --target-lang"):
        read_prompts(write(tmp_path, GOOD)).of(["en", "fr"])
    with pytest.raises(UserError, match="holds no prompt"):
        read_prompts(write(tmp_path, ""))
    with pytest.raises(UserError, match="--prompts"):
        read_prompts(tmp_path / "none.jsonl")
    (tmp_path / "latin.jsonl").write_bytes("é".encode("latin-1"))
    with pytest.raises(UserError, match="UTF-8"):
        read_prompts(tmp_path / "latin.jsonl")
