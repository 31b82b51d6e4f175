"""A linear probe: embeddings and labels in, the accuracy of a logistic regression on what it was not trained on out."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# Strength of the L2 penalty (the C = 1 of other libraries), and steps of Newton's method, which converges in fewer.
_PENALTY, _STEPS = 1.0, 25


def probe_accuracy(embeddings: NDArray[Any], labels: NDArray[np.bool_]) -> float:
    """Trains on the first half of the rows and tests on the second, and the other way round: every row is tested once."""
    rows = np.hstack([embeddings, np.ones((len(embeddings), 1))]).astype(np.float64)
    first = np.arange(len(rows)) < len(rows) // 2
    right = [((rows[~own] @ fit(rows[own], labels[own]) > 0) == labels[~own]).sum() for own in (first, ~first)]
    return float(sum(right) / len(rows))


def fit(rows: NDArray[np.float64], labels: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Weights [columns] that minimize the penalized logistic loss; the last column, the constant, goes unpunished."""
    penalty = np.full(rows.shape[1], _PENALTY)
    penalty[-1] = 0
    weights = np.zeros(rows.shape[1])
    for _ in range(_STEPS):
        chance = 1 / (1 + np.exp(-rows @ weights))
        gradient = rows.T @ (chance - labels) + penalty * weights
        curvature = (rows * (chance * (1 - chance))[:, None]).T @ rows + np.diag(penalty)
        weights -= np.linalg.solve(curvature, gradient)
    return weights
