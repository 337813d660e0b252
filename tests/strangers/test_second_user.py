"""Folders that several users or machines share: locks that cannot be taken, and file systems that cannot flush."""

import errno
import fcntl
import multiprocessing
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from repe import files
from repe.errors import UserError
from strangers.cases import in_limits

NOBODY = 65534


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "acc.pt"


@pytest.fixture
def lock(path: Path) -> Path:
    return path.with_name(".acc.pt.lock")


def write(path: Path) -> None:
    with files.locked(path):
        files.write_whole(path, lambda file: file.write(b"new"))


def test_another_user_can_take_a_lock_that_was_left(path: Path, lock: Path) -> None:
    write(path)
    assert stat.S_IMODE(lock.stat().st_mode) == 0o666


def test_a_lock_that_is_another_users_is_named(tmp_path: Path) -> None:
    folder = Path("/tmp") / f"shared-{os.getpid()}"
    folder.mkdir()
    folder.chmod(0o777)
    try:
        (folder / ".acc.pt.lock").touch(0o644)

        def work() -> None:
            os.setuid(NOBODY)
            try:
                write(folder / "acc.pt")
            except UserError as error:
                print(error)

        ended = in_limits(work)
    finally:
        shutil.rmtree(folder)
    assert ended.status == 0, ended
    assert ".acc.pt.lock cannot be locked (Permission denied)" in ended.out


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("/etc/hostname")])
def test_a_lock_that_is_no_file_is_refused(make: Callable[[Path], Any], path: Path, lock: Path) -> None:
    make(lock)
    with pytest.raises(UserError, match=r"\.acc\.pt\.lock is not a regular file"):
        write(path)


def test_a_file_system_without_locks(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_lock(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_lock)
    with pytest.raises(UserError, match=r"\.acc\.pt\.lock cannot be locked \(No locks available\)"):
        write(path)


def test_a_folder_that_cannot_be_flushed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_bytes(b"old")
    flush = os.fsync

    def fsync(number: int) -> None:
        if stat.S_ISDIR(os.fstat(number).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        flush(number)

    monkeypatch.setattr(os, "fsync", fsync)
    write(path)
    assert path.read_bytes() == b"new"


@pytest.fixture
def holder(path: Path) -> Iterator[int]:
    """A process that takes the lock and never lets go."""
    ready = multiprocessing.get_context("fork").Event()

    def hold() -> None:
        with files.locked(path):
            ready.set()
            time.sleep(60)

    process = multiprocessing.get_context("fork").Process(target=hold)
    process.start()
    assert ready.wait(20)
    yield process.pid or 0
    process.kill()
    process.join()


def test_who_holds_a_lock_is_said_and_waiting_ends(
    path: Path, holder: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(files, "NOTICE_AFTER", 0.2)
    monkeypatch.setenv(files.LOCK_SECONDS, "0.5")
    with pytest.raises(UserError, match=rf"process {holder} on .* has held .*\.acc\.pt\.lock for 0\.5 seconds"):
        write(path)
    assert f"waiting for {path.with_name('.acc.pt.lock')}, which process {holder} on" in capsys.readouterr().err


def test_a_time_that_is_no_number_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(files.LOCK_SECONDS, "ten")
    with pytest.raises(UserError, match="REPE_LOCK_SECONDS in the environment is 'ten': set it to a number of seconds"):
        write(path)
