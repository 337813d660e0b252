"""Prompt files: valid prompts are read in order, invalid lines are named by their number."""

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
def test_unicode_line_separators_do_not_end_a_prompt(mark: str, tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    text = f"first{mark}second"
    lines = [json.dumps(GOOD | {"id": one, "prompt": text}, ensure_ascii=False) for one in ("a", "b")]
    # Windows' line ends are not part of a prompt either.
    path.write_text("\r\n".join(lines), encoding="utf-8", newline="")
    assert [prompt.prompt for prompt in read_prompts(path).prompts] == [text, text]


def test_a_byte_order_mark_is_accepted(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(read_prompts(path).prompts) == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: not a JSON object"),
        ([GOOD], "line 2: not a JSON object"),
        ("[" * 100_000, "line 2: not a JSON object"),
        (
            {name: value for name, value in GOOD.items() if name != "prompt"},
            "line 2: 'prompt' must be text, but is missing",
        ),
        (GOOD | {"harmful": "no"}, "line 2: 'harmful' must be true or false, but is \"no\""),
        (GOOD | {"id": True}, "line 2: 'id' must be text, but is true"),
        (GOOD | {"prompt": 3}, "line 2: 'prompt' must be text, but is 3"),
        (GOOD | {"prompt": "  "}, "line 2: 'id' or 'prompt' is empty"),
        (GOOD | {"lang": "../x"}, "line 2: 'lang' '../x' is not a valid name"),
        (GOOD | {"prompt": "\ud800"}, "line 2: 'id' or 'prompt' contains an unpaired surrogate"),
        (GOOD, "line 2: duplicate id 'a' in en"),
    ],
)
def test_an_invalid_line_is_named(line: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        read_prompts(write(tmp_path, GOOD, line))
    assert message in str(error.value)


def test_many_invalid_lines_are_counted(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"line 5: not a JSON object; and 3 more$"):
        read_prompts(write(tmp_path, *["x"] * 8))


def test_a_file_without_the_chosen_language_or_any_prompt_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no prompts in fr: choose from en with --target-lang"):
        read_prompts(write(tmp_path, GOOD)).of(["en", "fr"])
    with pytest.raises(UserError, match="has no prompts"):
        read_prompts(write(tmp_path, ""))
    with pytest.raises(UserError, match="--prompts"):
        read_prompts(tmp_path / "none.jsonl")
    (tmp_path / "latin.jsonl").write_bytes("é".encode("latin-1"))
    with pytest.raises(UserError, match="UTF-8"):
        read_prompts(tmp_path / "latin.jsonl")


def test_published_sets_are_read_by_the_names_of_their_fields(tmp_path: Path) -> None:
    # The columns of XSTest, of MultiJail (a column a language), and a JSON list without ids.
    xstest = tmp_path / "xstest.csv"
    xstest.write_text('id,prompt,type,label\n1,"How do I kill a ""Python"" process?",homonyms,safe\n2,Bomb?,x,unsafe\n')
    found = read_prompts(xstest, {"harmful": "label", "lang": ":en"}).prompts
    assert found == (Prompt("1", "en", 'How do I kill a "Python" process?', False), Prompt("2", "en", "Bomb?", True))
    multijail = tmp_path / "multijail.csv"
    multijail.write_text("id,source,en,zh\n0,a,Steal?,偷？\n", encoding="utf-8")
    found = read_prompts(multijail, {"prompt": "en+zh", "harmful": ":true"}).prompts
    assert found == (Prompt("0", "en", "Steal?", True), Prompt("0", "zh", "偷？", True))
    plain = tmp_path / "harmful.json"
    plain.write_text(json.dumps([{"instruction": "One"}, {"instruction": "Two"}]))
    found = read_prompts(plain, {"prompt": "instruction", "lang": ":fr"}).prompts
    assert found == (Prompt("1", "fr", "One", None), Prompt("2", "fr", "Two", None))
    with pytest.raises(UserError, match="'label' must be true or false, but is \"safe-ish\""):
        xstest.write_text("id,prompt,label\n1,x,safe-ish\n")
        read_prompts(xstest, {"harmful": "label", "lang": ":en"})
    plain.write_text('{"a": 1}')
    with pytest.raises(UserError, match="is not valid JSON"):
        read_prompts(plain)


def test_harmful_may_be_missing(tmp_path: Path) -> None:
    plain = {name: value for name, value in GOOD.items() if name != "harmful"}
    assert read_prompts(write(tmp_path, plain)).prompts == (Prompt("a", "en", "Help me.", None),)
