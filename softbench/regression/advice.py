"""Which solver, in which coordinates, for a problem of some shape; and what to do where one did not converge."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np

from softbench.front.backend import Backend
from softbench.registry import get_backend, selected_backend
from softbench.regression.blocks import is_dask
from softbench.regression.coordinates import Coordinates, column_moments, decorrelated, plain, scaled, whitened
from softbench.regression.objective import Objective
from softbench.regression.result import FitResult
from softbench.regression.solvers import knows_the_penalty

__all__ = ["Choice", "choose", "choose_backend", "refuse_data_in_memory", "unconverged"]

_COMPILED_FROM: Final = 1 << 23
"""Multiply-adds of an evaluation from which compiled kernels pay though they may have to be compiled."""
_WHOLE_HESSIAN: Final = 1500
"""Parameters up to which newton-cholesky is thought of."""
_HESSIAN_WORK: Final = 3e9
"""Multiply-adds of a Hessian up to which it is taken: a fraction of a second."""
_WHITENED_FEATURES: Final = 2500
"""Features up to which "auto" whitens: the factor of their covariance takes ``p^3 / 3`` operations."""
_ROWS_PER_FEATURE: Final = 16
"""From which the two products of coefficients that whitening takes cost little beside an evaluation."""
_LBFGS_VECTORS: Final = 20
"""Float64 arrays of the size of the coefficients that L-BFGS takes, about."""
_ALIKE: Final = 100.0
"""Ratio of spreads from which a feature counts as badly scaled."""


class Choice(NamedTuple):
    """How to minimise."""

    solver: str
    coordinates: Callable[[Objective], Coordinates]
    reason: str


def choose(objective: Objective, solver: str, precondition: str) -> Choice:
    """What ``solver`` and ``precondition`` come down to, "auto" by shape."""
    n, p, k = objective.n, objective.p, objective.k
    size = k * (p + objective.fit_intercept)
    X = objective.X
    sparse = hasattr(X, "indptr")
    why = "as asked"
    if solver == "auto":
        bytes_of_X = X.data.nbytes + X.indices.nbytes + X.indptr.nbytes if sparse else np.inf
        workspace = _LBFGS_VECTORS * 8 * size
        if size <= _WHOLE_HESSIAN and n * size**2 / 2 <= _HESSIAN_WORK:
            solver, why = "newton-cholesky", f"the Hessian of {size} parameters is small"
        elif workspace > bytes_of_X / 4 and workspace > 1 << 24:  # and a product costs no more than its few entries
            solver = "newton-cg"
            why = f"lbfgs would take {workspace / 1e6:.0f} MB, and X has {bytes_of_X / 1e6:.0f} MB"
        else:
            solver, why = "lbfgs", f"{size} parameters are too many for a Hessian"
    if solver == "newton-cholesky":
        return Choice(solver, scaled, f"{why}; features scaled (Newton's method needs no more)")
    many = solver == "lbfgs" and knows_the_penalty(size)
    if precondition == "auto":
        shown = p <= min(_WHITENED_FEATURES, n // (_ROWS_PER_FEATURE if many else 2))
        precondition = "whiten" if shown and not (sparse and p > 500) else "scale"
    coordinates = decorrelated if many and precondition == "whiten" else _COORDINATES[precondition]
    return Choice(solver, coordinates, f"{why}; {_SAID[precondition]}")


_COORDINATES: Final = {"whiten": whitened, "scale": scaled, "none": plain}
_SAID: Final = {
    "whiten": "in coordinates of uncorrelated features",
    "scale": "in coordinates of features of equal spread",
    "none": "in the features' own coordinates",
}


def choose_backend(backend: str | Backend | None, X: Any, k: int, threads: int | None = None) -> Backend:
    """What the parameter ``backend`` of the estimator asks for: for Dask arrays that, in tasks of ``threads``.

    The dask backend computes on blocks only: on one block of a stream, and on rows to predict that are in memory, its
    local backend does. A fit of data in memory is refused before (`refuse_data_in_memory`).
    """
    chosen = _asked_for(backend)
    if chosen is None:
        chosen = get_backend("numba" if X.size * k >= _COMPILED_FROM else "numpy")
    rows: Any = chosen.rows
    if is_dask(X):
        if rows.kind != "distributed":
            return get_backend("dask", local=chosen.name, threads=threads)
        return chosen if threads is None else get_backend("dask", local=rows.local.name, threads=threads)
    return get_backend(rows.local.name) if rows.kind == "distributed" else chosen


def _asked_for(backend: str | Backend | None) -> Backend | None:
    """The backend that the parameter names, or else the one that is selected; None if neither is any."""
    return get_backend(backend) if backend is not None else selected_backend()


def refuse_data_in_memory(backend: str | Backend | None, X: Any) -> None:
    """ValueError if ``backend`` is the dask one, for a fit of ``X`` in memory: no worker would take part in it."""
    chosen = _asked_for(backend)
    if chosen is not None and chosen.rows.kind == "distributed":
        raise ValueError(
            f"backend is {chosen.name!r} and X is a {type(X).__name__}: expected a Dask array or dataframe. Make it "
            f"one (dask.array.from_array), or take the local backend"
        )


def unconverged(objective: Objective, result: FitResult, names: Any, tol: float) -> str:
    """Warn of a fit that has not converged: what is scaled badly, if anything, and what to do."""
    said = f"SoftmaxRegression did not converge: {result.message} (solver {result.solver!r}). "
    spreads = np.sqrt(column_moments(objective)[1])
    usual = float(np.median(spreads[spreads > 0.0])) if (spreads > 0.0).any() else 0.0
    j = int(np.argmax(np.abs(np.log(np.maximum(spreads, 1e-300) / usual)) * (spreads > 0.0))) if usual else 0
    if usual and not 1.0 / _ALIKE < spreads[j] / usual < _ALIKE:
        name = repr(str(names[j])) if names is not None else str(j)
        said += (
            f"Feature {name} is scaled badly: its standard deviation is {spreads[j]:.3g}, and the median one "
            f"{usual:.3g}. Scale the features (sklearn.preprocessing.StandardScaler or MaxAbsScaler), "
        )
    else:
        said += "Scale the features, "
    if result.status == "precision":
        return said + f"or accept a larger tol than {tol:g}."
    return said + "or raise max_iter."
