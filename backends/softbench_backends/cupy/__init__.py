"""The CuPy backend: CUDA C++ kernels, compiled by NVRTC when they are first asked for.

The kernels are in the ``.cu`` and ``.cuh`` files of this folder, one templated source for all dtypes; `plan` says
which one runs when, `device` is CuPy, and this module is the rest of the host's part: what the front asks of an
array library, and the launches. Everything runs on the caller's current stream; only checks of values
(``validate=True``) wait for the device.
"""

from __future__ import annotations

import functools
import math
from typing import Any, Final

import numpy as np

from softbench.interface import Array, Availability, IndexTarget, RowBackend, SoftTarget, Target, messages
from softbench.interface.dtypes import numpy_dtype, sum_tolerance
from softbench.interface.host_arrays import HostArrays, Layout
from softbench_backends.cupy import plan
from softbench_backends.cupy.device import CupyDevice, Device, Launch, unavailable

__all__ = ["CupyBackend"]

_MAX_GRID: Final = (1 << 31) - 1
_MAX_GRID_Y: Final = 65535
_FLAT_BLOCK: Final = 256
_FLAT_GRID: Final = 1 << 16  # kernels over single elements loop beyond this many blocks
_SUM_BLOCK: Final = 256
_SUM_CHUNK: Final = 8192  # CHUNK of primitives.cuh
_PART_DOUBLES: Final = 9  # of StoredPart in segments.cuh


_NO_TARGET: Final = (None, None, None, np.float64(0.0), None, None, np.float64(1.0))


