"""Result files: concept vectors (`reader_dict.pt`) and recognition accuracy (`acc.pt`), one folder a model and concept.

Both hold plain dicts, lists, strings, numbers and tensors, and are read with `torch.load(weights_only=True)`. Where a
language is only in a released download (`.pk`), it is read from there. A run adds what is missing and keeps the rest;
the file is locked while it changes, and replaced whole.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from repe.errors import DamagedFileError, UserError
from repe.files import is_plain_name, locked, plain_name
from repe.paper import FAMILIES, TRAIN_SHARE, Family, family_by_name
from repe.results import torch_archive as archives

FORMAT = 1

# What must be equal for results to stand in one file; other parts of meta (versions, sources) are for the record.
SETTINGS = (
    *("weights", "template", "special_tokens", "truncate", "dtype"),
    *("split", "split_by", "method", "random_direction", "seed"),
)
# Of files whose meta is silent on a setting.
DEFAULTS = {"split_by": "pair"}


def model_folder(model: str, split: float, split_by: str = "pair") -> str:
    """The name of a model's results folder: its label, with the split behind it where that is not the paper's.

    `<label>`, `<label>-0.4`, `<label>-item` or `<label>-0.4-item`.
    """
    model = plain_name(model, "the model")
    model = model if split == TRAIN_SHARE else f"{model}-{float(split)}"
    return model if split_by == "pair" else f"{model}-{split_by}"


def setting(meta: Mapping[str, Any], name: str) -> Any:
    """The value of one of SETTINGS in `meta`."""
    return meta.get(name, DEFAULTS.get(name))


# What results are made from, by language, as digests in meta: pairs (of targets) and, for accuracies, vectors (of
# sources).
INPUTS = ("data", "vectors")


@dataclass(frozen=True)
class Kind:
    """Which of the result files of a concept: by how directions were found and on which labels."""

    method: str = "cluster_mean"
    random_direction: bool = False

    def file_name(self, stem: str) -> str:
        """`reader_dict.pt` or `acc.pt` with what is not the paper's way named in front."""
        method = "" if self.method == "cluster_mean" else f"{self.method}_"
        return f"{method}{'random_direction_' if self.random_direction else ''}{stem}.pt"


