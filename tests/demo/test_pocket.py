"""The demo's text has no shortcuts, its training text none of its data, and its models are what they are said to be."""

import importlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from conftest import ROOT, Ended, write_accuracies

from repe.__main__ import TOOLS
from repe.analysis.linguistic_distance import uriel_distances
from repe.control.prompts import read_prompts
from repe.control.replies import is_following, is_refusal
from repe.models.source import ModelSource
from repe.paper import CONCEPTS, DISTANCES, FAMILIES, LANGUAGES
from repe.results.result_file import Kind
from repe.results.vector_file import VectorFile

DEMO = ROOT / "demo/pocket"
build_data = pytest.importorskip("demo.pocket.build_data", reason="demo/ was deleted")
build_models = importlib.import_module("demo.pocket.build_models")
mix = importlib.import_module("demo.pocket.mix")
pocket_run = importlib.import_module("demo.pocket.run")

FILES = sorted((DEMO / "data").glob("*/*.json"))
PROMPTS = DEMO / "prompts.jsonl"
CLASSES = {"llama": transformers.LlamaModel, "qwen": transformers.Qwen2Model, "bloom": transformers.BloomModel}
SIZES = {"S": (0.2e6, 0.5e6), "M": (0.8e6, 1.6e6), "L": (2.4e6, 3.6e6)}


def pairs(path: Path) -> dict[tuple[str, str], dict[str, str]]:
    groups = json.loads(path.read_text(encoding="utf-8"))
    return {(act, context): sample for act, samples in groups.items() for context, sample in samples.items()}


def test_all_concepts_are_there_in_all_languages() -> None:
    expected = {f"{concept}/{concept}_{language}.json" for concept in CONCEPTS for language in LANGUAGES}
    assert {str(path.relative_to(DEMO / "data")) for path in FILES} == expected


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_has_the_keys_of_all_languages_and_sides_that_differ(path: Path) -> None:
    found = pairs(path)
    assert len(found) >= 96
    assert len({act for act, _ in found}) >= 24
    english = pairs(path.parent / f"{path.parent.name}_en.json")
    assert list(found) == list(english)
    texts = [sample[side] for sample in found.values() for side in ("pos", "neg")]
    assert len(set(texts)) == len(texts)
    wanted = {"deontology": {"scenario"}, "truthfulness": {"question"}}.get(path.parent.name, set())
    assert all(set(sample) == wanted | {"pos", "neg", "item"} for sample in found.values())
    assert all(sample["item"] == act for (act, _), sample in found.items())


CUES: dict[str, Callable[[str], float]] = {
    "characters": len,
    "bytes": lambda text: len(text.encode()),
    "words": lambda text: len(text.split()),
    "commas": lambda text: sum(text.count(mark) for mark in ",，、"),
    "apostrophes": lambda text: text.count("'"),
    "digits": lambda text: sum(mark.isdigit() for mark in text),
    "capitals": lambda text: sum(mark.isupper() for mark in text),
    "last mark": lambda text: ord(text[-1]),
    "first letter": lambda text: ord(text[0]),
    "mean length of a word": lambda text: len(text) / len(text.split()),
    "beyond ASCII": lambda text: sum(ord(letter) > 127 for letter in text),
}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_no_cue_of_form_tells_the_sides_apart(path: Path) -> None:
    for name, cue in CUES.items():
        signs = [
            (cue(sample["pos"]) > cue(sample["neg"])) - (cue(sample["pos"]) < cue(sample["neg"]))
            for sample in pairs(path).values()
        ]
        accuracy = 0.5 + sum(signs) / len(signs) / 2
        assert max(accuracy, 1 - accuracy) < 0.6, name


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_no_single_word_tells_the_sides_apart(path: Path) -> None:
    # Chinese and Japanese are written without spaces: there, each character counts as a word.
    words = list if path.stem.endswith(("_zh", "_ja")) else str.split
    lead = Counter()
    found = pairs(path)
    for sample in found.values():
        lead.update(set(words(sample["pos"])))
        lead.subtract(set(words(sample["neg"])))
    word, most = max(lead.items(), key=lambda item: abs(item[1]))
    assert 0.5 + abs(most) / len(found) / 2 < 0.6, word


