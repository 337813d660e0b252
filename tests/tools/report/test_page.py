"""The report has every number of the tables, the figures' colours, and nothing that loads; a browser agrees."""

import html
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT, Ended
from matplotlib.colors import to_hex
from PIL import Image

from repe.errors import UserError
from repe.paper import FAMILIES
from repe.plots import figures
from repe.results.result_file import SETTINGS
from repe.tools.report import page as report
from repe.tools.report import run_records

Script = Callable[..., Ended]
HOSTILE = "<script>hacked=1</script>"
MODELS = ("tiny-b", "tiny-a", "tiny-c")
LANGUAGES = ("en", "zh", "fr")
REPLY = f'"><img src=x onerror="hacked=2"> </td></table>{HOSTILE}'


def write_tables(folder: Path, models: tuple[str, ...] = MODELS) -> None:
    """Made-up tables of an analysis, with a value that is missing and one that no script of today writes."""
    generator = np.random.default_rng(1)
    folder.mkdir(parents=True)
    cells = [(model, one, two) for model in models for one in LANGUAGES for two in LANGUAGES]
    squares = pd.DataFrame(cells, columns=["model", "source", "target"])
    similarity = squares.assign(similarity=generator.uniform(-0.1, 0.8, len(cells)))
    similarity.loc[squares["source"] == squares["target"], "similarity"] = 1.0
    similarity.loc[1, "similarity"] = np.nan
    accuracy = generator.uniform(0.4, 1, len(cells))
    delta = generator.uniform(-0.2, 0.05, len(cells)) * (squares["source"] != squares["target"])
    rows = [(concept, model, one) for concept in ("morality", "toxicity") for model in models for one in LANGUAGES]
    table6 = pd.DataFrame(rows, columns=["concept", "model", "language"])
    distances = [(model, distance) for model in models for distance in ("genetic", "syntactic")]
    table1 = pd.DataFrame(distances, columns=["model", "distance"])
    for name in ("direct", "direct_as_released", "split"):
        table1[name] = generator.uniform(-1, 1, len(table1))
    repaired = table1.assign(direct_effect=0.0, split_effect=0.0)
    repaired.loc[0, "direct_effect"] = 0.25
    layers = pd.DataFrame(
        [(m, i, i / 3) for m in models for i in (1, 2, 3)], columns=["model", "layer", "relative_depth"]
    )
    tables = {
        "similarity": similarity,
        "transfer": squares.assign(accuracy=accuracy, delta=delta),
        "table6_recognition_accuracy": table6.assign(accuracy=generator.uniform(0.4, 1, len(rows)), best_layer=2),
        "table1_linguistic_correlation": table1,
        "table1_linguistic_correlation_repaired": repaired,
        "similarity_by_layer": layers.assign(similarity=generator.uniform(0, 1, len(layers))),
        "unheard_of": pd.DataFrame(
            {"kind": ["b", "a"], "p": [3.2e-9, np.nan], "count": [10, 9], "share": [-0.5, -1.5]}
        ),
    }
    for name, table in tables.items():
        table.to_csv(folder / f"{name}.csv", index=False)
    for name in ("figure2_recognition_accuracy", "figure7_similarity_all", "unheard_of_figure"):
        Image.new("RGBA", (36, 18), (0, 114, 178, 255)).save(folder / f"{name}.png")


def write_result(path: Path, **meta: object) -> None:
    """A result file with the meta that counts here."""
    path.parent.mkdir(parents=True, exist_ok=True)
    known = {"source": "owner/tiny", "dtype": "float32", "template": "{input}", "versions": {"torch": "2"}}
    content = {
        "format": 1,
        "meta": known | {"data": {"en": "ab" * 32}} | meta,
        "layers": [1],
        "accuracy": torch.ones(2),
    }
    torch.save(content, path)


STEERED = {"layers": [1, 2], "operator": "linear_comb", "prompts": "cd" * 32, "prompts_name": "asked.jsonl"}


