"""The numba_cuda backend: CUDA kernels written in Python, for any library's device arrays.

Needs the ``numba-cuda`` package (``numba.cuda`` as shipped with Numba is deprecated) and no CuPy: results are torch
tensors for torch tensors, CuPy arrays for CuPy arrays, Numba device arrays otherwise (which also speak DLPack), made by
that library's allocator and queued on its current stream.

* `device`, `simulated`: what kernels are written in, and stand-ins for what the simulator lacks
* `memory`: elements between memory and registers, 16 bytes at a time, half precision widened on the way
* `arithmetic`, `lanes`, `plan`: exact shift and exponential; exchanges; which thread holds what, in which regime
* `sums`, `finishing`, `operations`, `losses`: what is summed over a row, how it is finished, what operations add
* `tiles`, `kernels`, `loops`: row kernels; `copies`, `checks`, `weights`, `totals`: kernels of the array primitives
* `linear`: products of matrices, sums of them, Hessians of rows
* `views`, `array_libraries`: device memory, array libraries; `launch`, `rows`: compiling and launching

Under ``NUMBA_ENABLE_CUDASIM=1`` everything runs on Numba's simulator: the same kernels, in Python threads. That is a
check of the arithmetic and of the logic, of kind "simulator", and never chosen or timed.

This module imports neither numba nor any array library: asking whether the backend is available must work anywhere.
"""

from __future__ import annotations

import functools
import importlib
import math
import os
import sys
import threading
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from softbench.interface import Array, Availability, Kind
from softbench.interface.device_backend import NO_TARGET, DeviceBackend, KernelTarget
from softbench.interface.device_linear import LinearDeviceBackend
from softbench.interface.dtypes import name_of
from softbench.interface.host_arrays import Layout

if TYPE_CHECKING:
    from softbench_backends.numba_cuda.array_libraries import ArrayLibrary
    from softbench_backends.numba_cuda.views import View

__all__ = ["NumbaCudaBackend"]


def _simulated() -> bool:
    """Whether numba is, or will be, in simulator mode: it reads the environment when it is imported."""
    config = sys.modules.get("numba.core.config")
    if config is not None:
        return bool(config.ENABLE_CUDASIM)
    return os.environ.get("NUMBA_ENABLE_CUDASIM", "0") not in ("", "0")


_KIND: Final[Kind] = "simulator" if _simulated() else "gpu"


@functools.cache
def _probe() -> Availability:
    """Ask the driver once: on some machines that takes many seconds."""
    if find_spec("numba_cuda") is None:
        return Availability(False, _KIND, "numba-cuda is not installed", DeviceBackend.install)
    try:
        from numba import cuda

        if _KIND == "simulator":
            return Availability(True, _KIND, "Numba's CUDA simulator (NUMBA_ENABLE_CUDASIM is set)")
        if cuda.is_available():
            importlib.import_module("numba.cuda.np.arrayobj")  # compiling does: numba-cuda 0.30 fails here on NumPy 2.5
            return Availability(True, _KIND)
        reason = " ".join(str(cuda.cuda_error() or "numba.cuda finds no device").split())
    except Exception as error:  # whatever a driver or a broken install makes of it, this only reports
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return Availability(False, _KIND, reason, "an NVIDIA driver and a CUDA device")


