"""A minimisation in progress: what solvers are handed, and leave behind."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from softbench.regression.coordinates import Coordinates
from softbench.regression.objective import Evaluation, Objective

__all__ = ["Descent"]

F64 = NDArray[np.float64]


class Descent:
    """A minimisation: evaluations in coordinates, with their history, and when to stop.

    Parameters
    ----------
    objective, coordinates
        What is minimised, in which parameters.
    tol
        Largest entry of the gradient with which it has converged.
    max_iter
        Most iterations.
    progress
        Told of every iteration: its number, and the evaluation.
    """

    def __init__(
        self,
        objective: Objective,
        coordinates: Coordinates,
        tol: float,
        max_iter: int,
        progress: Callable[[int, Evaluation], None],
    ) -> None:
        self.objective, self.coordinates, self.tol, self.max_iter = objective, coordinates, tol, max_iter
        self._progress = progress
        self._start = time.perf_counter()
        self.iterations = 0
        self.history: list[float] = []
        self.seconds: list[float] = []
        self.evaluation: Evaluation

    def evaluate(self, u: F64) -> Evaluation:
        """The objective at a vector."""
        found = self.objective(*self.coordinates.parameters(u))
        self.history.append(found.value)
        self.seconds.append(time.perf_counter() - self._start)
        return found

    def begin(self, coef: F64, intercept: F64) -> F64:
        """Evaluate at the start; its vector."""
        u = self.coordinates.vector(coef, intercept)
        self.evaluation = self.evaluate(u)
        return u

    @property
    def converged(self) -> bool:
        """Whether the gradient is small enough."""
        return self.evaluation.gradient_norm <= self.tol

    def accept(self, evaluation: Evaluation) -> None:
        """An iteration has ended here."""
        self.evaluation = evaluation
        self.iterations += 1
        self._progress(self.iterations, evaluation)
