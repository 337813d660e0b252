"""A check of a pickle before it is loaded: result files and downloads of plain data pass, everything else is refused.

Loading a pickle runs a program on a stack of objects. The check runs the same program on the sizes of these objects:
nothing is called, and memory and time are in proportion to the length of the program. `pickletools` describes the
opcodes.
"""

import pickletools
from collections.abc import Container
from typing import Any

# An object counts once for each place where it is used: at most so many for each byte of the program.
EXPANSION = 16
DEEPEST = 32
# Longer integers can be chosen to have the same hash, which makes a dict slow.
LONGEST_INTEGER = 8

_CODES = {opcode.name: ord(opcode.code) for opcode in pickletools.opcodes}
_NAMES = {code: name for name, code in _CODES.items()}
# Numbers and None: the length of the argument.
_LEAVES = {
    ord(opcode.code): opcode.arg.n if opcode.arg else 0
    for opcode in pickletools.opcodes
    if opcode.name in ("NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "BINFLOAT")
}
_LONG_BINPUT, _BINGET, _BINUNICODE = (_CODES[name] for name in ("LONG_BINPUT", "BINGET", "BINUNICODE"))
_REDUCE, _TUPLE2, _STOP = (_CODES[name] for name in ("REDUCE", "TUPLE2", "STOP"))

# The size and the depth of an object. What can still change has two more: its kind, and whether it is used elsewhere.
_LEAF = (1, 0)


class _Name(tuple):
    """A function or class, which counts like a leaf: (1, 0, full name)."""

    __slots__ = ()


def check_pickle(program: bytes, functions: Container[str], classes: Container[str]) -> None:
    """Refuse a pickle that asks for unknown names, or whose content is larger or deeper than that of result files.

    Args:
        program: the pickle.
        functions: full names that it may call.
        classes: full names that it may pass on or make instances of.

    Raises:
        ValueError: what is wrong with it. Other errors mean that the program is damaged.
    """
    ((size, depth, *_),) = _Machine(program, functions, classes).run()
    if size > EXPANSION * len(program) + 4096 or depth > DEEPEST:
        raise ValueError("its content is larger or deeper than that of result files")


class _Machine:
    def __init__(self, program: bytes, functions: Container[str], classes: Container[str]) -> None:
        self.program, self.functions, self.classes = program, functions, classes
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> list[Any]:
        """The stack at the end. The most frequent opcodes come first."""
        program, stack, memo, at = self.program, self.stack, self.memo, 0
        while (code := program[at]) != _STOP:
            at += 1
            if code == _LONG_BINPUT:
                if (index := int.from_bytes(program[at : at + 4], "little")) > len(program):
                    raise ValueError("its memo is larger than the file")
                memo[index] = stack[-1]
                at += 4
            elif code == _BINGET:
                node = memo[program[at]]
                if type(node) is list:
                    node[3] = True
                stack.append(node)
                at += 1
            elif code == _TUPLE2:
                last, first = stack.pop(), stack[-1]
                stack[-1] = (first[0] + last[0] + 1, 1 + (first[1] if first[1] > last[1] else last[1]))
            elif code == _REDUCE:
                arguments = stack.pop()
                if stack[-1][2] not in self.functions:
                    raise ValueError(f"it calls {stack[-1][2]}, which result files do not use")
                stack[-1] = [arguments[0] + 1, arguments[1] + 1, "object", False]
            elif code == _BINUNICODE:
                length = int.from_bytes(program[at : at + 4], "little")
                stack.append((1 + length // 4, 0))
                at += 4 + length
            elif code in _LEAVES:
                stack.append(_LEAF)
                at += _LEAVES[code]
            else:
                at = self.rare(code, at)
        return stack

    def rare(self, code: int, at: int) -> int:
        """Run one of the other opcodes, whose argument begins at `at`; returns where the next one begins."""
        stack, size = self.stack, self.program[at] if at < len(self.program) else 0
        match _NAMES.get(code, ""):
            case "BINPUT":
                self.memo[size] = stack[-1]
                return at + 1
            case "LONG_BINGET":
                stack.append(self.memo[int.from_bytes(self.program[at : at + 4], "little")])
                if type(stack[-1]) is list:
                    stack[-1][3] = True
                return at + 4
            case "LONG1" if size <= LONGEST_INTEGER:
                stack.append(_LEAF)
                return at + 1 + size
            case "PROTO" if size == 2 and at == 1:
                return at + 1
            case "GLOBAL":
                return self.name(at)
            case "EMPTY_TUPLE":
                stack.append(_LEAF)
            case "EMPTY_LIST" | "EMPTY_DICT" as kind:
                stack.append([1, 1, kind, False])
            case "TUPLE1" | "TUPLE3" as kind:
                count = int(kind[-1])
                self.marks.append(len(stack) - count)
                stack.append(_around(self.since_mark()))
            case "MARK":
                self.marks.append(len(stack))
            case "BINPERSID":  # a reference to a storage
                stack[-1] = _LEAF
            case name:
                self.change(name)
        return at

    def change(self, opcode: str) -> None:
        """Run one of the opcodes that take many objects from the stack, or change one that is there."""
        stack = self.stack
        match opcode:
            case "TUPLE":
                stack.append(_around(self.since_mark()))
            case "APPEND" | "APPENDS":
                self.fill("EMPTY_LIST", self.since_mark() if opcode == "APPENDS" else [stack.pop()])
            case "SETITEM" | "SETITEMS":
                items = self.since_mark() if opcode == "SETITEMS" else [stack.pop(-2), stack.pop()]
                if any(type(key) is not tuple or key[1] for key in items[::2]):
                    raise ValueError("a key is neither a text nor a number")
                self.fill("EMPTY_DICT", items)
            case "BUILD":
                self.fill("object", [stack.pop()])
            case "NEWOBJ":
                arguments = stack.pop()
                if stack[-1][2] not in self.classes:
                    raise ValueError(f"it makes {stack[-1][2]}, which result files do not use")
                stack[-1] = [arguments[0] + 1, arguments[1] + 1, "object", False]
            case _:
                raise ValueError("its pickle is damaged, or not of protocol 2")

    def since_mark(self) -> list[Any]:
        mark = self.marks.pop()
        if not 0 <= mark <= len(self.stack):
            raise IndexError("stack")
        items = self.stack[mark:]
        del self.stack[mark:]
        return items

    def fill(self, kind: str, items: list[Any]) -> None:
        """Add objects to the one on top of the stack."""
        target = self.stack[-1]
        # What is used elsewhere may not change any more, so that nothing contains itself and sizes are final.
        if type(target) is not list or target[2] != kind or target[3]:
            raise ValueError("an object changes after it is used")
        target[0] += sum(item[0] for item in items)
        target[1] = max([target[1], *(item[1] + 1 for item in items)])

    def name(self, at: int) -> int:
        """Push a function or class, if it is known."""
        end = self.program.index(b"\n", self.program.index(b"\n", at) + 1)
        full = self.program[at:end].decode().replace("\n", ".")
        if full not in self.functions and full not in self.classes:
            raise ValueError(f"it asks for {full}, which result files do not use")
        self.stack.append(_Name((*_LEAF, full)))
        return end + 1


def _around(items: list[Any]) -> tuple[int, int]:
    """A tuple of items."""
    return 1 + sum(item[0] for item in items), 1 + max((item[1] for item in items), default=0)
