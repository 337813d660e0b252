"""The weights of a first-generation Qwen, read into Transformers' Qwen2 classes (for the names see `checkpoint`).

The tensors are read one at a time, each to its device. Errors of PyTorch and Transformers are left as they are:
`repe.models.source` makes one line of them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import dispatch_model, infer_auto_device_map
from accelerate.utils import get_balanced_memory
from safetensors.torch import load_file
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Model

from repe.errors import UserError
from repe.models.qwen1.checkpoint import qwen2_settings, read_json, tensor_names
from repe.models.qwen1.tokenizer import END_OF_TEXT, IM_END, IM_START, PAD, special_token_ids

# The first of these in the folder is read.
WEIGHT_FILES = (
    "model.safetensors.index.json",
    "model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
)


def load_model(
    folder: Path, *, dtype: torch.dtype, trunk_only: bool = True, device_map: str | dict[str, Any] = "cpu"
) -> Qwen2Model | Qwen2ForCausalLM:
    """Load a checkpoint as a Qwen2 model in evaluation mode, its parameters without gradients.

    Peak memory is that of the model and its largest tensor.

    Args:
        folder: of the checkpoint.
        dtype: of the parameters; the files may have another.
        trunk_only: leave out the vocabulary head, which is then not read.
        device_map: a device, "auto" (all GPUs, then the CPU) or a map from module names to devices, as in Accelerate.

    Returns:
        The trunk, or the model with its head. `generate` then stops at `<|endoftext|>` (the chat models' generation
        settings) and at `<|im_end|>` and `<|im_start|>` (their chat function).

    Raises:
        UserError: config or weights are missing or damaged, or the model does not fit into memory.
        RuntimeError: tensors are missing, unexpected or of another shape.
    """
    settings = qwen2_settings(folder)
    with torch.device("meta"):
        model = (Qwen2Model if trunk_only else Qwen2ForCausalLM)(Qwen2Config(**settings, dtype=dtype)).to(dtype)
    names, devices, state = tensor_names(settings, trunk_only), _devices(model, device_map, dtype), {}
    for source, path in _files_by_tensor(folder).items():
        # The head is not needed for the trunk alone or if it is tied; rotary tables follow from the config.
        if source in names or not source.endswith(("lm_head.weight", "rotary_emb.inv_freq")):
            targets = names.get(source, (source,))
            for target, part in zip(targets, _read_tensor(path, source).tensor_split(len(targets)), strict=True):
                # Always a copy: a view would keep the whole file mapped.
                state[target] = part.to(_device_of(target, devices), dtype, copy=True)
    if not trunk_only and settings["tie_word_embeddings"]:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.load_state_dict(state, assign=True)
    _finish(model.requires_grad_(False).eval(), devices, folder)
    return model


def _files_by_tensor(folder: Path) -> dict[str, Path]:
    path = next((folder / name for name in WEIGHT_FILES if (folder / name).is_file()), None)
    if path is None:
        raise UserError(f"{folder} has no weights (one of {', '.join(WEIGHT_FILES)}): download the folder again")
    if path.suffix != ".json":
        return dict.fromkeys(_mapped(path), path)
    # Bare file names, so that an index cannot refer to files outside the folder.
    return {name: folder / Path(file).name for name, file in read_json(path)["weight_map"].items()}


def _read_tensor(path: Path, name: str) -> torch.Tensor:
    # Opened for each tensor: the parts of a mapped file that were read count as memory until the file is closed.
    tensor = _mapped(path)[name]
    if not tensor.is_floating_point():
        raise UserError(f"{path}: the tensor {name} has type {tensor.dtype}: use the unquantized checkpoint")
    return tensor


def _mapped(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a weight file by name, memory-mapped, so that each is read when it is used."""
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        return dict(torch.load(path, map_location="cpu", mmap=True, weights_only=True))
    # Damage can raise any type. PyTorch's message advises to load without the check, so it is not passed on.
    except Exception as error:
        reason = type(error).__name__
        raise UserError(f"{path} is missing, damaged or not a file of tensors ({reason}): download it again") from error


def _devices(
    model: Qwen2Model | Qwen2ForCausalLM, device_map: str | dict[str, Any], dtype: torch.dtype
) -> dict[str, Any]:
    """The device of each named module; "" is the default.

    "auto" is Accelerate's map over all GPUs, then the CPU, with a tenth of each GPU left for hidden states.
    """
    if device_map != "auto":
        return {"": device_map} if isinstance(device_map, str) else device_map
    options = {"dtype": dtype, "no_split_module_classes": list(model._no_split_modules)}
    memory = get_balanced_memory(model, **options)
    memory = {device: size if device == "cpu" else int(0.9 * size) for device, size in memory.items()}
    devices: dict[str, Any] = infer_auto_device_map(model, max_memory=memory, **options)
    if "disk" in devices.values():
        raise UserError("the model does not fit into memory: use a smaller model, --dtype float16 or a larger machine")
    return devices


def _device_of(name: str, devices: Mapping[str, Any]) -> Any:
    """The device of the innermost module in `devices` that contains `name`."""
    around = [module for module in devices if f"{name}.".startswith(f"{module}.") or not module]
    return devices[max(around, key=len)]


def _finish(model: Qwen2Model | Qwen2ForCausalLM, devices: dict[str, Any], folder: Path) -> None:
    """Set everything that is not in the weight files: rotary table, tied head, stop tokens, hooks between devices."""
    trunk, name = (model.model, "model.rotary_emb") if hasattr(model, "lm_head") else (model, "rotary_emb")
    # Its buffers are not saved and were created without memory. They are float32 for every dtype.
    trunk.rotary_emb = type(trunk.rotary_emb)(model.config).to(_device_of(name, devices))
    if hasattr(model, "lm_head"):
        model.tie_weights()
        ids = special_token_ids(folder)
        model.generation_config.eos_token_id = [ids[END_OF_TEXT], ids[IM_END], ids[IM_START]]
        model.generation_config.pad_token_id = ids[PAD]
    if len(set(devices.values())) > 1:
        dispatch_model(model, devices, skip_keys="past_key_values")
