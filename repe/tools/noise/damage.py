"""Damaged texts. The same text and seed always give the same damage."""

import random
import re
import unicodedata

# Shares of the characters and words of a damaged text.
SWAPPED, DROPPED = 0.2, 0.25
# Words with the space before them. Chinese and Japanese have no spaces, so each of their characters counts as a word.
_CHARACTER = "\u3040-\u30ff\u3400-\u9fff"
_WORD = re.compile(rf"\s*(?:[{_CHARACTER}]|[^\s{_CHARACTER}]+)")


def swap(text: str, seed: int) -> str:
    """Exchange a fifth of the characters with their right neighbours, never across a space and each at most once."""
    characters = _with_marks(text)
    generator, moved = random.Random(f"{seed}|swap|{text}"), set[int]()
    places = list(range(len(characters) - 1))
    generator.shuffle(places)
    wanted = max(1, round(SWAPPED * len(characters)))
    for place in places:
        pair = {place, place + 1}
        if len(moved) < 2 * wanted and not pair & moved and not any(characters[one].isspace() for one in pair):
            characters[place], characters[place + 1] = characters[place + 1], characters[place]
            moved |= pair
    return "".join(characters)


def drop(text: str, seed: int) -> str:
    """Delete a quarter of the words, at least one where there are two."""
    words = _WORD.findall(text)
    count = min(max(1, round(DROPPED * len(words))), len(words) - 1)
    gone = set(random.Random(f"{seed}|drop|{text}").sample(range(len(words)), count))
    return "".join(word for place, word in enumerate(words) if place not in gone).strip()


DAMAGES = {"swap": swap, "drop": drop}


def _with_marks(text: str) -> list[str]:
    """Characters with the combining marks that follow them: a vowel sign of Tamil stays with its consonant."""
    found: list[str] = []
    for character in text:
        if found and unicodedata.category(character).startswith("M"):
            found[-1] += character
        else:
            found.append(character)
    return found
