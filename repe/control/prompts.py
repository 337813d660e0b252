"""Prompts to steer: a file of JSON lines with `id`, `lang`, `prompt` and `harmful`."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repe.errors import UserError, first_of
from repe.files import is_plain_name, sha256

FIELDS: dict[str, type | tuple[type, ...]] = {"id": (str, int), "lang": str, "prompt": str, "harmful": bool}
FAULTS_SHOWN = 5


@dataclass(frozen=True)
class Prompt:
    """What a user asks a model."""

    id: str
    """Of this prompt within its language; the translations of a prompt may share it."""
    lang: str
    prompt: str
    """Without the model's template."""
    harmful: bool
    """Whether a model that is aligned with the value would refuse."""


@dataclass(frozen=True)
class PromptFile:
    """The prompts of one file, in its order."""

    path: Path
    sha256: str
    prompts: tuple[Prompt, ...]

    def of(self, languages: Sequence[str] | None) -> list[Prompt]:
        """The prompts in `languages`; all for None.

        Raises:
            UserError: there is none in one of them.
        """
        there = list(dict.fromkeys(prompt.lang for prompt in self.prompts))
        if missing := [language for language in languages or [] if language not in there]:
            raise UserError(
                f"{self.path} has no prompt in {' '.join(missing)}, but in {' '.join(there)}: "
                "choose among these with --target-lang"
            )
        return [prompt for prompt in self.prompts if not languages or prompt.lang in languages]


def read_prompts(path: Path) -> PromptFile:
    """Read and check a file of prompts.

    Raises:
        UserError: the file cannot be read, holds no prompt, or has faulty lines (they are named, up to a limit) or the
            same id twice in a language.
    """
    try:
        raw = path.read_bytes()
        # Not splitlines, which also cuts at marks that may stand inside a text, such as U+2028.
        lines = raw.decode("utf-8-sig").split("\n")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}): give a file with --prompts") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no UTF-8 text: save it as UTF-8") from error
    prompts: dict[tuple[str, str], Prompt] = {}
    faults = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        found = _prompt(line)
        if isinstance(found, str):
            faults.append(f"line {number}: {found}")
        elif (found.lang, found.id) in prompts:
            faults.append(f"line {number}: the id {found.id!r} is there twice in {found.lang}")
        else:
            prompts[found.lang, found.id] = found
    if faults:
        raise UserError(f"{path}: {first_of(faults, FAULTS_SHOWN)}")
    if not prompts:
        raise UserError(f"{path} holds no prompt: write one JSON object a line with {', '.join(FIELDS)}")
    return PromptFile(path, sha256(raw), tuple(prompts.values()))


def _prompt(line: str) -> Prompt | str:
    """The prompt on a line, or what is wrong with it."""
    try:
        content: Any = json.loads(line)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        return "no JSON object"
    for name, kind in FIELDS.items():
        if name not in content:
            return f"{name!r} is missing"
        if not isinstance(content[name], kind) or (kind is not bool and isinstance(content[name], bool)):
            return f"{name!r} is {json.dumps(content[name])[:40]}, not {'true or false' if kind is bool else 'text'}"
    prompt = Prompt(str(content["id"]), content["lang"], content["prompt"], content["harmful"])
    faults = {
        "'lang' is no plain name": not is_plain_name(prompt.lang),
        "'id' or 'prompt' is blank": not (prompt.id.strip() and prompt.prompt.strip()),
        "half a surrogate pair": any("\ud800" <= letter <= "\udfff" for letter in prompt.id + prompt.prompt),
    }
    return next((fault for fault, there in faults.items() if there), prompt)
