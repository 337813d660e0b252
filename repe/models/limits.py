"""Limits on what comes with a model: its config, its list of weight files, and its chat template."""

import json
import os
import select
import signal
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from repe.errors import UserError
from repe.files import LARGEST as LARGEST_FILE
from repe.files import read_regular

# Larger than in any model: a config that says more would take hours or all memory before its weights are read.
LARGEST = {
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), 300),
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "num_attention_heads"), 100_000),
    **dict.fromkeys(("vocab_size", "padded_vocab_size", "intermediate_size"), 10_000_000),
}
ATTENTIONS = (None, "eager", "sdpa")
READ_WHOLE = (".json", ".jinja", ".model", ".tiktoken", ".txt")
INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
# Weights in a byte of the files (GGUF has types of 1.6 bits), and in any model.
MOST_PER_BYTE, FEW = 8, 10_000_000
# Seconds and further bytes that a chat template may take.
SECONDS, MEMORY = 5.0, 1 << 29


def check_config(config: Mapping[str, Any], path: Path) -> None:
    """Refuse a config that describes a model larger than any, or weights in another folder.

    Raises:
        UserError: it does.
    """
    for name, largest in LARGEST.items():
        for part in (config, *(value for value in config.values() if isinstance(value, dict))):
            value = part.get(name)
            if isinstance(value, int) and not 0 <= value <= largest:
                raise UserError(f"{path}: {name} is {value}, not 0 to {largest}: download the config again")
    if "transformers_weights" in config:
        check_names([config["transformers_weights"]], path)


def check_size(config: Any, make: Callable[[Any], Any], weights: Sequence[Path], path: Path) -> None:
    """Refuse a config of many more weights than the files can hold: those that are missing would be drawn at random.

    Args:
        config: of Transformers.
        make: the model of a config.
        weights: the files of weights. Without any, random weights have to fit into memory.
        path: of the config, for the message.

    Raises:
        UserError: it describes too many.
    """
    import torch

    with torch.device("meta"):
        described = sum(one.numel() for one in make(config).parameters())
    there = sum(one.stat().st_size for one in weights)
    most = MOST_PER_BYTE * there + FEW
    if not weights:
        most = physical_memory() // 4
    if described > most:
        files = f"weight files of {there} bytes" if weights else "the memory of this machine"
        raise UserError(f"{path} describes {described:.2g} weights, too many for {files}: download it again")


def physical_memory() -> int:
    """Bytes of memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def check_files(folder: Path) -> None:
    """Refuse a folder with pipes, or very large files beside the weights, or a list of weights that leads elsewhere.

    Raises:
        UserError: it has such files, or the list cannot be read.
    """
    for path in folder.glob("*"):
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise UserError(f"{path} is not a regular file: download the model again")
        if path.suffix in READ_WHOLE and path.exists() and path.stat().st_size > LARGEST_FILE:
            raise UserError(f"{path} is larger than {LARGEST_FILE >> 20} MiB: download the model again")
    for path in (folder / name for name in INDEXES if (folder / name).exists()):
        try:
            names = {*json.loads(read_regular(path))["weight_map"].values()}
        except (OSError, ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
            raise UserError(f"{path} cannot be read ({error!r:.100}): download it again") from error
        check_names(names, path)


def check_names(names: Any, path: Path) -> None:
    """Refuse file names with folders in them."""
    for name in names:
        if name is not None and (not isinstance(name, str) or Path(name).name != name or name == ".."):
            raise UserError(f"{path} names weights outside of its folder ({name!r:.80}): download it again")


def pinned_attention(config: Mapping[str, Any]) -> dict[str, str]:
    """Keywords that make Transformers' loaders use PyTorch's attention if the config asks for another kernel."""
    parts = (config, *(value for value in config.values() if isinstance(value, dict)))
    asked = {part.get(name) for part in parts for name in ("attn_implementation", "_attn_implementation")}
    return {} if asked.issubset(ATTENTIONS) else {"attn_implementation": "sdpa"}


def in_child(work: Callable[[], str]) -> str:
    """The result of code that comes with a model, in a process with limited time and memory.

    Raises:
        ValueError: the code fails or exceeds a limit.
    """
    if not hasattr(os, "fork"):
        try:
            return work()
        except Exception as failure:  # of any type
            raise ValueError(str(failure) or type(failure).__name__) from failure
    reader, writer = os.pipe()
    with warnings.catch_warnings(action="ignore"):  # of threads, which the child does not use
        child = os.fork()
    if child == 0:
        _answer(work, writer)
    os.close(writer)
    answer = b""
    try:
        while select.select([reader], [], [], SECONDS)[0] and (part := os.read(reader, 1 << 16)):
            answer += part
    finally:
        os.close(reader)
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    if not answer:
        raise ValueError(f"it takes more than {SECONDS:g} seconds or {MEMORY >> 20} MiB")
    if error := json.loads(answer)["error"]:
        raise ValueError(error)
    return str(json.loads(answer)["text"])


def _answer(work: Callable[[], str], writer: int) -> None:
    """Write the result of `work` as JSON and end this process."""
    import resource

    try:
        with suppress(OSError, ValueError):
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            limit = pages * resource.getpagesize() + MEMORY
            resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))
        try:
            found = {"text": work(), "error": ""}
        except MemoryError:
            found = {"text": "", "error": f"it takes more than {MEMORY >> 20} MiB"}
        except Exception as error:
            found = {"text": "", "error": str(error)[:1000] or type(error).__name__}
        with os.fdopen(writer, "wb") as file:
            file.write(json.dumps(found).encode())
    finally:
        os._exit(0)
