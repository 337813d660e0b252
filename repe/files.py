"""File names, locks, and writes that leave either the old or the new file, never a part of one."""

import glob
import os
import platform
import secrets
import stat
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, BinaryIO

from repe.errors import UserError, printable

# Bytes of a file that is read as a whole; a sparse file of any size takes no room on the disk.
LARGEST = 256 << 20
# Seconds to wait for a lock, and the variable that sets another number; after the first ones, say whom one waits for.
LOCK_SECONDS, NOTICE_AFTER = "REPE_LOCK_SECONDS", 5.0


class Zip(zipfile.ZipFile):
    """A zip archive that prints no traceback when Ctrl-C arrives while it is being opened."""

    # `close` reads these, also when opening was interrupted before they were set.
    _writing = False
    _fileRefCnt = 1  # noqa: N815  the base class's name


# ASCII characters with a meaning in paths, LaTeX, Matplotlib, spreadsheets, HTML or shells.
SPECIAL = frozenset("!\"#$%&'*/:;<=>?@[\\]^`{|}~")


def is_plain_name(name: Any) -> bool:
    """Whether `name` is safe as a part of a path and in every output: printable, beginning with a letter or digit."""
    is_text = isinstance(name, str) and name.isprintable() and name == name.strip()
    return is_text and name[:1].isalnum() and SPECIAL.isdisjoint(name) and len(name.encode(errors="replace")) < 200


def are_names(values: Iterable[Any]) -> bool:
    """Whether all values are plain names."""
    return all(map(is_plain_name, values))


def plain_name(name: str, what: str) -> str:
    """`name` itself.

    Raises:
        UserError: it is not a plain name.
    """
    if not is_plain_name(name):
        raise UserError(f"{what} {name!r} is not a valid name (letters, digits, '.', '_', '-'): choose another")
    return name


def exists(path: Path) -> bool:
    """Whether there is anything at `path`.

    Raises:
        UserError: a folder on the way cannot be read.
    """
    try:
        return path.exists() or path.is_symlink()
    except OSError as error:
        raise _unreadable(path, error) from error


def entries(folder: Path, pattern: str) -> list[Path]:
    """Paths below `folder` that match a pattern such as `*/*.pk`, sorted; none if it does not exist.

    Raises:
        UserError: a folder cannot be read, whose content would be left out otherwise.
    """
    first, _, rest = pattern.partition("/")
    try:
        names = sorted(entry.name for entry in os.scandir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise _unreadable(folder, error) from error
    found = [folder / name for name in names if fnmatchcase(name, first)]
    return [path for one in found for path in (entries(one, rest) if rest else [one])]


def _unreadable(path: Path, error: OSError) -> UserError:
    return UserError(f"{path} cannot be read ({error.strerror or error}): check its permissions, or move it away")


def open_regular(path: Path) -> BinaryIO:
    """Open a file to read its bytes.

    Raises:
        UserError: it is a folder, a device or a pipe, which may never end.
        OSError: it cannot be opened.
    """
    # Without O_NONBLOCK, opening a pipe waits for somebody to write to it.
    number = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise UserError(f"{path} cannot be read (not a regular file): replace it with one")
    return os.fdopen(number, "rb")


def read_regular(path: Path) -> bytes:
    """The bytes of a file.

    Raises:
        UserError: it is a folder, a device or a pipe, or larger than LARGEST.
        OSError: it cannot be read.
    """
    with open_regular(path) as file:
        if os.fstat(file.fileno()).st_size > LARGEST:
            raise UserError(f"{path} is larger than {LARGEST >> 20} MiB: split it, or replace it with the right file")
        return file.read()


def numbered_lines(raw: bytes) -> list[tuple[int, str]]:
    """The lines of a UTF-8 text that are not blank, with their numbers from 1; a byte order mark is left out.

    `splitlines` would also split at characters that are valid in a line, such as U+2028.

    Raises:
        UnicodeDecodeError: the text is not valid UTF-8.
    """
    lines = raw.decode("utf-8-sig").split("\n")
    return [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]


def check_inside(path: Path, folder: Path) -> Path:
    """`path` itself.

    Raises:
        UserError: it leads to a place outside of `folder` through a symbolic link.
    """
    if not path.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"{path} is a link to a place outside of {folder}: replace it with a copy of the file")
    return path


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> Path:
    """Let `write` fill a temporary file next to `path`, flush it to disk and rename it to `path`.

    A crash, a full disk or an error in `write` leaves the previous file intact.

    Raises:
        UserError: the folder or the file cannot be written.
    """
    writable_folder(path.parent)
    # Named before it is created, so that an interrupt at any moment can remove it.
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
        reason = error.strerror or error
        raise UserError(f"{path} cannot be written ({reason}); an existing file is left intact") from error
    return path


def _flush_folder(folder: Path) -> None:
    """Flush a rename to disk where the file system can: otherwise a power cut may bring the old file back."""
    # Some network file systems cannot. The new file is in place all the same.
    with suppress(OSError):
        handle = os.open(folder, os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def writable_folder(folder: Path) -> None:
    """Create `folder` if it does not exist.

    Raises:
        UserError: it cannot be created or is not writable.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be created ({error.strerror or error}): choose another folder") from error
    if not os.access(folder, os.W_OK):
        raise UserError(f"{folder} is not writable: change its permissions or choose another folder")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of the file at `path`, so that one process at a time reads, changes and rewrites it.

    Another process holds it for the moment of a write. After LOCK_SECONDS, a process that does not let go is an error.

    Raises:
        UserError: the lock cannot be opened, or somebody else holds it for too long.
    """
    from filelock import FileLock, Timeout

    writable_folder(path.parent)
    lock = path.with_name(f".{path.name}.lock")
    if exists(lock) and (lock.is_symlink() or not lock.is_file()):
        raise UserError(f"{lock} is not a regular file: delete it")
    given = os.environ.get(LOCK_SECONDS, "600")
    try:
        patience = float(given)
    except ValueError:
        raise UserError(f"{LOCK_SECONDS} in the environment is {given!r}: set it to a number of seconds") from None
    # For other users as well: what they may write, the folder decides.
    file_lock = FileLock(lock, mode=0o666)
    try:
        try:
            file_lock.acquire(timeout=min(patience, NOTICE_AFTER))
        except Timeout:
            print(f"\nwaiting for {lock}, which {_holder(lock)} holds", file=sys.stderr, flush=True)
            file_lock.acquire(timeout=max(patience - NOTICE_AFTER, 0))
        with suppress(OSError):  # only for the message of others
            lock.write_text(f"process {os.getpid()} on {platform.node()}")
    except Timeout:
        remedy = f"end that process, or wait for longer with {LOCK_SECONDS} in the environment"
        raise UserError(f"{_holder(lock)} has held {lock} for {patience:g} seconds: {remedy}") from None
    except OSError as error:
        raise UserError(
            f"{lock} cannot be locked ({error.strerror or error}): let its owner delete it, or choose another folder"
        ) from error
    try:
        # Nobody else writes this file now, so its temporary files are left over from killed runs.
        for stale in path.parent.glob(f"{glob.escape(f'.{path.name}.')}*"):
            if stale != lock:
                stale.unlink(missing_ok=True)
        yield
    finally:
        file_lock.release()


def _holder(lock: Path) -> str:
    try:
        return printable(lock.read_text()[:80]) or "another process"
    except (OSError, ValueError):
        return "another process"
