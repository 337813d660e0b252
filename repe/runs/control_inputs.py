"""What control_generation.py runs: an experiment for each concept and source language, with all of its inputs."""

import argparse
import hashlib
import json
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from repe.control.experiment import ControlExperiment
from repe.control.generation import Decoding
from repe.control.prompts import read_prompts
from repe.control.reply_file import ReplyFile
from repe.control.scores import OWN, Reader
from repe.control.settings import ControlSettings
from repe.control.steering import parse_layers
from repe.errors import UserError, printable
from repe.files import read_regular
from repe.models.source import ModelSource
from repe.results.result_file import SETTINGS, Kind
from repe.results.vector_file import VectorFile
from repe.runs import stage
from repe.runs.arguments import named_model, results_folder
from repe.runs.control_arguments import INSTRUCTIONS
from repe.vectors.concept_vectors import ConceptVectors

CONCEPT = "harmfulness"  # unless --concept names others


def prepare(args: argparse.Namespace, model: ModelSource) -> list[ControlExperiment]:
    """All experiments that the options ask for, checked before the model is loaded.

    Raises:
        UserError: prompts, vectors or instructions are missing or invalid, or existing replies are of another run.
    """
    prompt_file = read_prompts(args.prompts, args.prompt_fields)
    prompts = prompt_file.of(args.target_lang or args.lang)
    languages = list(dict.fromkeys(prompt.lang for prompt in prompts))
    decoding = Decoding(args.max_new_tokens, args.temperature, args.top_p, args.num_beams, args.seed)
    steering = (args.strength, args.strength_unit, args.operator, args.scope, args.baseline, args.random_draws)
    meta = stage.settings(args, model)
    reader = Reader(OWN, readable(args, model.label, languages))
    compared = languages if "target_vector" in args.baseline else []
    experiments = []
    for concept, file in vector_files(args, model.label).items():
        vectors = file.of(list(dict.fromkeys([*args.source_lang, *compared])))
        file.check_settings(meta, "use these, or collect the vectors again with collect_vector.py --overwrite")
        layers = parse_layers(args.layers, len(vectors[args.source_lang[0]].directions))
        settings = ControlSettings(layers, *steering, decoding)
        instructions = read_instructions(args.instructions, concept, languages) if "prompt" in args.baseline else {}
        for source in args.source_lang:
            shuffled = shuffled_vectors(args, model.label, concept, source) if "shuffled" in args.baseline else None
            inputs = {language: vectors[language].digest for language in (source, *compared)}
            inputs |= {"shuffled": shuffled.digest} if shuffled else {}
            inputs |= {f"instructions in {language}": _digest(sides) for language, sides in instructions.items()}
            record = {
                **{name: meta[name] for name in SETTINGS if name in meta},
                **{"prompts": prompt_file.sha256, "prompts_name": printable(prompt_file.path.name), "vectors": inputs},
                **settings.record(),
            }
            folder = file.path.parent / "control" / source
            replies = ReplyFile.for_settings(folder, record, prompt_file.prompts)
            experiment = ControlExperiment(concept, source, vectors, prompts, settings, replies)
            experiment.folder, experiment.reader = folder, reader
            experiment.shuffled, experiment.instructions = shuffled, instructions
            experiments.append(experiment)
            if not args.overwrite:
                replies.check_settings()
    return experiments


def vector_files(args: argparse.Namespace, label: str) -> dict[str, VectorFile]:
    """The files of the vectors that steer, by concept.

    Raises:
        UserError: the default concept has none, and the options name no other.
    """
    files = stage.result_files(args, label, args.concept or [CONCEPT], VectorFile)
    if not args.concept and not (files[CONCEPT].has_file or files[CONCEPT].has_download):
        raise UserError(f"there is no {files[CONCEPT].path}: run collect_vector.py first, or give another --concept")
    return files


def readable(
    args: argparse.Namespace, label: str, languages: Sequence[str], concepts: Sequence[str] | None = None
) -> dict[str, dict[str, ConceptVectors]]:
    """A model's vectors that say where the class means are, by concept and language.

    Args:
        args: the split and the method.
        label: of the model.
        languages: of the replies.
        concepts: default: all that have been collected.
    """
    folder, kind = results_folder(args, label), Kind(args.direction_method, args.random_direction)
    name = kind.file_name(VectorFile.stem)
    found = concepts or sorted(path.parent.name for path in folder.glob(f"*/{name}"))
    files = {concept: VectorFile(folder.parent, folder.name, concept, kind).vectors for concept in found}
    known = {
        concept: {lang: one for lang, one in vectors.items() if lang in languages and one.midpoint is not None}
        for concept, vectors in files.items()
    }
    return {concept: vectors for concept, vectors in known.items() if vectors}


def shuffled_vectors(args: argparse.Namespace, label: str, concept: str, source: str) -> ConceptVectors:
    """The vectors of shuffled labels (`--random-direction` of stage 1) of the same model, concept and language.

    Raises:
        UserError: they have not been collected.
    """
    folder = results_folder(args, label)
    file = VectorFile(folder.parent, folder.name, concept, Kind(args.direction_method, random_direction=True))
    if source not in file.vectors:
        raise UserError(
            f"--baseline shuffled needs {file.path} with {source}: run collect_vector.py --random-direction with the "
            "same options first"
        )
    return file.vectors[source]


def read_instructions(path: Path, concept: str, languages: Sequence[str]) -> dict[str, dict[str, str]]:
    """System instructions of a concept: {language: {"positive": text, "negative": text}}.

    Raises:
        UserError: the file is not valid, or has none of the concept in a language.
    """
    try:
        content = json.loads(read_regular(path))
        found = {language: content.get(concept, {}).get(language, {}) for language in languages}
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} is not a valid file of instructions ({error}): see {INSTRUCTIONS}") from error
    for language, sides in found.items():
        for side in ("positive", "negative"):
            if not (isinstance(sides, dict) and isinstance(sides.get(side), str) and sides[side].strip()):
                raise UserError(
                    f"{path} has no {side} instruction for {concept} in {language}: add it to a copy and give that "
                    "with --instructions, or leave prompt out of --baseline"
                )
    return found


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def judge_replies(args: argparse.Namespace, experiments: Sequence[ControlExperiment]) -> None:
    """Let another model read all replies, with its own vectors of the concept.

    Raises:
        UserError: its vectors have not been collected, or with other settings.
    """
    only = {"model_path": args.judge, **dict.fromkeys(("model_name", "model_size", "model_label", "model_family"))}
    judge_args = Namespace(**{**vars(args), **only, "template": None, "revision": None})
    label = named_model(judge_args)[0]
    source = stage.model_source(judge_args)
    loaded = None
    for experiment in experiments:
        languages = list(dict.fromkeys(prompt.lang for prompt in experiment.prompts))
        vectors = readable(judge_args, label, languages, [experiment.concept])
        if not vectors:
            raise UserError(
                f"--judge {args.judge} has no vectors of {experiment.concept} in {' '.join(languages)} in "
                f"{results_folder(judge_args, label)}: run collect_vector.py with this model first"
            )
        (file,) = stage.result_files(judge_args, label, [experiment.concept], VectorFile).values()
        file.check_settings(stage.settings(judge_args, source), "collect the judge's vectors again")
        reader = Reader(label, vectors)
        if reader.unscored(experiment.file):
            loaded = loaded or source.load()
            reader.score(loaded, experiment.file)
