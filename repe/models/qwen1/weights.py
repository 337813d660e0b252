"""The weights of a first-generation Qwen, read into Transformers' Qwen2 classes (`checkpoint` has the names).

Every tensor is located and its shape compared with the config before the first one is read; then they are read one at a
time, each to the device that it belongs on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repe.errors import UserError
from repe.models.qwen1.checkpoint import CONFIG_FILE, qwen2_config, read_json, read_settings, tensor_names
from repe.models.qwen1.tokenizer import END_OF_TEXT, IM_END, IM_START, PAD, TOKENIZER_FILE, special_token_ids

if TYPE_CHECKING:
    import torch
    from transformers import Qwen2ForCausalLM, Qwen2Model

# The first of these that a folder has is read.
WEIGHT_FILES = (
    "model.safetensors.index.json",
    "model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
)


def load_model(
    folder: Path,
    *,
    dtype: torch.dtype,
    trunk_only: bool = True,
    device_map: str | dict[str, Any] | None = None,
) -> Qwen2Model | Qwen2ForCausalLM:
    """Load a checkpoint as a Qwen2 model, in evaluation mode, its parameters without gradients.

    The model is built without memory and filled one tensor at a time, so the peak is the model and its largest tensor.

    Args:
        folder: the checkpoint's.
        dtype: of the parameters, whatever that of the files.
        trunk_only: leave out the vocabulary head, which is then never read.
        device_map: None (the CPU), a device, "auto" (all GPUs, then the CPU) or a map from module names to devices, as
            in Accelerate.

    Returns:
        The trunk, or the model with its head. With the head, `generate` stops at `<|endoftext|>` (the chat models'
        generation settings) and at `<|im_end|>` and `<|im_start|>` (their chat function).

    Raises:
        UserError: the config is missing, damaged or of another family; a weight file is missing or damaged; a tensor is
            missing, unknown or of a wrong shape; the device map does not work out. It names the file, key or tensor.
    """
    import torch
    from transformers import Qwen2ForCausalLM, Qwen2Model

    folder = Path(folder)
    settings = read_settings(folder)
    config = qwen2_config(settings, dtype)
    with torch.device("meta"):
        model = Qwen2Model(config) if trunk_only else Qwen2ForCausalLM(config)
    model.to(dtype)
    names = tensor_names(settings, trunk_only)
    files = _locate_tensors(folder, names, dict(model.named_parameters()))
    devices = _place(model, device_map, dtype)
    for source, path in files.items():
        parts = _read_tensor(path, source).chunk(len(names[source]))
        for target, part in zip(names[source], parts, strict=True):
            # A copy even where device and type are right already: a view would keep the whole file mapped.
            copy = torch.empty(part.shape, dtype=dtype, device=_device_of(target, devices)).copy_(part)
            _put(model, target, copy)
    _finish(model, devices, folder)
    return model


def _locate_tensors(
    folder: Path, names: Mapping[str, tuple[str, ...]], parameters: Mapping[str, torch.Tensor]
) -> dict[str, Path]:
    """The file of each tensor in `names`, file by file, once it is sure that they are all there, and no others."""
    found: dict[str, tuple[Path, tuple[int, ...]]] = {}
    for path in _weight_files(folder):
        for name, shape in _read_shapes(path).items():
            if name in found:
                raise UserError(f"{path}: the tensor {name} is also in {found[name][0].name}: download {folder} again")
            found[name] = path, shape
    if missing := [name for name in names if name not in found]:
        raise UserError(f"{folder}: the tensor {_some(missing)} is missing from the weights: download the folder again")
    # The head is not read for the trunk alone or where it is tied; rotary tables follow from the config.
    known = {*names, "lm_head.weight"}
    if extra := [name for name in found if name not in known and not name.endswith("rotary_emb.inv_freq")]:
        raise UserError(
            f"{found[extra[0]][0]}: a first-generation Qwen language model has no tensor {_some(extra)}: "
            "use one of the published checkpoints, or their config.json if this one names too few layers"
        )
    for source, targets in names.items():
        rows, *rest = parameters[targets[0]].shape
        expected = (rows * len(targets), *rest)
        path, shape = found[source]
        if shape != expected:
            raise UserError(
                f"{path}: the tensor {source} is of shape {shape}, {CONFIG_FILE} says {expected}: "
                "take both files from one checkpoint"
            )
    return {name: path for name, (path, _) in found.items() if name in names}


def _some(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} (and {len(names) - 1} more)"


def _weight_files(folder: Path) -> list[Path]:
    path = next((folder / name for name in WEIGHT_FILES if (folder / name).is_file()), None)
    if path is None:
        raise UserError(f"{folder}: no weights: one of {', '.join(WEIGHT_FILES)} is needed: download the folder again")
    if path.suffix != ".json":
        return [path]
    shards = read_json(path).get("weight_map")
    # Bare file names: an index from elsewhere must not lead out of the folder.
    if not (isinstance(shards, dict) and shards and all(name == Path(str(name)).name for name in shards.values())):
        raise UserError(f"{path}: no usable weight_map of tensors to files beside it: download it again")
    files = [folder / name for name in sorted(set(shards.values()))]
    if missing := [file.name for file in files if not file.is_file()]:
        raise UserError(f"{folder}: the weight file {_some(missing)} is missing, {path.name} names it: download it")
    return files


def _read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    with _opened(path) as shard:
        if path.suffix == ".safetensors":
            return {name: tuple(shard.get_slice(name).get_shape()) for name in shard.keys()}  # noqa: SIM118
        return {name: tuple(tensor.shape) for name, tensor in shard.items()}


def _read_tensor(path: Path, name: str) -> torch.Tensor:
    # Each tensor by an opening of its own: what has been read of a mapped file counts as this process's memory until
    # the file is closed.
    with _opened(path) as shard:
        tensor: torch.Tensor = shard.get_tensor(name) if path.suffix == ".safetensors" else shard[name]
    if not tensor.is_floating_point():
        raise UserError(f"{path}: the tensor {name} holds {tensor.dtype}: use the unquantised checkpoint")
    return tensor


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A safetensors file, or the dictionary of a `.bin` file, mapped and not read."""
    import torch
    from safetensors import SafetensorError, safe_open

    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt", device="cpu") as file:
                yield file
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path}: no readable safetensors file ({error}): download it again") from error
        return
    try:
        tensors = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    # Damage shows as almost any exception, of pickle's, zip's or torch's own code; and torch's texts, which advise to
    # load without the check, are not passed on.
    except Exception as error:
        raise UserError(
            f"{path}: damaged, or not a file of plain tensors ({type(error).__name__}): "
            "download it again, or the safetensors files in its place"
        ) from error
    if not isinstance(tensors, dict) or any(
        not (isinstance(name, str) and isinstance(tensor, torch.Tensor)) for name, tensor in tensors.items()
    ):
        raise UserError(f"{path}: not a dictionary of names to tensors: use the checkpoint's own weight files")
    yield tensors


