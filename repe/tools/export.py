"""Write concept vectors for other tools: python -m repe export --model-name llama2-chat --concept morality --lang en

Reads the vectors of one model (reader_dict.pt, or the released .pk), all concepts and languages that it has unless
--concept and --lang say which, and writes a file each: <model>_<concept>_<language>.safetensors, and with
--format gguf a control vector for llama.cpp (--control-vector) and repeng (ControlVector.import_gguf). Files that are
there are replaced.

safetensors: `layer.<l>` float32 (hidden,), l in 1..N as in the result files, is the unit direction times its sign: it
points to the concept's positive side. --raw adds `raw.<l>` float32 (hidden,), the direction as in the result file, and
for all layers `norm` float32 (N,), its length, `sign` int8 (N,), and, where the result file has it, `mean_norm` float32
(N,), the mean length of a training text's state. The metadata says what made the vectors.

GGUF: `direction.<k>` float32 (hidden,) is the same unit vector of layer k + 1, for k in 1..N-2. Our layer l is the
output of block l counted from 1. llama.cpp and repeng count blocks from 0, and both add direction k to the output of
their block k, which is our layer k + 1:
* llama.cpp: each graph calls `build_cvec(cur, il)` behind the last sum of block il (src/models/llama.cpp, bloom.cpp and
  others; llama_adapter_cvec::apply_to in src/llama-adapter.cpp), and tensor il is direction.<il>. A file with a
  direction.0 is refused whole (common_control_vector_load_one in common/common.cpp): layer 1 is left out.
* repeng: `directions[k]` is fitted on `hidden_states[k + 1]` (repeng/extract.py) and added to what block k gives
  (ControlModule in repeng/control.py), k in 1..N-1.
* Layer N was collected after the final norm, where no block gives its output, and is left out. repeng fits its own
  direction N-1 there nevertheless: with these files, its layer_ids must lie in 1..N-2.
* llama.cpp's own cvector-generator names what it finds at the output of block k direction.<k+1>, one block later; the
  files here steer where the vectors were collected.
"""

import argparse
import json
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from repe.errors import UserError
from repe.files import write_whole
from repe.models import hub, registry
from repe.paper import CONCEPTS, in_paper_order
from repe.runs import arguments as cli

if TYPE_CHECKING:
    import numpy as np

    from repe.results.vector_file import VectorFile

FORMATS = ("safetensors", "gguf")
# `model_type` of the paper's families, whose downloads come without a model.
MODEL_TYPES = {"llama2": "llama", "qwen": "qwen", "bloomz": "bloom"}
# What of a result file's meta goes with its vectors.
RECORD = (
    *("model", "family", "source", "revision", "weights", "template", "special_tokens", "truncate", "dtype"),
    *("split", "split_by", "method", "random_direction", "seed", "versions"),
)
SIGN_CONVENTION = "unit direction times sign: points to the concept's positive side"
LAYER_NUMBERING = {
    "safetensors": "layer.<l> is the output of block l counted from 1; layer N = {layers} is after the final norm",
    "gguf": "direction.<k> is of, and for, the output of block k counted from 0: layer k + 1 of the result files",
}


def main(args: argparse.Namespace) -> None:
    vectors = [vector for file in open_files(args) for vector in concept_vectors(args, file)]
    out_dir = args.out_dir or results_folder(args) / "export"
    names = [vector.name for vector in vectors]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"two of the concepts and languages make the file name {twice[0]}: name them in separate calls")
    # Before anything is written: some may lack what the format needs.
    hints = {vector.name: model_hint(args, vector) for vector in vectors if "gguf" in args.format}
    written = []
    for vector in vectors:
        if "safetensors" in args.format:
            written.append(write_safetensors(vector, out_dir, args.raw))
        if "gguf" in args.format:
            written.append(write_gguf(vector, out_dir, hints[vector.name]))
    cli.report_files(written)


@dataclass(frozen=True)
class ConceptVector:
    """The vectors of a concept in a language, with what made them."""

    name: str
    """Of its files, without the ending."""
    directions: "np.ndarray"
    """float32 (layers, hidden), as in the result file."""
    signs: "np.ndarray"
    """int8 (layers,)."""
    mean_norm: "np.ndarray | None"
    """float32 (layers,): mean length of a training text's state; None where the result file has none."""
    record: Mapping[str, str]
    """What made it, in the order it is written in; what is not known is left out."""

    @property
    def norms(self) -> "np.ndarray":
        """Lengths of the directions, float64 (layers,)."""
        import numpy as np

        # In float64: squares of very small and very large float32 numbers are neither 0 nor infinite there.
        lengths: np.ndarray = np.linalg.norm(self.directions.astype(np.float64), axis=-1)
        return lengths

    @property
    def units(self) -> "np.ndarray":
        """Unit vectors to the concept's positive side, float32 (layers, hidden)."""
        import numpy as np

        units: np.ndarray = (self.directions * (self.signs / self.norms)[:, None]).astype(np.float32)
        return units


