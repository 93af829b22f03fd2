"""What the front asks of arrays, for array libraries with the functions of the array API standard: torch, JAX, others.

The front sees a `View`, which says dtype, shape and strides in NumPy's terms; kernels take the library's array out of
it. Nothing is copied but what must be: arrays of the library go in and come out as they are, and NumPy arrays are
converted by the cheapest way that the library has.
"""

from __future__ import annotations

import abc
import math
import os
from typing import Any, ClassVar, NoReturn

import numpy as np

from softbench.interface import IGNORED, INVALID, Array, RowBackend, messages
from softbench.interface.dtypes import name_of, numpy_dtype, sum_tolerance
from softbench.interface.host_arrays import Layout

__all__ = ["LibraryArrays", "NamespaceChecks", "View"]


class View:
    """An array of another library, described in NumPy's terms."""

    __slots__ = ("_array", "dtype", "ndim", "shape", "source", "xp")

    def __init__(
        self,
        array: Any,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        xp: Any,
        source: np.ndarray[Any, Any] | None = None,
    ) -> None:
        self._array = array
        self.dtype = dtype
        self.xp = xp
        """The namespace of its functions."""
        self.shape = shape
        self.ndim = len(shape)
        self.source = source
        """The NumPy array it was made of, if so."""

    @property
    def array(self) -> Any:
        """The library's array."""
        array = self._array
        if array.shape != self.shape:
            array = self._array = self.xp.reshape(array, self.shape)
        return array

    def replace(self, array: Any) -> None:
        """Have another array of this shape and dtype in place of the library's own."""
        self._array, self.source = array, None

    def reshape(self, *shape: Any) -> View:
        """The same elements in another shape, as `numpy.ndarray.reshape`; the library is asked when they are needed."""
        wanted = shape[0] if shape and type(shape[0]) is tuple else shape
        if wanted == self.shape:
            return self
        if -1 in wanted:
            size = math.prod(self.shape)
            known = math.prod(step for step in wanted if step != -1)
            wanted = tuple(size // known if step == -1 else step for step in wanted)
        source = None if self.source is None else self.source.reshape(wanted)
        return View(self._array, wanted, self.dtype, self.xp, source)

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    @property
    def strides(self) -> tuple[int, ...]:
        """Bytes from one element to the next; only of arrays that can be written into."""
        if self.source is not None:
            return self.source.strides
        return tuple(step * self.dtype.itemsize for step in self.array.stride())


class LibraryArrays(RowBackend):
    """Array primitives on `View`; checks of values are NumPy's, on the same memory."""

    native_loss = True
    writes_out: ClassVar = frozenset[str]()

    def __init__(self) -> None:
        self._own_types: dict[type, bool] = {}
        self._process = os.getpid()

    def is_own(self, obj: Any) -> bool:
        """Whether ``obj`` is an array of this library."""
        try:
            return self._own_types[type(obj)]
        except KeyError:
            return self._own_types.setdefault(type(obj), self.knows(obj))

    # -- what a library must say -----------------------------------------------------------------------

    @abc.abstractmethod
    def knows(self, obj: Any) -> bool:
        """Whether arrays of this library are of the type of ``obj``; asked once for each type."""

    @abc.abstractmethod
    def view(self, array: Any, source: np.ndarray[Any, Any] | None = None) -> View:
        """An array of this library."""

    @abc.abstractmethod
    def check_own(self, array: Any, argument: str) -> None:
        """TypeError for an array of this library that cannot be computed on."""

    @abc.abstractmethod
    def from_host(self, host: np.ndarray[Any, Any], argument: str) -> Any:
        """A NumPy array as a `View`, or itself where the library has no such dtype, which the front refuses."""

    @abc.abstractmethod
    def host(self, view: View) -> np.ndarray[Any, Any]:
        """The elements of a view as a NumPy array, on the same memory where that is possible."""

    @abc.abstractmethod
    def astype(self, view: View, dtype: str) -> Any:
        """The library's array in another dtype."""

    def in_child(self) -> None:
        """What is to be done at the first call in a forked child: refuse it, but for libraries that go on computing."""
        raise messages.forked(self.name)

    def contiguous(self, array: Any) -> Any:
        """The library's array in C order; most have no other."""
        return array

    # -- in and out ------------------------------------------------------------------------------------

    def accept(self, obj: Any, argument: str) -> Array:
        """A `View` of an array of the library, of a NumPy array, or of what makes one."""
        if os.getpid() != self._process:
            self.in_child()
            self._process = os.getpid()
        if self.is_own(obj):
            self.check_own(obj, argument)
            return self.view(obj)
        return self.from_host(super().accept(obj, argument), argument)

    def writes_through(self, obj: Any, array: Array) -> bool:
        """Arrays of the library are its memory; others as NumPy shares theirs."""
        return self.is_own(obj) or super().writes_through(obj, self.memory(array))

    def wrap(self, result: Array, like: Any) -> Any:
        """The library's array if ``like`` is one, else a NumPy array (a scalar when 0-d)."""
        return result.array if self.is_own(like) else super().wrap(self.host(result), like)

    def to_numpy(self, array: Any) -> np.ndarray[Any, Any]:
        """A copy in host memory."""
        return np.array(self.host(self.view(array)) if self.is_own(array) else array)

    def layout(self, array: Array) -> Layout:
        """How an array lies in memory; immutable ones never get here."""
        return super().layout(array if isinstance(array, np.ndarray) else self.memory(array))

    def address(self, array: Array) -> int:
        """Where the first element lies."""
        return super().address(self.memory(array))

    def shares_memory(self, a: Array, b: Array) -> bool:
        """Whether two arrays overlap: those that came in, not copies of them."""
        return super().shares_memory(self.memory(a), self.memory(b))

    def memory(self, array: Array) -> np.ndarray[Any, Any]:
        """A NumPy array on the memory of an array that came in."""
        if isinstance(array, np.ndarray):
            return array
        return self.host(array) if array.source is None else array.source

    def accept_features(self, obj: Any, argument: str) -> NoReturn:
        """NotProvidedError: these backends have the functions of given logits."""
        raise messages.not_provided(self.name, "functions of linear logits", self.provides)

    # -- rows ------------------------------------------------------------------------------------------

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """Nothing: the library makes its own results."""
        return None

    def full(self, shape: tuple[int, ...], value: float, dtype: str) -> Array:
        """An array of one value."""
        return self.from_host(np.full(shape, value, numpy_dtype(dtype)), "result")

    def as_rows(self, x: Array, axis: int, dtype: str) -> Array:
        """``x`` with ``axis`` last as ``(N, K)`` of ``dtype``."""
        xp, array = x.xp, x.array
        if x.ndim == 2 and axis == 1 and name_of(x.dtype) == dtype:
            ready = self.contiguous(array)
            return x if ready is array else self.view(ready)
        if axis != x.ndim - 1:
            array = xp.moveaxis(array, axis, -1)
        if x.ndim != 2:
            array = xp.reshape(array, (math.prod(array.shape[:-1]), array.shape[-1]))
        rows = self.view(self.contiguous(array))
        return rows if name_of(rows.dtype) == dtype else self.view(self.astype(rows, dtype))

    def as_blocks(self, x: Array, axis: int, dtype: str) -> Array:
        """``x`` as ``(outer, K, inner)`` of ``dtype``."""
        shape = math.prod(x.shape[:axis]), x.shape[axis], math.prod(x.shape[axis + 1 :])
        blocks: View = x.reshape(shape)
        return blocks if name_of(blocks.dtype) == dtype else self.view(self.astype(blocks, dtype))

    def from_rows(self, rows: Array, shape: tuple[int, ...], axis: int, dtype: str, out: Array | None = None) -> Array:
        """The inverse of `as_rows` for a result: an array of ``shape`` and ``dtype``, or ``out`` filled."""
        if name_of(rows.dtype) != dtype:
            rows = self.view(self.astype(rows, dtype))
        if axis != len(shape) - 1:
            moved = rows.reshape(shape[:axis] + shape[axis + 1 :] + (shape[axis],))
            rows = self.view(self.contiguous(rows.xp.moveaxis(moved.array, -1, axis)))
        rows = rows.reshape(shape)
        if out is None:
            return rows
        self.fill(out, rows)
        return out

    def fill(self, out: Array, result: View) -> None:
        """Copy a result into memory that was accepted as ``out``."""
        np.copyto(self.memory(out), self.host(result))

    # -- targets and weights ---------------------------------------------------------------------------

    def index_labels(self, labels: Array, n_classes: int, ignore_index: int | None, validate: bool) -> Array:
        """Labels as int64: a class, IGNORED or INVALID."""
        given = self.memory(labels)
        checked = super().index_labels(given, n_classes, ignore_index, validate)
        return labels if checked is given else self.from_host(checked, "target")

    def check_range(self, values: Array, argument: str, low: float, high: float) -> None:
        """ValueError naming the first entry that is NaN or outside ``[low, high]``."""
        super().check_range(self.host(values), argument, low, high)

    def check_distribution(self, y: Array) -> None:
        """ValueError naming the first row of soft targets that is no distribution."""
        super().check_distribution(self.host(y))

    def total(self, values: Array, divisor: Any = None) -> Any:
        """What the kernels have reduced, in float64; the sum of losses that there are none of."""
        if values.ndim:
            return self.from_host(np.asarray(super().total(self.host(values), divisor)), "result")
        return values if name_of(values.dtype) == "float64" else self.view(self.astype(values, "float64"))


class NamespaceChecks:
    """Checks of values by functions of the array API standard, where the elements may be on a device."""

    def index_labels(self, labels: View, n_classes: int, ignore_index: int | None, validate: bool) -> View:
        """Labels as int64: a class, IGNORED or INVALID; with ``validate`` one wait for the device."""
        arrays: Any = self
        xp = labels.xp
        wide = arrays.astype(labels, "int64")  # a uint64 beyond int64 turns negative: no class either, nor ignored
        bad = (wide < 0) | (wide >= n_classes)
        ignores = ignore_index is not None and (ignore_index >= 0 or name_of(labels.dtype) != "uint64")
        if ignores:
            ignored = wide == ignore_index
            bad = bad & ~ignored
        if validate:
            if labels.shape[0] and bool(xp.any(bad)):
                row = _first(xp, bad)
                values = arrays.host(labels) if labels.source is None else labels.source
                raise messages.no_class(row, values[row], n_classes, ignore_index)
        else:
            wide = xp.where(bad, xp.full_like(wide, INVALID), wide)
        if ignores:
            wide = xp.where(ignored, xp.full_like(wide, IGNORED), wide)
        elif validate and name_of(labels.dtype) == "int64":
            return labels
        checked: View = arrays.view(wide)
        return checked

    def check_range(self, values: View, argument: str, low: float, high: float) -> None:
        """ValueError naming the first entry that is NaN or outside ``[low, high]``."""
        xp, flat = values.xp, values.xp.reshape(values.array, (-1,))
        bad = ~((flat >= low) & (flat <= high))
        if math.prod(values.shape) and bool(xp.any(bad)):
            at = _first(xp, bad)
            raise messages.out_of_range(argument, np.unravel_index(at, values.shape), float(flat[at]), low, high)

    def check_distribution(self, y: View) -> None:
        """ValueError naming the first row of soft targets that is negative, NaN, or does not sum to 1."""
        arrays: Any = self
        xp, (n, k) = y.xp, y.shape
        if n * k == 0:
            return
        flat = xp.reshape(y.array, (-1,))
        negative = flat < 0
        if bool(xp.any(negative)):
            at = _first(xp, negative)
            raise messages.negative_target(at // k, at % k, float(flat[at]))
        sums = xp.sum(arrays.astype(y, "float64"), axis=1)
        bad = ~(abs(sums - 1.0) <= sum_tolerance(name_of(y.dtype)))
        if bool(xp.any(bad)):
            row = _first(xp, bad)
            raise messages.not_a_distribution(row, float(sums[row]))


def _first(xp: Any, condition: Any) -> int:
    """The first index at which a one-dimensional condition holds."""
    ones, zeros = (like(condition, dtype=xp.int8) for like in (xp.ones_like, xp.zeros_like))
    return int(xp.argmax(xp.where(condition, ones, zeros)))
