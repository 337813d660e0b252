"""`python -m repe` lists its tools and runs them; help is short and quick."""

import subprocess
import sys
from collections.abc import Callable

import pytest
from conftest import ROOT, Ended

from repe.__main__ import TOOLS

Script = Callable[..., Ended]


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_the_tools_are_listed(arguments: list[str], script: Script) -> None:
    ended = script("repe.__main__", *arguments)
    assert ended.status == 0
    for tool, (_, summary) in TOOLS.items():
        assert f"  {tool}" in ended.out
        assert summary in ended.out


def test_an_unknown_tool_is_one_line_that_names_the_tools(script: Script) -> None:
    ended = script("repe.__main__", "statsu")
    assert (ended.status, ended.err.count("\n")) == (2, 1)
    assert "invalid choice: 'statsu'" in ended.err
    assert all(tool in ended.err for tool in TOOLS)
    assert "(see python -m repe --help)" in ended.err


@pytest.mark.parametrize("tool", TOOLS)
def test_help_is_short_and_imports_nothing_heavy(tool: str) -> None:
    code = (
        f"import sys; sys.argv = ['repe', {tool!r}, '--help']\n"
        "from repe.__main__ import start\n"
        "try: start()\n"
        "except SystemExit: print(sorted({'torch', 'transformers', 'pandas', 'matplotlib'} & {*sys.modules}))"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    *text, heavy = ended.stdout.splitlines()
    assert heavy == "[]"
    assert text[0].startswith(f"usage: python -m repe {tool} ")
    assert len(text) <= 60
