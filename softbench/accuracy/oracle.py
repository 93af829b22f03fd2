"""What the functions return: the semantics stated a second time, independently of every backend and of the front.

All functions take public arguments and return a `Truth` (two doubles per entry). Arithmetic, by dtype of the logits:

* float16, bfloat16, float32: float64 in NumPy. Error far below 1e-3 ulp of float32.
* float64: x87 ``longdouble`` where NumPy has it, else Arb. The shift is error-free in float64 first, because ``exp`` of
  a *rounded* difference would lose ``|d| 2**-64``. Error below 0.05 ulp of float64.
* integers: the same, from the integers themselves. All 64 bits of them fit into ``longdouble``.
* Arb (`softbench.accuracy.arb`, needs python-flint) on request, ``arithmetic="arb"``: what the oracle itself is judged
  by.

The forms are those that cancel nothing: ``m`` the row maximum, ``x_k - m = d_k + r_k`` exactly, ``s`` the sum of all
``exp(d_k) (1 + r_k)`` but one maximum's own, ``S = 1 + s``, ``L = log1p(s)``; then ``log p_k = (d_k - L) + r_k``,
``loss = L - (d_y + r_y)``, and the label's gradient is minus the sum of the *others* over ``S``. A weight of 0
contributes 0 to a loss, also where the class is absent; rows without finite probabilities stay NaN.

A difference ``x_k - m`` beyond float64 counts as ``-inf``: that class is as if absent. Arguments are taken to be valid;
what a public function must refuse is not checked here.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from softbench.accuracy.engine import Arithmetic, Array, Engine, Reduction, Weighting
from softbench.accuracy.numpy_engine import NumpyEngine
from softbench.accuracy.ulp import Truth
from softbench.interface.dtypes import result_dtype

__all__ = [
    "Arithmetic",
    "Truth",
    "argmax",
    "divisor",
    "gradient",
    "log1p_s",
    "log_loss",
    "log_softmax",
    "logsumexp",
    "loss",
    "probability_mass",
    "softmax",
    "unchanged",
]

HAS_X87: Final = np.finfo(np.longdouble).nmant == 63
"""Whether ``np.longdouble`` is the 80-bit format."""

_INTEGERS: Final = np.longdouble if HAS_X87 else np.object_
"""What holds 64-bit integers: Arb takes Python's."""

_MODERATE: Final = 1e100
"""Weights beyond this (or below its inverse) could lift what underflows in float64 back into float32's range."""


# -- public functions ----------------------------------------------------------------------------------


def argmax(logits: ArrayLike, *, axis: int = -1) -> NDArray[np.int64]:
    """Index of the first NaN along ``axis``, else of the first maximum. ValueError if there are no classes."""
    rows = _Rows.of(logits, axis)
    if rows.x.shape[1] == 0:
        raise ValueError("argmax of no classes")
    nan = np.isnan(rows.x)
    first = np.where(nan.any(axis=1), nan.argmax(axis=1), rows.x.argmax(axis=1))
    return np.asarray(first, dtype=np.int64).reshape(rows.outer)


def logsumexp(
    logits: ArrayLike, *, axis: int = -1, keepdims: bool = False, arithmetic: Arithmetic | None = None
) -> Truth:
    """``log sum_k exp(x_k)``; ``-inf`` of no classes.

    Where ``m`` and ``log1p(s)`` cancel, the truth is good to a small fraction of an ulp of the latter.
    """
    rows = _Rows.of(logits, axis)
    shape = rows.shape[: rows.axis] + (1,) + rows.shape[rows.axis + 1 :] if keepdims else rows.outer
    if rows.x.size == 0:
        return Truth.of(np.full(shape, -np.inf))
    return _engine(rows.dtype, arithmetic).logsumexp(rows.x).reshape(shape)


def log1p_s(logits: ArrayLike, *, axis: int = -1, arithmetic: Arithmetic | None = None) -> Truth:
    """``L = log1p(s)``, the part of `logsumexp` beyond the maximum; NaN for rows without finite probabilities."""
    rows = _Rows.of(logits, axis)
    if rows.x.size == 0:
        return Truth.of(np.full(rows.outer, np.nan))
    return _engine(rows.dtype, arithmetic).log1p_s(rows.x).reshape(rows.outer)


def softmax(logits: ArrayLike, *, axis: int = -1, arithmetic: Arithmetic | None = None) -> Truth:
    """``exp(x_k) / sum_j exp(x_j)``."""
    rows = _Rows.of(logits, axis)
    if rows.x.size == 0:
        return Truth.of(np.zeros(rows.shape))
    return rows.raised(_engine(rows.dtype, arithmetic).softmax(rows.x))


