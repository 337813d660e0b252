"""Exported vectors are those of the result files, numbered as the tools that read them number their layers."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import huggingface_hub
import numpy as np
import pytest
import torch
from conftest import RESULT_META, ROOT, Ended, build, load, write_data
from safetensors import safe_open
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from repe.control.steering import steered
from repe.data import read_pairs, split_pairs
from repe.errors import UserError
from repe.results.result_file import Kind
from repe.results.vector_file import VectorFile
from repe.tools import export, vector_formats
from repe.vectors.concept_vectors import ConceptVectors, collect
from repe.vectors.readers import ClusterMeanRepReader

Script = Callable[..., Ended]

LAYERS, HIDDEN = 5, 8
SIGNS = (1, -1, 1, -1, -1)
META = RESULT_META | {
    **{"source": "owner/tiny", "revision": "0123abc", "weights": "digest of weights", "template": "Q: {input}\n"},
    "versions": {"transformers": "5", "torch": "2"},
}

# What holds a vector for every layer; lm-eval's files hold one layer.
FORMATS = ("gguf", "safetensors")


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty hub cache, so that no test reads this machine's."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def entry(layers: int = LAYERS) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(layers)
    return {
        # Of lengths that are far from 1.
        "directions": torch.randn(layers, 1, HIDDEN, generator=generator)
        * torch.logspace(-3, 3, layers)[:, None, None],
        "signs": torch.tensor(SIGNS[:layers], dtype=torch.int8)[:, None],
        "mean_norm": torch.rand(layers, generator=generator),
    }


def add(
    folder: Path, concept: str, language: str, model: str = "tiny", layers: int = LAYERS, **kind: Any
) -> VectorFile:
    file = VectorFile(folder, model, concept, Kind(**kind))
    meta = META | kind | {"model": model, "data": {language: f"digest of {language}"}}
    file.add(meta, layers, {"languages": {language: entry(layers)}})
    return file


def add_released(folder: Path, model: str, languages: tuple[str, ...], layers: int = LAYERS) -> VectorFile:
    """A download: readers in a pickle."""
    file, content = VectorFile(folder, model, "morality", Kind()), entry(layers)
    reader = ClusterMeanRepReader()
    reader.directions, reader.direction_signs = {}, {}
    for layer in range(1, layers + 1):
        reader.directions[layer] = content["directions"][layer - 1].numpy()
        reader.direction_signs[layer] = content["signs"][layer - 1].numpy()
    file.released_path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(dict.fromkeys(languages, reader), file.released_path)
    return file


def expected(file: VectorFile, language: str) -> np.ndarray:
    """float64 (layers, hidden): unit directions times signs, from the result file alone."""
    vectors = file.vectors[language]
    directions = vectors.directions[:, 0].astype(np.float64)
    return np.stack(
        [sign * row / np.sqrt(np.sum(row**2)) for row, sign in zip(directions, vectors.signs[:, 0], strict=True)]
    )


def read_safetensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    with safe_open(path, "np") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


def read_gguf(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    reader = gguf.GGUFReader(path)
    assert {tensor.tensor_type for tensor in reader.tensors} == {gguf.GGMLQuantizationType.F32}
    return (
        {tensor.name: np.array(tensor.data) for tensor in reader.tensors},
        {name: field.contents() for name, field in reader.fields.items()},
    )


@pytest.fixture
def export_script(script: Script, tmp_path: Path) -> Callable[..., Ended]:
    return lambda *arguments: script(
        "repe.__main__", "export", "--res-dir", tmp_path / "res", "--out-dir", tmp_path / "out", *arguments
    )


def written(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*"))}


def test_safetensors_holds_each_layers_unit_vector_to_the_positive_side(
    export_script: Callable[..., Ended], tmp_path: Path
) -> None:
    file = add(tmp_path / "res", "morality", "en")
    ended = export_script("--model-label", "tiny")
    assert (ended.status, ended.out.splitlines()[0]) == (0, f"wrote tiny_morality_en.safetensors to {tmp_path / 'out'}")
    tensors, metadata = read_safetensors(tmp_path / "out/tiny_morality_en.safetensors")
    assert set(tensors) == {f"layer.{layer}" for layer in range(1, LAYERS + 1)}
    for layer, unit in enumerate(expected(file, "en"), start=1):
        assert tensors[f"layer.{layer}"].dtype == np.float32
        assert tensors[f"layer.{layer}"].shape == (HIDDEN,)
        np.testing.assert_allclose(tensors[f"layer.{layer}"], unit, rtol=1e-6)
    assert {name: text for name, text in metadata.items() if name != "class_distance"} == {
        "model": "tiny",
        "family": "none",
        "source": "owner/tiny",
        "revision": "0123abc",
        "weights": "digest of weights",
        "template": "Q: {input}\n",
        "special_tokens": "true",
        "truncate": "false",
        "dtype": "float32",
        "split": "0.8",
        "method": "cluster_mean",
        "random_direction": "false",
        "versions": '{"torch": "2", "transformers": "5"}',
        "concept": "morality",
        "language": "en",
        "file": "reader_dict.pt",
        "data_sha256": "digest of en",
        "layers": "5",
        "hidden_size": "8",
        "layer_numbering": "layer.<l> is the output of block l counted from 1; layer N = 5 is after the final norm",
        "sign_convention": "unit direction times sign: points to the concept's positive side",
    }


def test_raw_directions_lengths_and_signs_give_the_unit_vectors(
    export_script: Callable[..., Ended], tmp_path: Path
) -> None:
    file = add(tmp_path / "res", "morality", "en")
    assert export_script("--model-label", "tiny", "--raw").status == 0
    tensors, _ = read_safetensors(tmp_path / "out/tiny_morality_en.safetensors")
    vectors = file.vectors["en"]
    raw = np.stack([tensors[f"raw.{layer}"] for layer in range(1, LAYERS + 1)])
    assert np.array_equal(raw, vectors.directions[:, 0])
    assert tensors["sign"].tolist() == [*SIGNS]
    np.testing.assert_allclose(tensors["norm"], np.sqrt((raw.astype(np.float64) ** 2).sum(axis=1)), rtol=1e-6)
    assert np.array_equal(tensors["mean_norm"], entry()["mean_norm"].numpy())
    units = np.stack([tensors[f"layer.{layer}"] for layer in range(1, LAYERS + 1)])
    np.testing.assert_allclose(units * (tensors["norm"] * tensors["sign"])[:, None], raw, rtol=1e-5)


def test_gguf_leaves_the_first_and_the_last_layer_out_and_counts_from_0(
    export_script: Callable[..., Ended], tmp_path: Path
) -> None:
    file = add(tmp_path / "res", "morality", "en")
    ended = export_script("--model-label", "tiny", "--format", "gguf", "--model-hint", "llama")
    assert (ended.status, ended.out.splitlines()[0]) == (0, f"wrote tiny_morality_en.gguf to {tmp_path / 'out'}")
    tensors, fields = read_gguf(tmp_path / "out/tiny_morality_en.gguf")
    assert list(tensors) == ["direction.1", "direction.2", "direction.3"]
    for number in (1, 2, 3):
        assert tensors[f"direction.{number}"].shape == (HIDDEN,)
        np.testing.assert_allclose(tensors[f"direction.{number}"], expected(file, "en")[number], rtol=1e-6)
    assert fields["general.architecture"] == "controlvector"
    assert fields["controlvector.model_hint"] == "llama"
    assert fields["controlvector.layer_count"] == 3
    record = {name: text for name, text in fields.items() if name.startswith("repe.")}
    assert record["repe.template"] == "Q: {input}\n"
    assert record["repe.language"] == "en"
    assert record["repe.layer_numbering"].startswith(
        "direction.<k> is of, and for, the output of block k counted from 0"
    )


def test_both_formats_hold_the_same_numbers(export_script: Callable[..., Ended], tmp_path: Path) -> None:
    for language in ("en", "fr"):
        add(tmp_path / "res", "morality", language)
    add(tmp_path / "res", "toxicity", "zh")
    ended = export_script("--model-label", "tiny", "--format", "safetensors", "gguf", "--model-hint", "llama")
    stems = ["tiny_morality_en", "tiny_morality_fr", "tiny_toxicity_zh"]
    assert [*written(tmp_path / "out")] == sorted(f"{stem}.{end}" for stem in stems for end in FORMATS)
    assert all(name in ended.out for name in written(tmp_path / "out"))
    assert ended.out.count("wrote") == 1
    for stem in stems:
        units, metadata = read_safetensors(tmp_path / f"out/{stem}.safetensors")
        directions, fields = read_gguf(tmp_path / f"out/{stem}.gguf")
        for name, direction in directions.items():
            assert np.array_equal(direction, units[f"layer.{int(name.split('.')[1]) + 1}"])
        for name in set(metadata) - {"layer_numbering"}:
            assert fields[f"repe.{name}"] == metadata[name]


@pytest.mark.parametrize("scale", [1e-42, 1e-30, 1e30])
def test_directions_of_any_length_become_unit_vectors(scale: float) -> None:
    directions = np.array([[3, -4, 0]] * 3, dtype=np.float32) * np.float32(scale)
    vectors = ConceptVectors(directions[:, None], np.array([[1], [-1], [1]], dtype=np.int8))
    np.testing.assert_allclose(vectors.unit_vectors, [[0.6, -0.8, 0], [-0.6, 0.8, 0], [0.6, -0.8, 0]], rtol=1e-3)


@pytest.fixture(scope="module")
def collected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of five blocks, `model`, and morality in English, `data`."""
    folder = tmp_path_factory.mktemp("export")
    build(folder / "model", "llama", layers=LAYERS)
    write_data(folder / "data", "morality", "en")
    return folder