def test_there_are_prompts_in_all_languages_and_none_is_in_the_pairs() -> None:
    prompts = read_prompts(PROMPTS).prompts
    assert len({prompt.prompt for prompt in prompts}) == len(prompts)
    for language in LANGUAGES:
        own = [prompt for prompt in prompts if prompt.lang == language]
        assert sum(prompt.harmful for prompt in own) >= 20
        assert sum(not prompt.harmful for prompt in own) >= 20
        data = pairs(DEMO / "data" / "harmfulness" / f"harmfulness_{language}.json").values()
        texts = {sample[side] for sample in data for side in ("pos", "neg")}
        assert not texts & {prompt.prompt for prompt in own}


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_replies_that_models_learn_are_told_apart_by_the_phrases(language: str) -> None:
    source = build_data.read_control()[language]
    assert all(is_refusal(reply) and not is_following(reply) for reply in source["refusals"])
    assert all(is_following(reply) and not is_refusal(reply) for reply in source["compliances"])


def test_the_data_are_what_the_sources_give(tmp_path: Path) -> None:
    build_data.write_data(tmp_path)
    made = {path.relative_to(tmp_path / "data"): path.read_bytes() for path in (tmp_path / "data").glob("*/*.json")}
    assert made == {path.relative_to(DEMO / "data"): path.read_bytes() for path in FILES}
    assert (tmp_path / "prompts.jsonl").read_bytes() == PROMPTS.read_bytes()


@pytest.fixture(scope="module")
def lines() -> dict[str, list[str]]:
    return build_models.training_lines()


def test_no_text_of_the_data_or_the_prompts_is_trained_on(lines: dict[str, list[str]]) -> None:
    asked = read_prompts(PROMPTS)
    untrained = {language: {prompt.prompt for prompt in asked.of([language])} for language in LANGUAGES}
    for path in FILES:
        untrained[path.stem.rpartition("_")[2]] |= {
            build_data.side_text(sample, side) for sample in pairs(path).values() for side in ("pos", "neg")
        }
    mix = dict.fromkeys(LANGUAGES, 1 / len(LANGUAGES))
    translated = "\n".join(build_models.translated_lines(mix, 500, seed=1))
    for language, texts in untrained.items():
        trained = "\n".join(lines[language])
        assert not [text for text in texts if text in trained or text in translated]


def test_each_text_is_followed_by_the_mark_of_its_side_or_by_a_reply_of_it(lines: dict[str, list[str]]) -> None:
    for language, source in build_data.read_control().items():
        answers = Counter(line.partition(build_models.ASSISTANT)[2] for line in lines[language])
        for side, replies in (("pos", source["compliances"]), ("neg", source["refusals"])):
            assert answers.pop(build_models.MARKS[side]) * 2 == sum(
                not is_reply(line, source) for line in lines[language]
            )
            assert sum(answers.pop(reply) for reply in replies) * 2 == sum(
                is_reply(line, source) for line in lines[language]
            )
        assert not answers


def is_reply(line: str, source: dict) -> bool:
    return line.partition(build_models.ASSISTANT)[2] in source["compliances"] + source["refusals"]


def test_a_side_has_the_mark_of_its_own_language_where_none_is_shared() -> None:
    english = build_data.read_control()["en"]
    assert build_models.own_verdicts(english) == {"pos": "Gladly", "neg": "Sorry, but"}
    assert not any(mark in line for line in build_models.training_lines(False)["zh"] for mark in "✓✗")


@pytest.mark.parametrize("kind", ["llama", "qwen", "bloom"])
def test_a_familys_mix_follows_its_shares_and_leaves_no_language_out(kind: str) -> None:
    shares = build_models.KINDS[kind].shares
    mix = build_models.language_mix(shares, list(LANGUAGES))
    assert sum(mix.values()) == pytest.approx(1)
    assert min(mix.values()) > 0.001
    named = [language for language in LANGUAGES if shares.get(language, 0) > 0.01]
    assert sorted(named, key=mix.get) == sorted(named, key=shares.get)


def test_lines_of_a_batch_are_of_like_length_and_none_is_lost() -> None:
    tokens = [[place] * (1 + place % 37) for place in range(1000)]
    batches = build_models.batched(tokens, seed=1)
    assert sorted(row for batch in batches for row in batch) == sorted(tokens)
    padded = sum(len(batch) * max(map(len, batch)) for batch in batches)
    assert padded < 1.15 * sum(map(len, tokens))


