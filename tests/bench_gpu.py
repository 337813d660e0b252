"""What a GPU makes of it, at LLaMA2-7B's shape with random weights. Rows of tests/bench.py."""

import statistics
from collections.abc import Callable, Sequence

import torch
import transformers
from bench_whole import Row, seconds
from conftest import byte_tokenizer

from repe.analysis.recognition import accuracy, correct_pairs
from repe.control.steering import steered
from repe.models.loading import Model, find_blocks
from repe.models.templates import Template
from repe.vectors.batching import batches, token_budget
from repe.vectors.hidden_states import last_token_states, tokenize
from repe.vectors.principal_component import principal_component

LLAMA2_7B = {
    **{"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32},
    "vocab_size": 32_000,
}


def bench_gpu(texts: Sequence[str]) -> list[Row]:
    """The rows, or one that says that there is no GPU."""
    if not torch.cuda.is_available():
        return [("on a GPU, LLaMA2-7B's shape", "not measured: there is none here", "")]
    device = torch.device("cuda", 0)
    print(f"{torch.cuda.get_device_name(device)}, LLaMA2-7B's shape, bfloat16", flush=True)
    return rows_on(device, LLAMA2_7B, torch.bfloat16, texts)


def rows_on(
    device: torch.device, shape: dict[str, int], dtype: torch.dtype, texts: Sequence[str], matrix: int = 8192
) -> list[Row]:
    """Extraction against the bare trunk, and its share of the device's matrix rate; steering, recognition, PCA.

    Args:
        shape: of a LLaMA.
        matrix: rows and columns of the matrices whose product gives the device's rate.
    """
    model = random_llama(device, shape, dtype)
    layers, hidden = model.layers, model.hidden_size
    ids = tokenize(model, texts)
    ours, bare = in_turn(device, lambda: last_token_states(model, texts), lambda: bare_trunk(model, ids))
    tokens = sum(map(len, ids))
    # Two operations a weight of the blocks and a token; what attention adds is small for short texts.
    used = 2 * sum(weight.numel() for weight in model.blocks.parameters()) * tokens / ours
    square = torch.randn(matrix, matrix, device=device, dtype=dtype)
    product = timed(device, lambda: square @ square, 5)
    rate = 2 * matrix**3 / product
    moved, plain = in_turn(device, lambda: decode(model, True), lambda: decode(model, False))
    directions, states = (
        torch.randn(16, layers, hidden, device=device),
        torch.randn(layers, 200, 2, hidden, device=device, dtype=dtype),
    )
    recognized = timed(device, lambda: [accuracy(correct_pairs(directions, states)) for _ in range(16)], 3)
    pairs = torch.randn(3400, hidden, device=device) * torch.linspace(1, 1.5, hidden, device=device)
    pca = timed(device, lambda: [principal_component(pairs) for _ in range(layers)], 3)
    return [
        ("extraction / bare trunk", f"{ours:.2f} s / {bare:.2f} s = {ours / bare:.2f}", "at most 1.05"),
        ("extraction, tokens a second", f"{tokens / ours:.0f}", ""),
        ("share of the matrix rate", f"{used / rate:.2f} of {rate / 1e12:.1f} TFLOP/s", ""),
        ("generation, steered / unsteered", f"{moved:.2f} s / {plain:.2f} s = {moved / plain:.3f}", "at most 1.05"),
        (f"recognition, 16 x 16 x {layers} layers", f"{recognized:.2f} s", "< 1 s"),
        (f"pca, {layers} layers x 3,400 x {hidden:,}", f"{pca:.2f} s", "< 1 s"),
    ]


def random_llama(device: torch.device, shape: dict[str, int], dtype: torch.dtype) -> Model:
    """A LLaMA of random weights, made where it runs."""
    torch.manual_seed(0)
    with device:
        lm = transformers.AutoModelForCausalLM.from_config(transformers.LlamaConfig(**shape), dtype=dtype).eval()
    trunk, template = lm.model, Template("{input}", special_tokens=True)
    return Model("llama", trunk, find_blocks(trunk), byte_tokenizer(), template, device, dtype, None, lm=lm)


@torch.inference_mode()
def bare_trunk(model: Model, ids: Sequence[list[int]]) -> None:
    """The trunk alone over the batches that extraction makes, and nothing kept."""
    for rows in batches([len(row) for row in ids], token_budget(model), None):
        batch = model.tokenizer.pad(
            {"input_ids": [ids[row] for row in rows]}, padding_side="right", return_tensors="pt"
        )
        model.trunk(**batch.to(model.device), use_cache=False)


def decode(model: Model, steer: bool) -> None:
    """32 tokens after each of 16 prompts."""
    ids = torch.randint(3, 200, (16, 40), device=model.device)
    length = {"max_new_tokens": 32, "min_new_tokens": 32}
    layers = range(2, max(3, model.layers // 3))
    activations = {layer: torch.randn(model.hidden_size) for layer in layers} if steer else {}
    with steered(model.lm, model.blocks, activations):
        model.lm.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, pad_token_id=0, **length)


def in_turn(
    device: torch.device, first: Callable[[], object], second: Callable[[], object], turns: int = 3
) -> tuple[float, float]:
    """Median seconds of two kinds of work done by turns, so that a machine that slows down slows both."""
    first(), second()  # once for warmth
    times = [(timed(device, first), timed(device, second)) for _ in range(turns)]
    one, two = (statistics.median(column) for column in zip(*times, strict=True))
    return one, two


def timed(device: torch.device, work: Callable[[], object], repeats: int = 1) -> float:
    """Median seconds of `work`, with all that it has started on the device."""

    def whole() -> None:
        work()
        wait(device)

    wait(device)
    return seconds(whole, repeats)


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
