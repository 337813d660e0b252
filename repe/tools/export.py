"""Write concept vectors as safetensors or GGUF files.

  python -m repe export --model-name llama2-chat --concept morality --lang en --format safetensors gguf

Writes one file for each concept and language, <model>_<concept>_<language>.safetensors, and with --format gguf a
control vector for llama.cpp (--control-vector) and repeng (ControlVector.import_gguf). Existing files are replaced.

safetensors: layer.<l>, l = 1..N as in the result files, is the unit direction times its sign, which points to the
concept's positive side. class_distance in the metadata is the scale of strength 1 in each layer. --raw adds the
directions as in the result file (raw.<l>), norms, signs, and mean_norm.
GGUF: direction.<k> is the same unit vector of layer k + 1, for k = 1..N-2 (see repe/tools/vector_formats.py).
lm-eval: <model>_<concept>_<language>_layer<l>.pt, one layer's vector (--layer) times --strength class distances, for
lm-evaluation-harness (--model steered --model_args pretrained=MODEL,steer_path=FILE).
"""

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from repe.errors import UserError
from repe.files import entries
from repe.models import registry
from repe.paper import CONCEPTS, in_paper_order
from repe.runs import arguments as options

if TYPE_CHECKING:
    from repe.results.result_file import Kind
    from repe.results.vector_file import VectorFile
    from repe.tools.vector_formats import ExportedVectors

FORMATS = ("safetensors", "gguf", "lm-eval")
# `model_type` of the paper's families, whose downloads come without a model.
MODEL_TYPES = {"llama2": "llama", "qwen": "qwen", "bloomz": "bloom"}
# The formats that an option has an effect on.
NEEDED = {
    **{"--raw": ("safetensors",), "--layer": ("lm-eval",), "--strength": ("lm-eval",)},
    **{"--model-hint": ("gguf", "lm-eval"), "--revision": ("gguf", "lm-eval")},
}
OPTIONS: options.Group = {
    "model": {
        name: options.MODEL["model"][name] for name in ("--model-name", "--model-size", "--model-path", "--model-label")
    },
    "files": {
        "--format": {"nargs": "+", "choices": FORMATS, "default": ["safetensors"], "help": "default: safetensors"},
        "--raw": {"action": "store_true", "help": "safetensors: add raw directions, norms, signs, mean norms"},
        "--layer": {"type": options.positive_integer, "metavar": "L", "help": "lm-eval: layer to steer"},
        "--strength": {
            "type": partial(options.finite_number, is_valid=lambda _: True, what="a number"),
            "metavar": "S",
            "help": "lm-eval: strength in class distances (default: 1)",
        },
        "--model-hint": {"metavar": "TYPE", "help": "gguf, lm-eval: model_type (default: from config.json)"},
        "--revision": {"metavar": "REV", "help": "gguf: revision of the hub id to read config.json of"},
        "--out-dir": {"type": Path, "metavar": "DIR", "help": "default: RES_DIR/<model>/export"},
    },
}


def main(args: argparse.Namespace) -> None:
    # Imported here because they take seconds.
    from repe.results.result_file import Kind
    from repe.tools import vector_formats

    for name, formats in NEEDED.items():
        if getattr(args, name.strip("-").replace("-", "_")) and not {*formats} & {*args.format}:
            raise UserError(f"{name} has no effect without --format {' or '.join(formats)}: leave it out")
    if "lm-eval" in args.format and args.layer is None:
        raise UserError("--format lm-eval needs one layer: give its number with --layer")
    label, kind = options.named_model(args)[0], Kind(args.direction_method, args.random_direction)
    folder = options.results_folder(args, label)
    exported = [
        vector_formats.exported_vectors(file, language, label, args.split)
        for file in open_files(folder, kind, args.concept, args.lang)
        for language in args.lang or file.languages
    ]
    names = [vectors.name for vectors in exported]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise UserError(f"two concepts and languages have the file name {repeated[0]}: export them separately")
    # Before anything is written, since some models may lack what the format needs.
    hints = {}
    for vectors in exported if {"gguf", "lm-eval"} & {*args.format} else ():
        layers = vectors.record["layers"]
        if int(layers) < 3 and "gguf" in args.format:
            raise UserError(
                f"{label} has {layers} layers, and control vectors leave out the first and the last: remove gguf from "
                "--format"
            )
        hints[vectors.name] = args.model_hint or model_hint(vectors.record, args.model_path, args.revision)
    out_dir, written = args.out_dir or folder / "export", []
    for vectors in exported:
        if "safetensors" in args.format:
            written.append(vector_formats.write_safetensors(vectors, out_dir, args.raw))
        if "gguf" in args.format:
            written.append(vector_formats.write_gguf(vectors, out_dir, hints[vectors.name]))
        if "lm-eval" in args.format:
            strength = 1.0 if args.strength is None else args.strength
            written.append(vector_formats.write_lm_eval(vectors, out_dir, hints[vectors.name], args.layer, strength))
    options.print_written(written)
    print_scales(exported)


