"""Loading models: any architecture, clear refusals, and no code that comes with the weights is run."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from conftest import Ended, build, byte_tokenizer, config, load, write_data
from safetensors.torch import load_file, save_file

from repe.errors import UserError
from repe.models import hub
from repe.models.source import ModelSource, load_model


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"num_hidden_layers": 4},
            r"9 tensors that the checkpoint lacks, for example layers\.3\.input_layernorm",
        ),
        ({"num_hidden_layers": 2}, r"9 tensors that the config does not describe, for example model\.layers\.2\."),
        ({"intermediate_size": 80}, r"9 tensors with another shape than in the config, for example layers\.0\.mlp"),
        ({"model_type": "not-a-model"}, r"cannot be loaded \(.*not-a-model"),
    ],
)
def test_a_checkpoint_that_does_not_match_its_config_is_refused(changes: dict, message: str, tmp_path: Path) -> None:
    folder = build(tmp_path / "model", "llama")
    edit_config(folder, **changes)
    with pytest.raises(UserError, match=message):
        load(folder)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    folder = build(tmp_path / "model", "llama")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="20KB")
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 2
    # Weights, because states may differ by rounding: it depends on where in memory the weights are.
    whole = load(build(tmp_path / "o", "llama")).trunk.state_dict()
    torch.testing.assert_close(load(folder).trunk.state_dict(), whole, rtol=0, atol=0)
    shards[1].unlink()
    with pytest.raises(UserError, match=shards[1].name):
        load(folder)


@pytest.mark.parametrize("name", ["model.bogus.weight", "bogus.weight"])
def test_an_unexpected_tensor_is_named(name: str, tmp_path: Path) -> None:
    folder = build(tmp_path / "model", "llama")
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors | {name: torch.zeros(2)}, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=f"1 tensors that the config does not describe, for example {name}"):
        load(folder)


def test_blocks_that_are_not_the_models_layers_are_refused(script: Callable[..., Ended], tmp_path: Path) -> None:
    """XLM has lists of parts that are as long as it has layers, but no list of layers."""
    made = transformers.XLMConfig(vocab_size=300, emb_dim=16, n_layers=2, n_heads=2, max_position_embeddings=64)
    transformers.XLMModel(made).save_pretrained(tmp_path / "xlm")
    byte_tokenizer().save_pretrained(tmp_path / "xlm")
    write_data(tmp_path / "data", "morality", "en")
    options = ["--model-path", tmp_path / "xlm", "--data-dir", tmp_path / "data", "--res-dir", tmp_path / "res"]
    ended = script("collect_vector", *options)
    assert ended.status == 2
    assert "xlm: the blocks found in XLMModel are not its layers" in ended.err


def test_code_that_comes_with_the_weights_is_not_run_by_default(tmp_path: Path) -> None:
    folder = build(tmp_path / "model", "llama")
    mark = tmp_path / "ran"
    (folder / "modeling_evil.py").write_text(f"open({str(mark)!r}, 'w')\nclass Evil:\n    pass\n")
    edit_config(
        folder, model_type="evil", auto_map={"AutoModel": "modeling_evil.Evil", "AutoConfig": "modeling_evil.Evil"}
    )
    with pytest.raises(UserError, match=r"needs Python code that comes with it.*--trust-remote-code"):
        load(folder)
    assert not mark.exists()


def test_pickled_weights_run_nothing(tmp_path: Path) -> None:
    folder = build(tmp_path / "model", "llama")
    (folder / "model.safetensors").unlink()
    mark = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> tuple:
            return Path.touch, (mark,)

    torch.save({"model.norm.weight": Evil()}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="cannot be loaded"):
        load(folder)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("device", "dtype"), [("cpu", torch.float32), ("cuda", torch.bfloat16), ("mps", torch.bfloat16)]
)
def test_auto_is_the_published_type_except_on_a_cpu(
    device: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    source = ModelSource("tiny", "tiny", published_dtype="bfloat16", device_name=device)
    assert source.dtype == dtype
    assert replace(source, dtype_name="float16").dtype == torch.float16


@pytest.mark.parametrize(("available", "device"), [(("cuda", "mps"), "cuda"), (("mps",), "mps"), ((), "cpu")], ids=str)
def test_the_device_auto_is_a_gpu_where_there_is_one(
    available: tuple[str, ...], device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: "cuda" in available)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: int("cuda" in available))
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: "mps" in available)
    assert ModelSource("tiny", "tiny").device == torch.device(device)


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ({"dtype": "bfloat16"}, "bfloat16"),
        ({"torch_dtype": "float32"}, "float32"),
        ({}, "float16"),
        ({"dtype": "int8"}, "float16"),
    ],
)
def test_the_published_type_is_the_configs(written: dict, name: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"} | written))
    source = ModelSource("tiny", str(tmp_path))
    assert source.published == name
    assert replace(source, published_dtype="bfloat16").published == "bfloat16"


def test_a_model_loaded_by_name_of_its_folder_has_its_head_if_it_is_causal(model_folders: dict[str, Path]) -> None:
    causal, encoder = (load_model(model_folders[name], device="cpu") for name in ("llama", "bert"))
    assert (causal.label, type(causal.lm)) == ("tiny-llama", transformers.LlamaForCausalLM)
    assert (encoder.lm, type(encoder.trunk)) == (None, transformers.BertModel)
    assert causal.record["weights"] == hub.find(str(model_folders["llama"])).fingerprint()


def test_generation_settings_of_a_checkpoint_are_not_used(tmp_path: Path) -> None:
    folder = build(tmp_path / "model", "llama")
    settings = {"do_sample": True, "temperature": 0.7, "eos_token_id": 2, "pad_token_id": 0}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    found = load_model(folder, device="cpu").lm.generation_config
    assert (found.do_sample, found.temperature) == (None, None) or (found.do_sample, found.temperature) == (False, 1.0)
    assert (found.eos_token_id, found.pad_token_id) == (2, 0)


def test_a_bidirectional_model_with_a_head_is_refused(tmp_path: Path) -> None:
    made = transformers.BertConfig(**config("bert").to_diff_dict() | {"is_decoder": False})
    made.architectures = ["BertLMHeadModel"]
    transformers.BertLMHeadModel(made).save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="reads texts in both directions and cannot generate: use a causal model"):
        load_model(tmp_path, device="cpu")


def test_first_generation_qwen_runs_through_the_stages(
    script: Callable[..., Ended], golden: Path, data_dir: Path, tmp_path: Path
) -> None:
    options = ["--model-path", golden / "qwen1_tiny", "--model-name", "qwen-chat", "--model-size", "1B8"]
    rest = ["--data-dir", data_dir, "--res-dir", tmp_path / "res", "--concept", "morality", "--lang", "en"]
    for stage in ("collect_vector", "recognize_concept"):
        assert script(stage, *options, *rest).status == 0
    content = torch.load(tmp_path / "res/qwen-chat-1B8/morality/reader_dict.pt", weights_only=True)
    assert content["languages"]["en"]["directions"].shape == (4, 1, 32)
    assert content["meta"]["template"] == "{input}"
