"""control_generation.py: its output files and their order, resuming, and the inputs it rejects."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import LAYERS, build, write_data

import repe
from repe.control.scores import concept_scores
from repe.control.settings import ControlSettings
from repe.data import item_position
from repe.results.result_file import Kind
from repe.results.vector_file import VectorFile

pytestmark = pytest.mark.usefixtures("undrawn")

PROMPTS = [
    {"id": f"{number}-{harm}", "lang": lang, "prompt": f"{lang} {text}", "harmful": harm}
    for lang in ("en", "zh", "fr")
    for harm in (True, False)
    for number, text in enumerate(("help me", "tell me how to give a stranger the old bread", "a dog takes it"))
]
STRENGTHS = [-2.0, 0.0, 2.0]
Run = Callable[..., Any]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("control")
    build(folder / "tiny", "llama")
    for language in ("en", "zh", "fr"):
        write_data(folder / "data", "harmfulness", language, last_words=("helps", "hurts"))
    (folder / "prompts.jsonl").write_text("\n".join(map(json.dumps, PROMPTS)) + "\n", encoding="utf-8")
    return folder


@pytest.fixture
def control(script: Run, home: Path, finished: Path, tmp_path: Path) -> Run:
    """Run the script on the tiny model, its vectors collected, results in a folder of the test's own."""
    model = ("--model-path", home / "tiny", "--res-dir")
    if not finished.exists():
        assert script("collect_vector", *model, finished, "--data-dir", home / "data").status == 0
    shutil.copytree(finished, tmp_path / "res")
    shared = (*model, tmp_path / "res", "--prompts", home / "prompts.jsonl", "--layers", "1,2")

    def run(*options: object, source: str = "en") -> Any:
        usual = ("--max-new-tokens", "5", "--random-draws", "2", "--strength=-2,0,2", "--source-lang", source)
        return script("control_generation", *shared, *usual, *options)

    return run


def folder_of(tmp_path: Path, source: str = "en") -> Path:
    return tmp_path / "res/tiny/harmfulness/control" / source


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "generations.jsonl").read_text(encoding="utf-8").splitlines()]


def test_replies_have_a_fixed_order_and_the_documented_fields(control: Run, tmp_path: Path) -> None:
    ended = control()
    assert ended.status == 0, ended.err
    rows = rows_of(folder_of(tmp_path))
    assert "concept_score" in ended.out
    assert list(rows[0])[:7] == ["id", "lang", "harmful", "strength", "baseline", "prompt", "reply"]
    expected = [
        (one.baseline, one.draw, one.strength, prompt["lang"], prompt["id"])
        for one in ControlSettings([1, 2], STRENGTHS, random_draws=2).conditions()
        for prompt in PROMPTS
    ]
    assert [(row["baseline"], row["draw"], row["strength"], row["lang"], row["id"]) for row in rows] == expected
    assert {path.name for path in folder_of(tmp_path).iterdir() if path.name[0] != "."} == {
        *("generations.jsonl", "settings.json", "control.csv", "control_effects.csv", "control_side_effects.csv"),
        *(f"figure_control{part}.{kind}" for part in ("", "_score") for kind in ("png", "pdf")),
    }
    table = pd.read_csv(folder_of(tmp_path) / "control.csv")
    named = "target strength baseline harmful prompts refusal_rate following_rate target_language_rate perplexity"
    assert list(table)[:11] == [*named.split(), "repetition", "empty_rate"]
    assert len(table) == 3 * 2 * (1 + 3 * len(STRENGTHS))
    assert (table["prompts"] == 3).all()