def results_folder(args: argparse.Namespace) -> Path:
    """Where the result files of the model are that the options name."""
    from repe.runs import chosen as selection

    return selection.results_folder(args, selection.model(args).label)


def open_files(args: argparse.Namespace) -> "list[VectorFile]":
    """The model's files of vectors, a concept each, of `--concept` or else all that there are.

    Raises:
        UserError: there are none, or a concept or language is missing; says which stage makes them.
    """
    from repe.results.vector_file import VectorFile
    from repe.runs import chosen as selection
    from repe.runs import compare as comparison

    stem = Path(selection.kind(args).file_name(VectorFile.stem)).stem
    there = {path.parent.name for path in results_folder(args).glob(f"*/{stem}.p[tk]")}
    names = dict.fromkeys(args.concept or in_paper_order(there, CONCEPTS))
    files = []
    # One by one, since each may have languages of its own; without any concept, the error is that of the folder.
    for concept in names or [None]:
        alone = argparse.Namespace(**{**vars(args), "concept": concept and [concept]})
        opened = comparison.open_models(alone, VectorFile)
        files += [file for by_concept in opened.files.values() for file in by_concept.values()]
    return files


def concept_vectors(args: argparse.Namespace, file: "VectorFile") -> Iterator[ConceptVector]:
    """The vectors of one concept, in the languages of `--lang` or else all that the file has.

    Args:
        args: lang, split, direction_method and random_direction as on the command line.
        file: a result file that has these languages.
    """
    from repe.runs import chosen as selection

    kind, folder, label = selection.kind(args), file.path.parent.parent.name, selection.model(args).label
    for language in dict.fromkeys(args.lang or file.languages):
        vectors = file.vectors[language]
        # A language of a download was not made by what made the file beside it.
        made_here = language in file.content["languages"]
        meta = file.meta if made_here else {}
        known: dict[str, Any] = {
            "model": label,
            "family": file.family().name,
            "split": args.split,
            "method": kind.method,
            "random_direction": kind.random_direction,
        }
        known |= {name: meta[name] for name in RECORD if meta.get(name) not in (None, "")}
        known |= {
            "concept": file.concept,
            "language": language,
            "file": (file.path if made_here else file.released_path).name,
            "layers": len(vectors.directions),
            "hidden_size": vectors.directions.shape[-1],
            "sign_convention": SIGN_CONVENTION,
        }
        if language in meta.get("data", {}):
            known["data_sha256"] = meta["data"][language]
        mean_norm = vectors.details.get("mean_norm")
        yield ConceptVector(
            name=f"{folder}_{kind.file_name(f'{file.concept}_{language}').removesuffix('.pt')}",
            directions=vectors.directions[:, 0],
            signs=vectors.signs[:, 0],
            mean_norm=None if mean_norm is None else mean_norm.numpy(),
            record={name: _text(known[name]) for name in sorted(known)},
        )


def _text(value: Any) -> str:
    """A value of meta, which may come from anywhere, as text that can be written."""
    if isinstance(value, dict):
        value = json.dumps({str(name): str(item) for name, item in value.items()}, sort_keys=True)
    text = json.dumps(value) if isinstance(value, bool | int | float) else str(value)
    return text.encode(errors="replace").decode()


def model_hint(args: argparse.Namespace, vector: ConceptVector) -> str:
    """`controlvector.model_hint`: the model's `model_type`, as repeng writes it.

    It is that of `--model-hint`, else of the config.json in `--model-path` or in this machine's copy of the hub id
    that the vectors were collected from, else that of a family of the paper.

    Raises:
        UserError: none of these says it, or the model has no layer that a control vector can have.
    """
    label = vector.record["model"]
    if not direction_layers(len(vector.directions)):
        raise UserError(
            f"{label} has {len(vector.directions)} layers, and a control vector has neither the first nor the last: "
            "leave gguf out of --format"
        )
    row = registry.MODELS.get(label)
    if args.model_hint:
        return _text(args.model_hint)
    if config := _config_file(args, vector.record, row.hub_id if row else ""):
        return _model_type(config)
    if row and row.family in MODEL_TYPES:
        return MODEL_TYPES[row.family]
    raise UserError(
        f"the architecture of {label} is not known here, and --format gguf needs it: give --model-hint with the "
        "model_type in its config.json, or its folder with --model-path"
    )


