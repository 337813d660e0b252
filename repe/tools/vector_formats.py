"""Files of concept vectors for other tools: safetensors, and GGUF control vectors for llama.cpp and repeng.

safetensors:
* `layer.<l>`, float32 (hidden,), l = 1..N as in the result files: the unit direction times its sign, which points to
  the concept's positive side.
* With `raw`: `raw.<l>`, float32 (hidden,), the direction as in the result file; `norm`, float32 (N,), the norms of the
  directions; `sign`, int8 (N,); `mean_norm`, float32 (N,), the mean norm of the hidden states of the training texts,
  if the result file has it.
* The metadata records how the vectors were made.

GGUF: `direction.<k>`, float32 (hidden,), is the same unit vector of layer k + 1, for k = 1..N-2. In the result files
layer l is the output of block l, with blocks numbered from 1. llama.cpp and repeng number blocks from 0, and both add
direction k to the output of their block k, which is layer k + 1 here:
* llama.cpp: each graph calls `build_cvec(cur, il)` after the last sum of block il (src/models/llama.cpp, bloom.cpp and
  others; llama_adapter_cvec::apply_to in src/llama-adapter.cpp), and tensor il is direction.<il>. It refuses a file
  that has a direction.0 (common_control_vector_load_one in common/common.cpp), so layer 1 is left out.
* repeng: `directions[k]` is fitted on `hidden_states[k + 1]` (repeng/extract.py) and added to the output of block k
  (ControlModule in repeng/control.py), for k = 1..N-1.
* Layer N was collected after the final norm. No block outputs it, so it is left out. repeng itself fits a direction N-1
  there; with these files, its layer_ids must be within 1..N-2.
* llama.cpp's cvector-generator stores the direction of the output of block k as direction.<k+1>, one block later. The
  files written here steer the layers that the vectors were collected at.

lm-evaluation-harness: `{hookpoint: {action, steering_coefficient, steering_vector, bias}}`, which its model `steered`
reads with torch.load(weights_only=True) (lm_eval/models/hf_steered.py). It names modules as in `model.base_model`, so
layer l is `layers.<l - 1>`, or `h.<l - 1>` in some architectures. With several hookpoints its loop adds the last one's
vector at all of them, so the file has one.
"""

import json
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from gguf import GGUFWriter
from safetensors.numpy import save

from repe.files import write_whole
from repe.results.vector_file import VectorFile
from repe.vectors.concept_vectors import ConceptVectors

# Keys of a result file's meta that the exported files record.
RECORD = (
    *("model", "family", "source", "revision", "weights", "template", "special_tokens", "truncate", "dtype"),
    *("split", "split_by", "folds", "method", "random_direction", "seed", "versions"),
)
SIGN_CONVENTION = "unit direction times sign: points to the concept's positive side"
LAYER_NUMBERING = {
    "safetensors": "layer.<l> is the output of block l counted from 1; layer N = {layers} is after the final norm",
    "gguf": "direction.<k> is of, and for, the output of block k counted from 0: layer k + 1 of the result files",
}


# `model_type` of architectures whose list of blocks has another name than `layers`.
BLOCKS = dict.fromkeys(("bloom", "gpt2", "gptj", "falcon", "codegen", "gpt_bigcode"), "h")


@dataclass(frozen=True)
class ExportedVectors:
    """The vectors of a concept in a language, with a record of how they were made."""

    name: str
    """File name without suffix."""
    vectors: ConceptVectors
    record: Mapping[str, str]
    """How they were made, sorted by key, without unknown values."""


def exported_vectors(file: VectorFile, language: str, model: str, split: float) -> ExportedVectors:
    """The vectors of a language in a result file.

    Args:
        file: the vectors of a model and concept.
        language: one of the file's languages.
        model: the model's label, for downloads, which do not record it.
        split: the same, of `--split`.
    """
    vectors, kind = file.vectors[language], file.kind
    # The meta of the `.pt` file does not apply to languages of the download beside it.
    in_download = language not in file.content["languages"]
    meta = {} if in_download else file.meta
    record: dict[str, Any] = {
        **{"model": model, "family": file.family().name, "split": split},
        **{"method": kind.method, "random_direction": kind.random_direction},
        **{name: meta[name] for name in RECORD if meta.get(name) not in (None, "")},
        **{"concept": file.concept, "language": language},
        "file": (file.released_path if in_download else file.path).name,
        "layers": len(vectors.directions),
        "hidden_size": vectors.directions.shape[-1],
        "sign_convention": SIGN_CONVENTION,
    }
    if kind.method == "cluster_mean":  # whose length is the distance between the means of the two classes
        lengths = np.linalg.norm(vectors.directions[:, 0].astype(np.float64), axis=-1)
        record["class_distance"] = [float(f"{length:.4g}") for length in lengths]
    if language in meta.get("data", {}):
        record["data_sha256"] = meta["data"][language]
    name = f"{file.path.parent.parent.name}_{kind.file_name(f'{file.concept}_{language}').removesuffix('.pt')}"
    return ExportedVectors(name, vectors, {key: _text(record[key]) for key in sorted(record)})


