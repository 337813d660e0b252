"""Recognition accuracy of each language's vectors on each language's pairs (Sections 3.2, 3.4): `acc.pt`."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch

from repe.data import Pair
from repe.errors import UserError
from repe.files import exists
from repe.results import downloads
from repe.results.meta import INPUTS, are_texts, expect, read_meta
from repe.results.result_file import ResultFile
from repe.results.torch_archive import holds

# Tables that downloads do not have.
TABLES = {"validation": "validation accuracy", "correct": "record of which pairs were right"}
# Of the nulls, each (layers + 1,): layers 1..N, and last the best layer (see `repe.uncertainty.swaps`).
NULL_PARTS = ("mean", "low", "high", "p", "p_margin", "training_sd", "training_accuracy")
# Of detection, each (layers,), see `repe.uncertainty.detection`.
DETECTION_PARTS = ("auroc", "source_threshold", "own_threshold")
# Optional tables whose cells have named parts: the parts, and by how many their entries exceed the layers.
PARTS = {"nulls": (NULL_PARTS, 1), "detection": (DETECTION_PARTS, 0)}


class AccuracyFile(ResultFile):
    """`acc.pt`: accuracy, correct pairs and validation accuracy by source and target; test pairs and keys by target."""

    stem = "acc"
    tables: ClassVar = {
        "accuracy": 2,
        "test_pairs": 1,
        "test_keys": 1,
        "correct": 2,
        "validation": 2,
        "test_items": 1,
        "nulls": 2,
        "detection": 2,
    }
    optional: ClassVar = ("test_items", "nulls", "detection")

    def _check(self, content: dict[str, Any]) -> None:
        super()._check(content)
        count = len(content["layers"])
        for name, source, target, row in _cells(content, ("accuracy", "validation")):
            expect(holds(row, torch.float64, (count,)), f"{name} of {source} on {target}")
            expect(bool(((row >= 0) & (row <= 1)).all()), f"{name} of {source} on {target} is not in 0..1")
        for name, source, target, row in _cells(content, ("correct",)):
            pairs = content["test_pairs"][target]
            expect(holds(row, torch.uint8, (count, pairs)), f"{name} of {source} on {target}")
            expect(bool((row <= 1).all()), f"{name} of {source} on {target} is not 0 or 1")
            claimed = content["accuracy"][source][target]
            expect(torch.allclose(claimed, row.double().mean(dim=-1)), f"accuracy of {source} on {target} is another")
        for name, source, target, cell in _cells(content, tuple(PARTS)):
            parts, more = PARTS[name]
            is_whole = all(holds(cell[part], torch.float64, (count + more,)) for part in parts)
            expect(is_whole, f"{name} of {source} on {target}")
        for target, items in content.get("test_items", {}).items():
            expect(isinstance(items, list) and are_texts(items), f"test_items of {target}")
            expect(len(items) == content["test_pairs"][target], f"test_items of {target}")
        for target, keys in content["test_keys"].items():
            expect(isinstance(keys, list) and are_texts(keys), f"test_keys of {target}")
            expect(len(set(keys)) == len(keys), f"test_keys of {target} are not unique")
        for target, pairs in content["test_pairs"].items():
            expect(type(pairs) is int and len(content["test_keys"][target]) == pairs, f"test_keys of {target}")

    def _without_stale(self, meta: Mapping[str, Any]) -> dict[str, Any]:
        targets, sources = (self.changed(name, meta.get(name, {})) for name in INPUTS)
        kept = dict(self.content)
        for table, depth in self.tables.items():
            rows = kept[table] if depth == 2 else {"": kept[table]}
            fresh = {
                source: {target: cell for target, cell in row.items() if target not in targets}
                for source, row in rows.items()
                if source not in sources
            }
            kept[table] = fresh if depth == 2 else fresh[""]
        return kept

    def check_place(self) -> None:
        """Also refuse accuracies of another number of layers than the vectors beside them have."""
        super().check_place()
        beside = self.path.with_name(self.kind.file_name("reader_dict"))
        layers = self.depth
        if self.has_file and exists(beside):
            with suppress(UserError):  # damaged vectors are not needed here
                layers = read_meta(beside)["layers"]
        if layers != self.depth:
            raise self.damaged(f"it has {self.depth} layers, but {beside.name} beside it has {layers}")

    def cell(self, table: str, source: str, target: str) -> np.ndarray:
        """The entry of a source's vectors on a target's pairs.

        Args:
            table: `validation`, float64 (layers,), or `correct`, uint8 (layers, pairs in the order of test_keys).

        Raises:
            UserError: the file has no such entry; downloads and files without validation have none.
        """
        row = self.content[table].get(source, {}).get(target)
        if row is None:
            if table == "validation" and self.meta.get("folds"):
                raise UserError(f"{self.path} has no {TABLES[table]} (--folds): choose a layer number or depth instead")
            made_here = target in self.content["accuracy"].get(source, {})
            remedy = (
                "run collect_vector.py, then recognize_concept.py, with --overwrite and without --no-validation"
                if made_here
                else "it has accuracies only; run both stages with another --res-dir to get more"
            )
            path = self.path if made_here or not self.has_download else self.released_path
            raise UserError(f"{path} has no {TABLES[table]} of {source} on {target}: {remedy}")
        return row.numpy()  # type: ignore[no-any-return]

    def released_tables(self) -> tuple[int, dict[str, Any]]:
        """The download's accuracies."""
        rows = {
            source: {
                target: torch.tensor([row[layer] for layer in sorted(row)], dtype=torch.float64)
                for target, row in targets.items()
            }
            for source, targets in downloads.read_accuracy(self.released_path).items()
        }
        return max((len(row) for targets in rows.values() for row in targets.values()), default=0), {"accuracy": rows}

    @property
    def depth(self) -> int:
        """Number of layers; 0 if there are no accuracies."""
        return next((len(row) for targets in self.accuracy.values() for row in targets.values()), 0)

    @property
    def languages(self) -> list[str]:
        """Languages with the accuracy of their own vectors."""
        return [language for language in self.accuracy if language in self.accuracy[language]]

    def untried(self, target: str, sources: list[str]) -> list[str]:
        """Those of `sources` without an accuracy on `target`."""
        return [source for source in sources if target not in self.accuracy.get(source, {})]

    def save(
        self,
        target: str,
        test: Sequence[Pair],
        correct: Mapping[str, np.ndarray],
        validation: Mapping[str, np.ndarray],
        meta: dict[str, Any],
        overwrite: bool = False,
        more: Mapping[str, Mapping[str, Mapping[str, np.ndarray]]] | None = None,
    ) -> None:
        """Add what sources' vectors get right on a target language.

        Args:
            test: the test pairs.
            correct: bool (layers, test pairs) by source.
            validation: bool (layers, validation pairs) by source.
            meta: what made the results.
            overwrite: replace what was made with other settings or inputs.
            more: parts of the cells of the optional tables `nulls` and `detection`, by table, source and part.

        Raises:
            UserError: the file was made with other settings, or cannot be written.
        """
        items = [pair.item or pair.key for pair in test]
        tables = {
            "accuracy": {source: {target: torch.from_numpy(one.mean(axis=-1))} for source, one in correct.items()},
            "correct": {source: {target: torch.from_numpy(one).to(torch.uint8)} for source, one in correct.items()},
            "test_pairs": {target: len(test)},
            "test_keys": {target: [pair.key for pair in test]},
            "validation": {source: {target: torch.from_numpy(one.mean(axis=-1))} for source, one in validation.items()},
            # Where each pair is an item of its own, the keys say enough.
            "test_items": {target: items} if len(set(items)) < len(items) else {},
            **{table: _as_tensors(target, cells) for table, cells in (more or {}).items()},
        }
        layers = len(next(iter(correct.values())))
        self.add(
            meta, layers, tables if validation else {k: v for k, v in tables.items() if k != "validation"}, overwrite
        )

    def test_items(self, target: str) -> list[str]:
        """The item of each test pair: pairs of one item belong together."""
        return self.content["test_items"].get(target) or self.content["test_keys"][target]  # type: ignore[no-any-return]

    def parts(self, table: str, source: str, target: str) -> dict[str, np.ndarray] | None:
        """The parts of a cell of `nulls` (layers + 1,) or `detection` (layers,); None where there is none."""
        cell = self.content[table].get(source, {}).get(target)
        return None if cell is None else {name: cell[name].numpy() for name in PARTS[table][0]}

    def _missing(self, languages: Sequence[str]) -> list[str]:
        return [language for language in languages if self.untried(language, [*languages])]

    def lacking(self, languages: list[str], same_language: bool) -> list[str]:
        """Missing pairs: of each language with itself, or of all pairs."""
        if same_language:
            return super().lacking(languages, same_language)
        pairs = [(source, target) for source in languages for target in languages]
        return [f"{source}->{target}" for source, target in pairs if target not in self.accuracy.get(source, {})]

    @cached_property
    def accuracy(self) -> dict[str, dict[str, np.ndarray]]:
        """float64 (layers,) by source and target language; the `.pt` file takes precedence over the `.pk` file."""
        found: dict[str, dict[str, np.ndarray]] = {}
        parts = [self.released_tables()[1]] if self.has_download else []
        for part in [*parts, self.content]:
            for source, targets in part["accuracy"].items():
                found.setdefault(source, {}).update({target: row.numpy() for target, row in targets.items()})
        if len({row.shape for targets in found.values() for row in targets.values()}) > 1:
            raise self.damaged(f"it and {self.released_path.name} hold accuracies of different models")
        return found


class NullsFile(AccuracyFile):
    """The same file, for a run that also adds nulls and detection to accuracies that have none."""

    def untried(self, target: str, sources: list[str]) -> list[str]:
        """Those of `sources` without an accuracy on `target`, or with one made here and nothing beside it."""
        made, beside = self.content["accuracy"], self.content["detection"]  # for every direction method
        lacking = [s for s in sources if target in made.get(s, {}) and target not in beside.get(s, {})]
        new = {*super().untried(target, sources), *lacking}
        return [source for source in sources if source in new]


def _as_tensors(target: str, cells: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, Any]:
    return {
        source: {target: {name: torch.from_numpy(values.astype(np.float64)) for name, values in parts.items()}}
        for source, parts in cells.items()
    }


def _cells(content: dict[str, Any], tables: tuple[str, ...]) -> Iterator[tuple[str, str, str, Any]]:
    for table in tables:
        for source, targets in content.get(table, {}).items():
            for target, row in targets.items():
                yield table, source, target, row
