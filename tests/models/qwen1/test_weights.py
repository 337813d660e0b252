"""First-generation Qwen's weights agree with the published code and with a plain forward pass by its definition."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from qwen1_checkpoint import BLOCKS, HEADS, HIDDEN, VOCABULARY, checkpoint, ranks, tensors, write_weights

from repe import load_model as load_checked
from repe.errors import UserError
from repe.models.qwen1 import weights as qwen1_weights
from repe.models.qwen1.tokenizer import load_tokenizer
from repe.models.qwen1.weights import load_model

IDS = [5, 260, 261, 7, 255, 300, 0, 90]


def reference_states(ids: list[int], tied: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Hidden states (blocks, tokens, hidden), the last one after the final norm, and logits (tokens, vocabulary), by
    the architecture's definition in float64, one head and one token at a time.
    """
    weights = {name: tensor.double().numpy() for name, tensor in tensors(tied).items()}
    size = HIDDEN // HEADS

    def norm(x, name):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * weights[f"transformer.{name}.weight"]

    def rotated(x, position):
        pairs = x[: size // 2] + 1j * x[size // 2 :]
        turned = pairs * np.exp(1j * position * 5000.0 ** (-np.arange(0, size, 2) / size))
        return np.concatenate([turned.real, turned.imag])

    states, x = [], weights["transformer.wte.weight"][ids]
    for block in range(BLOCKS):
        name = f"h.{block}"
        mix = norm(x, f"{name}.ln_1") @ weights[f"transformer.{name}.attn.c_attn.weight"].T
        mix = (mix + weights[f"transformer.{name}.attn.c_attn.bias"]).reshape(len(ids), 3, HEADS, size)
        attended = np.zeros((len(ids), HEADS, size))
        for head in range(HEADS):
            for end in range(len(ids)):
                query = rotated(mix[end, 0, head], end)
                scores = [query @ rotated(mix[at, 1, head], at) / np.sqrt(size) for at in range(end + 1)]
                share = np.exp(scores) / np.exp(scores).sum()
                attended[end, head] = share @ mix[: end + 1, 2, head]
        x = x + attended.reshape(len(ids), HIDDEN) @ weights[f"transformer.{name}.attn.c_proj.weight"].T
        mlp = {key: weights[f"transformer.{name}.mlp.{key}.weight"] for key in ("w1", "w2", "c_proj")}
        y = norm(x, f"{name}.ln_2")
        gate = y @ mlp["w2"].T
        x = x + ((y @ mlp["w1"].T) * gate / (1 + np.exp(-gate))) @ mlp["c_proj"].T
        states.append(x)
    states[-1] = norm(x, "ln_f")
    return np.stack(states), states[-1] @ weights["transformer.wte.weight" if tied else "lm_head.weight"].T


def states_of(model, ids: list[int], **more) -> np.ndarray:
    with torch.no_grad():
        out = model(torch.tensor([ids]), output_hidden_states=True, **more)
    return torch.stack(out.hidden_states[1:])[:, 0].float().numpy()


def test_golden_hidden_states(golden: Path):
    folder = golden / "qwen1_tiny"
    expected = json.loads((folder / "expected.json").read_text())
    model = load_model(folder, dtype=torch.float32)
    batch = load_tokenizer(folder)(expected["texts"], padding=True, return_tensors="pt")
    with torch.no_grad():
        together = torch.stack(model(**batch, output_hidden_states=True).hidden_states[1:])[:, :, -1]
    for text, ids in enumerate(expected["input_ids"]):
        wanted = np.array(expected["last_token_hidden_states"][text])
        np.testing.assert_allclose(states_of(model, ids)[:, -1], wanted, rtol=0, atol=5e-6)
        np.testing.assert_allclose(together[:, text], wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("spelling", "tied"), [("new", False), ("old", True)])
@pytest.mark.parametrize("layout", ["safetensors", "sharded safetensors", "bin", "sharded bin"])
def test_every_layout_computes_what_the_architecture_says(tmp_path, layout, spelling, tied):
    folder = checkpoint(tmp_path, layout, spelling, tied)
    wanted, logits = reference_states(IDS, tied)
    trunk = load_model(folder, dtype=torch.float32)
    whole = load_model(folder, dtype=torch.float32, trunk_only=False)
    assert type(trunk).__name__ == "Qwen2Model"
    np.testing.assert_allclose(states_of(trunk, IDS), wanted, atol=2e-5)
    np.testing.assert_allclose(states_of(whole, IDS), wanted, atol=2e-5)
    with torch.no_grad():
        np.testing.assert_allclose(whole(torch.tensor([IDS])).logits[0], logits, atol=2e-5)
    assert (whole.lm_head.weight is whole.model.embed_tokens.weight) == tied


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_dtype_is_as_asked_and_the_rotary_table_stays_exact(tmp_path, dtype):
    model = load_model(checkpoint(tmp_path), dtype=dtype)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype} == {model.dtype}
    size = HIDDEN // HEADS
    exact = 5000.0 ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
    torch.testing.assert_close(model.rotary_emb.inv_freq, exact.float())
    wanted, _ = reference_states(IDS)
    error = np.abs(states_of(model, IDS) - wanted).max() / np.abs(wanted).max()
    assert error < 8 * torch.finfo(dtype).eps


