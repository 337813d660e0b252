"""Pickles are checked before they are loaded: sizes and depths as of the object, and refusals of what would hang."""

import pickle
from collections import OrderedDict
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repe.results.pickle_check import DEEPEST, EXPANSION, _Machine, check_pickle

PLAIN = st.one_of(st.none(), st.booleans(), st.integers(-(2**31), 2**31 - 1), st.floats(), st.text(max_size=3))
TREES = st.recursive(
    PLAIN,
    lambda nodes: st.one_of(
        st.lists(nodes, max_size=4), st.tuples(nodes, nodes), st.dictionaries(st.text(max_size=2), nodes, max_size=4)
    ),
    max_leaves=30,
)


def measured(tree: Any) -> tuple[int, int]:
    """Number of objects (long texts count more) with all repetitions, and depth, by recursion over the object."""
    if isinstance(tree, str):
        return 1 + len(tree.encode(errors="surrogatepass")) // 4, 0
    if isinstance(tree, dict):
        tree = [part for pair in tree.items() for part in pair]
    if not isinstance(tree, list | tuple) or tree == ():
        return 1, int(tree == [] and isinstance(tree, list))
    sizes, depths = zip(*map(measured, tree), strict=True) if tree else ((), (0,))
    return 1 + sum(sizes), 1 + max(depths)


@settings(max_examples=100, deadline=None)
@given(TREES, st.booleans())
def test_size_and_depth_are_those_of_the_object(tree: Any, twice: bool) -> None:
    tree = [tree, tree] if twice else tree
    ((size, depth, *_),) = _Machine(pickle.dumps(tree, 2), (), ()).run()
    assert (size, depth) == measured(tree)


def test_everything_that_python_can_pickle_of_plain_data_passes() -> None:
    tree = {"a": list(range(3000)), "b": {str(number): (number, -1.5) for number in range(3000)}, 2**33: True}
    check_pickle(pickle.dumps(tree, 2), (), ())
    check_pickle(pickle.dumps([OrderedDict(), "x"], 2), {"collections.OrderedDict"}, ())


def doubled(levels: int, kind: type = list) -> Any:
    """Lists or tuples that hold the same one twice at each level: 2^levels leaves in a few bytes."""
    node: Any = kind([1])
    for _ in range(levels):
        node = kind([node, node])
    return node


def itself() -> list:
    loop: list = []
    loop.append([loop])
    return loop


NESTED = b")" + b"\x85" * 100_000
HOSTILE = {
    "nested tuples as a key": b"\x80\x02}" + NESTED + b"K\x01s.",
    "nested tuples": b"\x80\x02" + NESTED + b".",
    "nested lists": b"\x80\x02" + b"]" * 200 + b"a" * 199 + b".",
    "a memo of 2^30": b"\x80\x02Nr\x00\x00\x00\x40.",
    "shared lists": pickle.dumps(doubled(40), 2),
    "shared tuples": pickle.dumps(doubled(40, tuple), 2),
    "a list in itself": pickle.dumps(itself(), 2),
    "a list that grows after it is used": b"\x80\x02]q\x00h\x00a.",
    "equal hashes": pickle.dumps({number * (2**61 - 1): 0 for number in range(9)}, 2),
    "text that is encoded again and again": b"\x80\x02X\xe8\x03\x00\x00"
    + b"a" * 1000
    + b"q\x000("
    + b"h\x00\x85R" * 99,
    "a class that is changed": b"\x80\x02cx\nC\n}X\x01\x00\x00\x00aK\x01sb.",
    "a function that is unknown": b"\x80\x02cos\nsystem\n.",
    "a call of a class": b"\x80\x02cx\nC\n)R.",
    "a call of data": b"\x80\x02K\x01)R.",
    "an opcode of another protocol": pickle.dumps([b"bytes"], 4),
    "no end": b"\x80\x02K\x01",
    "too few objects": b"\x80\x02K\x01\x86.",
    "two objects": b"\x80\x02K\x01K\x01.",
    "a mark below": b"\x80\x02(]K\x01a0t.",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles_are_refused(name: str) -> None:
    with pytest.raises((ValueError, LookupError, TypeError)):
        check_pickle(HOSTILE[name], {"x.f"}, {"x.C"})


def test_the_limits_leave_room_for_honest_sharing() -> None:
    shared = ["a"] * 100
    check_pickle(pickle.dumps([shared] * 10, 2), (), ())
    nest: Any = 1
    for _ in range(DEEPEST):
        nest = [nest]
    check_pickle(pickle.dumps(nest, 2), (), ())
    with pytest.raises(ValueError, match="larger or deeper"):
        check_pickle(pickle.dumps([nest], 2), (), ())
    with pytest.raises(ValueError, match="larger or deeper"):
        check_pickle(pickle.dumps([["a"] * 8192] * EXPANSION * 4, 2), (), ())
