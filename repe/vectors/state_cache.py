"""Where states come from: a model that is loaded when it is needed, or files of what it gave before.

With `--cache-states DIR` each text is run once in the life of a model: the states of all texts of a data file are kept,
so that other splits, methods, seeds and recognition need no model at all.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from repe.data import Split, texts_of
from repe.errors import UserError
from repe.files import sha256, write_whole
from repe.models.loading import Model
from repe.runs.chosen import ChosenModel
from repe.vectors.hidden_states import last_token_states

# What decides a text's states, of the settings of a run.
SETTINGS = ("weights", "template", "special_tokens", "truncate", "dtype")

States = Callable[[Sequence[str]], torch.Tensor]
"""From texts to their last tokens' states, (layers, texts, hidden) in the model's dtype."""


class StateSource:
    """The states of a chosen model's texts.

    Args:
        chosen: the model; loaded at once, or with a folder of states at the first text that is in no file there.
        meta: what makes the results of the run.
        args: cache_states and batch_size as on the command line.
    """

    def __init__(self, chosen: ChosenModel, meta: dict[str, Any], args: argparse.Namespace) -> None:
        self.chosen = chosen
        self.folder: Path | None = args.cache_states
        self.batch_size: int | None = args.batch_size
        self.settings = {name: meta[name] for name in SETTINGS}
        # What is wrong with a model is said before the work begins.
        if self.folder is None:
            _ = self.model

    @cached_property
    def model(self) -> Model:
        """The model, read and checked."""
        return self.chosen.load()

    def of(self, split: Split) -> States:
        """The states of the texts of one data file, from the folder of states if there is one.

        Raises:
            UserError: a file of states is damaged; what `last_token_states` raises.
        """
        if self.folder is None:
            return self._run
        texts = list(dict.fromkeys(texts_of(split.pairs)))
        kept = self._kept(self.folder, texts)
        places = {text: place for place, text in enumerate(texts)}
        return lambda wanted: kept[:, [places[text] for text in wanted]]

    def _run(self, texts: Sequence[str]) -> torch.Tensor:
        return last_token_states(self.model, texts, self.batch_size)

    def _kept(self, folder: Path, texts: list[str]) -> torch.Tensor:
        """The states of `texts`, read from their file, which is written first where it is not there."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file, save_file

        what = json.dumps([self.settings, texts], ensure_ascii=True)
        path = folder / f"{self.chosen.label}-{sha256(what.encode())[:24]}.safetensors"
        if not path.exists():
            metadata = {name: str(value) for name, value in self.settings.items()}
            metadata["model"] = self.chosen.label
            tensors = {"states": self._run(texts).cpu()}
            # By the file's name, since the library makes two more copies of what it gives as bytes.
            write_whole(path, lambda file: save_file(tensors, file.name, metadata))
            del tensors
        try:
            states: torch.Tensor = load_file(path)["states"]
        except (OSError, SafetensorError, KeyError) as error:
            raise UserError(f"{path} is damaged ({error}): delete it, and it is made again") from error
        if (
            states.dim() != 3
            or states.shape[1] != len(texts)
            or not all(bool(layer.isfinite().all()) for layer in states)
        ):
            raise UserError(f"{path} is damaged (no states of {len(texts)} texts): delete it, and it is made again")
        return states
