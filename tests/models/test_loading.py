"""Finding and loading models: any architecture, clear refusals, nothing run that comes with the weights."""

import json
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest
import torch
import transformers
from conftest import Ended, build, byte_tokenizer, config, load, write_data
from huggingface_hub import errors
from safetensors.torch import load_file, save_file
from test_hidden_states import TEXTS

from repe.errors import UserError
from repe.models import hub
from repe.models import loading as models
from repe.models.registry import MODELS, entry
from repe.vectors.hidden_states import last_token_states


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_hidden_layers": 4}, r"9 tensors that the checkpoint lacks, layers\.3\.input_layernorm\.weight first"),
        ({"num_hidden_layers": 2}, r"9 tensors that the config does not know of, model\.layers\.2\."),
        ({"intermediate_size": 80}, r"9 tensors that have another shape than the config says, layers\.0\.mlp"),
        ({"model_type": "not-a-model"}, r"cannot be loaded \(.*not-a-model"),
    ],
)
def test_a_checkpoint_that_is_not_what_the_config_says(changes: dict, message: str, tmp_path: Path) -> None:
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
    assert torch.equal(
        last_token_states(load(folder), TEXTS), last_token_states(load(build(tmp_path / "o", "llama")), TEXTS)
    )
    shards[1].unlink()
    with pytest.raises(UserError, match=shards[1].name):
        load(folder)


@pytest.mark.parametrize("name", ["model.bogus.weight", "bogus.weight"])
def test_a_tensor_that_belongs_nowhere_is_named(name: str, tmp_path: Path) -> None:
    folder = build(tmp_path / "model", "llama")
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors | {name: torch.zeros(2)}, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=f"1 tensors that the config does not know of, {name} first"):
        load(folder)


def test_blocks_that_are_not_the_models_layers_are_refused(script: Callable[..., Ended], tmp_path: Path) -> None:
    """XLM's lists of parts are as long as it is deep, and its layers are no modules."""
    made = transformers.XLMConfig(vocab_size=300, emb_dim=16, n_layers=2, n_heads=2, max_position_embeddings=64)
    transformers.XLMModel(made).save_pretrained(tmp_path / "xlm")
    byte_tokenizer().save_pretrained(tmp_path / "xlm")
    write_data(tmp_path / "data", "morality", "en")
    options = ["--model-path", tmp_path / "xlm", "--data-dir", tmp_path / "data", "--res-dir", tmp_path / "res"]
    ended = script("collect_vector", *options)
    assert ended.status == 2
    assert "xlm: the blocks found in XLMModel are not its layers" in ended.err


def test_positions_that_begin_behind_the_paddings_own(tmp_path: Path) -> None:
    usual = {"vocab_size": 300, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    made = transformers.RobertaConfig(**usual, num_attention_heads=2, max_position_embeddings=64, pad_token_id=1)
    transformers.RobertaModel(made).save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    model = load(tmp_path)
    assert model.max_tokens == 62
    assert last_token_states(model, ["a" * 61]).isfinite().all()


def test_an_encoder_with_a_decoder_is_refused(tmp_path: Path) -> None:
    made = transformers.T5Config(vocab_size=300, d_model=16, d_kv=4, d_ff=32, num_layers=2, num_heads=2)
    transformers.T5Model(made).save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="has an encoder and a decoder: take a causal or an encoder model"):
        load(tmp_path)


