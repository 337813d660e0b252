#!/usr/bin/env python3
"""Accuracy of the pocket models with acts held out, and its floor: the same networks with random weights.

  python demo/pocket/held_out.py                        all nine models, about half an hour on one core
  python demo/pocket/held_out.py pocket-llama-L

Writes demo/pocket/held_out.csv, means over the seven concepts: model, weights (trained, random), language, accuracy
(best layer, the paper's split, in which an act is on both sides) and held_out (best layer; each act is tested with
vectors of the acts in the other four fifths). The trained models have read about all acts.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import pandas as pd
import torch

import repe
from repe.data import Pair

DEMO = Path(__file__).parent
FOLDS = 5
SEED = 1  # of the random weights


def accuracies(model: repe.Model, pairs: Sequence[Pair]) -> tuple[float, float]:
    """Accuracy at the best layer by the paper's split, and with acts held out."""
    states = model.states([text for pair in pairs for text in (pair.pos, pair.neg)]).unflatten(1, (-1, 2)).double()
    differences = states[:, :, 0] - states[:, :, 1]  # (layers, pairs, hidden)
    # The split shuffles the sides of the training pairs, which does not matter here.
    places = {pair.key: place for place, pair in enumerate(pairs)}
    train, test = ([places[pair.key] for pair in part] for part in repe.split_pairs(pairs))
    acts = list(dict.fromkeys(pair.item for pair in pairs))
    fold = torch.tensor([acts.index(pair.item) % FOLDS for pair in pairs])
    held_out = torch.zeros(differences.shape[:2], dtype=torch.bool)
    for part in range(FOLDS):
        held_out[:, fold == part] = _correct(differences[:, fold != part], differences[:, fold == part])
    by_pair = _correct(differences[:, train], differences[:, test])
    return tuple(float(right.double().mean(dim=1).max()) for right in (by_pair, held_out))  # type: ignore[return-value]


def _correct(train: torch.Tensor, test: torch.Tensor) -> torch.Tensor:
    """Which test pairs the vector of the training pairs gets right, (layers, pairs); both (layers, pairs, hidden)."""
    return torch.einsum("lph,lh->lp", test, train.mean(dim=1)) >= 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    every = [path.name for path in sorted((DEMO / "models").iterdir())]
    parser.add_argument("models", nargs="*", default=every)
    rows = []
    for label in parser.parse_args().models:
        for weights, seed in (("trained", None), ("random", SEED)):
            model = repe.load_model(DEMO / "models" / label, untrained=seed)
            for path in sorted((DEMO / "data").glob("*/*.json")):
                language = path.stem.rpartition("_")[2]
                rows.append((label, weights, path.parent.name, language, *accuracies(model, repe.read_pairs(path))))
            print(label, weights, flush=True)
    columns = ["model", "weights", "concept", "language", "accuracy", "held_out"]
    table = pd.DataFrame(rows, columns=columns)
    means = table.groupby(["model", "weights", "language"], sort=False)[["accuracy", "held_out"]].mean()
    means.round(4).to_csv(DEMO / "held_out.csv")
    print(table.groupby(["model", "weights"])[["accuracy", "held_out"]].mean().round(2).to_string())


if __name__ == "__main__":
    main()
