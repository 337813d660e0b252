"""Read the prompts of a control experiment: JSON lines with `id`, `lang`, `prompt` and `harmful`."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repe.errors import UserError, first_of
from repe.files import is_plain_name, read_regular

FIELDS: dict[str, type | tuple[type, ...]] = {"id": (str, int), "lang": str, "prompt": str, "harmful": bool}


@dataclass(frozen=True)
class Prompt:
    """A user's message to the model."""

    id: str
    """Unique within the language; the translations of a prompt may share it."""
    lang: str
    prompt: str
    """Without the model's template."""
    harmful: bool
    """Whether an aligned model should refuse."""


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


def read_prompts(path: Path) -> PromptFile:
    """Read and check a prompt file.

    Raises:
        UserError: the file cannot be read, has no prompts, or has invalid lines.
    """
    try:
        raw = read_regular(path)
        # splitlines would also split at characters that are valid in a text, such as U+2028.
        lines = raw.decode("utf-8-sig").split("\n")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}): choose a file with --prompts") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not valid UTF-8: save it as UTF-8") from error
    prompts: dict[tuple[str, str], Prompt] = {}
    faults = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                prompt = _prompt(line)
                if (prompt.lang, prompt.id) in prompts:
                    raise ValueError(f"duplicate id {prompt.id!r} in {prompt.lang}")
                prompts[prompt.lang, prompt.id] = prompt
            except ValueError as error:
                faults.append(f"line {number}: {error}")
    if faults:
        raise UserError(f"{path} has invalid lines: {first_of(faults, shown=5)}")
    if not prompts:
        raise UserError(f"{path} has no prompts: write one JSON object per line with {', '.join(FIELDS)}")
    return PromptFile(path, hashlib.sha256(raw).hexdigest(), tuple(prompts.values()))


def _prompt(line: str) -> Prompt:
    """Raises a ValueError that says what is wrong with the line."""
    try:
        content: Any = json.loads(line)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise ValueError("not a JSON object")
    for name, kind in FIELDS.items():
        value = content.get(name)
        if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
            found = json.dumps(value)[:40] if name in content else "missing"
            raise ValueError(f"{name!r} must be {'true or false' if kind is bool else 'text'}, but is {found}")
    prompt = Prompt(str(content["id"]), content["lang"], content["prompt"], content["harmful"])
    if not is_plain_name(prompt.lang):
        raise ValueError(f"'lang' {prompt.lang!r} is not a valid name")
    if not (prompt.id.strip() and prompt.prompt.strip()):
        raise ValueError("'id' or 'prompt' is empty")
    if any("\ud800" <= letter <= "\udfff" for letter in prompt.id + prompt.prompt):
        raise ValueError("'id' or 'prompt' contains an unpaired surrogate")
    return prompt