def test_sixteen_bit_weights_load_into_any_type_without_loss(tmp_path):
    folder = checkpoint(tmp_path)
    stored = {name: tensor.bfloat16() for name, tensor in tensors().items()}
    write_weights(folder, stored, "safetensors")
    for dtype in (torch.bfloat16, torch.float32):
        model = load_model(folder, dtype=dtype)
        q, k, v = stored["transformer.h.1.attn.c_attn.weight"].to(dtype).split(HIDDEN)
        attention = model.layers[1].self_attn
        assert torch.equal(attention.q_proj.weight, q)
        assert torch.equal(attention.k_proj.weight, k)
        assert torch.equal(attention.v_proj.weight, v)


def test_model_is_ready_for_inference_and_independent_of_its_file(tmp_path):
    folder = checkpoint(tmp_path)
    model = load_model(folder, dtype=torch.float32)
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert {tensor.device.type for tensor in [*model.parameters(), *model.buffers()]} == {"cpu"}
    assert model.config.max_position_embeddings == 64
    before = states_of(model, IDS)
    (folder / "model.safetensors").write_bytes(bytes((folder / "model.safetensors").stat().st_size))
    np.testing.assert_array_equal(states_of(model, IDS), before)


def test_trunk_alone_never_reads_the_head(tmp_path, monkeypatch):
    read, original = [], qwen1_weights._read_tensor
    monkeypatch.setattr(qwen1_weights, "_read_tensor", lambda path, name: read.append(name) or original(path, name))
    folder = checkpoint(tmp_path, "sharded bin")
    load_model(folder, dtype=torch.float32)
    assert set(read) == set(tensors(tied=True))
    assert len(read) == len(set(read))


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's peak memory counter")
def test_peak_memory_is_the_model_and_one_tensor(tmp_path):
    def memory(key: str) -> float:
        return next(int(line.split()[1]) for line in Path("/proc/self/status").open() if line.startswith(key)) / 1024

    folder = checkpoint(tmp_path, padded_vocab_size=4_000_000)  # the embedding is 244 MiB of float32
    big = tensors(tied=True) | {"transformer.wte.weight": torch.zeros(4_000_000, HIDDEN)}
    big["lm_head.weight"] = torch.zeros(4_000_000, HIDDEN)
    write_weights(folder, big, "safetensors")
    del big
    load_model(checkpoint(tmp_path / "small"), dtype=torch.float32)
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    model = load_model(folder, dtype=torch.float32, trunk_only=False)
    assert model.lm_head.weight.shape == (4_000_000, HIDDEN)
    # Two big tensors, and a third while one is copied; the whole file held beside the model would make four.
    assert memory("VmHWM") - before < 3.3 * 244


