"""First-generation Qwen: against its own code's numbers, and a forward pass written here from the architecture."""

import base64
import json
import os
import random
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from repe import qwen1
from repe.errors import UserError

BLOCKS, HEADS, HIDDEN, WIDTH = 3, 2, 16, 24
WORDS = ["th", "he", "the", " the", "in", "ing", "aa", "aaa", "aaaa", "  ", "\n\n", "é", "道", "道德", "한"]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    # Models of this size take longer to share out among threads than to run, most of all on a busy machine.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def golden() -> Path:
    folder = Path(os.environ.get("REPE_GOLDEN", "")) / "golden" / "qwen1_tiny"
    if "REPE_GOLDEN" not in os.environ or not folder.is_dir():
        pytest.skip("REPE_GOLDEN does not lead to golden/qwen1_tiny")
    return folder


@pytest.fixture(scope="module")
def golden_tokenizer(golden: Path):
    return qwen1.load_tokenizer(golden)


def ranks() -> list[bytes]:
    """Tokens in the order of their ids: all bytes, then words and what leads up to them."""
    tokens = [bytes([byte]) for byte in range(256)]
    for word in WORDS:
        spelled = word.encode()
        tokens += [spelled[:end] for end in range(2, len(spelled) + 1) if spelled[:end] not in tokens]
    # One that no merging leads to, and one that the splitting into words keeps from ever being used.
    return [*tokens, b"xyz", b"12"]


VOCABULARY = len(ranks()) + 208


def config(spelling: str = "new", **changes) -> dict:
    shared = {
        "model_type": "qwen",
        "kv_channels": HIDDEN // HEADS,
        "layer_norm_epsilon": 1e-5,
        "rotary_emb_base": 5000,
        "rotary_pct": 1.0,
        "no_bias": True,
        "seq_length": 64,
        "vocab_size": VOCABULARY,
        "tie_word_embeddings": False,
    }
    numbers = (HIDDEN, 2 * WIDTH, BLOCKS, HEADS, 512)
    keys = {
        "new": (
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
            "max_position_embeddings",
        ),
        "old": ("n_embd", "ffn_hidden_size", "n_layer", "n_head", "n_positions"),
    }[spelling]
    return shared | dict(zip(keys, numbers, strict=True)) | changes


def tensors(tied: bool = False) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator) * 0.3

    made = {"transformer.wte.weight": normal(VOCABULARY, HIDDEN), "transformer.ln_f.weight": 1 + normal(HIDDEN)}
    for block in range(BLOCKS):
        made |= {
            f"transformer.h.{block}.{name}": tensor
            for name, tensor in {
                "ln_1.weight": 1 + normal(HIDDEN),
                "ln_2.weight": 1 + normal(HIDDEN),
                "attn.c_attn.weight": normal(3 * HIDDEN, HIDDEN),
                "attn.c_attn.bias": normal(3 * HIDDEN),
                "attn.c_proj.weight": normal(HIDDEN, HIDDEN),
                "mlp.w1.weight": normal(WIDTH, HIDDEN),
                "mlp.w2.weight": normal(WIDTH, HIDDEN),
                "mlp.c_proj.weight": normal(HIDDEN, WIDTH),
            }.items()
        }
    return made if tied else made | {"lm_head.weight": normal(VOCABULARY, HIDDEN)}


def write_weights(folder: Path, made: dict[str, torch.Tensor], layout: str) -> None:
    """layout: "safetensors" or "bin", with "sharded " before it for three shards and an index."""
    kind = layout.removeprefix("sharded ")
    stem = {"safetensors": "model", "bin": "pytorch_model"}[kind]
    save = {"safetensors": save_file, "bin": torch.save}[kind]
    if layout == kind:
        save(made, folder / f"{stem}.{kind}")
        return
    weight_map = {name: f"{stem}-{1 + place % 3:05}-of-00003.{kind}" for place, name in enumerate(made)}
    for file in set(weight_map.values()):
        save({name: made[name] for name in made if weight_map[name] == file}, folder / file)
    (folder / f"{stem}.{kind}.index.json").write_text(json.dumps({"weight_map": weight_map}))


def write_ranks(folder: Path, tokens: list[bytes]) -> None:
    lines = [base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(tokens)]
    (folder / "qwen.tiktoken").write_bytes(b"".join(lines))


