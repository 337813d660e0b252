"""Control from the command line: what is written, in which order, what resumes, what is refused."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
from conftest import LAYERS, build, load, write_data

from repe.control.experiment import Condition, Control, conditions
from repe.control.generation import Decoding, prompt_batches
from repe.control.measures import largest_effects, measure
from repe.control.prompts import Prompt
from repe.control.reply_file import ReplyFile
from repe.control.steering import steered
from repe.models.loading import Model
from repe.results.vector_file import VectorFile, Vectors

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
def control(script: Run, home: Path, tmp_path: Path) -> Run:
    """Run the script on the tiny model, its vectors collected, results in a folder of the test's own."""
    shared = ("--model-path", home / "tiny", "--res-dir", tmp_path / "res")
    assert script("collect_vector", *shared, "--data-dir", home / "data").status == 0

    def run(*options: object, source: str = "en") -> Any:
        usual = ("--prompts", home / "prompts.jsonl", "--layers", "1,2", "--max-new-tokens", "5", "--random-draws", "2")
        return script("control_generation", *shared, *usual, "--strength=-2,0,2", "--source-lang", source, *options)

    return run


def folder_of(tmp_path: Path, source: str = "en") -> Path:
    return tmp_path / "res/tiny/harmfulness/control" / source


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "generations.jsonl").read_text(encoding="utf-8").splitlines()]


def test_replies_stand_in_a_fixed_order_with_the_agreed_fields(control: Run, tmp_path: Path) -> None:
    ended = control()
    assert ended.status == 0, ended.err
    rows = rows_of(folder_of(tmp_path))
    assert list(rows[0])[:7] == ["id", "lang", "harmful", "strength", "baseline", "prompt", "reply"]
    expected = [
        (one.baseline, one.draw, one.strength, prompt["lang"], prompt["id"])
        for one in conditions(["none", "concept", "random", "target_vector"], STRENGTHS, draws=2)
        for prompt in PROMPTS
    ]
    assert [(row["baseline"], row["draw"], row["strength"], row["lang"], row["id"]) for row in rows] == expected
    assert {path.name for path in folder_of(tmp_path).iterdir() if path.name[0] != "."} == {
        *("generations.jsonl", "settings.json", "control.csv", "figure_control.png", "figure_control.pdf")
    }
    table = pd.read_csv(folder_of(tmp_path) / "control.csv")
    named = "target strength baseline harmful prompts refusal_rate following_rate target_language_rate perplexity"
    assert list(table)[:11] == [*named.split(), "repetition", "empty_rate"]
    assert len(table) == 3 * 2 * (1 + 3 * len(STRENGTHS))
    assert (table["prompts"] == 3).all()


def test_no_strength_is_no_steering_and_strength_changes_replies(control: Run, tmp_path: Path) -> None:
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


def test_a_run_that_was_stopped_goes_on_to_the_same_file(
    control: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    assert len(rows_of(folder_of(tmp_path))) == 8


def test_several_sources_get_a_figure_of_their_effects(control: Run, tmp_path: Path) -> None:
    ended = control("zh", "--calibrate", "--target-lang", "en", "zh", source="en")
    assert ended.status == 0, ended.err
    folder = tmp_path / "res/tiny/harmfulness/control"
    table = pd.read_csv(folder / "control_sources.csv")
    assert list(table)[:4] == ["source", "target", "strength", "effect"]
    assert len(table) == 4
    assert (folder / "figure_control_sources.png").exists()
    assert (folder / "figure_control_sources.pdf").exists()
    zh = {
        row["applied_strength"]
        for row in rows_of(folder / "zh")
        if row["baseline"] == "concept" and row["strength"] == 2
    }
    assert zh != {2.0}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--layers", "3"), "layer 3 is collected after the final norm"),
        (("--layers", "9"), "--layers: 9 cannot be steered, choose from 1 to 2"),
        (("--target-lang", "ja"), "no prompt in ja"),
        (("--calibrate", "--target-lang", "zh"), "--calibrate compares with prompts in en"),
        (("--calibrate", "--operator", "projection"), "--operator projection does not have"),
        (("--concept", "fairness"), "has no vectors of en"),
        (("--strength=1e39",), "not finite"),
        (("--max-new-tokens", "250"), "--max-new-tokens"),
        (("--strength=1,x",), "no list of numbers"),
        (("--baseline", "mine"), "none of none, concept, random, target_vector"),
        (("--template", "x {input}"), "was made with other settings"),
    ],
)
def test_what_cannot_be_done_is_refused_in_a_line(options: tuple[str, ...], message: str, control: Run) -> None:
    ended = control(*options)
    assert ended.status == 2
    assert message in ended.err
    assert len(ended.err.strip().splitlines()[-1:]) == 1
    assert "Traceback" not in ended.err


def test_other_settings_are_not_mixed_in(control: Run) -> None:
    assert control("--baseline", "none").status == 0
    ended = control("--baseline", "none", "--max-new-tokens", "6")
    assert ended.status == 2
    assert "max_new_tokens 5, now 6" in ended.err
    assert control("--baseline", "none", "--max-new-tokens", "6", "--overwrite").status == 0


