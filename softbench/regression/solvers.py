"""Minimisers of the objective: L-BFGS and two Newton methods, all of them in `coordinates` of one's choice."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from softbench.regression import limited_memory
from softbench.regression.coordinates import Coordinates, dense_parts
from softbench.regression.descent import Descent
from softbench.regression.objective import Evaluation, Objective
from softbench.regression.result import Status

__all__ = ["SOLVERS", "knows_the_penalty", "threads_for"]

F64 = NDArray[np.float64]

_ARMIJO: Final = 1e-4
_HALVINGS: Final = 30
_SCIPYS_LBFGS: Final = 1 << 14
"""Parameters up to which L-BFGS is SciPy's."""
_CG_STEPS: Final = 250
_THREADS_FROM: Final = 1 << 23
"""Multiply-adds of an evaluation from which a second thread of a library can be worth waking."""
_FEW_PAIRS: Final = 9
"""Pairs of classes up to which `_curvatures` has a product of matrices for each."""
_FALLING: Final = 1e-3
"""Of the objective: while an iteration of `newton_cholesky` gains more, its next Hessian is summed in float32."""
_LENGTHENED: Final = 0.1
"""Of the slope at the beginning of a step of Newton's: a longer step is tried where the slope at its end is steeper."""
_DECREASE: Final = 1e-10
"""Newton's methods go on while the decrease they predict is more than this part of the objective: beyond ``tol``, where
one more step costs little and gains several digits."""


def knows_the_penalty(size: int) -> bool:
    """Whether L-BFGS is `limited_memory` for so many parameters, and profits from `coordinates.decorrelated`."""
    return size > _SCIPYS_LBFGS


def lbfgs(descent: Descent, u: F64) -> Status:
    """SciPy's L-BFGS-B where its float64 workspace, some 25 vectors, is small; else `limited_memory`."""
    go = limited_memory.minimise if knows_the_penalty(u.size) else _by_scipy
    while not descent.converged and descent.iterations < descent.max_iter:
        before = descent.evaluation.value
        with _scipys_libraries().limit(limits=1):
            u = go(descent, u)
        if not descent.converged and descent.iterations < descent.max_iter:
            # It found no decrease in any direction it knows: rounding errors hide it, or what it knows misleads.
            if not descent.objective.widen() and not descent.evaluation.value < before:
                return "precision"
            descent.evaluation = descent.evaluate(u)
    return "converged" if descent.converged else "max_iter"


def _by_scipy(descent: Descent, u: F64) -> F64:
    """From ``u`` until it has converged or may not go on, or knows no direction in which there is a decrease."""
    from scipy.optimize import minimize

    latest: list[tuple[F64, Evaluation]] = []

    def value_and_gradient(u: F64) -> tuple[float, F64]:
        evaluation = descent.evaluate(u)
        latest[:] = [(u.copy(), evaluation)]
        return evaluation.value, descent.coordinates.gradient_of(evaluation)

    def iterated(intermediate_result: Any) -> None:
        at, evaluation = latest[0]
        if not np.array_equal(at, intermediate_result.x):
            evaluation = descent.evaluate(intermediate_result.x)
        descent.accept(evaluation)
        if descent.converged or descent.iterations >= descent.max_iter:
            raise StopIteration

    options = {
        "maxiter": descent.max_iter, "maxfun": 1 << 30, "maxcor": limited_memory.CORRECTIONS, "gtol": 0.0, "ftol": 0.0
    }  # fmt: skip
    found = minimize(value_and_gradient, u, jac=True, method="L-BFGS-B", callback=iterated, options=options)
    return np.asarray(found.x)


