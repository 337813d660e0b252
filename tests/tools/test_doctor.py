"""The doctor describes a model, and refuses one whose hidden states are not read correctly."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from conftest import Ended

Script = Callable[..., Ended]


def test_the_doctor_describes_a_model_that_is_read_correctly(script: Script, model_folders: dict[str, Path]) -> None:
    model = ["--model-path", model_folders["gemma2"], "--template", "Q: {input} A:"]
    ended = script("repe.__main__", "doctor", *model)
    assert ended.status == 0, ended
    for part in ("modeling_gemma2.Gemma2Model", "3 of Gemma2DecoderLayer", "':' (id", "'Q: {input} A:'", "ready for"):
        assert part in ended.out


def test_the_doctor_finds_states_that_depend_on_the_batch(
    script: Script, model_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    padded = transformers.BertModel.forward

    def without_mask(self: object, input_ids: torch.Tensor, attention_mask: torch.Tensor, **rest: object) -> object:
        return padded(self, input_ids=input_ids, attention_mask=torch.ones_like(attention_mask), **rest)

    monkeypatch.setattr(transformers.BertModel, "forward", without_mask)
    ended = script("repe.__main__", "doctor", "--model-path", model_folders["bert"])
    assert ended.status == 2
    assert "hidden states differ by more than rounding errors (batch against single)" in ended.err


@pytest.mark.parametrize(
    ("family", "reading"),
    [("llama", "packed into rows"), ("bloom", "after a prefix of all texts"), ("bert", "in padded batches\n")],
)
def test_the_doctor_says_how_texts_are_read(
    family: str, reading: str, script: Script, model_folders: dict[str, Path]
) -> None:
    ended = script("repe.__main__", "doctor", "--model-path", model_folders[family])
    assert ended.status == 0
    assert reading in ended.out.partition("texts are read")[2]


@pytest.mark.parametrize("option", [["--lang", "en"], ["--res-dir", "res"], ["--overwrite"], ["--batch-size", "8"]])
def test_the_doctor_refuses_options_that_it_would_ignore(option: list[str], script: Script) -> None:
    ended = script("repe.__main__", "doctor", *option)
    assert (ended.status, ended.err.count("\n")) == (2, 1)
    assert f"unrecognized arguments: {' '.join(option)} (see python -m repe doctor --help)" in ended.err
