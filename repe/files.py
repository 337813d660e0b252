"""Files: names that stay in their folder, hashes, and writes that leave the old or the new file, never a part."""

import glob
import hashlib
import os
import secrets
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from repe.errors import UserError


class Zip(zipfile.ZipFile):
    """A zip archive that prints no traceback when Ctrl-C comes while it is being opened."""

    # Closing asks for these, and comes even where opening was cut off before they were set.
    _writing = False
    _fileRefCnt = 1  # noqa: N815  its name there


def is_plain_name(name: str) -> bool:
    """Whether `name` is one printable component of a path, so that no concept, language or label leaves its folder."""
    return name.isprintable() and name == name.strip() and name not in ("", ".", "..") and not {"/", "\\"} & {*name}


def plain_name(name: str, what: str) -> str:
    """`name`, checked to be plain.

    Raises:
        UserError: it is not.
    """
    if not is_plain_name(name):
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
    # Named before it is made, so that an interrupt at any moment finds it.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        try:
            with temporary.open("xb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _flush_folder(path.parent)
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


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of the file at `path`: one process at a time reads, changes and rewrites it."""
    from filelock import FileLock

    writable_folder(path.parent)
    lock = path.with_name(f".{path.name}.lock")
    with FileLock(lock):
        # Nobody else writes this file now: temporaries of it are those of runs that were killed.
        for stale in path.parent.glob(f"{glob.escape(f'.{path.name}.')}*"):
            if stale != lock:
                stale.unlink(missing_ok=True)
        yield
