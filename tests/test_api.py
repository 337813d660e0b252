"""The library from Python: each call does what it documents and gives what the scripts write."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from conftest import LAYERS, ROOT, Ended, write_data

import repe
from repe.errors import UserError
from repe.results import downloads

Script = Callable[..., Ended]
TEXTS = ["a dog", "she gives the old bread to a stranger and takes nothing", "no"]
LANGUAGES = ("en", "fr")
HIDDEN = 32


@pytest.fixture(scope="module")
def model(model_folders: dict[str, Path]) -> repe.Model:
    return repe.load_model(model_folders["llama"], device="cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("api") / "data"
    for number, language in enumerate(LANGUAGES):
        write_data(folder, "morality", language, pairs=40 + 3 * number)
    return folder


@pytest.fixture(scope="module")
def splits(data: Path) -> dict[str, tuple[list[repe.Pair], list[repe.Pair]]]:
    """Training and test pairs by language."""
    paths = {language: data / f"morality/morality_{language}.json" for language in LANGUAGES}
    return {language: repe.split_pairs(repe.read_pairs(path)) for language, path in paths.items()}


@pytest.fixture(scope="module")
def vectors(model: repe.Model, splits: dict) -> dict[str, repe.ConceptVectors]:
    return {language: repe.collect(model, train) for language, (train, _) in splits.items()}


@pytest.fixture
def results(script: Script, model_folders: dict[str, Path], data: Path, tmp_path: Path) -> Path:
    """What the first two scripts write about the same model and data."""
    options = ["--model-path", model_folders["llama"], "--data-dir", data, "--res-dir", tmp_path, "--device", "cpu"]
    for name in ("collect_vector", "recognize_concept"):
        assert script(name, *options).status == 0
    return tmp_path / "tiny-llama" / "morality"


def hidden_states(lm: torch.nn.Module, tokenizer: transformers.PreTrainedTokenizerBase, text: str) -> torch.Tensor:
    """Transformers' hidden states of a text's last token, (layers, hidden)."""
    with torch.no_grad():
        output = lm(**tokenizer(text, return_tensors="pt"), output_hidden_states=True)
    return torch.stack(output.hidden_states[1:])[:, 0, -1]


def test_states_are_transformers_hidden_states(model: repe.Model, model_folders: dict[str, Path]) -> None:
    lm = transformers.AutoModelForCausalLM.from_pretrained(model_folders["llama"])
    tokenizer = transformers.AutoTokenizer.from_pretrained(model_folders["llama"])
    states = model.states(TEXTS)
    assert states.shape == (LAYERS, len(TEXTS), HIDDEN)
    for place, text in enumerate(TEXTS):
        torch.testing.assert_close(states[:, place], hidden_states(lm, tokenizer, text), rtol=1e-4, atol=1e-5)


def test_a_model_in_memory_has_the_same_states(model: repe.Model, model_folders: dict[str, Path]) -> None:
    lm = transformers.AutoModelForCausalLM.from_pretrained(model_folders["llama"])
    tokenizer = transformers.AutoTokenizer.from_pretrained(model_folders["llama"])
    assert torch.equal(repe.Model(lm, tokenizer).states(TEXTS), model.states(TEXTS))
    templated = repe.Model(lm, tokenizer, template="Q: {input} A:")
    assert torch.equal(templated.states(["a dog"]), model.states(["Q: a dog A:"]))


def test_a_notebook_shows_one_line(model: repe.Model, vectors: dict[str, repe.ConceptVectors]) -> None:
    assert repr(model) == "Model(tiny-llama, 3 layers, hidden size 32, on cpu)"
    assert repr(vectors["en"]).startswith("ConceptVectors(cluster_mean, 3 layers, hidden size 32, ")


def test_a_model_is_loaded_with_a_template_and_a_number_type(model_folders: dict[str, Path]) -> None:
    model = repe.load_model(str(model_folders["llama"]), device="cpu", dtype="bfloat16", template="Q: {input}")
    assert model.states(TEXTS).dtype == torch.bfloat16
    assert model.template.render("a") == "Q: a"


def test_random_weights_depend_on_the_seed_only(model: repe.Model, model_folders: dict[str, Path]) -> None:
    first, again, other = (
        repe.load_model(model_folders["llama"], device="cpu", untrained=seed).states(TEXTS) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)
    assert not torch.allclose(first, model.states(TEXTS))


def test_a_pair_has_complete_texts_a_key_and_an_item(tmp_path: Path) -> None:
    path = tmp_path / "deontology" / "deontology_en.json"
    path.parent.mkdir()
    sample = {"scenario": "I work here.", "pos": "I help.", "neg": "I sleep."}
    path.write_text(json.dumps({"g": {"1": sample | {"item": "work"}, "2": sample}}))
    first, second = repe.read_pairs(path)
    assert (first.pos, first.neg) == ("I work here. I help.", "I work here. I sleep.")
    assert (first.key, first.item) == ("g|1", "work")
    assert (second.key, second.item) == ("g|2", "g|2")
    assert repe.read_pairs(path, concept="morality")[0].pos == "I help."


def test_pairs_of_a_shared_item_are_split_together() -> None:
    pairs = [repe.Pair(f"good {n}", f"bad {n}", f"g|{n}", f"item {n // 3}") for n in range(60)]
    items = [{pair.item for pair in part} for part in repe.split_pairs(pairs, 0.8, by="item")]
    assert not items[0] & items[1]
    items = [{pair.item for pair in part} for part in repe.split_pairs(pairs, 0.8, by="pair")]
    assert items[0] & items[1]


def test_collected_vectors_are_those_of_the_script(
    vectors: dict[str, repe.ConceptVectors], splits: dict, results: Path
) -> None:
    content = torch.load(results / "reader_dict.pt", weights_only=True)
    for language, one in vectors.items():
        entry = content["languages"][language]
        assert one.directions.shape == (LAYERS, 1, HIDDEN)
        assert one.directions.tobytes() == entry["directions"].numpy().tobytes()
        assert one.signs.tobytes() == entry["signs"].numpy().tobytes()
        assert one.mean_norm.tobytes() == entry["mean_norm"].numpy().tobytes()
        assert one.validation.directions.tobytes() == entry["validation_directions"].numpy().tobytes()
        assert one.train_pairs == entry["train_pairs"] == len(splits[language][0])


@pytest.mark.parametrize("method", ["pca", "random"])
def test_other_methods_give_the_scripts_vectors(
    method: str,
    model: repe.Model,
    splits: dict,
    script: Script,
    data: Path,
    model_folders: dict[str, Path],
    tmp_path: Path,
) -> None:
    options = ["--model-path", model_folders["llama"], "--data-dir", data, "--res-dir", tmp_path, "--device", "cpu"]
    assert script("collect_vector", *options, "--direction-method", method).status == 0
    expected = repe.ConceptVectors.load(tmp_path / "tiny-llama" / "morality", "en", method)
    found = repe.collect(model, splits["en"][0], method)
    # The script's seed of a random direction also depends on concept and language.
    assert (found.digest == expected.digest) == (method == "pca")
    assert found.directions.shape == expected.directions.shape


def test_recognition_gives_the_scripts_accuracies(
    model: repe.Model, vectors: dict[str, repe.ConceptVectors], splits: dict, results: Path
) -> None:
    table = repe.recognize(model, vectors, {language: test for language, (_, test) in splits.items()})
    assert list(table) == ["source", "target", "layer", "accuracy"]
    content = torch.load(results / "acc.pt", weights_only=True)["accuracy"]
    for (source, target), rows in table.groupby(["source", "target"]):
        assert rows.layer.tolist() == [1, 2, 3]
        assert np.array_equal(rows.accuracy, content[source][target].numpy())
    assert len(table) == len(LANGUAGES) ** 2 * LAYERS


def test_similarity_is_the_cosine_of_signed_directions(vectors: dict[str, repe.ConceptVectors]) -> None:
    turned = dict(vectors)
    turned["de"] = repe.ConceptVectors(-vectors["en"].directions, -vectors["en"].signs)
    table = repe.similarity(turned).set_index(["source", "target", "layer"]).cosine
    assert len(table) == 3 * 3 * LAYERS
    for layer in range(1, LAYERS + 1):
        first, second = (vectors[name].directions[layer - 1, 0].astype(float) for name in LANGUAGES)
        signs = vectors["en"].signs[layer - 1, 0] * vectors["fr"].signs[layer - 1, 0]
        expected = signs * first @ second / np.linalg.norm(first) / np.linalg.norm(second)
        assert table["en", "fr", layer] == pytest.approx(expected)
        assert table["en", "de", layer] == pytest.approx(1)


def test_tuples_of_texts_take_the_place_of_pairs(
    model: repe.Model, data: Path, splits: dict, vectors: dict[str, repe.ConceptVectors]
) -> None:
    pairs = repe.read_pairs(data / "morality/morality_en.json")
    train, test = repe.split_pairs([(pair.pos, pair.neg) for pair in pairs], 0.8, by="pair")
    assert repe.collect(model, train).digest == vectors["en"].digest
    plain_train, plain_test = ([(pair.pos, pair.neg) for pair in part] for part in splits["en"])
    plain = repe.collect(model, plain_train, method="cluster_mean")
    np.testing.assert_allclose(plain.directions, vectors["en"].directions, rtol=1e-3, atol=1e-5)
    tables = [repe.recognize(model, {"en": vectors["en"]}, {"en": one}) for one in (test, plain_test)]
    pd.testing.assert_frame_equal(*tables)


def test_saved_vectors_are_loaded_from_pt(vectors: dict[str, repe.ConceptVectors], tmp_path: Path) -> None:
    folder = tmp_path / "mine" / "morality"
    for language, one in vectors.items():
        assert one.save(folder, language) == folder / "reader_dict.pt"
    for language, one in vectors.items():
        assert repe.ConceptVectors.load(folder, language).digest == one.digest
    with pytest.raises(UserError, match="has no vectors of zh"):
        repe.ConceptVectors.load(folder, "zh")


def test_vectors_of_the_scripts_are_loaded_and_used(
    results: Path, model: repe.Model, vectors: dict[str, repe.ConceptVectors]
) -> None:
    loaded = repe.ConceptVectors.load(results, "fr")
    assert loaded.digest == vectors["fr"].digest
    with loaded.apply(model):
        model.states(["a"])


def test_vectors_are_loaded_from_a_download(golden: Path) -> None:
    folder = golden / "released_run/res/bloomz-560M/toxicity"
    assert not (folder / "reader_dict.pt").exists()
    entry = downloads.read_vectors(folder / "reader_dict.pk")["zh"]
    loaded = repe.ConceptVectors.load(folder, "zh")
    assert np.array_equal(loaded.directions, entry["directions"])
    assert np.array_equal(loaded.signs, entry["signs"])
    assert (loaded.mean_norm, loaded.validation) == (None, None)


def test_replies_are_transformers_greedy_ones(model: repe.Model, model_folders: dict[str, Path]) -> None:
    lm = transformers.AutoModelForCausalLM.from_pretrained(model_folders["llama"])
    replies = model.generate(TEXTS, max_new_tokens=8)
    for text, reply in zip(TEXTS, replies, strict=True):
        ids = model.tokenizer(text, return_tensors="pt")
        expected = lm.generate(**ids, max_new_tokens=8, do_sample=False, pad_token_id=0)
        new = expected[0, ids["input_ids"].shape[1] :]
        assert reply == model.tokenizer.decode(new, skip_special_tokens=True)


def test_applied_vectors_change_states_and_replies_until_the_context_ends(
    model: repe.Model, vectors: dict[str, repe.ConceptVectors]
) -> None:
    states, replies = model.states(TEXTS), model.generate(TEXTS, max_new_tokens=8)
    one = vectors["en"]
    with one.apply(model, layers=[1], strength=2.0):
        # A strength of 1 is the distance of the class means, so that the step is the direction itself.
        step = 2 * torch.from_numpy(one.directions[0, 0] * one.signs[0, 0])
        torch.testing.assert_close(model.states(TEXTS)[0], states[0] + step, rtol=1e-4, atol=1e-5)
    with one.apply(model, layers="0.3:0.6", strength=100.0):
        assert model.generate(TEXTS, max_new_tokens=8) != replies
    with one.apply(model, layers="0.3:0.6", strength=0.0):
        assert model.generate(TEXTS, max_new_tokens=8) == replies
    assert torch.equal(model.states(TEXTS), states)
    assert model.generate(TEXTS, max_new_tokens=8) == replies


def test_the_defaults_of_apply_are_those_of_the_script(
    model: repe.Model, vectors: dict[str, repe.ConceptVectors]
) -> None:
    import control_generation

    required = ["--source-lang", "en", "--prompts", "prompts.jsonl"]
    args = control_generation.parser().parse_args(required)
    states = []
    for settings in (
        {},
        {
            "layers": args.layers,
            "strength": 1.0,
            "unit": args.strength_unit,
            "operator": args.operator,
            "scope": args.scope,
        },
    ):
        with vectors["en"].apply(model, **settings):
            states.append(model.states(TEXTS))
    assert torch.equal(*states)


def test_an_encoder_has_states_but_no_replies(model_folders: dict[str, Path]) -> None:
    encoder = repe.load_model(model_folders["bert"], device="cpu")
    assert encoder.states(TEXTS).shape == (LAYERS, len(TEXTS), HIDDEN)
    with pytest.raises(UserError, match="tiny-bert has no vocabulary head and cannot generate"):
        encoder.generate(TEXTS)


def test_the_documented_calls_run_in_a_fresh_process(
    model_folders: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    code = f"""