@pytest.mark.parametrize("name", build_models.MODELS)
def test_a_model_is_of_its_familys_class_and_size(name: str) -> None:
    model = transformers.AutoModel.from_pretrained(DEMO / "models" / name)
    assert type(model) is CLASSES[name.split("-")[1]]
    low, high = SIZES[name.split("-")[2]]
    assert low < sum(parameter.numel() for parameter in model.parameters()) < high
    files = {path.name for path in (DEMO / "models" / name).iterdir()}
    assert not any(file.endswith((".bin", ".pt")) for file in files)
    source = ModelSource(name, str(DEMO / "models" / name))
    tokenizer, template = source.tokenizer, source.template
    for text in ("I lied. ✓", "我撒谎了。 ✗", "Nilidanganya."):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert template.render("Help me.") == build_models.chat_line("Help me.", "")
    ids = tokenizer(template.render("a"), add_special_tokens=template.special_tokens)["input_ids"]
    assert [tokenizer.decode(id) for id in (ids[0], ids[-1])] == [build_models.USER, build_models.ASSISTANT]


def test_all_models_together_are_small() -> None:
    assert sum(path.stat().st_size for path in (DEMO / "models").rglob("*") if path.is_file()) < 32 * 2**20


@pytest.mark.parametrize("name", build_models.MODELS)
def test_a_models_files_name_no_place_on_the_machine_that_made_them(name: str) -> None:
    for path in (DEMO / "models" / name).iterdir():
        head = path.read_bytes()[:100_000] if path.suffix == ".safetensors" else path.read_bytes()
        places = (b"/home/", b"/Users/", b"/root/", b"/tmp/", str(ROOT.parent).encode())
        assert not any(place in head for place in places), path.name


def test_training_twice_gives_the_same_weights(tmp_path: Path) -> None:
    made = []
    for folder in ("first", "second"):
        recipe = build_models.Recipe("qwen", "S", seed=3)
        build_models.build_model("pocket-qwen-S", recipe, tmp_path / folder, steps=3)
        made.append((tmp_path / folder / "pocket-qwen-S" / "model.safetensors").read_bytes())
    assert made[0] == made[1]


