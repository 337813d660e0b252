"""What the two stages that run a model share: find what is missing, check it, then go through it.

Everything that can be wrong with data, settings or existing results is found before any weights are read.
"""

import argparse
import hashlib
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import transformers
from tqdm import tqdm

from repe import data
from repe.data import Pair
from repe.errors import UserError, first_of
from repe.files import writable_folder
from repe.models.model import Model
from repe.models.registry import check_template, untrained_suffix
from repe.models.source import ModelSource
from repe.results.result_file import File, Kind, ResultFile
from repe.results.vector_file import VectorFile
from repe.runs import processes
from repe.runs.arguments import data_name, named_model, results_folder
from repe.vectors.concept_vectors import ConceptVectors

if TYPE_CHECKING:
    from repe.uncertainty.swaps import Training
    from repe.vectors.state_cache import CachedStates, StateCache

# Maximum number of invalid files that one message names.
FILES_SHOWN = 5


@dataclass
class Task:
    """One concept in one language, with what is needed to process it."""

    concept: str
    language: str
    train: list[Pair]
    test: list[Pair]
    model: "Model | CachedStates"
    file: Any
    """Where the result goes."""
    meta: dict[str, Any]
    """What makes the result."""
    seed: list[int]
    """Depends on `--seed`, concept and language, not on what else is run."""
    cache: "StateCache | None"
    """In place of the model."""
    sources: Mapping[str, ConceptVectors]
    """In stage 2: the vectors that have not been tried on this language yet."""
    training: "Mapping[str, Training]"
    """In stage 2, with `--nulls` or `--cache-states`: training pairs of the sources and of this language."""


@dataclass
class _Plan:
    """What a stage has to do. The main process makes it and sends it to the others."""

    files: Mapping[str, ResultFile]
    """By concept."""
    wanted: Mapping[str, Sequence[str]]
    pending: list[tuple[str, str]]
    """Concepts and languages."""
    splits: dict[tuple[str, str], tuple[list[Pair], list[Pair]]]
    digests: dict[tuple[str, str], str]
    """SHA-256 of the data files, of pending sets and of those that are done."""
    sizes: dict[tuple[str, str], int]
    """Bytes of the data files of pending sets."""
    meta: dict[str, Any]


def vectors_to_collect(args: argparse.Namespace) -> Iterator[Task]:
    """The concept x language sets whose vectors are missing (all, with `--overwrite`)."""
    source = model_source(args)
    plan = processes.plan_once(lambda: _plan(args, source, VectorFile))
    yield from _tasks(args, source, plan, "vectors", "collecting")
    if processes.is_main():
        from repe.runs import printed  # slow, and only the main process prints

        print(printed.pairs(plan.splits, args.split, args.folds))


def targets_to_recognize(args: argparse.Namespace) -> Iterator[Task]:
    """The concept x language sets on which some vectors have not been tried yet (all, with `--overwrite`).

    With `--nulls`, those whose accuracies have no nulls are tried again.
    """
    from repe.results.accuracy_file import AccuracyFile, NullsFile  # only in stage 2

    source = model_source(args)
    file_type = NullsFile if args.nulls else AccuracyFile
    plan = processes.plan_once(lambda: _plan(args, source, file_type))
    training = _training(args, plan)
    tested = vector_files(args, source.label, plan.wanted)
    for task in _tasks(args, source, plan, "accuracies", "recognizing"):
        languages = [*plan.wanted[task.concept]]
        task.file.refresh()  # another run may have added to it
        untried = languages if args.overwrite else task.file.untried(task.language, languages)
        if untried:  # else another run was faster
            tested[task.concept].refresh()
            task.sources = tested[task.concept].of(untried)
            task.meta["vectors"] = {language: one.digest for language, one in task.sources.items()}
            if (args.nulls or args.cache_states) and not (args.folds or args.vectors_from):
                known = [one for one in (*untried, task.language) if (task.concept, one) in plan.splits]
                task.training = {language: training(task.concept, language, task) for language in known}
            yield task
    if processes.is_main():
        from repe.runs import printed

        files = result_files(args, source.label, plan.wanted, AccuracyFile)
        floors = result_files(args, f"{source.label}{untrained_suffix(1)}", plan.wanted, AccuracyFile)
        print(printed.accuracies(files, plan.wanted, floors))
        printed.warn_of_few_items(files, plan.wanted, args.folds)


