"""The objective of softmax regression, and its derivatives, by the fused linear functions of a backend.

``f(W, b) = sum_i s_i loss_i / sum_i s_i + penalty``, with ``loss_i`` the cross-entropy of row ``i`` under the logits
``W x_i + b`` (Zhao eq. (10)), ``s_i`` its weight, and the penalty a quadratic function of the parameters. One
evaluation reads ``X`` once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softbench.front.backend import Backend
from softbench.front.linear_problem import LinearProblem

__all__ = ["Evaluation", "Objective", "Penalty"]

F64 = NDArray[np.float64]


@dataclass(frozen=True)
class Penalty:
    """``sum(strength (W - coef)**2) / 2``, and the same for the intercept."""

    strength: float | F64
    """A number, or one per coefficient ``(K, p)``."""
    coef: F64 | float = 0.0
    intercept_strength: float | F64 = 0.0
    intercept: F64 | float = 0.0

    def value(self, coef: F64, intercept: F64) -> float:
        """The penalty."""
        rest = np.sum(self.intercept_strength * (intercept - self.intercept) ** 2)
        if isinstance(self.strength, float) and isinstance(self.coef, float) and self.coef == 0.0:
            return 0.5 * float(self.strength * np.einsum("ij,ij->", coef, coef) + rest)  # no temporary, no threads
        return 0.5 * float(np.sum(self.strength * (coef - self.coef) ** 2) + rest)


@dataclass(frozen=True)
class Evaluation:
    """The objective at a point."""

    coef: F64
    intercept: F64
    value: float
    loss: float
    """The value without the penalty."""
    coef_gradient: F64
    intercept_gradient: F64
    """Zero where the model has no intercept."""

    @property
    def gradient_norm(self) -> float:
        """The largest entry of the gradient, in absolute value."""
        parts = (np.abs(g).max(initial=0.0) for g in (self.coef_gradient, self.intercept_gradient))
        return float(max(parts))


class Objective:
    """The objective for some data.

    Parameters
    ----------
    backend
        Computes.
    X
        ``(N, p)`` float32 or float64, dense or CSR or CSC. Logits are computed in its dtype: see `widen`.
    labels
        ``(N,)`` class indices.
    n_classes
        K.
    sample_weight
        ``(N,)`` >= 0, not all 0, or None.
    penalty
        On the parameters.
    fit_intercept
        Whether there is an intercept.
    """

    def __init__(
        self,
        backend: Backend,
        X: Any,
        labels: NDArray[np.int64],
        n_classes: int,
        sample_weight: F64 | None,
        penalty: Penalty,
        fit_intercept: bool,
    ) -> None:
        self.backend, self.penalty, self.fit_intercept = backend, penalty, fit_intercept
        self.X, self.labels, self.sample_weight = X, labels, sample_weight
        on_device = backend.availability().kind != "cpu"
        given = [
            backend.asarray(part) if on_device and part is not None else part for part in (X, labels, sample_weight)
        ]
        self._problem = LinearProblem(backend.rows, given[0])
        self._problem.set_target(given[1], n_classes, sample_weight=given[2], validate=False)
        self._problem.prepare(n_classes)
        self.n: int = X.shape[0]
        self.p: int = X.shape[1]
        self.k = n_classes
        self.total_weight = self._total_weight()
        """Of all rows."""
        self.evaluations = 0
        """How often the loss and its gradient were computed."""
        self.products = 0
        """How many products with the Hessian were computed."""

    def _total_weight(self) -> float:
        return float(self.n) if self.sample_weight is None else math.fsum(self.sample_weight)

    @property
    def eps(self) -> float:
        """The unit in which rounding errors of the objective are counted."""
        return float(np.finfo(self._problem.compute).eps)

    def widen(self) -> bool:
        """Compute in float64 from now on, block by block; False if that is so already."""
        if self._problem.compute == "float64":
            return False
        self._problem.compute = "float64"
        return True

    @property
    def shares(self) -> F64:
        """The share of each class in the weight of all rows ``(K,)``."""
        counts = np.bincount(self.labels, self.sample_weight, self.k)
        return np.asarray(counts / counts.sum(), np.float64)

    def __call__(self, coef: F64, intercept: F64) -> Evaluation:
        """Evaluate at ``coef`` ``(K, p)`` and ``intercept`` ``(K,)``."""
        loss, g, h = self.loss_gradient(coef, intercept)
        penalty = self.penalty
        if isinstance(penalty.coef, float) and penalty.coef == 0.0:
            g += penalty.strength * coef
        else:
            g += penalty.strength * (coef - penalty.coef)
        h = h + penalty.intercept_strength * (intercept - penalty.intercept) if self.fit_intercept else 0.0 * intercept
        return Evaluation(coef, intercept, loss + penalty.value(coef, intercept), loss, g, h)

    def loss_gradient(self, coef: F64, intercept: F64) -> tuple[float, F64, F64]:
        """The loss alone, and its gradients."""
        self.evaluations += 1
        w, b = self._parameters(coef, intercept)
        losses, *gradients = self._problem.loss_and_gradient(w, b)
        loss, g, h = self._computed(self._problem.reduced(losses, False), *gradients)
        return float(loss), g - g.mean(axis=0), h - h.mean()  # sums over the classes are 0 but for rounding

    def _computed(self, *results: Any) -> tuple[Any, ...]:
        """Results as NumPy arrays."""
        return tuple(self.backend.to_numpy(result) for result in results)

    def hessian_product(self, at: Evaluation, coef: F64, intercept: F64, probs: Any | None) -> tuple[F64, F64]:
        """The Hessian at a point times a direction; ``probs`` as `probabilities` returned them there, or None."""
        self.products += 1
        w, b = self._parameters(at.coef, at.intercept)
        v, c = self._parameters(coef, intercept)
        g, h = self._computed(*self._problem.hessian_product(w, b, v, c, probs))
        g = g + self.penalty.strength * coef
        h = h + self.penalty.intercept_strength * intercept if self.fit_intercept else 0.0 * intercept
        return g, h

    def probabilities(self, at: Evaluation) -> Any:
        """Probabilities ``(N, K)`` at a point, of the dtype that logits are computed in; None where none are kept."""
        w, b = self._parameters(at.coef, at.intercept)
        rows = self.backend.rows
        return rows.linear_softmax(self._problem.x, w, b, rows.empty((self.n, self.k), self._problem.compute))

    def _parameters(self, coef: F64, intercept: F64) -> tuple[Any, Any]:
        rows, dtype = self.backend.rows, self._problem.compute
        w = rows.as_rows(self.backend.asarray(coef), 1, dtype)
        return w, rows.as_rows(self.backend.asarray(intercept.reshape(1, -1)), 1, dtype).reshape(-1)

    def sum_of_rows(self, at: Evaluation, function: Callable[..., F64], **options: Any) -> F64:
        """``function(X, probabilities, weights, **options)``, which is a sum over rows; weights as `weights`."""
        (probs,) = self._computed(self.probabilities(at))
        return function(self.X, probs, self.weights(slice(0, self.n)), **options)

    def sample(self, size: int) -> tuple[Any, F64]:
        """Rows at equal distances, at least ``size`` of them if there are so many, and their weights with sum 1."""
        weights = self.weights(slice(0, self.n))
        step = max(1, self.n // size)
        if getattr(self.X, "format", "") == "csc" or weights[::step].sum() <= 0.0:
            step = 1
        some = weights[::step]
        return (self.X[::step] if step > 1 else self.X), some / some.sum()

    def weights(self, rows: slice) -> F64:
        """Weights of some rows, of all of which the sum is 1."""
        if self.sample_weight is None:
            return np.full(rows.stop - rows.start, 1.0 / self.n)
        return np.asarray(self.sample_weight[rows] / self.total_weight)
