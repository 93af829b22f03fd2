"""The CuPy backend: CUDA C++ kernels, compiled by NVRTC when they are first asked for.

The kernels are in the ``.cu`` and ``.cuh`` files of this folder, one templated source for all dtypes; `plan` says
which one runs when, `device` is CuPy, and this module is the rest of the host's part: what the front asks of an
array library, and the launches. Everything runs on the caller's current stream; only checks of values
(``validate=True``) wait for the device.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from softbench.interface import IGNORED, Array, Availability
from softbench.interface.device_backend import NO_TARGET, KernelTarget
from softbench.interface.device_linear import SUMMED_ROWS, LinearDeviceBackend
from softbench.interface.dtypes import ITEMSIZE, compute_dtype, name_of, numpy_dtype
from softbench.interface.host_arrays import Layout
from softbench.interface.integers import shifted_rows
from softbench.interface.row_plan import Regime, RowPlan, vector_width
from softbench_backends.cupy import calls, plan
from softbench_backends.cupy.device import CupyDevice, Device, Launch, unavailable

__all__ = ["CupyBackend"]

_MAX_GRID: Final = (1 << 31) - 1
_MAX_GRID_Y: Final = 65535
_FLAT_BLOCK: Final = 256
_FLAT_GRID: Final = 1 << 16  # kernels over single elements loop beyond this many blocks


class CupyBackend(LinearDeviceBackend):
    """Row kernels in CUDA C++ through CuPy; takes and returns CuPy, Numba and torch arrays."""

    name = "cupy"
    requires = ("cupy",)

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

    def adopt(self, obj: Any, argument: str) -> Array | None:
        """A CuPy array over the memory of ``obj``, or None."""
        return self.device.adopt(obj, argument)

    def upload(self, host: np.ndarray[Any, Any]) -> Array:
        """A CuPy array."""
        return self.xp.asarray(_plain(host)).view(host.dtype)

    def wrap(self, result: Array, like: Any) -> Any:
        """``result`` as a Numba or torch array if ``like`` is one, else as a CuPy array; 0-d stays an array."""
        return self.device.give(result, like)

    def asarray(self, obj: Any) -> Array:
        """A CuPy array of anything on a device or that `numpy.asarray` takes, copied to the device if need be."""
        adopted = self.device.adopt(obj, "the array")
        return self.upload(np.asarray(obj)) if adopted is None else adopted

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
        """Of contiguous arrays the bounds decide."""
        if a.flags.c_contiguous and b.flags.c_contiguous:
            first, second = self.address(a), self.address(b)
            return bool(a.size and b.size and first < second + b.nbytes and second < first + a.nbytes)
        return super().shares_memory(a, b)

    def capturing(self) -> bool:
        """Whether the current stream is captured."""
        return self.device.capturing()

    def part(self, vector: Array, first: int, count: int) -> Array:
        """A slice."""
        return vector[first : first + count]

    def fetch(self, vector: Array, first: int, count: int) -> np.ndarray[Any, Any]:
        """Some elements, in host memory."""
        return self.to_numpy(self.part(vector, first, count))

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

    def integer_rows(self, x: Array, axis: int, given: Any) -> tuple[Array, Callable[[Array], Array]]:
        """64-bit integers as float64 rows; waits for nothing."""
        return shifted_rows(self.xp, self.as_rows(x, axis, x.dtype.name))

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

    def flattened(self, array: Array) -> Array:
        """All elements, contiguous."""
        return self._contiguous(array).reshape(-1)

    def _contiguous(self, array: Array) -> Array:
        if array.flags.c_contiguous:
            return array
        return self.xp.ascontiguousarray(_plain(array)).view(array.dtype)

    def _cast(self, array: Array, dtype: str) -> Array:
        """``array`` in ``dtype``; bfloat16, for which the array module may lack a cast, goes through a kernel."""
        source = name_of(array.dtype)
        if source == dtype:
            return array
        if "bfloat16" not in (source, dtype):
            with np.errstate(over="ignore"):  # a float64 loss may be too large for float16
                return array.astype(numpy_dtype(dtype))
        source, middle = ("bfloat16", "float32") if source == "bfloat16" else ("float64", "bfloat16")
        converted = self.empty(array.shape, middle)
        if array.size:
            given = array if name_of(array.dtype) == source else array.astype(np.float64)
            name = f"convert<{plan.STORAGE[source]}, {plan.STORAGE[middle]}>"
            self._flat(name, array.size, self._contiguous(given), converted, np.int64(array.size))
        return converted if middle == dtype else converted.astype(numpy_dtype(dtype))

    # -- targets and weights ---------------------------------------------------------------------------

    def lower_labels(self, labels: Array, n_classes: int, ignored: int | None, out: Array, find: bool) -> int | None:
        """One kernel, which also looks for the first that is no class."""
        first = self._cell(labels.size) if find else None
        how = np.int64(n_classes), np.int32(ignored is not None), np.int64(ignored or 0)
        kernel = f"check_labels<{plan.LABEL_TYPES[name_of(labels.dtype)]}>"
        self._flat(kernel, labels.size, labels, out, np.int64(labels.size), *how, first)
        return self._found(first, labels.size)

    def find_outside(self, vector: Array, low: float, high: float) -> int | None:
        """The first, by an atomic minimum."""
        given, first = self._real(vector), self._cell(vector.size)
        bounds = np.float64(low), np.float64(high)
        kernel = f"check_range<{plan.STORAGE[name_of(given.dtype)]}>"
        self._flat(kernel, given.size, given, np.int64(given.size), *bounds, first)
        return self._found(first, given.size)

    def find_no_distribution(self, y: Array, tolerance: float) -> int | None:
        """The first, by an atomic minimum."""
        n, k = y.shape
        given, first = self._real(y), self._cell(n)
        loop = plan.loop_plan(k)
        how = np.int64(n), np.int64(k), np.int32(loop.lanes), np.float64(tolerance)
        self._per_row(f"check_distribution<{plan.STORAGE[name_of(given.dtype)]}>", n, loop, given, *how, first)
        return self._found(first, n)

    def fold(self, target: KernelTarget, q: Array) -> None:
        """Rounded once, to float32 or float64."""
        y = self._real(self._contiguous(target.q))
        kernel = f"soft_rows<{plan.STORAGE[name_of(y.dtype)]}, {plan.STORAGE[name_of(q.dtype)]}>"
        weights = np.float64(target.smoothing), target.class_weight, target.sample_weight
        sizes = np.int64(y.size), np.int64(y.shape[1])
        self._flat(kernel, y.size, y, q, *sizes, *weights, target.divisor, np.float64(target.divisor_value))

    def sum_weights(self, target: KernelTarget, pair: Array) -> None:
        """In chunks whose order depends on their number alone."""
        rows = target.sample_weight if target.labels is None else target.labels
        self._sum(len(rows), None, target, pair, divides=False)

    def sum_values(self, values: Array, target: KernelTarget, out: Array) -> None:
        """In chunks whose order depends on their number alone."""
        self._sum(len(values), self._contiguous(values), target, out, divides=target is not NO_TARGET)

    def _sum(self, n: int, values: Array | None, target: KernelTarget, out: Array, *, divides: bool) -> None:
        """Sum ``values``, or the weights of rows, into ``out``: one number, or two whose sum it is."""
        count = -(-n // plan.SUM_CHUNK)
        chunks = self.xp.empty((max(count, 1), plan.CHUNK_DOUBLES), np.float64)
        if count:
            terms = values, target.labels, target.sample_weight, target.class_weight, np.int64(n), chunks
            self.device.launch("sum_chunks", Launch((count, 1), plan.SUM_BLOCK), terms)
        division = np.int32(divides), target.divisor, np.float64(target.divisor_value)
        arguments = chunks, np.int64(count), *division, np.int32(out.size == 2), out
        self.device.launch("sum_total", Launch((1, 1), plan.SUM_BLOCK), arguments)

    # -- linear logits ---------------------------------------------------------------------------------

    def rows_part(self, x: Array, first: int, count: int) -> Array:
        """A slice."""
        return x[first : first + count]

    def multiply(self, block: Array, coef: Array, intercept: Array | None) -> Array:
        """By cuBLAS."""
        logits = self._contiguous(block @ coef.T)
        if intercept is not None:
            logits += intercept
        return logits

    def multiply_parts(self, g: Array, block: Array, labels: Array | None, parts: Array) -> None:
        """By cuBLAS, as many products at once as there are parts."""
        if labels is not None:
            block = self.xp.where((labels == IGNORED)[:, None], block.dtype.type(0), block)
        (n, k), p = g.shape, block.shape[1]
        whole = n // SUMMED_ROWS
        end = whole * SUMMED_ROWS
        if whole:
            turned = g[:end].reshape(whole, SUMMED_ROWS, k).transpose(0, 2, 1)
            self.xp.matmul(turned, block[:end].reshape(whole, SUMMED_ROWS, p), out=parts[:whole])
        if end < n:
            parts[whole] = g[end:].T @ block[end:]

    def add_parts(self, parts: Array, total: Array, rest: Array) -> None:
        """In the order of the rows."""
        kernel, sizes = f"add_parts<{plan.STORAGE[parts.dtype.name]}>", (np.int64(len(parts)), np.int64(total.size))
        self._flat(kernel, total.size, parts, *sizes, total, rest)

    def curvature(self, probs: Array, u: Array, target: KernelTarget) -> None:
        """Sums over a row in float64."""
        n, k = u.shape
        loop = plan.loop_plan(k)
        weights = target.labels, target.sample_weight, target.class_weight, np.float64(target.smoothing), target.q
        by = target.divisor, np.float64(target.divisor_value)
        sizes = np.int64(n), np.int64(k), np.int32(loop.lanes)
        self._per_row(f"curvature<{plan.STORAGE[u.dtype.name]}>", n, loop, probs, u, *sizes, *weights, *by)

    # -- row kernels -----------------------------------------------------------------------------------

    def argmax(self, x: Array, out: Array) -> Array:
        """Zhao eq. (1), (2)."""
        n, k = x.shape
        loop = plan.loop_plan(k)
        width = vector_width(k, x.dtype.name)
        name = f"argmax<{plan.STORAGE[x.dtype.name]}, {width}>"
        whole = np.int32(self._whole(width, x))
        self._per_row(name, n, loop, x, out, np.int64(n), np.int64(k), np.int32(loop.lanes), whole)
        return out

    def run_log_loss(self, p: Array, target: KernelTarget, loss: Array) -> None:
        """A thread per row for labels, else as many as rows are read by."""
        n, k = p.shape
        storage = plan.STORAGE[name_of(p.dtype)]
        if target.q is None:
            weights = target.labels, target.sample_weight, target.class_weight
            self._flat(f"log_loss_index<{storage}>", n, p, loss, np.int64(n), np.int64(k), *weights)
            return
        loop = plan.loop_plan(k)
        q = self._cast(target.q, compute_dtype(name_of(p.dtype)))
        sizes = np.int64(n), np.int64(k), np.int32(loop.lanes)
        self._per_row(f"log_loss_soft<{storage}>", n, loop, p, loss, *sizes, q)

    def run(self, operation: str, x: Array, out: Array | None, numbers: Array | None, target: KernelTarget) -> None:
        """One kernel, or two where rows do not stay on chip."""
        n, k = x.shape
        dtype = name_of(x.dtype)
        if target.q is not None:
            target = target._replace(q=self._cast(target.q, compute_dtype(dtype)))
        how, kernel, launch = _planned(operation, dtype, n, k, self.device.staged_bytes)
        rows = calls.Rows(self._at(x), self._at(out), self._at(numbers), n, k)
        whole = k % how.width == 0 and (rows.x | rows.out) % (how.width * ITEMSIZE[dtype]) == 0
        sharing = calls.Sharing(how.length, how.lanes, whole)
        if how.regime is Regime.SEGMENTS:
            self._run_segments(operation, dtype, how, rows, self._pointers(target), sharing)
        else:
            self.device.launch(kernel, launch, calls.packed(rows, self._pointers(target), sharing))

    def _run_segments(
        self,
        operation: str,
        dtype: str,
        how: RowPlan,
        rows: calls.Rows,
        targets: calls.TargetPointers,
        sharing: calls.Sharing,
    ) -> None:
        """`run` for rows that are cut into segments."""
        n, k = rows.n, rows.k
        storage, pieces = plan.STORAGE[dtype], how.pieces(k)
        # Rows are read a second time for `out`: as many at once as leave the first reading in half of the cache.
        group = max(1, self.device.cache_bytes // (2 * k * ITEMSIZE[dtype])) if rows.out else n
        group = min(group, n, _MAX_GRID_Y)
        parts = self.xp.empty((group, pieces, plan.PART_DOUBLES), np.float64)
        chosen = self.xp.empty((group,), np.float64)
        sums = f"segment_sums<{storage}, {plan.SUMS_OF[operation].upper()}, {how.width}>"
        write = f"segment_write<{storage}, {operation.upper()}, {how.width}>"
        for first in range(0, n, group):
            grid = pieces, min(group, n - first)
            segments = calls.Segments(self._at(parts), self._at(chosen), first, pieces)
            call = calls.packed(rows, targets, sharing, segments)
            self.device.launch(sums, Launch(grid, how.threads), call)
            self.device.launch(write, Launch(grid if rows.out else (1, grid[1]), how.threads), call)

    def _at(self, array: Array | None) -> int:
        """Where an array lies; 0 where there is none."""
        return 0 if array is None else self.device.address(array)

    def _pointers(self, target: KernelTarget) -> calls.TargetPointers:
        if target is NO_TARGET:
            return calls.NO_POINTERS
        labels, sample_weight, class_weight, smoothing, q, pair, divisor = target
        weights = self._at(sample_weight), self._at(class_weight)
        return calls.TargetPointers(self._at(labels), *weights, smoothing, self._at(q), self._at(pair), divisor)

    # -- launches --------------------------------------------------------------------------------------

    def _flat(self, kernel: str, n: int, *arguments: Any) -> None:
        """Launch a kernel that loops over ``n`` elements."""
        self.device.launch(kernel, Launch((min(-(-n // _FLAT_BLOCK), _FLAT_GRID), 1), _FLAT_BLOCK), arguments)

    def _per_row(self, kernel: str, n: int, how: RowPlan, *arguments: Any) -> None:
        """Launch a kernel whose blocks loop over ``n`` rows."""
        self.device.launch(kernel, Launch((min(-(-n // how.rows), _MAX_GRID), 1), how.threads), arguments)

    def _whole(self, width: int, *arrays: Array | None) -> bool:
        """Whether all arrays allow accesses of ``width`` elements at once."""
        for array in arrays:
            if array is not None and self.device.address(array) % (width * array.dtype.itemsize):
                return False
        return True

    def _cell(self, size: int) -> Array:
        """A cell for the first offender among ``size``."""
        return self.xp.full((1,), size, np.uint64)

    def _found(self, first: Array | None, size: int) -> int | None:
        """The offender in the cell, if there is one; waits for the device."""
        at = size if first is None else int(self.to_numpy(first)[0])
        return at if at < size else None

    def _real(self, array: Array) -> Array:
        """``array`` in a dtype the kernels know: integers become float64."""
        return array if name_of(array.dtype) in plan.STORAGE else array.astype(np.float64)


def _plain(array: Array) -> Array:
    """bfloat16 as 16-bit integers, which any array module can copy."""
    return array.view(np.uint16) if name_of(array.dtype) == "bfloat16" else array


@functools.lru_cache(maxsize=4096)
def _planned(operation: str, dtype: str, n: int, k: int, staged_bytes: int) -> tuple[RowPlan, str, Launch]:
    """The plan of an operation over ``(n, k)`` rows, its kernel and launch; of segments the plan alone."""
    how = plan.rows(k, dtype, staged_bytes)
    if how.regime is Regime.SEGMENTS:
        return how, "", Launch((0, 0), 0)
    launch = Launch((-(-n // how.rows) * how.blocks, 1), how.threads, plan.shared_bytes(how, dtype), how.blocks)
    instance = f"{plan.STORAGE[dtype]}, {operation.upper()}"
    if how.regime is Regime.REGISTERS:
        return how, f"resident<{instance}, {how.width}, {how.values}>", launch
    return how, f"staged<{instance}>" if how.blocks == 1 else f"clustered<{instance}, {how.blocks}>", launch
