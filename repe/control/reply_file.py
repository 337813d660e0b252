"""The replies of a control experiment: `generations.jsonl`, with the settings that made them in `settings.json`."""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from repe.constants import BASELINES
from repe.control.prompts import Prompt
from repe.errors import UserError
from repe.files import locked, read_regular, write_whole

Row = dict[str, Any]
"""A line: id, lang, harmful, strength, baseline, prompt, reply; then draw (number of the random direction),
tokens, loss (mean nats per token under the unsteered model; null for an empty reply) and repetition."""
Key = tuple[str, float, int | None, str, str]
"""Baseline, strength, draw, language and id of a reply."""


class ReplyFile:
    """The replies of one source language.

    Args:
        folder: `<res-dir>/<model>/<concept>/control/<source>`.
        settings: the settings of this run, with the digests of the `vectors` by language.
        prompts: all prompts of the prompt file, which determine the order of the lines.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], prompts: Sequence[Prompt]) -> None:
        self.folder = folder
        self.settings = settings
        self.places = {(prompt.lang, prompt.id): place for place, prompt in enumerate(prompts)}
        self.path = folder / "generations.jsonl"
        self.settings_path = folder / "settings.json"

    @cached_property
    def rows(self) -> dict[Key, Row]:
        """The replies in the file, ordered by baseline, draw, strength and prompt.

        Raises:
            UserError: the file is damaged.
        """
        if not self.path.exists():
            return {}
        with _readable(self.path):
            # splitlines would also split at characters that are valid in a reply, such as U+2028.
            lines = read_regular(self.path).decode().removesuffix("\n").split("\n")
            rows = [json.loads(line) for line in lines]
            if not all(isinstance(row["reply"], str) and isinstance(row["harmful"], bool) for row in rows):
                raise ValueError("a reply is not text")
            "".join(row["reply"] for row in rows).encode()  # refuses half a surrogate pair
            return self._by_key(rows)

    def _by_key(self, rows: Iterable[Row]) -> dict[Key, Row]:
        """The rows in the order of the file. Of several with the same key, the last one."""

        def place(row: Row) -> tuple[float, ...]:
            at = self.places[row["lang"], row["id"]]
            return BASELINES.index(row["baseline"]), row["draw"] or 0, row["strength"], at

        return {
            (row["baseline"], row["strength"], row["draw"], row["lang"], row["id"]): row
            for row in sorted(rows, key=place)
        }

    def check_settings(self) -> None:
        """Check that the replies in the file were made with the settings of this run.

        Raises:
            UserError: settings differ; the message names each with both values.
        """
        known, now = self._known_settings(), self.settings
        # Vectors are compared only for languages that both runs use.
        both = known["vectors"].keys() & now["vectors"].keys()
        pairs = {name: (known.get(name), now.get(name)) for name in {**now, **known} if name != "vectors"}
        pairs |= {f"vectors of {name}": (known["vectors"][name], now["vectors"][name]) for name in sorted(both)}
        if different := [f"{name} was {old!r}, is {new!r}" for name, (old, new) in pairs.items() if old != new]:
            raise UserError(
                f"{self.path} was made with other settings ({'; '.join(different)}): use the same settings, replace it "
                "with --overwrite, or choose another --res-dir or --model-label"
            )

    def _known_settings(self) -> dict[str, Any]:
        """The settings of the replies in the file; those of this run if there is no file."""
        if not self.path.exists():
            return self.settings
        with _readable(self.settings_path):
            known: dict[str, Any] = json.loads(read_regular(self.settings_path))
            if not isinstance(known["vectors"], dict):
                raise ValueError("vectors are not a table by language")
            return known

    def clear(self) -> None:
        """Delete the replies in the file."""
        self.path.unlink(missing_ok=True)
        self.rows = {}

    def add(self, rows: Iterable[Row]) -> None:
        """Add replies to the file while holding its lock, so that simultaneous runs lose nothing."""
        with locked(self.path):
            self.check_settings()
            # The vectors of all languages that any run used.
            vectors = self._known_settings()["vectors"] | self.settings["vectors"]
            settings = self.settings | {"vectors": dict(sorted(vectors.items()))}
            self.__dict__.pop("rows", None)  # another run may have added some
            self.rows = self._by_key([*self.rows.values(), *rows])
            lines = "".join(map(_as_json, self.rows.values()))
            # The settings are written first, so that replies never exist without them.
            write_whole(self.settings_path, lambda file: file.write(_as_json(settings, indent=1).encode()))
            write_whole(self.path, lambda file: file.write(lines.encode()))


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error!r}): generate the replies again with --overwrite") from error


def _as_json(value: dict[str, Any], indent: int | None = None) -> str:
    return json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False) + "\n"