def write_control(folder: Path) -> None:
    """Rates and replies of one source, some of them hostile."""
    folder.mkdir(parents=True)
    pd.DataFrame({"target": ["en", "zh"], "refusal_rate": [0.123456789, 1.0]}).to_csv(
        folder / "control.csv", index=False
    )
    Image.new("RGB", (20, 10)).save(folder / "figure_control.png")
    (folder / "settings.json").write_text(json.dumps(STEERED), encoding="utf-8")
    conditions = [("none", 0.0), *(("concept", strength) for strength in (-1.0, -0.5, 0.5, 1.0)), ("random", 1.0)]
    rows = [
        {"id": f"{harmful}{n}", "lang": lang, "harmful": harmful, "strength": strength, "baseline": baseline}
        | {"prompt": f"{lang} {harmful} {n}", "reply": f"{baseline} {strength} {n} {REPLY}"}
        for baseline, strength in conditions
        for lang in ("zh", "en")
        for harmful in (True, False)
        for n in (1, 2)
    ]
    (folder / "generations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder, to be read alone."""
    folder = tmp_path_factory.mktemp("made") / "res"
    write_tables(folder / "cross_model")
    for concept in ("morality", "toxicity"):
        write_result(folder / f"tiny-a/{concept}/reader_dict.pt")
        write_result(folder / f"tiny-b/{concept}/acc.pt", template=f"{concept} {{input}}")
    (folder / "tiny-b/fairness").mkdir()
    (folder / "tiny-b/fairness/acc.pk").write_bytes(b"anything")
    write_control(folder / "tiny-a/toxicity/control/en")
    return folder


@pytest.fixture
def res(made: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    return Path(shutil.copytree(made, tmp_path / "res"))


@pytest.fixture(scope="module")
def text(made: Path) -> str:
    """The report on it."""
    return report.render(made, made / "cross_model")


@pytest.fixture(scope="module")
def page(text: str) -> "Page":
    return Page(text)


class Page(HTMLParser):
    """What a page holds: tables by caption as rows of texts, tags with their attributes; checks the nesting."""

    VOID = ("meta", "img")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.styles: dict[str, list[list[str]]] = {}
        self.texts: list[str] = []
        self.open: list[str] = []
        self.rows: list[list[str]] = []
        self.row_styles: list[list[str]] = []
        self.caption = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attributes}
        self.tags.append((tag, found))
        if tag in ("td", "th", "tr"):
            self.end_optional("td", *(["tr"] if tag == "tr" else []))
        if tag == "table":
            self.rows, self.row_styles, self.caption = [], [], ""
        if tag == "tr":
            self.rows.append([])
            self.row_styles.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.row_styles[-1].append(found.get("style", ""))
        if tag not in self.VOID:
            self.open.append(tag)

    def end_optional(self, *tags: str) -> None:
        for tag in tags:
            if self.open[-1] == tag:
                self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag in ("tbody", "thead", "tr"):
            self.end_optional("td", "tr" if tag != "tr" else "td")
        assert self.open.pop() == tag
        if tag == "table":
            name = self.caption if self.caption not in self.tables else f"{self.caption} (2)"
            self.tables[name], self.styles[name] = self.rows, self.row_styles

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        if self.open and self.open[-1] == "caption":
            self.caption += data
        elif {"td", "th"} & {*self.open}:
            self.rows[-1][-1] += data


def page_of(res: Path, folder: str = "cross_model") -> Page:
    return Page(report.render(res, res / folder))


def test_tables_of_control_and_unknown_ones_are_on_the_page(made: Path, page: Page) -> None:
    for path, caption in (
        (made / "cross_model/unheard_of.csv", "unheard_of.csv"),
        (made / "tiny-a/toxicity/control/en/control.csv", "control.csv"),
    ):
        header, *rows = page.tables[caption]
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        assert header == [name.replace("_", " ") for name in table]
        for row, expected in zip(rows, table.to_numpy(), strict=True):
            for text, cell in zip(row, expected, strict=True):
                try:
                    assert float(text.replace("−", "-")) == pytest.approx(float(cell), rel=5e-4)
                except ValueError:
                    assert text == cell


def test_table_6_is_in_percent_with_means(made: Path, page: Page) -> None:
    table = pd.read_csv(made / "cross_model/table6_recognition_accuracy.csv")
    for concept, rows in table.groupby("concept"):
        header, *lines = page.tables[f"{concept}, percent"]
        assert header == ["model", *LANGUAGES, "Avg"]
        assert [line[0] for line in lines] == [*MODELS]
        for line in lines:
            known = rows[rows["model"] == line[0]].set_index("language")["accuracy"]
            assert line[1:] == [f"{100 * value:.1f}" for value in [*known[[*LANGUAGES]], known.mean()]]


def test_table_1_has_a_model_a_row_and_effects_where_there_are_some(made: Path, page: Page) -> None:
    assert len(page.tables["Pearson's r"][0]) == 5
    header, *lines = page.tables["Pearson's r, repaired distances"]
    # The data changes one genetic distance of the first model.
    kinds = [
        *("genetic direct", "genetic direct effect", "genetic split", "genetic split effect"),
        *("syntactic direct", "syntactic split"),
    ]
    assert header == ["model", *kinds]
    table = pd.read_csv(made / "cross_model/table1_linguistic_correlation_repaired.csv").set_index(
        ["model", "distance"]
    )
    for line in lines:
        for kind, text in zip(kinds, line[1:], strict=True):
            distance, _, name = kind.partition(" ")
            expected = table.loc[(line[0], distance), name.replace(" ", "_")]
            assert text == f"{expected:z.2f}".replace("-", "−")


@pytest.mark.parametrize(
    ("name", "value", "draw", "place"),
    [
        ("similarity", "similarity", figures.similarity_heat_maps, ""),
        ("transfer", "delta", figures.transfer_heat_maps, " (2)"),
    ],
)
def test_heat_maps_have_the_cells_and_colours_of_the_figures(
    name: str, value: str, draw: Callable, place: str, made: Path, page: Page
) -> None:
    table = pd.read_csv(made / f"cross_model/{name}.csv")
    figure = draw(table, dict.fromkeys(MODELS, FAMILIES["none"]))
    for axes, model in zip(figure.axes, MODELS, strict=False):
        square = table[table["model"] == model].pivot(index="source", columns="target", values=value)
        square = square.loc[[*LANGUAGES], [*LANGUAGES]]
        colours = axes.collections[0].to_rgba(square.to_numpy())
        header, *rows = page.tables[f"{model}{place}"]
        assert header == ["source", *LANGUAGES]
        for source, row, styles, line in zip(LANGUAGES, rows, page.styles[f"{model}{place}"][1:], colours, strict=True):
            assert row[0] == source
            for target, text, style, colour in zip(LANGUAGES, row[1:], styles[1:], line, strict=True):
                expected = square.loc[source, target]
                if np.isnan(expected):
                    assert (text, style) == ("", "")
                else:
                    assert text == f"{expected:z.2f}".replace("-", "−")
                    assert f"background:{to_hex(colour)};" in style


def test_figures_are_embedded_and_unknown_ones_too(page: Page) -> None:
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) == 4
    assert all(image["src"].startswith("data:image/png;base64,") and image["alt"] for image in images)
    assert "unheard_of_figure.png" in [image["alt"] for image in images]


