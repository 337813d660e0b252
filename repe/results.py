"""Result files: concept vectors (`reader_dict.pt`) and recognition accuracy (`acc.pt`), one folder a model and concept.

Both hold plain dicts, lists, strings, numbers and tensors, and are read with `torch.load(weights_only=True)`. Where a
language is only in a released download (`.pk`), it is read from there. A run adds what is missing and keeps the rest;
the file is locked while it changes, and replaced whole.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch

from repe import archives, released
from repe.archives import holds
from repe.errors import DamagedFileError, UserError
from repe.files import is_plain_name, locked, plain_name, sha256
from repe.paper import FAMILIES, LANGUAGES, TRAIN_SHARE, Family, family_by_name, in_paper_order

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

# Of accuracies, what downloads lack.
TABLES = {"validation": "validation accuracy", "correct": "record of which pairs were right"}


@dataclass(frozen=True)
class Kind:
    """Which of the result files of a concept: by how directions were found and on which labels."""

    method: str = "cluster_mean"
    random_direction: bool = False

    def file_name(self, stem: str) -> str:
        """`reader_dict.pt` or `acc.pt` with what is not the paper's way named in front."""
        method = "" if self.method == "cluster_mean" else f"{self.method}_"
        return f"{method}{'random_direction_' if self.random_direction else ''}{stem}.pt"


@dataclass(frozen=True)
class Vectors:
    """Concept vectors of one concept in one language."""

    directions: np.ndarray
    """float32 (layers, components, hidden)."""
    signs: np.ndarray
    """int8 (layers, components): +1, or -1 where the positive side has the smaller projection more often."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """What else the file keeps of the language: pairs trained on, mean norms, vectors fitted for validation."""

    @cached_property
    def digest(self) -> str:
        """SHA-256 of directions and signs: tells whether accuracies belong to these vectors."""
        return sha256(np.ascontiguousarray(self.directions).tobytes() + np.ascontiguousarray(self.signs).tobytes())


def check_fit(vectors: Mapping[str, Vectors], layers: int, hidden: int) -> None:
    """Refuse vectors of another model.

    Raises:
        UserError: some (named by their language) have another number of layers or another width than the model.
    """
    for language, one in vectors.items():
        found, _, width = one.directions.shape
        if (found, width) != (layers, hidden):
            raise UserError(
                f"the vectors of {language} are of another model ({found} layers of {width}) than the one named "
                f"({layers} layers of {hidden}): collect them again, or name the right model"
            )


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
        _expect(content["format"] == FORMAT and isinstance(meta.get("family", ""), str), "no format or meta")
        plain = (str, int, float, type(None))
        _expect(all(isinstance(meta.get(name), plain) for name in SETTINGS), "settings in meta")
        for name in INPUTS:
            _expect(_names(meta.get(name, {}).keys()) and _texts(meta.get(name, {}).values()), f"{name} in meta")
        layers = content["layers"]
        _expect(
            isinstance(layers, list) and layers == list(range(1, len(layers) + 1)) and layers, "layers are not 1..N"
        )
        for table, depth in self.tables.items():
            _expect(isinstance(content[table], dict) and _names(content[table]), f"no table {table}")
            _expect(depth == 1 or all(_names(row.keys()) for row in content[table].values()), f"names in {table}")

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
        for name in ("content", "vectors", "accuracy"):
            self.__dict__.pop(name, None)

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


class VectorFile(ResultFile):
    """`reader_dict.pt`: `languages` {language: directions, signs, train_pairs, ...}."""

    stem = "reader_dict"
    tables: ClassVar = {"languages": 1}

    def _check(self, content: dict[str, Any]) -> None:
        super()._check(content)
        count = len(content["layers"])
        for language, entry in content["languages"].items():
            shape = entry["directions"].shape
            for part in ("", "validation_") if any(name.startswith("validation_") for name in entry) else ("",):
                directions, signs = entry[f"{part}directions"], entry[f"{part}signs"]
                _expect(holds(directions, torch.float32, shape) and len(shape) == 3, f"{part}directions of {language}")
                _expect(holds(signs, torch.int8, shape[:2]), f"{part}signs of {language}")
                _expect(shape[0] == count, f"{part}directions of {language}: not {count} layers")
                _expect(bool(torch.isfinite(directions).all()), f"{part}directions of {language} are not finite")
                _expect(bool(directions.any(dim=-1).all()), f"{part}directions of {language}: one is zero")
                _expect(bool((signs.abs() == 1).all()), f"{part}signs of {language} are not 1 or -1")
            pairs, norm = entry.get("train_pairs", 1), entry.get("mean_norm", torch.zeros(count))
            _expect(type(pairs) is int and pairs > 0, f"train_pairs of {language}")
            _expect(holds(norm, torch.float32, (count,)), f"mean_norm of {language}")
            _expect(bool((torch.isfinite(norm) & (norm >= 0)).all()), f"mean_norm of {language} is no length")

    def released_tables(self) -> tuple[int, dict[str, Any]]:
        """The download's vectors."""
        found = released.read_vectors(self.released_path)
        rows = {
            language: {name: torch.from_numpy(entry[name]) for name in ("directions", "signs")}
            for language, entry in found.items()
        }
        return max((len(entry["layers"]) for entry in found.values()), default=0), {"languages": rows}

    @property
    def languages(self) -> list[str]:
        """Languages that have vectors."""
        return list(self.vectors)

    @cached_property
    def vectors(self) -> dict[str, Vectors]:
        """Vectors by language, the paper's languages first; a language's `.pt` row goes before its `.pk` row."""
        found = {}
        if self.released_path.exists():
            for language, entry in released.read_vectors(self.released_path).items():
                found[language] = Vectors(entry["directions"], entry["signs"])
        for language, entry in self.content["languages"].items():
            rest = {name: value for name, value in entry.items() if name not in ("directions", "signs")}
            found[language] = Vectors(entry["directions"].numpy(), entry["signs"].numpy(), rest)
        if len({vectors.directions.shape for vectors in found.values()}) > 1:
            raise self.damaged(f"it and {self.released_path.name} hold vectors of different models")
        return {language: found[language] for language in in_paper_order(found, LANGUAGES)}