def checkpoint(folder: Path, layout: str = "safetensors", spelling: str = "new", tied: bool = False, **changes) -> Path:
    folder.mkdir(exist_ok=True)
    settings = config(spelling, tie_word_embeddings=tied, **changes)
    (folder / "config.json").write_text(json.dumps(settings))
    write_weights(folder, tensors(tied), layout)
    write_ranks(folder, ranks())
    return folder


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


IDS = [5, 260, 261, 7, 255, 300, 0, 90]


def test_golden_ids_and_hidden_states(golden, golden_tokenizer):
    expected = json.loads((golden / "expected.json").read_text())
    tokenizer = golden_tokenizer
    assert tokenizer(expected["texts"]).input_ids == expected["input_ids"]
    assert tokenizer.pad_token_id == 151646
    model = qwen1.load_model(golden, dtype=torch.float32)
    batch = tokenizer(expected["texts"], padding=True, return_tensors="pt")
    with torch.no_grad():
        together = torch.stack(model(**batch, output_hidden_states=True).hidden_states[1:])[:, :, -1]
    for text, ids in enumerate(expected["input_ids"]):
        wanted = np.array(expected["last_token_hidden_states"][text])
        np.testing.assert_allclose(states_of(model, ids)[:, -1], wanted, rtol=0, atol=1e-6)
        np.testing.assert_allclose(together[:, text], wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("spelling", "tied"), [("new", False), ("old", True)])
@pytest.mark.parametrize("layout", ["safetensors", "sharded safetensors", "bin", "sharded bin"])
def test_every_layout_computes_what_the_architecture_says(tmp_path, layout, spelling, tied):
    folder = checkpoint(tmp_path, layout, spelling, tied)
    wanted, logits = reference_states(IDS, tied)
    trunk = qwen1.load_model(folder, dtype=torch.float32)
    whole = qwen1.load_model(folder, dtype=torch.float32, trunk_only=False)
    assert type(trunk).__name__ == "Qwen2Model"
    np.testing.assert_allclose(states_of(trunk, IDS), wanted, atol=2e-5)
    np.testing.assert_allclose(states_of(whole, IDS), wanted, atol=2e-5)
    with torch.no_grad():
        np.testing.assert_allclose(whole(torch.tensor([IDS])).logits[0], logits, atol=2e-5)
    assert (whole.lm_head.weight is whole.model.embed_tokens.weight) == tied


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_dtype_is_as_asked_and_the_rotary_table_stays_exact(tmp_path, dtype):
    model = qwen1.load_model(checkpoint(tmp_path), dtype=dtype)
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
        model = qwen1.load_model(folder, dtype=dtype)
        q, k, v = stored["transformer.h.1.attn.c_attn.weight"].to(dtype).split(HIDDEN)
        attention = model.layers[1].self_attn
        assert torch.equal(attention.q_proj.weight, q)
        assert torch.equal(attention.k_proj.weight, k)
        assert torch.equal(attention.v_proj.weight, v)


def test_model_is_ready_for_inference_and_independent_of_its_file(tmp_path):
    folder = checkpoint(tmp_path)
    model = qwen1.load_model(folder, dtype=torch.float32)
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert {tensor.device.type for tensor in [*model.parameters(), *model.buffers()]} == {"cpu"}
    assert model.config.max_position_embeddings == 64
    before = states_of(model, IDS)
    (folder / "model.safetensors").write_bytes(bytes((folder / "model.safetensors").stat().st_size))
    np.testing.assert_array_equal(states_of(model, IDS), before)


def test_trunk_alone_never_reads_the_head(tmp_path, monkeypatch):
    read, original = [], qwen1._read_tensor
    monkeypatch.setattr(qwen1, "_read_tensor", lambda path, name: read.append(name) or original(path, name))
    folder = checkpoint(tmp_path, "sharded bin")
    qwen1.load_model(folder, dtype=torch.float32)
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
    qwen1.load_model(checkpoint(tmp_path / "small"), dtype=torch.float32)
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    model = qwen1.load_model(folder, dtype=torch.float32, trunk_only=False)
    assert model.lm_head.weight.shape == (4_000_000, HIDDEN)
    # Two big tensors, and a third while one is copied; the whole file held beside the model would make four.
    assert memory("VmHWM") - before < 3.3 * 244


