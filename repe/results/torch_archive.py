"""PyTorch archives of plain data and tensors: equal content gives equal bytes on every machine."""

import io
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from repe.files import Zip, write_whole
from repe.paper import LANGUAGES, in_paper_order


def read(path: Path) -> Any:
    """The content of a PyTorch archive of plain data.

    Raises:
        Exception: of any type, if the file is damaged or names anything that PyTorch's restricted unpickler refuses.
    """
    with path.open("rb") as file:
        with Zip(file) as archive:
            # PyTorch stores without compression: a compressed archive can unpack to more than fits into memory.
            if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
                raise ValueError("it is compressed, which result files are not")
            # PyTorch does not verify the checksums that it writes.
            if wrong := archive.testzip():
                raise ValueError(f"the checksum of {wrong} is wrong")
        file.seek(0)
        with warnings.catch_warnings(action="ignore"):
            return torch.load(file, map_location="cpu", weights_only=True)


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
    """`value` with languages in the paper's order, so that bytes do not depend on the order of additions."""
    if not isinstance(value, dict):
        return value
    if any(name in LANGUAGES for name in value):
        return {name: _in_order(value[name]) for name in in_paper_order(value, LANGUAGES)}
    return {name: _in_order(item) for name, item in value.items()}


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
