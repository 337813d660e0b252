"""Layer selection: the best layer on the test set, as in the paper, or a layer chosen without the test set.

The paper reports the best of N accuracies on the same pairs, which is too high by what chance adds to the largest of N
numbers. A layer that is chosen on validation pairs or fixed beforehand (`--layer-select`) avoids this bias.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from repe.errors import UserError
from repe.results.accuracy_file import AccuracyFile
from repe.results.vector_file import VectorFile

# Columns that identify a row; all others are values, which depend on the layer selection.
KEYS = ("concept", "model", "source", "target", "language", "distance")
# Columns that do not depend on it either.
COUNTS = ("test_items", "test_pairs", "pairs", "computed_pairs")


@dataclass(frozen=True)
class Selection:
    """A way to choose the layer of each number."""

    by: str | int | float = "best"
    """`best`, `validation`, a layer number (1..N), or a relative depth (below 1)."""

    @property
    def suffix(self) -> str:
        """Suffix of the names of figures and tables; empty for the paper's."""
        if isinstance(self.by, str):
            return "" if self.by == "best" else f"_{self.by}"
        return f"_{'layer' if isinstance(self.by, int) else 'depth'}{self.by:g}"

    @property
    def words(self) -> str:
        """Description for captions."""
        if isinstance(self.by, str):
            return "at the best layer" if self.by == "best" else "at the layer that is best on validation pairs"
        return f"at layer {self.by}" if isinstance(self.by, int) else f"at relative depth {self.by:g}"

    def layer(self, layers: int, file: AccuracyFile | VectorFile) -> int:
        """The layer, counted from 0, of a selection by number or depth; the lower of two equally near ones.

        Args:
            layers: number of layers of the model.
            file: named in the error.

        Raises:
            UserError: the model has fewer layers.
        """
        if isinstance(self.by, float):
            return int(np.abs(np.arange(layers) / layers - self.by).argmin())
        if int(self.by) > layers:
            raise UserError(
                f"--layer-select {self.by}: {file.path.parent.parent} has only {layers} layers; choose one of them, or "
                "a relative depth such as 0.5"
            )
        return int(self.by) - 1

    def accuracy_layer(self, file: AccuracyFile, source: str, target: str) -> int:
        """The layer, counted from 0, of a source's vectors on a target's pairs; the lowest of equals.

        Raises:
            UserError: the file has no validation accuracy, or no such layer.
        """
        accuracy = file.accuracy[source][target]
        if self.by == "best":
            return int(accuracy.argmax())
        if self.by == "validation":
            return int(file.cell("validation", source, target).argmax())
        return self.layer(len(accuracy), file)

    def similarity_layers(
        self, cosine: np.ndarray, files: Mapping[str, VectorFile], languages: Sequence[str]
    ) -> np.ndarray:
        """The layer, counted from 0, of each concept and pair of languages; the lowest of equals.

        By validation, it is the layer with the highest mean of the two languages' validation accuracies (each with its
        own vectors): good for both languages, similar or not.

        Args:
            cosine: (concepts, layers, languages, languages).
            files: of the concepts; by validation, accuracy files must exist beside them.
            languages: of both axes.

        Returns:
            int (concepts, languages, languages).

        Raises:
            UserError: there is no validation accuracy, or no such layer.
        """
        if self.by == "best":
            return cosine.argmax(axis=1)  # type: ignore[no-any-return]
        if self.by == "validation":
            accuracies = [_accuracies_beside(file) for file in files.values()]
            own = np.array([[file.cell("validation", one, one) for one in languages] for file in accuracies])
            return (own[:, :, None] + own[:, None]).argmax(axis=-1)  # type: ignore[no-any-return]
        fixed = [self.layer(cosine.shape[1], file) for file in files.values()]
        return np.broadcast_to(np.reshape(fixed, (-1, 1, 1)), cosine[:, 0].shape)


PAPER = Selection()


def selections(by: str | int | float) -> list[Selection]:
    """The paper's selection and, where it differs, the one `by` names (see `Selection.by`)."""
    return list(dict.fromkeys([PAPER, Selection(by)]))


def accuracy_at(
    file: AccuracyFile, sources: Sequence[str], targets: Sequence[str], selection: Selection = PAPER
) -> np.ndarray:
    """Accuracy of each source on each target at its selected layer.

    Returns:
        float64 (sources, targets).
    """
    rows = [
        [file.accuracy[source][target][selection.accuracy_layer(file, source, target)] for target in targets]
        for source in sources
    ]
    return np.array(rows)


def side_by_side(tables: Mapping[Selection, pd.DataFrame]) -> pd.DataFrame:
    """The paper's table, with the values of other selections in further columns `selected_...`.

    Args:
        tables: with the same rows in the same order.
    """
    paper = tables[PAPER].reset_index(drop=True)
    others = [
        table.reset_index(drop=True)
        .drop(columns=[name for name in table if name in (*KEYS, *COUNTS) or str(name).endswith("_as_released")])
        .rename(columns=lambda name: f"selected_{name.removeprefix('best_')}")
        for selection, table in tables.items()
        if selection != PAPER
    ]
    return pd.concat([paper, *others], axis=1)


def _accuracies_beside(file: VectorFile) -> AccuracyFile:
    """The accuracies of a file's vectors."""
    beside = AccuracyFile(file.path.parents[2], file.path.parent.parent.name, file.concept, file.kind)
    if not (beside.has_file or beside.has_download):
        raise UserError(f"--layer-select validation needs {beside.path}, which is missing: run recognize_concept.py")
    return beside
