"""The demo's text has no shortcuts, its training text none of its data, and its models are what they are said to be."""

import importlib
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import transformers
from conftest import ROOT

DEMO = ROOT / "demo"
build_data = pytest.importorskip("demo.build_data", reason="demo/ was deleted")
build_models = importlib.import_module("demo.build_models")

FILES = sorted((DEMO / "data").glob("*/*.json"))
CLASSES = {"llama": transformers.LlamaModel, "qwen": transformers.Qwen2Model, "bloom": transformers.BloomModel}


def pairs(path: Path) -> dict[tuple[str, str], dict[str, str]]:
    groups = json.loads(path.read_text(encoding="utf-8"))
    return {(act, context): sample for act, samples in groups.items() for context, sample in samples.items()}


def test_there_are_at_least_two_concepts_in_four_languages() -> None:
    names = {path.parent.name: {other.stem for other in path.parent.iterdir()} for path in FILES}
    assert len(names) >= 2
    for concept, files in names.items():
        assert {f"{concept}_{language}" for language in ("en", "zh", "fr", "sw")} <= files


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_has_the_keys_of_all_languages_and_sides_that_differ(path: Path) -> None:
    found = pairs(path)
    assert len(found) >= 96
    assert len({act for act, _ in found}) >= 24
    english = pairs(path.parent / f"{path.parent.name}_en.json")
    assert list(found) == list(english)
    texts = [sample[side] for sample in found.values() for side in ("pos", "neg")]
    assert len(set(texts)) == len(texts)


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
    # Chinese is written without spaces: there, each character counts as a word.
    words = list if path.stem.endswith("_zh") else str.split
    lead = Counter()
    found = pairs(path)
    for sample in found.values():
        lead.update(set(words(sample["pos"])))
        lead.subtract(set(words(sample["neg"])))
    word, most = max(lead.items(), key=lambda item: abs(item[1]))
    assert 0.5 + abs(most) / len(found) / 2 < 0.6, word


def test_the_data_are_what_the_sources_give(tmp_path: Path) -> None:
    build_data.write_data(tmp_path)
    made = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.glob("*/*.json")}
    assert made == {path.relative_to(DEMO / "data"): path.read_bytes() for path in FILES}


def test_no_text_of_the_data_is_trained_on() -> None:
    lines = build_models.training_lines()
    for path in FILES:
        trained = "\n".join(lines[path.stem.rsplit("_", 1)[1]])
        for sample in pairs(path).values():
            assert sample["pos"] not in trained
            assert sample["neg"] not in trained


def test_each_side_is_followed_by_the_mark_that_all_languages_share() -> None:
    for lines in build_models.training_lines().values():
        ends = [line[-1] for line in lines]
        assert set(ends) == {mark.strip() for mark in build_models.MARKS.values()}
        assert ends.count(ends[0]) * 2 == len(ends)


@pytest.mark.parametrize("kind", ["llama", "qwen", "bloom"])
def test_a_familys_mix_follows_its_shares_and_leaves_no_language_out(kind: str) -> None:
    shares = build_models.KINDS[kind].shares
    mix = build_models.language_mix(shares, ["en", "fr", "sw", "zh"])
    assert sum(mix.values()) == pytest.approx(1)
    assert min(mix.values()) > 0.001
    ranked = sorted(mix, key=lambda language: -mix[language])
    assert ranked == sorted(mix, key=lambda language: (-shares.get(language, 0), language))


@pytest.mark.parametrize("name", build_models.MODELS)
def test_a_model_is_of_its_familys_class_and_size(name: str) -> None:
    model = transformers.AutoModel.from_pretrained(DEMO / "models" / name)
    assert type(model) is CLASSES[name.split("-")[1]]
    assert 0.8e6 < sum(parameter.numel() for parameter in model.parameters()) < 1.6e6
    files = {path.name for path in (DEMO / "models" / name).iterdir()}
    assert not any(file.endswith((".bin", ".pt")) for file in files)
    tokenizer = transformers.AutoTokenizer.from_pretrained(DEMO / "models" / name)
    for text in ("I lied. ✓", "我撒谎了。 ✗", "Nilidanganya."):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


@pytest.mark.parametrize("name", build_models.MODELS)
def test_a_models_files_name_no_place_on_the_machine_that_made_them(name: str) -> None:
    for path in (DEMO / "models" / name).iterdir():
        head = path.read_bytes()[:100_000] if path.suffix == ".safetensors" else path.read_bytes()
        assert not any(place in head for place in (b"/home/", b"/Users/", b"/root/", b"/tmp/", b"/work/")), path.name


def test_training_twice_gives_the_same_weights(tmp_path: Path) -> None:
    made = []
    for folder in ("first", "second"):
        build_models.build_model("pocket-qwen-M", tmp_path / folder, seed=3, device="cpu", steps=3)
        made.append((tmp_path / folder / "pocket-qwen-M" / "model.safetensors").read_bytes())
    assert made[0] == made[1]
