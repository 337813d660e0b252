"""`generations.jsonl`: what a model replied, a reply a line, and beside it what made the replies."""

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from repe.cli import BASELINES
from repe.errors import UserError
from repe.files import locked, write_whole
from repe.prompts import Prompt

Row = dict[str, Any]
"""A line: id, lang, harmful, strength, baseline, prompt, reply; then draw (of the random directions), applied_strength,
tokens, loss (mean nats a token under the unsteered model; null for an empty reply) and repetition."""
Key = tuple[str, float, int | None, str, str]


def key_of(row: Mapping[str, Any]) -> Key:
    """What a reply is the reply to, and under which condition."""
    return row["baseline"], row["strength"], row["draw"], row["lang"], row["id"]


class ReplyFile:
    """The replies of one source language.

    Args:
        folder: `<res-dir>/<model>/<concept>/control/<source>`.
        settings: what makes the replies of this run; kept in `settings.json`.
        prompts: all of the prompt file, which give the order of lines.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], prompts: Sequence[Prompt]) -> None:
        self.folder = folder
        self.settings = settings
        self.places = {(prompt.lang, prompt.id): place for place, prompt in enumerate(prompts)}
        self.path = folder / "generations.jsonl"
        self.settings_path = folder / "settings.json"

    @cached_property
    def rows(self) -> dict[Key, Row]:
        """The replies on disk, by baseline, draw, strength, and then as the prompts stand.

        Raises:
            UserError: the file is damaged.
        """
        if not self.path.exists():
            return {}
        try:
            rows = [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines()]
            if not all(isinstance(row["reply"], str) and isinstance(row["harmful"], bool) for row in rows):
                raise ValueError("a reply is no text")
            return {key: row for _, key, row in sorted((self._place(key_of(row)), key_of(row), row) for row in rows)}
        except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
            raise UserError(f"{self.path} is damaged ({error!r}): redo the replies with --overwrite") from error

    def _place(self, key: Key) -> tuple[float, ...]:
        baseline, strength, draw, lang, id = key
        return BASELINES.index(baseline), draw or 0, strength, self.places[lang, id]

    def _known_settings(self) -> dict[str, Any]:
        """What made the replies on disk; empty where there are none."""
        if not self.path.exists():
            return {}
        try:
            known: dict[str, Any] = json.loads(self.settings_path.read_text(encoding="utf-8"))
            # Of languages that do not take part in this run, the vectors may be any.
            known["vectors"] |= {
                name: one for name, one in self.settings["vectors"].items() if name not in known["vectors"]
            }
            self.settings["vectors"] |= {
                name: one for name, one in known["vectors"].items() if name not in self.settings["vectors"]
            }
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(
                f"{self.settings_path} is damaged ({error!r}): redo the replies with --overwrite"
            ) from error
        return known

    def check_settings(self) -> None:
        """Refuse to mix replies.

        Raises:
            UserError: those on disk were made with other settings; names each with both values.
        """
        known = self._known_settings()
        if different := [name for name, value in self.settings.items() if known and known.get(name) != value]:
            both = "; ".join(f"{name} {known.get(name)!r}, now {self.settings[name]!r}" for name in different)
            raise UserError(
                f"{self.path} was made with other settings ({both}): give these, redo it with --overwrite, or choose "
                "another --res-dir or --model-label"
            )

    def clear(self) -> None:
        """Forget the replies on disk."""
        self.path.unlink(missing_ok=True)
        self.__dict__.pop("rows", None)

    def add(self, rows: Iterable[Row]) -> None:
        """Put replies into the file, under its lock: two runs at once lose nothing."""
        with locked(self.path):
            self.check_settings()
            self.__dict__.pop("rows", None)
            merged = self.rows | {key_of(row): row for row in rows}
            lines = [json.dumps(merged[key], ensure_ascii=False) + "\n" for key in sorted(merged, key=self._place)]
            # The settings first: a file of replies is never without.
            settings = json.dumps(self.settings, indent=1, ensure_ascii=False) + "\n"
            write_whole(self.settings_path, lambda file: file.write(settings.encode()))
            write_whole(self.path, lambda file: file.write("".join(lines).encode()))
            self.__dict__.pop("rows", None)
