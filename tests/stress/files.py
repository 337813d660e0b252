"""Paths of result files, and the PyTorch archives in them."""

import io
import zipfile
from pathlib import Path
from typing import Any

import torch

from repe.results.accuracy_file import AccuracyFile
from repe.results.result_file import Kind
from repe.results.vector_file import VectorFile

ResultFile = VectorFile | AccuracyFile
KINDS = tuple(Kind(method, labels) for method in ("cluster_mean", "pca", "random") for labels in (False, True))


def path_of(file: ResultFile, released: bool) -> Path:
    """The path of a result file, under its own name or that of the released code."""
    return file.released_path if released else file.path


def put(file: ResultFile, released: bool, raw: bytes) -> Path:
    """Write the bytes of a result file and return its path."""
    path = path_of(file, released)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(raw)
    return path


def saved(content: Any) -> bytes:
    """The bytes of a PyTorch archive."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def rezipped(raw: bytes, pickled: bytes, compression: int = zipfile.ZIP_STORED) -> bytes:
    """The archive with another pickle in it, and correct checksums."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(raw)) as old, zipfile.ZipFile(buffer, "w", compression) as new:
        for name in old.namelist():
            new.writestr(name, pickled if name.endswith("/data.pkl") else old.read(name))
    return buffer.getvalue()


def pickled_part(raw: bytes) -> bytes:
    """The pickle in an archive."""
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        return archive.read(next(name for name in archive.namelist() if name.endswith("/data.pkl")))