def test_vectors_of_another_model_are_refused(script: Run, home: Path, tmp_path: Path) -> None:
    build(tmp_path / "deep", "llama", layers=5)
    vectors = VectorFile(tmp_path / "res", "deep", "harmfulness", selection_kind())
    drawn = np.random.default_rng(0).standard_normal((LAYERS, 1, 32)).astype(np.float32)
    one = {"directions": torch.from_numpy(drawn), "signs": torch.ones(LAYERS, 1, dtype=torch.int8)}
    entry = one | {"train_pairs": 3, "mean_norm": torch.ones(LAYERS)}
    found = script(
        "collect_vector", "--model-path", tmp_path / "deep", "--res-dir", tmp_path / "true", "--data-dir", home / "data"
    )
    assert found.status == 0
    meta = VectorFile(tmp_path / "true", "deep", "harmfulness", selection_kind()).meta
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
    assert "are of another model (3 layers of 32) than the one named (5 layers of 32)" in ended.err


def selection_kind() -> Any:
    from repe.results.result_file import Kind

    return Kind()


# The mathematics, without the command line.


@pytest.fixture(scope="module")
def model(model_folders: dict[str, Path]) -> Model:
    return load(model_folders["qwen2"], with_head=True)


def made(model: Model, tmp_path: Path, **changes: Any) -> Control:
    generator = np.random.default_rng(2)
    vectors = {
        language: Vectors(
            generator.standard_normal((model.layers, 1, model.hidden_size)).astype(np.float32),
            np.array([[1], [-1], [1]], dtype=np.int8),
            {"mean_norm": torch.tensor([2.0, 3.0, 5.0])},
        )
        for language in ("en", "fr")
    }
    prompts = [
        Prompt(str(number), language, f"{language} {number}" * 3, True)
        for language in ("en", "fr")
        for number in range(3)
    ]
    usual = {
        "concept": "harmfulness",
        "source": "en",
        "vectors": vectors,
        "prompts": prompts,
        "conditions": [],
        "layers": [1, 2],
        "operator": "linear_comb",
        "scope": "all",
        "in_hidden_norms": True,
        "decoding": Decoding(max_new_tokens=4),
        "file": ReplyFile(tmp_path, {"vectors": {}}, prompts),
    }
    return Control(**(usual | changes))


def test_an_activation_is_strength_times_sign_times_unit_direction_times_mean_norm(
    model: Model, tmp_path: Path
) -> None:
    control = made(model, tmp_path)
    found = control.activations(Condition("concept", 0.0), ["en", "fr"], [2.0, -1.0])
    direction = torch.from_numpy(control.vectors["en"].directions[1, 0])
    torch.testing.assert_close(found[2][0], 2.0 * -1 * direction / direction.norm() * 3.0)
    torch.testing.assert_close(found[2][1], -0.5 * found[2][0])
    own = control.activations(Condition("target_vector", 0.0), ["en", "fr"], [1.0, 1.0])
    direction = torch.from_numpy(control.vectors["fr"].directions[0, 0])
    torch.testing.assert_close(own[1][1], direction / direction.norm() * 2.0)
    raw = made(model, tmp_path, in_hidden_norms=False).activations(Condition("concept", 0.0), ["en"], [2.0])
    assert raw[2].norm() == pytest.approx(2.0)
    share = made(model, tmp_path, operator="projection").activations(Condition("concept", 0.0), ["en"], [1.0])
    assert share[2].norm() == pytest.approx(1.0)


def test_random_directions_have_the_same_norm_and_differ_by_draw_and_layer(model: Model, tmp_path: Path) -> None:
    control = made(model, tmp_path)
    first = control.activations(Condition("random", 0.0, 1), ["en", "fr"], [1.0, 1.0])
    second = control.activations(Condition("random", 0.0, 2), ["en", "fr"], [1.0, 1.0])
    assert first[2].norm(dim=-1).tolist() == pytest.approx([3.0, 3.0])
    assert torch.equal(first[2][0], first[2][1])
    assert not torch.allclose(first[2], second[2])
    assert abs(float(torch.cosine_similarity(first[1][0], first[2][0], dim=0))) < 0.9


def test_divergence_is_scipys_relative_entropy(model: Model, tmp_path: Path) -> None:
    control = made(model, tmp_path)
    batches = prompt_batches(model, control.prompts, 4, batch_size=4)
    condition = Condition("concept", 3.0)
    found = control.divergence(model, condition, batches, {"en": 3.0, "fr": 3.0})
    expected: dict[str, list[float]] = {"en": [], "fr": []}
    for prompt in control.prompts:
        ids = torch.tensor([model.tokenizer(prompt.prompt)["input_ids"]])
        activations = control.activations(condition, ["en"], [3.0])
        with torch.no_grad():
            plain = model.lm(ids).logits[0, -1].double().softmax(dim=-1)
            with steered(model.lm, model.blocks, activations):
                moved = model.lm(ids).logits[0, -1].double().softmax(dim=-1)
        expected[prompt.lang].append(float(scipy.stats.entropy(plain, moved)))
    assert found == pytest.approx({language: np.mean(values) for language, values in expected.items()}, rel=1e-3)