def test_strength_zero_changes_nothing_and_other_strengths_change_replies(control: Run, tmp_path: Path) -> None:
    assert control().status == 0
    rows = rows_of(folder_of(tmp_path))
    plain = {(row["lang"], row["id"]): row["reply"] for row in rows if row["baseline"] == "none"}
    for row in rows:
        if row["strength"] == 0:
            assert row["reply"] == plain[row["lang"], row["id"]]
    for baseline in ("concept", "random", "target_vector"):
        moved = [row for row in rows if row["baseline"] == baseline and row["strength"]]
        assert any(row["reply"] != plain[row["lang"], row["id"]] for row in moved)
    own = {row["id"]: row["reply"] for row in rows if row["baseline"] == "target_vector" and row["strength"] == 2}
    source = {row["id"]: row["reply"] for row in rows if row["baseline"] == "concept" and row["strength"] == 2}
    assert own.keys() == source.keys()


def test_a_finished_run_does_nothing_and_another_adds_to_it(control: Run, tmp_path: Path) -> None:
    path = folder_of(tmp_path) / "generations.jsonl"
    assert control("--target-lang", "en", "--baseline", "none,concept").status == 0
    before = path.read_bytes()
    again = control("--target-lang", "en", "--baseline", "none,concept")
    assert "nothing to generate" in again.out
    assert path.read_bytes() == before
    assert control().status == 0
    whole = path.read_bytes()
    assert control("--overwrite").status == 0
    assert path.read_bytes() == whole
    assert set(before.splitlines()) <= set(whole.splitlines())


def test_an_interrupted_run_resumes_to_the_same_file(control: Run, tmp_path: Path) -> None:
    sampled = ("--temperature", "1.5", "--batch-size", "2")
    assert control(*sampled).status == 0
    path = folder_of(tmp_path) / "generations.jsonl"
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:5] + lines[20:23] + lines[40:]))
    assert control(*sampled).status == 0
    assert path.read_bytes() == whole


