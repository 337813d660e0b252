#!/usr/bin/env python3
"""The pipeline on the demo's models, as a user would call it: stages 1 to 4, then what came out in a few lines.

  python demo/run.py

Writes to demo/res. What is there already is not done again.
"""

import subprocess
import sys
from pathlib import Path

import pandas as pd

DEMO = Path(__file__).parent
RESULTS = DEMO / "res"
# Results folder and family of each model in demo/models.
MODELS = {"pocket-llama-M": "llama2", "pocket-qwen-M": "qwen", "pocket-bloom-M": "bloomz"}


def run(script: str, *options: object) -> None:
    """Run one of the scripts at the top, showing the command; end with its status if it fails."""
    command = [script, *map(str, options)]
    print("\n$ python", *command, flush=True)
    status = subprocess.run([sys.executable, *command], cwd=DEMO.parent, check=False).returncode
    if status:
        sys.exit(status)


def main() -> None:
    for label, family in MODELS.items():
        model = ("--model-path", f"demo/models/{label}", "--model-label", label, "--model-family", family)
        for script in ("collect_vector.py", "recognize_concept.py"):
            run(script, *model, "--data-dir", "demo/data", "--res-dir", "demo/res")
    for script in ("recognize_concept.py", "consistency_analysis.py", "transferability_analysis.py"):
        run(script, "--res-dir", "demo/res", "--cross-model", ",".join(MODELS))
    summarize(RESULTS / "cross_model")


def summarize(folder: Path) -> None:
    """Print the means that the figures show, and where the figures are."""
    accuracy = pd.read_csv(folder / "table6_recognition_accuracy.csv")
    similarity = pd.read_csv(folder / "similarity.csv").query("source != target")
    transfer = pd.read_csv(folder / "transfer.csv").query("source != target")
    print("\nRecognition accuracy at the best layer, mean over concepts (chance 0.5):")
    print(accuracy.groupby(["model", "language"], sort=False).accuracy.mean().unstack().round(2).to_string())
    print("\nBetween different languages: similarity of vectors, and accuracy less that of the target's own vectors:")
    means = similarity.groupby("model", sort=False).similarity.mean().round(2).to_frame()
    means["transfer"] = transfer.groupby("model").delta.mean().round(3)
    print(means.to_string())
    print(f"\nFigures and tables: {folder.relative_to(DEMO.parent)}/")


if __name__ == "__main__":
    main()
