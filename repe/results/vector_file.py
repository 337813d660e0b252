"""Concept vectors (Section 3.1), and the file that keeps those of a model and concept: `reader_dict.pt`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch

from repe.errors import UserError
from repe.files import sha256
from repe.paper import LANGUAGES, in_paper_order
from repe.results import downloads as released
from repe.results.result_file import ResultFile, expect
from repe.results.torch_archive import holds


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
                expect(holds(directions, torch.float32, shape) and len(shape) == 3, f"{part}directions of {language}")
                expect(holds(signs, torch.int8, shape[:2]), f"{part}signs of {language}")
                expect(shape[0] == count, f"{part}directions of {language}: not {count} layers")
                expect(bool(torch.isfinite(directions).all()), f"{part}directions of {language} are not finite")
                expect(bool(directions.any(dim=-1).all()), f"{part}directions of {language}: one is zero")
                expect(bool((signs.abs() == 1).all()), f"{part}signs of {language} are not 1 or -1")
            pairs, norm = entry.get("train_pairs", 1), entry.get("mean_norm", torch.zeros(count))
            expect(type(pairs) is int and pairs > 0, f"train_pairs of {language}")
            expect(holds(norm, torch.float32, (count,)), f"mean_norm of {language}")
            expect(bool((torch.isfinite(norm) & (norm >= 0)).all()), f"mean_norm of {language} is no length")

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