@pytest.fixture
def exported(collected: Path, script: Script, export_script: Callable[..., Ended], tmp_path: Path) -> Path:
    """The control vector of that model, from collection to file."""
    options = ["--model-path", collected / "model"]
    collect = [*options, "--data-dir", collected / "data", "--res-dir", tmp_path / "res", "--lang", "en"]
    assert script("collect_vector", *collect, "--concept", "morality", "--template", "{input}").status == 0
    assert export_script(*options, "--format", "gguf").status == 0
    return tmp_path / "out/model_morality_en.gguf"


def test_direction_k_is_of_what_block_k_counted_from_0_gives(collected: Path, exported: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(collected / "model")
    trunk = AutoModel.from_pretrained(collected / "model").eval()
    train, _ = split_pairs(read_pairs(collected / "data/morality/morality_en.json"))

    def seen_at(block: torch.nn.Module, text: str) -> torch.Tensor:
        kept: list[torch.Tensor] = []
        hook = block.register_forward_hook(lambda _block, _inputs, output: kept.append(output))
        with torch.no_grad():
            trunk(**tokenizer(text, return_tensors="pt"))
        hook.remove()
        return kept[0][0, -1].double()

    directions, fields = read_gguf(exported)
    assert list(directions) == ["direction.1", "direction.2", "direction.3"]
    assert fields["controlvector.model_hint"] == "llama"
    for name, direction in directions.items():
        block = trunk.layers[int(name.split(".")[1])]
        positive = torch.stack([seen_at(block, pair.pos) for pair in train])
        negative = torch.stack([seen_at(block, pair.neg) for pair in train])
        mean = positive.mean(dim=0) - negative.mean(dim=0)
        # The positive side is where more of the positive texts lie.
        side = ((positive - negative) @ mean).sign().sum().sign()
        np.testing.assert_allclose(direction, (side * mean / mean.norm()).numpy(), atol=1e-5)


def test_adding_direction_k_to_what_block_k_gives_is_the_projects_own_steering(collected: Path, exported: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(collected / "model").eval()
    ids = torch.tensor([[1, 50, 60, 70]])
    directions, _ = read_gguf(exported)
    vectors = VectorFile(exported.parents[1] / "res", "model", "morality", Kind()).vectors["en"]
    with torch.no_grad():
        plain = model(input_ids=ids).logits
        for name, direction in directions.items():
            number = int(name.split(".")[1])
            added = 3 * torch.from_numpy(direction)
            # As llama.cpp and repeng do.
            hook = model.model.layers[number].register_forward_hook(lambda _b, _i, output, added=added: output + added)
            theirs = model(input_ids=ids).logits
            hook.remove()
            own = torch.from_numpy(vectors.directions[number, 0] * vectors.signs[number, 0])
            with steered(model.model, model.model.layers, {number + 1: 3 * own / own.norm()}):
                ours = model(input_ids=ids).logits
            torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-4)
            assert not torch.allclose(theirs, plain, rtol=1e-2, atol=1e-2)


def test_a_released_download_is_exported(export_script: Callable[..., Ended], tmp_path: Path) -> None:
    file = add_released(tmp_path / "res", "bloomz-560M", ("fr", "en"))
    options = ["--model-name", "bloomz", "--model-size", "560M"]
    assert export_script(*options, "--format", "safetensors", "gguf").status == 0
    assert [*written(tmp_path / "out")] == [
        f"bloomz-560M_morality_{language}.{end}" for language in ("en", "fr") for end in ("gguf", "safetensors")
    ]
    tensors, metadata = read_safetensors(tmp_path / "out/bloomz-560M_morality_fr.safetensors")
    for layer, unit in enumerate(expected(file, "fr"), start=1):
        np.testing.assert_allclose(tensors[f"layer.{layer}"], unit, rtol=1e-6)
    # Unknown settings are left out.
    computed = ("layer_numbering", "sign_convention", "class_distance")
    assert {name: metadata[name] for name in metadata if name not in computed} == {
        "model": "bloomz-560M",
        "family": "bloomz",
        "split": "0.8",
        "method": "cluster_mean",
        "random_direction": "false",
        "concept": "morality",
        "language": "fr",
        "file": "reader_dict.pk",
        "layers": "5",
        "hidden_size": "8",
    }
    directions, fields = read_gguf(tmp_path / "out/bloomz-560M_morality_fr.gguf")
    assert fields["controlvector.model_hint"] == "bloom"
    np.testing.assert_allclose(directions["direction.3"], expected(file, "fr")[3], rtol=1e-6)


def test_a_language_of_the_download_does_not_take_the_other_files_record(
    export_script: Callable[..., Ended], tmp_path: Path
) -> None:
    add_released(tmp_path / "res", "tiny", ("en", "fr"))
    add(tmp_path / "res", "morality", "en")
    assert export_script("--model-label", "tiny", "--raw").status == 0
    for language, name, source in (("en", "reader_dict.pt", "owner/tiny"), ("fr", "reader_dict.pk", None)):
        tensors, metadata = read_safetensors(tmp_path / f"out/tiny_morality_{language}.safetensors")
        assert (metadata["file"], metadata.get("source")) == (name, source)
        assert ("mean_norm" in tensors) == (source is not None)


def test_every_golden_download_is_exported(script: Script, golden: Path, tmp_path: Path) -> None:
    downloads = golden / "released_run/res"
    for folder, name, size in (("llama2-chat-7B", "llama2-chat", "7B"), ("qwen-chat-1B8", "qwen-chat", "1B8")):
        options = ["--res-dir", downloads, "--model-name", name, "--model-size", size, "--concept", "toxicity"]
        ended = script("repe.__main__", "export", *options, "--format", *FORMATS, "--out-dir", tmp_path / folder)
        assert ended.status == 0, ended.err
        assert len(written(tmp_path / folder)) == 2 * 16
        file = VectorFile(downloads, folder, "toxicity", Kind())
        for language in file.languages:
            stem = f"{folder}_toxicity_{language}"
            directions, fields = read_gguf(tmp_path / folder / f"{stem}.gguf")
            assert fields["controlvector.model_hint"] == folder.split("2-")[0].split("-")[0]
            units = expected(file, language)
            assert list(directions) == [f"direction.{number}" for number in range(1, len(units) - 1)]
            for number, direction in enumerate(directions.values(), start=1):
                np.testing.assert_allclose(direction, units[number], atol=1e-6)


def test_other_kinds_of_vectors_and_splits_have_names_of_their_own(
    export_script: Callable[..., Ended], tmp_path: Path
) -> None:
    add(tmp_path / "res", "morality", "en", method="pca")
    add(tmp_path / "res", "morality", "en", random_direction=True)
    add(tmp_path / "res", "morality", "en", model="tiny-0.4")
    assert export_script("--model-label", "tiny", "--direction-method", "pca").status == 0
    assert export_script("--model-label", "tiny", "--random-direction").status == 0
    assert export_script("--model-label", "tiny", "--split", "0.4").status == 0
    assert [*written(tmp_path / "out")] == [
        "tiny-0.4_morality_en.safetensors",
        "tiny_pca_morality_en.safetensors",
        "tiny_random_direction_morality_en.safetensors",
    ]
    _, metadata = read_safetensors(tmp_path / "out/tiny_pca_morality_en.safetensors")
    assert metadata["method"] == "pca"


def test_without_a_folder_files_go_beside_the_results(script: Script, tmp_path: Path) -> None:
    add(tmp_path / "res", "morality", "en")
    assert script("repe.__main__", "export", "--res-dir", tmp_path / "res", "--model-label", "tiny").status == 0
    assert [*written(tmp_path / "res/tiny/export")] == ["tiny_morality_en.safetensors"]
    # The export folder is not read as a concept.
    assert script("repe.__main__", "export", "--res-dir", tmp_path / "res", "--model-label", "tiny").status == 0


def test_chosen_concepts_and_languages_alone_are_written(export_script: Callable[..., Ended], tmp_path: Path) -> None:
    for concept in ("morality", "toxicity"):
        for language in ("en", "fr"):
            add(tmp_path / "res", concept, language)
    assert export_script("--model-label", "tiny", "--concept", "toxicity", "--lang", "fr", "fr").status == 0
    assert [*written(tmp_path / "out")] == ["tiny_toxicity_fr.safetensors"]


def test_concepts_with_different_languages_lose_none(export_script: Callable[..., Ended], tmp_path: Path) -> None:
    for concept, languages in (("morality", ("en", "fr")), ("toxicity", ("en",))):
        for language in languages:
            add(tmp_path / "res", concept, language)
    assert export_script("--model-label", "tiny").status == 0
    assert len(written(tmp_path / "out")) == 3


def test_the_same_input_gives_the_same_bytes(export_script: Callable[..., Ended], tmp_path: Path) -> None:
    add(tmp_path / "res", "morality", "en")
    options = ["--model-label", "tiny", "--raw", "--format", *FORMATS, "--model-hint", "llama"]
    assert export_script(*options).status == 0
    first = written(tmp_path / "out")
    assert len(first) == 2
    # Over what is there, and in a process of its own, where sets have another order.
    assert export_script(*options).status == 0
    assert written(tmp_path / "out") == first
    command = [
        sys.executable,
        "-m",
        "repe",
        "export",
        "--res-dir",
        tmp_path / "res",
        "--out-dir",
        tmp_path / "other",
    ]
    ended = subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True, check=True)
    first_line = f"wrote tiny_morality_en.safetensors, tiny_morality_en.gguf to {tmp_path / 'other'}"
    assert ended.stdout.splitlines()[0] == first_line
    assert written(tmp_path / "other") == first


