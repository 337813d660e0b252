"""Changes of bytes and of trees, at random."""

import io
import struct
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

from hypothesis import strategies as st

Change = Callable[[Any], Any]


class _Gone:
    """Stands for an entry that a change takes away."""


def places(tree: Any, path: tuple = ()) -> Iterator[tuple]:
    """The paths of all nodes of nested dicts and lists; of a long list the first nodes, of an endless one some."""
    yield path
    if len(path) > 5:
        return
    nodes = tree.items() if isinstance(tree, dict) else enumerate(tree[:4]) if isinstance(tree, list) else ()
    for name, node in nodes:
        yield from places(node, (*path, name))


def changed(tree: Any, path: tuple, change: Change) -> Any:
    """A copy of `tree` with the node at `path` changed."""
    if not path:
        return change(tree)
    node = changed(tree[path[0]], path[1:], change)
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree)
    new = [(name, node if name == path[0] else old) for name, old in pairs if name != path[0] or node is not _Gone]
    return dict(new) if isinstance(tree, dict) else [old for _, old in new]


def rename(name: Any) -> Change:
    """Give the first entry of a dict another name."""
    return lambda node: (
        dict([(name, next(iter(node.values()))), *list(node.items())[1:]])
        if isinstance(node, dict) and node
        else [name]
    )


def unwrap(node: Any) -> Any:
    """One level of nesting less."""
    nodes = list(node.values()) if isinstance(node, dict) else node if isinstance(node, list) else []
    return nodes[0] if nodes else _Gone


def changes(junk: st.SearchStrategy, names: st.SearchStrategy) -> st.SearchStrategy[Change]:
    """Changes of a node: gone, something else, one level more or less, an entry renamed."""
    fixed: list[Change] = [lambda _: _Gone, lambda node: [node], lambda node: {"x": node}, unwrap]
    return st.one_of(st.sampled_from(fixed), junk.map(lambda value: lambda _: value), names.map(rename))


@st.composite
def mutated(draw: st.DrawFn, tree: Any, change: st.SearchStrategy[Change]) -> Any:
    """`tree` with one to three nodes changed."""
    for _ in range(draw(st.integers(1, 3))):
        tree = changed(tree, draw(st.sampled_from(list(places(tree)))), draw(change))
        tree = None if tree is _Gone else tree
    return tree


@st.composite
def damaged(draw: st.DrawFn, raw: bytes) -> bytes:
    """`raw` with a few bytes changed, cut out, put in, repeated or cleared, or cut off at the end."""
    for _ in range(draw(st.integers(1, 3))):
        kind = draw(st.integers(0, 5))
        at, end = sorted((draw(st.integers(0, len(raw))), draw(st.integers(0, len(raw)))))
        if kind == 0:
            raw = raw[:at]
        elif kind == 1:
            raw = raw[:at] + draw(st.binary(min_size=1, max_size=8)) + raw[at:]
        elif kind == 2:
            raw = raw[:at] + bytes(len(raw[at:end])) + raw[end:]
        elif kind == 3:
            raw = raw[:at] + raw[end:]
        elif kind == 4:
            raw = raw[:end] + raw[at:]
        elif raw[at:]:
            raw = raw[:at] + bytes([raw[at] ^ draw(st.integers(1, 255))]) + raw[at + 1 :]
    return raw


@st.composite
def flipped(draw: st.DrawFn, raw: bytes) -> bytes:
    """`raw` with one to three bits the other way."""
    changing = bytearray(raw)
    for _ in range(draw(st.integers(1, 3))):
        changing[draw(st.integers(0, len(raw) - 1))] ^= 1 << draw(st.integers(0, 7))
    return bytes(changing)


@st.composite
def flipped_member(draw: st.DrawFn, raw: bytes) -> bytes:
    """An archive with one bit of a member the other way."""
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        member = draw(st.sampled_from([member for member in archive.infolist() if member.file_size]))
    # The lengths of the name and of what is between it and the data stand in the last four bytes of the header.
    header = raw[member.header_offset :][:30]
    start = member.header_offset + len(header) + sum(struct.unpack("<HH", header[-4:]))
    at = start + draw(st.integers(0, member.file_size - 1))
    return raw[:at] + bytes([raw[at] ^ 1 << draw(st.integers(0, 7))]) + raw[at + 1 :]
