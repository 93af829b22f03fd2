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

from softbench.regression.objective import Evaluation, Objective, Penalty

__all__ = ["Coordinates", "column_moments", "decorrelated", "dense_parts", "plain", "scaled", "whitened"]

F64 = NDArray[np.float64]

_ROWS_PER_FEATURE: Final = 16
"""Rows that a covariance is estimated from, for each feature: it only has to be near."""
_LEAST_ROWS: Final = 20_000
_RIDGE: Final = 1e-6
"""Of the correlations: what directions count that the rows do not show."""
_ALIKE: Final = 100.0
"""Ratio of scales up to which eigenvectors of the features as they are show all of them."""
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
        ``(p, p)``, or None: lower triangular, unless there is an ``inverse``.
    inverse
        Of ``factor``, or None.
    """

    def __init__(
        self,
        k: int,
        p: int,
        fit_intercept: bool,
        mean: F64,
        scale: F64,
        factor: F64 | None = None,
        inverse: F64 | None = None,
    ) -> None:
        self.k, self.p, self.fit_intercept = k, p, fit_intercept
        self._mean, self._scale, self._factor, self._inverse = mean, scale, factor, inverse

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
        if self._inverse is not None:
            v = v @ self._inverse
        elif self._factor is not None:
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

    def diagonal(self, penalty: Penalty) -> tuple[F64, F64]:
        """The diagonals of a bound on the loss's Hessian, about, and of the penalty's, each of the size of a vector.

        Together they are 1 in all coordinates but `plain`, which count any penalty of one strength.
        """
        strength = np.broadcast_to(penalty.strength, (self.k, self.p))
        if self._factor is None:
            of_penalty = strength / self._scale**2
        else:
            of_penalty = strength @ np.square(self._factor / self._scale).T
        parts = [of_penalty.reshape(-1)]
        of_loss = [
            np.maximum(1.0 - parts[0], _RIDGE) if isinstance(penalty.strength, float) else np.ones(parts[0].size)
        ]
        if self.fit_intercept:
            parts.append(np.broadcast_to(2.0 * penalty.intercept_strength, self.k))
            of_loss.append(np.ones(self.k))
        return np.concatenate(of_loss), np.concatenate(parts)

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
    root = scipy.linalg.cholesky(_bound(objective, mean, scale), lower=True, overwrite_a=True, check_finite=False)
    factor, _ = scipy.linalg.lapack.dtrtri(root, lower=1, overwrite_c=1)
    return Coordinates(objective.k, objective.p, objective.fit_intercept, mean, scale, np.ascontiguousarray(factor))


def decorrelated(objective: Objective) -> Coordinates:
    """`whitened`, and where no feature is scaled badly the penalty's part of the Hessian is diagonal besides.

    Takes the eigenvectors of the covariance where `whitened` takes a factor, in some twenty times as long.
    """
    mean, scale = _center_and_scale(objective, *column_moments(objective))
    if scale.max() < _ALIKE * scale.min():
        scale = np.full_like(scale, np.sqrt(np.mean(scale**2)))
    bound = _bound(objective, mean, scale)
    squares, vectors = scipy.linalg.eigh(bound, driver="evd", overwrite_a=True, check_finite=False)
    roots = np.sqrt(np.maximum(squares, _RIDGE))
    factor, inverse = vectors.T / roots[:, None], vectors * roots
    return Coordinates(objective.k, objective.p, objective.fit_intercept, mean, scale, factor, inverse)


def _bound(objective: Objective, mean: F64, scale: F64) -> F64:
    """Boehning's bound on the Hessian for features centred and scaled: of one class ``(p, p)``."""
    X, weights = objective.sample(max(_ROWS_PER_FEATURE * objective.p, _LEAST_ROWS))
    gram = np.zeros((objective.p, objective.p))
    for rows, part in dense_parts(X, objective.p):
        part = ((part - mean) / scale * np.sqrt(weights[rows, None])).astype(X.dtype)
        gram += part.T @ part
    gram *= 0.5
    gram[np.diag_indices_from(gram)] += _strength(objective) / scale**2 + _RIDGE
    return gram


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