@pytest.mark.parametrize("ending", FORMATS)
def test_a_failed_write_leaves_the_old_file_whole(ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = add(tmp_path / "res", "morality", "en")
    vectors = vector_formats.exported_vectors(file, "en", "tiny", 0.8)

    def write() -> Path:
        if ending == "gguf":
            return vector_formats.write_gguf(vectors, tmp_path / "out", "llama")
        return vector_formats.write_safetensors(vectors, tmp_path / "out")

    write()
    before = written(tmp_path / "out")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gguf.GGUFWriter, "write_kv_data_to_file", full)
    monkeypatch.setattr(vector_formats, "_with_sorted_metadata", full)
    with pytest.raises(UserError, match="cannot be written"):
        write()
    assert written(tmp_path / "out") == before


def test_the_hint_is_the_model_type_of_the_nearest_config(
    script: Script, tmp_path: Path, no_hub: Path, model_folders: dict[str, Path]
) -> None:
    def hint(label: str, *options: object) -> str:
        out = tmp_path / "out"
        always = ["--res-dir", tmp_path / "res", "--model-label", label, "--format", "gguf", "--out-dir", out]
        ended = script("repe.__main__", "export", *always, *options)
        assert ended.status == 0, ended.err
        return str(read_gguf(out / f"{label}_morality_en.gguf")[1]["controlvector.model_hint"])

    add(tmp_path / "res", "morality", "en")
    snapshot = no_hub / "models--owner--tiny/snapshots/0123abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text(json.dumps({"model_type": "gemma3"}))
    assert hint("tiny") == "gemma3"
    assert hint("tiny", "--model-path", model_folders["gpt_neox"]) == "gpt_neox"
    assert hint("tiny", "--model-path", model_folders["gpt_neox"], "--model-hint", "own") == "own"
    for label, kind in (("llama2-chat-13B", "llama"), ("qwen-chat-7B", "qwen"), ("bloom-7B1", "bloom")):
        add_released(tmp_path / "res", label, ("en",))
        assert hint(label) == kind