class AccuracyFile(ResultFile):
    """`acc.pt`: accuracy, correctness and validation accuracy by source and target, test pairs and keys by target."""

    stem = "acc"
    tables: ClassVar = {"accuracy": 2, "test_pairs": 1, "test_keys": 1, "correct": 2, "validation": 2}

    def _check(self, content: dict[str, Any]) -> None:
        super()._check(content)
        count = len(content["layers"])
        for name, source, target, row in _cells(content, ("accuracy", "validation")):
            _expect(holds(row, torch.float64, (count,)), f"{name} of {source} on {target}")
            _expect(bool(((row >= 0) & (row <= 1)).all()), f"{name} of {source} on {target} is not in 0..1")
        for name, source, target, row in _cells(content, ("correct",)):
            pairs = content["test_pairs"][target]
            _expect(holds(row, torch.uint8, (count, pairs)), f"{name} of {source} on {target}")
            _expect(bool((row <= 1).all()), f"{name} of {source} on {target} is not 0 or 1")
        for target, keys in content["test_keys"].items():
            _expect(isinstance(keys, list) and _texts(keys), f"test_keys of {target}")
        for target, pairs in content["test_pairs"].items():
            _expect(type(pairs) is int and len(content["test_keys"][target]) == pairs, f"test_keys of {target}")

    def _without_stale(self, meta: Mapping[str, Any]) -> dict[str, Any]:
        targets, sources = (self.changed(name, meta.get(name, {})) for name in INPUTS)
        content = self.content
        kept = dict(content)
        for table, depth in self.tables.items():
            rows = content[table] if depth == 1 else {s: row for s, row in content[table].items() if s not in sources}
            kept[table] = {
                name: {target: cell for target, cell in row.items() if target not in targets} if depth == 2 else row
                for name, row in rows.items()
                if depth == 2 or name not in targets
            }
        return kept

    def cell(self, table: str, source: str, target: str) -> np.ndarray:
        """What a table says of a source's vectors on a target's pairs.

        Args:
            table: `validation`, float64 (layers,), or `correct`, uint8 (layers, pairs in the order of test_keys).

        Raises:
            UserError: the file does not say, as downloads and files without validation do not.
        """
        row = self.content[table].get(source, {}).get(target)
        if row is None:
            made_here = target in self.content["accuracy"].get(source, {})
            remedy = (
                "run collect_vector.py, then recognize_concept.py, with --overwrite and without --no-validation"
                if made_here
                else "it has accuracies alone; run both stages, with another --res-dir, to have more"
            )
            path = self.path if made_here or not self.released_path.exists() else self.released_path
            raise UserError(f"{path} has no {TABLES[table]} of {source} on {target}: {remedy}")
        return row.numpy()  # type: ignore[no-any-return]

    def released_tables(self) -> tuple[int, dict[str, Any]]:
        """The download's accuracies."""
        rows = {
            source: {
                target: torch.tensor([row[layer] for layer in sorted(row)], dtype=torch.float64)
                for target, row in targets.items()
            }
            for source, targets in released.read_accuracy(self.released_path).items()
        }
        return max((len(row) for targets in rows.values() for row in targets.values()), default=0), {"accuracy": rows}

    @property
    def languages(self) -> list[str]:
        """Languages whose own vectors were tried on them."""
        return [language for language in self.accuracy if language in self.accuracy[language]]

    def untried(self, target: str, sources: list[str]) -> list[str]:
        """Those of `sources` whose vectors were not tried on `target` yet."""
        return [source for source in sources if target not in self.accuracy.get(source, {})]

    def lacking(self, languages: list[str], same_language: bool) -> list[str]:
        """Pairs that are missing: of each language with itself, or of each with each."""
        if same_language:
            return super().lacking(languages, same_language)
        pairs = [(source, target) for source in languages for target in languages]
        return [f"{source}->{target}" for source, target in pairs if target not in self.accuracy.get(source, {})]

    @cached_property
    def accuracy(self) -> dict[str, dict[str, np.ndarray]]:
        """float64 (layers,) by source and target language; a `.pt` cell goes before its `.pk` cell."""
        found: dict[str, dict[str, np.ndarray]] = {}
        if self.released_path.exists():
            _, tables = self.released_tables()
            found = {
                source: {target: row.numpy() for target, row in targets.items()}
                for source, targets in tables["accuracy"].items()
            }
        for source, targets in self.content["accuracy"].items():
            found.setdefault(source, {}).update({target: row.numpy() for target, row in targets.items()})
        if len({row.shape for targets in found.values() for row in targets.values()}) > 1:
            raise self.damaged(f"it and {self.released_path.name} hold accuracies of different models")
        return found


File = TypeVar("File", bound=ResultFile)


def _texts(values: Any) -> bool:
    return all(isinstance(value, str) for value in values)


def _names(values: Any) -> bool:
    """Whether all are names that may become part of a path."""
    return all(isinstance(value, str) and is_plain_name(value) for value in values)


def _expect(right: Any, what: str) -> None:
    if not right:
        raise ValueError(what)


def _cells(content: dict[str, Any], tables: tuple[str, ...]) -> Iterator[tuple[str, str, str, torch.Tensor]]:
    for table in tables:
        for source, targets in content[table].items():
            for target, row in targets.items():
                yield table, source, target, row


def _merged(old: Mapping[str, Any], new: Mapping[str, Any], depth: int) -> dict[str, Any]:
    """`new` over `old`: dicts are merged `depth` levels deep, what lies below is replaced whole."""
    merged = dict(old)
    for name, value in new.items():
        nested = depth > 1 and isinstance(value, dict) and isinstance(merged.get(name), dict)
        merged[name] = _merged(merged[name], value, depth - 1) if nested else value
    return merged
