"""The backend: what a call comes down to. Numba, and all that needs it, is loaded with the first kernel."""

from __future__ import annotations

import functools
import math
import os
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager
from typing import Any, ClassVar, Final

import numpy as np

from softbench.interface import Array, Availability, IndexTarget, RowBackend, SoftTarget, Target
from softbench.interface.dtypes import compute_dtype, name_of, numpy_dtype, sum_tolerance
from softbench.interface.float_mode import FAR_FROM_SUBNORMAL, FLUSH_TO_ZERO, can_restore
from softbench.interface.linear import LINEAR_FUNCTIONS
from softbench_backends.numba import (
    compiler_lock,  # noqa: F401
    results,
    sources,  # noqa: F401  # sees the sources before they are loaded
    threads,
)
from softbench_backends.numba.linear_calls import LinearCalls
from softbench_backends.numba.modules import loaded as _loaded

__all__ = ["NumbaBackend", "lower_target"]

_NONE: Final = np.empty(0)
_NO_LABELS: Final = np.empty(0, np.int64)
_total: Final = RowBackend.total  # by name: the loss of one row would notice `super`
_CLEAR: Final = 1 - 1e-6  # so far within a tolerance, no way of summing decides

FEW_LOSSES: Final = 16
"""Losses up to this number are summed by Python: handing them to compiled code takes longer."""

FEW_TARGETS: Final = 4096
"""Soft targets of up to so many numbers are checked by NumPy: a kernel would first have to be compiled."""

REMEMBERED: Final = 1024
"""Shapes of small calls whose kernel is remembered; for others it is looked up."""


def _jit_is_disabled() -> bool:
    numba = sys.modules.get("numba")
    if numba is not None and hasattr(numba, "config"):
        return bool(numba.config.DISABLE_JIT)
    try:
        return bool(int(os.environ.get("NUMBA_DISABLE_JIT", "0")))
    except ValueError:  # Numba warns of it, and goes on without
        return False


