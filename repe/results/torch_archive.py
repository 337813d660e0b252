"""PyTorch archives of plain data and tensors: equal content gives equal bytes on every machine."""

import io
import os
import pickle
import re
import sys
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch

from repe.files import Zip, open_regular, write_whole
from repe.paper import LANGUAGES, in_paper_order

# What PyTorch writes for tensors.
FUNCTIONS = frozenset({"torch._utils._rebuild_tensor_v2", "collections.OrderedDict"})
STORAGES = frozenset(f"torch.{kind}Storage" for kind in ("Half", "Float", "Double", "Char", "Byte", "Long"))
# Members of an archive, without the archive's own name in front.
MEMBER = re.compile(r"data\.pkl|data/\d+|version|byteorder|\.(format_version|storage_alignment|data/serialization_id)")


def read(path: Path) -> Any:
    """The content of a PyTorch archive of plain data and tensors.

    Raises:
        UserError: it is not a regular file.
        Exception: of any type, if the file is damaged, names anything that PyTorch's restricted unpickler refuses, or
            has more content than its size allows.
    """
    from repe.results.pickle_check import check_pickle  # only where files are read

    with open_regular(path) as file:
        check_pickle(program_of(file), FUNCTIONS, STORAGES)
        file.seek(0)
        with warnings.catch_warnings(action="ignore"):
            content = torch.load(file, map_location="cpu", weights_only=True)
        tensors = [leaf for leaf in leaves(content) if isinstance(leaf, torch.Tensor)]
        check_size(sum(tensor.numel() * tensor.element_size() for tensor in tensors), file)
        return content


def read_plain(path: Path) -> Any:
    """The content of a PyTorch archive without its tensors, in whose places is an Ellipsis.

    Raises:
        Exception: as `read`.
    """
    with open_regular(path) as file:
        return unpickle(program_of(file), {}, {})


def unpickle(program: bytes, functions: Mapping[str, Any], classes: Mapping[str, Any]) -> Any:
    """The object of a pickle, without tensors.

    Args:
        program: the pickle.
        functions: what stands for the functions that it names, besides those of tensors.
        classes: the same for classes.

    Raises:
        Exception: of any type, if the program is damaged, names anything else or has too much content.
    """
    from repe.results.pickle_check import check_pickle  # only where files are read

    functions = {**dict.fromkeys(FUNCTIONS, lambda *_: ...), **functions}
    classes = {**dict.fromkeys(STORAGES), **classes}
    check_pickle(program, functions, classes)
    return _Unpickler(io.BytesIO(program), {**functions, **classes}).load()


class _Unpickler(pickle.Unpickler):
    """Python's unpickler with the names of a pickle that is checked already."""

    def __init__(self, file: BinaryIO, names: Mapping[str, Any]) -> None:
        super().__init__(file)
        self.names = names

    def find_class(self, module: str, name: str) -> Any:
        return self.names[f"{module}.{name}"]

    def persistent_load(self, _: Any) -> None:
        """The storage of a tensor."""


def program_of(file: BinaryIO) -> bytes:
    """The pickle in a PyTorch archive.

    Raises:
        Exception: of any type, if the archive is damaged or is not such as PyTorch writes.
    """
    with Zip(file) as archive:
        members = {info.filename.partition("/")[2].casefold(): info for info in archive.infolist()}
        # PyTorch stores without compression: a compressed archive can unpack to more than fits into memory.
        if any(info.compress_type != zipfile.ZIP_STORED for info in members.values()):
            raise ValueError("it is compressed, which result files are not")
        if len(members) < len(archive.infolist()) or not all(map(MEMBER.fullmatch, members)):
            raise ValueError("it has other members than result files have")
        check_size(sum(info.file_size for info in members.values()), file)
        # PyTorch does not verify the checksums that it writes.
        if wrong := archive.testzip():
            raise ValueError(f"the checksum of {wrong} is wrong")
        return archive.read(members["data.pkl"])


def check_size(content: int, file: BinaryIO) -> None:
    """Refuse a file whose content takes more bytes than the file, such as a view that repeats a number."""
    if content > os.fstat(file.fileno()).st_size:
        raise ValueError("its content is larger than the file")


def leaves(content: Any) -> Iterator[Any]:
    """Everything in nested dicts, lists and tuples."""
    pending = [content]
    while pending:
        node = pending.pop()
        if isinstance(node, dict):
            pending += node.values()
        elif isinstance(node, list | tuple):
            pending += node
        else:
            yield node


def write(path: Path, content: dict[str, Any]) -> None:
    """Write nested dicts of plain data and tensors; a crash leaves an existing file intact.

    Raises:
        UserError: the folder or the file cannot be written.
    """
    # To a buffer: torch.save to a path would write the path's stem into the file.
    buffer = io.BytesIO()
    torch.save(_sharing_storage(_in_order(content)), buffer)
    write_whole(path, lambda file: file.write(buffer.getbuffer()))


def holds(value: Any, dtype: torch.dtype, shape: tuple[int, ...]) -> bool:
    """Whether `value` is a dense CPU tensor of this type and shape, and not a parameter."""
    plain = type(value) is torch.Tensor and value.layout == torch.strided and value.device.type == "cpu"
    return plain and not value.requires_grad and value.dtype == dtype and value.shape == shape


def _in_order(value: Any) -> Any:
    """`value` with languages in the paper's order and equal texts as one object, which pickles refer to.

    So bytes do not depend on the order of additions, nor on what was read from a file.
    """
    if isinstance(value, list):
        return [_in_order(item) for item in value]
    if isinstance(value, str):
        return sys.intern(value)
    if not isinstance(value, dict):
        return value
    names = in_paper_order(value, LANGUAGES) if any(name in LANGUAGES for name in value) else value
    return {sys.intern(name): _in_order(value[name]) for name in names}


def _sharing_storage(content: dict[str, Any]) -> dict[str, Any]:
    """`content` with all tensors of a dtype in one storage: 500 small tensors load several times faster."""
    leaves: dict[torch.dtype, list[torch.Tensor]] = {}

    def gather(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            leaves.setdefault(value.dtype, []).append(value)
        elif isinstance(value, dict):
            for item in value.values():
                gather(item)

    def replace(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return next(views[value.dtype]).view(value.shape)
        return {name: replace(item) for name, item in value.items()} if isinstance(value, dict) else value

    gather(content)
    views = {
        dtype: iter(torch.cat([leaf.reshape(-1) for leaf in found]).split([leaf.numel() for leaf in found]))
        for dtype, found in leaves.items()
    }
    return replace(content)  # type: ignore[no-any-return]
