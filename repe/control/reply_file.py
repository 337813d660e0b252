"""The replies of a control experiment: `generations.jsonl`, with the settings that made them in `settings.json`."""

import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from repe.constants import BASELINES
from repe.control.prompts import Prompt
from repe.errors import UserError
from repe.files import are_names, locked, read_regular, write_whole

Row = dict[str, Any]
"""A line: id, lang, harmful, strength, baseline, prompt, reply; then draw (number of the random direction),
tokens, loss (mean nats per token under the unsteered model; null for an empty reply), repetition, and scores
({reader: {concept: score}}, see `repe.control.scores`). `harmful` is null where the prompt does not say."""
Key = tuple[str, float, int | None, str, str]
"""Baseline, strength, draw, language and id of a reply."""

# Settings that may differ between runs with the same source: each choice has a folder of its own.
CHOICES = (
    *("layers", "operator", "scope", "strength_unit", "prompts"),
    *("max_new_tokens", "temperature", "top_p", "num_beams", "seed"),
)
LONGEST_NAME = 100
REPLIES, SETTINGS_FILE = "generations.jsonl", "settings.json"
# Of the fields of a line that every one has.
TYPES: dict[str, Any] = {
    **dict.fromkeys(("id", "lang", "baseline", "prompt", "reply"), str),
    **{"harmful": bool | None, "strength": float | int, "draw": int | None, "tokens": int},
    **{"loss": float | int | None, "repetition": float | int},
}


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
        self.prompts = prompts
        self.places = {(prompt.lang, prompt.id): place for place, prompt in enumerate(prompts)}
        self.path = folder / REPLIES
        self.settings_path = folder / SETTINGS_FILE

    @cached_property
    def rows(self) -> dict[Key, Row]:
        """The replies in the file, ordered by baseline, draw, strength and prompt.

        Raises:
            UserError: the file is damaged.
        """
        if not self.path.exists():
            return {}
        with readable(self.path):
            # splitlines would also split at characters that are valid in a reply, such as U+2028.
            lines = read_regular(self.path).decode().removesuffix("\n").split("\n")
            rows = [json.loads(line) for line in lines]
            for row in rows:
                _check_row(row)
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

    @classmethod
    def for_settings(cls, folder: Path, settings: dict[str, Any], prompts: Sequence[Prompt]) -> Self:
        """The file for these settings: in `folder`, or, if that holds other choices, in a folder in it named by them.

        Raises:
            UserError: the settings in `folder` are damaged.
        """
        first = cls(folder, settings, prompts)
        known = first.known_settings
        different = [name for name in CHOICES if known.get(name) != settings.get(name)]
        if not different:
            return first
        name = "_".join(f"{name}-{_short(name, settings.get(name))}" for name in different)
        if len(name) > LONGEST_NAME:
            name = f"{name[:LONGEST_NAME]}-{zlib.crc32(name.encode()):08x}"
        return cls(folder / name, settings, prompts)

    @property
    def readers(self) -> dict[str, str]:
        """The digests of the vectors that the scores were made with, by reader."""
        return dict(self.known_settings.get("readers", {}))

    def check_settings(self) -> None:
        """Check that the replies in the file were made with the settings of this run.

        Raises:
            UserError: settings differ; the message names each.
        """
        known, now = self.known_settings, self.settings
        kept = ("vectors", "readers", "prompts_name")
        # Vectors are compared only for languages that both runs use.
        both = known["vectors"].keys() & now["vectors"].keys()
        pairs = {name: (known.get(name), now.get(name)) for name in {**now, **known} if name not in kept}
        pairs |= {f"vectors of {name}": (known["vectors"][name], now["vectors"][name]) for name in sorted(both)}
        if different := [_difference(name, old, new) for name, (old, new) in pairs.items() if old != new]:
            raise UserError(
                f"{self.path} was made with other settings ({'; '.join(different)}): use the same settings, replace it "
                "with --overwrite, or choose another --res-dir or --model-label"
            )

    @property
    def known_settings(self) -> dict[str, Any]:
        """The settings of the replies in the file; those of this run if there is no file."""
        if not self.path.exists():
            return self.settings
        return read_settings(self.settings_path)

    def clear(self) -> None:
        """Delete the replies in the file."""
        self.path.unlink(missing_ok=True)
        self.rows = {}

    def add(self, rows: Iterable[Row], readers: Mapping[str, str] | None = None) -> None:
        """Add replies to the file while holding its lock, so that simultaneous runs lose nothing.

        Args:
            rows: those with the key of a reply in the file replace it.
            readers: digests of the vectors that all scores of a reader were made with.
        """
        with locked(self.path):
            self.check_settings()
            # The vectors of all languages that any run used.
            vectors = self.known_settings["vectors"] | self.settings["vectors"]
            settings = self.settings | {"vectors": dict(sorted(vectors.items()))}
            if known := self.readers | {**(readers or {})}:
                settings["readers"] = known
            self.__dict__.pop("rows", None)  # another run may have added some
            self.rows = self._by_key([*self.rows.values(), *rows])
            lines = "".join(map(_as_json, self.rows.values()))
            # The settings are written first, so that replies never exist without them.
            write_whole(self.settings_path, lambda file: file.write(_as_json(settings, indent=1).encode()))
            write_whole(self.path, lambda file: file.write(lines.encode()))


def _difference(name: str, old: Any, new: Any) -> str:
    """What differs in a setting, in words."""
    if name == "weights" or name.startswith("vectors of "):  # digests, which say nothing to a reader
        return f"{name} have changed since"
    return f"{name} was {old!r}, is {new!r}"


def read_settings(path: Path) -> dict[str, Any]:
    """The content of `settings.json`.

    Raises:
        UserError: it is damaged.
    """
    with readable(path):
        known: dict[str, Any] = json.loads(read_regular(path))
        if not (isinstance(known["vectors"], dict) and isinstance(known.get("readers", {}), dict)):
            raise ValueError("vectors and readers must be tables")
        _as_json(known).encode()  # refuses half a surrogate pair
        return known


def _check_row(row: Row) -> None:
    """Raise an error unless `row` has the form of a reply."""
    if wrong := [name for name, kind in TYPES.items() if not isinstance(row[name], kind)]:
        raise ValueError(f"{wrong[0]} is {row[wrong[0]]!r:.40}")
    scores = row.get("scores", {})
    if not all(isinstance(score, float) for by_concept in scores.values() for score in by_concept.values()):
        raise ValueError("scores must be numbers")
    if not (are_names(scores) and all(map(are_names, scores.values()))):
        raise ValueError("scores must be by reader and concept")
    _as_json(row).encode()  # refuses half a surrogate pair, and numbers that are not finite


def _short(name: str, value: Any) -> str:
    """A setting in a folder's name."""
    if name == "prompts":
        return str(value)[:8]
    if name == "layers" and value == list(range(value[0], value[-1] + 1)) and len(value) > 1:
        return f"{value[0]}-{value[-1]}"
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


@contextmanager
def readable(path: Path, remedy: str = "delete it, or generate the replies again with --overwrite") -> Iterator[None]:
    """Turn the errors of a damaged file into one that names it and says what to do.

    Raises:
        UserError: reading it fails.
    """
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, OSError, RecursionError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error!r:.300}): {remedy}") from error


def _as_json(value: dict[str, Any], indent: int | None = None) -> str:
    return json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False) + "\n"