class NumbaBackend(LinearCalls, RowBackend):
    """Explicit vectors on all cores, compiled by Numba; their arithmetic: `exponential`, `reductions`, `finishing`."""

    name = "numba"
    requires: ClassVar[tuple[str, ...]] = ("numba",)
    install = "pip install numba"
    dtypes = frozenset({"float16", "bfloat16", "float32", "float64"})
    accepts_strided = True
    wide_soft_targets = True
    keeps_ieee = True

    def __init__(self) -> None:
        self._small: dict[Any, Callable[..., Any]] = {}  # `_small_kernel` by its arguments
        results.read_environment()

    def __reduce__(self) -> tuple[type[NumbaBackend], tuple[()]]:
        return type(self), ()  # kernels are found again

    @classmethod
    def availability(cls) -> Availability:
        """As the base class; not without Numba's compiler."""
        found = super().availability()
        if found.ok and _jit_is_disabled():
            return Availability(False, cls.kind, "NUMBA_DISABLE_JIT is set, and kernels need Numba's compiler")
        return found

    def info(self) -> dict[str, object]:
        """Versions, threads and the threading layer; parts that this version of Numba lacks."""
        missing = _loaded("numba_internals").MISSING
        import llvmlite
        import numba

        return {
            "device": "cpu",
            "numba": numba.__version__,
            "llvmlite": llvmlite.__version__,
            "threads": threads.count(),
            "threading_layer": threads.layer() or "not started",
            "flush_to_zero": FLUSH_TO_ZERO[can_restore()],
            **({"numba_lacks": sorted(missing)} if missing else {}),
        }

    def limit_threads(self, count: int) -> AbstractContextManager[None]:
        """As the base class, for calls of this thread, as `numba.set_num_threads` does."""
        return threads.limited(count)

    def kernels(self, ops: Collection[str], dtypes: Collection[str]) -> Iterator[tuple[str, Callable[[], bool]]]:
        """Every form of every kernel behind ``ops``; the last word of a name says whether it runs on all threads."""
        kernels, row_kernel = _loaded("kernels"), _loaded("dispatch").callable_kernel
        for op in kernels.behind(op for op in ops if op not in LINEAR_FUNCTIONS):
            for dtype in kernels.dtypes_of(op, dtypes):
                for rows, parallel in kernels.forms(op):
                    label = f"{op} {dtype} {rows.value} {'parallel' if parallel else 'serial'}"
                    yield label, functools.partial(self._compile, row_kernel, op, dtype, rows, parallel)
        if any(op in LINEAR_FUNCTIONS for op in ops):
            sizes = [numpy_dtype(dtype).itemsize for dtype in dtypes if dtype in ("float32", "float64")]
            for label, compile_kernel in _loaded("linear_entries").behind(ops, sizes):
                yield label, functools.partial(self._compile, compile_kernel)

    def _compile(self, compile_kernel: Callable[..., Any], *key: Any) -> bool:
        internals = _loaded("numba_internals")
        compile_kernel(*key)
        return internals.has_place() and not internals.unsaved  # kernels share parts: one that is missing is of many

    # -- arrays ----------------------------------------------------------------------------------------

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """As the base class. Large arrays are aligned, in memory of earlier results (`results`)."""
        if type(dtype) is str:
            dtype = numpy_dtype(dtype)
        if math.prod(shape) < results.ALIGNED_SIZE:
            return np.empty(shape, dtype)  # as the base class does: its call takes as long, a tenth of a small softmax
        return results.empty(shape, dtype)

    def total(self, values: Array, divisor: Any = None) -> Any:
        """As the base class. A kernel adds up many values, unless their sum is subnormal or infinite."""
        if values.size > FEW_LOSSES:
            found = np.empty(1)
            kernel = self._small.get("total") or self._small.setdefault("total", _loaded("dispatch").total())
            kernel(values, found, 0, values.size, False)
            result: float = found.item()
            if FAR_FROM_SUBNORMAL < result < math.inf:
                return np.float64(result if divisor is None else result / float(divisor) if divisor != 0 else math.nan)
        return _total(self, values, divisor)

    def check_distribution(self, y: Array) -> None:
        """As the base class. Of many numbers a kernel goes first, which finds quickly that nothing is wrong."""
        rows = y.size > FEW_TARGETS and name_of(y.dtype) in self.dtypes and y.dtype.isnative
        if rows and y.flags.c_contiguous and y.flags.aligned:
            sums = np.empty(len(y))
            self._call("mass", y, None, sums)
            sums -= 1.0
            if float(np.abs(sums, sums).max()) <= _CLEAR * sum_tolerance(name_of(y.dtype)):  # not if one is NaN
                return
        super().check_distribution(y)

    # -- calls -----------------------------------------------------------------------------------------

    def _call(self, op: str, x: Array, out: Array | None, *args: Any) -> None:
        """Run a kernel on ``(x, *args)``; ``out`` is a result of the shape of ``x``."""
        key = op, x.shape, x.dtype
        if kernel := self._small.get(key) or self._small_kernel(*key):
            kernel(x, *args, 0, len(x), False)
        else:
            _loaded("dispatch").run(op, x, out, *args)

    def argmax(self, x: Array, out: Array) -> Array:  # noqa: D102
        self._call("argmax", x, None, out)
        return out

    def logsumexp(self, x: Array, out: Array) -> Array:  # noqa: D102
        self._call("logsumexp", x, None, out)
        return out

    def _small_kernel(self, op: str, shape: tuple[int, ...], dtype: Any) -> Callable[..., Any] | None:
        """The kernel for few logits, remembered by their shape, as choosing takes as long; None for more logits."""
        if len(shape) != 2 or shape[0] * shape[1] > threads.SERIAL_SIZE:
            return None
        kernel: Callable[..., Any] = _loaded("dispatch").serial(op, shape[1], dtype)
        if len(self._small) < REMEMBERED:
            self._small[op, shape, dtype] = kernel
        return kernel

    def softmax(self, x: Array, out: Array) -> Array:  # noqa: D102
        shape = x.shape
        key = "softmax", shape, x.dtype
        if kernel := self._small.get(key):
            kernel(x, out, 0, shape[0], False)
        else:
            self._call("softmax", x, out, out)
        return out

    def log_softmax(self, x: Array, out: Array) -> Array:  # noqa: D102
        self._call("log_softmax", x, out, out)
        return out

    def _small_index(self, x: Array, target: Target, loss: Array, out: Array, divisor: float, gradient: bool) -> bool:
        """Losses, and gradients if asked for, of few rows with labels alone; False where this is another call."""
        if (
            type(target) is not IndexTarget
            or target.smoothing
            or target.sample_weight is not None
            or target.class_weight is not None
        ):
            return False
        shape = x.shape
        key = "index", shape, x.dtype
        if kernel := self._small.get(key) or self._small_kernel(*key):
            kernel(x, x, target.labels, _NONE, _NONE, loss, out, 0.0, divisor, gradient, 0, shape[0], False)
            return True
        return False

    def loss_and_gradient(  # noqa: D102
        self, x: Array, target: Target, divisor: Any, loss: Array, out: Array
    ) -> tuple[Array, Array]:
        if divisor and self._small_index(x, target, loss, out, float(divisor), True):
            return loss, out
        op, arrays = lower_target(x, target)
        divided = float(divisor) if divisor != 0 else float("nan")
        smoothing = target.smoothing if isinstance(target, IndexTarget) else 0.0
        self._call(op, x, out, *arrays, loss, out, smoothing, divided, True)
        return loss, out

    def loss(self, x: Array, target: Target, loss: Array) -> Array:  # noqa: D102
        if self._small_index(x, target, loss, x, 1.0, False):
            return loss
        op, arrays = lower_target(x, target)
        smoothing = target.smoothing if isinstance(target, IndexTarget) else 0.0
        self._call(op, x, None, *arrays, loss, x, smoothing, 1.0, False)
        return loss

    def log_loss(self, p: Array, target: Target, loss: Array) -> Array:  # noqa: D102
        _, arrays = lower_target(p, target)
        op = _by_target("log_loss_soft", target.q) if isinstance(target, SoftTarget) else "log_loss_index"
        self._call(op, p, None, *arrays, loss, p, 0.0, 1.0, False)
        return loss


