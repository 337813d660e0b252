"""Read the prompts of a control experiment: JSON lines, JSON or CSV with `id`, `lang`, `prompt` and perhaps `harmful`.

Other names of the fields can be given, so that published sets of prompts work as they come.
"""

import csv
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repe.data import unique_keys
from repe.errors import UserError, first_of
from repe.files import is_plain_name, numbered_lines, read_regular

FIELDS: dict[str, type | tuple[type, ...]] = {"id": (str, int), "lang": str, "prompt": str, "harmful": bool}
# Words for `harmful` in published sets: XSTest labels its prompts safe and unsafe.
HARMFUL = {True: ("true", "1", "yes", "harmful", "unsafe"), False: ("false", "0", "no", "harmless", "safe", "benign")}


@dataclass(frozen=True)
class Prompt:
    """A user's message to the model."""

    id: str
    """Unique within the language; the translations of a prompt may share it."""
    lang: str
    prompt: str
    """Without the model's template."""
    harmful: bool | None = None
    """Whether an aligned model should refuse; None where the file does not say."""


@dataclass(frozen=True)
class PromptFile:
    """The prompts of a file, in the file's order."""

    path: Path
    sha256: str
    prompts: tuple[Prompt, ...]

    def of(self, languages: Sequence[str] | None) -> list[Prompt]:
        """The prompts in `languages`, or all prompts for None.

        Raises:
            UserError: a language has no prompts.
        """
        there = list(dict.fromkeys(prompt.lang for prompt in self.prompts))
        if missing := [language for language in languages or [] if language not in there]:
            raise UserError(
                f"{self.path} has no prompts in {' '.join(missing)}: choose from {' '.join(there)} with --target-lang"
            )
        return [prompt for prompt in self.prompts if not languages or prompt.lang in languages]


def read_prompts(path: Path, fields: Mapping[str, str] | None = None) -> PromptFile:
    """Read and check a prompt file.

    Args:
        path: `.csv`, `.json` (a list of objects, or a table of such lists), else JSON lines.
        fields: names of the file's fields by ours (`id`, `lang`, `prompt`, `harmful`), where they differ. `:en` stands
            for the value en in all prompts. `prompt` may name several fields, `en+zh`, each named by its language. An
            id that the file lacks is the line's number.

    Raises:
        UserError: the file cannot be read, has no prompts, or has invalid lines.
    """
    try:
        raw = read_regular(path)
        records = _records(raw, path.suffix.lower())
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}): choose a file with --prompts") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not valid UTF-8: save it as UTF-8") from error
    except (ValueError, RecursionError, csv.Error) as error:
        raise UserError(f"{path} is not valid {path.suffix.lstrip('.').upper()} ({error}): fix it") from error
    prompts: dict[tuple[str, str], Prompt] = {}
    faults = []
    for number, record in records:
        for names in _field_names(fields or {}):
            try:
                words = fields is not None or path.suffix.lower() == ".csv"
                prompt = _prompt(record, names, number if fields else None, words)
                if (prompt.lang, prompt.id) in prompts:
                    raise ValueError(f"duplicate id {prompt.id!r} in {prompt.lang}")
                prompts[prompt.lang, prompt.id] = prompt
            except ValueError as error:
                faults.append(f"line {number}: {error}")
    if faults:
        raise UserError(f"{path} has invalid lines: {first_of(faults, shown=5)}")
    if not prompts:
        raise UserError(f"{path} has no prompts: write one JSON object per line with {', '.join(FIELDS)}")
    chosen = json.dumps(fields, sort_keys=True) if fields else ""
    return PromptFile(path, hashlib.sha256(raw + chosen.encode()).hexdigest(), tuple(prompts.values()))


def _field_names(fields: Mapping[str, str]) -> list[dict[str, str]]:
    """Names of the file's fields by ours, for each prompt of an entry."""
    names = {name: fields.get(name, name) for name in FIELDS}
    if "+" not in names["prompt"]:
        return [names]
    return [names | {"prompt": language, "lang": f":{language}"} for language in names["prompt"].split("+")]


def _records(raw: bytes, suffix: str) -> list[tuple[int, Any]]:
    """The entries of a file, each with its line's or its own number; what is not an object is kept for the message."""
    if suffix == ".csv":
        text = io.StringIO(raw.decode("utf-8-sig"), newline="")
        rows = [*csv.DictReader(text, strict=True)]
        if any(None in row for row in rows):
            raise ValueError("a line has more cells than the first one")
        return [*enumerate(rows, start=2)]
    if suffix == ".json":
        content = json.loads(raw.decode("utf-8-sig"), object_pairs_hook=unique_keys)
        parts = [*content.values()] if isinstance(content, dict) else [content]
        if not all(isinstance(part, list) for part in parts):
            raise ValueError("expected a list of objects")
        return [*enumerate([record for part in parts for record in part], start=1)]
    return [(number, _parsed(line)) for number, line in numbered_lines(raw)]


def _parsed(line: str) -> Any:
    try:
        return json.loads(line, object_pairs_hook=unique_keys)
    except (json.JSONDecodeError, RecursionError):
        return None
    except ValueError as error:  # equal keys, or a number that is too long
        return error


def _prompt(content: Any, names: Mapping[str, str], number: int | None, words: bool) -> Prompt:
    """The prompt of one entry.

    Args:
        content: the entry.
        names: of its fields, or `:value`.
        number: the id, if the entry has none.
        words: whether `harmful` may be a word.

    Raises:
        ValueError: the entry is not valid; says why.
    """
    if not isinstance(content, dict):
        raise ValueError(f"not a JSON object ({content})" if isinstance(content, Exception) else "not a JSON object")
    absent = {"id": number}
    found = {
        ours: theirs[1:] if theirs.startswith(":") else content.get(theirs, absent.get(ours))
        for ours, theirs in names.items()
    }
    for ours, kind in FIELDS.items():
        value = found[ours]
        if ours != "harmful" and (not isinstance(value, kind) or isinstance(value, bool)):
            shown = json.dumps(value)[:40] if names[ours] in content else "missing"
            raise ValueError(f"{names[ours]!r} must be text, but is {shown}")
    identity, language, text = (str(found[name]) for name in ("id", "lang", "prompt"))
    prompt = Prompt(identity, language, text, _harmful(found["harmful"], names["harmful"], words))
    if not is_plain_name(prompt.lang):
        raise ValueError(f"{names['lang']!r} {prompt.lang!r} is not a valid name")
    if not (prompt.id.strip() and prompt.prompt.strip()):
        raise ValueError(f"{names['id']!r} or {names['prompt']!r} is empty")
    if any("\ud800" <= letter <= "\udfff" for letter in prompt.id + prompt.prompt):
        raise ValueError(f"{names['id']!r} or {names['prompt']!r} contains an unpaired surrogate")
    return prompt


def _harmful(value: Any, name: str, words: bool) -> bool | None:
    """Whether a prompt is harmful: true or false, words for them, or None where nothing is said.

    Raises:
        ValueError: another value.
    """
    if value is None or value == "" or isinstance(value, bool):
        return None if value == "" else value
    for result, known in HARMFUL.items() if words else ():
        if str(value).strip().casefold() in known:
            return result
    raise ValueError(f"{name!r} must be true or false, but is {json.dumps(value)[:40]}")
