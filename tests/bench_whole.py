"""Time and memory of whole processes; rows of tests/bench.py."""

import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from conftest import ROOT, byte_tokenizer

from repe.tools import convert

Row = tuple[str, str, str]
"""Measure, result and goal."""


def seconds(work: Callable[[], object], repeats: int = 1) -> float:
    """Median seconds of `work` over `repeats` runs."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def llama(hidden: int, layers: int, intermediate: int, **more: int) -> transformers.LlamaForCausalLM:
    """A LLaMA with random weights, over single bytes."""
    torch.manual_seed(0)
    shape = {"hidden_size": hidden, "num_hidden_layers": layers, "intermediate_size": intermediate}
    made = transformers.LlamaConfig(**shape, vocab_size=259, num_attention_heads=8, **more)
    return transformers.LlamaForCausalLM(made).eval()


def bench_processes() -> list[Row]:
    """Stage 1 in two processes against one, with one thread each, including start-up and launcher."""
    with tempfile.TemporaryDirectory() as folder:
        save(llama(512, 8, 1408), folder)
        data = ("--data-dir", f"{POCKET}/data", "--concept", "morality", "toxicity")
        stage = ("collect_vector.py", "--model-path", f"{folder}/model", *data, "--overwrite")
        launch = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2")
        divided = command(*launch, *stage, "--res-dir", f"{folder}/two", OMP_NUM_THREADS="1")
        alone = command(*stage, "--res-dir", f"{folder}/one", OMP_NUM_THREADS="1")
        # Each takes minutes, in which the machine's speed can drift. In this order a steady drift cancels out.
        before, one, after = seconds(divided), seconds(alone), seconds(divided)
    two = (before + after) / 2
    return [("one process / two, with one thread each", f"{one:.0f} s / {two:.0f} s = {one / two:.2f}", ">= 1.8")]


def bench_memory() -> list[Row]:
    """Peak memory of stage 1 above a run with 64 texts; the goal is the size of the training texts' states."""
    hidden, layers = 512, 24
    with tempfile.TemporaryDirectory() as folder:
        save(llama(hidden, layers, 16, num_key_value_heads=1), folder)
        few, *peaks = (peak_memory(folder, pairs) for pairs in (40, 1000, 3000))
    found = ", ".join(f"{peak - few:.0f}" for peak in peaks)
    kept = ", ".join(f"{1.6 * pairs * layers * hidden * 4 / 2**20:.0f}" for pairs in (1000, 3000))
    return [("peak MiB, 1,600 and 4,800 texts", found, f"{kept} + a constant")]


def save(lm: transformers.PreTrainedModel, folder: str) -> None:
    """Save a model and its tokenizer in `folder`/model."""
    lm.save_pretrained(f"{folder}/model")
    byte_tokenizer().save_pretrained(f"{folder}/model")


def peak_memory(folder: str, pairs: int) -> float:
    """Peak memory of stage 1 on pairs of short texts, in MiB."""
    generator = random.Random(0)
    path = Path(folder) / f"data{pairs}" / "made" / "made_en.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    sides = [
        ["".join(generator.choices(letters, k=generator.randint(3, 7))) for letters in ("abcd", "efgh")]
        for _ in range(pairs)
    ]
    path.write_text(json.dumps({"": {str(place): {"pos": pos, "neg": neg} for place, (pos, neg) in enumerate(sides)}}))
    options = ("--model-path", f"{folder}/model", "--data-dir", str(path.parents[1]), "--res-dir", f"{folder}/res")
    work = command("-c", UNTIL_END, "collect_vector.py", *options, "--overwrite", OMP_NUM_THREADS="1")
    return int(work().stdout.split()[-2]) / 1024


# Runs the script in its arguments, then prints its peak resident memory in kB. (getrusage includes the parent's peak.)
UNTIL_END = """
import atexit, pathlib, runpy, sys
atexit.register(lambda: print(pathlib.Path("/proc/self/status").read_text().partition("VmHWM:")[2].partition("\\n")[0]))
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def command(*arguments: str, **environment: str) -> "Callable[[], subprocess.CompletedProcess[str]]":
    """A function that runs Python with these arguments in a new process."""
    whole = os.environ | environment
    return lambda: subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=whole, check=True, capture_output=True, text=True
    )


# Runs the script in its arguments and exits at the first call of a model.
POCKET = "demo/pocket"
UNTIL_FORWARD = """
import os, runpy, sys
from torch.nn.modules import module
module.register_module_forward_pre_hook(lambda *_: os._exit(0))
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def bench_commands() -> list[Row]:
    """The scripts' help, and a stage with a small model."""
    with tempfile.TemporaryDirectory() as folder:
        model = (
            "--model-path",
            f"{POCKET}/models/pocket-llama-M",
            "--data-dir",
            f"{POCKET}/data",
            "--res-dir",
            folder,
        )
        work = ("collect_vector.py", *model, "--lang", "sw", "--concept", "morality", "--overwrite")
        to_forward = seconds(command("-c", UNTIL_FORWARD, *work), 3)
        took, help_took = seconds(command(*work), 3), seconds(command("collect_vector.py", "--help"), 3)
    return [
        ("start to the first forward pass, small model", f"{to_forward:.1f} s", "< 6 s"),
        ("start to end of a stage, 76 pairs, small model", f"{took:.1f} s", ""),
        ("--help", f"{help_took:.2f} s", "< 0.5 s"),
    ]


def bench_analyses() -> list[Row]:
    """The three analysis scripts on nine models, from downloads (.pk) and from converted files (.pt)."""
    if "REPE_GOLDEN" not in os.environ:
        return []
    names = "llama2-chat-7B,llama2-chat-13B,llama2-chat-70B,qwen-chat-1B8,qwen-chat-7B,qwen-chat-14B"
    scripts = ("recognize_concept.py", "consistency_analysis.py", "transferability_analysis.py")
    with tempfile.TemporaryDirectory() as folder:
        shutil.unpack_archive(Path(os.environ["REPE_GOLDEN"]) / "golden/released_analysis/res.tar.xz", folder)
        options = ("--cross-model", f"{names},bloomz-560M,bloomz-1B7,bloomz-7B1", "--res-dir", f"{folder}/res")

        def all_three() -> float:
            return sum(seconds(command(script, *options)) for script in scripts)

        from_downloads = all_three()
        for file in convert.downloads(Path(folder) / "res"):
            convert.convert(file)
            file.released_path.unlink()
        converted = all_three()
    return [
        ("the three analyses, nine models, from .pk", f"{from_downloads:.1f} s", "< 30 s"),
        ("the three analyses, nine models, from .pt", f"{converted:.1f} s", "< 20 s"),
    ]
