"""`SoftmaxRegression`, by the conventions of scikit-learn."""

from __future__ import annotations

import warnings
from numbers import Integral, Real
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, _fit_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model._base import SparseCoefMixin
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import validate_data

from softbench.front.backend import Backend
from softbench.regression.advice import choose, choose_backend, refuse_data_in_memory, unconverged
from softbench.regression.blocks import BlockedObjective, accept_blocks, blocks_in_turn, is_dask
from softbench.regression.coordinates import Coordinates
from softbench.regression.descent import Descent
from softbench.regression.minimisation import minimise
from softbench.regression.objective import Evaluation, Objective, Penalty
from softbench.regression.predictions import Predictions, kept_dtypes
from softbench.regression.progress import reporter
from softbench.regression.solvers import SOLVERS
from softbench.regression.stream import Memory
from softbench.regression.weights import check_classes, row_weights

__all__ = ["SoftmaxRegression"]

F64 = NDArray[np.float64]
_LEAST_SHARE: Final = 1e-6
"""Of a class in the weight of all rows, where its logarithm starts as the intercept."""


class SoftmaxRegression(Predictions, SparseCoefMixin, ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn is untyped
    """Softmax (multinomial logistic) regression, trained on fused kernels that read ``X`` once per evaluation.

    It minimises, over coefficients ``W`` ``(K, p)`` and intercept ``b`` ``(K,)``::

        sum_i s_i loss(W x_i + b, y_i) / sum_i s_i  +  alpha / 2 |W|^2

    where ``loss`` is the cross-entropy (Zhao eq. (10)), ``s_i`` the weight of a row (its sample weight times the weight
    of its class) and ``alpha = 1 / (C sum_i s_i)``. The intercept is not penalised. This is the objective of
    `sklearn.linear_model.LogisticRegression`, over ``C sum_i s_i``, with the same minimum.

    Two classes are presented as scikit-learn does: ``coef_`` ``(1, p)`` is the one row ``w`` of the second class
    against the first, and the penalty is ``alpha / 2 |w|^2``.

    Parameters
    ----------
    C : float, default=1.0
        Inverse strength of the penalty, relative to the sum of the losses as in scikit-learn; ``inf``: no penalty.
    alpha : float or None, default=None
        Strength of the penalty relative to the mean of the losses, so independent of the number of rows. In place of
        ``C``, which is ignored then.
    fit_intercept : bool, default=True
        Whether there is an intercept.
    solver : {"auto", "lbfgs", "newton-cg", "newton-cholesky"}, default="auto"
        "lbfgs": L-BFGS; some 20 float64 arrays of the size of the coefficients (to 16,384 of them SciPy's L-BFGS-B).
        "newton-cg": Newton's method with conjugate gradients; some 10 such arrays. "newton-cholesky": Newton's method
        with the whole Hessian, of ``((K - 1) (p + 1))^2`` numbers. "auto" chooses by shape; `result_` says why.
    precondition : {"auto", "whiten", "scale", "none"}, default="auto"
        Parameters in which the problem is solved: those of features that are uncorrelated, those of features of equal
        spread, or as they are. Changes the way to the minimum and not the minimum.
    backend : str, `softbench.Backend` or None, default=None
        What computes. None: the one in use (`softbench.use_backend`, ``$SOFTBENCH_BACKEND``), else "numba", or for
        problems so small that compiling would take longer than they do, "numpy".
    tol : float, default=1e-4
        The largest entry of the gradient, in absolute value, with which the fit has converged.
    max_iter : int, default=1000
        Most iterations.
    class_weight : dict, "balanced" or None, default=None
        Weights of classes by label.
    warm_start : bool, default=False
        Start from the coefficients of the last fit. Classes are matched by label: those that are new start at 0, those
        that are missing are dropped.
    n_threads : int or None, default=None
        Most threads to compute on; None: as many as libraries like.
    verbose : int, default=0
        1: say which solver runs and why, and how it ended. 2: with a progress bar.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Labels.
    coef_ : ndarray of shape (n_classes, n_features), or (1, n_features) for two classes
        Coefficients, of the dtype of ``X``. With a penalty those of all classes sum to 0.
    intercept_ : ndarray of shape (n_classes,) or (1,)
        Intercept, 0 without one.
    n_iter_ : ndarray of shape (1,)
        Iterations.
    result_ : `softbench.regression.FitResult`
        How the fit went: why it stopped, how far at most it is from the minimum, the objective at every evaluation.
    n_features_in_, feature_names_in_
        As everywhere in scikit-learn.

    Raises
    ------
    ImportError
        When it is first asked for and scikit-learn is not installed.
    ValueError, TypeError
        For parameters and data that scikit-learn's own checks refuse, fewer than two classes, weights that are
        negative or all 0.

    Warns
    -----
    ConvergenceWarning
        If it stops before the gradient is within ``tol``; names a feature that is scaled badly, and a remedy.

    Notes
    -----
    float32 data are computed in float32, with sums over rows in float64, and where rounding hides further progress in
    float64, block by block; iterates are float64 always.

    References
    ----------
    Lei Zhao, *Softmax Regression*, equations (1)-(11).

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> import softbench as sb
    >>> X, y = load_iris(return_X_y=True)
    >>> model = sb.SoftmaxRegression().fit(X, y)
    >>> float(model.score(X, y))
    0.9733333333333334
    >>> model.result_.status
    'converged'
    """

    _memory: Memory
    """Of the rows that `partial_fit` has taken in."""
    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "C": [Interval(Real, 0, None, closed="right")],
        "alpha": [Interval(Real, 0, None, closed="left"), None],
        "fit_intercept": ["boolean"],
        "solver": [StrOptions({"auto", *SOLVERS})],
        "precondition": [StrOptions({"auto", "whiten", "scale", "none"})],
        "backend": [str, Backend, None],
        "tol": [Interval(Real, 0, None, closed="left")],
        "max_iter": [Interval(Integral, 0, None, closed="left")],
        "class_weight": [dict, StrOptions({"balanced"}), None],
        "warm_start": ["boolean"],
        "n_threads": [Interval(Integral, 1, None, closed="left"), None],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        C: float = 1.0,
        *,
        alpha: float | None = None,
        fit_intercept: bool = True,
        solver: str = "auto",
        precondition: str = "auto",
        backend: str | Backend | None = None,
        tol: float = 1e-4,
        max_iter: int = 1000,
        class_weight: Any = None,
        warm_start: bool = False,
        n_threads: int | None = None,
        verbose: int = 0,
    ) -> None:
        self.C = C
        self.alpha = alpha
        self.fit_intercept = fit_intercept
        self.solver = solver
        self.precondition = precondition
        self.backend = backend
        self.tol = tol
        self.max_iter = max_iter
        self.class_weight = class_weight
        self.warm_start = warm_start
        self.n_threads = n_threads
        self.verbose = verbose

    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> SoftmaxRegression:
        """Fit the model to data.

        Parameters
        ----------
        X : {array-like, sparse matrix, Dask array or dataframe} of shape (n_samples, n_features)
            Features. float32 stays float32, CSR and CSC stay sparse, no layout is copied. Of Dask: blocks of rows.
        y : array-like of shape (n_samples,)
            Labels.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows, >= 0.

        Returns
        -------
        SoftmaxRegression
            The fitted estimator, ``self``.

        Raises
        ------
        ValueError
            ``y`` has one class; arguments do not fit together or are not finite; backend "dask" for ``X`` in memory.

        Examples
        --------
        >>> from sklearn.datasets import load_iris
        >>> from softbench import SoftmaxRegression
        >>> X, y = load_iris(return_X_y=True)
        >>> SoftmaxRegression(backend="numpy").fit(X, y).classes_
        array([0, 1, 2])
        """
        classes, objective = (self._blocks if is_dask(X) else self._rows_in_memory)(X, y, sample_weight)
        start = self._start(classes, objective)
        with self._threads(objective.backend):
            choice = choose(objective, self.solver, self.precondition)
            self._run(objective, choice.coordinates(objective), choice.solver, choice.reason, start)
        self._set_parameters(classes, objective, objective.X.dtype)
        self.__dict__.pop("_memory", None)
        if not self.result_.converged:
            said = unconverged(objective, self.result_, self._names(), self.tol)
            warnings.warn(said, ConvergenceWarning, stacklevel=2)
        return self

    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> SoftmaxRegression:
        """Take in some more rows of a stream.

        The rows of earlier calls are summed up by a quadratic function: the diagonal of their Hessian, around the
        coefficients they led to. What is minimised is the loss of the rows at hand, plus that. So every row counts as
        much as any other however they are divided into calls, up to what the quadratic function leaves out; it takes
        as much memory as the coefficients.

        The first call after `fit` begins a stream of its own: it starts at the coefficients of the fit, and knows
        nothing of its rows.

        Parameters
        ----------
        X : {array-like, sparse matrix, Dask array or dataframe} of shape (n_samples, n_features)
            Features, as for `fit`. Of Dask one block of rows after another is computed and taken in.
        y : array-like of shape (n_samples,)
            Labels, all of them among ``classes``.
        classes : array-like of shape (n_classes,)
            All labels that will ever occur. Required in the first call of a new estimator, and the same, or None, in
            later ones.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows, >= 0.

        Returns
        -------
        SoftmaxRegression
            The fitted estimator, ``self``.

        Raises
        ------
        ValueError
            A first call without ``classes``, later ones with others, or with labels that are not among them.

        Examples
        --------
        >>> from sklearn.datasets import load_iris
        >>> from softbench import SoftmaxRegression
        >>> X, y = load_iris(return_X_y=True)
        >>> model = SoftmaxRegression(backend="numpy")
        >>> for rows in (slice(0, 75), slice(75, None)):
        ...     model = model.partial_fit(X[rows], y[rows], classes=[0, 1, 2])
        >>> model.classes_
        array([0, 1, 2])
        """
        if is_dask(X):
            for block in blocks_in_turn(self, X, y, sample_weight):
                self.partial_fit(*block[:2], classes, block[2])
            return self
        first = not hasattr(self, "_memory")
        fitted = hasattr(self, "classes_")
        if not fitted and classes is None:
            raise ValueError("classes must be passed on the first call to partial_fit")
        if isinstance(self.class_weight, str):
            raise ValueError(
                f"class_weight is {self.class_weight!r}, and the shares of classes in a stream are not known: "
                f"expected a dict or None in partial_fit"
            )
        X, y = self._validated(X, y, reset=not fitted)
        known = self.classes_ if fitted else np.unique(classes)
        if classes is not None and not np.array_equal(known, np.unique(classes)):
            raise ValueError(f"classes are {np.unique(classes)}, and were {known} before")
        if len(known) < 2:
            raise ValueError(f"classes holds {known}: expected at least two classes")
        strange = np.setdiff1d(y, known)
        if strange.size:
            raise ValueError(f"y has the label {strange[0]!r}, which is not in classes ({known})")
        labels = np.searchsorted(known, y)
        weights = row_weights(sample_weight, self.class_weight, X, y, known, labels)
        memory: Memory = Memory(len(known), X.shape[1]) if first else self._memory
        objective = self._objective(X, labels, len(known), weights)
        memory.begin(objective, *self._strengths(len(known)))
        start = (memory.coef, memory.intercept) if not first else self._start(known, objective, fitted)
        with self._threads(objective.backend):
            reason = "partial_fit: few corrections to coefficients that are nearly right"
            self._run(objective, memory.coordinates(objective), "lbfgs", reason, start)
            memory.end(objective, self._at)
        self._set_parameters(known, objective, X.dtype)
        self._memory = memory
        return self

    def _validated(self, X: Any, y: Any, reset: bool) -> tuple[Any, Any]:
        X, y = validate_data(self, X, y, accept_sparse=["csr", "csc"], dtype=kept_dtypes(X), reset=reset, order=None)
        check_classification_targets(y)
        return X, y

    def _rows_in_memory(self, X: Any, y: Any, sample_weight: Any) -> tuple[NDArray[Any], Objective]:
        """Classes, and the objective of a fit."""
        refuse_data_in_memory(self.backend, X)
        X, y = self._validated(X, y, reset=True)
        classes, labels = np.unique(y, return_inverse=True)
        check_classes(classes)
        weights = row_weights(sample_weight, self.class_weight, X, y, classes, labels)
        return classes, self._objective(X, labels, len(classes), weights)

    def _blocks(self, X: Any, y: Any, sample_weight: Any) -> tuple[NDArray[Any], Objective]:
        """Classes, and the objective of a fit on a Dask array or dataframe."""
        data = accept_blocks(self, X, y, sample_weight, self.class_weight)
        k = len(data.classes)
        of_sum, of_mean = self._strengths(k)
        backend = choose_backend(self.backend, data.X, k, self.n_threads)
        penalty = Penalty(of_mean + of_sum / float(data.counts.sum()))
        return data.classes, BlockedObjective(backend, data, penalty, bool(self.fit_intercept))

    def _strengths(self, k: int) -> tuple[float, float]:
        """Strength of the penalty relative to the sum of the losses, and to their mean, for ``k`` rows of coefficients.

        Of two classes those rows are ``-w/2`` and ``w/2``: ``|W|^2`` is half of ``|w|^2``.
        """
        twice = 2.0 if k == 2 else 1.0
        if self.alpha is not None:
            return 0.0, twice * float(self.alpha)
        return twice / float(self.C), 0.0

    def _objective(self, X: Any, labels: NDArray[np.int64], k: int, weights: F64 | None) -> Objective:
        of_sum, of_mean = self._strengths(k)
        total = X.shape[0] if weights is None else float(weights.sum())
        backend = choose_backend(self.backend, X, k)
        labels = np.ascontiguousarray(labels, np.int64)
        return Objective(backend, X, labels, k, weights, Penalty(of_mean + of_sum / total), bool(self.fit_intercept))

    def _start(self, classes: Any, objective: Objective, warm: bool | None = None) -> tuple[F64, F64]:
        """Coefficients to start from, which sum to 0 over the classes."""
        k, p = objective.k, objective.p
        coef = np.zeros((k, p))
        intercept = np.log(np.maximum(objective.shares, _LEAST_SHARE)) if self.fit_intercept else np.zeros(k)
        if (self.warm_start if warm is None else warm) and hasattr(self, "coef_"):
            old, old_intercept = self._rows(self.coef_.toarray() if hasattr(self.coef_, "toarray") else self.coef_)
            if old.shape[1] != p:
                raise ValueError(f"warm_start: the last fit had {old.shape[1]} features, and X has {p}")
            common, here, there = np.intersect1d(classes, self._fitted_classes, return_indices=True)
            coef[here] = old[there]
            if self.fit_intercept and len(common):
                new = old_intercept[there]
                intercept[here] = new + (intercept[here] - new).mean()  # the new ones relative to these
        return coef - coef.mean(axis=0), intercept - intercept.mean()

    def _run(
        self, objective: Objective, coordinates: Coordinates, solver: str, reason: str, start: tuple[F64, F64]
    ) -> None:
        """Minimise; sets `result_`, and the point reached as ``_at``."""
        with reporter(int(self.verbose), solver, reason, self.tol, self.max_iter) as report:
            descent = Descent(objective, coordinates, float(self.tol), int(self.max_iter), report.iteration)
            self.result_ = minimise(descent, solver, reason, start)
            report.end(self.result_)
        self._at: Evaluation = descent.evaluation

    def _set_parameters(self, classes: Any, objective: Objective, dtype: Any) -> None:
        coef, intercept = self._at.coef, self._at.intercept
        del self._at
        if len(classes) == 2:
            coef, intercept = coef[1:] - coef[:1], intercept[1:] - intercept[:1]
        self.classes_ = classes
        self.coef_ = np.array(coef, dtype, order="C")
        self.intercept_ = np.array(intercept, dtype)
        self.n_iter_ = np.array([max(self.result_.n_iter, 1)], np.int32)

    @property
    def _fitted_classes(self) -> Any:
        return self.classes_

    def _rows(self, coef: Any) -> tuple[F64, F64]:
        """Coefficients and intercept of all classes, float64."""
        coef, intercept = np.asarray(coef, np.float64), np.asarray(self.intercept_, np.float64)
        if len(coef) > 1:
            return coef, intercept
        return np.vstack([-0.5 * coef, 0.5 * coef]), np.concatenate([-0.5 * intercept, 0.5 * intercept])

    def _names(self) -> Any:
        return getattr(self, "feature_names_in_", None)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags
