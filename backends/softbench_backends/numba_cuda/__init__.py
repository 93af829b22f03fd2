"""The numba_cuda backend: CUDA kernels written in Python, for any library's device arrays.

Needs the ``numba-cuda`` package (``numba.cuda`` as shipped with Numba is deprecated) and no CuPy: results are torch
tensors for torch tensors, CuPy arrays for CuPy arrays, Numba device arrays otherwise (which also speak DLPack), made by
that library's allocator and queued on its current stream.

* `device`, `simulated`: what kernels are written in, and stand-ins for what the simulator lacks
* `arithmetic`, `lanes`, `plan`: exact shift and exponential; reductions; which thread holds what
* `kernels`: the row kernels; `array_kernels`: copies, checks, sums
* `views`, `homes`, `launch`: device memory, array libraries, compiling and launching

Under ``NUMBA_ENABLE_CUDASIM=1`` everything runs on Numba's simulator: the same kernels, in Python threads. That is a
check of the arithmetic and of the logic, of kind "simulator", and never chosen or timed.

This module imports neither numba nor any array library: asking whether the backend is available must work anywhere.
"""

from __future__ import annotations

import functools
import math
import os
import sys
import threading
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from softbench.dtypes import sum_tolerance
from softbench.host_arrays import Layout
from softbench.interface import Array, Availability, IndexTarget, Kind, RowBackend, SoftTarget, Target

if TYPE_CHECKING:
    from softbench_backends.numba_cuda.homes import Home
    from softbench_backends.numba_cuda.views import View

__all__ = ["NumbaCudaBackend"]

_INSTALL: Final = 'pip install "softbench[cuda13]"  (or [cuda12], to match the driver)'
_HAS_SAMPLE, _HAS_CLASS, _HAS_DIVISOR = 1, 2, 4  # of kernels, which is not imported here