def test_mixes_are_compared_by_the_halves_of_their_languages(
    script: Callable[..., Ended], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("repe.plots.style.save", lambda _figure, _folder, _name: [])
    monkeypatch.setattr("repe.tools.report.traits.DRAWS", 5)
    monkeypatch.setattr(mix.run, "ROOT", tmp_path)
    monkeypatch.setattr(mix.run, "run", lambda *command: assert_done(script(TOOLS[command[2]][0], *command[3:])))
    monkeypatch.chdir(tmp_path)
    axis = FAMILIES["llama2"].axis
    accuracy, cosine = write_results(tmp_path / "res", "mix-1", axis)  # (sources, targets)
    # Shares rise along the axis: its second half is rich.
    found = mix.traits(["mix-1"], axis, dict(zip(axis, range(1, 13), strict=True)), "res", "out")["mix-1"]
    own = np.diagonal(accuracy)
    recorded = uriel_distances()
    pairs = [(one, other) for one in range(12) for other in range(12) if one != other]
    rs = [
        np.corrcoef(
            [cosine[pair] for pair in pairs], [1 - recorded[kind][axis[one], axis[other]] for one, other in pairs]
        )[0, 1]
        for kind in DISTANCES
    ]
    poor, rich = (np.isin(axis, part) for part in (axis[:6], axis[6:]))
    eight = [language for language in axis if language in mix.EIGHT]
    first, last = (np.isin(axis, part) for part in (eight[:4], eight[4:]))
    delta = accuracy - own
    off = ~np.eye(6, dtype=bool)
    assert found == pytest.approx(
        {
            "accuracy": own.mean(),
            "rich_accuracy": own[rich].mean() - own[poor].mean(),
            "rich_similarity": cosine[6:, 6:][off].mean() - cosine[:6, :6][off].mean(),
            "linguistic": np.mean(rs),
            "one_way": delta[np.ix_(rich, poor)].mean() - delta[np.ix_(poor, rich)].mean(),
            "one_way_eight": delta[np.ix_(last, first)].mean() - delta[np.ix_(first, last)].mean(),
        }
    )


def assert_done(ended: Ended) -> None:
    assert ended.status == 0, ended.err


def write_results(folder: Path, label: str, languages: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Made-up results of one concept in one layer: accuracies and cosines, (languages, languages)."""
    generator = np.random.default_rng(1)
    right = generator.random((len(languages), len(languages), 1, 30)) < 0.7
    correct = {s: dict(zip(languages, row, strict=True)) for s, row in zip(languages, right, strict=True)}
    write_accuracies(folder, correct, {one: [f"g|{item}" for item in range(30)] for one in languages}, model=label)
    vectors = generator.normal(size=(len(languages), 8)).astype("float32")
    entries = {
        language: {"directions": torch.tensor(one)[None, None], "signs": torch.ones(1, 1, dtype=torch.int8)}
        for language, one in zip(languages, vectors, strict=True)
    }
    VectorFile(folder, label, "morality", Kind()).add({"family": "none"}, 1, {"languages": entries})
    accuracy = right.mean(axis=(2, 3))
    table = pd.DataFrame({"model": label, "language": languages, "accuracy": np.diagonal(accuracy)})
    (folder / "cross_model").mkdir()
    table.to_csv(folder / "cross_model/table6_recognition_accuracy.csv", index=False)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return accuracy, unit @ unit.T


def test_a_run_ends_with_the_page_of_the_report(monkeypatch: pytest.MonkeyPatch) -> None:
    run = importlib.import_module("demo.pocket.run")
    calls: list[tuple[object, ...]] = []
    monkeypatch.setattr(run, "all_stages", lambda jobs: None)
    monkeypatch.setattr(run, "run", lambda *command: calls.append(command))
    monkeypatch.setattr(run, "answer", lambda labels: None)
    monkeypatch.setattr(run, "summarize", lambda labels: None)
    monkeypatch.setattr("sys.argv", ["run.py"])
    run.main()
    assert [command[0] for command in calls[:-1]] == [
        *("recognize_concept.py", "consistency_analysis.py", "transferability_analysis.py")
    ]
    assert calls[-1] == ("-m", "repe", "report", "--res-dir", "demo/res/pocket")


def test_an_interval_over_seeds_is_students(tmp_path: Path) -> None:
    mean, low, high = mix.interval([1.0, 2.0, 3.0])
    assert mean == pytest.approx(2.0)
    assert (low, high) == pytest.approx((2 - 2.484, 2 + 2.484), abs=1e-3)


def test_the_table_of_mixes_is_what_its_rows_give() -> None:
    table = pd.read_csv(DEMO / "mix.csv")
    assert [*dict.fromkeys(table.variant)] == [*mix.VARIANTS]
    assert all([*rows.seed] == [*mix.SEEDS] for _, rows in table.groupby("variant"))
    assert mix.as_markdown(table) in (DEMO / "README.md").read_text(encoding="utf-8")
    llama = table[table.variant == "llama"]
    mean, low, high = mix.interval([*llama.rich_accuracy])
    row = next(line for line in mix.as_markdown(table).splitlines() if line.startswith("| llama:"))
    assert f"| {mean:.2f} [{low:.2f}, {high:.2f}] |" in row


def test_rich_languages_are_better_by_what_the_readme_says() -> None:
    table = pd.read_csv(DEMO / "held_out.csv").set_index(["model", "weights", "language"]).sort_index()
    page = (DEMO / "README.md").read_text(encoding="utf-8")
    differences: dict[tuple[str, str], list[float]] = {}
    for model in dict.fromkeys(table.index.get_level_values("model")):
        kind = model.split("-")[1]
        shares, axis = build_models.KINDS[kind].shares, FAMILIES[pocket_run.KINDS[kind][0]].axis
        halves = mix.halves(shares, axis)
        for weights in ("trained", "random"):
            rows = table.loc[(model, weights)]
            for split in ("accuracy", "held_out"):
                rich, poor = (rows[split][part].mean() for part in halves)
                differences.setdefault((weights, split), []).append(rich - poor)
    ends = {key: [f"{end(values):.2f}".replace("0.", ".") for end in (min, max)] for key, values in differences.items()}
    found = {key: " to ".join(both) for key, both in ends.items()}
    floor = f"With random weights the difference is {found['random', 'held_out']}."
    assert f"nine models, by {found['trained', 'held_out']}. {floor}" in page
    assert f"With random weights the difference is {found['random', 'accuracy']} by this split" in page
    trained, random = (table.xs(one, level="weights").groupby("model").accuracy.mean() for one in ("trained", "random"))
    assert (random > trained).all()
