"""Benchmarks: python tests/bench.py (or make bench)

Each row compares the time of this implementation with that of another way to do the same work, or with a goal. Models
have random weights. Takes half an hour or more on two cores.
"""

import os
import random

import numpy as np
import torch
import transformers
from bench_gpu import bare_trunk, bench_gpu, in_turn, random_vectors
from bench_packing import bench_packing
from bench_whole import Row, bench_analyses, bench_commands, bench_memory, bench_processes, llama, seconds
from conftest import byte_tokenizer
from sklearn.decomposition import PCA

from repe.analysis.recognition import correct_pairs, recognize
from repe.control.steering import steered
from repe.data import Pair
from repe.models.model import Model, find_blocks
from repe.vectors.concept_vectors import collect
from repe.vectors.hidden_states import last_token_states, tokenize
from repe.vectors.principal_component import principal_component

# BLOOMZ-560M, whose vocabulary head takes nearly half of the operations.
SHAPE = {"hidden_size": 1024, "n_layer": 24, "n_head": 16, "vocab_size": 250_880}
TEXTS = 96


def texts_of_many_lengths(count: int) -> list[str]:
    """Texts of 5 to 200 letters, most of them short, in random order."""
    generator = random.Random(0)
    lengths = [min(200, max(5, int(generator.lognormvariate(3.4, 0.8)))) for _ in range(count)]
    return ["".join(generator.choices("abcdefgh ", k=length)) for length in lengths]


def bench_extraction() -> list[Row]:
    """Extraction against a bare forward pass of the trunk on the same batches, and against a simple implementation."""
    torch.manual_seed(0)
    whole = transformers.BloomForCausalLM(transformers.BloomConfig(**SHAPE)).eval()
    trunk, tokenizer, cpu = whole.transformer, byte_tokenizer(), torch.device("cpu")
    model = Model(trunk, tokenizer)
    texts = texts_of_many_lengths(TEXTS)
    ids = tokenize(model, texts)

    def plain() -> None:
        with torch.no_grad():
            for start in range(0, len(texts), 8):
                batch = tokenizer(texts[start : start + 8], return_tensors="pt", padding=True)
                whole(**batch, output_hidden_states=True)

    ours, trunk_alone = in_turn(cpu, lambda: last_token_states(model, texts), lambda: bare_trunk(model, ids))
    simple = seconds(plain)
    return [
        (
            "extraction / bare trunk, same batches",
            f"{ours:.1f} s / {trunk_alone:.1f} s = {ours / trunk_alone:.2f}",
            "<= 1.05",
        ),
        (
            "simple implementation / extraction",
            f"{simple:.1f} s / {ours:.1f} s = {simple / ours:.1f}",
            ">= 3.5",
        ),
    ]


def bench_generation() -> list[Row]:
    """Steered against unsteered generation of the same batch, measured alternately."""
    torch.manual_seed(0)
    shape = {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8, "num_attention_heads": 8}
    lm = transformers.LlamaForCausalLM(transformers.LlamaConfig(**shape, vocab_size=32_000)).eval()
    ids = torch.randint(3, 32_000, (16, 40))
    options = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 32, "min_new_tokens": 32, "do_sample": False}
    layers = {layer: torch.randn(512) for layer in range(3, 6)}

    def plain() -> None:
        lm.generate(ids, **options)

    def moved() -> None:
        with steered(lm, find_blocks(lm), layers):
            lm.generate(ids, **options)

    with_steering, without = in_turn(torch.device("cpu"), moved, plain, 7)
    found = f"{with_steering / without:.3f} ({with_steering:.2f} s / {without:.2f} s)"
    return [("generation, steered / unsteered", found, "at most 1.05")]


def bench_recognition() -> list[Row]:
    """All pairs of 16 languages, with 24 layers and 200 test pairs each, from computed states."""
    states = torch.randn(24, 200, 2, 1024)
    took = seconds(lambda: [correct_pairs(random_vectors(24, 1024), states) for _ in range(16)], 3)
    return [("recognition, 16 x 16 x 24 layers", f"{took:.2f} s", "< 1 s")]


def bench_pca() -> list[Row]:
    """PCA of one layer of 3,400 pairs x 4,096, times 32; accuracy against scikit-learn's exact solver on a part."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(3400, 4096, generator=generator) * torch.linspace(1, 1.5, 4096)
    took = 32 * seconds(lambda: principal_component(rows), 3)
    part = rows[:600, :1500]
    found = principal_component(part).numpy()
    expected = PCA(1, svd_solver="full").fit(part.double().numpy()).components_[0]
    difference = np.abs(found - expected * np.sign(expected[np.abs(expected).argmax()])).max()
    return [("pca, 32 layers x 3,400 x 4,096", f"{took:.1f} s (error {difference:.0e})", "< 20 s")]


def bench_stages() -> list[Row]:
    """Stage 2 against stage 1, from texts to results: seconds per text, for 16 sources and 200 pairs."""
    model = Model(llama(512, 12, 1408).model, byte_tokenizer())
    texts = texts_of_many_lengths(400)
    # Both stages run the same texts, so that lengths and batches are equal.
    pairs = [Pair(*texts[place : place + 2]) for place in range(0, 400, 2)]
    sources = dict.fromkeys(map(str, range(16)), collect(model, pairs))
    first = seconds(lambda: collect(model, pairs), 3) / len(texts)
    second = seconds(lambda: recognize(model, sources, {"0": pairs}), 3) / len(texts)
    found = f"{1000 * second:.1f} ms / {1000 * first:.1f} ms = {second / first:.2f}"
    return [("stage 2 / stage 1 per text, 16 sources", found, "at most 1.1")]


BENCHES = (
    *(bench_packing, bench_extraction, bench_generation, bench_stages, bench_recognition, bench_pca),
    *(bench_commands, bench_processes, bench_memory, bench_analyses),
    lambda: bench_gpu(texts_of_many_lengths(4000)),
)


def main() -> None:
    # conftest, imported above, sets one thread.
    torch.set_num_threads(os.cpu_count() or 1)
    versions = f"PyTorch {torch.__version__}, Transformers {transformers.__version__}"
    print(f"{versions}, {torch.get_num_threads()} threads, float32")
    for bench in BENCHES:
        for measure, found, goal in bench():
            print(f"{measure:<50}{found:<45}{goal}", flush=True)


if __name__ == "__main__":
    main()
