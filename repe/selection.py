"""What a run is about: which model, which concepts and languages, which models to compare."""

import argparse
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from repe import data, hub, registry
from repe.errors import UserError
from repe.files import plain_name
from repe.paper import CONCEPTS, LANGUAGES, SEVEN_BILLION, Family, family_by_name, in_paper_order
from repe.results import Kind, ResultFile, model_folder
from repe.templates import Template, check, resolve

if TYPE_CHECKING:
    import torch

    from repe.models import Model

File = TypeVar("File", bound=ResultFile)


def kind(args: argparse.Namespace) -> Kind:
    """Which result files the options ask for."""
    return Kind(args.direction_method, args.random_direction)


def concepts_and_languages(args: argparse.Namespace) -> dict[str, list[str]]:
    """The languages to work on by concept: those asked for, else all that the data folder has.

    Raises:
        UserError: there is no data, or none of a concept whose languages are not named.
    """
    concepts = list(dict.fromkeys(args.concept)) if args.concept else data.concepts_in(args.data_dir)
    if args.lang:
        return {concept: list(dict.fromkeys(args.lang)) for concept in concepts}
    found = {concept: data.languages_of(args.data_dir, concept) for concept in concepts}
    for concept, languages in found.items():
        if not languages:
            there = " ".join(data.concepts_in(args.data_dir))
            raise UserError(f"{args.data_dir} has no {concept}, but {there}: choose among these with --concept")
    return found


@dataclass(frozen=True)
class ChosenModel:
    """The model that the options name, before anything of it is read."""

    label: str
    family: str
    source: str
    template_text: str
    published_dtype: str | None
    args: argparse.Namespace

    @cached_property
    def folder(self) -> hub.ModelFolder:
        """Its files on this machine, downloaded if need be."""
        return hub.find(self.source, self.args.revision)

    @property
    def is_local(self) -> bool:
        """Whether its files can be had without a network."""
        return hub.local(self.source) is not None

    @cached_property
    def tokenizer(self) -> Any:
        """Its tokenizer."""
        from repe import models

        return models.load_tokenizer(self.folder, self.args.trust_remote_code)

    @cached_property
    def template(self) -> Template:
        """The template, with `auto` resolved."""
        return resolve(self.template_text, self.tokenizer)

    @cached_property
    def device(self) -> "torch.device":
        """Where it runs."""
        from repe import models

        return models.pick_device(self.args.device)

    @cached_property
    def dtype(self) -> "torch.dtype":
        """The number type it runs in."""
        from repe import models

        published = self.published_dtype or models.published_dtype(self.folder)
        return models.pick_dtype(self.args.dtype, self.device, published)

    def meta(self) -> dict[str, Any]:
        """What result files keep of a run: settings that must agree within a file, sources, versions."""
        from repe import models

        return {
            "model": self.label,
            "family": self.family,
            "source": self.folder.source,
            "revision": self.folder.revision,
            "weights": self.folder.fingerprint(),
            "template": self.template.text,
            "special_tokens": self.template.special_tokens,
            "dtype": str(self.dtype).removeprefix("torch."),
            "split": self.args.split,
            "method": self.args.direction_method,
            "random_direction": self.args.random_direction,
            "seed": self.args.seed if self.args.direction_method == "random" else None,
            "versions": models.versions(),
        }

    def load(self) -> "Model":
        """Read the weights."""
        from repe import models

        return models.load(
            self.folder,
            self.label,
            tokenizer=self.tokenizer,
            template=self.template,
            device=self.device,
            dtype=self.dtype,
            trust_remote_code=self.args.trust_remote_code,
        )


def model(args: argparse.Namespace) -> ChosenModel:
    """The model that the options name: a row of the registry, or any model by its path alone.

    Raises:
        UserError: no such row, or a template without a place for the text.
    """
    if args.model_path and not (args.model_name or args.model_size):
        label = args.model_label or Path(args.model_path).resolve().name
        family, template, dtype = family_by_name(label).name, registry.AUTO, None
    else:
        row = registry.entry(args.model_name, args.model_size)
        label, family, template, dtype = args.model_label or row.label, row.family, row.template, row.dtype
    return ChosenModel(
        label=plain_name(label, "--model-label"),
        family=args.model_family or family,
        source=args.model_path or row.hub_id,
        template_text=check(args.template or template),
        published_dtype=dtype,
        args=args,
    )


def result_files(
    args: argparse.Namespace, chosen: ChosenModel, concepts: Iterable[str], file_type: type[File]
) -> dict[str, File]:
    """The chosen model's result files by concept, whether they are there yet or not."""
    folder = model_folder(chosen.label, args.split)
    return {concept: file_type(args.res_dir, folder, concept, kind(args)) for concept in concepts}


@dataclass(frozen=True)
class Compared(Generic[File]):
    """The result files of the models to compare."""

    files: Mapping[str, Mapping[str, File]]
    """By results folder and concept, in the order given."""
    languages: list[str]

    @property
    def families(self) -> dict[str, Family]:
        """The family of each model."""
        return {model: next(iter(by_concept.values())).family() for model, by_concept in self.files.items()}

    @property
    def panels(self) -> dict[str, dict[str, Family]]:
        """Models of the heat maps: `7b` for the paper's three of about seven billion parameters if there, and `all`."""
        families = self.families
        seven = {"7b": {model: families[model] for model in SEVEN_BILLION}} if {*SEVEN_BILLION} <= {*families} else {}
        return seven | {"all": families}

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


def models_to_compare(args: argparse.Namespace, file_type: type[File], same_language: bool = False) -> Compared[File]:
    """Open the result files of `--cross-model`, or of the one model that the options name.

    Args:
        file_type: of vectors or of accuracies.
        same_language: the analysis needs each language with itself alone, not every pair of them.

    Raises:
        UserError: a model, concept or language has no results; says which stage makes them.
    """
    names = args.cross_model or [model(args).label]
    folders = [model_folder(name, args.split) for name in names]
    for folder in folders:
        if not (args.res_dir / folder).is_dir():
            there = " ".join(sorted(path.name for path in args.res_dir.glob("*") if any(path.glob("*/*.p[tk]"))))
            raise UserError(f"no results in {args.res_dir / folder} (there are: {there or 'none'}): {_how(file_type)}")
    concepts = list(dict.fromkeys(args.concept)) if args.concept else _common_concepts(args, folders, file_type)
    files = {
        folder: {concept: file_type(args.res_dir, folder, concept, kind(args)) for concept in concepts}
        for folder in folders
    }
    all_files = [file for by_concept in files.values() for file in by_concept.values()]
    return Compared(files, _common_languages(args.lang, all_files, same_language))


def _how(file_type: type[ResultFile]) -> str:
    return "run collect_vector.py first" + (", then recognize_concept.py" if file_type.stem == "acc" else "")


def _common_concepts(args: argparse.Namespace, folders: list[str], file_type: type[ResultFile]) -> list[str]:
    name = kind(args).file_name(file_type.stem)
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
    return Path(args.res_dir) / ("cross_model" if args.cross_model else model_folder(model(args).label, args.split))