def _by_target(op: str, q: Array) -> str:
    """The kernel for soft targets ``q``, which may be in half precision."""
    return f"{op}_half" if q.itemsize == 2 else op


def lower_target(x: Array, target: Target) -> tuple[str, tuple[Array, Array, Array, Array]]:
    """The kernel for a target and what it takes: ``q``, labels, sample weight and class weight, empty where absent."""
    if isinstance(target, SoftTarget):
        return _by_target("soft", target.q), (target.q, _NO_LABELS, _NONE, _NONE)
    sample = _NONE if target.sample_weight is None else target.sample_weight
    classes = _NONE if target.class_weight is None else target.class_weight
    if target.smoothing == 0.0:
        return "index", (x if x.ndim == 2 else x[0], target.labels, sample, classes)
    k = x.shape[1]
    # The class weights in units in which no sum over a row overflows, then that unit (`soft_rows`).
    base = np.empty((1, k + 1), compute_dtype(name_of(x.dtype)))
    exponent = k.bit_length()
    with np.errstate(all="ignore"):  # weights may be beyond the rows' dtype
        if target.class_weight is not None:
            exponent += math.frexp(float(classes.max()))[1]
            base[0, :k] = np.ldexp(classes, -exponent)
        else:
            base[0, :k] = math.ldexp(1.0, -exponent)
        base[0, k] = np.ldexp(1.0, exponent)
    return "soft", (base, target.labels, sample, classes)
