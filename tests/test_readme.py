"""The README's commands are commands that the scripts accept."""

import importlib
import re
import shlex

import pytest
from conftest import ROOT

from repe import cli

README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    line.replace("PATH_OR_HUB_ID", "owner/name")
    for page in (README, *(path.read_text(encoding="utf-8") for path in sorted(ROOT.glob("*.py"))))
    for line in re.findall(r"^ *(python \w+\.py .+)$", re.sub(r"\\+\n *", " ", page), flags=re.MULTILINE)
]


def test_the_readme_has_the_commands_of_the_stages() -> None:
    assert len(COMMANDS) > 10


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_accepted(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, script, *arguments = shlex.split(command)
    parsed = []
    monkeypatch.setattr(cli, "run", lambda _main, parser: parsed.append(parser.parse_args(arguments)))
    importlib.import_module(script.removesuffix(".py")).start()
    assert parsed


def test_the_row_of_the_readme_can_be_pasted_into_the_registry() -> None:
    (row,) = re.findall(r"^ *(Entry\(.*\),)$", README, flags=re.MULTILINE)
    source = (ROOT / "repe/registry.py").read_text(encoding="utf-8")
    first = source.index("        Entry(")
    table: dict[str, object] = {"__name__": "registry"}
    exec(compile(f"{source[:first]}        {row}\n{source[first:]}", "registry.py", "exec"), table)  # noqa: S102
    assert table["entry"]("mymodel-chat", "3B").hub_id == "owner/MyModel-3B-Chat"  # type: ignore[operator]


def test_files_that_the_readme_names_are_there() -> None:
    named = re.findall(r"\]\(([\w/.-]+)\)", README) + re.findall(r"`(repe/\w+\.py)`", README)
    assert named
    for name in named:
        # Everything but the demo works with demo/ deleted.
        assert (ROOT / name).exists() or name.startswith("demo/"), name


def test_figures_and_tables_in_the_readme_are_those_that_are_written() -> None:
    sources = " ".join(
        (ROOT / name).read_text(encoding="utf-8")
        for name in (*(path.name for path in ROOT.glob("*.py")), "repe/tables.py")
    )
    names = re.findall(r"`((?:figure|table|similarity|transfer)\w*)(?:\.csv)?`", README)
    assert len(names) >= 10
    assert all(f'"{name}"' in sources for name in names)