@cache
def _libraries() -> Any:
    """Libraries for linear algebra that are loaded, SciPy's and NumPy's."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="blas")


@cache
def _scipys_libraries() -> Any:
    """What SciPy brings for linear algebra and shares with nobody: as packages of PyPI do.

    L-BFGS-B has vectors for it, and matrices of 20 x 20: waking a second thread, and waiting for it on a busy machine,
    took ten times as long as all else of a small fit. What NumPy uses too is left alone, for backends multiply with it.
    """
    import scipy.linalg

    package, libraries = Path(scipy.__file__).parent, _libraries()
    places = package, package.with_name("scipy.libs")
    files = [str(library["filepath"]) for library in libraries.info()]
    return libraries.select(filepath=[f for f in files if any(Path(f).is_relative_to(place) for place in places)])


def threads_for(objective: Objective) -> AbstractContextManager[Any]:
    """Libraries on one thread while it is open, if all products of ``objective`` are small: see `_scipys_libraries`."""
    small = objective.n * objective.p * objective.k < _THREADS_FROM
    return _libraries().limit(limits=1) if small else nullcontext()


def newton_cg(descent: Descent, u: F64) -> Status:
    """Newton's method, its equations solved by conjugate gradients as exactly as the progress so far deserves.

    A product with the Hessian takes one reading of ``X`` and no exponentials where the probabilities, ``(N, K)``, take
    less than a tenth of what ``X`` does, or no more than the coefficients, and are kept; elsewhere they are computed
    anew.
    """
    objective, coordinates = descent.objective, descent.coordinates
    per_row = objective.p if getattr(objective.X, "indptr", None) is None else objective.X.nnz // objective.n
    small = objective.k * 10 <= per_row or objective.n <= objective.p
    first = float(np.linalg.norm(coordinates.gradient_of(descent.evaluation)))

    def direction(at: Evaluation, g: F64) -> F64:
        probs = objective.probabilities(at) if small else None

        def product(v: F64) -> F64:
            return coordinates.gradient(*objective.hessian_product(at, *coordinates.parameters(v), probs))

        norm = float(np.linalg.norm(g))
        return _conjugate_gradients(product, g, min(0.25, np.sqrt(norm / max(first, norm))) * norm)

    return _newton(descent, u, direction)


def newton_cholesky(descent: Descent, u: F64) -> Status:
    """Newton's method with the whole Hessian: few parameters.

    Far from the minimum the Hessian is summed in float32, in half the time: that changes a step there by less than the
    next Hessian does.
    """
    k, p = descent.objective.k, descent.objective.p
    before = np.inf

    def direction(at: Evaluation, g: F64) -> F64:
        nonlocal before
        falling = before - at.value > _FALLING * abs(at.value)
        before = at.value
        hessian = _hessian(descent.objective, descent.coordinates, at, np.float32 if falling else np.float64)
        width, size = hessian.shape[1], (k - 1) * hessian.shape[1]
        by_class = np.hstack([g[: k * p].reshape(k, p), g[k * p :].reshape(k, width - p)])
        step = np.zeros((k, width))
        step[:-1] = -_solve(hessian.reshape(size, size), by_class[:-1].reshape(-1)).reshape(k - 1, width)
        step -= step.mean(axis=0)
        return np.concatenate([step[:, :p].reshape(-1), step[:, p:].reshape(-1)])

    with _scipys_libraries().limit(limits=1):  # its threads and NumPy's would wait for each other's cores
        return _newton(descent, u, direction)


SOLVERS: Final[dict[str, Callable[[Descent, F64], Status]]] = {
    "lbfgs": lbfgs,
    "newton-cg": newton_cg,
    "newton-cholesky": newton_cholesky,
}


def _newton(descent: Descent, u: F64, direction: Callable[[Evaluation, F64], F64]) -> Status:
    while descent.iterations < descent.max_iter:
        at = descent.evaluation
        g = descent.coordinates.gradient_of(at)
        if not g.any():
            return "converged"
        step = direction(at, g)
        slope = float(g @ step)
        if descent.converged and -slope <= max(_DECREASE, descent.objective.eps) * abs(at.value):
            return "converged"
        hidden = -slope <= 1e-3 * descent.objective.eps * abs(at.value)  # whatever the step gains
        found = None if hidden else _line_search(descent, u, at, step, slope)
        if found is None:
            if descent.objective.widen():
                descent.evaluation = descent.evaluate(u)
                continue
            return "converged" if descent.converged else "precision"
        u, evaluation = found
        descent.accept(evaluation)
    return "converged" if descent.converged else "max_iter"


def _line_search(descent: Descent, u: F64, at: Evaluation, step: F64, slope: float) -> tuple[F64, Evaluation] | None:
    """A part or a multiple of ``step`` with which the objective decreases enough; None if there is none.

    Where the decrease drowns in rounding errors the slope decides (Hager and Zhang, SIAM Journal on Optimization 2005,
    "approximate Wolfe conditions").
    """
    noise = 8.0 * descent.objective.eps * abs(at.value)
    size = 1.0
    for _ in range(_HALVINGS):
        moved = u + size * step
        found = descent.evaluate(moved)
        if found.value <= at.value + _ARMIJO * size * slope:
            return (moved, found) if size < 1.0 else _lengthened(descent, u, step, slope, (moved, found))
        if found.value <= at.value + noise:
            end = float(descent.coordinates.gradient_of(found) @ step)
            if slope < 0.0 and abs(end) <= 0.9 * abs(slope) and found.gradient_norm < at.gradient_norm:
                return moved, found
            if size * abs(slope) < noise:
                return None
        size *= 0.5
    return None


def _lengthened(
    descent: Descent, u: F64, step: F64, slope: float, found: tuple[F64, Evaluation]
) -> tuple[F64, Evaluation]:
    """Further along ``step``, twice as far each time, while the way goes down steeply.

    Far from the minimum the loss falls like an exponential function, and Newton's step gains a factor of e whatever
    there is to gain. An evaluation costs a fraction of a step.
    """
    size, (_, at) = 1.0, found
    while float(descent.coordinates.gradient_of(at) @ step) < _LENGTHENED * slope:
        size *= 2.0
        longer = u + size * step
        further = descent.evaluate(longer)
        if not further.value < at.value:
            break
        at = further
        found = longer, at
    return found


def _conjugate_gradients(product: Callable[[F64], F64], g: F64, tolerance: float) -> F64:
    """``s`` with ``|H s + g| <= tolerance``, or what was reached of it."""
    s, r = np.zeros_like(g), -g
    d, square = r.copy(), float(r @ r)
    for _ in range(_CG_STEPS):
        hd = product(d)
        curvature = float(d @ hd)
        if curvature <= 1e-14 * float(d @ d):  # flat, as far as can be seen
            return s if s.any() else r
        length = square / curvature
        s += length * d
        r -= length * hd
        before, square = square, float(r @ r)
        if np.sqrt(square) <= tolerance:
            break
        d = r + (square / before) * d
    return s


def _hessian(objective: Objective, coordinates: Coordinates, at: Evaluation, dtype: type[np.floating[Any]]) -> F64:
    """The Hessian in coordinates ``(K - 1, width, K - 1, width)``, the intercept last of ``width``.

    Of its blocks for two classes those above the diagonal are filled; sums over rows are computed in ``dtype``.

    It is that of all classes but the last, which stays where it is until parameters are centred: that changes no
    probability. Of the loss it is ``sum_i s_i (diag(p_i) - p_i p_i') (x) x_i x_i'``; of the penalty, which counts
    centred parameters, the identity less ``1/K``. Coordinates are without a factor, and their penalty of one strength.
    """
    k, p = objective.k, objective.p
    width = p + objective.fit_intercept
    blocks = objective.sum_of_rows(at, _curvatures, coordinates=coordinates, dtype=dtype)
    below = np.tril_indices(width, -1)
    hessian = np.zeros((k - 1, width, k - 1, width))
    for block, c, d in zip(blocks, *np.triu_indices(k - 1), strict=True):
        block[below] = block.T[below]
        hessian[c, :, d] = block
    of_features = np.einsum("cjdj->cdj", hessian)[:, :, :p]
    of_features += coordinates.penalty(objective.penalty.strength) * (np.eye(k - 1) - 1.0 / k)[:, :, None]
    return hessian


def _curvatures(X: Any, probs: F64, weights: F64, coordinates: Coordinates, dtype: type[np.floating[Any]]) -> F64:
    """``sum_i s_i (p_ic [c = d] - p_ic p_id) x_i x_i'`` of some rows: ``(pairs c <= d < K - 1, width, width)``.

    Of each symmetric matrix the upper triangle. Few pairs have a product of matrices each; where there are many, each
    feature has one, with all pairs and all later features: half of the multiply-adds.
    """
    k, width = probs.shape[1], coordinates.size // probs.shape[1]
    first, second = np.triu_indices(k - 1)
    found = np.zeros((len(first), width, width))
    for rows, part in dense_parts(X, max(width, len(first))):
        features, some = coordinates.features(part).T.astype(dtype, "C"), probs[rows].T.astype(np.float64)
        curvatures = -some[first] * some[second]
        curvatures[first == second] += some[:-1]
        curvatures *= weights[rows]
        unit = np.ldexp(1.0, int(np.frexp(np.abs(curvatures).max(initial=0.0))[1]))  # in float32 they might be zeros
        curvatures = (curvatures / unit).astype(dtype, copy=False)
        if len(first) <= _FEW_PAIRS:
            for block, curvature in zip(found, curvatures, strict=True):
                block += (features * curvature) @ features.T * unit
        else:
            for j in range(width):
                found[:, j, j:] += curvatures @ (features[j:] * features[j]).T * unit
    return found


def _solve(hessian: F64, g: F64) -> F64:
    """``hessian^-1 g``; directions without curvature are given a little."""
    diagonal = np.sqrt(np.maximum(np.diag(hessian), np.finfo(np.float64).tiny))
    hessian /= diagonal
    hessian /= diagonal[:, None]
    ridge = 0.0
    for more in (1e-12, 1e-10, 1e-8, 1e-6, 1e-4, 1e-2):
        hessian[np.diag_indices_from(hessian)] += more - ridge
        ridge = more
        try:  # of the transpose, which is the same matrix in the order that LAPACK takes
            factor = scipy.linalg.cho_factor(hessian.T, lower=True, check_finite=False)
        except np.linalg.LinAlgError:
            continue
        return np.asarray(scipy.linalg.cho_solve(factor, g / diagonal, check_finite=False)) / diagonal
    return g
