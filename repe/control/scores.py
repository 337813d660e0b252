"""Concept scores: where a model that reads a reply places it between the two sides of a concept (Section 5)."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm

from repe.control.reply_file import ReplyFile, Row
from repe.models.model import Model
from repe.vectors.concept_vectors import ConceptVectors

# Name of the scores that the steered model itself gives, unsteered; others are under the label of the judge.
OWN = "self"


def middle_layers(layers: int) -> list[int]:
    """Numbers of the layers of relative depth 1/3 to 2/3, both included."""
    return [layer for layer in range(1, layers + 1) if layers <= 3 * (layer - 1) <= 2 * layers]


def concept_scores(states: torch.Tensor, vectors: ConceptVectors) -> np.ndarray:
    """Positions of texts along a concept's vector, from -0.5 (mean of the negative side) to 0.5 (positive side).

    Args:
        states: (layers, texts, hidden), of the texts' last tokens.
        vectors: of the texts' language, with `class_distance` and `midpoint`.

    Returns:
        float64 (texts,): the mean over the layers of relative depth 1/3 to 2/3. NaN if the vectors do not tell
        where the class means are.
    """
    if vectors.class_distance is None or vectors.midpoint is None:
        return np.full(states.shape[1], np.nan)
    rows = [layer - 1 for layer in middle_layers(len(states))]
    units = torch.from_numpy(vectors.unit_vectors[rows]).to(states.device)
    along = torch.einsum("lth,lh->lt", states[rows].float(), units).double().cpu().numpy()
    with np.errstate(divide="ignore", invalid="ignore"):
        positions = (along - vectors.midpoint[rows, None]) / vectors.class_distance[rows, None].astype(np.float64)
    return np.where(np.isfinite(positions), positions, np.nan).mean(axis=0)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Reader:
    """A model that reads replies, with its own vectors."""

    name: str
    """`self` or the label of a judge."""
    vectors: Mapping[str, Mapping[str, ConceptVectors]]
    """By concept and language; those with class means."""

    @property
    def digest(self) -> str:
        """Identifies the vectors that scores were made with."""
        digests = {concept: {lang: one.digest for lang, one in row.items()} for concept, row in self.vectors.items()}
        return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()

    def unscored(self, file: ReplyFile) -> list[list[Row]]:
        """The replies of each condition and language with replies without scores, or with scores of other vectors."""
        if not self.vectors:
            return []
        stale = file.readers.get(self.name) != self.digest
        conditions: dict[object, list[Row]] = {}
        for (*condition, _), row in file.rows.items():
            conditions.setdefault(tuple(condition), []).append(row)
        missing = [stale or any(self.name not in row.get("scores", {}) for row in rows) for rows in conditions.values()]
        return [rows for rows, is_missing in zip(conditions.values(), missing, strict=True) if is_missing]

    def score(self, model: Model, file: ReplyFile) -> None:
        """Add the scores that are missing to the file's rows: `scores` {reader: {concept: score}}.

        A condition is scored whole, one language at a time, so that the numbers do not depend on how a run was stopped
        or extended. An empty reply has no scores.

        Raises:
            UserError: what `Model.states` raises; the vectors belong to another model.
        """
        for row in self.vectors.values():
            for language, vectors in row.items():
                vectors.check_fit(language, model.layers, model.hidden_size)
        for rows in tqdm(self.unscored(file), desc=f"{self.name} reads the replies", unit="set"):
            texts = list(dict.fromkeys(row["reply"] for row in rows if row["reply"].strip()))
            found = self._of_texts(model, texts, rows[0]["lang"]) if texts else {}
            scored = []
            for row in rows:
                values = {concept: by_text.get(row["reply"], np.nan) for concept, by_text in found.items()}
                own = {concept: round(value, 6) for concept, value in values.items() if np.isfinite(value)}
                scored.append(row | {"scores": row.get("scores", {}) | {self.name: own}})
            file.add(scored)
        if file.readers.get(self.name) != self.digest:
            file.add([], readers={self.name: self.digest})

    def _of_texts(self, model: Model, texts: Sequence[str], language: str) -> dict[str, dict[str, float]]:
        """Scores of texts in a language, by concept and text."""
        states = model.states(texts)
        return {
            concept: dict(zip(texts, concept_scores(states, row[language]).tolist(), strict=True))
            for concept, row in self.vectors.items()
            if language in row
        }
