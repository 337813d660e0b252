"""The file of a model's vectors of one concept, `reader_dict.pt` (Section 3.1)."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import torch

from repe.errors import UserError
from repe.paper import LANGUAGES, in_paper_order
from repe.results.result_file import Kind, ResultFile, expect
from repe.results.torch_archive import holds
from repe.vectors.concept_vectors import ConceptVectors

# Optional values of an entry, float32 (layers,).
BY_LAYER = ("mean_norm", "class_distance", "midpoint", "split_half")


class VectorFile(ResultFile):
    """`reader_dict.pt`: `languages` {language: directions, signs, train_pairs, ...}."""

    stem = "reader_dict"
    tables: ClassVar = {"languages": 1}

    @classmethod
    def in_folder(cls, folder: str | Path, method: str = "cluster_mean") -> Self:
        """The file in `<results>/<model>/<concept>`."""
        path = Path(folder).resolve()
        return cls(path.parents[1], path.parent.name, path.name, Kind(method))

    def _missing(self, languages: Sequence[str]) -> list[str]:
        return [language for language in languages if language not in self.vectors]

    def of(self, languages: Sequence[str]) -> dict[str, ConceptVectors]:
        """The vectors of `languages`.

        Raises:
            UserError: some have not been collected.
        """
        if missing := self._missing(languages):
            raise UserError(
                f"{self.path} has no vectors of {' '.join(missing)}: run collect_vector.py with the same options first"
            )
        return {language: self.vectors[language] for language in languages}

    def save(
        self, language: str, vectors: ConceptVectors, meta: Mapping[str, Any] | None = None, overwrite: bool = False
    ) -> Path:
        """Add the vectors of a language.

        Args:
            meta: what made them; what the vectors themselves know by default.
            overwrite: replace what was made with other settings or inputs.

        Raises:
            UserError: the file was made with other settings, or cannot be written.
        """
        entry = {**_tensors(vectors), "train_pairs": vectors.train_pairs or 1}
        by_layer = {name: getattr(vectors, name) for name in BY_LAYER}
        entry |= {name: torch.from_numpy(values) for name, values in by_layer.items() if values is not None}
        if vectors.validation:
            entry |= {f"validation_{name}": value for name, value in _tensors(vectors.validation).items()}
        if vectors.folds:
            parts = [_tensors(one) for one in vectors.folds]
            entry |= {f"fold_{name}": torch.stack([part[name] for part in parts]) for name in ("directions", "signs")}
        known = {**vectors.meta, "model": self.path.parents[1].name, "method": vectors.method}
        made_by = dict(meta if meta is not None else known)
        self.add(made_by, len(vectors.directions), {"languages": {language: entry}}, overwrite)
        return self.path

    def _check(self, content: dict[str, Any]) -> None:
        super()._check(content)
        count = len(content["layers"])
        for language, entry in content["languages"].items():
            shape = entry["directions"].shape
            for part in ("", "validation_") if any(name.startswith("validation_") for name in entry) else ("",):
                directions, signs = entry[f"{part}directions"], entry[f"{part}signs"]
                expect(holds(directions, torch.float32, shape) and len(shape) == 3, f"{part}directions of {language}")
                expect(holds(signs, torch.int8, shape[:2]), f"{part}signs of {language}")
                expect(shape[0] == count, f"{part}directions of {language}: not {count} layers")
                expect(bool(torch.isfinite(directions).all()), f"{part}directions of {language} are not finite")
                expect(bool(directions.any(dim=-1).all()), f"{part}directions of {language}: one is zero")
                expect(bool((signs.abs() == 1).all()), f"{part}signs of {language} are not 1 or -1")
            if "fold_directions" in entry:
                folds, signs = entry["fold_directions"], entry["fold_signs"]
                expect(holds(folds, torch.float32, (len(folds), *shape)), f"fold_directions of {language}")
                expect(holds(signs, torch.int8, (len(folds), *shape[:2])), f"fold_signs of {language}")
                expect(bool(torch.isfinite(folds).all()), f"fold_directions of {language} are not finite")
            pairs = entry.get("train_pairs", 1)
            expect(type(pairs) is int and pairs > 0, f"train_pairs of {language}")
            for name in BY_LAYER:
                values = entry.get(name, torch.zeros(count))
                expect(holds(values, torch.float32, (count,)), f"{name} of {language}")
                # A single training item has no halves.
                known = values[~values.isnan()] if name == "split_half" else values
                expect(bool(torch.isfinite(known).all()), f"{name} of {language} is not finite")
            expect("mean_norm" not in entry or bool((entry["mean_norm"] >= 0).all()), f"mean_norm of {language}")

    def released_tables(self) -> tuple[int, dict[str, Any]]:
        """The download's vectors."""
        rows = {language: _tensors(one) for language, one in self._released().items()}
        return max((len(rows["directions"]) for rows in rows.values()), default=0), {"languages": rows}

    def _released(self) -> dict[str, ConceptVectors]:
        from repe.results import downloads  # only where there is a download

        found = downloads.read_vectors(self.released_path)
        return {
            language: ConceptVectors(entry["directions"], entry["signs"], self.kind.method)
            for language, entry in found.items()
        }

    @property
    def depth(self) -> int:
        """Number of layers; 0 if there are no vectors."""
        return next((len(one.directions) for one in self.vectors.values()), 0)

    @property
    def languages(self) -> list[str]:
        """Languages that have vectors."""
        return list(self.vectors)

    @cached_property
    def vectors(self) -> dict[str, ConceptVectors]:
        """Vectors by language, the paper's languages first; a language in the `.pt` takes precedence over the `.pk`."""
        found = self._released() if self.has_download else {}
        for language, entry in self.content["languages"].items():
            found[language] = _vectors(entry, self.kind.method, self.meta)
        if len({vectors.directions.shape for vectors in found.values()}) > 1:
            raise self.damaged(f"it and {self.released_path.name} hold vectors of different models")
        return {language: found[language] for language in in_paper_order(found, LANGUAGES)} if found else {}


def _tensors(vectors: ConceptVectors) -> dict[str, Any]:
    return {"directions": torch.from_numpy(vectors.directions), "signs": torch.from_numpy(vectors.signs)}


def _vectors(entry: Mapping[str, Any], method: str, meta: Mapping[str, Any]) -> ConceptVectors:
    validation, known = None, {name: entry[name].numpy() for name in BY_LAYER if name in entry}
    if "validation_directions" in entry:
        validation = ConceptVectors(entry["validation_directions"].numpy(), entry["validation_signs"].numpy(), method)
    fold_tensors = zip(entry.get("fold_directions", ()), entry.get("fold_signs", ()), strict=True)
    folds = [ConceptVectors(directions.numpy(), signs.numpy(), method) for directions, signs in fold_tensors]
    return ConceptVectors(
        entry["directions"].numpy(),
        entry["signs"].numpy(),
        method,
        entry.get("train_pairs"),
        validation=validation,
        meta=meta,
        folds=folds,
        **known,
    )
