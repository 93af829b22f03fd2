"""The numba_cuda backend: CUDA kernels written in Python, for any library's device arrays.

Needs the ``numba-cuda`` package (``numba.cuda`` as shipped with Numba is deprecated) and no CuPy: results are torch
tensors for torch tensors, CuPy arrays for CuPy arrays, Numba device arrays otherwise (which also speak DLPack), made by
that library's allocator and queued on its current stream.

* `device`, `simulated`: what kernels are written in, and stand-ins for what the simulator lacks
* `memory`: elements between memory and registers, 16 bytes at a time, half precision widened on the way
* `arithmetic`, `lanes`, `plan`: exact shift and exponential; exchanges; which thread holds what, in which regime
* `sums`, `finishing`, `operations`, `losses`: what is summed over a row, how it is finished, what operations add
* `tiles`, `kernels`, `loops`: row kernels; `copies`, `checks`, `weights`, `totals`: kernels of the array primitives
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

from softbench.interface import Array, Availability, Kind, RowBackend, SoftTarget, Target, messages
from softbench.interface.dtypes import sum_tolerance
from softbench.interface.host_arrays import Layout

if TYPE_CHECKING:
    from softbench_backends.numba_cuda.array_libraries import ArrayLibrary
    from softbench_backends.numba_cuda.views import View

__all__ = ["NumbaCudaBackend"]

_INSTALL: Final = 'pip install "softbench[cuda13]"  (or [cuda12], to match the driver)'


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
        return Availability(False, _KIND, "numba-cuda is not installed", _INSTALL)
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


class NumbaCudaBackend(RowBackend):
    """Front primitives on device memory, and launches of the row kernels."""

    name = "numba_cuda"
    summary = "CUDA kernels written in Python; torch, CuPy, Numba and DLPack arrays"
    kind = _KIND
    requires = ("numba_cuda",)
    install = _INSTALL
    dtypes = frozenset({"float16", "bfloat16", "float32", "float64"})
    cost = "simulated" if _KIND == "simulator" else "compiled"

    def __init__(self) -> None:
        from softbench_backends.numba_cuda import array_libraries, checks, copies, records, rows, totals, views, weights

        self._libraries, self._views, self._rows, self._records = array_libraries, views, rows, records
        self._copies, self._checks, self._weights, self._totals = copies, checks, weights, totals
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

    def accept(self, obj: Any, argument: str) -> View:
        """``obj`` as a `View`; the library of logits and probabilities is where results of this call are made.

        Their stream is also where its work is queued, behind what the streams of other arguments have queued.

        TypeError for arrays in host memory, which names ``asarray`` (class weights are small and may live there), and
        for arrays on another device than the current one.
        """
        if isinstance(obj, self._views.View):
            return obj
        library = self._libraries.library_of(obj)
        if library is None:
            if argument == "class_weight":
                return self.accept(self._to_device(super().accept(obj, argument)), argument)
            raise messages.in_host_memory(argument, obj)
        if argument in ("logits", "probs"):
            self._call.library = library
        elif library is not self._libraries.NUMBA and library is not self._library:
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
        return self._to_device(super().asarray(obj))

    def _to_device(self, array: np.ndarray[Any, Any]) -> Array:
        return self._libraries.from_host(
            np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("=")).reshape(array.shape)
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

    def shares_memory(self, a: View, b: View) -> bool:
        """Whether two views overlap, decided by NumPy from their addresses and strides."""
        return super().shares_memory(self._views.shadow(a), self._views.shadow(b))

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
        if self._views.name_of(x.dtype) == dtype and moved.contiguous:
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
            if self._views.name_of(moved.dtype) == dtype and moved.contiguous:
                return moved
            out = self.empty(shape, dtype)
        self._copies.copy_cast(moved, out, self._stream)
        return out

    # -- targets and weights -------------------------------------------------------------------------------------

    def index_labels(self, labels: View, n_classes: int, ignore_index: int | None, validate: bool) -> View:
        """Labels as int64; with ``validate`` the host waits once, to hear of the first that is no class."""
        labels = labels.flattened()
        out = self.empty(labels.shape, "int64")
        self._weights.label_rows(labels, n_classes, ignore_index, out, self._stream)
        if validate and labels.size:
            row = self._first_outside(out, -1.0, math.inf)
            if row is not None:
                raise messages.no_class(row, self._item(labels, row), n_classes, ignore_index)
        return out

    def check_range(self, values: View, argument: str, low: float, high: float) -> None:
        """ValueError naming the first entry that is NaN or outside; the host waits once."""
        if values.size == 0:
            return
        flat = values.flattened()
        i = self._first_outside(flat, low, high)
        if i is None:
            return
        where = np.unravel_index(i, values.shape)
        raise messages.out_of_range(argument, where, self._item(flat, i), low, high)

    def check_distribution(self, y: View) -> None:
        """ValueError naming the first row that is negative, NaN, or does not sum to 1; the host waits twice."""
        n, k = y.shape
        flat = y.flattened()
        i = self._first_outside(flat, 0.0, math.nan)  # a NaN is left to the sums
        if i is not None:
            row, column = divmod(i, k)
            raise messages.negative_target(row, column, self._item(flat, i))
        sums = self.empty((n,), "float64")
        self._totals.row_totals(y, sums, self._stream)
        bad = self._first_found(self._checks.find_far_from, sums, 1.0, sum_tolerance(y.dtype.name))
        if bad is not None:
            raise messages.not_a_distribution(bad, self._item(sums, bad))

    def soft_rows(
        self,
        y: View,
        dtype: str,
        smoothing: float,
        class_weight: View | None,
        sample_weight: View | None,
        divisor: Any,
    ) -> View:
        """``s_i w_k ((1 - smoothing) y_ik + smoothing / K) / divisor``, rounded once, as rows of what ``dtype`` is
        computed in: float32 for half precision.
        """
        out = self.empty(y.shape, "float64" if dtype == "float64" else "float32")
        over = divisor if isinstance(divisor, (int, float)) else self.accept(divisor, "divisor")
        target = self._records.targets_of(None, sample_weight, class_weight, float(smoothing), y, over)
        self._weights.soft_target_rows(target, out, self._stream)
        return out

    def divisor(self, labels: View | None, sample_weight: View | None, class_weight: View | None) -> Any:
        """Sum of ``s_i w[y_i]`` over rows not ignored, or of ``s_i``: two float64 on the device, without waiting."""
        if labels is None:
            assert sample_weight is not None  # the front has a number otherwise
            weights = sample_weight
        else:
            weights = self.empty((2 * labels.size,), "float64")
            if labels.size:
                target = self._records.targets_of(labels, sample_weight, class_weight)
                self._weights.weight_rows(target, weights, self._stream)
        pair = self.empty((2,), "float64")
        self._totals.total(weights, None, self._scratch, pair, self._stream)
        return pair

    def total(self, values: View, divisor: Any = None) -> Any:
        """Sum in a fixed order, over ``divisor`` if given, without waiting: 0-d float64."""
        out = self.empty((), "float64")
        over = divisor if divisor is None or isinstance(divisor, (int, float)) else self.accept(divisor, "divisor")
        self._totals.total(values, over, self._scratch, out, self._stream)
        return out

    def _scratch(self, n: int) -> View:
        return self.empty((n,), "float64")

    def _first_outside(self, flat: View, low: float, high: float) -> int | None:
        return self._first_found(self._checks.find_outside, flat, low, high)

    def _first_found(self, search: Callable[..., None], flat: View, *bounds: float) -> int | None:
        """Run a search and wait for the first index it found, or None."""
        stream = self._library.stream()
        self._libraries.refuse_capture(stream)
        first = self.empty((self._checks.search_blocks(flat.size),), "int64")
        search(flat, *bounds, first, self._stream)
        found = int(self._libraries.read(first, stream).min())
        return None if found == self._checks.FIRST_NONE else found

    def _item(self, flat: View, i: int) -> Any:
        """One element of a contiguous view, for an error message."""
        one = flat.with_form((1,), (flat.dtype.itemsize,), i * flat.dtype.itemsize)
        if flat.dtype.name == "bfloat16":
            wide = self.empty((1,), "float32")
            self._copies.copy_cast(one, wide, self._stream)
            one = wide
        return self._libraries.read(one, self._library.stream())[0]

    # -- row kernels ---------------------------------------------------------------------------------------------

    def argmax(self, x: View, out: View) -> View:
        """Zhao eq. (1), (2)."""
        self._rows.run_argmax(x, out, self._stream)
        return out

    def logsumexp(self, x: View, out: View) -> View:
        """Zhao eq. (3)."""
        self._run("logsumexp", x, None, out)
        return out

    def softmax(self, x: View, out: View) -> View:
        """Zhao eq. (4), (5)."""
        self._run("softmax", x, out, None)
        return out

    def log_softmax(self, x: View, out: View) -> View:
        """The logarithm of Zhao eq. (4), without its cancellation."""
        self._run("log_softmax", x, out, None)
        return out

    def loss_and_gradient(self, x: View, target: Target, divisor: Any, loss: View, out: View) -> tuple[View, View]:
        """Zhao eq. (9)-(11), each row read once where it fits into registers."""
        self._target_kernel(x, target, divisor, loss, out)
        return loss, out

    def loss(self, x: View, target: Target, loss: View) -> View:
        """Zhao eq. (9), (10), any row read once."""
        self._target_kernel(x, target, 1, loss, None)
        return loss

    def gradient(self, x: View, target: Target, divisor: Any, out: View) -> View:
        """Zhao eq. (11)."""
        self._target_kernel(x, target, divisor, None, out)
        return out

    def _run(self, name: str, x: View, out: View | None, per_row: View | None, target: Any = None) -> None:
        target = target or self._records.NO_TARGET
        self._rows.run(name, x, out, per_row, target, self._scratch, self._stream)

    def _target_kernel(self, x: View, target: Target, divisor: Any, loss: View | None, out: View | None) -> None:
        record = self._target_record(target, divisor)
        if isinstance(target, SoftTarget):
            name = "soft"
        elif target.smoothing == 0.0:
            name = "index"
        else:
            name = "smooth" if target.class_weight is None else "smooth_weighted"
        self._run(name, x, out, loss, record)

    def _target_record(self, target: Target, divisor: Any) -> Any:
        over = divisor if isinstance(divisor, (int, float)) else self.accept(divisor, "divisor")
        if isinstance(target, SoftTarget):
            return self._records.targets_of(q=target.q, divisor=over)
        weights = target.sample_weight, target.class_weight
        return self._records.targets_of(target.labels, *weights, target.smoothing, divisor=over)

    def log_loss(self, p: View, target: Target, loss: View) -> View:
        """Zhao eq. (6)-(8)."""
        if isinstance(target, SoftTarget):
            self._rows.run_log_loss_soft(p, target.q, loss, self._stream)
        else:
            self._rows.run_log_loss_index(p, self._target_record(target, 1), loss, self._stream)
        return loss