def test_the_page_names_no_other_place_and_may_load_nothing(text: str) -> None:
    assert not re.search(r"https?:|//(?! )|url\(|@import|<link|<iframe|srcset", re.sub(r"data:[^\"]+", "", text))
    assert text.count("<script") == 1
    assert "default-src 'none'; img-src data:" in text


def test_the_page_is_sound(page: Page) -> None:
    assert ("html", {"lang": "en"}) in page.tags
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    linked = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    assert [*map("#{}".format, ids)] == linked
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(later - earlier <= 1 for earlier, later in itertools.pairwise(levels))
    assert "" not in page.tables


def test_the_same_files_give_the_same_bytes(res: Path, script: Script, tmp_path: Path) -> None:
    assert script("repe.__main__", "report", "--res-dir", res).status == 0
    first = (res / "cross_model/report.html").read_bytes()
    shutil.copytree(res, tmp_path / "moved")
    assert script("repe.__main__", "report", "--res-dir", tmp_path / "moved").status == 0
    assert script("repe.__main__", "report", "--res-dir", res).out.startswith(
        f"wrote {res / 'cross_model/report.html'}"
    )
    assert (res / "cross_model/report.html").read_bytes() == first
    assert (tmp_path / "moved/cross_model/report.html").read_bytes() == first


def test_labels_and_replies_are_text(page: Page) -> None:
    assert not any("onerror" in attributes for _, attributes in page.tags)
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert any(REPLY in text for text in page.tables["Example replies"][1])