class ResultFile:
    """A result file and the released download that stands in for what is missing in it."""

    stem = ""
    tables: ClassVar[Mapping[str, int]] = {}
    """Keys of the file whose values are dicts by language, which a run adds to: how many languages lead to an entry."""

    def __init__(self, res_dir: Path, folder: str, concept: str, kind: Kind) -> None:
        self.concept = plain_name(concept, "the concept")
        self.kind = kind
        self.path = res_dir / folder / concept / kind.file_name(self.stem)
        self.released_path = self.path.with_suffix(".pk")

    def __getstate__(self) -> dict[str, Any]:
        # Sent to another process it is a path; what it holds is read there.
        return {name: self.__dict__[name] for name in ("concept", "kind", "path", "released_path")}

    @cached_property
    def content(self) -> dict[str, Any]:
        """The checked content of the `.pt` file; empty tables where there is none.

        Raises:
            UserError: the file is damaged, would run code, or comes from a later version.
        """
        if not self.path.exists():
            return {"format": FORMAT, "meta": {}, "layers": [], **{table: {} for table in self.tables}}
        try:
            content = archives.read(self.path)
        except OSError as error:
            raise UserError(f"{self.path} cannot be read ({error.strerror or error})") from error
        # PyTorch raises many types on a damaged archive; weights_only has refused whatever would run code.
        except Exception as error:
            raise self.damaged("no archive of plain data and tensors") from error
        if isinstance(content, dict) and isinstance(content.get("format"), int) and content["format"] != FORMAT:
            raise UserError(
                f"{self.path} has format {content['format']!r}, not {FORMAT}: update this software to read it"
            )
        try:
            self._check(content)
        # Tensors that are sparse or have no data raise RuntimeErrors of several kinds.
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise self.damaged(f"{error or 'not the tables of this file'}") from error
        return content  # type: ignore[no-any-return]

    def damaged(self, what: str) -> DamagedFileError:
        """The error for a file that cannot be used."""
        return DamagedFileError(f"{self.path} is damaged", what, "delete it and run the stage again, or restore a copy")

    def _check(self, content: dict[str, Any]) -> None:
        """Raise an error that says what is wrong if `content` is not what this kind of file holds."""
        meta = content["meta"]
        expect(content["format"] == FORMAT and isinstance(meta.get("family", ""), str), "no format or meta")
        plain = (str, int, float, type(None))
        expect(all(isinstance(meta.get(name), plain) for name in SETTINGS), "settings in meta")
        for name in INPUTS:
            expect(are_names(meta.get(name, {}).keys()) and are_texts(meta.get(name, {}).values()), f"{name} in meta")
        layers = content["layers"]
        expect(isinstance(layers, list) and layers == list(range(1, len(layers) + 1)) and layers, "layers are not 1..N")
        for table, depth in self.tables.items():
            expect(isinstance(content[table], dict) and are_names(content[table]), f"no table {table}")
            expect(depth == 1 or all(are_names(row.keys()) for row in content[table].values()), f"names in {table}")

    def released_tables(self) -> tuple[int, dict[str, Any]]:
        """The number of layers and the tables that the download fills, as `add` takes them."""
        raise NotImplementedError

    @property
    def languages(self) -> list[str]:
        """Languages that have results of their own."""
        raise NotImplementedError

    def lacking(self, languages: list[str], same_language: bool) -> list[str]:
        """What an analysis of `languages` misses in the file: languages, or pairs of them as `source->target`."""
        return [language for language in languages if language not in self.languages]

    @property
    def meta(self) -> dict[str, Any]:
        """What made the `.pt` file; empty where there is none."""
        return self.content["meta"]  # type: ignore[no-any-return]

    def family(self) -> Family:
        """The family the file says its model is of; by the folder's name where it says nothing."""
        return FAMILIES.get(self.meta.get("family", ""), family_by_name(self.path.parent.parent.name))

    def check_settings(self, meta: Mapping[str, Any], remedy: str = "") -> None:
        """Refuse to mix results.

        Args:
            meta: what would make the new ones.
            remedy: what the user can do, where that is not to redo this file.

        Raises:
            UserError: the file was made with other settings than `meta`'s; names each with both values.
        """
        different = [name for name in SETTINGS if self.meta and setting(self.meta, name) != setting(meta, name)]
        if different:
            both = "; ".join(f"{name} {setting(self.meta, name)!r}, now {setting(meta, name)!r}" for name in different)
            raise UserError(
                f"{self.path} was made with other settings ({both}): "
                + (remedy or "give these, choose another --res-dir or --model-label, or replace it with --overwrite")
            )

    def changed(self, name: str, current: Mapping[str, str]) -> list[str]:
        """Languages that the file holds results of, from another input than is there now.

        Args:
            name: of INPUTS.
            current: digest by language now.
        """
        known = self.meta.get(name, {})
        return [language for language, digest in current.items() if known.get(language, digest) != digest]

    def check_inputs(self, name: str, current: Mapping[str, str]) -> None:
        """Refuse results of inputs that have changed.

        Args:
            name: of INPUTS.
            current: digest by language now.

        Raises:
            UserError: a language's digest is not the one in meta.
        """
        if stale := self.changed(name, current):
            raise UserError(
                f"{self.path} holds results for {' '.join(stale)} from other {name} than are there now: "
                "redo them with --overwrite, or choose another --res-dir"
            )

    def add(self, meta: dict[str, Any], layers: int, tables: dict[str, Any], overwrite: bool = False) -> None:
        """Put new rows into the file: read, merged and written under the file's lock, so that two runs lose nothing.

        Args:
            meta: what made the rows; dicts in it (by language) are merged, the rest replaces.
            layers: number of layers of the model.
            tables: new rows by table; rows of rows are merged too.
            overwrite: instead of refusing, start the file anew if it was made with other settings, and drop what was
                made from inputs that have changed.
        """
        with locked(self.path):
            self._forget()
            old = {} if overwrite and not self._mergeable(meta) else self.content
            if old and overwrite:
                old = self._without_stale(meta)
            elif not overwrite:
                self.check_settings(meta)
                for name in INPUTS:
                    self.check_inputs(name, meta.get(name, {}))
            content = {
                "format": FORMAT,
                "meta": _merged(old.get("meta", {}), meta, depth=2),
                "layers": list(range(1, layers + 1)),
                **{
                    name: _merged(old.get(name, {}), tables.get(name, {}), depth) for name, depth in self.tables.items()
                },
            }
            self._check(content)
            archives.write(self.path, content)
            self._forget()

    def _forget(self) -> None:
        """Read the file anew when it is asked for next."""
        self.__dict__ = self.__getstate__()

    def _without_stale(self, meta: Mapping[str, Any]) -> dict[str, Any]:
        """The content without what was made from other inputs than `meta`'s."""
        return self.content

    def check_overwrite(self, meta: Mapping[str, Any], languages: list[str]) -> None:
        """Refuse to lose results of languages that a run with other settings does not make again.

        Raises:
            UserError: the file has languages besides `languages`, made with other settings than `meta`'s.
        """
        others = [language for language in self.content[next(iter(self.tables))] if language not in languages]
        if others and not self._mergeable(meta):
            raise UserError(
                f"{self.path} was made with other settings, and --overwrite would lose {' '.join(others)}: name these "
                "in --lang as well, or choose another --res-dir or --model-label"
            )

    def _mergeable(self, meta: Mapping[str, Any]) -> bool:
        try:
            self.check_settings(meta)
        except UserError:
            return False
        return True


File = TypeVar("File", bound=ResultFile)


def are_texts(values: Any) -> bool:
    """Whether all are strings."""
    return all(isinstance(value, str) for value in values)


def are_names(values: Any) -> bool:
    """Whether all are names that may become part of a path."""
    return all(isinstance(value, str) and is_plain_name(value) for value in values)


def expect(right: Any, what: str) -> None:
    """Raise a ValueError that says `what` is wrong in a file, unless it is right."""
    if not right:
        raise ValueError(what)


def _merged(old: Mapping[str, Any], new: Mapping[str, Any], depth: int) -> dict[str, Any]:
    """`new` over `old`: dicts are merged `depth` levels deep, what lies below is replaced whole."""
    merged = dict(old)
    for name, value in new.items():
        nested = depth > 1 and isinstance(value, dict) and isinstance(merged.get(name), dict)
        merged[name] = _merged(merged[name], value, depth - 1) if nested else value
    return merged
