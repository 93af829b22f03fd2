"""Fits on Dask arrays and dataframes: one task for each block of rows, and nothing larger than a block in one place.

What a fit asks of its data in memory, `BlockedObjective` asks of tasks: evaluations and products are the dask
backend's, and the Hessian of a block is that of rows in memory. Sums are taken in trees whose form depends on the
blocks alone. Labels and weights stay with their rows; the process that fits has the coefficients, the classes with
their weights, and the sample of rows that coordinates are made of.

Dask is imported when a collection of it comes in.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import assert_all_finite, compute_class_weight
from sklearn.utils.extmath import safe_sparse_dot
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_feature_names, _check_n_features, check_non_negative, column_or_1d

from softbench.front.backend import Backend
from softbench.registry import get_backend
from softbench.regression.objective import Evaluation, Objective, Penalty
from softbench.regression.weights import check_classes, no_weight

__all__ = [
    "BlockedObjective",
    "BlockedRows",
    "accept_blocks",
    "accept_features",
    "blocks_in_turn",
    "is_dask",
    "lazy_labels",
    "lazy_scores",
    "scores_of",
]

F64 = NDArray[np.float64]
_FAN: Final = 8
"""Blocks whose results are combined at a time."""


def is_dask(obj: Any) -> bool:
    """Whether it is a collection of Dask; imports nothing."""
    dask = sys.modules.get("dask")
    return dask is not None and bool(dask.is_dask_collection(obj))


# -- data --------------------------------------------------------------------------------------------------------


def accept_features(estimator: Any, X: Any, reset: bool) -> Any:
    """``X`` as a Dask array of float32 or float64 in blocks of rows that hold all features.

    Parameters
    ----------
    estimator
        Whose number and names of features are set, or compared where not ``reset``.
    X
        A Dask array or dataframe ``(N, p)``. The rows of a dataframe are counted.
    reset
        Whether this is the first that the estimator sees.
    """
    named = X
    if hasattr(X, "columns"):
        named = importlib.import_module("pandas").DataFrame(columns=list(X.columns))
    elif getattr(X, "ndim", 2) != 2:
        raise ValueError(f"X has {X.ndim} dimensions, expected two: (rows, features)")
    _check_feature_names(estimator, named, reset=reset)
    array = get_backend("dask", local="numpy").rows.accept_features(X, "X").array
    _check_n_features(estimator, array, reset=reset)
    n, p = array.shape
    if not (n and p):
        raise ValueError(f"X has shape {array.shape}: expected at least one row and one feature")
    if array.dtype not in (np.float32, np.float64):
        array = array.astype(np.float64)
    return array.rechunk((tuple(size for size in array.chunks[0] if size), -1))


def _beside(X: Any, given: Any, argument: str) -> Any:
    """One value for each row of ``X``, in its blocks."""
    da = importlib.import_module("dask.array")
    if not is_dask(given):
        given = da.from_array(column_or_1d(given))
    elif hasattr(given, "to_dask_array"):
        given = given.to_dask_array(lengths=True)
    if given.ndim != 1:
        raise ValueError(f"{argument} has shape {given.shape}, expected one dimension: ({X.shape[0]},)")
    if np.isnan(given.shape[0]):
        raise ValueError(f"{argument} has chunks of unknown sizes: call its compute_chunk_sizes() first")
    if given.shape != X.shape[:1]:
        raise ValueError(f"{argument} has shape {given.shape}, expected ({X.shape[0]},) for X of {X.shape[0]} rows")
    return given.rechunk(X.chunks[:1])


class BlockedRows(NamedTuple):
    """Rows of a fit, checked."""

    X: Any
    labels: Any
    """Class indices ``(N,)``, lazy."""
    weights: Any
    """``(N,)`` with those of the classes, lazy; None: all 1."""
    classes: NDArray[Any]
    counts: F64
    """The sum of the weights of each class ``(K,)``."""


def accept_blocks(estimator: Any, X: Any, y: Any, sample_weight: Any, class_weight: Any) -> BlockedRows:
    """The arguments of ``fit``; reads all of them once. ValueError as for data in memory."""
    X = accept_features(estimator, X, reset=True)
    y = _beside(X, y, "y")
    s = None if sample_weight is None else _beside(X, sample_weight, "sample_weight")
    classes, counts = _look_at(X, y, s)
    check_classes(classes)
    labels = y.map_blocks(functools.partial(np.searchsorted, classes), dtype=np.int64, meta=np.empty(0, np.int64))
    if class_weight is None:
        weights, of_classes = s, np.ones(len(classes))
    else:
        if isinstance(class_weight, str):  # "balanced"
            of_classes = counts.sum() / (len(classes) * counts)
        else:
            of_classes = compute_class_weight(class_weight, classes=classes, y=classes)
        parts = (labels,) if s is None else (labels, s)
        weights = parts[0].map_blocks(_weights, *parts[1:], of_classes=of_classes, dtype=np.float64, meta=np.empty(0))
    counts = counts * of_classes
    if not counts.sum() > 0.0:
        raise no_weight()
    return BlockedRows(X, labels, weights, classes, counts)


def _weights(labels: Any, s: Any = None, *, of_classes: F64) -> F64:
    weights: F64 = of_classes[labels]
    return weights if s is None else weights * s


def _look_at(X: Any, y: Any, s: Any) -> tuple[NDArray[Any], F64]:
    """The classes, and the sum of the weights of each; the rows of every block are checked."""
    da = importlib.import_module("dask.array")
    found = da.blockwise(
        _look, "i", X, "ij", y, "i", *_beside_rows(s), adjust_chunks={"i": 1}, concatenate=True, dtype=object,
        meta=np.empty(0, object),
    )  # fmt: skip
    merged = da.reduction(
        found, _merge, _merge, combine=_merge, axis=0, keepdims=True, dtype=object, split_every=_FAN, concatenate=True,
        meta=np.empty(0, object),
    )  # fmt: skip
    classes, counts = merged.compute()[0]
    return classes, counts


def _beside_rows(array: Any) -> tuple[Any, str | None]:
    """Values of rows as arguments of blockwise, also where there are none."""
    return (None, None) if array is None else (array, "i")


def _packed(found: Any) -> Any:
    """Anything as the one element of an array."""
    packed = np.empty(1, object)
    packed[0] = found
    return packed


def _look(X: Any, y: Any, s: Any) -> Any:
    """The labels of a block and their weights. ValueError for what no fit can take."""
    assert_all_finite(X, input_name="X")
    check_classification_targets(y)
    if s is not None:
        s = np.asarray(s, np.float64)
        assert_all_finite(s, input_name="sample_weight")
        check_non_negative(s, "sample_weight")
    classes, labels = np.unique(y, return_inverse=True)
    return _packed((classes, np.bincount(labels, s, len(classes)).astype(np.float64)))


def _merge(parts: Any, axis: Any = None, keepdims: Any = None) -> Any:
    classes = np.unique(np.concatenate([labels for labels, _ in parts]))
    counts = np.zeros(len(classes))
    for labels, some in parts:
        counts[np.searchsorted(classes, labels)] += some
    return _packed((classes, counts))


def blocks_in_turn(estimator: Any, X: Any, y: Any, sample_weight: Any) -> Iterator[tuple[Any, Any, Any]]:
    """One block of rows after another, computed: ``X``, ``y`` and ``sample_weight``."""
    dask = importlib.import_module("dask")
    X = accept_features(estimator, X, reset=not hasattr(estimator, "classes_"))
    y = _beside(X, y, "y")
    s = None if sample_weight is None else _beside(X, sample_weight, "sample_weight")
    for i in range(len(X.chunks[0])):
        block = dask.compute(X.blocks[i], y.blocks[i], None if s is None else s.blocks[i])
        if block[2] is None or np.any(block[2]):  # else there is nothing to take in
            yield block


# -- predictions ------------------------------------------------------------------------------------------------


def scores_of(X: Any, coef: Any, intercept: Any) -> NDArray[Any]:
    """Logits of some rows."""
    return np.asarray(safe_sparse_dot(X, coef.T, dense_output=True) + intercept)


def lazy_scores(X: Any, coef: Any, intercept: Any) -> Any:
    """Logits of rows in blocks, lazy."""
    dtype = np.result_type(X.dtype, coef.dtype)
    rows: Any = get_backend("dask", local="numpy").rows
    return X.map_blocks(
        rows.in_task(scores_of),
        coef,
        intercept,
        chunks=(X.chunks[0], (len(intercept),)),
        dtype=dtype,
        meta=np.empty((0, 0), dtype),
    )


def lazy_labels(indices: Any, classes: NDArray[Any]) -> Any:
    """Labels of class indices, lazy."""
    return indices.map_blocks(functools.partial(np.take, classes), dtype=classes.dtype, meta=classes[:0])


# -- the objective -----------------------------------------------------------------------------------------------


class BlockedObjective(Objective):
    """`Objective` of rows in blocks: everything that reads ``X`` is tasks.

    Parameters
    ----------
    backend
        The dask backend, with the local one that computes in each block.
    data
        The rows.
    penalty, fit_intercept
        As of `Objective`.
    """

    def __init__(self, backend: Backend, data: BlockedRows, penalty: Penalty, fit_intercept: bool) -> None:
        self._dask = importlib.import_module("dask")
        self._counts = data.counts
        super().__init__(backend, data.X, data.labels, len(data.classes), data.weights, penalty, fit_intercept)
        self._problem.divisor = self.total_weight

    def _total_weight(self) -> float:
        return float(self._counts.sum())

    @property
    def shares(self) -> F64:
        """The share of each class in the weight of all rows ``(K,)``."""
        return np.asarray(self._counts / self._counts.sum())

    def _parameters(self, coef: F64, intercept: F64) -> tuple[Any, Any]:
        w, b = (self.backend.rows.accept(part.astype(self._problem.compute), "coef") for part in (coef, intercept))
        return w, b

    def _computed(self, *results: Any) -> tuple[Any, ...]:
        """Results as NumPy arrays, in one go: each block is read once."""
        found = self._dask.compute(*(getattr(result, "array", result) for result in results))
        return tuple(np.array(part) for part in found)

    def probabilities(self, at: Evaluation) -> None:
        """None: they are not kept, products with the Hessian compute them anew."""

    def sample(self, size: int) -> tuple[Any, F64]:
        """Rows at equal distances, at least ``size`` of them if there are so many, and their weights with sum 1."""
        step = max(1, self.n // size)
        X = self.X[::step]
        X, weights = self._computed(X, np.ones(len(X)) if self.sample_weight is None else self.sample_weight[::step])
        if weights.sum() <= 0.0:
            X, weights = self._weighted_block()
        return X, weights / weights.sum()

    def _weighted_block(self) -> tuple[Any, F64]:
        """The first block of rows that has a weight."""
        for i in range(len(self.X.chunks[0])):
            given: Any = self.sample_weight
            X, weights = self._computed(self.X.blocks[i], given.blocks[i])
            if weights.sum() > 0.0:
                return X, weights
        raise no_weight()

    def sum_of_rows(self, at: Evaluation, function: Callable[..., F64], **options: Any) -> F64:
        """``function(X, probabilities, weights, **options)`` of each block, added in a fixed tree."""
        w, b = self._parameters(at.coef, at.intercept)
        rows: Any = self.backend.rows
        size = self.k * (self.p + self.fit_intercept)  # a Hessian's: two that are added, their sum, one that waits
        rows.check_memory(self.X, "X", held=self.k / self.p, extra=4 * 8 * size**2)
        probs = rows.linear_softmax(self._problem.x, w, b, rows.empty((self.n, self.k), self._problem.compute)).array
        da = importlib.import_module("dask.array")
        of_block = rows.in_task(functools.partial(_of_block, function, self.total_weight, options))
        found = da.blockwise(
            of_block, "i", self.X, "ij", probs, "ik",
            *_beside_rows(self.sample_weight), adjust_chunks={"i": 1}, concatenate=True, dtype=object,
            meta=np.empty(0, object),
        )  # fmt: skip
        total = da.reduction(
            found, _add, _add, combine=_add, axis=0, keepdims=True, dtype=object, split_every=2, concatenate=True,
            meta=np.empty(0, object),
        )  # fmt: skip
        return np.asarray(total.compute()[0])


def _of_block(
    function: Callable[..., F64], total: float, options: dict[str, Any], X: Any, probs: Any, weights: Any
) -> Any:
    return _packed(function(X, probs, np.full(len(X), 1.0 / total) if weights is None else weights / total, **options))


def _add(parts: Any, axis: Any = None, keepdims: Any = None) -> Any:
    return _packed(functools.reduce(np.add, parts)) if len(parts) else parts  # Dask asks for what is empty too