def _training(args: argparse.Namespace, plan: "_Plan") -> "Callable[[str, str, Task], Training]":
    """Training pairs of a concept and language; those of the languages of one concept stay in memory."""
    from repe.analysis.recognition import pair_states
    from repe.uncertainty.swaps import Training

    found: dict[str, dict[str, Training]] = {}

    def training(concept: str, language: str, task: Task) -> Training:
        if concept not in found:
            found.clear()
        if language not in found.setdefault(concept, {}):
            train, _ = plan.splits[concept, language]
            states: Any = task.model
            if task.cache:
                pairs = data.read_pairs(data.data_file(args.data_dir, concept, language), concept)
                states = task.cache.of(data.texts_of(pairs))
            found[concept][language] = Training.of(pair_states(states, train), train)
        return found[concept][language]

    return training


def model_source(args: argparse.Namespace) -> ModelSource:
    """The model that the options name, ready to be loaded."""
    label, row = named_model(args)
    return ModelSource(
        label=label,
        source=row.hub_id,
        family=row.family,
        template_text=check_template(args.template) if args.template else row.template,
        published_dtype=row.dtype,
        revision=args.revision,
        device_name=args.device,
        dtype_name=args.dtype,
        truncate=args.truncate,
        trust_remote_code=args.trust_remote_code,
        untrained=args.seed if vars(args).get("untrained") else None,
        batch_size=args.batch_size,
        gpu=int(os.environ["LOCAL_RANK"]) if processes.count() > 1 else None,
    )


def result_files(
    args: argparse.Namespace, label: str, concepts: Iterable[str], file_type: type[File]
) -> dict[str, File]:
    """The model's result files by concept, existing or not."""
    folder, kind = results_folder(args, label).name, Kind(args.direction_method, args.random_direction)
    return {concept: file_type(args.res_dir, folder, concept, kind) for concept in concepts}


def vector_files(args: argparse.Namespace, label: str, concepts: Iterable[str]) -> dict[str, VectorFile]:
    """The files of the vectors that stage 2 tests, by concept: with `--vectors-from`, another results folder's."""
    if args.vectors_from:
        args = argparse.Namespace(**{**vars(args), "res_dir": args.vectors_from, "vectors_from": None})
    return result_files(args, label, concepts, VectorFile)


def concepts_and_languages(args: argparse.Namespace) -> dict[str, list[str]]:
    """Languages by concept: those in the options, else all that the data folder has.

    Raises:
        UserError: the data folder has no data at all, or none for a concept in the options.
    """
    concepts = args.concept or data.concepts_in(args.data_dir)
    if args.lang:
        return dict.fromkeys(concepts, args.lang)
    found = {concept: data.languages_of(args.data_dir, concept) for concept in concepts}
    for concept, languages in found.items():
        if not languages:
            known = " ".join(data.concepts_in(args.data_dir))
            raise UserError(f"{args.data_dir} has no {concept}; it has {known}: choose from these with --concept")
    return found


def _plan(args: argparse.Namespace, source: ModelSource, file_type: type[ResultFile]) -> _Plan:
    """What is missing, with data and existing results checked.

    Raises:
        UserError: data files are missing or invalid; existing results, or the vectors to use, were made with other
            settings or from other inputs; a results folder cannot be created or written to.
    """
    wanted = concepts_and_languages(args)
    files = result_files(args, source.label, wanted, file_type)
    to_test = {} if file_type is VectorFile else vector_files(args, source.label, wanted)
    for concept, vector_file in to_test.items():
        vector_file.of(wanted[concept])
    pending = [
        (concept, language)
        for concept, languages in wanted.items()
        for language in (languages if args.overwrite else files[concept].missing(languages))
    ]
    plan = _Plan(files, wanted, pending, {}, {}, {}, {})
    _read_data(args, plan)
    # A model that is not on this machine is not downloaded only to check what is done already.
    if plan.pending or source.is_local:
        plan.meta = settings(args, source)
        if to_test or any(file.has_file for file in files.values()):
            _check_existing(args, plan, to_test)
    for concept in dict(plan.pending):
        writable_folder(files[concept].path.parent)
    return plan


def _read_data(args: argparse.Namespace, plan: _Plan) -> None:
    """Read and split the pairs of all sets, and take the digests of their files; those of finished sets may be gone."""
    faults = []
    for concept, language in [(one, language) for one, languages in plan.wanted.items() for language in languages]:
        path = data.data_file(args.data_dir, concept, language)
        if (concept, language) in plan.pending or path.exists():
            try:
                pairs = data.read_pairs(path, concept)
                by = "folds" if args.folds else args.split_by
                whole = vars(args).get("vectors_from")  # of stage 2
                split = ([], pairs) if whole else data.split_pairs(pairs, args.split, by, args.random_direction)
            except UserError as error:
                faults.append(str(error) if str(path) in str(error) else f"{path}: {error}")
                continue
            content = path.read_bytes()
            plan.splits[concept, language] = split
            plan.sizes[concept, language] = len(content)
            plan.digests[concept, language] = hashlib.sha256(content).hexdigest()
    if faults:
        raise UserError(first_of(faults, FILES_SHOWN, " || ", "more files"))


