"""The few array primitives the front needs, for arrays in host memory, with NumPy.

A backend whose arrays live elsewhere overrides them (and nothing else changes): the front itself works on
shape, dtype and strides only. ``argument`` is always the name of the public argument, for error messages.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from softbench.interface import messages
from softbench.interface.conversion import as_host_array, copy_to_host, writes_through
from softbench.interface.dtypes import name_of, numpy_dtype, sum_tolerance
from softbench.interface.float_mode import FAR_FROM_SUBNORMAL, flushes_subnormals, ieee_arithmetic
from softbench.interface.half_precision import is_half, narrow, widen
from softbench.interface.integers import shifted_rows
from softbench.interface.labels import IGNORED, INVALID

__all__ = ["HostArrays", "Layout", "NumpyArrayOps"]

Array = Any

_INT64, _UINT64 = np.dtype("int64"), np.dtype("uint64")
_FEW = 32  # up to here Python's own arithmetic on a list takes less than asking NumPy
_SOLVING = 1_000_000  # candidates for a common address: milliseconds, and more than arrays that people make have
_LOWERED = 64  # a sum of up to 2**64 finite numbers, each times 2**-64, is finite
_BLOCK = 1 << 16  # numbers in half precision that are widened at a time
_FSUM_MAX = 4096  # math.fsum is exact and cheap up to here, a tree of vector operations is faster beyond


class Layout(NamedTuple):
    """What the front asks of an array's memory."""

    contiguous: bool
    """In C order and aligned, so that a kernel can write into it."""
    writeable: bool


