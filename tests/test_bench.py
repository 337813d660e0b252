"""The benchmarks compare equal work, and the GPU part also runs on a CPU. Nothing is timed here."""

from typing import Any

import bench_gpu
import bench_packing
import pytest
import torch
from bench import texts_of_many_lengths
from torch import nn

from repe.vectors.hidden_states import last_token_states, tokenize

TINY = {
    **{"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2},
    "vocab_size": 259,
}
CPU = torch.device("cpu")


def test_extraction_and_the_bare_trunk_run_the_same_batches() -> None:
    model, texts = bench_gpu.random_llama(CPU, TINY, torch.float32), texts_of_many_lengths(60)
    seen: list[tuple[int, ...]] = []

    def note(_trunk: nn.Module, _args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append(tuple(kwargs["input_ids"].shape))

    model.trunk.register_forward_pre_hook(note, with_kwargs=True)
    last_token_states(model, texts)
    ours = seen.copy()
    seen.clear()
    bench_gpu.bare_trunk(model, tokenize(model, texts))
    assert len(ours) > 1
    assert seen == ours


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gpu_rows_can_be_measured_on_any_device(dtype: torch.dtype) -> None:
    rows = bench_gpu.rows_on(CPU, TINY, dtype, texts_of_many_lengths(20), matrix=32)
    assert len(rows) == 6
    assert all("nan" not in found for _, found, _ in rows)


def test_the_ways_to_extract_can_be_timed_on_any_model() -> None:
    model = bench_gpu.random_llama(CPU, TINY, torch.float32)
    pairs = bench_packing.made_up_pairs(3)
    rows = bench_packing.rows_of(model, pairs, "tiny", bench_packing.GOALS)
    assert {measure for measure, *_ in rows} >= {
        *("tiny: extraction / bare trunk", "tiny: extraction / limit", "tiny: plain loop / extraction"),
    }
    tokens = [ids for pair in pairs for ids in tokenize(model, [pair.pos, pair.neg])]
    distinct = {tuple(ids[:end]) for ids in tokens for end in range(1, len(ids) + 1)}
    assert f"({sum(map(len, tokens))} tokens, {len(distinct)} distinct)" in rows[1][1]
