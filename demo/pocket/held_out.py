#!/usr/bin/env python3
"""Accuracy on acts that no vector was trained on, beside the paper's split, which shares acts between its two parts.

  python demo/pocket/held_out.py                        the three models of size M
  python demo/pocket/held_out.py pocket-llama-L

Writes demo/res/pocket/held_out.csv: model, concept, language, accuracy (best layer, the paper's split) and held_out
(best layer, mean over FOLDS parts, each tested with vectors of the acts in the others). The models themselves have read
about all acts.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import pandas as pd
import torch

from demo.pocket.build_data import side_text
from demo.pocket.run import RESULTS
from repe import load_model
from repe.results.accuracy_file import AccuracyFile
from repe.results.result_file import Kind

DEMO = Path(__file__).parent
FOLDS = 5


def held_out_accuracy(states: torch.Tensor, acts: list[str]) -> float:
    """Accuracy at the best layer, each act's pairs judged by vectors of the acts in other folds.

    Args:
        states: (layers, pairs, 2, hidden), the positive side first.
        acts: of each pair.
    """
    names = list(dict.fromkeys(acts))
    fold = torch.tensor([names.index(act) % FOLDS for act in acts])
    differences = (states[:, :, 0] - states[:, :, 1]).double()
    right = torch.zeros(differences.shape[:2], dtype=torch.bool)
    for part in range(FOLDS):
        vectors = differences[:, fold != part].mean(dim=1)
        right[:, fold == part] = torch.einsum("lph,lh->lp", differences[:, fold == part], vectors) >= 0
    return float(right.double().mean(dim=1).max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=[f"pocket-{kind}-M" for kind in ("llama", "qwen", "bloom")])
    rows = []
    for label in parser.parse_args().models:
        model = load_model(DEMO / "models" / label)
        for path in sorted((DEMO / "data").glob("*/*.json")):
            concept, language = path.parent.name, path.stem.rpartition("_")[2]
            groups = json.loads(path.read_text(encoding="utf-8"))
            samples = [(act, sample) for act, by_context in groups.items() for sample in by_context.values()]
            texts = [side_text(sample, side) for _, sample in samples for side in ("pos", "neg")]
            states = model.states(texts).unflatten(1, (-1, 2))
            shared = AccuracyFile(RESULTS, label, concept, Kind())
            accuracy = float(shared.accuracy[language][language].max())
            rows.append((label, concept, language, accuracy, held_out_accuracy(states, [act for act, _ in samples])))
    table = pd.DataFrame(rows, columns=["model", "concept", "language", "accuracy", "held_out"])
    table.to_csv(RESULTS / "held_out.csv", index=False)
    means = table.groupby(["model", "language"], sort=False)[["accuracy", "held_out"]].mean().round(2)
    print(means.unstack("language").to_string())


if __name__ == "__main__":
    main()