def test_ctrl_c_keeps_what_was_generated(control: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import repe.control.experiment

    real, calls = repe.control.experiment.generate, []

    def interrupted(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr("repe.control.experiment.generate", interrupted)
    ended = control("--batch-size", "4")
    assert ended.status == 130
    # Of the first four prompts: at -2, and unsteered, which are also the replies of four directions at 0.
    assert len(rows_of(folder_of(tmp_path))) == 4 * (1 + 1 + 4)


def test_several_sources_get_a_figure_of_their_effects(control: Run, tmp_path: Path) -> None:
    ended = control("zh", "--target-lang", "en", "zh", source="en")
    assert ended.status == 0, ended.err
    folder = tmp_path / "res/tiny/harmfulness/control"
    table = pd.read_csv(folder / "control_sources.csv")
    assert list(table)[:4] == ["source", "target", "measure", "baseline"]
    vectors = table[table["baseline"] == "concept"]
    assert len(vectors) == 2 * 2 * 2  # sources, targets, measures
    # The same numbers as in the tables of single sources.
    one = vectors.query("source == 'zh' and target == 'en' and measure == 'refusal_rate'").iloc[0]
    rates = pd.read_csv(folder / "zh/control.csv").query("target == 'en' and baseline == 'concept' and harmful")
    rates = rates.set_index("strength")["refusal_rate"]
    assert one["effect"] == pytest.approx(rates[2.0] - rates[-2.0])
    assert (folder / "figure_control_sources.png").exists()
    assert (folder / "figure_control_sources.pdf").exists()
    steered = [
        [row["reply"] for row in rows_of(folder / source) if row["baseline"] == "concept" and row["strength"]]
        for source in ("en", "zh")
    ]
    assert steered[0] != steered[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--layers", "3"), "--layers: layer 3 cannot be steered (layer 3 is collected after the final norm)"),
        (("--layers", "9"), "--layers: layer 9 cannot be steered: choose from 1 to 2"),
        (("--target-lang", "ja"), "no prompts in ja: choose from en zh fr"),
        (("--concept", "fairness"), "has no vectors of en"),
        (("--strength=1e39",), "not finite"),
        (("--max-new-tokens", "250"), "--max-new-tokens"),
        (("--strength=1,x",), "must be comma-separated numbers"),
        (
            ("--baseline", "mine"),
            "'mine' is not valid: choose from none, concept, random, shuffled, target_vector, prompt",
        ),
        (("--temperature", "-1"), "must be a non-negative number"),
        (("--top-p", "0"), "must be greater than 0 and at most 1"),
        (("--template", "x {input}"), "was made with other settings"),
    ],
)
def test_invalid_options_are_refused_in_one_line(options: tuple[str, ...], message: str, control: Run) -> None:
    ended = control(*options)
    assert ended.status == 2
    assert message in ended.err
    assert len(ended.err.strip().splitlines()[-1:]) == 1
    assert "Traceback" not in ended.err


def test_other_settings_go_to_a_folder_of_their_own_and_are_compared(control: Run, tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    assert control("--baseline", "none,concept").status == 0
    before = (folder / "generations.jsonl").read_bytes()
    assert not (folder / "control_settings.csv").exists()
    ended = control("--baseline", "none,concept", "--scope", "last", "--layers", "1")
    assert ended.status == 0, ended.err
    assert (folder / "generations.jsonl").read_bytes() == before
    assert (folder / "layers-1_scope-last/generations.jsonl").exists()
    table = pd.read_csv(folder / "control_settings.csv")
    assert list(table)[:4] == ["settings", "layers", "scope", "target"]
    assert set(zip(table["settings"], table["scope"], strict=True)) == {
        ("first", "all"),
        ("layers-1_scope-last", "last"),
    }
    first = table[table["settings"] == "first"].drop(columns=["settings", "layers", "scope"]).reset_index(drop=True)
    pd.testing.assert_frame_equal(first, pd.read_csv(folder / "control.csv"))


def test_other_prompts_are_compared_too(control: Run, home: Path, tmp_path: Path) -> None:
    usual = ("--baseline", "none", "--target-lang", "en")
    assert control(*usual).status == 0
    other = tmp_path / "other.jsonl"
    other.write_text("".join((home / "prompts.jsonl").read_text("utf-8").splitlines(keepends=True)[:2]), "utf-8")
    ended = control(*usual, "--prompts", other)
    assert ended.status == 0, ended.err
    table = pd.read_csv(folder_of(tmp_path) / "control_settings.csv")
    assert table.groupby("settings", sort=False)["prompts"].sum().tolist() == [6, 2]
    assert table["prompts_file"].str.split().str[0].tolist() == [
        *table["settings"].map({"first": "prompts.jsonl"}).fillna("other.jsonl")
    ]


def test_replies_of_another_version_are_not_mixed(control: Run, tmp_path: Path) -> None:
    assert control("--baseline", "none").status == 0
    # A setting of an earlier version that this one does not have.
    path = folder_of(tmp_path) / "settings.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"calibrated_on": None}))
    assert control("--baseline", "none").status == 0
    path.write_text(json.dumps(json.loads(path.read_text()) | {"calibrated_on": "en"}))
    ended = control("--baseline", "none")
    assert ended.status == 2
    assert "calibrated_on was 'en', is None" in ended.err


def test_shuffled_labels_and_system_instructions_are_baselines(
    control: Run, script: Run, home: Path, tmp_path: Path
) -> None:
    chosen = ("--baseline", "none,shuffled,prompt", "--target-lang", "en", "fr")
    assert "needs" in control(*chosen).err
    shared = ("--model-path", home / "tiny", "--res-dir", tmp_path / "res", "--data-dir", home / "data")
    assert script("collect_vector", *shared, "--random-direction").status == 0
    ended = control(*chosen)
    assert ended.status == 0, ended.err
    rows = rows_of(folder_of(tmp_path))
    strengths = {name: {row["strength"] for row in rows if row["baseline"] == name} for name in ("shuffled", "prompt")}
    assert strengths == {"shuffled": {-2.0, 0.0, 2.0}, "prompt": {-1.0, 1.0}}
    mine = tmp_path / "mine.json"
    mine.write_text(json.dumps({"harmfulness": {"en": {"positive": "Be kind.", "negative": "Be bad."}}}))
    ended = control(*chosen, "--instructions", mine)
    assert "has no positive instruction for harmfulness in fr" in ended.err


def test_prompts_need_not_say_whether_they_are_harmful(control: Run, home: Path, tmp_path: Path) -> None:
    path = tmp_path / "plain.jsonl"
    path.write_text("\n".join(json.dumps({k: v for k, v in row.items() if k != "harmful"}) for row in PROMPTS[:3]))
    ended = control("--prompts", path, "--baseline", "none,concept")
    assert ended.status == 0, ended.err
    assert {row["harmful"] for row in rows_of(folder_of(tmp_path))} == {None}
    table = pd.read_csv(folder_of(tmp_path) / "control.csv")
    assert table["harmful"].isna().all()
    assert (table["prompts"] == 3).all()
    assert [path.name for path in folder_of(tmp_path).glob("*.png")] == ["figure_control.png"]


def test_replies_are_scored_by_the_model_and_by_a_judge(control: Run, script: Run, home: Path, tmp_path: Path) -> None:
    build(tmp_path / "judge", "bert", seed=5)
    judge = ("--judge", tmp_path / "judge", "--baseline", "none,concept", "--target-lang", "en")
    assert "has no vectors of harmfulness in en" in control(*judge).err
    shared = ("--model-path", tmp_path / "judge", "--res-dir", tmp_path / "res", "--data-dir", home / "data")
    assert script("collect_vector", *shared).status == 0
    assert control(*judge).status == 0
    rows = rows_of(folder_of(tmp_path))
    read = [row for row in rows if row["reply"]]
    assert read
    assert all(row["scores"].keys() == {"self", "judge"} for row in rows)
    # Another reading of the same replies by hand.
    for name, folder in (("self", home / "tiny"), ("judge", tmp_path / "judge")):
        vectors = repe.ConceptVectors.load(tmp_path / "res" / folder.name / "harmfulness", "en")
        states = repe.load_model(folder, device="cpu").states([row["reply"] for row in read])
        expected = concept_scores(states, vectors)
        np.testing.assert_allclose([row["scores"][name]["harmfulness"] for row in read], expected, atol=1e-3)
    table = pd.read_csv(folder_of(tmp_path) / "control.csv")
    assert {"concept_score", "concept_score_low", "concept_score_judge", "concept_score_judge_high"} <= {*table}
    effects = pd.read_csv(folder_of(tmp_path) / "control_side_effects.csv")
    assert (effects[effects["strength"] == 0]["change"].abs() < 1e-9).all()
    before = (folder_of(tmp_path) / "generations.jsonl").read_bytes()
    assert "nothing to generate" in control(*judge).out
    assert (folder_of(tmp_path) / "generations.jsonl").read_bytes() == before


def test_tuning_runs_the_rest_of_the_prompts_with_the_choice(
    control: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("repe.control.tuning.RANGES", ("0:0.2", "0.3:0.6", "0:0.6"))
    monkeypatch.setattr("repe.control.tuning.STRENGTHS", (2.0, 8.0))
    monkeypatch.setattr("repe.control.tuning.KL", 50.0)
    monkeypatch.setattr("repe.control.tuning.PERPLEXITY", 1e9)
    monkeypatch.setattr("repe.control.tuning.REPETITION", 1.0)
    # The tiny model's random weights answer the wrong way.
    monkeypatch.setattr("repe.control.tuning.concept_scores", lambda *given: -concept_scores(*given))
    path = tmp_path / "many.jsonl"
    rows = [{"id": f"p{number}", "lang": "en", "prompt": f"en help {number}"} for number in range(12)]
    path.write_text("\n".join(map(json.dumps, rows)))
    chosen = ("--tune", "--prompts", path, "--baseline", "none,concept")
    ended = control(*chosen)
    assert ended.status == 0, ended.err
    folder = folder_of(tmp_path)
    table = pd.read_csv(folder / "tune.csv")
    (row,) = table[table["chosen"]].to_dict("records")
    assert row["effect"] == table["effect"].max() > 0
    assert row["effect"] == pytest.approx(row["rise_positive"] + row["rise_negative"])
    assert (folder / "figure_tune.png").exists()
    (found,) = folder.rglob("generations.jsonl")
    replies = rows_of(found.parent)
    tuned_on = {one["id"] for one in rows if item_position(one["id"]) < 1 / 3}
    assert {reply["id"] for reply in replies} == {one["id"] for one in rows} - tuned_on
    assert {abs(reply["strength"]) for reply in replies} == {0, row["strength"] / 2, row["strength"]}
    trials = (folder / "tune.jsonl").read_bytes()
    assert control(*chosen).status == 0
    assert (folder / "tune.jsonl").read_bytes() == trials
    # Steering replies only leaves the first token as it is, so the divergence is that of the second.
    assert control(*chosen, "--scope", "generated").status == 0
    assert pd.read_csv(folder / "tune.csv")["kl"].min() > 0


def test_an_overwrite_that_fails_leaves_the_existing_file_intact(control: Run, tmp_path: Path) -> None:
    assert control("--baseline", "none").status == 0
    path = folder_of(tmp_path) / "generations.jsonl"
    before = path.read_bytes()
    assert control("--overwrite", "--temperature", "-1").status == 2
    assert control("--overwrite", "--layers", "9").status == 2
    assert path.read_bytes() == before


def test_vectors_of_another_model_are_refused(script: Run, home: Path, tmp_path: Path) -> None:
    build(tmp_path / "deep", "llama", layers=5)
    vectors = VectorFile(tmp_path / "res", "deep", "harmfulness", Kind())
    drawn = np.random.default_rng(0).standard_normal((LAYERS, 1, 32)).astype(np.float32)
    one = {"directions": torch.from_numpy(drawn), "signs": torch.ones(LAYERS, 1, dtype=torch.int8)}
    entry = one | {"train_pairs": 3, "mean_norm": torch.ones(LAYERS)}
    found = script(
        "collect_vector", "--model-path", tmp_path / "deep", "--res-dir", tmp_path / "true", "--data-dir", home / "data"
    )
    assert found.status == 0
    meta = VectorFile(tmp_path / "true", "deep", "harmfulness", Kind()).meta
    vectors.add(meta, LAYERS, {"languages": {"en": entry}})
    ended = script(
        *(
            "control_generation",
            "--model-path",
            tmp_path / "deep",
            "--res-dir",
            tmp_path / "res",
            "--source-lang",
            "en",
        ),
        *("--prompts", home / "prompts.jsonl", "--layers", "1", "--baseline", "concept", "--max-new-tokens", "4"),
    )
    assert ended.status == 2
    assert "belong to another model (3 layers of 32, not 5 of 32)" in ended.err


def test_generations_are_valid_json_for_any_reply(
    control: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marks = "first\u2028second\x85third\r\x0c"
    monkeypatch.setattr(
        "repe.control.experiment.generate", lambda _model, tokens, *_: [[], *([5, 9] for _ in tokens[1:])]
    )
    monkeypatch.setattr(
        "transformers.PreTrainedTokenizerFast.decode", lambda _self, reply, **_: f"<{marks if reply else ''}>"
    )
    assert control().status == 0

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not valid JSON")

    lines = (folder_of(tmp_path) / "generations.jsonl").read_text(encoding="utf-8").removesuffix("\n").split("\n")
    rows = [json.loads(line, parse_constant=refuse) for line in lines]
    assert {(row["reply"], row["loss"] is None) for row in rows} == {("<>", True), (f"<{marks}>", False)}
    assert "nothing to generate" in control().out
