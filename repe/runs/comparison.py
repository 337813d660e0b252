"""The result files of the models that an analysis compares, and the folder that it writes to."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic

from repe.errors import UserError, first_of
from repe.files import entries
from repe.paper import CONCEPTS, FAMILIES, LANGUAGES, Family, in_paper_order, seven_billion
from repe.results.accuracy_file import AccuracyFile
from repe.results.result_file import File, Kind, ResultFile, check_files, check_results_folder
from repe.results.vector_file import VectorFile
from repe.runs import processes
from repe.runs.arguments import MODEL, SEED, named_model, refuse, results_folder


@dataclass(frozen=True)
class Compared(Generic[File]):
    """The result files of the models to compare."""

    files: Mapping[str, Mapping[str, File]]
    """By results folder and concept, in the order given."""
    languages: list[str]
    family: Family | None = None
    """Family of all models, if the user names one."""
    high_resource: Sequence[str] = ()
    """High-resource languages of all models, if the user names them."""

    @property
    def families(self) -> dict[str, Family]:
        """The family of each model: the one that the user names, else the one in its files."""
        first = {model: next(iter(by_concept.values())) for model, by_concept in self.files.items()}
        families = {model: self.family or file.family() for model, file in first.items()}
        if self.high_resource:
            named = tuple(self.high_resource)
            return {model: replace(family, high_resource=named) for model, family in families.items()}
        return families

    def unknown_high_resource(self, what: str) -> None:
        """Say for which models `what` is empty, because their high-resource languages are not known."""
        if unknown := [model for model, family in self.families.items() if not family.high_resource]:
            print(
                f"{what} is empty for {' '.join(unknown)}: which languages have much pre-training text (high-resource) "
                "is not known; name them with --high-resource"
            )

    @property
    def panels(self) -> dict[str, dict[str, Family]]:
        """Models of the heat maps: `all`, and `7b` if the paper's three models of about 7B parameters are there."""
        families = self.families
        seven = {model: families[model] for model in seven_billion(families)}
        return ({"7b": seven} if seven else {}) | {"all": families}

    def languages_of(self, model: str) -> list[str]:
        """The languages of a model's cross-lingual figures, in their order.

        Raises:
            UserError: the figures of the model's family leave all chosen languages out.
        """
        family = self.families[model]
        languages = family.order(self.languages)
        if not languages:
            raise UserError(
                f"the figures of the {family.label} family leave out {' '.join(self.languages)}, and {model} has no "
                "other language: add one with --lang"
            )
        return languages


def open_models(args: argparse.Namespace, file_type: type[File], same_language: bool = False) -> Compared[File]:
    """Open the result files of `--cross-model`, or of the one model that the options name.

    Args:
        file_type: of vectors or of accuracies.
        same_language: the analysis needs each language's own vectors only, not every pair of languages.

    Raises:
        UserError: a model, concept or language has no results; an option would have no effect.
    """
    processes.require_single("the comparison of models")
    if not (vars(args).get("bootstrap") or vars(args).get("permutations")):
        refuse(args, (SEED,), "without --bootstrap or --permutations")
    if args.cross_model:
        refuse(args, (MODEL,), "with --cross-model", except_for=["--model-family"])
    folders = [results_folder(args, name).name for name in args.cross_model or [named_model(args)[0]]]
    for folder in folders:
        check_results_folder(args.res_dir / folder, _how(file_type))
    kind = Kind(args.direction_method, args.random_direction)
    concepts = args.concept or _common_concepts(args.res_dir, folders, kind.file_name(file_type.stem), file_type)
    files = {
        folder: {concept: file_type(args.res_dir, folder, concept, kind) for concept in concepts} for folder in folders
    }
    for by_concept in files.values():
        check_files([*by_concept.values()])
    all_files = [file for by_concept in files.values() for file in by_concept.values()]
    languages = _common_languages(args.lang, all_files, same_language)
    high_resource = vars(args).get("high_resource") or ()
    if unknown := [language for language in high_resource if language not in languages]:
        raise UserError(
            f"--high-resource {' '.join(unknown)}: choose from the compared languages {' '.join(languages)}"
        )
    return Compared(files, languages, FAMILIES[args.model_family] if args.model_family else None, high_resource)


def random_files(args: argparse.Namespace, compared: Compared[AccuracyFile]) -> dict[str, dict[str, AccuracyFile]]:
    """Accuracies of vectors of shuffled labels, by results folder and concept.

    Raises:
        UserError: a language has none.
    """
    if args.random_direction:
        raise UserError("--permutations compares with --random-direction: leave out one of the two")
    shuffled = Kind(args.direction_method, random_direction=True)
    found = {
        model: {concept: AccuracyFile(args.res_dir, model, concept, shuffled) for concept in by_concept}
        for model, by_concept in compared.files.items()
    }
    for file in (file for by_concept in found.values() for file in by_concept.values()):
        file.check_place()
        if lacking := file.lacking(compared.languages, same_language=True):
            raise UserError(
                f"--permutations compares with vectors of shuffled labels, but {file.path} has no results for "
                f"{' '.join(lacking)}: run collect_vector.py and recognize_concept.py with --random-direction first"
            )
    return found


def vector_files(args: argparse.Namespace, compared: Compared[AccuracyFile]) -> dict[str, dict[str, VectorFile]]:
    """The vectors behind accuracies, by results folder and concept.

    Raises:
        UserError: they are not the paper's `cluster_mean`.
    """
    if args.direction_method != "cluster_mean" or args.random_direction:
        raise UserError("learned transfer is for cluster_mean vectors: leave out the other method or --cache-states")
    return {
        model: {concept: VectorFile(args.res_dir, model, concept, file.kind) for concept, file in by_concept.items()}
        for model, by_concept in compared.files.items()
    }


def _how(file_type: type[ResultFile]) -> str:
    return "run collect_vector.py first" + (", then recognize_concept.py" if file_type.stem == "acc" else "")


def _common_concepts(res_dir: Path, folders: list[str], name: str, file_type: type[ResultFile]) -> list[str]:
    pattern = f"*/{Path(name).stem}.p[tk]"
    found = [{path.parent.name for path in entries(res_dir / folder, pattern)} for folder in folders]
    common = in_paper_order(set.intersection(*found), CONCEPTS)
    if not common:
        raise UserError(f"no concept has {name} in all of {' '.join(folders)}: {_how(file_type)}")
    return common


def _common_languages(asked: list[str] | None, files: list[Any], same_language: bool) -> list[str]:
    """The languages asked for, else those that every file has; each file has what the analysis needs of them."""
    languages = asked or in_paper_order(set.intersection(*(set(file.languages) for file in files)), LANGUAGES)
    if not languages:
        empty = next((file for file in files if not file.languages), None)
        which = f"{empty.path} has no results" if empty else f"no language is in every {files[0].path.name}"
        raise UserError(f"{which}: {_how(type(files[0]))}")
    for file in files:
        if lacking := file.lacking(languages, same_language):
            raise UserError(f"{file.path} has no results for {first_of(lacking, 8, ' ')}: {_how(type(file))}")
    return languages


def out_dir(args: argparse.Namespace) -> Path:
    """Folder of figures and tables: `--out-dir`, else next to the results of the models."""
    if args.out_dir:
        return Path(args.out_dir)
    if args.cross_model:
        return Path(args.res_dir) / "cross_model"
    return results_folder(args, named_model(args)[0])