def test_left_padding_changes_nothing(tmp_path):
    folder = checkpoint(tmp_path)
    model, tokenizer = qwen1.load_model(folder, dtype=torch.float32), qwen1.load_tokenizer(folder)
    texts = ["the", "in the thing", "道德 한"]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    assert batch.attention_mask[0, 0] == 0
    with torch.no_grad():
        together = torch.stack(model(**batch, output_hidden_states=True).hidden_states[1:])[:, :, -1]
    for row, text in enumerate(texts):
        np.testing.assert_allclose(together[:, row], states_of(model, tokenizer(text).input_ids)[:, -1], atol=1e-5)


@pytest.mark.parametrize("device_map", ["cpu", "auto", {"": "cpu"}])
def test_device_maps_of_one_device(tmp_path, device_map):
    model = qwen1.load_model(checkpoint(tmp_path), dtype=torch.float32, device_map=device_map)
    np.testing.assert_allclose(states_of(model, IDS), reference_states(IDS)[0], atol=2e-5)


@pytest.mark.parametrize("tied", [False, True])
def test_parts_kept_elsewhere_are_brought_in_when_they_run(tmp_path, tied):
    # Two names of the CPU: Accelerate takes the device object for an accelerator, and "cpu" for what is offloaded.
    main = torch.device("cpu")
    places = {"model.embed_tokens": main, "model.rotary_emb": main, "model.layers.0": main, "model.norm": main}
    device_map = places | {"model.layers.1": "cpu", "model.layers.2": "cpu", "lm_head": main}
    folder = checkpoint(tmp_path, tied=tied)
    model = qwen1.load_model(folder, dtype=torch.float32, trunk_only=False, device_map=device_map)
    assert model.model.layers[1].mlp.up_proj.weight.is_meta
    np.testing.assert_allclose(states_of(model, IDS), reference_states(IDS, tied)[0], atol=2e-5)


@pytest.mark.parametrize(
    ("device_map", "message"),
    [
        ("nowhere", "no device 'nowhere'"),
        ({"layers": "cpu"}, "nothing covers embed_tokens.weight"),
        ({"": "disk"}, "fits into no memory"),
    ],
)
def test_a_device_map_that_does_not_work_out_is_refused(tmp_path, device_map, message):
    with pytest.raises(UserError, match=message):
        qwen1.load_model(checkpoint(tmp_path), dtype=torch.float32, device_map=device_map)


def test_oldest_config_counts_rows_in_padded_vocab_size(tmp_path):
    folder = checkpoint(tmp_path, spelling="old", vocab_size=VOCABULARY - 5, padded_vocab_size=VOCABULARY)
    assert qwen1.load_model(folder, dtype=torch.float32).config.vocab_size == VOCABULARY


def test_ignores_rotary_tables_and_the_head_of_a_tied_model(tmp_path):
    folder = checkpoint(tmp_path, tied=True)
    more = {"transformer.rotary_emb.inv_freq": torch.ones(4), "transformer.h.0.attn.rotary_emb.inv_freq": torch.ones(4)}
    write_weights(folder, tensors(tied=True) | more | {"lm_head.weight": torch.ones(1)}, "safetensors")
    np.testing.assert_allclose(
        states_of(qwen1.load_model(folder, dtype=torch.float32), IDS), reference_states(IDS, True)[0], atol=2e-5
    )


def rewrite(folder: Path, drop: str = "", layout: str = "safetensors", **add) -> None:
    made = {name: tensor for name, tensor in tensors().items() if not drop or name != drop}
    write_weights(folder, made | {f"transformer.{name}": tensor for name, tensor in add.items()}, layout)