def log_softmax(logits: ArrayLike, *, axis: int = -1, arithmetic: Arithmetic | None = None) -> Truth:
    """``x_k - logsumexp(x)``."""
    rows = _Rows.of(logits, axis)
    if rows.x.size == 0:
        return Truth.of(np.zeros(rows.shape))
    return rows.raised(_engine(rows.dtype, arithmetic).log_softmax(rows.x))


def loss(
    logits: ArrayLike,
    target: ArrayLike,
    *,
    axis: int = -1,
    class_weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    reduction: Reduction = "mean",
    arithmetic: Arithmetic | None = None,
) -> Truth:
    """Cross-entropy ``sum_k q_k (lse - x_k)`` with ``q_k = s w_k ((1 - eps) y_k + eps / K)``, from logits.

    ``reduction="mean"`` divides by the sum of ``s w[y]`` over rows not ignored (class indices) or by the sum of ``s``
    (distributions). Labels that are neither a class nor ``ignore_index`` make their row NaN. Targets are used in their
    own dtype, converted exactly. Weights are applied in the wide format.
    """
    rows = _Rows.of(logits, axis)
    weighting = _weighting(rows, target, class_weight, sample_weight, ignore_index, label_smoothing)
    if rows.x.size == 0:
        return _no_loss(rows, reduction)
    found = _engine(rows.dtype, arithmetic, weighting).loss(rows.x, weighting, reduction)
    return found.reshape(rows.outer) if reduction == "none" else found


def gradient(
    logits: ArrayLike,
    target: ArrayLike,
    *,
    axis: int = -1,
    class_weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    reduction: Reduction = "mean",
    arithmetic: Arithmetic | None = None,
) -> Truth:
    """d `loss` / d logits; for ``reduction="none"`` of each row's own loss. Ignored rows are exactly +0."""
    rows = _Rows.of(logits, axis)
    weighting = _weighting(rows, target, class_weight, sample_weight, ignore_index, label_smoothing)
    if rows.x.size == 0:
        return Truth.of(np.zeros(rows.shape))
    return rows.raised(_engine(rows.dtype, arithmetic, weighting).gradient(rows.x, weighting, reduction))


def probability_mass(
    logits: ArrayLike,
    target: ArrayLike,
    *,
    axis: int = -1,
    class_weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    reduction: Reduction = "mean",
    arithmetic: Arithmetic | None = None,
) -> Truth:
    """``(sum_k |q_k|) p``, divided as the gradient is: the size of what a soft gradient subtracts ``q`` from."""
    rows = _Rows.of(logits, axis)
    weighting = _weighting(rows, target, class_weight, sample_weight, ignore_index, label_smoothing)
    if rows.x.size == 0:
        return Truth.of(np.zeros(rows.shape))
    return rows.raised(_engine(rows.dtype, arithmetic, weighting).probability_mass(rows.x, weighting, reduction))


def log_loss(
    probs: ArrayLike,
    target: ArrayLike,
    *,
    axis: int = -1,
    class_weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: int | None = None,
    reduction: Reduction = "mean",
    arithmetic: Arithmetic | None = None,
) -> Truth:
    """Cross-entropy ``-sum_k q_k log p_k`` of given probabilities; ``0 log 0 = 0``, nothing is clipped."""
    rows = _Rows.of(probs, axis)
    weighting = _weighting(rows, target, class_weight, sample_weight, ignore_index, 0.0)
    if rows.x.size == 0:
        return _no_loss(rows, reduction)
    found = _engine(rows.dtype, arithmetic, weighting).log_loss(rows.x, weighting, reduction)
    return found.reshape(rows.outer) if reduction == "none" else found


def divisor(
    logits: ArrayLike,
    target: ArrayLike,
    *,
    axis: int = -1,
    class_weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: int | None = None,
) -> float:
    """What ``reduction="mean"`` divides by; NaN where that is 0."""
    rows = _Rows.of(logits, axis)
    weighting = _weighting(rows, target, class_weight, sample_weight, ignore_index, 0.0)
    return float(NumpyEngine(np.float64)._divisor(weighting, "mean"))


# -- several questions about the same logits -----------------------------------------------------------

_unchanged: tuple[Any, _Rows] | None = None


@contextlib.contextmanager
def unchanged(logits: ArrayLike) -> Iterator[None]:
    """Within this context, this very array (along its last axis), which nobody changes, is made into rows once."""
    global _unchanged
    outer, _unchanged = _unchanged, (logits, _Rows.of(logits, -1))
    try:
        yield
    finally:
        _unchanged = outer