def test_example_replies_are_the_first_of_each_kind_source_first(page: Page) -> None:
    _, *rows = page.tables["Example replies"]
    found = [[text.removesuffix(f" {REPLY}") for text in row] for row in rows]
    assert found[:4] == [
        ["en", "harmful", "en True 1", "−1", "concept -1.0 1"],
        ["en", "harmful", "en True 1", "0", "none 0.0 1"],
        ["en", "harmful", "en True 1", "1", "concept 1.0 1"],
        ["en", "harmless", "en False 1", "−1", "concept -1.0 1"],
    ]
    assert [row[0] for row in found] == ["en"] * 6 + ["zh"] * 6
    assert "asked.jsonl (SHA-256 cdcdcdcdcdcd)" in page.texts


def test_settings_have_a_row_a_model_where_its_concepts_agree(page: Page) -> None:
    tables = page.tables
    header, *rows = tables["Differences"]
    found = [dict(zip(header, row, strict=True)) for row in rows]
    assert [(row["model"], row["concepts"]) for row in found] == [
        *(("tiny-b", concept) for concept in ("fairness", "morality", "toxicity")),
        ("tiny-a", "morality, toxicity"),
        ("tiny-c", ""),
    ]
    assert [row["made by"] for row in found] == [
        *(run_records.DOWNLOAD, "this software", "this software", "this software", run_records.NO_FILES)
    ]
    assert [row["template"] for row in found] == ["", "morality {input}", "toxicity {input}", "{input}", ""]
    assert tables["SHA-256 of data files"][1] == ["morality", "en", "ab" * 6, "tiny-b, tiny-a"]


def test_what_all_share_is_said_once(res: Path) -> None:
    for folder in ("tiny-b", "cross_model"):
        shutil.rmtree(res / folder)
    write_tables(res / "cross_model", models=("tiny-a",))
    page = page_of(res)
    assert page.tables["Differences"][0] == ["model"]
    shown = "".join(page.texts)
    assert "dtypefloat32" in shown
    assert "versionstorch 2" in shown


def test_every_setting_of_result_files_is_shown() -> None:
    assert {*SETTINGS} <= {*run_records.SHOWN}


class Hostile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def test_nothing_in_a_result_file_is_run(res: Path, tmp_path: Path) -> None:
    torch.save({"meta": {"source": "named"}, "x": Hostile(tmp_path / "ran")}, res / "tiny-a/morality/acc.pt")
    with pytest.raises(UserError, match=r"acc\.pt is damaged \(not an archive of plain data and tensors\)"):
        page_of(res)
    assert not (tmp_path / "ran").exists()


def test_a_single_models_folder(res: Path, script: Script) -> None:
    ended = script("repe.__main__", "report", "--res-dir", res, "--out-dir", res / "tiny-a")
    assert ended.status == 0, ended
    page = Page((res / "tiny-a/report.html").read_text(encoding="utf-8"))
    assert "Example replies" in page.tables
    assert "tiny-b" not in "".join(page.texts)


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("cross_model/transfer.csv", "", "No columns to parse from file"),
        ("cross_model/transfer.csv", "model,source\na,b\n", "it has no column target"),
        (
            "cross_model/transfer.csv",
            "model,source,target,accuracy,delta\na,b\n",
            "it does not have one row for each model, source, target",
        ),
        (
            "cross_model/transfer.csv",
            "model,source,target,accuracy,delta\na,b,c,0.5,x\n",
            "could not convert string to float: 'x'",
        ),
        (
            "cross_model/transfer.csv",
            "model,source,target,accuracy,delta\n" + "a,b,c,1,1\n" * 2,
            "it does not have one row for each model, source, target",
        ),
        ("cross_model/transfer.csv", "model,source,target,accuracy,delta\n", "it does not have one row"),
        ("cross_model/unheard_of.csv", 'a,b\n"1,2\n', "unheard_of.csv is damaged"),
        ("cross_model/unheard_of.csv", "a\n\xff", "unheard_of.csv is damaged"),
        ("cross_model/figure2_recognition_accuracy.png", "no image", "figure2_recognition_accuracy.png is damaged"),
        ("tiny-a/toxicity/control/en/generations.jsonl", "{}\n", "generations.jsonl is damaged"),
        ("tiny-a/toxicity/control/en/settings.json", "[", "settings.json is damaged"),
        ("tiny-a/toxicity/reader_dict.pt", "PK", "reader_dict.pt is damaged"),
    ],
)
def test_damaged_files_are_named_in_a_line(name: str, content: str, part: str, res: Path, script: Script) -> None:
    (res / name).write_bytes(content.encode("latin1"))
    ended = script("repe.__main__", "report", "--res-dir", res)
    assert (ended.status, ended.out) == (2, "")
    assert len(ended.err.splitlines()) == 1
    assert str(res / name) in ended.err
    assert part in ended.err
    assert not (res / "cross_model/report.html").exists()


