"""The weights of a first-generation Qwen, read into Transformers' Qwen2 classes (for the names see `checkpoint`).

All tensors are located and their shapes compared with the config before the first one is read. Then they are read one
at a time, each to its device.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import dispatch_model, infer_auto_device_map
from accelerate.utils import get_balanced_memory
from safetensors import SafetensorError, safe_open
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Model

from repe.errors import UserError, first_of
from repe.models.qwen1.checkpoint import CONFIG_FILE, qwen2_settings, read_json, tensor_names
from repe.models.qwen1.tokenizer import END_OF_TEXT, IM_END, IM_START, PAD, TOKENIZER_FILE, special_token_ids

# The first of these in the folder is read.
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
    """Load a checkpoint as a Qwen2 model in evaluation mode, its parameters without gradients.

    Peak memory is that of the model and its largest tensor.

    Args:
        folder: of the checkpoint.
        dtype: of the parameters; the files may have another.
        trunk_only: leave out the vocabulary head, which is then not read.
        device_map: None (the CPU), a device, "auto" (all GPUs, then the CPU) or a map from module names to devices, as
            in Accelerate.

    Returns:
        The trunk, or the model with its head. `generate` then stops at `<|endoftext|>` (the chat models' generation
        settings) and at `<|im_end|>` and `<|im_start|>` (their chat function).

    Raises:
        UserError: config or weights are missing, damaged or of another family, or the device map is not valid.
    """
    settings = qwen2_settings(folder := Path(folder))
    with torch.device("meta"):
        model = (Qwen2Model if trunk_only else Qwen2ForCausalLM)(Qwen2Config(**settings, dtype=dtype)).to(dtype)
    names = tensor_names(settings, trunk_only)
    files = _locate_tensors(folder, names, dict(model.named_parameters()))
    devices = _devices(model, device_map, dtype)
    state = {}
    for source, path in files.items():
        for target, part in zip(names[source], _read_tensor(path, source).chunk(len(names[source])), strict=True):
            # Always a copy: a view would keep the whole file mapped.
            state[target] = part.to(_device_of(target, devices), dtype, copy=True)
    # A tied head is not in the files.
    model.load_state_dict(state, strict=False, assign=True)
    _finish(model.requires_grad_(False).eval(), devices, folder)
    return model


def _locate_tensors(
    folder: Path, names: Mapping[str, tuple[str, ...]], parameters: Mapping[str, torch.Tensor]
) -> dict[str, Path]:
    """The file of each tensor in `names`, ordered by file, after checking that exactly these tensors are there."""
    found: dict[str, tuple[Path, tuple[int, ...]]] = {}
    for path in _weight_files(folder):
        for name, shape in _read_shapes(path).items():
            if name in found:
                raise UserError(f"{path}: the tensor {name} is also in {found[name][0].name}: download {folder} again")
            found[name] = path, shape
    if missing := [name for name in names if name not in found]:
        raise UserError(f"{folder}: the weights lack the tensor {first_of(missing, 1, ' ')}: download the folder again")
    # The head is not needed for the trunk alone or if it is tied; rotary tables follow from the config.
    known = {*names, "lm_head.weight"}
    if extra := [name for name in found if name not in known and not name.endswith("rotary_emb.inv_freq")]:
        raise UserError(
            f"{found[extra[0]][0]}: a first-generation Qwen has no tensor {first_of(extra, 1, ' ')}: use a published "
            "checkpoint, or its config.json if this one has too few layers"
        )
    for source, targets in names.items():
        rows, *rest = parameters[targets[0]].shape
        expected = (rows * len(targets), *rest)
        path, shape = found[source]
        if shape != expected:
            raise UserError(
                f"{path}: the tensor {source} has shape {shape}, but {CONFIG_FILE} requires {expected}: "
                "use both files from one checkpoint"
            )
    return {name: path for name, (path, _) in found.items() if name in names}


def _weight_files(folder: Path) -> list[Path]:
    path = next((folder / name for name in WEIGHT_FILES if (folder / name).is_file()), None)
    if path is None:
        raise UserError(f"{folder} has no weights (one of {', '.join(WEIGHT_FILES)}): download the folder again")
    if path.suffix != ".json":
        return [path]
    shards = read_json(path).get("weight_map")
    # Bare file names, so that an index cannot refer to files outside the folder.
    if not (isinstance(shards, dict) and shards and all(name == Path(str(name)).name for name in shards.values())):
        raise UserError(f"{path} has no valid weight_map from tensors to files beside it: download it again")
    files = [folder / name for name in sorted(set(shards.values()))]
    if missing := [file.name for file in files if not file.is_file()]:
        raise UserError(f"{folder} lacks the weight file {first_of(missing, 1, ' ')} of {path.name}: download it")
    return files


def _read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    with _opened(path) as shard:
        if path.suffix == ".safetensors":
            return {name: tuple(shard.get_slice(name).get_shape()) for name in shard.keys()}  # noqa: SIM118
        return {name: tuple(tensor.shape) for name, tensor in shard.items()}


def _read_tensor(path: Path, name: str) -> torch.Tensor:
    # Opened for each tensor: the parts of a mapped file that were read count as memory until the file is closed.
    with _opened(path) as shard:
        tensor: torch.Tensor = shard.get_tensor(name) if path.suffix == ".safetensors" else shard[name]
    if not tensor.is_floating_point():
        raise UserError(f"{path}: the tensor {name} has type {tensor.dtype}: use the unquantised checkpoint")
    return tensor


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A safetensors file, or the dict in a `.bin` file, memory-mapped."""
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt", device="cpu") as file:
                yield file
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path} is not a readable safetensors file ({error}): download it again") from error
        return
    try:
        tensors = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    # Damage can raise any type. PyTorch's message advises to load without the check, so it is not passed on.
    except Exception as error:
        raise UserError(
            f"{path} is damaged or does not hold plain tensors ({type(error).__name__}): download it again, or use "
            "safetensors files"
        ) from error
    if not isinstance(tensors, dict) or any(
        not (isinstance(name, str) and isinstance(tensor, torch.Tensor)) for name, tensor in tensors.items()
    ):
        raise UserError(f"{path} does not hold a dictionary of tensors: use the checkpoint's own weight files")
    yield tensors


