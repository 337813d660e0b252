"""Archives of plain data and tensors, as `torch.save` writes them: the same content is the same bytes everywhere."""

import io
import warnings
from pathlib import Path
from typing import Any

import torch

from repe.files import Zip, write_whole
from repe.paper import LANGUAGES, in_paper_order


def read(path: Path) -> Any:
    """The content of a PyTorch archive of plain data; an error of any type if it is damaged."""
    with path.open("rb") as file:
        # PyTorch does not compare the check sums that it writes.
        with Zip(file) as archive:
            if wrong := archive.testzip():
                raise ValueError(f"the check sum of {wrong} is wrong")
        file.seek(0)
        with warnings.catch_warnings(action="ignore"):
            return torch.load(file, map_location="cpu", weights_only=True)


def write(path: Path, content: dict[str, Any]) -> None:
    """Write nested dicts with plain data and tensors; a crash leaves the old file.

    Raises:
        UserError: the folder or the file cannot be written.
    """
    # To a buffer: torch.save to a path would write the path's stem into the file.
    buffer = io.BytesIO()
    torch.save(_sharing_storage(_in_order(content)), buffer)
    write_whole(path, lambda file: file.write(buffer.getbuffer()))


def holds(value: Any, dtype: torch.dtype, shape: tuple[int, ...]) -> bool:
    """Whether `value` is a plain tensor of numbers: a sparse one, a parameter or one without data is none."""
    plain = type(value) is torch.Tensor and value.layout == torch.strided and value.device.type == "cpu"
    return plain and not value.requires_grad and value.dtype == dtype and value.shape == shape


def _in_order(value: Any) -> Any:
    """Dicts whose keys are languages in the paper's order, so that bytes do not tell in which order a file grew."""
    if not isinstance(value, dict):
        return value
    if any(name in LANGUAGES for name in value):
        return {name: _in_order(value[name]) for name in in_paper_order(value, LANGUAGES)}
    return {name: _in_order(item) for name, item in value.items()}


def _sharing_storage(content: dict[str, Any]) -> dict[str, Any]:
    """The same content with all tensors of a type in one storage: 500 small tensors load several times faster."""
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
