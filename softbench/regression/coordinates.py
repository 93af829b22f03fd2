"""Coordinates in which the objective is well conditioned.

The Hessian of the loss is at most ``1/2 (I - 11'/K)`` times the matrix of second moments of the features (Boehning,
Annals of the Institute of Statistical Mathematics 1992). In coordinates where that is the identity, a gradient step
is as good as a step with this bound. Centred features make the intercept independent of the other coefficients:

    W = V A        b = c sqrt(2) - W m

with ``m`` the means of the features and ``A`` a factor of the inverse of ``1/2 cov + strength I``: of its diagonal
(scaling), or of all of it (whitening). Only parameters are ever transformed, never ``X``: it may be sparse.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import scipy.linalg
import scipy.sparse
from numpy.typing import NDArray

from softbench.regression.objective import Evaluation, Objective

__all__ = ["Coordinates", "column_moments", "dense_parts", "plain", "scaled", "whitened"]

F64 = NDArray[np.float64]

_ROWS_PER_FEATURE: Final = 16
"""Rows that a covariance is estimated from, for each feature: it only has to be near."""
_LEAST_ROWS: Final = 20_000
_RIDGE: Final = 1e-6
"""Of the correlations: what directions count that the rows do not show."""
_BLOCK_ELEMENTS: Final = 1 << 18
"""Features that are looked at together, about."""


class Coordinates:
    """Parameters as one vector: ``V`` ``(K, p)`` row by row, then ``c`` ``(K,)`` if there is an intercept.

    Parameters
    ----------
    k, p
        Classes and features.
    fit_intercept
        Whether there is an intercept.
    mean
        ``m`` ``(p,)``.
    scale
        ``(p,)``: ``A`` is ``diag(1 / scale)``, or with a factor ``factor diag(1 / scale)``.
    factor
        Lower triangular ``(p, p)``, or None.
    """

    def __init__(self, k: int, p: int, fit_intercept: bool, mean: F64, scale: F64, factor: F64 | None = None) -> None:
        self.k, self.p, self.fit_intercept = k, p, fit_intercept
        self._mean, self._scale, self._factor = mean, scale, factor

    @property
    def size(self) -> int:
        """Length of a vector."""
        return self.k * (self.p + self.fit_intercept)

    def parameters(self, u: F64) -> tuple[F64, F64]:
        """Coefficients ``(K, p)`` and intercept ``(K,)`` of a vector. Linear: it serves directions too."""
        coef: F64 = u[: self.k * self.p].reshape(self.k, self.p)
        if self._factor is not None:
            coef = coef @ self._factor
        coef = coef / self._scale
        if not self.fit_intercept:
            return coef, np.zeros(self.k)
        return coef, np.sqrt(2.0) * u[self.k * self.p :] - coef @ self._mean

    def vector(self, coef: F64, intercept: F64) -> F64:
        """The inverse of `parameters`."""
        v = coef * self._scale
        if self._factor is not None:
            v = scipy.linalg.solve_triangular(self._factor, v.T, lower=True, trans="T", check_finite=False).T
        parts = [v.reshape(-1)]
        if self.fit_intercept:
            parts.append((intercept + coef @ self._mean) / np.sqrt(2.0))
        return np.concatenate(parts)

    def gradient(self, coef: F64, intercept: F64) -> F64:
        """The gradient with respect to a vector, of that with respect to the parameters."""
        g = coef
        if self.fit_intercept:
            g = g - np.outer(intercept, self._mean)
        g = g / self._scale
        if self._factor is not None:
            g = g @ self._factor.T
        parts = [g.reshape(-1)]
        if self.fit_intercept:
            parts.append(np.sqrt(2.0) * intercept)
        return np.concatenate(parts)

    def features(self, X: F64) -> F64:
        """The features of some rows as these coordinates have them, with a last one for the intercept."""
        x = (X - self._mean) / self._scale
        if self._factor is not None:
            x = x @ self._factor.T
        return np.hstack([x, np.full((len(x), 1), np.sqrt(2.0))]) if self.fit_intercept else x

    def penalty(self, strength: float | F64) -> F64:
        """The second derivatives of ``strength |W|^2 / 2`` with respect to ``V``, in coordinates without a factor."""
        assert self._factor is None
        return np.asarray(strength / self._scale**2)

    def gradient_of(self, at: Evaluation) -> F64:
        """`gradient` of an evaluation."""
        return self.gradient(at.coef_gradient, at.intercept_gradient)


def scaled(objective: Objective) -> Coordinates:
    """Coordinates in which every feature has the same spread."""
    mean, scale = _center_and_scale(objective, *column_moments(objective))
    return Coordinates(objective.k, objective.p, objective.fit_intercept, mean, scale)


def whitened(objective: Objective) -> Coordinates:
    """Coordinates in which the features are uncorrelated, as far as a sample of the rows shows."""
    mean, scale = _center_and_scale(objective, *column_moments(objective))
    X, weights = objective.sample(max(_ROWS_PER_FEATURE * objective.p, _LEAST_ROWS))
    gram = np.zeros((objective.p, objective.p))
    for rows, part in dense_parts(X, objective.p):
        part = ((part - mean) / scale * np.sqrt(weights[rows, None])).astype(X.dtype)
        gram += part.T @ part
    gram *= 0.5
    gram[np.diag_indices_from(gram)] += _strength(objective) / scale**2 + _RIDGE
    root = scipy.linalg.cholesky(gram, lower=True, overwrite_a=True, check_finite=False)
    factor, _ = scipy.linalg.lapack.dtrtri(root, lower=1, overwrite_c=1)
    return Coordinates(objective.k, objective.p, objective.fit_intercept, mean, scale, np.ascontiguousarray(factor))


def plain(objective: Objective) -> Coordinates:
    """The parameters themselves."""
    p = objective.p
    return Coordinates(objective.k, p, objective.fit_intercept, np.zeros(p), np.ones(p))


def column_moments(objective: Objective) -> tuple[F64, F64]:
    """Means and variances of the features ``(p,)``, weighted as the rows are, from a sample of many rows."""
    X, weights = objective.sample(_LEAST_ROWS)
    with np.errstate(all="ignore"):
        if scipy.sparse.issparse(X):
            mean = np.asarray(X.T @ weights, np.float64).reshape(-1)
            square = np.asarray(X.multiply(X).T @ weights, np.float64).reshape(-1)
            variance = np.maximum(square - mean**2, 0.0)
        else:
            mean, variance = np.zeros(objective.p), np.zeros(objective.p)
            for rows, part in dense_parts(X, objective.p):  # of float32, a product with all would make a wide copy
                mean += weights[rows] @ part
            for rows, part in dense_parts(X, objective.p):
                variance += weights[rows] @ (part - mean) ** 2
    if not np.isfinite(variance).all():
        j = int(np.argmin(np.isfinite(variance)))
        raise ValueError(f"X has values in feature {j} whose squares overflow: scale the features")
    return mean, variance


def _strength(objective: Objective) -> float:
    strength = objective.penalty.strength
    return strength if isinstance(strength, float) else 0.0


def _center_and_scale(objective: Objective, mean: F64, variance: F64) -> tuple[F64, F64]:
    """``m`` and the scale of each feature; one that seems constant is taken for one like the others."""
    seen = variance > (1e-12 * mean) ** 2
    if not objective.fit_intercept:
        mean, variance = np.zeros_like(mean), variance + mean**2
        seen = variance > 0.0
    scale = np.sqrt(0.5 * variance + _strength(objective))
    scale[~seen] = np.median(scale[seen]) if seen.any() else 1.0
    return mean, scale


def dense_parts(X: Any, width: int) -> Iterator[tuple[slice, Any]]:
    """Some rows at a time, dense, of which ``width`` numbers each are made."""
    step = max(1, _BLOCK_ELEMENTS // max(width, 1))
    by_rows = X.tocsr() if scipy.sparse.issparse(X) else X
    for start in range(0, X.shape[0], step):
        rows = slice(start, min(start + step, X.shape[0]))
        part = by_rows[rows]
        yield rows, part.toarray() if scipy.sparse.issparse(part) else part