import sys
import repe
assert not {{"torch", "transformers", "pandas"}} & set(sys.modules)
model = repe.load_model({str(model_folders["llama"])!r}, device="auto", dtype="auto", template=None, untrained=None)
pairs = repe.read_pairs({str(data / "morality/morality_en.json")!r})
train, test = repe.split_pairs(pairs, 0.8, by="pair")
vectors = repe.collect(model, train, method="cluster_mean")
print(len(repe.recognize(model, {{"en": vectors}}, {{"en": test}})), len(repe.similarity({{"en": vectors}})))
with vectors.apply(model, layers="0.3:0.6", strength=1.0):
    print(len(model.generate(["a dog"], max_new_tokens=4)))
vectors.save({str(tmp_path / "tiny/morality")!r}, "en")
print(repe.ConceptVectors.load({str(tmp_path / "tiny/morality")!r}, "en").digest == vectors.digest)
"""
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.split() == ["3", "3", "1", "True"]


def test_all_public_names_exist() -> None:
    assert all(getattr(repe, name) is not None for name in dir(repe))
    with pytest.raises(AttributeError, match="module 'repe' has no attribute 'no_such_name'"):
        _ = repe.no_such_name


def test_exchanged_sides_in_all_languages_leave_accuracies_and_similarities(
    model: repe.Model, splits: dict, vectors: dict[str, repe.ConceptVectors]
) -> None:
    other = {
        language: [[(pair.neg, pair.pos) for pair in part] for part in parts] for language, parts in splits.items()
    }
    exchanged = {language: repe.collect(model, train) for language, (train, _) in other.items()}
    tests = [{language: test for language, (_, test) in one.items()} for one in (splits, other)]
    accuracies = [repe.recognize(model, *both) for both in zip((vectors, exchanged), tests, strict=True)]
    pd.testing.assert_frame_equal(*accuracies)
    pd.testing.assert_frame_equal(repe.similarity(vectors), repe.similarity(exchanged), atol=1e-6)
    for language, one in vectors.items():
        torch.testing.assert_close(exchanged[language].directions, -one.directions)