def _place(model: Qwen2Model | Qwen2ForCausalLM, device_map: Any, dtype: torch.dtype) -> dict[str, Any]:
    """Device of each named module; the name "" stands for all that no longer name covers."""
    import torch

    if device_map is None:
        return {"": "cpu"}
    devices = _share_out(model, dtype) if device_map == "auto" else device_map
    if not isinstance(devices, dict):
        devices = {"": devices}
    if "disk" in devices.values():
        raise UserError("the model fits into no memory here: take a smaller model, --dtype float16 or a larger machine")
    for device in devices.values():
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError, TypeError) as error:
            raise UserError(f"device map: no device {device!r} here: give cpu, cuda, cuda:1, mps or auto") from error
    for name, _ in [*model.named_parameters(), *model.named_buffers()]:
        _device_of(name, devices)
    return devices


def _share_out(model: Qwen2Model | Qwen2ForCausalLM, dtype: torch.dtype) -> dict[str, Any]:
    from accelerate import infer_auto_device_map
    from accelerate.utils import get_balanced_memory

    whole = list(model._no_split_modules)
    memory = get_balanced_memory(model, dtype=dtype, no_split_module_classes=whole)
    # A GPU filled to the brim with weights has no room for the hidden states.
    memory = {device: size if device == "cpu" else int(0.9 * size) for device, size in memory.items()}
    devices: dict[str, Any] = infer_auto_device_map(
        model, max_memory=memory, dtype=dtype, no_split_module_classes=whole
    )
    return devices


def _device_of(name: str, devices: Mapping[str, Any]) -> Any:
    module = name
    while module and module not in devices:
        module = module.rpartition(".")[0]
    if module not in devices:
        raise UserError(f"device map: nothing covers {name}: add its module, or '' for all the rest")
    return devices[module]


def _put(model: torch.nn.Module, name: str, tensor: torch.Tensor) -> None:
    from torch.nn import Parameter

    module, _, leaf = name.rpartition(".")
    model.get_submodule(module).register_parameter(leaf, Parameter(tensor, requires_grad=False))


def _finish(model: Qwen2Model | Qwen2ForCausalLM, devices: dict[str, Any], folder: Path) -> None:
    """All that is not in the weight files: the rotary table, the tied head, the stop tokens, hooks between devices."""
    trunk, name = (model.model, "model.rotary_emb") if hasattr(model, "lm_head") else (model, "rotary_emb")
    # Its buffers are not saved, and were computed without memory: computed again here, in float32 whatever the dtype.
    trunk.rotary_emb = type(trunk.rotary_emb)(model.config).to(_device_of(name, devices))
    if hasattr(model, "lm_head"):
        model.tie_weights()
        _set_stop_tokens(model, folder)
    model.eval()
    if len(set(devices.values())) > 1:
        from accelerate import dispatch_model

        dispatch_model(model, devices, skip_keys="past_key_values")


def _set_stop_tokens(model: Qwen2ForCausalLM, folder: Path) -> None:
    if not (folder / TOKENIZER_FILE).is_file():
        return
    ids = special_token_ids(folder)
    model.generation_config.eos_token_id = [ids[END_OF_TEXT], ids[IM_END], ids[IM_START]]
    model.generation_config.pad_token_id = ids[PAD]
