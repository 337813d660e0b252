"""Random mutations of bytes and of trees."""

import io
import struct
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

from hypothesis import strategies as st

Mutation = Callable[[Any], Any]


class _Gone:
    """Marks an entry that a mutation removes."""


def places(tree: Any, path: tuple = ()) -> Iterator[tuple]:
    """The paths of the nodes of nested dicts and lists: the first four of a list, and a limited depth."""
    yield path
    if len(path) > 5:
        return
    nodes = tree.items() if isinstance(tree, dict) else enumerate(tree[:4]) if isinstance(tree, list) else ()
    for name, node in nodes:
        yield from places(node, (*path, name))


def with_mutation(tree: Any, path: tuple, change: Mutation) -> Any:
    """A copy of `tree` with the node at `path` mutated."""
    if not path:
        return change(tree)
    node = with_mutation(tree[path[0]], path[1:], change)
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree)
    new = [(name, node if name == path[0] else old) for name, old in pairs if name != path[0] or node is not _Gone]
    return dict(new) if isinstance(tree, dict) else [old for _, old in new]


def rename(name: Any) -> Mutation:
    """Rename the first entry of a dict."""
    return lambda node: (
        dict([(name, next(iter(node.values()))), *list(node.items())[1:]])
        if isinstance(node, dict) and node
        else [name]
    )


def unwrap(node: Any) -> Any:
    """Remove one level of nesting."""
    nodes = list(node.values()) if isinstance(node, dict) else node if isinstance(node, list) else []
    return nodes[0] if nodes else _Gone


def mutations(junk: st.SearchStrategy, names: st.SearchStrategy) -> st.SearchStrategy[Mutation]:
    """Mutations of a node: removed, replaced, one level more or less, an entry renamed."""
    fixed: list[Mutation] = [lambda _: _Gone, lambda node: [node], lambda node: {"x": node}, unwrap]
    return st.one_of(st.sampled_from(fixed), junk.map(lambda value: lambda _: value), names.map(rename))


@st.composite
def mutated(draw: st.DrawFn, tree: Any, change: st.SearchStrategy[Mutation]) -> Any:
    """`tree` with one to three nodes mutated."""
    for _ in range(draw(st.integers(1, 3))):
        tree = with_mutation(tree, draw(st.sampled_from(list(places(tree)))), draw(change))
        tree = None if tree is _Gone else tree
    return tree


@st.composite
def damaged(draw: st.DrawFn, raw: bytes) -> bytes:
    """`raw` with a few bytes changed, removed, inserted, repeated or zeroed, or truncated."""
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
    """`raw` with one to three bits flipped."""
    changing = bytearray(raw)
    for _ in range(draw(st.integers(1, 3))):
        changing[draw(st.integers(0, len(raw) - 1))] ^= 1 << draw(st.integers(0, 7))
    return bytes(changing)


@st.composite
def flipped_member(draw: st.DrawFn, raw: bytes) -> bytes:
    """An archive with one bit of a member flipped."""
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        member = draw(st.sampled_from([member for member in archive.infolist() if member.file_size]))
    # The last four bytes of the header are the lengths of the name and of the extra field before the data.
    header = raw[member.header_offset :][:30]
    start = member.header_offset + len(header) + sum(struct.unpack("<HH", header[-4:]))
    at = start + draw(st.integers(0, member.file_size - 1))
    return raw[:at] + bytes([raw[at] ^ 1 << draw(st.integers(0, 7))]) + raw[at + 1 :]
