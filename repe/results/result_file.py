"""Result files: concept vectors (`reader_dict.pt`) and recognition accuracy (`acc.pt`) of one model and concept.

Both hold plain dicts, lists, strings, numbers and tensors, readable with `torch.load(weights_only=True)`. A language
that is only in a released download (`.pk`) is read from there. A run adds what is missing and keeps the rest; the file
is locked while it changes and replaced as a whole.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from repe.errors import UserError
from repe.files import are_names, entries, exists, locked, plain_name
from repe.paper import FAMILIES, Family, family_by_name, split_suffix
from repe.results import torch_archive
from repe.results.meta import INPUTS, SETTINGS, check_meta, damaged, expect, read_archive, setting

FORMAT = 1


@dataclass(frozen=True)
class Kind:
    """Kind of result file: how directions were found, and on true or shuffled labels."""

    method: str = "cluster_mean"
    random_direction: bool = False

    def file_name(self, stem: str) -> str:
        """`reader_dict.pt` or `acc.pt`, with a prefix for anything but the paper's method."""
        method = "" if self.method == "cluster_mean" else f"{self.method}_"
        return f"{method}{'random_direction_' if self.random_direction else ''}{stem}.pt"


class ResultFile:
    """A result file, and the released download that fills in what the file lacks."""

    stem = ""
    tables: ClassVar[Mapping[str, int]] = {}
    """Keys whose values are dicts by language that runs add to, and the number of languages that lead to an entry."""
    optional: ClassVar[tuple[str, ...]] = ()
    """Those of the tables that a file may lack; an empty one is not written."""

    def __init__(self, res_dir: Path, folder: str, concept: str, kind: Kind) -> None:
        self.concept = plain_name(concept, "concept")
        self.kind = kind
        self.path = res_dir / folder / concept / kind.file_name(self.stem)
        self.released_path = self.path.with_suffix(".pk")

    def __getstate__(self) -> dict[str, Any]:
        # Another process receives the path and reads the content itself.
        return {name: self.__dict__[name] for name in ("concept", "kind", "path", "released_path")}

    @cached_property
    def content(self) -> dict[str, Any]:
        """The checked content of the `.pt` file; empty tables if it does not exist.

        Raises:
            UserError: the file is damaged, would run code, or was written by a later version.
        """
        self.__dict__["_version"] = self._on_disk()
        if not self.has_file:
            return {"format": FORMAT, "meta": {}, "layers": [], **{table: {} for table in self.tables}}
        content = read_archive(self.path)
        if isinstance(content, dict) and isinstance(content.get("format"), int) and content["format"] != FORMAT:
            raise UserError(f"{self.path} has format {content['format']!r}, not {FORMAT}: update this software")
        try:
            self._check(content)
        # Tensors that are sparse or have no data raise RuntimeErrors of several kinds.
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise self.damaged(f"{error or 'its tables are missing'}") from error
        return {**{table: {} for table in self.optional}, **content}

    @property
    def has_file(self) -> bool:
        """Whether the `.pt` file exists."""
        return exists(self.path)

    @property
    def has_download(self) -> bool:
        """Whether the `.pk` file exists."""
        return exists(self.released_path)

    def damaged(self, reason: str) -> UserError:
        """The error for a file that cannot be used."""
        return damaged(self.path, reason)

    def _check(self, content: dict[str, Any]) -> None:
        """Raise an error that names the fault if `content` does not have the form of this kind of file."""
        meta = content["meta"]
        expect(content["format"] == FORMAT and isinstance(meta.get("family", ""), str), "format or meta")
        check_meta(meta)
        layers = content["layers"]
        expect(isinstance(layers, list) and layers == list(range(1, len(layers) + 1)) and layers, "layers are not 1..N")
        for table, depth in self.tables.items():
            if table in self.optional and table not in content:
                continue
            expect(isinstance(content[table], dict) and are_names(content[table]), f"no table {table}")
            expect(depth == 1 or all(are_names(row.keys()) for row in content[table].values()), f"names in {table}")

    def released_tables(self) -> tuple[int, dict[str, Any]]:
        """Number of layers and tables of the download, in the form that `add` takes."""
        raise NotImplementedError

    @property
    def languages(self) -> list[str]:
        """Languages that have results of their own."""
        raise NotImplementedError

    def missing(self, languages: Sequence[str]) -> list[str]:
        """Those of `languages` that a run of the stage still has to process."""
        return self._missing(languages) if self.has_file or self.has_download else [*languages]

    def _missing(self, languages: Sequence[str]) -> list[str]:
        raise NotImplementedError

    def lacking(self, languages: list[str], same_language: bool) -> list[str]:
        """Results that an analysis of `languages` needs and the file lacks: languages, or pairs `source->target`."""
        return [language for language in languages if language not in self.languages]

    @property
    def meta(self) -> dict[str, Any]:
        """What made the `.pt` file; empty if it does not exist."""
        return self.content["meta"]  # type: ignore[no-any-return]

    def check_place(self) -> None:
        """Refuse a file that was made as another one than its place says: its folder, its name and those beside it.

        What a file does not record, such as a download, is not checked.

        Raises:
            UserError: they differ, or the file is damaged.
        """
        meta, folder = self.meta, self.path.parents[1].name
        known = {"concept": self.concept, "method": self.kind.method, "random_direction": self.kind.random_direction}
        if "model" in meta and "split" in meta:
            suffix = split_suffix(*(setting(meta, name) for name in ("split", "split_by", "folds", "tested_on")))
            meta = meta | {"folder": f"{meta['model']}{suffix}"}
            known["folder"] = folder
        for name, expected in known.items():
            if meta.get(name, expected) != expected:
                raise self.damaged(f"its {name} is {meta[name]!r}, but its place says {expected!r}")

    @property
    def depth(self) -> int:
        """Number of layers; 0 if there are no results."""
        raise NotImplementedError

    def family(self) -> Family:
        """The model's family according to the file, else according to the folder's name."""
        return FAMILIES.get(self.meta.get("family", ""), family_by_name(self.path.parent.parent.name))

    def check_settings(self, meta: Mapping[str, Any], remedy: str = "") -> None:
        """Refuse to mix results of different settings.

        Args:
            meta: what would make the new ones.
            remedy: what the user can do, if not to redo this file.

        Raises:
            UserError: the file was made with other settings than `meta`'s; names each with both values.
        """
        old = self.meta
        if different := [name for name in SETTINGS if old and setting(old, name) != setting(meta, name)]:
            both = "; ".join(_difference(name, setting(old, name), setting(meta, name)) for name in different)
            remedy = remedy or "use the old settings, choose another --res-dir or --model-label, or give --overwrite"
            raise UserError(f"{self.path} was made with other settings ({both}): {remedy}")

    def changed(self, name: str, current: Mapping[str, str]) -> list[str]:
        """Languages whose results were made from another input than the current one.

        Args:
            name: one of INPUTS.
            current: digest by language.
        """
        known = self.meta.get(name, {})
        return [language for language, digest in current.items() if known.get(language, digest) != digest]

    def check_inputs(self, name: str, current: Mapping[str, str]) -> None:
        """Refuse results whose inputs have changed.

        Args:
            name: one of INPUTS.
            current: digest by language.

        Raises:
            UserError: the digest of a language differs from the one in meta.
        """
        if stale := self.changed(name, current):
            raise UserError(
                f"{self.path} holds results for {' '.join(stale)} from other {name} than the current ones: "
                "redo them with --overwrite or choose another --res-dir"
            )

    def add(self, meta: dict[str, Any], layers: int, tables: dict[str, Any], overwrite: bool = False) -> None:
        """Add rows to the file: read, merged and written under the file's lock, so that concurrent runs lose nothing.

        Args:
            meta: what made the rows; dicts in it (by language) are merged, the rest is replaced.
            layers: number of layers of the model.
            tables: new rows by table; rows of rows are merged too.
            overwrite: instead of refusing, start a new file if the old one was made with other settings, and drop what
                was made from inputs that have changed.
        """
        with locked(self.path):
            self.refresh()
            old = {} if overwrite and not self._mergeable(meta) else self.content
            if old and overwrite:
                old = self._without_stale(meta)
            elif not overwrite:
                self.check_settings(meta)
                for name in INPUTS:
                    self.check_inputs(name, meta.get(name, {}))
            merged = {
                name: _merged(old.get(name, {}), tables.get(name, {}), depth) for name, depth in self.tables.items()
            }
            merged = {name: table for name, table in merged.items() if table or name not in self.optional}
            numbers = list(range(1, layers + 1))
            made_by = _merged(old.get("meta", {}), {**meta, "concept": self.concept} if meta else meta, 2)
            content = {"format": FORMAT, "meta": made_by, "layers": numbers, **merged}
            self._check(content)
            torch_archive.write(self.path, content)
            # What was just written need not be read: a run adds to the file once for each language.
            written = {"content": {**{table: {} for table in self.optional}, **content}, "_version": self._on_disk()}
            self.__dict__ = self.__getstate__() | written

    def refresh(self) -> None:
        """Read the file again when it is needed next, if another run has changed it."""
        if self.__dict__.get("_version") != self._on_disk():
            self.__dict__ = self.__getstate__()

    def _on_disk(self) -> tuple[int, ...] | None:
        """What changes when the file is replaced; None if it does not exist."""
        with suppress(OSError):
            found = self.path.stat()
            return found.st_ino, found.st_size, found.st_mtime_ns
        return None

    def _without_stale(self, meta: Mapping[str, Any]) -> dict[str, Any]:
        """The content without results of other inputs than `meta`'s."""
        return self.content

    def check_overwrite(self, meta: Mapping[str, Any], languages: list[str]) -> None:
        """Refuse to lose results of languages that a run with other settings does not make again.

        Raises:
            UserError: the file has languages besides `languages`, made with other settings than `meta`'s.
        """
        others = [language for language in self.content[next(iter(self.tables))] if language not in languages]
        if others and not self._mergeable(meta):
            raise UserError(
                f"{self.path} was made with other settings; --overwrite would delete the results of "
                f"{' '.join(others)}: add these to --lang, or choose another --res-dir or --model-label"
            )

    def _mergeable(self, meta: Mapping[str, Any]) -> bool:
        try:
            self.check_settings(meta)
        except UserError:
            return False
        return True