@pytest.mark.parametrize("folder", ["cross_model", "there_is_none", "tiny-x"])
def test_a_folder_without_results(folder: str, tmp_path: Path, script: Script) -> None:
    (tmp_path / "res/cross_model").mkdir(parents=True)
    ended = script("repe.__main__", "report", "--res-dir", tmp_path / "res", "--out-dir", tmp_path / "res" / folder)
    assert ended.status == 2
    assert len(ended.err.splitlines()) == 1
    assert f"no figures or tables in {tmp_path / 'res' / folder}" in ended.err
    assert "--out-dir" in ended.err


def test_the_template_is_found_from_anywhere_and_packaged(res: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "repe", "report", "--res-dir", "res"]
    subprocess.run(command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True)
    packaged = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"][
        "package-data"
    ]
    assert any(path.name == report.TEMPLATE for pattern in packaged["repe"] for path in (ROOT / "repe").glob(pattern))


TRIAL = """
const column = (table, place) => [...table.tBodies[0].rows].map(row => textOf(row.cells[place]));
const named = caption => [...document.querySelectorAll("table")].find(table => table.caption.textContent === caption);
const found = {};
const table = named("unheard_of.csv");
const headers = [...table.tHead.rows[0].cells];
const click = place => { headers[place].querySelector("button").click(); return column(table, place); };
found.counts = [click(2), headers[2].ariaSort, click(2), headers[2].ariaSort];
found.kinds = [click(0), headers[2].hasAttribute("aria-sort")];
found.missing = [click(1), click(1)];
found.shares = click(3);
found.requests = performance.getEntriesByType("resource").length;
found.hacked = typeof hacked;
for (const folded of document.querySelectorAll("details")) folded.open = true;
found.widths = [document.documentElement.scrollWidth, document.documentElement.clientWidth];
console.error("the trial ends");
parent.document.getElementById("found").textContent = JSON.stringify(found);
"""


@pytest.fixture
def tried(text: str, tmp_path: Path) -> tuple[dict, str]:
    """What the page did in a window 400 pixels wide, and what the browser logged."""
    browser = shutil.which("chromium")
    if not browser:
        pytest.skip("chromium is not installed")
    page = text.replace("</body>", f"<script>{TRIAL}</script></body>")
    # The browser's own windows are never as narrow as a telephone.
    frame = f'<iframe style="width:400px;height:800px;border:0" srcdoc="{html.escape(page)}"></iframe>'
    (tmp_path / "trial.html").write_text(f'<meta charset="utf-8"><pre id="found"></pre>{frame}', encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--virtual-time-budget=5000"]
    own = [f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", (tmp_path / "trial.html").as_uri()]
    ended = subprocess.run([browser, *options, *own], capture_output=True, text=True, timeout=120, check=True)
    shown = re.search(r'<pre id="found">(.*?)</pre>', ended.stdout, flags=re.DOTALL)
    assert shown, ended.stderr
    return json.loads(html.unescape(shown[1])), ended.stderr


def test_the_page_works_in_a_browser(tried: tuple[dict, str]) -> None:
    found, log = tried
    assert found["counts"] == [["9", "10"], "ascending", ["10", "9"], "descending"]
    assert found["kinds"] == [["a", "b"], False]
    assert found["missing"] == [["3.2e-09", ""], ["3.2e-09", ""]]
    assert found["shares"] == ["-1.5", "-0.5"]
    assert found["requests"] == 0
    assert found["hacked"] == "undefined"
    needed, there = found["widths"]
    assert needed == there <= 400
    console = [line for line in log.splitlines() if "CONSOLE" in line]
    assert len(console) == 1, console
    assert "the trial ends" in console[0]
