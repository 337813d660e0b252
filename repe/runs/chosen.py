"""What a stage is run on: which model, which concepts and languages, which result files."""

import argparse
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repe import data
from repe.errors import UserError
from repe.files import plain_name
from repe.models import hub, registry
from repe.models.templates import Template, check, resolve
from repe.paper import family_by_name
from repe.results.result_file import File, Kind, model_folder

if TYPE_CHECKING:
    import torch

    from repe.models.loading import Model


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
        return hub.find(self.source, self.args.revision, self.args.trust_remote_code)

    @property
    def is_local(self) -> bool:
        """Whether its files can be had without a network."""
        return hub.local(self.source) is not None

    @cached_property
    def tokenizer(self) -> Any:
        """Its tokenizer."""
        from repe.models import loading as models

        return models.load_tokenizer(self.folder, self.args.trust_remote_code)

    @cached_property
    def template(self) -> Template:
        """The template, with `auto` resolved."""
        return resolve(self.template_text, self.tokenizer)

    @cached_property
    def device(self) -> "torch.device":
        """Where it runs."""
        from repe.models import loading as models

        return models.pick_device(self.args.device)

    @cached_property
    def dtype(self) -> "torch.dtype":
        """The number type it runs in."""
        from repe.models import loading as models

        published = self.published_dtype or models.published_dtype(self.folder)
        return models.pick_dtype(self.args.dtype, self.device, published)

    def meta(self) -> dict[str, Any]:
        """What result files keep of a run: settings that must agree within a file, sources, versions."""
        from repe.models import loading as models

        return {
            "model": self.label,
            "family": self.family,
            "source": self.folder.source,
            "revision": self.folder.revision,
            "weights": self.folder.fingerprint(),
            "template": self.template.text,
            "special_tokens": self.template.special_tokens,
            "truncate": self.args.truncate,
            "dtype": str(self.dtype).removeprefix("torch."),
            "split": self.args.split,
            "method": self.args.direction_method,
            "random_direction": self.args.random_direction,
            "seed": self.args.seed if self.args.direction_method == "random" else None,
            "versions": models.versions(),
            # The paper's split needs no word, so that its files are those that they always were.
            **({} if self.args.split_by == "pair" else {"split_by": self.args.split_by}),
        }

    def load(self, with_head: bool = False) -> "Model":
        """Read the weights, with the vocabulary head if asked for, and check that the states are right."""
        from repe.models import loading as models
        from repe.models import verification

        model = models.load(
            self.folder,
            self.label,
            tokenizer=self.tokenizer,
            template=self.template,
            device=self.device,
            dtype=self.dtype,
            truncate=self.args.truncate,
            trust_remote_code=self.args.trust_remote_code,
            with_head=with_head,
        )
        verification.check_blocks(model)
        if with_head:
            verification.check_causal(model)
        return model


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


def results_folder(args: argparse.Namespace, label: str) -> Path:
    """Where the results of the model `label` are that the options ask for."""
    return Path(args.res_dir) / model_folder(label, args.split, args.split_by)


def result_files(
    args: argparse.Namespace, chosen: ChosenModel, concepts: Iterable[str], file_type: type[File]
) -> dict[str, File]:
    """The chosen model's result files by concept, whether they are there yet or not."""
    folder = results_folder(args, chosen.label).name
    return {concept: file_type(args.res_dir, folder, concept, kind(args)) for concept in concepts}