File = TypeVar("File", bound=ResultFile)


def check_files(files: Sequence[ResultFile]) -> None:
    """Check the places of a model's files, and refuse files of different models among them.

    Raises:
        UserError: a file is at the wrong place or damaged, or two differ in depth, weights or family.
    """
    files = [file for file in files if file.depth]
    for first, file in ((files[0], file) for file in files):
        file.check_place()
        if file.depth != first.depth:
            raise file.damaged(f"it has {file.depth} layers, but {first.path} has {first.depth}")
        for name in ("weights", "family"):
            both = [one.meta[name] for one in (file, first) if name in one.meta]
            if len(set(both)) > 1:
                raise file.damaged(f"its {name} is {both[0]!r:.40}, but {both[1]!r:.40} in {first.path}")


def check_results_folder(folder: Path, remedy: str) -> None:
    """Refuse a model's results folder that does not exist.

    Raises:
        UserError: it does not; names the folders that have results.
    """
    if not exists(folder):
        found = " ".join(dict.fromkeys(path.parts[-3] for path in entries(folder.parent, "*/*/*.p[tk]")))
        raise UserError(f"no results in {folder} (found: {found or 'none'}): {remedy}")


def _difference(name: str, old: Any, new: Any) -> str:
    """What differs in a setting, in words."""
    if name == "weights":  # digests, which say nothing to a reader
        return "weights are those of another model or revision"
    return f"{name} was {old!r}, now {new!r}"


def _merged(old: Mapping[str, Any], new: Mapping[str, Any], depth: int) -> dict[str, Any]:
    """`new` over `old`: dicts are merged `depth` levels deep, everything below is replaced."""
    merged = dict(old)
    for name, value in new.items():
        nested = depth > 1 and isinstance(value, dict) and isinstance(merged.get(name), dict)
        merged[name] = _merged(merged[name], value, depth - 1) if nested else value
    return merged