class NumpyArrayOps:
    """Array primitives on `numpy.ndarray`."""

    # -- in and out ------------------------------------------------------------------------------------

    def accept(self, obj: Any, argument: str) -> Array:
        """``obj`` as an array of this backend, over the same memory where that is possible.

        The front checks the dtype.

        Raises
        ------
        TypeError
            Masked and sparse arrays, arrays of another device (naming ``asarray``), and what makes no array; the
            message names ``argument``.
        ValueError
            Missing values.
        """
        return obj if type(obj) is np.ndarray else as_host_array(obj, argument)

    def accept_small(self, obj: Any, argument: str) -> Array:
        """`accept` of what is small and often written by hand: on a device it may also come from host memory."""
        return self.accept(obj, argument)

    def follow(self, obj: Any) -> None:
        """Called first, with what a call works on: a backend of several devices makes results where that is."""

    def writes_through(self, obj: Any, array: Array) -> bool:
        """Whether ``array``, which `accept` made of ``obj``, is its memory, so that it can be written into."""
        return array is obj or writes_through(obj, array)

    def wrap(self, result: Array, like: Any) -> Any:
        """``result`` as the kind of array that ``like`` is; on the host always ndarray (a NumPy scalar when 0-d)."""
        return result[()] if isinstance(result, np.ndarray) and result.ndim == 0 else result

    def asarray(self, obj: Any) -> Array:
        """An array this backend computes on: what `numpy.asarray` makes of ``obj``, copied from or to a device."""
        return copy_to_host(obj)

    def to_numpy(self, array: Any) -> np.ndarray[Any, Any]:
        """A result of this backend as a NumPy array in host memory."""
        return np.asarray(array)

    def host_copy(self, array: Array) -> np.ndarray[Any, Any] | None:
        """An array, accepted before, in host memory; None where only its library reads it."""
        return array if isinstance(array, np.ndarray) else None

    def device_copy(self, array: np.ndarray[Any, Any]) -> Array:
        """The inverse of `host_copy`."""
        return array

    def synchronize(self) -> None:
        """Wait until everything asked of this backend so far is done."""

    def computed(self, result: Any) -> Any:
        """What a call returned, with its values there; only lazy libraries have something to do."""
        return result

    def layout(self, array: Array) -> Layout:
        """How an array lies in memory."""
        flags = array.flags
        return Layout(flags.c_contiguous and flags.aligned, flags.writeable)

    def address(self, array: Array) -> int:
        """Where the first element lies."""
        return int(array.ctypes.data)

    def shares_memory(self, a: Array, b: Array) -> bool:
        """Whether two arrays overlap (True when that is too hard to decide)."""
        if not np.may_share_memory(a, b):
            return False
        try:
            return np.shares_memory(a, b, max_work=_SOLVING)  # type: ignore[arg-type]  # any bound works
        except np.exceptions.TooHardError:
            return True

    # -- rows ------------------------------------------------------------------------------------------

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """A C-contiguous array of garbage. A library that makes its own results may return None."""
        return np.empty(shape, numpy_dtype(dtype) if isinstance(dtype, str) else dtype)

    def full(self, shape: tuple[int, ...], value: float, dtype: str) -> Array:
        """A C-contiguous array of one value."""
        return np.full(shape, value, numpy_dtype(dtype))

    def as_rows(self, x: Array, axis: int, dtype: str) -> Array:
        """``x`` with ``axis`` last, as a C-contiguous, aligned ``(N, K)`` array of ``dtype``; a view where possible."""
        if axis != x.ndim - 1:
            x = np.moveaxis(x, axis, -1)
        rows = np.ascontiguousarray(x if x.ndim == 2 else x.reshape(-1, x.shape[-1]))
        wanted = numpy_dtype(dtype)
        if rows.dtype != wanted:  # byte-swapped ones differ too
            rows = _cast(rows, wanted)
        return rows if rows.flags.aligned else rows.copy()

    def integer_rows(self, x: Array, axis: int, given: Any) -> tuple[Array, Callable[[Array], Array]]:
        """`as_rows` of int64 or uint64 logits in float64, less an integer per row where that keeps them exact.

        Also a function that adds it to per-row results: see `softbench.interface.integers`. Computed in host memory;
        ``given`` is what the caller passed as ``x``.
        """
        rows = self.as_rows(x, axis, x.dtype.name)
        shifted, restore = shifted_rows(np, self.to_numpy(self.wrap(rows, given)))

        def restored(values: Array) -> Array:
            return self.accept(self.asarray(restore(self.to_numpy(self.wrap(values, given)))), "logits")

        return self.accept(self.asarray(shifted), "logits"), restored

    def as_blocks(self, x: Array, axis: int, dtype: str) -> Array:
        """C-contiguous ``x`` as ``(outer, K, inner)`` of ``dtype``, ``K`` along ``axis``; a view where possible.

        Only for a backend that accepts strided logits (`softbench.interface.RowBackend.accepts_strided`).
        """
        wanted = numpy_dtype(dtype)
        if x.dtype != wanted:
            x = _cast(x, wanted)
        return x.reshape(math.prod(x.shape[:axis]), x.shape[axis], -1)

    def from_rows(self, rows: Array, shape: tuple[int, ...], axis: int, dtype: str, out: Array | None = None) -> Array:
        """The inverse of `as_rows` for a result: an array of ``shape`` and ``dtype``, or ``out`` filled.

        ``shape`` includes ``axis``; ``rows`` is ``(N, K)``.
        """
        if axis == len(shape) - 1:
            moved = rows.reshape(shape)
        else:
            moved = np.moveaxis(rows.reshape(shape[:axis] + shape[axis + 1 :] + (shape[axis],)), -1, axis)
        if out is not None:
            _copy(moved, out)
            return out
        wanted = numpy_dtype(dtype)
        return np.ascontiguousarray(moved if moved.dtype == wanted else _cast(moved, wanted))

    def read_rows(self, rows: Array, which: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Some of C-contiguous rows, by their numbers in ascending order: in host memory, and no narrower."""
        return rows[which]  # type: ignore[no-any-return]

    def write_rows(self, rows: Array, which: np.ndarray[Any, Any], values: np.ndarray[Any, Any]) -> None:
        """Round ``values`` into some of C-contiguous rows; the inverse of `read_rows`."""
        rows[which] = values

    # -- targets and weights ---------------------------------------------------------------------------

    def index_labels(self, labels: Array, n_classes: int, ignore_index: int | None, validate: bool) -> Array:
        """Integer labels ``(N,)`` of any width as contiguous int64: a class, IGNORED (-1) or INVALID (-2).

        ValueError naming the first row whose label is neither a class nor ``ignore_index``; with
        ``validate=False`` such labels become INVALID. ``labels`` itself comes back only where each is a class.
        """
        wide = labels
        if labels.dtype is not _INT64 or not labels.flags.c_contiguous:
            wide = np.ascontiguousarray(labels, dtype=_INT64)  # a uint64 beyond int64 turns negative: no class either
        if ignore_index is None and _all_below(wide, n_classes):
            return wide
        unsigned = wide.view(_UINT64)
        bad = unsigned >= n_classes
        if ignore_index is not None:
            ignored = labels == ignore_index
            bad &= ~ignored
        if bad.any():
            if validate:
                row = int(bad.argmax())
                raise messages.no_class(row, labels[row], n_classes, ignore_index)
            wide = np.where(bad, INVALID, wide)
        if ignore_index is not None and ignored.any():
            wide = np.where(ignored, IGNORED, wide)
        return wide

    def check_range(self, values: Array, argument: str, low: float, high: float) -> None:
        """ValueError naming the first entry that is NaN or outside ``[low, high]``."""
        if values.size == 0 or _in_range(values, low, high):
            return
        good = (values >= low) & (values <= high)
        where = np.unravel_index(int(good.argmin()), values.shape)
        raise messages.out_of_range(argument, where, values[where], low, high)

    def all_between(self, values: Array, low: float, high: float) -> bool:
        """Whether float64 ``values`` are known to be 0 or in ``[low, high]``, every one."""
        if not isinstance(values, np.ndarray):
            return False
        return bool(((values == 0) | ((values >= low) & (values <= high))).all())

    def check_distribution(self, y: Array) -> None:
        """ValueError naming the first row of soft targets ``(N, K)`` that is negative, NaN, or does not sum to 1.

        Sums are taken in float64 (longdouble in longdouble); the tolerance is ``max(1e-6, sqrt(eps))`` of
        the target's own dtype.
        """
        tolerance = sum_tolerance(name_of(y.dtype))
        step = max(1, _BLOCK // y.shape[1]) if is_half(y.dtype) else len(y)
        for first in range(0, len(y), step):
            _check_distribution(widen(y[first : first + step]), tolerance, first)

    def soft_rows(
        self,
        y: Array,
        dtype: str,
        smoothing: float,
        class_weight: Array | None,
        sample_weight: Array | None,
        divisor: Any,
    ) -> Array:
        """``s_i w_k ((1 - smoothing) y_ik + smoothing / K) / divisor`` as C-contiguous rows of ``dtype``, rounded once.

        ``divisor`` is a number, or what `total` returned; 0 gives NaN.
        """
        wide = np.longdouble if dtype == "float64" else np.float64
        q = widen(y).astype(wide)
        with np.errstate(all="ignore"):
            if smoothing != 0.0:
                q *= wide(1.0) - wide(smoothing)
                q += wide(smoothing) / y.shape[1]
            if class_weight is not None:
                q *= class_weight
            row: Array = np.ones(1) if sample_weight is None else sample_weight
            q *= (row.astype(wide) / (divisor or np.nan))[:, None]
            return _cast(q, numpy_dtype(dtype))

    def divisor(self, labels: Array | None, sample_weight: Array | None, class_weight: Array | None) -> Any:
        """Sum of ``s_i w[y_i]`` over rows not IGNORED (an INVALID row counts with class weight 1).

        ``labels`` None (soft targets): the sum of ``s_i``. A number, in extended precision where there are weights: a
        gradient is divided by it before its one rounding.
        """
        if labels is None:
            return sample_weight.sum(dtype=np.longdouble)  # type: ignore[union-attr]
        counted = labels != IGNORED
        if sample_weight is None and class_weight is None:
            return float(np.count_nonzero(counted))
        weight = counted.astype(np.longdouble) if sample_weight is None else np.where(counted, sample_weight, 0.0)
        if class_weight is not None:
            weight = weight * np.where(labels >= 0, class_weight[np.maximum(labels, 0)], 1.0).astype(np.longdouble)
        return weight.sum(dtype=np.longdouble)

    def total(self, values: Array, divisor: Any = None) -> Any:
        """Sum of float64 ``values`` ``(N,)`` in a fixed order, over ``divisor`` if given, rounded once; float64."""
        if values.size <= _FSUM_MAX and type(divisor) is float and divisor:
            try:  # nothing here that NumPy could warn of, and in a fraction of the time
                mean = math.fsum(values.tolist()) / divisor
                if mean > FAR_FROM_SUBNORMAL or not flushes_subnormals():
                    return np.float64(mean)
            except (OverflowError, ValueError):  # beyond the largest number; inf - inf
                pass
        with ieee_arithmetic():
            result = _sum(values)
            if divisor is None:
                return np.float64(result)
            if divisor == 0:
                return np.float64(np.nan)
            if math.isinf(result):  # a mean of large losses may be a number where their sum is none
                return np.float64(_sum(np.ldexp(values, -_LOWERED)) / divisor * 2.0**_LOWERED)
            return np.float64(result / divisor)


HostArrays = NumpyArrayOps
"""The same, by its former name."""


def _in_range(values: Array, low: float, high: float) -> bool:
    """Whether all ``values`` lie in ``[low, high]``."""
    if is_half(values.dtype):  # NumPy compares float16 one by one
        bits = values.view(np.uint16) if values.dtype.isnative else values
        if low == 0.0 and bits.max() <= np.array(high, values.dtype).view(bits.dtype):  # from +0 on they are in order
            return True
        values = widen(values)
    return bool(values.min() >= low and values.max() <= high)


def _check_distribution(y: Array, tolerance: float, first: int) -> None:
    """`NumpyArrayOps.check_distribution` of the rows from ``first`` on."""
    if y.dtype.kind != "u" and not y.min() >= 0:  # NaN may hide a negative number
        negative = y < 0
        if negative.any():
            row, k = (int(i) for i in np.unravel_index(int(negative.argmax()), y.shape))
            raise messages.negative_target(first + row, k, y[row, k])
    with np.errstate(over="ignore"):
        sums = y.sum(axis=1, dtype=np.promote_types(y.dtype, np.float64))
    off = np.abs(sums - 1.0)
    if not off.max() <= tolerance:
        row = int((off <= tolerance).argmin())
        raise messages.not_a_distribution(first + row, sums[row])


def _cast(array: Array, dtype: np.dtype[Any]) -> Array:
    if dtype == np.float32 and is_half(array.dtype):
        return widen(array)
    if is_half(dtype):
        cast = np.empty(array.shape, dtype)
        narrow(widen(array), cast)  # NumPy has no cast between the two kinds of halves
        return cast
    with np.errstate(over="ignore"):  # a float64 loss may be too large for float32: inf is the rounded result
        return array.astype(dtype)


def _copy(array: Array, out: Array) -> None:
    """Fill ``out``, rounding where it is narrower."""
    if is_half(out.dtype):
        narrow(array, out)
        return
    with np.errstate(over="ignore"):
        np.copyto(out, array, casting="same_kind")


def _all_below(labels: Array, n_classes: int) -> bool:
    """Whether all int64 ``labels`` are classes."""
    if labels.size <= _FEW:
        few = labels.tolist()
        return not few or (min(few) >= 0 and max(few) < n_classes)
    unsigned = labels.view(_UINT64)
    return bool(unsigned.item(unsigned.argmax()) < n_classes)  # the fastest way to a maximum of few numbers


def _sum(values: Array) -> float:
    """Accurate sum in an order that depends on the length alone. inf and NaN propagate as in a plain sum."""
    if values.size <= _FSUM_MAX:
        try:
            return math.fsum(values.tolist())
        except (OverflowError, ValueError):  # beyond the largest number; inf - inf
            pass
    plain = float(values.sum())
    if not math.isfinite(plain) or values.size <= _FSUM_MAX:
        return plain
    error = 0.0
    while values.size > 1:  # pairs (i, i + half): a tree of TwoSum, whose errors are summed apart
        half = values.size // 2
        a, b = values[:half], values[half : 2 * half]
        s = a + b
        t = s - a
        error += float(((a - (s - t)) + (b - t)).sum())
        values = np.append(s, values[-1:]) if values.size % 2 else s
    return float(values[0]) + error
