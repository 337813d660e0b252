"""Write concept vectors as safetensors or GGUF files.

  python -m repe export --model-name llama2-chat --concept morality --lang en --format safetensors gguf

Reads the vectors of one model (reader_dict.pt, or the released reader_dict.pk) and writes one file for each concept and
language: <model>_<concept>_<language>.safetensors, and with --format gguf a control vector for llama.cpp
(--control-vector) and repeng (ControlVector.import_gguf). Existing files are replaced.

safetensors: layer.<l>, l = 1..N as in the result files, is the unit direction times its sign, so that it points to the
concept's positive side. --raw adds the directions as in the result file (raw.<l>), their norms, signs, and mean_norm.
GGUF: direction.<k> is the same unit vector of layer k + 1, for k = 1..N-2: llama.cpp and repeng number blocks from 0,
and neither can hold the first and the last layer. repe/tools/vector_formats.py explains the numbering.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from repe.constants import METHODS
from repe.errors import UserError
from repe.models import hub, registry
from repe.paper import CONCEPTS, TRAIN_SHARE, in_paper_order
from repe.runs import arguments as cli
from repe.tools import options

if TYPE_CHECKING:
    from repe.results.result_file import Kind
    from repe.results.vector_file import VectorFile

FORMATS = ("safetensors", "gguf")
# `model_type` of the paper's families, whose downloads come without a model.
MODEL_TYPES = {"llama2": "llama", "qwen": "qwen", "bloomz": "bloom"}


def main(args: argparse.Namespace) -> None:
    # Imported here because they take seconds.
    from repe.results.result_file import model_folder
    from repe.runs import chosen as selection
    from repe.tools import vector_formats

    _check_options(args)
    label, kind = selection.model(args).label, selection.kind(args)
    folder = args.res_dir / model_folder(label, args.split, args.split_by)
    exported = [
        vector_formats.exported_vectors(file, language, label, args.split)
        for file in open_files(folder, kind, args.concept, args.lang)
        for language in dict.fromkeys(args.lang or file.languages)
    ]
    names = [vectors.name for vectors in exported]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise UserError(f"two concepts and languages have the file name {repeated[0]}: export them separately")
    # Before anything is written, since some models may lack what the format needs.
    hints = {}
    for vectors in exported if "gguf" in args.format else ():
        if len(vectors.directions) < 3:
            raise UserError(
                f"{label} has {len(vectors.directions)} layers, and control vectors leave out the first and the last: "
                "remove gguf from --format"
            )
        hints[vectors.name] = args.model_hint or model_hint(vectors.record, args.model_path, args.revision)
    out_dir, written = args.out_dir or folder / "export", []
    for vectors in exported:
        if "safetensors" in args.format:
            written.append(vector_formats.write_safetensors(vectors, out_dir, args.raw))
        if "gguf" in args.format:
            written.append(vector_formats.write_gguf(vectors, out_dir, hints[vectors.name]))
    cli.report_files(written)


def _check_options(args: argparse.Namespace) -> None:
    """Refuse options that the formats do not use."""
    if args.raw and "safetensors" not in args.format:
        raise UserError("--raw applies to safetensors only: leave it out, or add safetensors to --format")
    for name, value in (("--model-hint", args.model_hint), ("--revision", args.revision)):
        if value and "gguf" not in args.format:
            raise UserError(f"{name} applies to gguf only: leave it out, or add gguf to --format")


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
    from repe.results.vector_file import VectorFile

    name = kind.file_name(VectorFile.stem)
    found = in_paper_order({path.parent.name for path in folder.glob(f"*/{Path(name).stem}.p[tk]")}, CONCEPTS)
    if not folder.is_dir():
        others = " ".join(sorted(path.name for path in folder.parent.glob("*") if any(path.glob("*/*.p[tk]"))))
        raise UserError(f"no results in {folder} (found: {others or 'none'}): run collect_vector.py first")
    if not concepts and not found:
        raise UserError(f"{folder} has no {name} of any concept: run collect_vector.py first")
    files = [VectorFile(folder.parent, folder.name, concept, kind) for concept in dict.fromkeys(concepts or found)]
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
    folder = hub.local(path) if path else None
    if config := folder.path / "config.json" if folder else _cached_config(source, revision or record.get("revision")):
        return _model_type(config)
    if row and row.family in MODEL_TYPES:
        return MODEL_TYPES[row.family]
    raise UserError(
        f"--format gguf needs the architecture of {record['model']}, which is not known: give the model_type in its "
        "config.json with --model-hint, or the model folder with --model-path"
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
    parser = options.parser("export", __doc__ or "")
    model = options.add_model(parser).add_argument
    model("--model-label", metavar="LABEL", help="results folder (default: name and size, or last part of the path)")
    add = parser.add_argument_group("vectors").add_argument
    add("--concept", nargs="+", metavar="CONCEPT", help="concepts (default: all with results)")
    add("--lang", nargs="+", metavar="LANG", help="languages (default: all with results)")
    add("--split", type=float, default=TRAIN_SHARE, metavar="S", help="--split of the collection (default: 0.8)")
    add("--split-by", choices=("pair", "item"), default="pair", help="--split-by of the collection (default: pair)")
    add("--random-direction", action="store_true", help="vectors of shuffled labels")
    add("--direction-method", choices=METHODS, default="cluster_mean", help="default: cluster_mean")
    add("--res-dir", type=Path, default=Path("res"), metavar="DIR", help="result files (default: res)")
    add = parser.add_argument_group("files").add_argument
    add("--format", nargs="+", choices=FORMATS, default=["safetensors"], help="default: safetensors")
    add("--raw", action="store_true", help="safetensors: add raw directions, norms, signs, mean norms")
    add("--model-hint", metavar="TYPE", help="gguf: model_type of the model (default: from its local config.json)")
    add("--out-dir", type=Path, metavar="DIR", help="default: RES_DIR/<model>/export")
    # Vectors are exported as they are, in any family and with any template.
    parser.set_defaults(model_family=None, template=None)
    cli.run(main, parser)
