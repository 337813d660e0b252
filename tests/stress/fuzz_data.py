"""Fuzzed data files are read correctly or refused."""

import json
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from repe.data import read_pairs
from repe.errors import UserError
from stress.fuzz import fuzz
from stress.mutations import damaged, flipped, mutated, mutations
from stress.outcome import Outcome

CONTEXT = {"morality": "", "deontology": "scenario", "truthfulness": "question"}
JSON_JUNK = st.one_of(
    st.sampled_from([None, True, 0, -1, 1.5, float("nan"), 10**30, "", " ", "\ufeff", "\ud800", "\udc00\ud800", "\0"]),
    st.sampled_from([[], {}, ["text"], {"pos": "yes", "neg": "no"}, {"": ""}]),
    st.text(max_size=5),
)


@st.composite
def data_files(draw: st.DrawFn) -> tuple[str, bytes]:
    """A concept and the bytes of a data file for it: modified valid JSON, or arbitrary bytes."""
    concept = draw(st.sampled_from(sorted(CONTEXT)))
    sample = {"pos": "helps a friend", "neg": "hurts a friend", "scenario": "At work.", "question": "What?"}
    tree = {f"g{group}": {str(item): sample | {"neg": f"no {item}"} for item in range(3)} for group in range(2)}
    names = st.sampled_from(["", "pos", "neg", "Pos", "x", "g0", "1", "\ud800"])
    tree = draw(st.one_of(mutated(tree, mutations(JSON_JUNK, names)), st.just(tree)))
    text = json.dumps(tree, ensure_ascii=draw(st.booleans()))
    if draw(st.integers(0, 7)) == 0:
        text = text.replace(
            draw(st.sampled_from(['"1"', '"g1"', '"neg"', '"question"'])), '"0"', draw(st.integers(1, 3))
        )
    encoding = draw(st.sampled_from(["utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-32-be", "latin-1"]))
    raw = text.encode(encoding, "surrogatepass" if encoding.startswith("utf") else "replace")
    return concept, draw(st.one_of(st.just(raw), damaged(raw), flipped(raw), st.binary(max_size=40)))


def simple_pairs(concept: str, raw: bytes) -> list[tuple[str, str, str]]:
    """Key and texts of the pairs of a valid file, read without any checks."""

    def unique(items: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len(dict(items)) == len(items), "a repeated key was accepted"
        return dict(items)

    groups = json.loads(raw.decode("utf-8").removeprefix("\ufeff"), object_pairs_hook=unique)
    form = {"": "{1}", "scenario": "{0} {1}", "question": "Question: {0} Answer: {1}"}[CONTEXT[concept]]
    return [
        (f"{group}|{item}", *(form.format(sample.get(CONTEXT[concept]), sample[side]) for side in ("pos", "neg")))
        for group, items in groups.items()
        for item, sample in items.items()
        if sample["pos"] != sample["neg"]
    ]


def fuzz_data(folder: Path, count: int) -> Outcome:
    """A data file gives the same pairs as a reader without checks, with no empty text, or is refused in one line."""

    def check(drawn: tuple[str, bytes]) -> str:
        concept, raw = drawn
        path = folder / "fuzz" / concept / f"{concept}_en.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(raw)
        try:
            pairs = read_pairs(path)
        except UserError as error:
            assert path.name in str(error)
            return "refused"
        assert len(pairs) > 1
        for text in (text for pair in pairs for text in (pair.pos, pair.neg)):
            assert isinstance(text, str)
            assert text.strip()
            assert text.encode()
        assert [(pair.key, pair.pos, pair.neg) for pair in pairs] == simple_pairs(concept, raw)
        return "read"

    return fuzz("fuzzed data files", data_files(), check, count)
