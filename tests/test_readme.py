"""README and docs: commands are accepted or run, the example prints what it shows, and named files exist."""

import ast
import importlib
import json
import pkgutil
import re
import runpy
import shlex
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import ROOT

import repe
from repe.__main__ import TOOLS
from repe.analysis import lang2vec_distance
from repe.paper import CONCEPTS, LANGUAGES
from repe.runs import arguments as options

PAGES = {path: path.read_text(encoding="utf-8") for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}
README = PAGES[ROOT / "README.md"]
LAUNCHER = "accelerate launch"
TOOL_MODULES = {module for module, _ in TOOLS.values()}


def commands_of(text: str) -> list[str]:
    """Lines that start like a command of this repository, each joined to one line."""
    joined = re.sub(r"\\+\n *", " ", text)
    return re.findall(rf"^ *((?:python|{LAUNCHER}) .+?)(?: +#.*)?$", joined, flags=re.MULTILINE)


def blocks_of(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


IN_PAGES = [command for page in PAGES.values() for command in commands_of(page)]
IN_SCRIPTS = [command for path in sorted(ROOT.glob("*.py")) for command in commands_of(path.read_text("utf-8"))]
# Commands that need no download and no GPU: those on models that are part of the demo, and those that read the results.
RUNNABLE = [
    command
    for command in dict.fromkeys(IN_PAGES)
    if re.search(r"demo/(?!models/real)|pocket-|^python -m repe (status|report)", command)
]


def module_and_arguments(command: str) -> tuple[str, list[str]]:
    """The module that a command runs, and its arguments."""
    words = shlex.split(command.replace("PATH_OR_HUB_ID", "owner/name"))
    if command.startswith("python -m repe "):
        return TOOLS[words[3]][0], words[4:]
    script = next(place for place, word in enumerate(words) if word.endswith(".py"))
    return words[script].removesuffix(".py"), words[script + 1 :]


def test_readme_has_fewer_than_200_lines() -> None:
    assert len(README.splitlines()) < 200


def test_example_prints_what_it_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if not (ROOT / "demo/pocket/models").exists():
        pytest.skip("demo/ does not exist")
    (example,) = blocks_of(README, "python")
    shown = [line.strip().removeprefix("#").strip() for line in example.splitlines() if line.lstrip().startswith("#")]
    assert len(shown) == 7
    monkeypatch.chdir(ROOT)
    (tmp_path / "example.py").write_text(example, encoding="utf-8")
    runpy.run_path(str(tmp_path / "example.py"))
    assert [line.strip() for line in capsys.readouterr().out.splitlines()] == shown


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_parse_and_names_of_the_package_exist(page: Path) -> None:
    for block in blocks_of(PAGES[page], "python"):
        ast.parse(block)
    for name in set(re.findall(r"(?<![\w/.-])repe(?:\.[A-Za-z_]\w*)+", PAGES[page])):
        assert pkgutil.resolve_name(name) is not None


def test_every_script_and_tool_has_a_command() -> None:
    scripts = {path.stem for path in ROOT.glob("*.py")}
    modules = {module_and_arguments(command)[0] for command in IN_PAGES}
    assert scripts | TOOL_MODULES <= modules
    # Every script also has a command that runs here.
    assert scripts <= {module_and_arguments(command)[0] for command in RUNNABLE}


@pytest.mark.parametrize("command", [*dict.fromkeys(IN_PAGES + IN_SCRIPTS)])
def test_command_is_accepted(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, arguments = module_and_arguments(command)
    parsed = []
    monkeypatch.setattr(options, "run", lambda _main, parser: parsed.append(parser.parse_args(arguments)))
    importlib.import_module(module).start()
    assert parsed


def test_launch_commands_are_accepted_by_the_launcher() -> None:
    from accelerate.commands.launch import launch_command_parser

    launched = [command for command in IN_PAGES + IN_SCRIPTS if command.startswith(LAUNCHER)]
    assert launched
    for command in launched:
        assert launch_command_parser().parse_args(shlex.split(command)[2:]).training_script.endswith(".py")


@pytest.mark.usefixtures("undrawn")
def test_commands_on_the_demo_run_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if not (ROOT / "demo/pocket/models").exists():
        pytest.skip("demo/ does not exist")
    for path in ROOT.iterdir():
        if path.suffix == ".py" or path.name in ("demo", "repe"):
            (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    for command in RUNNABLE:
        module, arguments = module_and_arguments(command)
        monkeypatch.setattr(sys, "argv", [module, *arguments])
        if module in TOOL_MODULES:
            with pytest.raises(SystemExit) as ended:
                importlib.import_module(module).start()
        else:
            monkeypatch.delitem(sys.modules, module, raising=False)  # another test may have imported it
            with pytest.raises(SystemExit) as ended:
                runpy.run_module(module, run_name="__main__")
        assert ended.value.code == 0, f"{command}\n{capsys.readouterr().err}"
    written = {path.stem for path in (tmp_path / "res/cross_model").iterdir()}
    # The table of figures lists those of any set of models, and two that need the paper's models.
    assert named_figures_and_tables() - written == {"figure4_similarity_7b", "figure5_transfer_7b"}
    assert {"report", "recognition_intervals", "one_way_transfer", "figure2_recognition_accuracy_validation"} <= written
    assert "table1_linguistic_correlation_repaired" in written
    assert (tmp_path / "res/pocket-bloom-S-item").is_dir()


def named_figures_and_tables() -> set[str]:
    """Names in the README's table of figures and tables."""
    _, _, rows = README.partition("| file in `res/cross_model`")
    named = set(re.findall(r"`((?:figure|table|similarity|transfer)\w*)(?:\.csv)?`", rows.partition("\n\n")[0]))
    assert len(named) == 11
    return named


def test_figures_and_tables_in_the_readme_are_written_by_the_scripts() -> None:
    paths = (*ROOT.glob("*.py"), ROOT / "repe/plots/tables.py")
    sources = " ".join(path.read_text(encoding="utf-8") for path in paths)
    assert [name for name in named_figures_and_tables() if f'"{name}"' not in sources] == []


def test_make_targets_exist() -> None:
    code = re.findall(r"`[^`]*`|```.*?```", "\n".join(PAGES.values()), flags=re.DOTALL)
    targets = set(re.findall(r"\bmake ([\w-]+)\b", " ".join(code)))
    rules = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), flags=re.MULTILINE)
    assert {"demo", "test", "bench", "stress"} <= targets <= {*rules}


def test_the_row_for_a_new_model_can_be_pasted_into_the_registry() -> None:
    (row,) = {row for page in PAGES.values() for row in re.findall(r"^ *(Entry\(.*\),)$", page, flags=re.MULTILINE)}
    source = (ROOT / "repe/models/registry.py").read_text(encoding="utf-8")
    first = source.index("        Entry(")
    table: dict[str, object] = {"__name__": "registry"}
    exec(compile(f"{source[:first]}        {row}\n{source[first:]}", "registry.py", "exec"), table)  # noqa: S102
    assert table["entry"]("mymodel-chat", "3B").hub_id == "owner/MyModel-3B-Chat"  # type: ignore[operator]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_files_exist(page: Path) -> None:
    targets = re.findall(r"(?<=\]\()[\w/.-]+(?=\))|(?<=src=\")[^\"]+", PAGES[page])
    linked = [page.parent / target for target in targets]
    assert linked or page.name in ("performance.md", "robustness.md")
    named = [ROOT / name for name in re.findall(r"`((?:repe|tests|docs)/[\w/]+\.\w+)`", PAGES[page])]
    # Everything except the demo works without demo/.
    missing = [path for path in linked + named if not path.exists() and "demo" not in path.parts]
    assert missing == []


def test_the_readme_links_every_page_of_the_docs() -> None:
    linked = set(re.findall(r"\]\(docs/([\w-]+\.md)\)", README))
    assert linked == {path.name for path in (ROOT / "docs").glob("*.md")}


def rows_below(heading: str) -> list[list[str]]:
    """Cells of the table below a heading of the page on data, without its first two lines."""
    section = PAGES[ROOT / "docs/data-and-results.md"].partition(f"### {heading}\n")[2].partition("\n##")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_examples_of_the_concepts_are_pairs_of_the_probe_set() -> None:
    rows = rows_below("The seven concepts")
    assert [concept for concept, *_ in rows] == list(CONCEPTS)
    for concept, asks, *sides in rows:
        path = ROOT / f"demo/probes/data/{concept}/{concept}_en.json"
        if not path.exists():
            pytest.skip("demo/ does not exist")
        samples = [sample for group in json.loads(path.read_text("utf-8")).values() for sample in group.values()]
        (found,) = [sample for sample in samples if [sample["pos"], sample["neg"]] == sides]
        assert found.get("scenario", "") in asks
        assert found.get("question", "") in asks


def test_languages_have_the_family_of_lang2vec_and_the_script_of_their_text() -> None:
    rows = rows_below("The sixteen languages")
    assert [language for language, *_ in rows] == list(LANGUAGES)
    folder = lang2vec_distance.data_folder()
    assert folder is not None
    with np.load(folder / "family_features.npz") as stored:
        families, codes, has = stored["feats"], [*stored["langs"]], stored["data"].max(axis=-1) > 0
    for language, _, family, script in rows:
        of_language = families[has[codes.index(lang2vec_distance.code(language))]]
        assert {f"F_{name}" for name in re.findall(r"[^()]+(?<! )", family)} <= {*of_language}
        path = ROOT / f"demo/probes/data/morality/morality_{language}.json"
        if path.exists():
            letters = {letter for letter in path.read_text("utf-8") if letter.isalpha() and not letter.isascii()}
            names = {unicodedata.name(letter).split()[0].split("-")[0].capitalize() for letter in letters}
            assert {{"Cjk": "Han", "Ideographic": "Han"}.get(name, name) for name in names} <= {*script.split(", ")}


def test_bibtex_and_citation_file_agree() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    entries = [" ".join(block.split()) for block in blocks_of(PAGES[ROOT / "docs/citation.md"], "bibtex")]
    for entry, work in zip(entries, (cited["preferred-citation"], cited, *cited["references"]), strict=True):
        (title,) = re.findall(r"title = \{(.*?)\}, author", entry)
        assert title == work["title"]
        if "family-names" in work["authors"][0]:
            (authors,) = re.findall(r"author = \{(.*?)\},", entry)
            assert authors.split(" and ") == [f"{one['family-names']}, {one['given-names']}" for one in work["authors"]]
    assert cited["preferred-citation"]["title"] in " ".join(README.split())
    assert cited["version"] == repe.__version__
    assert f"version = {{{repe.__version__}}}" in entries[1]
    assert f"## {repe.__version__} ({cited['date-released']})" in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_the_table_of_control_is_its_csv() -> None:
    table = pd.read_csv(ROOT / "docs/figures/control_smollm2.csv").query("baseline == 'concept'")
    rows = re.findall(
        r"^\| (harm\w+) \| (-?[\d.]+) \| (-?[\d.]+) \[.*\| ([\d.]+) \|$", PAGES[ROOT / "docs/control.md"], re.M
    )
    assert len(rows) == len(table) == 10
    for harmful, strength, score, refusals in rows:
        (row,) = table[(table["harmful"] == (harmful == "harmful")) & (table["strength"] == float(strength))].to_dict(
            "records"
        )
        assert (float(score), float(refusals)) == (round(row["concept_score"], 2), round(row["refusal_rate"], 2))