def _text(value: Any) -> str:
    """A value of meta, which may have any type, as text that UTF-8 can encode."""
    if isinstance(value, dict):
        value = json.dumps({str(name): str(item) for name, item in value.items()}, sort_keys=True)
    text = json.dumps(value) if isinstance(value, bool | int | float | list) else str(value)
    return text.encode(errors="replace").decode()


def write_safetensors(exported: ExportedVectors, out_dir: Path, raw: bool = False) -> Path:
    """Write `<name>.safetensors`.

    Args:
        exported: the vectors.
        out_dir: folder of the file.
        raw: add `raw.<l>`, `norm`, `sign` and `mean_norm`.

    Raises:
        UserError: the file cannot be written; an existing file is left intact.
    """
    vectors = exported.vectors
    directions = vectors.directions[:, 0]
    tensors = {f"layer.{layer}": unit for layer, unit in enumerate(vectors.unit_vectors, start=1)}
    if raw:
        norms = np.linalg.norm(directions.astype(np.float64), axis=-1)
        tensors |= {f"raw.{layer}": direction for layer, direction in enumerate(directions, start=1)}
        tensors |= {"norm": norms.astype(np.float32), "sign": vectors.signs[:, 0]}
        if vectors.mean_norm is not None:
            tensors["mean_norm"] = vectors.mean_norm
    numbering = LAYER_NUMBERING["safetensors"].format(layers=len(directions))
    data = save(tensors, {**exported.record, "layer_numbering": numbering})
    return write_whole(out_dir / f"{exported.name}.safetensors", lambda file: file.write(_with_sorted_metadata(data)))


def _with_sorted_metadata(data: bytes) -> bytes:
    """A safetensors file with its metadata sorted: the library writes it in a different order each time."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    # Tensors begin at a multiple of eight bytes.
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[end:]


def write_gguf(exported: ExportedVectors, out_dir: Path, hint: str) -> Path:
    """Write `<name>.gguf`, a control vector of layers 2..N-1.

    Args:
        exported: the vectors.
        out_dir: folder of the file.
        hint: `model_type` of the model.

    Raises:
        UserError: the file cannot be written; an existing file is left intact.
    """

    def fill(file: BinaryIO) -> None:
        # The writer needs a path: that of the temporary file, which `write_whole` flushes and renames.
        with closing(GGUFWriter(file.name, "controlvector")) as writer:
            # Direction k is that of layer k + 1, without the first and the last layer.
            directions = dict(enumerate(exported.vectors.unit_vectors[1:-1], start=1))
            writer.add_string("controlvector.model_hint", _text(hint))
            writer.add_uint32("controlvector.layer_count", len(directions))
            for name, text in exported.record.items():
                writer.add_string(f"repe.{name}", text)
            writer.add_string("repe.layer_numbering", LAYER_NUMBERING["gguf"])
            for number, direction in directions.items():
                writer.add_tensor(f"direction.{number}", direction)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()

    return write_whole(out_dir / f"{exported.name}.gguf", fill)


def write_lm_eval(exported: ExportedVectors, out_dir: Path, hint: str, layer: int, strength: float) -> Path:
    """Write `<name>_layer<layer>.pt` for lm-evaluation-harness.

    Args:
        exported: the vectors.
        out_dir: folder of the file.
        hint: `model_type` of the model.
        layer: the layer to steer, 1..N-1.
        strength: in class distances.

    Raises:
        UserError: the layer cannot be steered, the vectors have no class distance, or the file cannot be written.
    """
    from repe.control.steering import parse_layers, step_lengths

    parse_layers([layer], len(exported.vectors.directions))
    length = float(step_lengths(exported.vectors, "class", "linear_comb")[layer - 1])
    entry = {
        "action": "add",
        "steering_coefficient": strength * length,
        "steering_vector": torch.from_numpy(exported.vectors.unit_vectors[layer - 1].copy()),
        "bias": None,
    }
    content = {f"{BLOCKS.get(hint, 'layers')}.{layer - 1}": entry}
    return write_whole(out_dir / f"{exported.name}_layer{layer}.pt", lambda file: torch.save(content, file))
