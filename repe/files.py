"""Files: names that stay in their folder, hashes, and writes that leave the old or the new file, never a part."""

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from repe.errors import UserError


def plain_name(name: str, what: str) -> str:
    """`name`, checked to be one component of a path, so that no concept, language or label leaves its folder."""
    if not name or name in (".", "..") or any(mark in name for mark in "/\\\0") or name != name.strip():
        raise UserError(
            f"{what} {name!r} is no plain name: use letters, digits, '-', '_' and '.', without a path in it"
        )
    return name


def sha256(data: bytes) -> str:
    """Hexadecimal SHA-256 of `data`."""
    return hashlib.sha256(data).hexdigest()


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> Path:
    """Let `write` fill a temporary file beside `path`, flush it to the disk and rename it to `path`.

    A crash, a full disk or an error in `write` leaves what was at `path` before.

    Raises:
        UserError: the folder or the file cannot be written.
    """
    writable_folder(path.parent)
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            # mkstemp makes private files; results are as readable as any file that the user creates.
            Path(temporary).chmod(0o666 & ~_umask())
            Path(temporary).replace(path)
            _flush_folder(path.parent)
        except BaseException:
            Path(temporary).unlink()
            raise
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror or error}): the old file, if any, is whole"
        ) from error
    return path


def _flush_folder(folder: Path) -> None:
    """Put a renaming on the disk, where the system can: without, a power cut may bring the old file back."""
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def writable_folder(folder: Path) -> None:
    """Make `folder` if it is not there.

    Raises:
        UserError: it cannot be made, or not be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be made ({error.strerror or error}): choose another folder") from error
    if not os.access(folder, os.W_OK):
        raise UserError(f"{folder} cannot be written to: change its permissions or choose another folder")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of the file at `path`: one process at a time reads, changes and rewrites it."""
    from filelock import FileLock

    writable_folder(path.parent)
    with FileLock(path.with_name(f".{path.name}.lock")):
        yield
