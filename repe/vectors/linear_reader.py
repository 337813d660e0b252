"""Directions of linear classifiers, `--direction-method logistic` and `lda`."""

import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from repe.vectors.readers import RepReader


class LinearRepReader(RepReader):
    """The weights of a linear classifier of single texts, by scikit-learn.

    Args:
        method: `logistic`, logistic regression (L2 penalty, C = 1, standardised states), or `lda`, discriminant
            analysis (covariance shrunk as by Ledoit and Wolf 2004).
    """

    signed_recognition = True

    def __init__(self, method: str) -> None:
        super().__init__()
        self.method = method  # type: ignore[misc]

    def direction(self, states: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The weights in the space of the states, (1, hidden)."""
        rows, sides = states.flatten(0, 1).double().cpu().numpy(), labels.flatten().cpu().numpy()
        if self.method == "lda":
            weights = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(rows, sides).coef_
        else:
            scaler = StandardScaler().fit(rows)
            weights = LogisticRegression(max_iter=1000).fit(scaler.transform(rows), sides).coef_ / scaler.scale_
        return torch.from_numpy(weights).to(states)