def print_scales(exported: "Sequence[ExportedVectors]") -> None:
    """Print which scale makes unit vectors one class distance long, in the layers that control steers by default."""
    from repe.constants import LAYERS
    from repe.control.steering import parse_layers
    from repe.runs.printed import aligned

    rows = []
    for vectors in exported:
        if "class_distance" not in vectors.record:
            print("scale: these vectors have no class distance; try several")
            return
        distances = json.loads(vectors.record["class_distance"])
        layers = parse_layers(LAYERS, len(distances))
        median = statistics.median(distances[layer - 1] for layer in layers)
        rows.append((f"  {vectors.name}", f"{median:.3g}", f"layers {layers[0]} to {layers[-1]}"))
    print("scale of strength 1 (median class distance; class_distance in the metadata has every layer's):")
    print(aligned(rows))
    blocks = f"{layers[0] - 1} {layers[-1] - 1}"  # llama.cpp counts them from 0
    print(f"in llama.cpp: --control-vector-scaled FILE SCALE --control-vector-layer-range {blocks}")


def open_files(
    folder: Path, kind: "Kind", concepts: Sequence[str] | None = None, languages: Sequence[str] | None = None
) -> "list[VectorFile]":
    """The vector files of a model, one for each concept.

    Args:
        folder: the model's folder of results.
        kind: how the directions were found.
        concepts: default: all that have such a file.
        languages: languages that each file must have; default: any.

    Raises:
        UserError: there are no results, or none of a concept or language.
    """
    from repe.results.result_file import check_files, check_results_folder
    from repe.results.vector_file import VectorFile

    name = kind.file_name(VectorFile.stem)
    check_results_folder(folder, "run collect_vector.py first")
    found = in_paper_order({path.parent.name for path in entries(folder, f"*/{Path(name).stem}.p[tk]")}, CONCEPTS)
    if not concepts and not found:
        raise UserError(f"{folder} has no {name} of any concept: run collect_vector.py first")
    files = [VectorFile(folder.parent, folder.name, concept, kind) for concept in concepts or found]
    check_files(files)
    for file in files:
        wanted = languages or file.languages or ["any language"]
        if missing := [language for language in wanted if language not in file.languages]:
            raise UserError(f"{file.path} has no results for {' '.join(missing)}: run collect_vector.py first")
    return files


def model_hint(record: Mapping[str, str], path: str | None = None, revision: str | None = None) -> str:
    """The `model_type` of the model that vectors were collected from, which GGUF files name as repeng does.

    It is read from the config.json of the model if that is on this machine, else it is that of the paper's family.

    Args:
        record: how the vectors were made (`model`, `source`, `revision`).
        path: model folder or hub id, instead of the source in the record.
        revision: revision of a hub id, instead of the one in the record.

    Raises:
        UserError: the model_type is not known, or config.json is damaged.
    """
    row = registry.MODELS.get(record["model"])
    source = path or record.get("source", row.hub_id if row else "")
    local = Path(path) / "config.json" if path and Path(path).is_dir() else None
    if config := local or _cached_config(source, revision or record.get("revision")):
        return _model_type(config)
    if row and row.family in MODEL_TYPES:
        return MODEL_TYPES[row.family]
    raise UserError(
        f"--format gguf or lm-eval needs the architecture of {record['model']}, which is not known: give the "
        "model_type in its config.json with --model-hint, or the model folder with --model-path"
    )


def _cached_config(hub_id: str, revision: str | None) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    try:
        # A copy that was downloaded by its commit is found by the commit only.
        found = try_to_load_from_cache(hub_id, "config.json", revision=revision)
    except ValueError:  # not a valid hub id
        return None
    return Path(found) if isinstance(found, str) else None


def _model_type(config: Path) -> str:
    try:
        content = json.loads(config.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{config} cannot be read ({error}): fix it, or give --model-hint") from error
    name = content.get("model_type") if isinstance(content, dict) else None
    if not name or not isinstance(name, str):
        raise UserError(f"{config} has no model_type: add it, or give --model-hint")
    return name


def start() -> None:
    parser = options.Parser(__doc__, OPTIONS, options.SUBJECT, options.METHOD, options.RESULTS)
    parser.set_defaults(model_family=None)  # does not affect vectors
    options.run(main, parser)
