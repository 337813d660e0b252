"""Models from strangers: templates, configs, weight lists and GGUF files that hang, take all memory or lead outside."""

import json
import os
import shutil
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from conftest import Ended, write_data

from repe.models import limits
from strangers.cases import MEMORY, assert_refused, in_limits, run_here

Attack = Callable[[Path], object]
STAGE = ("collect_vector", "--lang", "en", "--concept", "morality", "--device", "cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, model_folders: dict[str, Path]) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_data(folder, "morality", "en")
    # Also imports all modules for the forks.
    ended = run_here(*STAGE, "--model-path", model_folders["llama"], "--data-dir", folder, "--res-dir", folder / "res")
    assert ended.status == 0, ended
    return folder


@pytest.fixture
def model(tmp_path: Path, model_folders: dict[str, Path]) -> Path:
    return Path(shutil.copytree(model_folders["llama"], tmp_path / "tiny"))


def refused(path: Path, data: Path, tmp_path: Path, *named: str) -> None:
    """Stage 1 and the doctor refuse the model, and not because memory runs out."""
    commands = {
        "1": (*STAGE, "--model-path", path, "--data-dir", data, "--res-dir", tmp_path / "res"),
        "doctor": ("repe.tools.doctor", "--model-path", path, "--device", "cpu"),
    }

    def work() -> None:
        for letter, command in commands.items():
            start = time.monotonic()
            ended = run_here(*command)
            last = "".join(ended.err.splitlines()[-1:])
            print(json.dumps([letter, vars(ended) | {"err": last}, time.monotonic() - start]))

    whole = in_limits(work, MEMORY)
    assert whole.status == 0, whole
    for letter, found, seconds in map(json.loads, whole.out.splitlines()):
        assert "allocate" not in found["err"], found
        assert_refused(Ended(**found), seconds, *named, where=letter)


def template(text: str) -> Attack:
    return lambda model: (model / "chat_template.jinja").write_text(text)


def config(**settings: object) -> Attack:
    def edit(model: Path) -> None:
        path = model / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | settings))

    return edit


