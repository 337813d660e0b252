"""What the stages that run a model share: finding what is missing, checking it, and saying what was done."""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic

from tqdm import tqdm

from repe import data
from repe.data import Split
from repe.errors import UserError, first_of
from repe.files import writable_folder
from repe.results.result_file import File, ResultFile
from repe.results.vector_file import VectorFile, Vectors
from repe.runs import processes
from repe.runs.chosen import ChosenModel

# How many faulty files one message tells of.
FILES_SHOWN = 5

Work = Mapping[str, Sequence[str]]
"""Languages by concept."""


@dataclass(frozen=True)
class Plan(Generic[File]):
    """What a stage has to do, and what it is made from and with."""

    files: Mapping[str, File]
    """Where results go, by concept."""
    wanted: Work
    """What was asked for."""
    pending: Work
    """What of that is missing."""
    splits: Mapping[tuple[str, str], Split]
    """Training and test pairs by concept and language: of what is pending and, where still there, of what is done."""
    meta: Mapping[str, Any]
    """What makes the results, for the file."""


def plan(
    args: argparse.Namespace,
    chosen: ChosenModel,
    files: Mapping[str, File],
    wanted: Work,
    pending: Work,
    what: str,
    vector_files: Mapping[str, VectorFile] | None = None,
) -> Plan[File] | None:
    """What a stage has to do, checked before a model is loaded; None, said so, where nothing is missing.

    Args:
        files: where results go, by concept.
        wanted: what was asked for.
        pending: what of that is missing.
        what: the results' name in messages.
        vector_files: by concept, what the results are made with besides the data.

    Raises:
        UserError: data files are missing or faulty; results that are there, or the vectors they would be made with,
            come from other settings or inputs; a folder for results cannot be made or written to.
    """
    splits = _splits(args, wanted, pending)
    meta = _checked_meta(args, chosen, files, pending, splits, vector_files or {})
    return Plan(files, wanted, pending, splits, meta) if _anything(pending, files, what) else None


def _splits(args: argparse.Namespace, wanted: Work, pending: Work) -> dict[tuple[str, str], Split]:
    """Training and test pairs by concept and language: of what is pending and, where still there, of what is done.

    Raises:
        UserError: a file that is needed is missing, a file is faulty, or the split leaves nothing to train on.
    """
    splits, faults = {}, []
    for concept, languages in wanted.items():
        for language in languages:
            if language in pending[concept] or data.data_file(args.data_dir, concept, language).exists():
                try:
                    dataset = data.read_pairs(args.data_dir, concept, language)
                    splits[concept, language] = data.split_pairs(
                        dataset, args.split, args.random_direction, args.split_by
                    )
                except UserError as error:
                    faults.append(str(error))
    if faults:
        raise UserError(first_of(faults, FILES_SHOWN, " || ", "more files"))
    return splits


def sources(file: VectorFile, languages: Sequence[str]) -> dict[str, Vectors]:
    """The vectors of `languages`.

    Raises:
        UserError: some are not collected yet.
    """
    missing = [language for language in languages if language not in file.vectors]
    if missing:
        raise UserError(
            f"{file.path} has no vectors of {' '.join(missing)}: run collect_vector.py with the same options first"
        )
    return {language: file.vectors[language] for language in languages}


def _checked_meta(
    args: argparse.Namespace,
    chosen: ChosenModel,
    files: Mapping[str, ResultFile],
    pending: Work,
    splits: Mapping[tuple[str, str], Split],
    vector_files: Mapping[str, VectorFile],
) -> dict[str, Any]:
    """What made the results of this run, checked to go together with what is there.

    Where nothing is pending and the model is not on this machine, it is not fetched for the sake of the check.

    Raises:
        UserError: results that are there, or the vectors they would be made with, come from other settings or inputs.
    """
    if not any(pending.values()) and not chosen.is_local:
        return {}
    meta = chosen.meta()
    for concept, vector_file in vector_files.items():
        vector_file.check_settings(meta, "give these, or collect the vectors again with collect_vector.py --overwrite")
        if not args.overwrite:
            now = {language: vectors.digest for language, vectors in vector_file.vectors.items()}
            files[concept].check_inputs("vectors", now)
    for concept, file in files.items():
        if args.overwrite:
            file.check_overwrite(meta, [*pending[concept]])
        else:
            file.check_settings(meta)
            digests = {language: one.sha256 for (name, language), one in splits.items() if name == concept}
            file.check_inputs("data", digests)
    return meta


def share(plan: Plan[File]) -> list[tuple[str, str]]:
    """This process's part of the pending concepts and languages, all of them where there is one process.

    They are divided by the length of their files' texts, in bytes, to which the length in tokens of scripts other than
    Latin is closer than to that in letters.
    """
    lengths = {
        (concept, language): sum(len(text.encode()) for text in data.texts_of(plan.splits[concept, language].pairs))
        for concept, languages in plan.pending.items()
        for language in languages
    }
    return processes.share(lengths)


def progress(work: Sequence[tuple[str, str]], what: str) -> Iterator[tuple[str, str]]:
    """The concepts and languages of `work`, with a bar that names the one under way; other processes show none."""
    several = f" (process 1 of {processes.count()})" if processes.count() > 1 else ""
    with tqdm(work, desc=f"{what}{several}", unit="set", disable=not processes.is_main()) as bar:
        for concept, language in bar:
            bar.set_postfix_str(f"{concept} {language}")
            yield concept, language


def _anything(pending: Work, files: Mapping[str, ResultFile], what: str) -> bool:
    """Whether there is work, for which there are folders then; says so where there is none.

    Raises:
        UserError: a folder for results cannot be made or written to.
    """
    if any(pending.values()):
        for concept, languages in pending.items():
            if languages:
                writable_folder(files[concept].path.parent)
        return True
    print(f"nothing to do: {_folder(files)} has all {what} asked for (--overwrite redoes them)")
    return False


def report(plan: Plan[File], what: str) -> None:
    """One line that says what was written where, once all processes are done."""
    processes.finished()
    if not processes.is_main():
        return
    done = {concept: languages for concept, languages in plan.pending.items() if languages}
    count = sum(map(len, done.values()))
    print(f"wrote {what} of {count} concept x language sets ({', '.join(done)}) to {_folder(plan.files)}")


def _folder(files: Mapping[str, ResultFile]) -> str:
    path = next(iter(files.values())).path
    return f"{path.parent.parent}/*/{path.name}"