@pytest.mark.parametrize("family", ["llama", "bloom", "qwen2", "gemma3"])
def test_the_hint_is_what_repeng_writes(family: str, model_folders: dict[str, Path]) -> None:
    config = AutoModel.from_pretrained(model_folders[family]).config
    assert export.model_hint({"model": "x"}, str(model_folders[family])) == config.model_type


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("source", ["../../x"]),
        ("template", "\ud800 {input}"),
        ("versions", {"a": torch.ones(1)}),
        ("model", "../../tiny"),
    ],
)
def test_strange_meta_is_refused(name: str, value: Any, export_script: Callable[..., Ended], tmp_path: Path) -> None:
    file = VectorFile(tmp_path / "res", "tiny", "morality", Kind())
    file.add(META, LAYERS, {"languages": {"en": entry()}})
    content = file.content
    content["meta"][name] = value
    torch.save(content, file.path)
    ended = export_script("--model-label", "tiny", "--format", *FORMATS, "--model-hint", "llama")
    assert ended.status == 2
    assert f"{file.path} is damaged" in ended.err


# The test writes the results folder.
ERRORS: list[tuple[list[str], list[str]]] = [
    (["--model-label", "none"], ["no results in", "res/none (found: broken flat tiny)", "collect_vector.py"]),
    (["--model-label", "../tiny"], ["--model-label '../tiny' is not a valid name"]),
    (["--model-label", ".."], ["'..' is not a valid name"]),
    (["--model-name", "gpt-9"], ["--model-name gpt-9 is not in the registry"]),
    (
        ["--concept", "piety"],
        ["res/tiny/piety/reader_dict.pt has no results for any language: run collect_vector.py first"],
    ),
    (["--concept", "../tiny/morality"], ["concept '../tiny/morality' is not a valid name"]),
    (["--concept", "morality", "toxicity"], ["res/tiny/toxicity/reader_dict.pt has no results for any language"]),
    (["--lang", "en", "zh"], ["res/tiny/morality/reader_dict.pt has no results for zh: run collect_vector.py first"]),
    (["--lang", "../../x"], ["has no results for ../../x"]),
    (["--direction-method", "pca"], ["res/tiny has no pca_reader_dict.pt of any concept: run collect_vector.py first"]),
    (["--split", "0.4"], ["no results in", "res/tiny-0.4"]),
    (["--format", "onnx"], ["argument --format: invalid choice: 'onnx'"]),
    (["--format"], ["argument --format: expected at least one argument"]),
    (["--format", "gguf"], ["the architecture of tiny, which is not known", "--model-hint", "--model-path"]),
    (["--format", "gguf", "--model-path", "DIR/res"], ["res/config.json cannot be read", "--model-hint"]),
    (["--format", "gguf", "--model-path", "DIR/nameless"], ["config.json has no model_type", "--model-hint"]),
    (["--format", "gguf", "--model-path", "DIR/damaged"], ["config.json cannot be read", "--model-hint"]),
    (
        ["--model-label", "flat", "--format", "safetensors", "gguf", "--model-hint", "llama"],
        ["flat has 2 layers", "remove gguf from --format"],
    ),
    (["--model-label", "broken"], ["res/broken/morality/reader_dict.pt is damaged"]),
    (["--format", "gguf", "--raw"], ["--raw has no effect without --format safetensors"]),
    (["--layer", "2"], ["--layer has no effect without --format lm-eval"]),
    (["--format", "lm-eval"], ["--format lm-eval needs one layer: give its number with --layer"]),
    (["--model-hint", "llama"], ["--model-hint has no effect without --format gguf or lm-eval"]),
    (["--revision", "main"], ["--revision has no effect without --format gguf or lm-eval"]),
    (["--seed", "2"], ["unrecognized arguments: --seed 2"]),
    (["--out-dir", "DIR/file"], ["file cannot be created", "choose another folder"]),
    (
        ["--model-label", "tiny", "--concept", "a_b", "a"],
        ["two concepts and languages have the file name", "tiny_a_b_c"],
    ),
]


