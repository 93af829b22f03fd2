"""What a fitted `softbench.SoftmaxRegression` predicts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted, validate_data

from softbench.front.backend import Backend
from softbench.regression.advice import choose_backend
from softbench.regression.blocks import accept_features, is_dask, lazy_labels, lazy_scores, scores_of

__all__ = ["Predictions", "kept_dtypes"]


def _in_memory(backend: Backend, found: Any) -> NDArray[Any]:
    """A NumPy array; of Dask's rows a lazy one."""
    array: NDArray[Any] = found if is_dask(found) else np.asarray(backend.to_numpy(found))
    return array


class Predictions:
    """The predicting half of the estimator."""

    backend: str | Backend | None
    n_threads: int | None
    classes_: NDArray[Any]
    coef_: Any
    intercept_: NDArray[Any]

    def decision_function(self, X: Any) -> NDArray[Any]:
        """Logits of the classes (Zhao eq. (1)); for two classes those of the second against the first.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Features.

        Returns
        -------
        ndarray of shape (n_samples, n_classes), or (n_samples,) for two classes
            Logits, in the order of ``classes_``.

        Examples
        --------
        >>> from sklearn.datasets import load_iris
        >>> from softbench import SoftmaxRegression
        >>> X, y = load_iris(return_X_y=True)
        >>> model = SoftmaxRegression(backend="numpy").fit(X, y)
        >>> model.decision_function(X[:2]).shape
        (2, 3)
        """
        X = self._features(X)
        scores = (
            lazy_scores(X, self.coef_, self.intercept_) if is_dask(X) else scores_of(X, self.coef_, self.intercept_)
        )
        return scores.reshape(-1) if scores.shape[1] == 1 else scores

    def predict(self, X: Any) -> NDArray[Any]:
        """The label with the largest logit (Zhao eq. (2)), the first one on ties.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Features.

        Returns
        -------
        ndarray of shape (n_samples,)
            Labels, among ``classes_``.

        Examples
        --------
        >>> from sklearn.datasets import load_iris
        >>> from softbench import SoftmaxRegression
        >>> X, y = load_iris(return_X_y=True)
        >>> model = SoftmaxRegression(backend="numpy").fit(X, y)
        >>> model.predict(X[:2])
        array([0, 0])
        """
        X = self._features(X)
        with self._predicting(X) as (backend, coef, intercept):
            found = backend.linear_argmax(X, coef, intercept)
            labels = lazy_labels(found, self.classes_) if is_dask(found) else self.classes_[backend.to_numpy(found)]
            predicted: NDArray[Any] = labels if is_dask(labels) else np.asarray(labels)
            return predicted

    def predict_proba(self, X: Any) -> NDArray[Any]:
        """Probabilities of the classes (Zhao eq. (4)), in the order of ``classes_``.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Features.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            Probabilities; each row sums to 1.

        Examples
        --------
        >>> from sklearn.datasets import load_iris
        >>> from softbench import SoftmaxRegression
        >>> X, y = load_iris(return_X_y=True)
        >>> model = SoftmaxRegression(backend="numpy").fit(X, y)
        >>> model.predict_proba(X[:2]).argmax(axis=1)
        array([0, 0])
        """
        X = self._features(X)
        with self._predicting(X) as (backend, coef, intercept):
            return _in_memory(backend, backend.linear_softmax(X, coef, intercept))

    def predict_log_proba(self, X: Any) -> NDArray[Any]:
        """Logarithms of the probabilities, exact also where these are 0 or 1 when rounded.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Features.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            Logarithms, none above 0.

        Examples
        --------
        >>> from sklearn.datasets import load_iris
        >>> from softbench import SoftmaxRegression
        >>> X, y = load_iris(return_X_y=True)
        >>> model = SoftmaxRegression(backend="numpy").fit(X, y)
        >>> bool((model.predict_log_proba(X) < 0.0).all())
        True
        """
        scores: Any = self.decision_function(X)
        if scores.ndim == 1:
            scores = np.stack([np.zeros_like(scores), scores], axis=1)
        scores = scores.rechunk({1: -1}) if is_dask(scores) else scores
        backend = choose_backend(self.backend, scores, 1, self.n_threads)
        return _in_memory(backend, backend.log_softmax(backend.asarray(scores)))

    def _features(self, X: Any) -> Any:
        check_is_fitted(self)
        if is_dask(X):
            return accept_features(self, X, reset=False)
        return validate_data(self, X, accept_sparse=["csr", "csc"], dtype=kept_dtypes(X), reset=False)

    @contextmanager
    def _predicting(self, X: Any) -> Iterator[tuple[Backend, Any, Any]]:
        """The backend, and coefficients of all classes: for two of them 0 and ``w``."""
        coef = self.coef_.toarray() if hasattr(self.coef_, "toarray") else self.coef_
        intercept = self.intercept_
        if len(coef) == 1:
            coef = np.vstack([np.zeros_like(coef), coef])
            intercept = np.concatenate([np.zeros_like(intercept), intercept])
        backend = choose_backend(self.backend, X, len(coef), self.n_threads)
        with self._threads(backend):
            if is_dask(X):  # each worker gets them once
                yield backend, coef, intercept
            else:
                yield backend, backend.asarray(coef), backend.asarray(intercept)

    @contextmanager
    def _threads(self, backend: Backend) -> Iterator[None]:
        """At most ``n_threads`` threads, of the backend and of libraries for linear algebra."""
        if self.n_threads is None:
            yield
            return
        from threadpoolctl import threadpool_limits

        with threadpool_limits(int(self.n_threads)), backend.rows.limit_threads(int(self.n_threads)):
            yield


def kept_dtypes(X: Any) -> Any:
    """What scikit-learn is to leave as it is; of tables it looks into those of pandas only, and widens others."""
    if hasattr(X, "columns") and not hasattr(X, "iloc") and np.asarray(X[:0]).dtype == np.float32:
        return np.float32
    return [np.float64, np.float32]
