"""Functions of blocks for what depends on values: checks of labels, weights and distributions, and sums in parts."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from softbench.interface import IGNORED, INVALID, Array
from softbench.interface.dtypes import numpy_dtype
from softbench.interface.half_precision import widen
from softbench.interface.host_arrays import NumpyArrayOps
from softbench_backends.dask.statistics import whole

__all__ = ["first"]

_HOST: Final = NumpyArrayOps()
_WIDE: Final = np.longdouble
_LOWERED: Final = 64  # a sum of up to 2**64 finite numbers, each times 2**-64, is finite


def first(array: Any, is_bad: Callable[..., Array], **options: Any) -> tuple[tuple[int, ...], Any] | None:
    """The first entry that is bad, in row-major order, as its index and value; None if there is none. Computes."""
    da: Any = importlib.import_module("dask.array")
    if not array.size:
        return None
    index = tuple(range(array.ndim))
    found = da.blockwise(
        _first_of_block, index, array, index, is_bad=is_bad, options=options, adjust_chunks=dict.fromkeys(index, 1),
        dtype=np.int64, meta=np.empty((0,) * array.ndim, np.int64),
    ).compute()  # fmt: skip
    starts = [np.cumsum([0, *sizes[:-1]]) for sizes in array.chunks]
    bad = []
    for block in zip(*np.nonzero(found >= 0), strict=True):
        shape = [sizes[i] for sizes, i in zip(array.chunks, block, strict=True)]
        within = np.unravel_index(int(found[block]), shape)
        bad.append(tuple(int(start[i] + at) for start, i, at in zip(starts, block, within, strict=True)))
    if not bad:
        return None
    where = min(bad)
    return where, array[where].compute()


def _first_of_block(x: Array, is_bad: Callable[..., Array], options: dict[str, Any]) -> Array:
    """The flat index of the first bad entry of a block, -1 if there is none, in the block's number of dimensions."""
    bad = is_bad(x, **options).ravel()
    return np.full((1,) * x.ndim, int(bad.argmax()) if bad.any() else -1, np.int64)


def bad_labels(x: Array, n_classes: int, ignore_index: int | None) -> Array:
    """Which labels are neither a class nor ignored."""
    return ~((x >= 0) & (x < n_classes)) & (x != ignore_index if ignore_index is not None else True)


def out_of_range(x: Array, low: float, high: float) -> Array:
    """Which entries are NaN or outside ``[low, high]``."""
    wide = widen(x)
    return ~((wide >= low) & (wide <= high))


def immoderate(x: Array, low: float, high: float) -> Array:
    """Which entries are neither 0 nor in ``[low, high]``."""
    return ~((x == 0) | ((x >= low) & (x <= high)))


def negative(x: Array) -> Array:
    """Which entries are below 0."""
    return widen(x) < 0


def no_sum(x: Array, tolerance: float) -> Array:
    """Which sums are not 1."""
    return ~(np.abs(x - 1.0) <= tolerance)


def labels(x: Array, n_classes: int, ignore_index: int | None) -> Array:
    """Labels of any integer dtype as a class, IGNORED or INVALID."""
    if not isinstance(x, np.ndarray):  # of a device
        classes = np.where((x >= 0) & (x < n_classes), x, INVALID)
        return np.where(x == ignore_index, IGNORED, classes).astype(np.int64)
    return _HOST.index_labels(x, n_classes, ignore_index, False)


def soft_rows(
    y: Array, w: Array | None, s: Array | None, divisor: Any, to: str, smoothing: float, n_classes: int
) -> Array:
    """`NumpyArrayOps.soft_rows` of some of the classes."""
    q = widen(y).astype(_WIDE)
    with np.errstate(all="ignore"):
        if smoothing:
            q *= _WIDE(1.0) - _WIDE(smoothing)
            q += _WIDE(smoothing) / n_classes
        if w is not None:
            q *= w
        rows = np.ones(1, _WIDE) if s is None else s.astype(_WIDE)
        q *= (rows / (whole(divisor) or _WIDE(np.nan)))[:, None]
        return q.astype(numpy_dtype(to))


def row_weights(y: Array, s: Array | None, w: Array | None, of_labels: bool) -> Array:
    """What rows weigh in the divisor of a mean."""
    if not of_labels:
        return y
    counted = y != IGNORED
    weight = counted.astype(np.float64) if s is None else np.where(counted, s, 0.0)
    with np.errstate(all="ignore"):
        return weight if w is None else weight * np.where(y >= 0, w[np.maximum(y, 0)], 1.0)


def sum_parts(values: Array) -> Array:
    """``(1, 3)``: the sum of a block in two parts, and that of 2**-64 times its numbers, which cannot overflow."""
    with np.errstate(all="ignore"):
        return np.array([[*_pair(values.sum(dtype=_WIDE)), np.ldexp(values, -_LOWERED).sum()]])


def add_parts(parts: Array) -> Array:
    """Sums of several blocks, ``(b, 3)``, as one ``(1, 3)``."""
    with np.errstate(all="ignore"):
        return np.array([[*_pair(parts[:, :2].astype(_WIDE).sum()), parts[:, 2].sum()]])


def _pair(wide: Any) -> tuple[float, float]:
    with np.errstate(all="ignore"):
        high = float(wide)
        return high, float(wide - high) if math.isfinite(high) else 0.0


def sum_of_parts(parts: Array) -> Any:
    """The sum."""
    return np.float64(parts[0, 0] + parts[0, 1])


def finished_total(parts: Array, divisor: Any) -> Any:
    """The sum over the divisor; a mean of large losses may be a number where their sum is none."""
    high, low, lowered = (_WIDE(part) for part in parts[0])
    with np.errstate(all="ignore"):
        if divisor is None:
            return np.float64(high + low)
        over = whole(divisor)
        if over == 0.0:
            return np.float64(np.nan)
        if np.isinf(high):
            return np.float64(lowered / over * _WIDE(2.0) ** _LOWERED)
        return np.float64((high + low) / over)