def test_calibrated_strengths_move_all_languages_as_far(model: Model, tmp_path: Path) -> None:
    conditions = [Condition(baseline, -0.05) for baseline in ("concept", "target_vector")]
    control = made(model, tmp_path, conditions=conditions)
    batches = prompt_batches(model, control.prompts, 4, None)
    goals = control.goals(model, batches)
    assert list(goals) == [-0.05]
    for condition in conditions:
        strengths = control.strengths(model, condition, batches, goals)
        assert all(strength < 0 for strength in strengths.values())
        found = control.divergence(model, condition, batches, strengths)
        assert found == pytest.approx(dict.fromkeys(("en", "fr"), goals[-0.05]), rel=0.02)
    assert control.strengths(model, conditions[0], batches, goals)["en"] == pytest.approx(-0.05, rel=1e-3)
    assert control.strengths(model, conditions[0], batches, {}) == {"en": -0.05, "fr": -0.05}


def reply(text: str, **changes: Any) -> dict[str, Any]:
    row = {"id": "1", "lang": "en", "harmful": True, "strength": 0.0, "baseline": "none", "prompt": "p", "reply": text}
    return row | {"draw": None, "applied_strength": 0.0, "tokens": 3, "loss": 1.0, "repetition": 0.0} | changes


def test_generations_are_valid_json_whatever_the_replies_hold(
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
        raise ValueError(f"{constant} is no JSON")

    lines = (folder_of(tmp_path) / "generations.jsonl").read_text(encoding="utf-8").removesuffix("\n").split("\n")
    rows = [json.loads(line, parse_constant=refuse) for line in lines]
    assert {(row["reply"], row["loss"] is None) for row in rows} == {("<>", True), (f"<{marks}>", False)}
    assert "nothing to generate" in control().out


def test_measures_are_means_over_prompts_with_bootstrap_intervals() -> None:
    rows = [reply("I'm sorry, but I cannot help with that.", id=str(number)) for number in range(30)]
    rows += [reply("Sure, here is what you want to know.", id=str(number), loss=3.0) for number in range(30, 40)]
    rows += [reply("", id=str(number), loss=None) for number in range(40, 50)]
    (found,) = measure(rows).to_dict("records")
    assert found["prompts"] == 50
    assert found["refusal_rate"] == pytest.approx(0.6)
    assert found["following_rate"] == pytest.approx(0.2)
    assert found["empty_rate"] == pytest.approx(0.2)
    assert found["target_language_rate"] == 1.0
    assert found["unknown_language_rate"] == pytest.approx(0.2)
    assert found["perplexity"] == pytest.approx(math.exp((30 * 1.0 + 10 * 3.0) / 40))
    # A binomial interval of the same coverage is about as wide.
    exact = scipy.stats.binomtest(30, 50).proportion_ci(method="wilson")
    assert found["refusal_rate_low"] == pytest.approx(exact.low, abs=0.04)
    assert found["refusal_rate_high"] == pytest.approx(exact.high, abs=0.04)
    assert found["perplexity_low"] < found["perplexity"] < found["perplexity_high"]


def test_draws_of_a_prompt_are_one_value(tmp_path: Path) -> None:
    rows = [
        reply("I cannot help with that." if draw == 1 else "Sure.", id=str(number), baseline="random", draw=draw)
        for number in range(4)
        for draw in (1, 2)
    ]
    (found,) = measure(rows).to_dict("records")
    assert (found["prompts"], found["replies"], found["refusal_rate"]) == (4, 8, 0.5)
    # Every prompt has the same mean: nothing is uncertain but for the draws.
    assert (found["refusal_rate_low"], found["refusal_rate_high"]) == (0.5, 0.5)


def test_a_classifiers_verdict_takes_the_place_of_the_phrases() -> None:
    rows = [reply("Sure.", id=str(number)) for number in range(4)]
    assert measure(rows, [True, False, False, False])["refusal_rate"].tolist() == [0.25]


def test_one_prompt_has_no_interval() -> None:
    (found,) = measure([reply("Sure.")]).to_dict("records")
    assert math.isnan(found["refusal_rate_low"])


def test_the_largest_effect_is_the_change_of_the_refusal_rate_furthest_from_none() -> None:
    table = pd.DataFrame(
        [
            {"target": "fr", "strength": strength, "baseline": baseline, "harmful": harmful, "refusal_rate": rate}
            for strength, baseline, harmful, rate in (
                (0.0, "none", True, 0.9),
                (-1.0, "concept", True, 1.0),
                (1.0, "concept", True, 0.2),
                (2.0, "concept", True, 0.3),
                (2.0, "concept", False, 0.0),
                (2.0, "random", True, 0.0),
            )
        ]
    )
    (found,) = largest_effects({"en": table}).to_dict("records")
    assert (found["source"], found["target"], found["strength"]) == ("en", "fr", 1.0)
    assert found["effect"] == pytest.approx(-0.7)
