"""Cached hidden states, `--cache-states DIR`: each text is run once per model.

Other splits, methods, seeds, and recognition then need no model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from repe.errors import UserError
from repe.files import write_whole

if TYPE_CHECKING:
    from repe.models.model import Model
    from repe.models.source import ModelSource

# The settings of a model that decide its states.
SETTINGS = ("weights", "template", "special_tokens", "truncate", "dtype")


@dataclass(frozen=True)
class CachedStates:
    """States of the texts of one data file, in place of the model that gave them."""

    places: Mapping[str, int]
    """Index by text."""
    kept: torch.Tensor
    """(layers, texts, hidden)."""

    def states(self, texts: Sequence[str]) -> torch.Tensor:
        """States of some of the texts, (layers, texts, hidden)."""
        return self.kept[:, [self.places[text] for text in texts]]


class StateCache:
    """States of the texts of data files, each file's in one file of a folder.

    Args:
        folder: of the files.
        source: the model; loaded when a text is in no file.
        settings: at least SETTINGS of the model.
    """

    def __init__(self, folder: Path, source: ModelSource, settings: Mapping[str, Any]) -> None:
        self.folder, self.source = folder, source
        self.settings = {name: settings[name] for name in SETTINGS}

    @cached_property
    def _model(self) -> Model:
        return self.source.load()

    def of(self, texts: Sequence[str]) -> CachedStates:
        """Read the states of one data file's texts from the cache; compute and store them if it has none.

        Raises:
            UserError: the file is damaged; what `Model.states` raises.
        """
        texts = list(dict.fromkeys(texts))
        digest = hashlib.sha256(json.dumps([self.settings, texts], ensure_ascii=True).encode()).hexdigest()
        path = self.folder / f"{self.source.label}-{digest[:24]}.safetensors"
        if not path.exists():
            metadata = {name: str(value) for name, value in self.settings.items()} | {"model": self.source.label}
            tensors = {"states": self._model.states(texts).cpu().contiguous()}
            # By the file's name: the library makes two more copies of what it returns as bytes.
            write_whole(path, lambda file: save_file(tensors, file.name, metadata))
            del tensors
        try:
            states = load_file(path)["states"]
        except (OSError, SafetensorError, KeyError) as error:
            raise UserError(f"{path} is damaged ({error}): delete it to have it computed again") from error
        is_whole = states.dim() == 3 and states.shape[1] == len(texts)
        if not is_whole or not all(bool(layer.isfinite().all()) for layer in states):
            reason = f"expected finite states of {len(texts)} texts"
            raise UserError(f"{path} is damaged ({reason}): delete it to have it computed again")
        return CachedStates({text: place for place, text in enumerate(texts)}, states)