# -- arguments -----------------------------------------------------------------------------------------


class _Rows(NamedTuple):
    """Logits as rows, exactly: float64, and 64-bit integers in a type that holds all of their digits."""

    x: Array
    shape: tuple[int, ...]
    axis: int
    dtype: str
    """Of array results."""

    @classmethod
    def of(cls, logits: ArrayLike, axis: int) -> _Rows:
        if _unchanged is not None and _unchanged[0] is logits and axis in (-1, _unchanged[1].axis):
            return _unchanged[1]
        array = np.asarray(logits)
        dtype = result_dtype(array.dtype.name)
        if dtype is None or array.ndim == 0:
            raise TypeError(f"no oracle for a {array.ndim}-d array of {array.dtype.name}")
        axis %= array.ndim
        wide = np.float64 if array.dtype.kind not in "iu" or array.dtype.itemsize < 8 else _INTEGERS
        return cls(np.ascontiguousarray(_as_rows(array, axis).astype(wide)), array.shape, axis, dtype)

    @property
    def outer(self) -> tuple[int, ...]:
        return self.shape[: self.axis] + self.shape[self.axis + 1 :]

    def raised(self, rows: Truth) -> Truth:
        """Results ``(N, K)`` in the shape of the logits."""
        if self.axis == len(self.shape) - 1:
            return rows.reshape(self.shape)
        shape = (*self.outer, self.shape[self.axis])
        return Truth(*(np.ascontiguousarray(np.moveaxis(part.reshape(shape), -1, self.axis)) for part in rows))


def _as_rows(array: Array, axis: int) -> Array:
    moved = array if axis == array.ndim - 1 else np.moveaxis(array, axis, -1)
    return moved.reshape(math.prod(moved.shape[:-1]), moved.shape[-1])


def _weighting(
    rows: _Rows,
    target: ArrayLike,
    class_weight: ArrayLike | None,
    sample_weight: ArrayLike | None,
    ignore_index: int | None,
    eps: float,
) -> Weighting:
    n, k = rows.x.shape
    t = np.asarray(target)
    s = None if sample_weight is None else np.asarray(sample_weight).astype(np.float64).reshape(n)
    w = None if class_weight is None else np.asarray(class_weight).astype(np.float64).reshape(k)
    none = np.zeros(n, np.bool_)
    if t.ndim == len(rows.shape):
        if t.shape != rows.shape or ignore_index is not None:
            raise ValueError(f"target {t.shape} for logits {rows.shape}, ignore_index={ignore_index}")
        y = _as_rows(t, rows.axis).astype(np.longdouble if t.dtype == np.longdouble else np.float64)
        return Weighting(None, y, none, none, s, w, float(eps))
    if t.shape != rows.outer or (k == 0 and n > 0):
        raise ValueError(f"labels {t.shape} for logits {rows.shape}")
    flat = t.reshape(n)
    ignored = none if ignore_index is None else np.asarray(flat == ignore_index)
    invalid = ~ignored & ((flat < 0) | (flat >= k))
    return Weighting(np.where(ignored | invalid, 0, flat).astype(np.int64), None, ignored, invalid, s, w, float(eps))


def _no_loss(rows: _Rows, reduction: Reduction) -> Truth:
    """The loss of no rows, or of rows without classes (an empty sum)."""
    if reduction == "none":
        return Truth.of(np.zeros(rows.outer))
    return Truth.of(np.asarray(np.nan if reduction == "mean" and rows.x.shape[0] == 0 else 0.0))


def _engine(dtype: str, arithmetic: Arithmetic | None, target: Weighting | None = None) -> Engine:
    if arithmetic is None:
        if dtype != "float64" and (target is None or _is_moderate(target)):
            arithmetic = "float64"
        else:
            arithmetic = "longdouble" if HAS_X87 else "arb"
    if arithmetic == "arb":
        from softbench.accuracy.arb import ArbEngine

        return ArbEngine()
    if arithmetic == "longdouble" and not HAS_X87:
        raise RuntimeError("np.longdouble is not the 80-bit format here: use arithmetic='arb'")
    return NumpyEngine(np.longdouble if arithmetic == "longdouble" else np.float64)


def _is_moderate(target: Weighting) -> bool:
    weights = [part[part != 0] for part in (target.s, target.w, target.y, np.array(target.eps)) if part is not None]
    with np.errstate(invalid="ignore"):
        return all(((np.abs(w) < _MODERATE) & (np.abs(w) > 1 / _MODERATE)).all() for w in weights)
