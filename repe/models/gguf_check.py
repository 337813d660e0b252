"""GGUF files: a check that everything the header names lies within the file, and a faster way through Transformers.

Format, little endian: `GGUF`, uint32 version, uint64 number of tensors, uint64 number of metadata entries; the entries
(key, uint32 type, value); the tensors (name, uint32 number of dimensions, uint64 each, uint32 type, uint64 offset).
"""

import math
import mmap
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from repe.errors import UserError
from repe.files import open_regular

# Bytes of a number by its type in metadata; texts and arrays have types of their own.
NUMBERS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
TEXT, ARRAY = 8, 9
HEADER = 24
# Bytes that a tensor and an entry take at least.
SMALLEST_TENSOR, SMALLEST_ENTRY = 33, 13
MOST_DIMENSIONS = 4
# Of all lists: an element takes 350 bytes of memory. The largest vocabularies, with merges, have 1.3 million.
MOST_ELEMENTS = 2_000_000
MOST_ENTRIES = 50_000


def check_gguf(path: Path) -> int:
    """Refuse a file that is not a GGUF checkpoint, or promises more than it holds.

    Returns:
        The number of weights in it.

    Raises:
        UserError: it is not, or it is truncated or damaged.
    """
    with open_regular(path) as file:
        if file.read(4) != b"GGUF":
            raise UserError(f"{path} is not a GGUF file (it does not begin with GGUF): download it again")
        try:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as raw:
                return _Header(raw).check()
        except (struct.error, ValueError) as error:
            raise UserError(f"{path} is damaged ({error}): download it again") from error


@contextmanager
def parsed_once(parsed: dict[Path, Any]) -> Iterator[None]:
    """Let Transformers parse a file once, not for each of config, tokenizer and weights.

    It also makes the map of tensor names once, not for each module of the model: together half of the time. The reader
    makes plain arrays, which take a quarter of the time and memory of views of a mapped file.

    Args:
        parsed: keeps what was parsed from one call to the next.
    """
    import gguf

    reader, name_map = gguf.GGUFReader, gguf.get_tensor_name_map
    parse = _with_plain_arrays(reader) if isinstance(reader, type) else reader  # a function where contexts are nested

    def read(path: str) -> Any:
        if Path(path) not in parsed:
            parsed[Path(path)] = parse(path)
        return parsed[Path(path)]

    gguf.GGUFReader, gguf.get_tensor_name_map = read, cache(name_map)
    try:
        yield
    finally:
        gguf.GGUFReader, gguf.get_tensor_name_map = reader, name_map


def _with_plain_arrays(reader: Any) -> Any:
    import numpy as np

    class Reader(reader):
        def _get(self, offset: int, dtype: Any, count: int = 1, override_order: str | None = None) -> Any:
            found = np.frombuffer(self.data, dtype, int(count), int(offset))
            order = override_order or self.byte_order
            return found if order in ("I", "<") else found.view(found.dtype.newbyteorder(order))

    return Reader


class _Header:
    def __init__(self, raw: mmap.mmap) -> None:
        self.raw, self.at, self.elements = raw, 8, 0

    def check(self) -> int:
        from gguf.constants import GGML_QUANT_SIZES

        tensors, entries = self.number(8), self.number(8)
        if tensors * SMALLEST_TENSOR + entries * SMALLEST_ENTRY > len(self.raw):
            raise ValueError(f"its header promises {tensors} tensors and {entries} entries, more than fit into it")
        if max(tensors, entries) > MOST_ENTRIES:
            raise ValueError(f"it has {tensors} tensors and {entries} entries, more than any model")
        for _ in range(entries):
            self.text()
            self.value(self.number(4))
        total = weights = 0
        for _ in range(tensors):
            self.text()
            dimensions = self.number(4)
            if dimensions > MOST_DIMENSIONS:
                raise ValueError(f"a tensor has {dimensions} dimensions")
            elements = math.prod(self.number(8) for _ in range(dimensions))
            block, size = GGML_QUANT_SIZES.get(self.number(4), (1, len(self.raw)))
            total, weights = total + elements // block * size, weights + elements
            if max(total, self.number(8) + elements // block * size) > len(self.raw):
                raise ValueError("its tensors are larger than the file")
        return weights

    def number(self, size: int) -> int:
        self.at += size
        if self.at > len(self.raw):
            raise ValueError("it is truncated")
        return int.from_bytes(self.raw[self.at - size : self.at], "little")

    def skip(self, size: int) -> None:
        self.at += size
        if self.at > len(self.raw):
            raise ValueError("it is truncated, or a text or list is longer than the file")

    def text(self) -> None:
        self.skip(self.number(8))

    def value(self, kind: int) -> None:
        if kind == TEXT:
            self.text()
        elif kind in NUMBERS:
            self.skip(NUMBERS[kind])
        elif kind == ARRAY:
            inner, count = self.number(4), self.number(8)
            self.elements += count
            if self.elements > MOST_ELEMENTS:
                raise ValueError(f"its lists have more than {MOST_ELEMENTS} elements")
            if inner in NUMBERS:
                self.skip(NUMBERS[inner] * count)
            elif inner == TEXT and count <= len(self.raw):
                for _ in range(count):
                    self.text()
            else:
                raise ValueError("it has a list of lists, or a list longer than the file")
        else:
            raise ValueError(f"it has metadata of the unknown type {kind}")