def test_the_text_part_of_a_model_for_images_and_text_is_taken(tmp_path: Path) -> None:
    text = config("gemma3")
    vision = {
        "hidden_size": 16,
        "intermediate_size": 16,
        # As deep as the text's part, so that the blocks have to be told apart by where they are.
        "num_hidden_layers": text.num_hidden_layers,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    whole = transformers.Gemma3Config(text_config=text.to_dict(), vision_config=vision, mm_tokens_per_image=4)
    torch.manual_seed(0)
    reference = transformers.Gemma3ForConditionalGeneration(whole).eval()
    reference.save_pretrained(tmp_path)
    tokenizer = byte_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    states = last_token_states(load(tmp_path), TEXTS)
    with torch.no_grad():
        for place, text_ in enumerate(TEXTS):
            ids = torch.tensor([tokenizer(text_)["input_ids"]])
            own = reference.model.language_model(input_ids=ids, output_hidden_states=True).hidden_states[1:]
            expected = torch.stack(own)[:, 0, -1]
            torch.testing.assert_close(states[:, place], expected, rtol=1e-4, atol=1e-5)


def test_remote_code_is_not_run_unless_asked(tmp_path: Path) -> None:
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


def test_weights_are_told_apart_by_their_fingerprint(tmp_path: Path) -> None:
    folders = [build(tmp_path / name, "llama", seed) for name, seed in (("a", 0), ("b", 0), ("c", 1))]
    first, same, other = (hub.find(str(folder)).fingerprint() for folder in folders)
    assert first == same != other


@pytest.mark.parametrize(
    ("device", "dtype"), [("cpu", torch.float32), ("cuda", torch.bfloat16), ("mps", torch.bfloat16)]
)
def test_auto_is_the_published_type_except_on_a_cpu(device: str, dtype: torch.dtype) -> None:
    assert models.pick_dtype("auto", torch.device(device), "bfloat16") == dtype
    assert models.pick_dtype("float16", torch.device(device), "bfloat16") == torch.float16


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
    assert models.published_dtype(hub.find(str(tmp_path))) == name


def test_rows_are_found_by_name_and_size() -> None:
    assert entry(None, None).hub_id == "meta-llama/Llama-2-7b-chat-hf"
    assert entry("bloomz", "560M").label == "bloomz-560M"
    assert len({row.hub_id for row in MODELS.values()}) == len(MODELS)


def hub_error(kind: type[Exception]) -> Exception:
    import httpx2  # the client that huggingface_hub's errors carry a response of

    request = httpx2.Request("GET", "https://hub.example/api")
    return kind("no", response=httpx2.Response(403, request=request))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (errors.GatedRepoError, "owner/name is gated: ask for access on its page, then log in"),
        (errors.RepositoryNotFoundError, "owner/name is neither a folder here nor a public model on the hub"),
        (errors.RevisionNotFoundError, "owner/name has no revision 'v9': check --revision"),
    ],
)
def test_what_the_hub_refuses_is_said_in_one_line(
    kind: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise hub_error(kind)

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", refuse)
    with pytest.raises(UserError, match=message):
        hub.find("owner/name", "v9")


def test_a_download_takes_the_commit_and_safetensors_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: dict[str, object] = {}

    class File:
        def __init__(self, name: str) -> None:
            self.rfilename = name

    class Info:
        sha = "abc123"
        siblings = (File("model.safetensors"), File("pytorch_model.bin"), File("original/consolidated.pth"))

    def download(hub_id: str, **options: object) -> str:
        asked.update(options, hub_id=hub_id)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: Info())
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    folder = hub.find("owner/name", "main")
    assert folder == hub.ModelFolder(tmp_path, "owner/name", "abc123")
    assert asked["revision"] == "abc123"
    assert "*.safetensors" in asked["allow_patterns"]
    assert not {"*.bin", "*.py"} & {*asked["allow_patterns"]}
    hub.find("owner/name", "main", with_code=True)
    assert "*.py" in asked["allow_patterns"]


def test_a_model_is_loaded_from_an_earlier_download_when_the_hub_is_out_of_reach(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("no route")

    def cached(hub_id: str, *, revision: str | None, local_files_only: bool) -> str:
        assert local_files_only
        return str(tmp_path / "abc123")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", unreachable)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", cached)
    assert hub.find("owner/name").revision == "abc123"


def test_the_doctor_reports_and_ends_well(script: Callable[..., Ended], model_folders: dict[str, Path]) -> None:
    ended = script("repe.tools.doctor", "--model-path", model_folders["gemma2"], "--template", "Q: {input} A:")
    assert ended.status == 0, ended
    for part in ("modeling_gemma2.Gemma2Model", "3 of Gemma2DecoderLayer", "':' (id", "'Q: {input} A:'", "ready for"):
        assert part in ended.out


def test_the_doctor_finds_states_that_depend_on_the_batch(
    script: Callable[..., Ended], model_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    padded = transformers.BertModel.forward

    def without_mask(self: object, input_ids: torch.Tensor, attention_mask: torch.Tensor, **rest: object) -> object:
        return padded(self, input_ids=input_ids, attention_mask=torch.ones_like(attention_mask), **rest)

    monkeypatch.setattr(transformers.BertModel, "forward", without_mask)
    ended = script("repe.tools.doctor", "--model-path", model_folders["bert"])
    assert ended.status == 2
    assert "states in a batch are others by more than rounding" in ended.err


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
