"""L-BFGS for many parameters, with its memory in float32 and a first guess of the Hessian that knows the penalty.

SciPy's L-BFGS-B keeps some 25 float64 arrays of the size of the parameters, and solves a subproblem for bounds that
there are none of. From some ten thousand parameters on that takes longer than the objective. Here steps and changes of
the gradient are kept in float32 (the iterates stay float64), and an iteration reads each of them twice: Nocedal,
"Updating quasi-Newton matrices with limited storage", Mathematics of Computation 1980.

The first guess of the Hessian, before these corrections, is a multiple of ``curvature L + P``, with ``L`` the diagonal
of a bound on the loss's part and ``P`` that of the penalty's (`Coordinates.diagonal`). The bound holds for two classes
of probability 1/2; among many classes the loss curves far less, and what the penalty does is known exactly.
"""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import blas

from softbench.regression.descent import Descent
from softbench.regression.objective import Evaluation

__all__ = ["CORRECTIONS", "minimise"]

F64 = NDArray[np.float64]
F32 = NDArray[np.float32]

CORRECTIONS: Final = 10
"""Pairs of steps and gradients that are kept, as scikit-learn's."""
_ARMIJO: Final = 1e-4
_WOLFE: Final = 0.9
_TRIALS: Final = 30
_LEAST_CURVATURE: Final = 1e-6
"""Of the loss, relative to its bound: rows of a single class have none."""
_LONGER: Final = 4.0
"""How much longer a step is made that ends where the slope is as steep as at its beginning."""


class _Pair(NamedTuple):
    """A step, and what it changed the gradient by, both in a unit of their own."""

    step: F32
    change: F32
    scale: float
    """One over their product."""


class Reached(NamedTuple):
    """The end of a step."""

    u: F64
    evaluation: Evaluation
    gradient: F64


class LimitedMemory:
    """The last steps, and the inverse Hessian that they show.

    Parameters
    ----------
    loss, penalty
        The diagonals of a bound on the Hessian ``(size,)``: of the loss's part, and of the penalty's.
    curvature
        Of the loss relative to its bound, about. The first step is taken by the bound: it leads downwards.
    """

    def __init__(self, loss: F64, penalty: F64, curvature: float) -> None:
        self._bound = loss + penalty
        self._guess = curvature * loss + penalty
        self._unit = 1.0
        """Of the guess: as the last step shows it."""
        self._pairs: deque[_Pair] = deque(maxlen=CORRECTIONS)

    @property
    def empty(self) -> bool:
        """Whether nothing is known but the bound."""
        return not self._pairs

    def add(self, step: F64, change: F64) -> None:
        """Take in a step; one along which the gradient did not grow teaches nothing."""
        product = _dot(step, change)
        if product <= np.finfo(np.float64).eps * _dot(change, change):
            return
        unit = float(np.abs(step).max())  # float32 has a small range
        short, difference = (step / unit).astype(np.float32), (change / unit).astype(np.float32)
        self._pairs.append(_Pair(short, difference, unit * unit / product))
        self._unit = float(np.sum(change * change / self._guess)) / product

    def direction(self, gradient: F64) -> F64:
        """Minus the inverse Hessian times the gradient."""
        unit = float(np.abs(gradient).max(initial=0.0)) or 1.0
        q = (gradient / unit).astype(np.float32)
        lengths = []
        for pair in reversed(self._pairs):
            lengths.append(pair.scale * float(blas.sdot(pair.step, q)))
            blas.saxpy(pair.change, q, a=-lengths[-1])
        q /= self._unit * self._guess if self._pairs else self._bound
        for pair in self._pairs:
            blas.saxpy(pair.step, q, a=lengths.pop() - pair.scale * float(blas.sdot(pair.change, q)))
        return q * np.float64(-unit)


def _dot(a: F64, b: F64) -> float:
    """By one thread: two arrays are read in less time than a second one takes to wake."""
    return float(np.einsum("i,i->", a, b))


def search(descent: Descent, start: Reached, direction: F64, slope: float) -> Reached | None:
    """Along ``direction`` to where the objective has decreased and its slope has flattened; None if there is no such.

    Where the decrease drowns in rounding errors the slopes decide (Hager and Zhang, SIAM Journal on Optimization 2005,
    "approximate Wolfe conditions").
    """
    at = start.evaluation
    noise = 8.0 * descent.objective.eps * abs(at.value)
    low, high, size = 0.0, np.inf, 1.0
    best: Reached | None = None
    for _ in range(_TRIALS):
        u = start.u + size * direction
        evaluation = descent.evaluate(u)
        found = Reached(u, evaluation, descent.coordinates.gradient_of(evaluation))
        end = _dot(found.gradient, direction)
        gain = evaluation.value - at.value
        decreased = gain <= _ARMIJO * size * slope or (gain <= noise and end <= (2.0 * _ARMIJO - 1.0) * slope)
        if not (decreased and np.isfinite(end)):
            high = size
            bent = 2.0 * (gain - size * slope)  # of the parabola through both ends: twice its second-order part
            vertex = -slope * size * size / bent if np.isfinite(gain) and bent > 0.0 else 0.0
            size = low + (high - low) * min(0.5, max(0.1, (vertex - low) / (high - low)))
        elif end < _WOLFE * slope:
            best, low = found, size
            size = _LONGER * size if high == np.inf else 0.5 * (low + high)
        else:
            return found
        if size * abs(slope) < 1e-3 * noise:
            break
    return best


def minimise(descent: Descent, u: F64) -> F64:
    """From ``u`` until it has converged or may not go on, or knows no direction in which there is a decrease."""
    diagonal = descent.coordinates.diagonal(descent.objective.penalty)
    shares = descent.objective.shares
    # Half of what it is at the beginning, where probabilities are the classes' shares: it falls on the way.
    curvature = max(_LEAST_CURVATURE, float(np.mean(shares * (1.0 - shares))))
    memory = LimitedMemory(*diagonal, curvature)
    at = Reached(u, descent.evaluation, descent.coordinates.gradient_of(descent.evaluation))
    while not descent.converged and descent.iterations < descent.max_iter:
        direction = memory.direction(at.gradient)
        slope = _dot(direction, at.gradient)
        found = search(descent, at, direction, slope) if slope < 0.0 else None
        if found is None:
            if memory.empty:
                break
            memory = LimitedMemory(*diagonal, curvature)
            continue
        memory.add(found.u - at.u, found.gradient - at.gradient)
        at = found
        descent.accept(at.evaluation)
    return at.u
