"""What came of a fit, and how far at most it is from the optimum."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from softbench.regression.objective import Evaluation, Objective

__all__ = ["FitResult", "Status", "suboptimality_bound"]

F64 = NDArray[np.float64]
Status = Literal["converged", "max_iter", "precision"]


@dataclass(frozen=True)
class FitResult:
    """How a fit went: attribute ``result_`` of `softbench.SoftmaxRegression`.

    Objectives are those the estimator states: the weighted mean of the losses, and the penalty.

    Parameters
    ----------
    status : {"converged", "max_iter", "precision"}
        The gradient is within ``tol``; it was not after so many iterations; rounding errors hid any further decrease.
    message : str
        The same in words.
    solver : str
        Which solver ran.
    reason : str
        Why this one, and in which coordinates.
    backend : str
        Which backend computed.
    n_iter : int
        Iterations.
    n_evaluations : int
        How often the loss and its gradient were computed: readings of ``X``.
    n_hessian_products : int
        How many products with the Hessian were computed.
    objective : float
        At the end.
    gradient_norm : float
        The largest entry of the gradient in absolute value, as ``tol`` judges it.
    suboptimality_bound : float
        ``objective`` exceeds the minimum by no more than this, up to rounding: see `suboptimality_bound`. After
        `SoftmaxRegression.partial_fit` it is the objective itself, which is not negative.
    history : array of float64, shape (evaluations,)
        The objective at every evaluation, rejected steps too.
    seconds : array of float64, shape (evaluations,)
        When each evaluation was done, since the start.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from softbench import SoftmaxRegression
    >>> X, y = load_iris(return_X_y=True)
    >>> result = SoftmaxRegression(backend="numpy").fit(X, y).result_
    >>> result.status
    'converged'
    """

    status: Status
    message: str
    solver: str
    reason: str
    backend: str
    n_iter: int
    n_evaluations: int
    n_hessian_products: int
    objective: float
    gradient_norm: float
    suboptimality_bound: float
    history: F64 = field(repr=False)
    seconds: F64 = field(repr=False)

    @property
    def converged(self) -> bool:
        """Whether the gradient is within ``tol``.

        Examples
        --------
        >>> from sklearn.datasets import load_iris
        >>> from softbench import SoftmaxRegression
        >>> X, y = load_iris(return_X_y=True)
        >>> result = SoftmaxRegression(backend="numpy").fit(X, y).result_
        >>> result.converged
        True
        """
        return self.status == "converged"

    @property
    def lower_bound(self) -> float:
        """No parameters have a smaller objective, up to rounding.

        Examples
        --------
        >>> from sklearn.datasets import load_iris
        >>> from softbench import SoftmaxRegression
        >>> X, y = load_iris(return_X_y=True)
        >>> result = SoftmaxRegression(backend="numpy").fit(X, y).result_
        >>> result.lower_bound <= result.objective
        True
        """
        return self.objective - self.suboptimality_bound

    @property
    def relative_suboptimality(self) -> F64:
        """How far above `lower_bound` each evaluation was, over how far the first one was: at most that far from 0.

        Examples
        --------
        >>> from sklearn.datasets import load_iris
        >>> from softbench import SoftmaxRegression
        >>> X, y = load_iris(return_X_y=True)
        >>> result = SoftmaxRegression(backend="numpy").fit(X, y).result_
        >>> float(result.relative_suboptimality[0])
        1.0
        """
        above = self.history - self.lower_bound
        return np.asarray(above / above[0] if above[0] > 0.0 else np.zeros_like(above))


def suboptimality_bound(objective: Objective, at: Evaluation) -> float:
    """An upper bound on ``f(at) - min f``, for a penalty ``strength |W|^2 / 2``.

    It is the gap to the dual objective. To any distributions ``P`` over the classes, one for each row, whose mean is
    that of the labels (only then, because the intercept is not penalised), there belongs a lower bound::

        - mean_i sum_k P_ik log P_ik - |G|^2 / (2 strength),    G = mean_i (p_i - y_i) x_i'

    The model's own probabilities ``p`` have that mean where the intercept's gradient ``h`` is 0, and then the gap is
    ``|gradient|^2 / (2 strength)``, which strong convexity gives too. Elsewhere they are mixed with as little of a
    distribution ``q``, the same for all rows, as gives them that mean: ``t``, of the order of ``h``. The entropy is
    concave, so the gap is at most::

        |strength W + G'|^2 / (2 strength) + t (loss - <W, R>) + (1 - t) <b, h>,    G' = (1 - t) G + t R

    where ``R`` is the gradient of the loss at coefficients 0 and intercept ``log q``: one more evaluation.

    Without a penalty the only bound is that losses are not negative.

    Parameters
    ----------
    objective : Objective
        ``f``.
    at : Evaluation
        Where it was evaluated.

    Returns
    -------
    float
        The bound, 0 at least.

    Examples
    --------
    `FitResult.suboptimality_bound` is the bound at the end of a fit:

    >>> from sklearn.datasets import load_iris
    >>> from softbench import SoftmaxRegression
    >>> X, y = load_iris(return_X_y=True)
    >>> 0.0 <= SoftmaxRegression(backend="numpy").fit(X, y).result_.suboptimality_bound < 1e-4
    True
    """
    strength = objective.penalty.strength
    assert isinstance(strength, float)
    if strength == 0.0:
        return at.value
    loss_gradient = at.coef_gradient - strength * at.coef
    h = at.intercept_gradient
    share, rest = 0.0, np.zeros_like(loss_gradient)
    if objective.fit_intercept and np.any(h != 0.0):
        h = h - h.mean()  # the sum is 0 but for rounding
        mean = objective.shares + h
        share = min(1.0, float(np.max(np.divide(h, mean, out=np.zeros_like(h), where=mean > 0.0))))
        share = max(share, np.finfo(np.float64).tiny)
        q = np.maximum(mean - h / share, 0.0)
        with np.errstate(divide="ignore"):
            rest = objective.loss_gradient(np.zeros_like(at.coef), np.log(q / q.sum()))[1]
    mixed = (1.0 - share) * loss_gradient + share * rest
    residual = strength * at.coef + mixed
    bound = float(np.vdot(residual, residual)) / (2.0 * strength)
    bound += share * (at.loss - float(np.vdot(at.coef, rest))) + (1.0 - share) * float(at.intercept @ h)
    # No parameters are better than those with which every loss is 0.
    return min(max(bound, 0.0), at.value) if math.isfinite(bound) else at.value