def _config_file(args: argparse.Namespace, record: Mapping[str, str], hub_id: str) -> Path | None:
    """config.json of the model, if it is on this machine; `hub_id` counts where the record names no source."""
    from huggingface_hub import try_to_load_from_cache

    if args.model_path and (folder := hub.local(args.model_path)):
        return folder.path / "config.json"
    try:
        found = try_to_load_from_cache(
            args.model_path or record.get("source", hub_id),
            "config.json",
            # A copy that was fetched by its commit is found by it alone.
            revision=args.revision or record.get("revision"),
        )
    # A name that is no hub id.
    except ValueError:
        return None
    return Path(found) if isinstance(found, str) else None


def _model_type(config: Path) -> str:
    try:
        content = json.loads(config.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{config} cannot be read ({error}): mend it, or give --model-hint") from error
    name = content.get("model_type") if isinstance(content, dict) else None
    if not name or not isinstance(name, str):
        raise UserError(f"{config} names no model_type: mend it, or give --model-hint")
    return _text(name)


def direction_layers(layers: int) -> dict[int, int]:
    """Which of the result files' layers each `direction.<k>` of a GGUF control vector holds, by k.

    Args:
        layers: of the model, N.
    """
    return {layer - 1: layer for layer in range(2, layers)}


def write_safetensors(vector: ConceptVector, out_dir: Path, raw: bool = False) -> Path:
    """Write `<name>.safetensors` whole.

    Args:
        raw: add `raw.<l>`, `norm`, `sign` and `mean_norm`.

    Raises:
        UserError: it cannot be written; the old file is whole.
    """
    import numpy as np
    from safetensors.numpy import save

    tensors = {f"layer.{layer}": unit for layer, unit in enumerate(vector.units, start=1)}
    if raw:
        tensors |= {f"raw.{layer}": direction for layer, direction in enumerate(vector.directions, start=1)}
        tensors |= {"norm": vector.norms.astype(np.float32), "sign": vector.signs}
        if vector.mean_norm is not None:
            tensors["mean_norm"] = vector.mean_norm
    numbering = LAYER_NUMBERING["safetensors"].format(layers=len(vector.directions))
    data = save(tensors, {**vector.record, "layer_numbering": numbering})
    return write_whole(out_dir / f"{vector.name}.safetensors", lambda file: file.write(_with_sorted_metadata(data)))


def _with_sorted_metadata(data: bytes) -> bytes:
    """A safetensors file whose metadata is in order: the library writes it in another one each time."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    # Tensors begin at a multiple of eight bytes.
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[end:]


def write_gguf(vector: ConceptVector, out_dir: Path, hint: str) -> Path:
    """Write `<name>.gguf`, a control vector of layers 2..N-1, whole.

    Args:
        hint: `model_type` of the model.

    Raises:
        UserError: it cannot be written; the old file is whole.
    """

    def fill(file: BinaryIO) -> None:
        from gguf import GGUFWriter

        # The writer takes a path alone: that of the file which `write_whole` flushes and renames.
        with closing(GGUFWriter(file.name, "controlvector")) as writer:
            writer.add_string("controlvector.model_hint", hint)
            held = direction_layers(len(vector.directions))
            writer.add_uint32("controlvector.layer_count", len(held))
            for name, text in vector.record.items():
                writer.add_string(f"repe.{name}", text)
            writer.add_string("repe.layer_numbering", LAYER_NUMBERING["gguf"])
            units = vector.units
            for number, layer in held.items():
                writer.add_tensor(f"direction.{number}", units[layer - 1])
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()

    return write_whole(out_dir / f"{vector.name}.gguf", fill)


def start() -> None:
    parser = cli.parser(__doc__ or "")
    parser.set_defaults(cross_model=None)
    add = parser.add_argument_group("export").add_argument
    add("--format", nargs="+", choices=FORMATS, default=["safetensors"], help="one or both (default: safetensors)")
    add("--raw", action="store_true", help="safetensors: also raw directions, their lengths and signs, mean norms")
    add("--model-hint", metavar="TYPE", help="gguf: model_type of the model (default: of its config.json, if here)")
    add("--out-dir", type=Path, metavar="DIR", help="default: RES_DIR/<model>/export")
    cli.run(main, parser)


if __name__ == "__main__":
    start()