def _devices(model: Qwen2Model | Qwen2ForCausalLM, device_map: Any, dtype: torch.dtype) -> dict[str, Any]:
    """The device of each named module; "" is the default."""
    devices = _balanced(model, dtype) if device_map == "auto" else device_map or "cpu"
    if not isinstance(devices, dict):
        devices = {"": devices}
    if "disk" in devices.values():
        raise UserError("the model does not fit into memory: use a smaller model, --dtype float16 or a larger machine")
    for device in devices.values():
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError, TypeError) as error:
            raise UserError(f"device {device!r} is not available: use cpu, cuda, cuda:1, mps or auto") from error
    for name, _ in [*model.named_parameters(), *model.named_buffers()]:
        _device_of(name, devices)
    return devices


def _balanced(model: Qwen2Model | Qwen2ForCausalLM, dtype: torch.dtype) -> dict[str, Any]:
    """Accelerate's map over all GPUs, then the CPU, with a tenth of each GPU left for hidden states."""
    options = {"dtype": dtype, "no_split_module_classes": list(model._no_split_modules)}
    memory = get_balanced_memory(model, **options)
    memory = {device: size if device == "cpu" else int(0.9 * size) for device, size in memory.items()}
    return infer_auto_device_map(model, max_memory=memory, **options)  # type: ignore[no-any-return]


def _device_of(name: str, devices: Mapping[str, Any]) -> Any:
    module = name
    while module and module not in devices:
        module = module.rpartition(".")[0]
    if module not in devices:
        raise UserError(f"the device map does not cover {name}: add its module, or '' as the default")
    return devices[module]


def _finish(model: Qwen2Model | Qwen2ForCausalLM, devices: dict[str, Any], folder: Path) -> None:
    """Set everything that is not in the weight files: rotary table, tied head, stop tokens, hooks between devices."""
    trunk, name = (model.model, "model.rotary_emb") if hasattr(model, "lm_head") else (model, "rotary_emb")
    # Its buffers are not saved and were created without memory. They are float32 for every dtype.
    trunk.rotary_emb = type(trunk.rotary_emb)(model.config).to(_device_of(name, devices))
    if hasattr(model, "lm_head"):
        model.tie_weights()
        if (folder / TOKENIZER_FILE).is_file():
            ids = special_token_ids(folder)
            model.generation_config.eos_token_id = [ids[END_OF_TEXT], ids[IM_END], ids[IM_START]]
            model.generation_config.pad_token_id = ids[PAD]
    if len(set(devices.values())) > 1:
        dispatch_model(model, devices, skip_keys="past_key_values")