def test_left_padding_changes_nothing(tmp_path):
    folder = checkpoint(tmp_path)
    model, tokenizer = load_model(folder, dtype=torch.float32), load_tokenizer(folder)
    texts = ["the", "in the thing", "道德 한"]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    assert batch.attention_mask[0, 0] == 0
    with torch.no_grad():
        together = torch.stack(model(**batch, output_hidden_states=True).hidden_states[1:])[:, :, -1]
    for row, text in enumerate(texts):
        np.testing.assert_allclose(together[:, row], states_of(model, tokenizer(text).input_ids)[:, -1], atol=1e-5)


@pytest.mark.parametrize("device_map", ["cpu", "auto", {"": "cpu"}])
def test_device_maps_of_one_device(tmp_path, device_map):
    model = load_model(checkpoint(tmp_path), dtype=torch.float32, device_map=device_map)
    np.testing.assert_allclose(states_of(model, IDS), reference_states(IDS)[0], atol=2e-5)


@pytest.mark.parametrize("tied", [False, True])
def test_parts_kept_elsewhere_are_brought_in_when_they_run(tmp_path, tied):
    # Two names of the CPU: Accelerate takes the device object for an accelerator, and "cpu" for what is offloaded.
    main = torch.device("cpu")
    places = {"model.embed_tokens": main, "model.rotary_emb": main, "model.layers.0": main, "model.norm": main}
    device_map = places | {"model.layers.1": "cpu", "model.layers.2": "cpu", "lm_head": main}
    folder = checkpoint(tmp_path, tied=tied)
    model = load_model(folder, dtype=torch.float32, trunk_only=False, device_map=device_map)
    assert model.model.layers[1].mlp.up_proj.weight.is_meta
    np.testing.assert_allclose(states_of(model, IDS), reference_states(IDS, tied)[0], atol=2e-5)


def test_a_model_that_needs_the_disk_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(qwen1_weights, "infer_auto_device_map", lambda *_, **__: {"": "disk"})
    with pytest.raises(UserError, match="does not fit into memory"):
        load_model(checkpoint(tmp_path), dtype=torch.float32, device_map="auto")


def test_ignores_rotary_tables_and_the_head_of_a_tied_model(tmp_path):
    folder = checkpoint(tmp_path, tied=True)
    more = {"transformer.rotary_emb.inv_freq": torch.ones(4), "transformer.h.0.attn.rotary_emb.inv_freq": torch.ones(4)}
    write_weights(folder, tensors(tied=True) | more | {"lm_head.weight": torch.ones(1)}, "safetensors")
    np.testing.assert_allclose(
        states_of(load_model(folder, dtype=torch.float32), IDS), reference_states(IDS, True)[0], atol=2e-5
    )


@pytest.mark.parametrize("stop", [0, 1, 2])
def test_generation_stops_at_the_end_of_text_and_of_a_turn(tmp_path, stop):
    folder, made = checkpoint(tmp_path), tensors()
    # A head whose only word, at the end of these ids, is the stop token.
    made["lm_head.weight"] = torch.zeros(VOCABULARY, HIDDEN)
    made["lm_head.weight"][len(ranks()) + stop] = torch.tensor(reference_states(IDS)[0][-1, -1])
    write_weights(folder, made, "safetensors")
    model = load_model(folder, dtype=torch.float32, trunk_only=False)
    ids = torch.tensor([IDS])
    reply = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=5, do_sample=False)
    assert reply[0].tolist() == [*IDS, len(ranks()) + stop]


def rewrite(folder: Path, drop: str = "", layout: str = "safetensors", **add) -> None:
    made = {name: tensor for name, tensor in tensors().items() if not drop or name != drop}
    write_weights(folder, made | {f"transformer.{name}": tensor for name, tensor in add.items()}, layout)


