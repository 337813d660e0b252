"""Archives: equal content gives equal bytes, damage is detected, and an interrupt prints no traceback."""

import sys
import zipfile
from pathlib import Path

import pytest
import torch

from repe.files import Zip
from repe.results import torch_archive as archives

CONTENT = {"format": 1, "languages": {"fr": {"a": torch.arange(4.0)}, "en": {"a": torch.ones(2, 3)}}, "layers": [1, 2]}


def test_what_is_written_is_read_by_plain_torch_with_languages_in_the_papers_order(tmp_path: Path) -> None:
    archives.write(tmp_path / "a.pt", CONTENT)

    found = torch.load(tmp_path / "a.pt", weights_only=True)
    assert [*found["languages"]] == ["en", "fr"]
    assert torch.equal(found["languages"]["fr"]["a"], torch.arange(4.0))
    assert torch.equal(archives.read(tmp_path / "a.pt")["languages"]["en"]["a"], torch.ones(2, 3))
    again = {"format": 1, "languages": dict(reversed(CONTENT["languages"].items())), "layers": [1, 2]}  # type: ignore[attr-defined]
    archives.write(tmp_path / "c.pt", again)
    assert (tmp_path / "c.pt").read_bytes() == (tmp_path / "a.pt").read_bytes()


def test_a_flipped_byte_is_detected(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    archives.write(path, CONTENT)
    raw = bytearray(path.read_bytes())
    place = raw.index(torch.arange(4.0).numpy().tobytes())
    raw[place + 6] ^= 1
    path.write_bytes(raw)
    with pytest.raises(ValueError, match="checksum"):
        archives.read(path)


@pytest.mark.parametrize("step", ["RLock", "name"])
def test_an_interrupt_while_opening_leaves_no_traceback_of_the_archive(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", said.append)
    archives.write(tmp_path / "a.pt", CONTENT)

    class Interrupting:
        """A file that is interrupted as its name is asked for."""

        def __init__(self, file: object) -> None:
            self.file = file

        def __getattr__(self, name: str) -> object:
            if name == "name":
                raise KeyboardInterrupt
            return getattr(self.file, name)

    def interrupt() -> None:
        raise KeyboardInterrupt

    with (tmp_path / "a.pt").open("rb") as file:
        if step == "RLock":
            monkeypatch.setattr(zipfile.threading, "RLock", interrupt)  # type: ignore[attr-defined]
        with pytest.raises(KeyboardInterrupt):
            Zip(file if step == "RLock" else Interrupting(file))  # type: ignore[arg-type]
    assert said == []