DAMAGES = {
    "no config": (lambda f: (f / "config.json").unlink(), "config.json: no such file"),
    "config no JSON": (lambda f: (f / "config.json").write_text("{"), "config.json: not readable as JSON"),
    "config a list": (lambda f: (f / "config.json").write_text("[]"), "config.json: holds no JSON object"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "no weights: one of model.safetensors.index.json"),
    "missing tensor": (
        lambda f: rewrite(f, drop="transformer.h.2.mlp.w2.weight"),
        "tensor transformer.h.2.mlp.w2.weight is missing",
    ),
    "missing head": (lambda f: rewrite(f, drop="lm_head.weight"), "tensor lm_head.weight is missing"),
    "extra tensor": (lambda f: rewrite(f, visual=torch.ones(2)), "model.safetensors: .* no tensor transformer.visual"),
    "extra block": (
        lambda f: rewrite(f, **{"h.3.ln_1.weight": torch.ones(2)}),
        "no tensor transformer.h.3.ln_1.weight",
    ),
    "wrong shape": (
        lambda f: rewrite(f, drop="transformer.ln_f.weight", **{"ln_f.weight": torch.ones(HIDDEN + 1)}),
        r"transformer.ln_f.weight is of shape \(17,\), config.json says \(16,\)",
    ),
    "c_attn not three parts": (
        lambda f: rewrite(f, **{"h.0.attn.c_attn.bias": torch.ones(2 * HIDDEN)}),
        r"h.0.attn.c_attn.bias is of shape \(32,\), config.json says \(48,\)",
    ),
    "integers": (
        lambda f: rewrite(f, **{"wte.weight": torch.ones(VOCABULARY, HIDDEN, dtype=torch.int8)}),
        "transformer.wte.weight holds torch.int8",
    ),
    "cut safetensors": (
        lambda f: os.truncate(f / "model.safetensors", 5000),
        "model.safetensors: no readable safetensors file",
    ),
    "pointer": (
        lambda f: (f / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n"),
        "model.safetensors: no readable safetensors file",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_told_in_one_line(tmp_path, damage):
    spoil, message = DAMAGES[damage]
    folder = checkpoint(tmp_path)
    spoil(folder)
    with pytest.raises(UserError, match=message) as caught:
        qwen1.load_model(folder, dtype=torch.float32, trunk_only=False)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "llama"}, "model_type is 'llama', not 'qwen'"),
        ({"quantization_config": {"bits": 4}}, "quantised"),
        ({"rotary_pct": 0.5}, "rotary_pct is 0.5"),
        ({"no_bias": False}, "no_bias is False"),
        ({"hidden_size": -16}, "hidden_size is -16"),
        ({"num_hidden_layers": 2.5}, "num_hidden_layers .* is 2.5, not a whole number"),
        ({"num_attention_heads": 3}, "heads of 8"),
        ({"kv_channels": "8"}, "kv_channels is '8'"),
        ({"seq_length": None}, "seq_length is None"),
    ],
)
def test_bad_settings_are_named(tmp_path, changes, message):
    with pytest.raises(UserError, match=rf"config\.json: .*{message}"):
        qwen1.load_model(checkpoint(tmp_path, **changes), dtype=torch.float32)


@pytest.mark.parametrize("key", ["hidden_size", "intermediate_size", "num_hidden_layers", "seq_length", "vocab_size"])
def test_a_missing_key_is_named(tmp_path, key):
    folder = checkpoint(tmp_path)
    (folder / "config.json").write_text(json.dumps({name: value for name, value in config().items() if name != key}))
    with pytest.raises(UserError, match=f"config.json: the key .*{key}.* is missing"):
        qwen1.load_model(folder, dtype=torch.float32)


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_a_missing_shard_is_named(tmp_path, kind):
    folder = checkpoint(tmp_path, f"sharded {kind}")
    shard = next(folder.glob(f"*-00002-of-00003.{kind}"))
    shard.unlink()
    with pytest.raises(UserError, match=f"weight file {shard.name} is missing"):
        qwen1.load_model(folder, dtype=torch.float32)


@pytest.mark.parametrize(
    "index", [{}, {"weight_map": {}}, {"weight_map": {"a": "../model.bin"}}, {"weight_map": {"a": 1}}]
)
def test_an_index_that_names_no_files_beside_it_is_refused(tmp_path, index):
    folder = checkpoint(tmp_path)
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"index\.json"):
        qwen1.load_model(folder, dtype=torch.float32)


def test_a_tensor_in_two_shards_is_refused(tmp_path):
    folder = checkpoint(tmp_path, "sharded safetensors")
    save_file(tensors(), folder / "model-00001-of-00003.safetensors")
    with pytest.raises(UserError, match=r"is also in model-00001-of-00003\.safetensors"):
        qwen1.load_model(folder, dtype=torch.float32)


class Hostile:
    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


