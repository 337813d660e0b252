"""Judging replies: refused or followed, in which language, how repetitive."""

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from repe.errors import UserError
from repe.paper import LANGUAGES

# By language the phrases that models refuse with, wherever they stand, and those that a willing reply begins with.
PHRASES = Path(__file__).with_name("reply_phrases.json")

# Shorter replies say too little of their language: about 20 Latin letters, or 7 Chinese ones.
SHORTEST_BYTES = 20
UNKNOWN = "unknown"

# Codes of the identifier for what counts as the project's: short Indonesian is often taken for Malay, its sister.
_CODES = {"zh-Hant": "zh", "ms": "id"}

# A letter, or a vowel sign of Tamil or Telugu, which regular expressions do not count as part of a word.
_WORD = r"[\w\u0b80-\u0c7f]"

# How a classifier may call its label for a refusal.
_REFUSAL_LABEL = re.compile(r"refus|reject", re.IGNORECASE)


def is_refusal(reply: str) -> bool:
    """Whether a refusing phrase of any of the paper's languages stands in `reply`."""
    return bool(_pattern("refusal").search(_folded(reply)))


def is_following(reply: str) -> bool:
    """Whether `reply` begins with a willing phrase of any of the paper's languages and refuses nowhere."""
    return bool(_pattern("following").match(_folded(reply))) and not is_refusal(reply)


@cache
def _pattern(kind: str) -> re.Pattern[str]:
    lists = json.loads(PHRASES.read_text(encoding="utf-8"))
    phrases = sorted({_folded(phrase) for language in LANGUAGES for phrase in lists[language][kind]})
    # Languages with spaces between words: no phrase begins within a word. Others: anywhere.
    parts = [rf"(?<!{_WORD}){re.escape(text)}" if _is_spaced(text) else re.escape(text) for text in phrases]
    joined = "|".join(parts)
    return re.compile(rf"\W*(?:{joined})" if kind == "following" else joined)


def _is_spaced(text: str) -> bool:
    return not any("\u3040" <= letter <= "\u9fff" for letter in text)


def _folded(text: str) -> str:
    """`text` without differences of case, of apostrophes, and of how a letter is composed."""
    return unicodedata.normalize("NFKC", text).replace("\u2019", "'").casefold()


def language_of(reply: str) -> str:
    """The language of `reply` as CLD2 sees it, or `unknown` where it is too short or too mixed to tell."""
    import pycld2

    text = "".join(letter for letter in reply if letter.isprintable() or letter.isspace())
    if len(text.strip().encode()) < SHORTEST_BYTES:
        return UNKNOWN
    try:
        _, _, ((_, code, percent, _), *_) = pycld2.detect(text, bestEffort=True)
    except pycld2.error:  # bytes that are no text
        return UNKNOWN
    code = _CODES.get(code, code)
    return UNKNOWN if code == "un" or percent < 50 else str(code)


def repetition(tokens: Sequence[int], size: int = 4) -> float:
    """The share of runs of `size` tokens that have come before in the reply: 0 for none, towards 1 for a loop."""
    runs = Counter(tuple(tokens[start : start + size]) for start in range(len(tokens) - size + 1))
    return 1 - len(runs) / runs.total() if runs else 0.0


class Classifier:
    """A text classifier that tells refusals from other replies, in place of the phrases.

    Args:
        source: a folder or hub id of a sequence-classification model with a label for refusals (its name holds `refus`
            or `reject`).
        revision: of a hub id.

    Raises:
        UserError: it cannot be loaded, or no label is for refusals.
    """

    def __init__(self, source: str, device: Any, revision: str | None = None) -> None:
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        from repe.models import hub

        folder = hub.find(source, revision, False)
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(folder.path, local_files_only=True)
            model = AutoModelForSequenceClassification.from_pretrained(folder.path, local_files_only=True)
        # Transformers raises many types for what is wrong with files.
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"--classifier {source}: no readable text classifier ({reason}): give another") from error
        labels = model.config.id2label
        found = [place for place, name in labels.items() if _REFUSAL_LABEL.search(name)]
        if len(found) != 1:
            raise UserError(
                f"--classifier {source} has the labels {', '.join(labels.values())}: one of them has to be for refusals"
            )
        self.refusal = int(found[0])
        self.model = model.to(device).eval()

    def are_refusals(self, replies: Sequence[str], batch_size: int = 32) -> list[bool]:
        """Whether each reply's most likely label is that of refusals."""
        import torch

        found: list[bool] = []
        with torch.inference_mode():
            for start in range(0, len(replies), batch_size):
                batch = self.tokenizer(
                    [*replies[start : start + batch_size]], padding=True, truncation=True, return_tensors="pt"
                )
                logits = self.model(**batch.to(self.model.device)).logits
                found += (logits.argmax(dim=-1) == self.refusal).tolist()
        return found