@pytest.mark.parametrize(("options", "parts"), ERRORS)
def test_an_error_is_one_line_that_says_what_to_do_and_nothing_is_written(
    options: list[str], parts: list[str], export_script: Callable[..., Ended], tmp_path: Path
) -> None:
    res = tmp_path / "res"
    add(res, "morality", "en")
    add(res, "flat", "en", model="flat", layers=2)
    if "a_b" in options:
        add(res, "a_b", "c")
        add(res, "a", "b_c")
    (res / "broken/morality").mkdir(parents=True)
    (res / "broken/morality/reader_dict.pt").write_bytes(b"PK\x03\x04")
    for name, config in (("nameless", b"{}"), ("damaged", b"{")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_bytes(config)
    (tmp_path / "file").touch()
    before = {path for path in tmp_path.rglob("*") if not path.name.endswith(".lock")}
    own = [option.replace("DIR", str(tmp_path)) for option in options]
    if not any(option in options for option in ("--model-label", "--model-name")):
        own = ["--model-label", "tiny", *own]
    ended = export_script(*own)
    assert ended.status == 2
    assert ended.err.startswith("error: ")
    assert ended.err.count("\n") == 1
    for part in parts:
        assert part in ended.err
    assert ended.out == ""
    assert {path for path in tmp_path.rglob("*") if not path.name.endswith(".lock")} == before


def test_a_hostile_download_runs_nothing(export_script: Callable[..., Ended], tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple:
            return Path.touch, (tmp_path / "ran",)

    path = tmp_path / "res/tiny/morality/reader_dict.pk"
    path.parent.mkdir(parents=True)
    torch.save({"en": Hostile()}, path)
    ended = export_script("--model-label", "tiny")
    assert ended.status == 2
    assert "is refused" in ended.err
    assert not (tmp_path / "ran").exists()


def test_export_says_which_scale_is_strength_1(script: Script, model_folders: dict[str, Path], tmp_path: Path) -> None:
    write_data(tmp_path / "data", "morality", "en")
    options = ["--model-path", model_folders["llama"], "--res-dir", tmp_path / "res"]
    assert script("collect_vector", *options, "--data-dir", tmp_path / "data").status == 0
    ended = script("repe.tools.export", *options, "--format", "safetensors", "gguf", "--out-dir", tmp_path / "out")
    directions = ConceptVectors.load(tmp_path / "res/tiny-llama/morality", "en").directions[:, 0]
    lengths = [float(f"{length:.4g}") for length in np.linalg.norm(directions.astype(float), axis=-1)]
    with safe_open(tmp_path / "out/tiny-llama_morality_en.safetensors", "numpy") as file:
        assert json.loads(file.metadata()["class_distance"]) == lengths
    # Of three layers, the second is at a relative depth of a third, in the range that control steers.
    assert ["tiny-llama_morality_en", f"{lengths[1]:.3g}", "layers", "2", "to", "2"] in [
        *map(str.split, ended.out.splitlines())
    ]


@pytest.mark.parametrize("family", ["llama", "bloom"])
def test_lm_eval_steers_as_apply_does(
    family: str, model_folders: dict[str, Path], script: Callable[..., Any], tmp_path: Path
) -> None:
    model = load(model_folders[family], with_head=True)
    vectors = collect(model, [(f"kind {number}", f"cruel {number}") for number in range(9)])
    vectors.save(tmp_path / "tiny" / "morality", "en")
    ended = script(
        *("repe.tools.export", "--model-path", "tiny", "--model-hint", family, "--res-dir", tmp_path),
        *("--format", "lm-eval", "--layer", "2", "--strength", "-1.5"),
    )
    assert ended.status == 0, ended.err
    path = tmp_path / "tiny/export/tiny_morality_en_layer2.pt"
    # What lm_eval/models/hf_steered.py does with the file.
    ((hookpoint, info),) = torch.load(path, weights_only=True).items()
    assert info.keys() == {"action", "steering_coefficient", "steering_vector", "bias"}
    assert (info["action"], info["bias"]) == ("add", None)

    def add(_module: Any, _input: Any, output: Any) -> Any:
        steer = info["steering_coefficient"] * info["steering_vector"]
        return (output[0] + steer, *output[1:]) if isinstance(output, tuple) else output + steer

    (module,) = (module for name, module in model.lm.base_model.named_modules() if name == hookpoint)
    ids = torch.tensor([[5, 6, 7]])
    with vectors.apply(model, layers=[2], strength=-1.5):
        expected = model.lm(ids).logits
    plain = model.lm(ids).logits
    module.register_forward_hook(add)
    torch.testing.assert_close(model.lm(ids).logits, expected)
    assert not torch.allclose(plain, expected)