class NumbaCudaBackend(LinearDeviceBackend):
    """CUDA kernels written in Python; torch, CuPy, Numba and DLPack arrays."""

    name = "numba_cuda"
    kind = _KIND
    requires = ("numba_cuda",)
    cost = "simulated" if _KIND == "simulator" else "compiled"

    def __init__(self) -> None:
        from softbench_backends.numba_cuda import (
            array_libraries,
            checks,
            copies,
            linear,
            rows,
            totals,
            views,
            weights,
        )

        self._libraries, self._views, self._rows = array_libraries, views, rows
        self._copies, self._checks, self._weights, self._totals = copies, checks, weights, totals
        self._linear = linear
        # The library whose logits came in last, per thread: results are made and work is queued there.
        self._call = threading.local()

    @classmethod
    def availability(cls) -> Availability:
        """Whether a device, or the simulator, is there, and the driver's own words if not."""
        return _probe()

    def info(self) -> dict[str, object]:
        """Versions, device name and compute capability."""
        from numba import cuda

        found: dict[str, object] = {}
        for distribution in ("numba-cuda", "numba", "cuda-bindings"):
            try:
                found[distribution] = version(distribution)
            except PackageNotFoundError:
                continue
        if _KIND == "simulator":
            return {"device": "simulator", **found}
        device = cuda.get_current_device()
        name = device.name
        capability = ".".join(map(str, device.compute_capability))
        return {"device": name.decode() if isinstance(name, bytes) else name, "compute_capability": capability, **found}

    def boundaries(self, dtype: str) -> list[int]:
        """The largest K of each kernel but the last, for rows of ``dtype``."""
        return self._rows.boundaries_here(dtype)

    # -- in and out ----------------------------------------------------------------------------------------------

    @property
    def _library(self) -> ArrayLibrary:
        library: ArrayLibrary = getattr(self._call, "library", None) or self._libraries.NUMBA
        return library

    @property
    def _stream(self) -> int:
        return self._library.stream()

    def follow(self, obj: Any) -> None:
        """Results of this call are made by the library of ``obj``, and its work is queued on that library's stream."""
        library = self._libraries.library_of(obj)
        if library is not None:
            self._call.library = library

    def adopt(self, obj: Any, argument: str) -> View | None:
        """``obj`` as a `View`. Work of this call is queued behind what the stream of its library has queued."""
        if isinstance(obj, self._views.View):
            return obj
        library = self._libraries.library_of(obj)
        if library is None:
            return None
        if library is not self._libraries.NUMBA and library is not self._library:
            self._libraries.order(self._stream, library.stream())
        view = library.view(obj, argument)
        self._libraries.refuse_other_device(view, argument)
        return view

    def wrap(self, result: View, like: Any) -> Any:
        """``result`` as an array of the library it was made by, which is that of ``like``."""
        return result.library.wrap(result)

    def asarray(self, obj: Any) -> Array:
        """Device arrays as they are; anything else is copied into a Numba device array.

        TypeError for bfloat16 in host memory: Numba arrays have no such dtype (torch and CuPy arrays may have it).
        """
        if self._libraries.library_of(obj) is not None:
            return obj
        return self.upload(super().asarray(obj))

    def upload(self, host: np.ndarray[Any, Any]) -> Array:
        """A Numba device array."""
        return self._libraries.from_host(
            np.ascontiguousarray(host, dtype=host.dtype.newbyteorder("=")).reshape(host.shape)
        )

    def to_numpy(self, array: Any) -> np.ndarray[Any, Any]:
        """A copy in host memory; waits for what was queued."""
        if self._libraries.library_of(array) is None:
            return super().to_numpy(array)
        return self._libraries.to_host(array)

    def synchronize(self) -> None:
        """Wait for everything queued on the device."""
        from numba import cuda

        cuda.synchronize()

    def layout(self, array: View) -> Layout:
        """Where and how a view lies in device memory."""
        return Layout(array.contiguous, array.writeable)

    def address(self, array: View) -> int:
        """Where the first element lies."""
        return array.address

    def capturing(self) -> bool:
        """Whether the stream of this call is captured."""
        return self._libraries.capturing(self._stream)

    def flattened(self, array: View) -> View:
        """All elements, contiguous."""
        return array.flattened()

    def part(self, vector: View, first: int, count: int) -> View:
        """A slice."""
        itemsize = vector.dtype.itemsize
        return vector.with_form((count,), (itemsize,), first * itemsize)

    def fetch(self, vector: View, first: int, count: int) -> np.ndarray[Any, Any]:
        """Some elements, in host memory."""
        part = self.part(vector, first, count)
        if name_of(vector.dtype) == "bfloat16":
            wide = self.empty((count,), "float32")
            self._copies.copy_cast(part, wide, self._stream)
            part = wide
        return self._libraries.read(part, self._stream)

    # -- rows ----------------------------------------------------------------------------------------------------

    def empty(self, shape: tuple[int, ...], dtype: Any) -> View:
        """An array of the library of this call."""
        return self._library.empty(shape, self._views.as_dtype(dtype))

    def full(self, shape: tuple[int, ...], value: float, dtype: str) -> View:
        """An array of one value."""
        out = self.empty(shape, dtype)
        self._copies.fill(out, value, self._stream)
        return out

    def as_rows(self, x: View, axis: int, dtype: str) -> View:
        """``(N, K)`` rows of ``dtype``: the same memory where that is possible, else one strided copy."""
        k = x.shape[axis]
        moved = x if axis == x.ndim - 1 else x.moved_last(axis)
        n = math.prod(moved.shape[:-1])
        if name_of(x.dtype) == dtype and moved.contiguous:
            return moved.reshape((n, k))
        rows = self.empty(moved.shape, dtype)
        self._copies.copy_cast(moved, rows, self._stream)
        return rows.reshape((n, k))

    def from_rows(self, rows: View, shape: tuple[int, ...], axis: int, dtype: str, out: View | None = None) -> View:
        """Rows as an array of ``shape`` and ``dtype``, or into ``out``; copied only where the memory does not fit."""
        last = len(shape) - 1
        moved = rows.reshape(shape[:axis] + shape[axis + 1 :] + (shape[axis],))
        if axis != last:
            moved = moved.moved_to(axis)
        if out is None:
            if name_of(moved.dtype) == dtype and moved.contiguous:
                return moved
            out = self.empty(shape, dtype)
        self._copies.copy_cast(moved, out, self._stream)
        return out

    # -- targets and weights -------------------------------------------------------------------------------------

    def lower_labels(self, labels: View, n_classes: int, ignored: int | None, out: View, find: bool) -> int | None:
        """Lowered by one kernel, searched for the first that is no class by another."""
        self._weights.label_rows(labels, n_classes, ignored, out, self._stream)
        return self.find_outside(out, -1.0, math.inf) if find else None

    def find_outside(self, vector: View, low: float, high: float) -> int | None:
        """The first that blocks have found."""
        return self._first(self._checks.find_outside, vector, low, high)

    def find_no_distribution(self, y: View, tolerance: float) -> int | None:
        """A row with a negative number before others."""
        n, k = y.shape
        at = self.find_outside(y.flattened(), 0.0, math.nan)  # a NaN is left to the sums
        if at is not None:
            return at // k
        sums = self.empty((n,), "float64")
        self._totals.row_totals(y, sums, self._stream)
        return self._first(self._checks.find_far_from, sums, 1.0, tolerance)

    def _first(self, search: Callable[..., None], vector: View, *bounds: float) -> int | None:
        """Run a search and wait for the first index it found, or None."""
        first = self.empty((self._checks.search_blocks(vector.size),), "int64")
        search(vector, *bounds, first, self._stream)
        found = int(self._libraries.read(first, self._stream).min())
        return None if found == self._checks.FIRST_NONE else found

    def fold(self, target: KernelTarget, q: View) -> None:
        """Rounded once."""
        self._weights.soft_target_rows(target, q, self._stream)

    def sum_weights(self, target: KernelTarget, pair: View) -> None:
        """Weights of labels are products, whose rounding errors are summed too."""
        weights = target.sample_weight
        if target.labels is not None:
            weights = self.empty((2 * target.labels.size,), "float64")
            if target.labels.size:
                self._weights.weight_rows(target, weights, self._stream)
        assert weights is not None  # the front has a number otherwise
        self.sum_values(weights, NO_TARGET, pair)

    def sum_values(self, values: View, target: KernelTarget, out: View) -> None:
        """In chunks whose number and order depend on their length alone."""
        self._totals.total(values, target, self._scratch, out, self._stream)

    def _scratch(self, n: int) -> View:
        return self.empty((n,), "float64")

    # -- linear logits -------------------------------------------------------------------------------------------

    def rows_part(self, x: View, first: int, count: int) -> View:
        """A slice."""
        return x.with_form((count, x.shape[1]), x.strides, first * x.strides[0])

    def multiply(self, block: View, coef: View, intercept: View | None) -> View:
        """In tiles."""
        logits = self.empty((block.shape[0], coef.shape[0]), block.dtype)
        self._linear.multiply(block, coef, intercept, logits, self._stream)
        return logits

    def multiply_parts(self, g: View, block: View, labels: View | None, parts: View) -> None:
        """In tiles; rows that are ignored are not read."""
        self._linear.multiply_parts(g, block, labels, parts, self._stream)

    def add_parts(self, parts: View, total: View, rest: View) -> None:
        """In the order of the rows."""
        self._linear.add_parts(parts, total, rest, self._stream)

    def curvature(self, probs: View, u: View, target: KernelTarget) -> None:
        """Sums over a row in float64."""
        self._linear.curvature(probs, u, target, self._stream)

    # -- row kernels ---------------------------------------------------------------------------------------------

    def argmax(self, x: View, out: View) -> View:
        """Zhao eq. (1), (2)."""
        self._rows.run_argmax(x, out, self._stream)
        return out

    def run(self, operation: str, x: View, out: View | None, numbers: View | None, target: KernelTarget) -> None:
        """One kernel, or three where rows do not stay on chip."""
        if operation == "smooth" and target.class_weight is not None:
            operation = "smooth_weighted"
        self._rows.run(operation, x, out, numbers, target, self._scratch, self._stream)

    def run_log_loss(self, p: View, target: KernelTarget, loss: View) -> None:
        """A thread per row for labels, else as many as rows are read by."""
        if target.q is None:
            self._rows.run_log_loss_index(p, target, loss, self._stream)
        else:
            self._rows.run_log_loss_soft(p, target.q, loss, self._stream)
