"""Tiny models of several architectures, small data, and a way to run the scripts as a user does."""

import gc
import importlib
import json
import os
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from repe.models.model import Model
from repe.models.source import ModelSource
from repe.results.accuracy_file import AccuracyFile
from repe.results.result_file import Kind

ROOT = Path(__file__).parents[1]

torch.set_num_threads(1)

# Collecting garbage walks over every object, and the imported libraries and 2,600 tests are 870,000 that stay.
gc.disable()


def pytest_collection_finish() -> None:
    """Leave out of later collections what exists by now."""
    gc.freeze()
    gc.enable()


SPECIAL = ("<pad>", "<s>", "</s>")
HIDDEN, LAYERS = 32, 3


def byte_tokenizer(*, bos: bool = True, padding_side: str = "left", pad: bool = True) -> PreTrainedTokenizerFast:
    """A tokenizer of single bytes, which needs no training."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*SPECIAL, *alphabet])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    if bos:
        backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>" if pad else None,
        padding_side=padding_side,
        model_input_names=["input_ids", "attention_mask"],
    )


def config(family: str, hidden: int = HIDDEN, layers: int = LAYERS) -> transformers.PretrainedConfig:
    """A small configuration of an architecture."""
    vocabulary = len(SPECIAL) + 256
    common = {"vocab_size": vocabulary, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    usual = common | {
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "max_position_embeddings": 256,
    }
    groups = {"num_key_value_heads": 2}
    makers: dict[str, Callable[[], transformers.PretrainedConfig]] = {
        "llama": lambda: transformers.LlamaConfig(**usual, **groups),
        "qwen2": lambda: transformers.Qwen2Config(**usual, **groups),
        "bloom": lambda: transformers.BloomConfig(**common, hidden_size=hidden, n_layer=layers, n_head=4),
        "gpt_neox": lambda: transformers.GPTNeoXConfig(**usual),
        "gpt2": lambda: transformers.GPT2Config(**common, n_embd=hidden, n_layer=layers, n_head=4, n_positions=256),
        "mistral": lambda: transformers.MistralConfig(**usual, **groups, sliding_window=16),
        "qwen3": lambda: transformers.Qwen3Config(**usual, **groups, head_dim=8),
        "gemma2": lambda: transformers.Gemma2Config(**usual, **groups, head_dim=8, sliding_window=16),
        "gemma3": lambda: transformers.Gemma3TextConfig(**usual, **groups, head_dim=8, sliding_window=16),
        "bert": lambda: transformers.BertConfig(**usual),
    }
    return makers[family]()


def build(folder: Path, family: str, seed: int = 0, layers: int = LAYERS, **tokenizer: object) -> Path:
    """A model of random weights and its tokenizer in `folder`; causal models are saved with their vocabulary head."""
    torch.manual_seed(seed)
    made = config(family, layers=layers)
    kind = transformers.AutoModel if family == "bert" else transformers.AutoModelForCausalLM
    model = kind.from_config(made)
    # With the usual small random weights, all texts have nearly the same state.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4 if parameter.ndim > 1 else 1)
    model.save_pretrained(folder)
    byte_tokenizer(**tokenizer).save_pretrained(folder)  # type: ignore[arg-type]
    return folder


FAMILIES = ("llama", "qwen2", "bloom", "gpt_neox", "gpt2", "mistral", "qwen3", "gemma2", "gemma3", "bert")


class ModelFolders(dict[str, Path]):
    """Checkpoints by architecture, each built when it is first asked for."""

    def __init__(self, parent: Path) -> None:
        self.parent = parent

    def __missing__(self, family: str) -> Path:
        self[family] = build(self.parent / f"tiny-{family}", family)
        return self[family]


@pytest.fixture(scope="session")
def model_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoints by architecture."""
    return ModelFolders(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the results of a finished run, of which tests get copies."""
    return tmp_path_factory.mktemp("finished") / "res"


def load(folder: Path, template: str = "{input}", dtype: str = "float32", *, with_head: bool = False) -> Model:
    """The model in `folder` as the scripts load it, on the CPU."""
    source = ModelSource(folder.name, str(folder), template_text=template, device_name="cpu", dtype_name=dtype)
    return source.load(with_head)


WORDS = (
    *("bag", "dog", "gives", "takes", "helps", "hurts", "a", "the", "old", "new", "friend", "stranger"),
    *("bread", "water", "house", "and", "for", "from", "with", "it"),
)


def write_data(
    folder: Path, concept: str, language: str, pairs: int = 20, last_words: tuple[str, str] | None = None
) -> Path:
    """Pairs of made-up sentences that differ in their last word, some with equal sides, in an MVALUE file.

    The last words are drawn at random, or always the two of `last_words`, the positive one first.
    """
    generator = random.Random(f"{concept} {language}")
    groups: dict[str, dict[str, dict[str, str]]] = {}
    for number in range(pairs):
        sentence = " ".join(generator.choices(WORDS, k=generator.randint(2, 9)))
        positive, negative = last_words or generator.sample(WORDS, 2)
        sample = {"pos": f"{sentence} {language} {positive}", "neg": f"{sentence} {language} {negative}"}
        if number % 7 == 6:
            sample["neg"] = sample["pos"]
        if concept == "deontology":
            sample["scenario"] = " ".join(generator.choices(WORDS, k=4))
        if concept == "truthfulness":
            sample["question"] = " ".join(generator.choices(WORDS, k=4)) + "?"
        groups.setdefault(f"g{number % 3}", {})[str(number)] = sample
    path = folder / concept / f"{concept}_{language}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(groups, ensure_ascii=False), encoding="utf-8")
    return path


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """Four concepts in three languages; every language has its own number of pairs."""
    for concept in ("morality", "deontology", "truthfulness", "toxicity"):
        for number, language in enumerate(("en", "fr", "zh")):
            write_data(tmp_path / "data", concept, language, pairs=18 + 3 * number)
    return tmp_path / "data"


@dataclass
class Ended:
    """How a script ended."""

    status: int
    out: str
    err: str


@pytest.fixture
def script(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ended]:
    """Run one of the scripts with arguments, in this process: `script("collect_vector", "--lang", "en")`."""

    def run(name: str, *arguments: object) -> Ended:
        module = importlib.import_module(name)
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            module.start()
        captured = capsys.readouterr()
        return Ended(int(ended.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write one pixel in place of figures: in tests of other things, drawing takes most of the time."""
    from PIL import Image

    def write(_figure: Any, file: Any, *, format: str, **_: Any) -> None:
        if format == "png":
            Image.new("RGB", (1, 1)).save(file, format)
        else:
            file.write(b"not drawn")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", write)


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of golden numbers; tests that need it skip without the variable that names it."""
    named = os.environ.get("REPE_GOLDEN")
    if not named:
        pytest.skip("REPE_GOLDEN does not name a folder of golden numbers")
    return Path(named) / "golden"


# What made-up result files say of how they were made.
RESULT_META: dict[str, Any] = {
    "model": "tiny",
    "family": "none",
    "source": "tiny",
    "revision": "",
    "weights": "abc",
    "template": "{input}",
    "special_tokens": True,
    "truncate": False,
    "dtype": "float32",
    "split": 0.8,
    "method": "cluster_mean",
    "random_direction": False,
    "seed": None,
    "versions": {"torch": "2", "transformers": "5"},
}


def write_accuracies(
    folder: Path,
    correct: dict[str, dict[str, np.ndarray]],
    keys: dict[str, list[str]],
    validation: dict[str, dict[str, np.ndarray]] | None = None,
    *,
    model: str = "tiny",
    concept: str = "morality",
    kind: Kind = Kind(),  # noqa: B008
    items: dict[str, list[str]] | None = None,
) -> AccuracyFile:
    """An `acc.pt` of made-up outcomes.

    Args:
        correct: by source and target, (layers, pairs) of 0 and 1.
        keys: of the pairs, by target.
        validation: by source and target, (layers,).
        items: of the pairs, by target; each pair is an item of its own if not given.
    """
    outcomes = {s: {t: torch.tensor(row, dtype=torch.uint8) for t, row in row.items()} for s, row in correct.items()}
    rows = {
        "accuracy": {s: {t: cell.double().mean(-1) for t, cell in row.items()} for s, row in outcomes.items()},
        "correct": outcomes,
        "test_pairs": {target: len(names) for target, names in keys.items()},
        "test_keys": keys,
        "test_items": items or keys,
        "validation": {
            s: {t: torch.tensor(cell, dtype=torch.float64) for t, cell in row.items()}
            for s, row in (validation or {}).items()
        },
    }
    file = AccuracyFile(folder, model, concept, kind)
    layers = next(len(cell) for row in outcomes.values() for cell in row.values())
    file.add({"family": "none"}, layers, rows)
    return file
