"""The README's commands do what it says: those on the demo's models run, the others are accepted."""

import importlib
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from repe.runs import arguments as cli

README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = (README, *(path.read_text(encoding="utf-8") for path in sorted(ROOT.glob("*.py"))))
LAUNCHER = "accelerate launch"


def commands_of(page: str) -> list[str]:
    """Lines that begin like a command of ours, each on one line."""
    whole = re.sub(r"\\+\n *", " ", page)
    return re.findall(rf"^ *((?:python|{LAUNCHER}) .+?)(?: +#.*)?$", whole, flags=re.MULTILINE)


COMMANDS = [command for page in PAGES for command in commands_of(page)]
# What needs no download and no GPU: the demo's models, and what reads the results of the commands before.
RUNNABLE = [
    command
    for command in commands_of(README)
    if re.search(r"demo/|pocket-|^python -m repe\.(check_results|report)", command)
]


def test_the_readme_has_a_command_of_every_script_and_tool() -> None:
    scripts = {path.name for path in ROOT.glob("*.py")}
    tools = {f"repe.{path.stem}" for path in (ROOT / "repe").glob("*.py") if "__main__" in path.read_text("utf-8")}
    assert scripts | tools <= {word for command in commands_of(README) for word in shlex.split(command)}
    # Of the scripts also one that runs.
    assert scripts <= {shlex.split(command)[1] for command in RUNNABLE}


def script_and_arguments(command: str) -> tuple[str, list[str]]:
    """The module that a command runs, and what follows."""
    words = shlex.split(command.replace("PATH_OR_HUB_ID", "owner/name"))
    if command.startswith(LAUNCHER):
        place = next(place for place, word in enumerate(words) if word.endswith(".py"))
        return words[place].removesuffix(".py"), words[place + 1 :]
    if words[1] == "-m":
        return words[2], words[3:]
    return words[1].removesuffix(".py"), words[2:]


@pytest.mark.parametrize("command", [*dict.fromkeys(COMMANDS)])
def test_a_command_is_accepted(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, arguments = script_and_arguments(command)
    if module.startswith("demo."):
        pytest.importorskip(module)
    parsed = []
    monkeypatch.setattr(cli, "run", lambda _main, parser: parsed.append(parser.parse_args(arguments)))
    importlib.import_module(module).start()
    assert parsed


def test_launch_commands_are_accepted_by_the_launcher() -> None:
    from accelerate.commands.launch import launch_command_parser

    launched = [command for command in COMMANDS if command.startswith(LAUNCHER)]
    assert launched
    for command in launched:
        assert launch_command_parser().parse_args(shlex.split(command)[2:]).training_script.endswith(".py")


def test_the_commands_on_the_demo_run_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if not (ROOT / "demo/models").exists():
        pytest.skip("demo/ is not there")
    for path in ROOT.iterdir():
        if path.suffix == ".py" or path.name in ("demo", "repe"):
            (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    for command in RUNNABLE:
        module, arguments = script_and_arguments(command)
        monkeypatch.setattr(sys, "argv", [module, *arguments])
        monkeypatch.delitem(sys.modules, module, raising=False)  # which another test may have imported
        with pytest.raises(SystemExit) as ended:
            runpy.run_module(module, run_name="__main__")
        assert ended.value.code == 0, f"{command}\n{capsys.readouterr().err}"
    written = {path.stem for path in (tmp_path / "res/cross_model").iterdir()}
    # The table of figures names those of any set of models, and those of the paper's three of seven billion parameters.
    _, _, rows = README.partition("| file in `res/cross_model`")
    named = set(re.findall(r"`((?:figure|table|similarity|transfer)\w*)(?:\.csv)?`", rows.partition("\n\n")[0]))
    assert len(named) == 11
    assert named - written == {"figure4_similarity_7b", "figure5_transfer_7b"}
    assert "report" in written


def test_make_targets_in_the_readme_are_there() -> None:
    targets = set(re.findall(r"\bmake ([\w-]+)\b", " ".join(re.findall(r"`[^`]*`|```.*?```", README, flags=re.DOTALL))))
    rules = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), flags=re.MULTILINE)
    assert {"demo", "test", "bench", "stress"} <= targets <= {*rules}


def test_the_row_of_the_readme_can_be_pasted_into_the_registry() -> None:
    (row,) = re.findall(r"^ *(Entry\(.*\),)$", README, flags=re.MULTILINE)
    source = (ROOT / "repe/registry.py").read_text(encoding="utf-8")
    first = source.index("        Entry(")
    table: dict[str, object] = {"__name__": "registry"}
    exec(compile(f"{source[:first]}        {row}\n{source[first:]}", "registry.py", "exec"), table)  # noqa: S102
    assert table["entry"]("mymodel-chat", "3B").hub_id == "owner/MyModel-3B-Chat"  # type: ignore[operator]


def test_files_that_the_readme_names_are_there() -> None:
    named = re.findall(r"\]\(([\w/.-]+)\)", README) + re.findall(r"`(repe/\w+\.\w+)`", README)
    assert named
    for name in named:
        # Everything but the demo works with demo/ deleted.
        assert (ROOT / name).exists() or name.startswith("demo/"), name


def test_the_map_names_every_module() -> None:
    _, _, rest = README.partition("## Where things are")
    words = re.findall(r"[\w*]+", rest.partition("\n## ")[0])
    modules = [path.stem for path in (ROOT / "repe").glob("*.py") if path.stem not in ("__init__", "errors", "files")]
    unnamed = [name for name in modules if not any(re.fullmatch(word.replace("*", r"\w*"), name) for word in words)]
    assert unnamed == []


def test_figures_and_tables_in_the_readme_are_those_that_are_written() -> None:
    sources = " ".join(
        (ROOT / name).read_text(encoding="utf-8")
        for name in (*(path.name for path in ROOT.glob("*.py")), "repe/tables.py")
    )
    names = re.findall(r"`((?:figure|table|similarity|transfer)\w*)(?:\.csv)?`", README)
    assert len(names) >= 10
    assert all(f'"{name}"' in sources for name in names)