_INDEX_TYPES: Final = ("rows", "int64", "float64", "float64", "float64", "real", "int", "float64", "rows")
_SOFT_TYPES: Final = (
    "rows",
    "rows",
    "int64",
    "float64",
    "float64",
    "real",
    "float64",
    "real",
    "int",
    "float64",
    "rows",
)


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
    cost = "simulated" if _KIND == "simulator" else "compiled"

    def __init__(self) -> None:
        from softbench_backends.numba_cuda import array_kernels, homes, kernels, launch, plan, views

        self._array_kernels, self._kernels, self._homes, self._views = array_kernels, kernels, homes, views
        self._compiled, self._launch, self._plan_for = launch.compiled, launch.launch, plan.plan_for
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
        from softbench_backends.numba_cuda import plan

        return plan.boundaries("float64" if dtype == "float64" else "float32")

    # -- in and out ----------------------------------------------------------------------------------------------

    @property
    def _home(self) -> Home:
        home: Home = getattr(self._call, "home", None) or self._homes.NUMBA
        return home

    @property
    def _stream(self) -> Any:
        return self._homes.stream_of(self._home)

    def accept(self, obj: Any, argument: str) -> View:
        """``obj`` as a `View`; the home of logits and probabilities is where results of this call are made.

        TypeError for arrays in host memory, which names ``asarray``; class weights are small and may live there.
        """
        if isinstance(obj, self._views.View):
            return obj
        home = self._homes.home_of(obj)
        if home is None:
            if argument == "class_weight":
                return self.accept(self._to_device(super().accept(obj, argument)), argument)
            kind = f"{type(obj).__module__}.{type(obj).__qualname__}".removeprefix("builtins.")
            raise TypeError(
                f"{argument} is a {kind} in host memory, and the numba_cuda backend computes on a device: "
                f"copy it there with the backend's asarray()"
            )
        if argument in ("logits", "probs"):
            self._call.home = home
        return home.view(obj, argument)

    def wrap(self, result: View, like: Any) -> Any:
        """``result`` as an array of the library it was made by, which is that of ``like``."""
        return result.home.wrap(result)

    def asarray(self, obj: Any) -> Array:
        """Device arrays as they are; anything else is copied into a Numba device array.

        TypeError for bfloat16 in host memory: Numba arrays have no such dtype (torch and CuPy arrays may have it).
        """
        if self._homes.home_of(obj) is not None:
            return obj
        return self._to_device(super().asarray(obj))

    def _to_device(self, array: np.ndarray[Any, Any]) -> Array:
        return self._homes.from_host(
            np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("=")).reshape(array.shape)
        )

    def to_numpy(self, array: Any) -> np.ndarray[Any, Any]:
        """A copy in host memory; waits for what was queued."""
        if self._homes.home_of(array) is None:
            return super().to_numpy(array)
        return self._homes.to_host(array)

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
        """An array of the home of this call."""
        return self._home.empty(shape, self._views.as_dtype(dtype))

    def full(self, shape: tuple[int, ...], value: float, dtype: str) -> View:
        """An array of one value."""
        out = self.empty(shape, dtype)
        self._array_kernels.fill(out, value, self._stream)
        return out

    def as_rows(self, x: View, axis: int, dtype: str) -> View:
        """``(N, K)`` rows of ``dtype``: the same memory where that is possible, else one strided copy."""
        k = x.shape[axis]
        moved = x if axis == x.ndim - 1 else x.moved_last(axis)
        n = math.prod(moved.shape[:-1])
        if x.dtype.name == dtype and moved.contiguous:
            return moved.reshape((n, k))
        rows = self.empty(moved.shape, dtype)
        self._array_kernels.copy_cast(moved, rows, self._stream)
        return rows.reshape((n, k))

    def from_rows(self, rows: View, shape: tuple[int, ...], axis: int, dtype: str, out: View | None = None) -> View:
        """Rows as an array of ``shape`` and ``dtype``, or into ``out``; copied only where the memory does not fit."""
        last = len(shape) - 1
        moved = rows.reshape(shape[:axis] + shape[axis + 1 :] + (shape[axis],))
        if axis != last:
            moved = moved.moved_to(axis)
        if out is None:
            if moved.dtype.name == dtype and moved.contiguous:
                return moved
            out = self.empty(shape, dtype)
        self._array_kernels.copy_cast(moved, out, self._stream)
        return out

    # -- targets and weights -------------------------------------------------------------------------------------

    def index_labels(self, labels: View, n_classes: int, ignore_index: int | None, validate: bool) -> View:
        """Labels as int64; with ``validate`` the host waits once, to hear of the first that is no class."""
        labels = labels.flattened()
        out = self.empty(labels.shape, "int64")
        self._array_kernels.label_rows(labels, n_classes, ignore_index, out, self._stream)
        if validate and labels.size:
            row = self._first_outside(out, -1.0, math.inf)
            if row is not None:
                raise ValueError(
                    f"target[{row}] is {self._item(labels, row)}, which is no class: expected 0 <= label < {n_classes}"
                    + ("" if ignore_index is None else f" or ignore_index={ignore_index}")
                )
        return out

    def check_range(self, values: View, argument: str, low: float, high: float) -> None:
        """ValueError naming the first entry that is NaN or outside; the host waits once."""
        if values.size == 0:
            return
        flat = values.flattened()
        i = self._first_outside(flat, low, high)
        if i is None:
            return
        index = ", ".join(str(int(j)) for j in np.unravel_index(i, values.shape))
        bound = f">= {low:g}" if math.isinf(high) else f"in [{low:g}, {high:g}]"
        raise ValueError(f"{argument}[{index}] is {self._item(flat, i)}, expected {bound}")

    def check_distribution(self, y: View) -> None:
        """ValueError naming the first row that is negative, NaN, or does not sum to 1; the host waits twice."""
        n, k = y.shape
        flat = y.flattened()
        i = self._first_outside(flat, 0.0, math.nan)  # a NaN is left to the sums
        if i is not None:
            row, column = divmod(i, k)
            raise ValueError(f"target[{row}, {column}] is {self._item(flat, i)}: soft targets must not be negative")
        sums = self.empty((n,), "float64")
        self._array_kernels.row_totals(y, sums, self._stream)
        bad = self._first_found(self._array_kernels.find_far_from, sums, 1.0, sum_tolerance(y.dtype.name))
        if bad is not None:
            raise ValueError(
                f"target row {bad} sums to {self._item(sums, bad)}: a soft target must be a distribution (sum 1)"
            )

    def soft_rows(
        self,
        y: View,
        dtype: str,
        smoothing: float,
        class_weight: View | None,
        sample_weight: View | None,
        divisor: Any,
    ) -> View:
        """``s_i w_k ((1 - smoothing) y_ik + smoothing / K) / divisor`` as rows of ``dtype``, rounded once."""
        out = self.empty(y.shape, dtype)
        over = divisor if isinstance(divisor, (int, float)) else self.accept(divisor, "divisor")
        weights = class_weight, sample_weight
        self._array_kernels.soft_target_rows(y, smoothing, *weights, over, out, self._stream)
        return out

    def divisor(self, labels: View | None, sample_weight: View | None, class_weight: View | None) -> Any:
        """Sum of ``s_i w[y_i]`` over rows not ignored, or of ``s_i``: two float64 on the device, without waiting."""
        if labels is None:
            assert sample_weight is not None  # the front has a number otherwise
            weights = sample_weight
        else:
            weights = self.empty((2 * labels.size,), "float64")
            if labels.size:
                self._array_kernels.weight_rows(labels, sample_weight, class_weight, weights, self._stream)
        pair = self.empty((2,), "float64")
        self._array_kernels.total(weights, None, self._scratch, pair, self._stream)
        return pair

    def total(self, values: View, divisor: Any = None) -> Any:
        """Sum in a fixed order, over ``divisor`` if given, without waiting: 0-d float64."""
        out = self.empty((), "float64")
        over = divisor if divisor is None or isinstance(divisor, (int, float)) else self.accept(divisor, "divisor")
        self._array_kernels.total(values, over, self._scratch, out, self._stream)
        return out

    def _scratch(self, n: int) -> View:
        return self.empty((n,), "float64")

    def _first_outside(self, flat: View, low: float, high: float) -> int | None:
        return self._first_found(self._array_kernels.find_outside, flat, low, high)

    def _first_found(self, search: Callable[..., None], flat: View, *bounds: float) -> int | None:
        """Run a search and wait for the first index it found, or None."""
        stream = self._home.stream()
        self._homes.refuse_capture(stream)
        first = self.empty((self._array_kernels.search_blocks(flat.size),), "int64")
        search(flat, *bounds, first, self._stream)
        found = int(self._homes.read(first, stream).min())
        return None if found == self._array_kernels.FIRST_NONE else found

    def _item(self, flat: View, i: int) -> Any:
        """One element of a contiguous view, for an error message."""
        one = flat.with_form((1,), (flat.dtype.itemsize,), i * flat.dtype.itemsize)
        if flat.dtype.name == "bfloat16":
            wide = self.empty((1,), "float32")
            self._array_kernels.copy_cast(one, wide, self._stream)
            one = wide
        return self._homes.read(one, self._home.stream())[0]

    # -- row kernels ---------------------------------------------------------------------------------------------

    def _run(
        self, factory: str, x: View, wide: bool, flags: tuple[bool, ...], types: tuple[str, ...], *arguments: Any
    ) -> None:
        """Launch the kernel of this factory for the rows ``x``; ``types`` has "rows" for their dtype."""
        n, k = x.shape
        dtype = x.dtype.name
        plan = self._plan_for(k, dtype, wide)
        signature = (*(dtype if t == "rows" else t for t in types), "int", "int")
        kernel = self._compiled(getattr(self._kernels, factory), (dtype, plan, *flags), signature, plan.threads)
        blocks = -(-n // (plan.threads if factory == "log_loss_index" else plan.rows))
        self._launch(kernel, blocks, plan.threads, self._stream, *arguments, n, k)

    def argmax(self, x: View, out: View) -> View:
        """Zhao eq. (1), (2)."""
        self._run("argmax", x, False, (), ("rows", "int64"), x, out)
        return out

    def logsumexp(self, x: View, out: View) -> View:
        """Zhao eq. (3)."""
        self._run("logsumexp", x, False, (), ("rows", "rows"), x, out)
        return out

    def softmax(self, x: View, out: View) -> View:
        """Zhao eq. (4), (5)."""
        self._run("softmax", x, False, (), ("rows", "rows"), x, out)
        return out

    def log_softmax(self, x: View, out: View) -> View:
        """The logarithm of Zhao eq. (4), without its cancellation."""
        self._run("log_softmax", x, False, (), ("rows", "rows"), x, out)
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

    def _target_kernel(self, x: View, target: Target, divisor: Any, loss: View | None, out: View | None) -> None:
        want = loss is not None, out is not None
        over, value, given = None, 1.0, 0
        if isinstance(divisor, (int, float)):
            value = float(divisor)
        else:
            over, given = self.accept(divisor, "divisor"), _HAS_DIVISOR
        if isinstance(target, SoftTarget):
            labels = sample_weight = class_weight = None
            q, smoothing = target.q, 0.0
        else:
            labels, sample_weight, class_weight = target.labels, target.sample_weight, target.class_weight
            q, smoothing = None, target.smoothing
            given |= _given(target)
        if q is None and smoothing == 0.0:
            weights = labels, sample_weight, class_weight
            self._run("index_loss", x, False, want, _INDEX_TYPES, x, *weights, over, value, given, loss, out)
            return
        flags = (*want, q is None, class_weight is not None)
        self._run(
            "soft_loss",
            x,
            True,
            flags,
            _SOFT_TYPES,
            x,
            q,
            labels,
            sample_weight,
            class_weight,
            smoothing,
            over,
            value,
            given,
            loss,
            out,
        )

    def log_loss(self, p: View, target: Target, loss: View) -> View:
        """Zhao eq. (6)-(8)."""
        if isinstance(target, SoftTarget):
            self._run("log_loss_soft", p, False, (), ("rows", "rows", "float64"), p, target.q, loss)
            return loss
        types = "rows", "int64", "float64", "float64", "int", "float64"
        weights = target.sample_weight, target.class_weight
        self._run("log_loss_index", p, False, (), types, p, target.labels, *weights, _given(target), loss)
        return loss


def _given(target: IndexTarget) -> int:
    """The bits that tell a kernel which weights are there."""
    return (_HAS_SAMPLE if target.sample_weight is not None else 0) | (
        _HAS_CLASS if target.class_weight is not None else 0
    )