DAMAGES = {
    "no config": (lambda f: (f / "config.json").unlink(), "config.json"),
    "config no JSON": (lambda f: (f / "config.json").write_text("{"), "config.json"),
    "no weights": (
        lambda f: (f / "model.safetensors").unlink(),
        r"has no weights \(one of model.safetensors",
    ),
    "missing tensor": (
        lambda f: rewrite(f, drop="transformer.h.2.mlp.w2.weight"),
        "Missing key.*model.layers.2.mlp.gate_proj.weight",
    ),
    "missing head": (lambda f: rewrite(f, drop="lm_head.weight"), "Missing key.*lm_head.weight"),
    "extra tensor": (lambda f: rewrite(f, visual=torch.ones(2)), "Unexpected key.*transformer.visual"),
    "extra block": (
        lambda f: rewrite(f, **{"h.3.ln_1.weight": torch.ones(2)}),
        "Unexpected key.*transformer.h.3.ln_1.weight",
    ),
    "wrong shape": (
        lambda f: rewrite(f, drop="transformer.ln_f.weight", **{"ln_f.weight": torch.ones(HIDDEN + 1)}),
        r"size mismatch for model.norm.weight: .*\[17\]",
    ),
    "c_attn not three parts": (
        lambda f: rewrite(f, **{"h.0.attn.c_attn.bias": torch.ones(2 * HIDDEN)}),
        "size mismatch for model.layers.0.self_attn.q_proj.bias",
    ),
    "integers": (
        lambda f: rewrite(f, **{"wte.weight": torch.ones(VOCABULARY, HIDDEN, dtype=torch.int8)}),
        "transformer.wte.weight has type torch.int8",
    ),
    "cut safetensors": (lambda f: os.truncate(f / "model.safetensors", 5000), "model.safetensors is missing, damaged"),
    "pointer": (
        lambda f: (f / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n"),
        "model.safetensors is missing, damaged",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_reported_in_one_line(tmp_path, damage):
    spoil, message = DAMAGES[damage]
    folder = checkpoint(tmp_path)
    spoil(folder)
    with pytest.raises(UserError, match=message) as caught:
        load_checked(folder, device="cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_a_missing_shard_is_named(tmp_path, kind):
    folder = checkpoint(tmp_path, f"sharded {kind}")
    shard = next(folder.glob(f"*-00002-of-00003.{kind}"))
    shard.unlink()
    with pytest.raises(UserError, match=f"{shard.name} is missing"):
        load_model(folder, dtype=torch.float32)


@pytest.mark.parametrize(
    "index", [{}, {"weight_map": {}}, {"weight_map": {"a": "../model.bin"}}, {"weight_map": {"a": 1}}]
)
def test_an_index_that_names_no_files_beside_it_is_refused(tmp_path, index):
    folder = checkpoint(tmp_path / "folder")
    torch.save({"a": torch.ones(2)}, tmp_path / "model.bin")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"folder.* (cannot be (loaded|read)|is missing|names weights outside)"):
        load_checked(folder, device="cpu")


class Hostile:
    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


def test_a_bin_file_never_runs_code(tmp_path):
    folder, mark = checkpoint(tmp_path / "checkpoint", "bin"), tmp_path / "mark"
    torch.save(tensors() | {"hostile": Hostile(mark)}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pytorch_model\.bin is missing, damaged or not a file of tensors") as caught:
        load_model(folder, dtype=torch.float32)
    assert not mark.exists()
    assert "weights_only" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"not a weight file", [1], "cut"])
def test_a_damaged_bin_file_is_named(tmp_path, content):
    folder = checkpoint(tmp_path, "bin")
    path = folder / "pytorch_model.bin"
    if content == "cut":
        os.truncate(path, 3000)
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(UserError, match=r"pytorch_model\.bin is missing, damaged or not"):
        load_model(folder, dtype=torch.float32)
