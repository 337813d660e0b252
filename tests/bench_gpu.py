"""Benchmarks on a GPU with the shape of LLaMA2-7B and random weights; rows of tests/bench.py."""

import statistics
from collections.abc import Callable, Sequence

import numpy as np
import torch
import transformers
from bench_whole import Row, seconds
from conftest import byte_tokenizer

from repe.analysis.recognition import correct_pairs
from repe.control.steering import steered
from repe.models.model import Model
from repe.vectors.concept_vectors import ConceptVectors
from repe.vectors.hidden_states import batches, last_token_states, token_budget, tokenize
from repe.vectors.principal_component import principal_component

LLAMA2_7B = {
    **{"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32},
    "vocab_size": 32_000,
}


def bench_gpu(texts: Sequence[str]) -> list[Row]:
    """Measure on the first GPU; without one, a single row saying so."""
    if not torch.cuda.is_available():
        return [("on a GPU, LLaMA2-7B's shape", "not measured: no GPU", "")]
    device = torch.device("cuda", 0)
    print(f"{torch.cuda.get_device_name(device)}, LLaMA2-7B's shape, bfloat16", flush=True)
    return rows_on(device, LLAMA2_7B, torch.bfloat16, texts)


def rows_on(
    device: torch.device, shape: dict[str, int], dtype: torch.dtype, texts: Sequence[str], matrix: int = 8192
) -> list[Row]:
    """Extraction against the bare trunk and as a share of the matrix product rate; steering, recognition and PCA.

    Args:
        shape: of a LLaMA.
        matrix: rows and columns of the matrices whose product gives the rate.
    """
    model = random_llama(device, shape, dtype)
    layers, hidden = model.layers, model.hidden_size
    ids = tokenize(model, texts)
    ours, bare = in_turn(device, lambda: last_token_states(model, texts), lambda: bare_trunk(model, ids))
    tokens = sum(map(len, ids))
    # Two operations per block weight and token; attention adds little for short texts.
    used = 2 * sum(weight.numel() for weight in model.blocks.parameters()) * tokens / ours
    square = torch.randn(matrix, matrix, device=device, dtype=dtype)
    product = timed(device, lambda: square @ square, 5)
    rate = 2 * matrix**3 / product
    moved, plain = in_turn(device, lambda: decode(model, True), lambda: decode(model, False))
    vectors, states = random_vectors(layers, hidden), torch.randn(layers, 200, 2, hidden, device=device, dtype=dtype)
    recognized = timed(device, lambda: [correct_pairs(vectors, states) for _ in range(16)], 3)
    pairs = torch.randn(3400, hidden, device=device) * torch.linspace(1, 1.5, hidden, device=device)
    pca = timed(device, lambda: [principal_component(pairs) for _ in range(layers)], 3)
    return [
        ("extraction / bare trunk", f"{ours:.2f} s / {bare:.2f} s = {ours / bare:.2f}", "at most 1.05"),
        ("extraction, tokens per second", f"{tokens / ours:.0f}", ""),
        ("share of the matrix product rate", f"{used / rate:.2f} of {rate / 1e12:.1f} TFLOP/s", ""),
        ("generation, steered / unsteered", f"{moved:.2f} s / {plain:.2f} s = {moved / plain:.3f}", "at most 1.05"),
        (f"recognition, 16 x 16 x {layers} layers", f"{recognized:.2f} s", "< 1 s"),
        (f"pca, {layers} layers x 3,400 x {hidden:,}", f"{pca:.2f} s", "< 1 s"),
    ]


def random_llama(device: torch.device, shape: dict[str, int], dtype: torch.dtype) -> Model:
    """A LLaMA with random weights, created on the device."""
    torch.manual_seed(0)
    with device:
        lm = transformers.AutoModelForCausalLM.from_config(transformers.LlamaConfig(**shape), dtype=dtype).eval()
    return Model(lm, byte_tokenizer())


def random_vectors(layers: int, hidden: int) -> dict[str, ConceptVectors]:
    """Vectors of 16 languages."""
    generator, signs = np.random.default_rng(0), np.ones((layers, 1), np.int8)
    drawn = generator.standard_normal((16, layers, 1, hidden), dtype=np.float32)
    return {str(language): ConceptVectors(directions, signs) for language, directions in enumerate(drawn)}


@torch.inference_mode()
def bare_trunk(model: Model, ids: Sequence[list[int]]) -> None:
    """Run the trunk over the batches of the extraction without keeping anything."""
    for rows in batches([len(row) for row in ids], token_budget(model), None):
        batch = model.tokenizer.pad(
            {"input_ids": [ids[row] for row in rows]}, padding_side="right", return_tensors="pt"
        )
        model.trunk(**batch.to(model.device), use_cache=False)


def decode(model: Model, steer: bool) -> None:
    """Generate 32 tokens after each of 16 prompts."""
    ids = torch.randint(3, 200, (16, 40), device=model.device)
    length = {"max_new_tokens": 32, "min_new_tokens": 32}
    layers = range(2, max(3, model.layers // 3))
    activations = {layer: torch.randn(model.hidden_size) for layer in layers} if steer else {}
    with steered(model.lm, model.blocks, activations):
        model.lm.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, pad_token_id=0, **length)


def in_turn(
    device: torch.device, first: Callable[[], object], second: Callable[[], object], turns: int = 3
) -> tuple[float, float]:
    """Median seconds of two functions, measured alternately so that changes in the machine's speed affect both."""
    first(), second()  # warm-up
    times = [(timed(device, first), timed(device, second)) for _ in range(turns)]
    one, two = (statistics.median(column) for column in zip(*times, strict=True))
    return one, two


def timed(device: torch.device, work: Callable[[], object], repeats: int = 1) -> float:
    """Median seconds of `work`, including all its operations on the device."""

    def whole() -> None:
        work()
        wait(device)

    wait(device)
    return seconds(whole, repeats)


def wait(device: torch.device) -> None:
    """Wait until all operations on the device are done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
