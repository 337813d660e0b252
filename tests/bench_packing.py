"""Extraction against what it cannot go below, and against other packages; rows of tests/bench.py.

Processor time of one thread, the ways in turn. The rows with repeng and steering-vectors need the packages, which pin
other versions of PyTorch or Transformers and are therefore installed beside them:

  pip install --no-deps --target peers repeng==0.4.0 steering-vectors==0.12.2
  PYTHONPATH=.:peers python tests/bench_packing.py [PAIRS.json]

PAIRS.json: a file in the MVALUE layout, of a concept with questions. Without it, made-up pairs have the lengths of
TruthfulQA: a question of 8 to 20 words and two answers of 4 to 16.
"""

import math
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
import transformers
from bench_gpu import bare_trunk
from bench_whole import Row
from conftest import ROOT, byte_tokenizer

import repe
from repe.data import Pair, read_pairs
from repe.models.model import Model
from repe.vectors.hidden_states import last_token_states, tokenize

SMOLLM2 = ROOT / "demo/models/real/SmolLM2-135M-Instruct"
# BLOOMZ-560M
SHAPE = {"hidden_size": 1024, "n_layer": 24, "n_head": 16, "vocab_size": 250_880}
PAIRS = 40
GOALS = {
    **{"bare trunk": "<= 0.55", "limit": "<= 1.2"},
    **{"plain loop": ">= 2.5", "repeng": ">= 3.3", "steering-vectors": ">= 2.8"},
}
# As repeng does by default; steering-vectors and the plain loop get the same.
PEER_BATCH = 32
# Passes, rows and tokens a row without padding: about as many tokens as the texts have.
FULL_BATCHES = (4, 8, 64)


def bench_packing(path: str | None = None) -> list[Row]:
    """SmolLM2 in its template, if the demo has converted it, and BLOOMZ-560M's shape without a template."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    pairs = read_pairs(path)[:PAIRS] if path else made_up_pairs(PAIRS)
    rows = []
    if SMOLLM2.is_dir():
        rows += rows_of(repe.load_model(SMOLLM2, device="cpu"), pairs, "SmolLM2", GOALS)
    torch.manual_seed(0)
    whole = transformers.BloomForCausalLM(transformers.BloomConfig(**SHAPE)).eval()
    rows += rows_of(Model(whole, byte_tokenizer()), pairs[: PAIRS // 8], "BLOOMZ-560M shape")
    torch.set_num_threads(threads)
    return rows


def made_up_pairs(count: int) -> list[Pair]:
    """Pairs of a question and two answers in random common words."""
    generator = random.Random(0)
    words = [
        "the",
        "of",
        "and",
        "to",
        "in",
        "is",
        "you",
        "that",
        "he",
        "was",
        "for",
        "are",
        "with",
        "his",
        "at",
        "have",
    ]

    def text(least: int, most: int) -> str:
        return " ".join(generator.choices(words, k=generator.randint(least, most)))

    questions = [f"Question: {text(8, 20)}? Answer:" for _ in range(count)]
    return [Pair(f"{question} {text(4, 16)}", f"{question} {text(4, 16)}") for question in questions]


def rows_of(model: Model, pairs: Sequence[Pair], name: str, goals: Mapping[str, str] | None = None) -> list[Row]:
    """Rows of one model; `goals` by the way that extraction is compared with."""
    texts = [text for pair in pairs for text in (pair.pos, pair.neg)]
    tokens = tokenize(model, texts)
    rendered = [model.template.render(text) for text in texts]
    distinct = len({tuple(ids[:end]) for ids in tokens for end in range(1, len(ids) + 1)})
    ways: dict[str, Callable[[], object]] = {
        "extraction": lambda: last_token_states(model, texts),
        "bare trunk": lambda: bare_trunk(model, tokens),
        "limit": lambda: full_batches(model),
        "plain loop": lambda: plain_loop(model, rendered),
        **peers(model, rendered),
    }
    ways["extraction"]()  # finds how the model can be read
    times = processor_times(ways)
    ours = times.pop("extraction")
    times["limit"] *= distinct / math.prod(FULL_BATCHES)
    count = {"limit": f" ({sum(map(len, tokens))} tokens, {distinct} distinct)"}
    found = {}
    for way, theirs in times.items():
        above, below = (ours, theirs) if way in ("bare trunk", "limit") else (theirs, ours)
        # Of each turn, because the machine's speed changes from one to the next.
        ratio = np.median(above / below)
        found[way] = f"{np.median(above):.2f} s / {np.median(below):.2f} s, {ratio:.2f}{count.get(way, '')}"
    names = {"bare trunk": "extraction / bare trunk", "limit": "extraction / limit"}
    return [
        (f"{name}: {names.get(way, f'{way} / extraction')}", result, (goals or {}).get(way, ""))
        for way, result in found.items()
    ]


def processor_times(ways: Mapping[str, Callable[[], object]], turns: int = 3) -> dict[str, np.ndarray]:
    """Seconds of processor time of each way in each turn, (turns,)."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(turns):
        for name, way in ways.items():
            start = time.process_time()
            way()
            times[name].append(time.process_time() - start)
    return {name: np.array(each) for name, each in times.items()}


@torch.inference_mode()
def full_batches(model: Model) -> None:
    """The trunk's best rate: rows of equal length without padding."""
    passes, rows, length = FULL_BATCHES
    for _ in range(passes):
        model.trunk(input_ids=torch.randint(3, 200, (rows, length)), use_cache=False)


@torch.inference_mode()
def plain_loop(model: Model, rendered: Sequence[str]) -> None:
    """A loop over Transformers: one text at a time, all hidden states, the last token's kept."""
    for text in rendered:
        batch = model.tokenizer(text, return_tensors="pt", add_special_tokens=model.template.special_tokens)
        output = model.lm(**batch, output_hidden_states=True)
        torch.stack([states[0, -1] for states in output.hidden_states[1:]])


def peers(model: Model, rendered: Sequence[str]) -> dict[str, Callable[[], object]]:
    """Vectors from the same texts with the packages that are installed."""
    found: dict[str, Callable[[], object]] = {}
    positive, negative = rendered[::2], rendered[1::2]
    try:
        from steering_vectors import train_steering_vector

        samples = list(zip(positive, negative, strict=True))
        found["steering-vectors"] = lambda: train_steering_vector(
            model.lm, model.tokenizer, samples, batch_size=PEER_BATCH
        )
    except ImportError:
        print("steering-vectors is not installed", file=sys.stderr)
    try:
        np.float_ = np.float64  # which repeng 0.4 expects and NumPy 2 does not have
        from repeng import ControlVector, DatasetEntry

        entries = [DatasetEntry(*sides) for sides in zip(positive, negative, strict=True)]
        found["repeng"] = lambda: ControlVector.train(model.lm, model.tokenizer, entries, batch_size=PEER_BATCH)
    except ImportError:
        print("repeng is not installed", file=sys.stderr)
    return found


if __name__ == "__main__":
    for measure, result, goal in bench_packing(*sys.argv[1:2]):
        print(f"{measure:<45}{result:<60}{goal}", flush=True)
