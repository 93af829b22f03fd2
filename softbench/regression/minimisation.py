"""One run of a solver, and the record of it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from softbench.regression.descent import Descent
from softbench.regression.result import FitResult, suboptimality_bound
from softbench.regression.solvers import SOLVERS, threads_for

__all__ = ["minimise"]

F64 = NDArray[np.float64]


def minimise(descent: Descent, solver: str, reason: str, start: tuple[F64, F64]) -> FitResult:
    """Run a solver from coefficients and an intercept; ``descent.evaluation`` is where it ends."""
    objective, tol = descent.objective, descent.tol
    with threads_for(objective):
        status = SOLVERS[solver](descent, descent.begin(*start))
    at = descent.evaluation
    evaluations = objective.evaluations
    plain = isinstance(objective.penalty.coef, float)
    bound = suboptimality_bound(objective, at) if plain else at.value
    entry = f"the gradient's largest entry is {at.gradient_norm:.3g}"
    message = {
        "converged": f"{entry}, within tol = {tol:g}",
        "max_iter": f"after {descent.iterations} iterations {entry}, above tol = {tol:g}",
        "precision": f"rounding errors hide any further decrease; {entry}, above tol = {tol:g}",
    }[status]
    return FitResult(
        status,
        message,
        solver,
        reason,
        objective.backend.name,
        descent.iterations,
        evaluations,
        objective.products,
        at.value,
        at.gradient_norm,
        bound,
        np.array(descent.history),
        np.array(descent.seconds),
    )