def settings(args: argparse.Namespace, source: ModelSource) -> dict[str, Any]:
    """What result files keep of a run: settings that must agree within a file, sources, versions."""
    return {
        "model": source.label,
        "family": source.family,
        **source.record,
        "split": 1.0 if args.folds else args.split,
        "method": args.direction_method,
        "random_direction": args.random_direction,
        "seed": args.seed if args.direction_method == "random" else None,
        "versions": {"torch": str(torch.__version__), "transformers": transformers.__version__},
        # Not for the paper's split, so that its files are the same as before there was another.
        **({} if args.split_by == "pair" else {"split_by": args.split_by}),
        **({"folds": args.folds} if args.folds else {}),
        **(_tested_on(args) if vars(args).get("vectors_from") else {}),
    }


def _tested_on(args: argparse.Namespace) -> dict[str, str]:
    """What accuracies on another data folder record of it and of the vectors, as `status` needs it."""
    folders = {"data_dir": str(args.data_dir), "vectors_from": str(args.vectors_from)}
    return {"tested_on": data_name(args.data_dir), **folders}


def _check_existing(args: argparse.Namespace, plan: _Plan, to_test: Mapping[str, VectorFile]) -> None:
    for concept, vector_file in to_test.items():
        remedy = "use these, or collect the vectors again with collect_vector.py --overwrite"
        vector_file.check_settings(plan.meta, remedy)
        known = {language: digest for (name, language), digest in plan.digests.items() if name == concept}
        if args.vectors_from:
            _check_other_data(args, vector_file, known)
        elif vars(args).get("nulls") or args.cache_states:  # these take the training pairs from the data
            vector_file.check_inputs("data", known)
        if not args.overwrite:
            digests = {language: vectors.digest for language, vectors in vector_file.vectors.items()}
            plan.files[concept].check_inputs("vectors", digests)
    for concept, file in plan.files.items():
        if args.overwrite:
            file.check_overwrite(plan.meta, [language for name, language in plan.pending if name == concept])
        else:
            file.check_settings(plan.meta)
            digests = {language: digest for (name, language), digest in plan.digests.items() if name == concept}
            file.check_inputs("data", digests)


def _check_other_data(args: argparse.Namespace, vector_file: VectorFile, digests: Mapping[str, str]) -> None:
    """Refuse to test vectors on the data that they were collected from."""
    made_from = vector_file.meta.get("data", {})
    if same := [language for language, digest in digests.items() if made_from.get(language) == digest]:
        raise UserError(
            f"--vectors-from {args.vectors_from}: {vector_file.path} was collected from the same "
            f"{vector_file.concept} data ({' '.join(same)}): name other data with --data-dir"
        )


def _tasks(args: argparse.Namespace, source: ModelSource, plan: _Plan, what: str, doing: str) -> Iterator[Task]:
    """This process's part of the plan, with a progress bar, and a closing line once all processes are done."""
    path = next(iter(plan.files.values())).path
    folder = f"{path.parent.parent}/*/{path.name}"
    if not plan.pending:
        if processes.is_main():
            more = ", which also fills --cache-states" if args.cache_states else ""
            print(f"nothing to do: {folder} has all {what} asked for (redo them with --overwrite{more})")
        return
    share = processes.share({one: plan.sizes[one] for one in plan.pending})
    cache = None
    if args.cache_states:
        from repe.vectors.state_cache import StateCache  # only with this option

        cache = StateCache(args.cache_states, source, plan.meta)
    model = source.load() if share and not cache else None
    several = f" (process 1 of {processes.count()})" if processes.count() > 1 else ""
    with tqdm(share, desc=f"{doing}{several}", unit="set", disable=not processes.is_main()) as bar:
        for concept, language in bar:
            bar.set_postfix_str(f"{concept} {language}")
            train, test = plan.splits[concept, language]
            meta = {**plan.meta, "data": {language: plan.digests[concept, language]}}
            seed = [args.seed, zlib.crc32(concept.encode()), zlib.crc32(language.encode())]
            states: Any = model
            if cache:
                pairs = data.read_pairs(data.data_file(args.data_dir, concept, language), concept)
                states = cache.of(data.texts_of(pairs))
            yield Task(concept, language, train, test, states, plan.files[concept], meta, seed, cache, {}, {})
    processes.finished()
    if processes.is_main():
        concepts = ", ".join(dict.fromkeys(concept for concept, _ in plan.pending))
        print(f"wrote {what} of {len(plan.pending)} concept x language sets ({concepts}) to {folder}")
