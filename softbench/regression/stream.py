"""What is remembered of the rows of a stream: a quadratic function around the coefficients that they led to."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from softbench.regression.coordinates import Coordinates, dense_parts, scaled
from softbench.regression.objective import Evaluation, Objective, Penalty

__all__ = ["Memory"]

F64 = NDArray[np.float64]


class Memory:
    """The loss of all rows so far as ``sum(curvature (W - coef)**2) / 2``, and the same for the intercept.

    The curvatures are the diagonal of the Hessian that each part of the rows had where it was taken in. With the
    penalty that is a normal approximation to the posterior, with independent coefficients (assumed-density filtering).
    """

    def __init__(self, k: int, p: int) -> None:
        self.coef, self.intercept = np.zeros((k, p)), np.zeros(k)
        self._curvature, self._intercept_curvature = np.zeros((k, p)), np.zeros(k)

    def begin(self, objective: Objective, of_sum: float, of_mean: float) -> None:
        """Make the penalty of ``objective``, of some more rows, stand for all rows before and for the model's penalty.

        That is ``of_sum |W|^2 / 2`` once, and ``of_mean |W|^2 / 2`` for every row.
        """
        total = objective.total_weight
        if not self._curvature.any():
            self._curvature += of_sum
        # Both are quadratic: so is their sum, around another centre.
        more = of_mean * total
        curvature = self._curvature + more
        center = np.divide(self._curvature * self.coef, curvature, out=np.zeros_like(curvature), where=curvature > 0.0)
        self._curvature = curvature
        objective.penalty = Penalty(curvature / total, center, self._intercept_curvature / total, self.intercept)

    def coordinates(self, objective: Objective) -> Coordinates:
        """Coordinates for the rows at hand: as in a first fit, so that the first rows need no others before them."""
        return scaled(objective)

    def end(self, objective: Objective, at: Evaluation) -> None:
        """Take in the rows of ``objective``, which has its minimum there."""
        total = objective.total_weight
        probs = objective.backend.to_numpy(objective.probabilities(at))
        for rows, X in dense_parts(objective.X, objective.p):
            some = probs[rows].astype(np.float64)
            curvature = (objective.weights(rows) * total)[:, None] * some * (1.0 - some)
            self._curvature += curvature.T @ np.square(X, dtype=np.float64)
            self._intercept_curvature += curvature.sum(axis=0)
        self.coef, self.intercept = at.coef, at.intercept