class CupyBackend(RowBackend):
    """Row kernels in CUDA C++ through CuPy; takes and returns CuPy, Numba and torch arrays."""

    name = "cupy"
    kind = "gpu"
    requires = ("cupy",)
    install = 'pip install "softbench[cuda13]"'
    dtypes = frozenset(plan.STORAGE)

    def __init__(self, device: Device | None = None) -> None:
        self.device: Device = device or CupyDevice()
        self.xp = self.device.xp

    @classmethod
    def availability(cls) -> Availability:
        """Whether there is a CuPy, a driver, a device and a compiler; asked once."""
        reason = unavailable()
        return Availability(not reason, cls.kind, reason, cls.install if reason else "")

    def info(self) -> dict[str, object]:
        """Versions, device name and compute capability."""
        return self.device.info()

    def boundaries(self, dtype: str) -> list[int]:
        """The largest K of each kernel but the last, for rows of ``dtype`` on this device."""
        return plan.boundaries(dtype, self.device.staged_bytes)

    # -- in and out ------------------------------------------------------------------------------------

    def accept(self, obj: Any, argument: str) -> Array:
        """A CuPy array over the memory of ``obj``; ``class_weight`` may also be in host memory.

        TypeError for everything else in host memory (naming ``asarray``) and on another device.
        """
        adopted = self.device.adopt(obj)
        if adopted is not None:
            return adopted
        host = super().accept(obj, argument)  # refuses what makes no array at all
        if argument == "class_weight":
            return self.asarray(host)
        raise messages.in_host_memory(argument, obj)

    def wrap(self, result: Array, like: Any) -> Any:
        """``result`` as a Numba or torch array if ``like`` is one, else as a CuPy array; 0-d stays an array."""
        return self.device.give(result, like)

    def asarray(self, obj: Any) -> Array:
        """A CuPy array of anything on a device or that `numpy.asarray` takes, copied to the device if need be."""
        adopted = self.device.adopt(obj)
        if adopted is not None:
            return adopted
        host = np.asarray(obj)
        return self.xp.asarray(_plain(host)).view(host.dtype)

    def to_numpy(self, array: Any) -> np.ndarray[Any, Any]:
        """A copy in host memory."""
        return self.device.to_numpy(array)

    def synchronize(self) -> None:
        """Wait for the current stream."""
        self.device.synchronize()

    def layout(self, array: Array) -> Layout:
        """How an array lies in memory."""
        return self.device.layout(array)

    def address(self, array: Array) -> int:
        """The device pointer of the first element."""
        return self.device.address(array)

    def shares_memory(self, a: Array, b: Array) -> bool:
        """Whether two arrays overlap, from their addresses, shapes and strides."""
        if a.flags.c_contiguous and b.flags.c_contiguous:
            first, second = self.address(a), self.address(b)
            return bool(a.size and b.size and first < second + b.nbytes and second < first + a.nbytes)
        return HostArrays.shares_memory(self, self._shadow(a), self._shadow(b))

    def _shadow(self, array: Array) -> np.ndarray[Any, Any]:
        """A NumPy array with the addresses of a device array, which are never read."""
        return np.asarray(_Shadow(self.address(array), array.shape, array.strides, array.dtype.itemsize))

    # -- rows ------------------------------------------------------------------------------------------

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """A C-contiguous array of garbage."""
        return self.xp.empty(shape, numpy_dtype(dtype) if isinstance(dtype, str) else dtype)

    def full(self, shape: tuple[int, ...], value: float, dtype: str) -> Array:
        """A C-contiguous array of one value."""
        if dtype == "bfloat16":
            return self._cast(self.xp.full(shape, value, np.float64), dtype)
        return self.xp.full(shape, value, numpy_dtype(dtype))

    def as_rows(self, x: Array, axis: int, dtype: str) -> Array:
        """``x`` with ``axis`` last as C-contiguous ``(N, K)`` rows of ``dtype``; a view where possible."""
        plain = _plain(x)
        if axis != x.ndim - 1:
            plain = self.xp.moveaxis(plain, axis, -1)
        if x.ndim != 2:
            plain = plain.reshape(math.prod(plain.shape[:-1]), plain.shape[-1])
        return self._cast(self._contiguous(plain).view(x.dtype), dtype)

    def from_rows(self, rows: Array, shape: tuple[int, ...], axis: int, dtype: str, out: Array | None = None) -> Array:
        """The inverse of `as_rows` for a result: an array of ``shape`` and ``dtype``, or ``out`` filled."""
        rows = self._cast(rows, dtype)
        if axis != len(shape) - 1:
            moved = rows.reshape(shape[:axis] + shape[axis + 1 :] + (shape[axis],))
            rows = self.xp.moveaxis(_plain(moved), -1, axis).view(rows.dtype)
        raised = rows if rows.shape == shape else rows.reshape(shape)
        if out is None:
            return self._contiguous(raised)
        self.xp.copyto(_plain(out), _plain(raised))
        return out

    def _contiguous(self, array: Array) -> Array:
        if array.flags.c_contiguous:
            return array
        return self.xp.ascontiguousarray(_plain(array)).view(array.dtype)

    def _cast(self, array: Array, dtype: str) -> Array:
        """``array`` in ``dtype``; bfloat16, for which the array module may lack a cast, goes through a kernel."""
        source = _name(array)
        if source == dtype:
            return array
        if "bfloat16" not in (source, dtype):
            with np.errstate(over="ignore"):  # a float64 loss may be too large for float16
                return array.astype(numpy_dtype(dtype))
        source, middle = ("bfloat16", "float32") if source == "bfloat16" else ("float64", "bfloat16")
        converted = self.empty(array.shape, middle)
        if array.size:
            given = array if array.dtype.name == source else array.astype(np.float64)
            name = f"convert<{plan.STORAGE[source]}, {plan.STORAGE[middle]}>"
            self._flat(name, array.size, self._contiguous(given), converted, np.int64(array.size))
        return converted if middle == dtype else converted.astype(numpy_dtype(dtype))

    # -- targets and weights ---------------------------------------------------------------------------

    def index_labels(self, labels: Array, n_classes: int, ignore_index: int | None, validate: bool) -> Array:
        """Labels as int64: a class, IGNORED or INVALID. With ``validate`` one wait for the device, and ValueError."""
        given = self._contiguous(labels)
        out = self.xp.empty(given.shape, np.int64)
        if given.size == 0:
            return out
        limits = np.iinfo(given.dtype)
        ignores = ignore_index is not None and int(limits.min) <= ignore_index <= int(limits.max)
        ignored = np.array(ignore_index if ignores else 0, given.dtype).astype(np.int64)  # uint64 wraps, as in C
        arguments = (given, out, np.int64(given.size), np.int64(n_classes), np.int32(ignores), ignored[()])
        first = self._first(given.size, validate)
        self._flat(f"check_labels<{plan.LABEL_TYPES[given.dtype.name]}>", given.size, *arguments, first)
        row = self._found(first, given.size)
        if row is not None:
            raise messages.no_class(row, self._item(given, row), n_classes, ignore_index)
        return out

    def check_range(self, values: Array, argument: str, low: float, high: float) -> None:
        """ValueError naming the first entry that is NaN or outside ``[low, high]``; waits for the device."""
        if values.size == 0:
            return
        given = self._real(self._contiguous(values))
        first = self._first(given.size)
        name = f"check_range<{plan.STORAGE[given.dtype.name]}>"
        self._flat(name, given.size, given, np.int64(given.size), np.float64(low), np.float64(high), first)
        at = self._found(first, given.size)
        if at is not None:
            where = np.unravel_index(at, values.shape)
            raise messages.out_of_range(argument, where, self._item(given, at), low, high)

    def check_distribution(self, y: Array) -> None:
        """ValueError naming the first row that is negative, NaN, or does not sum to 1; waits for the device."""
        n, k = y.shape
        given = self._real(y)
        lanes, block = plan.lanes_for(k)
        first = self._first(n)
        tolerance = np.float64(sum_tolerance(y.dtype.name))
        name = f"check_distribution<{plan.STORAGE[given.dtype.name]}>"
        self._per_row(name, n, lanes, block, given, np.int64(n), np.int64(k), np.int32(lanes), tolerance, first)
        row = self._found(first, n)
        if row is None:
            return
        wrong = self.to_numpy(self._cast(given[row], "float64"))
        negative = np.flatnonzero(wrong < 0)
        if negative.size:
            at = int(negative[0])
            raise messages.negative_target(row, at, wrong[at])
        with np.errstate(over="ignore", invalid="ignore"):
            total = wrong.sum()
        raise messages.not_a_distribution(row, total)

    def soft_rows(
        self,
        y: Array,
        dtype: str,
        smoothing: float,
        class_weight: Array | None,
        sample_weight: Array | None,
        divisor: Any,
    ) -> Array:
        """``s_i w_k ((1 - smoothing) y_ik + smoothing / K) / divisor``; in float32 for half precision rows."""
        dtype = plan.compute_dtype(dtype)
        given = self._real(self._contiguous(y))
        q = self.empty(y.shape, dtype)
        name = f"soft_rows<{plan.STORAGE[given.dtype.name]}, {plan.STORAGE[dtype]}>"
        sizes = np.int64(y.size), np.int64(y.shape[1])
        weights = np.float64(smoothing), class_weight, sample_weight, *self._divisor(divisor)
        self._flat(name, y.size, given, q, *sizes, *weights)
        return q

    def divisor(self, labels: Array | None, sample_weight: Array | None, class_weight: Array | None) -> Array:
        """Sum of ``s_i w[y_i]`` over rows not IGNORED (of ``s_i`` without labels); waits for nothing.

        Two float64 whose sum it is: a gradient is divided by it before its one rounding.
        """
        divisor = self.xp.empty((2,), np.float64)
        n = len(sample_weight if labels is None else labels)  # type: ignore[arg-type]
        self._sum(n, divisor, None, labels, sample_weight, class_weight)
        return divisor

    def total(self, values: Array, divisor: Any = None) -> Array:
        """Sum of float64 ``values`` in an order that depends on N alone, over ``divisor``; waits for nothing."""
        total = self.xp.empty((), np.float64)
        self._sum(len(values), total, self._contiguous(values), divisor=divisor)
        return total

    def _sum(
        self,
        n: int,
        out: Array,
        values: Array | None,
        labels: Array | None = None,
        sample_weight: Array | None = None,
        class_weight: Array | None = None,
        divisor: Any = None,
    ) -> None:
        """Sum ``values``, or the weights of rows, into ``out``: one number, or two whose sum it is."""
        count = -(-n // _SUM_CHUNK)
        chunks = self.xp.empty((max(count, 1), 2), np.float64)
        if count:
            terms = values, labels, sample_weight, class_weight, np.int64(n), chunks
            self.device.launch("sum_chunks", Launch((count, 1), _SUM_BLOCK), terms)
        division = np.int32(divisor is not None), *self._divisor(1.0 if divisor is None else divisor)
        arguments = chunks, np.int64(count), *division, np.int32(out.size == 2), out
        self.device.launch("sum_total", Launch((1, 1), _SUM_BLOCK), arguments)

    # -- row kernels -----------------------------------------------------------------------------------

    def argmax(self, x: Array, out: Array) -> Array:
        """Zhao eq. (1), (2)."""
        n, k = x.shape
        lanes, block = plan.lanes_for(k)
        width = plan.vector_width(k, x.dtype.name)
        name = f"argmax<{plan.STORAGE[x.dtype.name]}, {width}>"
        whole = np.int32(self._whole(width, x))
        self._per_row(name, n, lanes, block, x, out, np.int64(n), np.int64(k), np.int32(lanes), whole)
        return out

    def logsumexp(self, x: Array, out: Array) -> Array:
        """Zhao eq. (3)."""
        self._rows("LOGSUMEXP", x, None, out)
        return out

    def softmax(self, x: Array, out: Array) -> Array:
        """Zhao eq. (4), (5)."""
        self._rows("SOFTMAX", x, out, None)
        return out

    def log_softmax(self, x: Array, out: Array) -> Array:
        """``(d - L) + r``."""
        self._rows("LOG_SOFTMAX", x, out, None)
        return out

    def loss_and_gradient(self, x: Array, target: Target, divisor: Any, loss: Array, out: Array) -> tuple[Array, Array]:
        """Zhao eq. (9), (10), (11)."""
        self._losses(x, target, divisor, loss, out)
        return loss, out

    def loss(self, x: Array, target: Target, loss: Array) -> Array:
        """Zhao eq. (9), (10)."""
        self._losses(x, target, 1, loss, None)
        return loss

    def gradient(self, x: Array, target: Target, divisor: Any, out: Array) -> Array:
        """Zhao eq. (11)."""
        self._losses(x, target, divisor, None, out)
        return out

    def log_loss(self, p: Array, target: Target, loss: Array) -> Array:
        """Zhao eq. (6)-(8)."""
        n, k = p.shape
        storage = plan.STORAGE[p.dtype.name]
        if isinstance(target, SoftTarget):
            lanes, block = plan.lanes_for(k)
            q = self._cast(target.q, plan.compute_dtype(p.dtype.name))
            sizes = np.int64(n), np.int64(k), np.int32(lanes)
            self._per_row(f"log_loss_soft<{storage}>", n, lanes, block, p, loss, *sizes, q)
        else:
            weights = target.labels, target.sample_weight, target.class_weight
            self._flat(f"log_loss_index<{storage}>", n, p, loss, np.int64(n), np.int64(k), *weights)
        return loss

    def _losses(self, x: Array, target: Target, divisor: Any, loss: Array | None, out: Array | None) -> None:
        if isinstance(target, SoftTarget):
            q = self._cast(target.q, plan.compute_dtype(x.dtype.name))
            self._rows("SOFT", x, out, loss, (None, None, None, np.float64(0.0), q, *self._divisor(divisor)))
        else:
            operation = "SMOOTH" if target.smoothing else "INDEX"
            self._rows(operation, x, out, loss, (*_index_arguments(target), *self._divisor(divisor)))

    def _rows(
        self, operation: str, x: Array, out: Array | None, per_row: Array | None, target: Any = _NO_TARGET
    ) -> None:
        """Launch one operation over rows: ``out`` takes its ``(N, K)`` result, ``per_row`` its ``(N,)`` result."""
        n, k = x.shape
        how, kernel, launch, sizes = _planned(operation, _name(x), n, k, self.device.staged_bytes)
        whole = np.int32(k % how.width == 0 and self._whole(how.width, x, out))
        if isinstance(how, plan.Segments):
            self._segments(operation, how, whole, x, out, per_row, target)
        else:
            self.device.launch(kernel, launch, (x, out, per_row, *sizes, whole, *target))

    def _segments(
        self,
        operation: str,
        cut: plan.Segments,
        whole: np.int32,
        x: Array,
        out: Array | None,
        per_row: Array | None,
        target: tuple[Any, ...],
    ) -> None:
        """`_rows` for rows that are cut into segments."""
        n, k = x.shape
        storage = plan.STORAGE[x.dtype.name]
        labels, _, class_weight, _, q, *_ = target
        length = np.int64(k), np.int64(cut.length)
        # Rows are read a second time for `out`: as many at once as leave the first reading in half of the cache.
        group = max(1, self.device.cache_bytes // (2 * k * x.dtype.itemsize)) if out is not None else n
        group = min(group, n, _MAX_GRID_Y)
        parts = self.xp.empty((group, cut.pieces, _PART_DOUBLES), np.float64)
        chosen = self.xp.empty((group,), np.float64)
        sums = f"segment_sums<{storage}, {plan.SUMS_OF[operation]}, {cut.width}>"
        write = f"segment_write<{storage}, {operation}, {cut.width}>"
        for first in range(0, n, group):
            rows = min(group, n - first)
            start = np.int64(first)
            arguments = (x, start, *length, whole, labels, class_weight, q, parts, chosen)
            self.device.launch(sums, Launch((cut.pieces, rows), cut.block), arguments)
            arguments = (x, out, per_row, start, *length, np.int32(cut.pieces), whole, *target, parts, chosen)
            grid = (cut.pieces if out is not None else 1, rows)
            self.device.launch(write, Launch(grid, cut.block), arguments)

    # -- launches --------------------------------------------------------------------------------------

    def _flat(self, kernel: str, n: int, *arguments: Any) -> None:
        """Launch a kernel that loops over ``n`` elements."""
        self.device.launch(kernel, Launch((min(-(-n // _FLAT_BLOCK), _FLAT_GRID), 1), _FLAT_BLOCK), arguments)

    def _per_row(self, kernel: str, n: int, lanes: int, block: int, *arguments: Any) -> None:
        """Launch a kernel whose blocks loop over ``n`` rows, ``lanes`` threads to a row."""
        self.device.launch(kernel, Launch((min(-(-n * lanes // block), _MAX_GRID), 1), block), arguments)

    def _whole(self, width: int, *arrays: Array | None) -> bool:
        """Whether all arrays allow accesses of ``width`` elements at once."""
        for array in arrays:
            if array is not None and self.device.address(array) % (width * array.dtype.itemsize):
                return False
        return True

    def _divisor(self, divisor: Any) -> tuple[Array | None, np.float64]:
        """A divisor as two kernel arguments: where the two numbers of `divisor` lie, or its value."""
        if not isinstance(divisor, self.xp.ndarray):
            return None, np.float64(divisor)
        if divisor.size == 1:
            divisor = self.xp.concatenate([divisor.reshape(1), self.xp.zeros(1, np.float64)])
        return divisor, np.float64(1.0)

    def _first(self, size: int, wanted: bool = True) -> Array | None:
        """A cell for the first offender among ``size``, or None where nobody will look."""
        if not wanted:
            return None
        if self.device.capturing():
            raise messages.captured()
        return self.xp.full((1,), size, np.uint64)

    def _found(self, first: Array | None, size: int) -> int | None:
        """The offender in the cell, if there is one; waits for the device."""
        at = size if first is None else int(self.to_numpy(first)[0])
        return at if at < size else None

    def _item(self, array: Array, at: int) -> Any:
        return self.to_numpy(array.reshape(-1)[at : at + 1])[0]

    def _real(self, array: Array) -> Array:
        """``array`` in a dtype the kernels know: integers become float64."""
        return array if array.dtype.name in plan.STORAGE else array.astype(np.float64)


class _Shadow:
    """Bounds of an array in memory that this process may not read."""

    def __init__(self, address: int, shape: tuple[int, ...], strides: tuple[int, ...], itemsize: int) -> None:
        self.__array_interface__ = {
            "version": 3,
            "data": (address, True),
            "shape": shape,
            "strides": strides,
            "typestr": f"|V{itemsize}",
        }


@functools.cache
def _name_of(dtype: np.dtype[Any]) -> str:
    return dtype.name  # which NumPy puts together anew each time


def _name(array: Array) -> str:
    return _name_of(array.dtype)


def _plain(array: Array) -> Array:
    """bfloat16 as 16-bit integers, which any array module can copy."""
    return array.view(np.uint16) if _name(array) == "bfloat16" else array


@functools.lru_cache(maxsize=4096)
def _planned(
    operation: str, dtype: str, n: int, k: int, staged_bytes: int
) -> tuple[plan.Resident | plan.Staged | plan.Segments, str, Launch, tuple[np.generic, ...]]:
    """The plan of an operation over ``(n, k)`` rows, its kernel, launch and sizes; of segments the plan alone."""
    storage, how = plan.STORAGE[dtype], plan.rows(k, dtype, staged_bytes)
    if isinstance(how, plan.Resident):
        kernel = f"resident<{storage}, {operation}, {how.width}, {how.elements}>"
        launch = Launch((-(-n * how.lanes // how.block), 1), how.block)
        return how, kernel, launch, (np.int64(n), np.int64(k), np.int32(how.lanes))
    if isinstance(how, plan.Staged):
        name, size = ("clustered", f", {how.blocks}") if how.blocks > 1 else ("staged", "")
        launch = Launch((n * how.blocks, 1), how.block, how.shared, how.blocks)
        return how, f"{name}<{storage}, {operation}{size}>", launch, (np.int64(k), np.int64(how.length))
    return how, "", Launch((0, 0), 0), ()


def _index_arguments(target: IndexTarget) -> tuple[Any, ...]:
    return target.labels, target.sample_weight, target.class_weight, np.float64(target.smoothing), None