def test_a_bin_file_never_runs_code(tmp_path):
    folder, mark = checkpoint(tmp_path / "checkpoint", "bin"), tmp_path / "mark"
    torch.save(tensors() | {"hostile": Hostile(mark)}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pytorch_model\.bin: damaged, or not a file of plain tensors") as caught:
        qwen1.load_model(folder, dtype=torch.float32)
    assert not mark.exists()
    assert "weights_only" not in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"", b"not a weight file", {"step": 3}, [torch.ones(2)], {3: torch.ones(2)}, "cut"]
)
def test_a_damaged_bin_file_is_named(tmp_path, content):
    folder = checkpoint(tmp_path, "bin")
    path = folder / "pytorch_model.bin"
    if content == "cut":
        os.truncate(path, 3000)
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(UserError, match=r"pytorch_model\.bin: "):
        qwen1.load_model(folder, dtype=torch.float32)


def test_family_is_told_by_the_config_alone(tmp_path):
    assert qwen1.is_first_generation_qwen(checkpoint(tmp_path))
    for text in ('{"model_type": "qwen2"}', "[]", "{"):
        (tmp_path / "config.json").write_text(text)
        assert not qwen1.is_first_generation_qwen(tmp_path)
    assert not qwen1.is_first_generation_qwen(tmp_path / "nowhere")


def test_import_is_light_and_nothing_of_the_remote_code_is_needed(tmp_path):
    script = (
        "import sys; from pathlib import Path; from repe import qwen1\n"
        f"folder = Path({str(checkpoint(tmp_path))!r})\n"
        "assert qwen1.is_first_generation_qwen(folder) and qwen1.max_length(folder) == 64\n"
        "assert not {'torch', 'transformers', 'tokenizers', 'numpy'} & set(sys.modules)\n"
        "sys.modules.update(tiktoken=None, einops=None)\n"
        "qwen1.load_tokenizer(folder)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[1])


def reference_ids(text: str, tokens: dict[bytes, int]) -> list[int]:
    """Byte-pair encoding by its definition: in each word join the neighbours of lowest rank, leftmost first."""
    find_words = pytest.importorskip("regex").findall
    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    ids = []
    for word in find_words(pattern, unicodedata.normalize("NFC", text)):
        whole = word.encode()
        parts = [whole] if whole in tokens else [bytes([byte]) for byte in whole]
        while joins := [(tokens[a + b], at) for at, (a, b) in enumerate(zip(parts, parts[1:])) if a + b in tokens]:  # noqa: B905, RUF007
            _, at = min(joins)
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        ids += [tokens[part] for part in parts]
    return ids


def scrambled(count: int, pieces: list[str]) -> list[str]:
    generator = random.Random(0)
    return ["".join(generator.choices(pieces, k=generator.randint(1, 12))) for _ in range(count)]


PIECES = [*WORDS, *"athen ig", "xyz", "\n", "\r\n", "\t", "'s", "'LL", "12", "7", "e\u0301", "!", "=="]


def test_ids_are_byte_pair_encoding_by_its_definition(tmp_path):
    tokenizer = qwen1.load_tokenizer(checkpoint(tmp_path))
    tokens = {token: rank for rank, token in enumerate(ranks())}
    for text in scrambled(500, PIECES):
        assert tokenizer(text).input_ids == reference_ids(text, tokens), repr(text)
        assert tokenizer.decode(tokenizer(text).input_ids) == unicodedata.normalize("NFC", text)


def test_ids_of_the_real_vocabulary_are_byte_pair_encoding_by_its_definition(golden, golden_tokenizer):
    lines = (golden / "qwen.tiktoken").read_bytes().split()
    tokens = {base64.b64decode(token): int(rank) for token, rank in zip(lines[::2], lines[1::2], strict=True)}
    words = ["It's", "WE'LL", "naïve", "1,234.5", "道德观", "嘘をつく", "약속을", "நான்", "నేను", "kwa", "người", "हिन्दी"]
    for text in scrambled(1500, [*PIECES, *words, *" .,:\u00a0\u3000\u200b"]):
        assert golden_tokenizer(text).input_ids == reference_ids(text, tokens), repr(text)


def test_special_tokens_follow_the_ranks_and_pad_on_the_left(tmp_path):
    tokenizer = qwen1.load_tokenizer(checkpoint(tmp_path))
    first = len(ranks())
    assert tokenizer.convert_tokens_to_ids(list(qwen1.SPECIAL_TOKENS)) == list(range(first, first + 208))
    assert qwen1.SPECIAL_TOKENS[-1] == "<|extra_204|>"
    assert len(tokenizer) == VOCABULARY
    assert (tokenizer.pad_token, tokenizer.eos_token, tokenizer.bos_token) == ("<|extra_0|>", "<|endoftext|>", None)
    assert (tokenizer.padding_side, tokenizer.model_max_length) == ("left", 64)
    batch = tokenizer(["a<|im_end|>", "a"], padding=True)
    a = ranks().index(b"a")
    assert batch == {"input_ids": [[a, first + 2], [first + 3, a]], "attention_mask": [[1, 1], [0, 1]]}
    assert tokenizer.decode(batch["input_ids"][0], skip_special_tokens=True) == "a"
    # The original looks for special tokens in the normalised text, where this one's last sign is another character.
    assert first + 2 not in tokenizer("<|im_end|>\u0338").input_ids


def test_chat_template_is_chatml_with_the_models_own_system_line(tmp_path):
    folder = checkpoint(tmp_path)
    tokenizer = qwen1.load_tokenizer(folder)
    turns = [{"role": "user", "content": "Hi"}]
    start = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
    assert tokenizer.apply_chat_template(turns, tokenize=False) == start
    asked = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert asked == start + "<|im_start|>assistant\n"
    own = tokenizer.apply_chat_template([{"role": "system", "content": "S"}, *turns], tokenize=False)
    assert own == "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
    (folder / "generation_config.json").write_text('{"chat_format": "raw"}')
    assert qwen1.load_tokenizer(folder).chat_template is None


@pytest.mark.parametrize("stop", [0, 1, 2])
def test_generation_stops_at_the_end_of_text_and_of_a_turn(tmp_path, stop):
    folder, made = checkpoint(tmp_path), tensors()
    # A head whose only word, at the end of these ids, is the stop token.
    made["lm_head.weight"] = torch.zeros(VOCABULARY, HIDDEN)
    made["lm_head.weight"][len(ranks()) + stop] = torch.tensor(reference_states(IDS)[0][-1, -1])
    write_weights(folder, made, "safetensors")
    model = qwen1.load_model(folder, dtype=torch.float32, trunk_only=False)
    ids = torch.tensor([IDS])
    reply = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=5, do_sample=False)
    assert reply[0].tolist() == [*IDS, len(ranks()) + stop]


