"""The result files of the models that an analysis compares, and where it writes."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

from repe.errors import UserError
from repe.paper import CONCEPTS, FAMILIES, LANGUAGES, Family, in_paper_order, seven_billion
from repe.results.accuracy_file import AccuracyFile
from repe.results.result_file import File, Kind, ResultFile
from repe.runs import chosen as selection
from repe.runs import processes


@dataclass(frozen=True)
class Compared(Generic[File]):
    """The result files of the models to compare."""

    files: Mapping[str, Mapping[str, File]]
    """By results folder and concept, in the order given."""
    languages: list[str]
    family: Family | None = None
    """Of all models, where the user names one."""

    @property
    def families(self) -> dict[str, Family]:
        """The family of each model: the one named, else what its files say."""
        return {
            model: self.family or next(iter(by_concept.values())).family() for model, by_concept in self.files.items()
        }

    @property
    def panels(self) -> dict[str, dict[str, Family]]:
        """Models of the heat maps: `7b` for the paper's three of about seven billion parameters if there, and `all`."""
        families = self.families
        seven = {model: families[model] for model in seven_billion(families)}
        return ({"7b": seven} if seven else {}) | {"all": families}

    def languages_of(self, model: str) -> list[str]:
        """The languages of a model's cross-lingual figures, in their order.

        Raises:
            UserError: the family leaves all chosen languages out.
        """
        family = self.families[model]
        languages = family.order(self.languages)
        if not languages:
            raise UserError(
                f"the {family.label} family's figures leave {' '.join(self.languages)} out, and no other language is "
                f"chosen for {model}: add to --lang"
            )
        return languages


def open_models(args: argparse.Namespace, file_type: type[File], same_language: bool = False) -> Compared[File]:
    """Open the result files of `--cross-model`, or of the one model that the options name.

    Args:
        file_type: of vectors or of accuracies.
        same_language: the analysis needs each language with itself alone, not every pair of them.

    Raises:
        UserError: a model, concept or language has no results; says which stage makes them.
    """
    processes.alone("the comparison of models")
    names = args.cross_model or [selection.model(args).label]
    folders = [selection.results_folder(args, name).name for name in names]
    for folder in folders:
        if not (args.res_dir / folder).is_dir():
            there = " ".join(sorted(path.name for path in args.res_dir.glob("*") if any(path.glob("*/*.p[tk]"))))
            raise UserError(f"no results in {args.res_dir / folder} (there are: {there or 'none'}): {_how(file_type)}")
    concepts = list(dict.fromkeys(args.concept)) if args.concept else _common_concepts(args, folders, file_type)
    files = {
        folder: {concept: file_type(args.res_dir, folder, concept, selection.kind(args)) for concept in concepts}
        for folder in folders
    }
    all_files = [file for by_concept in files.values() for file in by_concept.values()]
    languages = _common_languages(args.lang, all_files, same_language)
    return Compared(files, languages, FAMILIES[args.model_family] if args.model_family else None)


def random_files(args: argparse.Namespace, compared: Compared[AccuracyFile]) -> dict[str, dict[str, AccuracyFile]]:
    """The accuracies of vectors of shuffled labels, beside those that are compared, by results folder and concept.

    Raises:
        UserError: there are none of a language; says which commands make them.
    """
    if args.random_direction:
        raise UserError("--permutations compares with --random-direction: leave out one of the two")
    kind = Kind(args.direction_method, random_direction=True)
    found = {
        model: {concept: AccuracyFile(args.res_dir, model, concept, kind) for concept in by_concept}
        for model, by_concept in compared.files.items()
    }
    for file in (file for by_concept in found.values() for file in by_concept.values()):
        if lacking := file.lacking(compared.languages, same_language=True):
            raise UserError(
                f"--permutations compares with vectors of shuffled labels, and {file.path} has no results for "
                f"{' '.join(lacking)}: run collect_vector.py --random-direction, then recognize_concept.py "
                "--random-direction, with the options that made the others"
            )
    return found


def _how(file_type: type[ResultFile]) -> str:
    return "run collect_vector.py first" + (", then recognize_concept.py" if file_type.stem == "acc" else "")


def _common_concepts(args: argparse.Namespace, folders: list[str], file_type: type[ResultFile]) -> list[str]:
    name = selection.kind(args).file_name(file_type.stem)
    found = [
        {path.parent.name for path in (args.res_dir / folder).glob(f"*/{Path(name).stem}.p[tk]")} for folder in folders
    ]
    common = in_paper_order(set.intersection(*found), CONCEPTS)
    if not common:
        raise UserError(f"no concept has {name} in every one of {' '.join(folders)}: {_how(file_type)}")
    return common


def _common_languages(asked: list[str] | None, files: list[Any], same_language: bool) -> list[str]:
    """The languages asked for, else those that every file has; what an analysis needs of them is there."""
    languages = list(
        dict.fromkeys(asked or in_paper_order(set.intersection(*(set(f.languages) for f in files)), LANGUAGES))
    )
    if not languages:
        without = next((file for file in files if not file.languages), None)
        which = f"{without.path} has no results" if without else f"no language is in every {files[0].path.name} chosen"
        raise UserError(f"{which}: {_how(type(files[0]))}")
    for file in files:
        lacking = file.lacking(languages, same_language)
        if lacking:
            more = f" and {len(lacking) - 8} more" if len(lacking) > 8 else ""
            raise UserError(f"{file.path} has no results for {' '.join(lacking[:8])}{more}: {_how(type(file))}")
    return languages


def out_dir(args: argparse.Namespace) -> Path:
    """Where figures and tables go: `--out-dir`, else beside the results of what is analysed."""
    if args.out_dir:
        return Path(args.out_dir)
    if args.cross_model:
        return Path(args.res_dir) / "cross_model"
    return selection.results_folder(args, selection.model(args).label)