def outside(model: Path) -> None:
    """The weights lie beside the folder, and a list in it leads there."""
    (model / "model.safetensors").rename(model.parent / "outside.safetensors")
    names = safetensors.torch.load_file(model.parent / "outside.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, "../outside.safetensors")}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))


def below(model: Path) -> None:
    """Where the fingerprint, which is of the files in the folder, would miss them."""
    (model / "sub").mkdir()
    (model / "model.safetensors").rename(model / "sub/model.safetensors")
    names = safetensors.torch.load_file(model / "sub/model.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, "sub/model.safetensors")}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))


LOOPS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}{{ messages[0].content }}"
ATTACKS: dict[str, tuple[Attack, str]] = {
    "nested loops": (template(LOOPS), "/tiny fails (it takes more than 1 seconds"),
    "a wide format": (template('{{ "%999999999d" % 1 }}{{ messages[0].content }}'), "tiny fails"),
    "a long text": (template('{{ "x" * 9999999999 }}{{ messages[0].content }}'), "tiny fails"),
    "a long number": (template("{{ 9 ** (9 ** 9) }}{{ messages[0].content }}"), "tiny fails"),
    "a million layers": (config(num_hidden_layers=10**6), "config.json: num_hidden_layers is 1000000, not 0 to 300"),
    "a million layers below": (config(text_config={"n_layer": 10**6}), "config.json: n_layer is 1000000"),
    "no layers": (config(num_hidden_layers=-1), "config.json: num_hidden_layers is -1"),
    "more weights than bytes": (config(hidden_size=99_996), "config.json describes 1.1e+08 weights, too many"),
    "a large text": (template('{{ "x" * 9999999 }}{{ messages[0].content }}'), "makes 10000006 characters"),
    "another file": (template('{% include "/etc/hostname" %}{{ messages[0].content }}'), "tiny fails"),
    "a pipe beside the weights": (lambda model: os.mkfifo(model / "x.model"), "x.model is not a regular file"),
    "a sparse config": (
        lambda model: os.truncate(model / "config.json", 1 << 34),
        "config.json is larger than 256 MiB",
    ),
    "a wide state": (config(hidden_size=2**40), "config.json: hidden_size"),
    "weights outside": (outside, "model.safetensors.index.json names weights outside"),
    "weights below": (below, "model.safetensors.index.json names weights outside"),
    "a list of weights that is none": (
        lambda model: (model / "model.safetensors.index.json").write_text("[" * 99_999),
        "model.safetensors.index.json cannot be read",
    ),
    "a config that is a pipe": (
        lambda model: ((model / "config.json").unlink(), os.mkfifo(model / "config.json")),
        "config.json",
    ),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_are_refused(
    name: str, model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SECONDS", 1.0)
    attack, said = ATTACKS[name]
    attack(model)
    refused(model, data, tmp_path, said)


def test_a_kernel_in_the_config_is_not_asked_for(model: Path, data: Path, tmp_path: Path) -> None:
    config(attn_implementation="somebody/kernel")(model)
    options = ["--model-path", model, "--data-dir", data, "--res-dir"]
    assert run_here(*STAGE, *options, tmp_path / "res").status == 0
    mine, usual = tmp_path / "res/tiny/morality/reader_dict.pt", data / "res/tiny-llama/morality/reader_dict.pt"
    found, expected = (torch.load(path, weights_only=True)["languages"]["en"] for path in (mine, usual))
    assert torch.equal(found["directions"], expected["directions"])


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def gguf(*entries: bytes, tensors: bytes = b"", counts: tuple[int, int] | None = None) -> bytes:
    head = counts or (1 if tensors else 0, len(entries))
    return b"GGUF" + struct.pack("<IQQ", 3, *head) + b"".join(entries) + tensors + bytes(400)


def tensor(*sizes: int, kind: int = 0, offset: int = 0) -> bytes:
    return text("a") + struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, kind, offset)


def array(kind: int, count: int) -> bytes:
    return text("k") + struct.pack("<IIQ", 9, kind, count)


def entry(name: str, value: str | int) -> bytes:
    if isinstance(value, str):
        return text(name) + struct.pack("<I", 8) + text(value)
    return text(name) + struct.pack("<II", 4, value)


LLAMA = entry("general.architecture", "llama")


GGUF_FILES = {
    "nothing": b"",
    "a header alone": b"GGUF" + bytes(4),
    "absurd counts": gguf(counts=(1 << 60, 1 << 60)),
    "a long text": gguf(struct.pack("<Q", 1 << 60)),
    "a long list": gguf(array(4, 1 << 60)),
    "a long list of texts": gguf(array(8, 1 << 60)),
    "lists in lists": gguf(array(9, 1) + struct.pack("<IQ", 9, 1) * 20),
    "an unknown type": gguf(text("k") + struct.pack("<I", 99)),
    "a large tensor": gguf(tensors=tensor(1 << 30, 1 << 30)),
    "a tensor outside": gguf(tensors=tensor(4, offset=1 << 40)),
    "a tensor of many dimensions": gguf(tensors=tensor(*[1] * 30)),
    "a tensor of an unknown type": gguf(tensors=tensor(4, kind=12345)),
    "no architecture": gguf(),
    "a list of three million numbers": gguf(array(0, 3_000_000) + bytes(3_000_000)),
    "a list of three million texts": gguf(array(8, 3_000_000) + bytes(8 * 3_000_000)),
    "60,000 entries": gguf(*(entry(str(number), number) for number in range(60_000))),
    "the same entry twice": gguf(LLAMA, LLAMA),
    "no alignment": gguf(LLAMA, entry("general.alignment", 0), tensors=tensor(4)),
    "an unknown architecture": gguf(entry("general.architecture", "\x1b[31m")),
    "a million layers": gguf(LLAMA, entry("llama.block_count", 10**6)),
    "a wide layer": gguf(LLAMA, entry("llama.embedding_length", 2**31), entry("llama.block_count", 2)),
    "a version of the future": gguf(LLAMA).replace(struct.pack("<I", 3), struct.pack("<I", 99), 1),
    "the other byte order": gguf(LLAMA).replace(struct.pack("<I", 3), struct.pack(">I", 3), 1),
}


@pytest.mark.parametrize("name", GGUF_FILES)
def test_hostile_gguf_files_are_refused(name: str, data: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny.gguf").write_bytes(GGUF_FILES[name])
    refused(tmp_path / "tiny.gguf", data, tmp_path, "tiny.gguf")


def test_a_pipe_is_no_gguf_file(data: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "tiny.gguf")
    refused(tmp_path / "tiny.gguf", data, tmp_path, "tiny.gguf")