def test_a_model_loads_without_its_tokenizer_file(tmp_path):
    folder = checkpoint(tmp_path)
    (folder / "qwen.tiktoken").unlink()
    assert qwen1.load_model(folder, dtype=torch.float32, trunk_only=False).generation_config.eos_token_id is None


@pytest.mark.parametrize(
    "where", ["gap", "twice", "no rank", "not base64", "cut", "empty", "bytes missing", "too many"]
)
def test_a_damaged_tokenizer_file_is_named(tmp_path, where):
    path = checkpoint(tmp_path) / "qwen.tiktoken"
    lines = path.read_text().splitlines()
    damaged = {
        "gap": lines[:100] + lines[101:],
        "twice": [*lines, f"{lines[5].split()[0]} {len(lines)}"],
        "no rank": [*lines[:-1], lines[-1].split()[0]],
        "not base64": [*lines[:-1], f"=*=* {len(lines) - 1}"],
        "cut": [*lines[:-1], lines[-1][:-2]],
        "empty": [],
        "bytes missing": lines[:200],
        "too many": [*lines, f"{base64.b64encode(b'zzz').decode()} {len(lines)}"],
    }[where]
    path.write_text("\n".join(damaged))
    with pytest.raises(UserError, match=r"qwen\.tiktoken: "):
        qwen1.load_tokenizer(tmp_path)


def test_a_tokenizer_file_of_the_wrong_length_does_not_pass_for_the_published_one(tmp_path):
    with pytest.raises(UserError, match=r"do not fit the vocabulary of 151936"):
        qwen1.load_tokenizer(checkpoint(tmp_path, vocab_size=151936))


def test_a_missing_tokenizer_file_is_named(tmp_path):
    (checkpoint(tmp_path) / "qwen.tiktoken").unlink()
    with pytest.raises(UserError, match=r"qwen\.tiktoken: no such file"):
        qwen1.load_tokenizer(tmp_path)


def test_max_length_is_the_training_length_not_the_extrapolated_one(tmp_path):
    assert qwen1.max_length(checkpoint(tmp_path)) == 64
    assert qwen1.max_length(checkpoint(tmp_path, spelling="old", seq_length=32)) == 32
