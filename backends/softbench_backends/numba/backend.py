"""The backend: what a call comes down to, which kernel, and whether on one thread or on all."""

from __future__ import annotations

import functools
import math
import os
import threading
from collections.abc import Callable, Collection, Iterator
from typing import Any, ClassVar, Final

import numpy as np

from softbench.interface import Array, IndexTarget, RowBackend, SoftTarget, Target
from softbench.interface.dtypes import sum_tolerance
from softbench.interface.float_mode import FLUSH_TO_ZERO, can_restore, flushes_subnormals
from softbench_backends.numba import results
from softbench_backends.numba.limits import (
    ALIGNED_SIZE,
    BLOCK_BYTES,
    FEW_LOSSES,
    HUGE,
    LANEWISE,
    REMEMBERED,
    SERIAL_SIZE,
    SHARED,
    SHORT,
)

__all__ = ["NumbaBackend", "streams"]

_NONE: Final = np.empty(0)
_NO_LABELS: Final = np.empty(0, np.int64)
_CLEAR: Final = 1 - 1e-6  # so far within a tolerance, no way of summing decides
_FLOATS: Final = (np.dtype("float32"), np.dtype("float64"))

# The kernels behind every public function, and the forms (shape, parallel) that any of them comes in.
_WITH_TARGET: Final = ("index", "soft", "mass")
_KERNELS: Final[dict[str, tuple[str, ...]]] = {
    "argmax": ("argmax",),
    "logsumexp": ("logsumexp",),
    "softmax": ("softmax",),
    "log_softmax": ("log_softmax",),
    "log_loss": ("log_loss_index", "log_loss_soft", "mass"),
    "loss": _WITH_TARGET,
    "gradient": _WITH_TARGET,
    "loss_and_gradient": _WITH_TARGET,
}
_TOTAL: Final = "total", 8, "long", False  # sums the losses of rows
_ROW_FORMS: Final = tuple((shape, parallel) for shape in ("short", "long") for parallel in (False, True))
_STRIDED_FORMS: Final = tuple((f"strided {shape}", parallel) for shape, parallel in _ROW_FORMS)


class NumbaBackend(RowBackend):
    """Explicit vectors on all cores, compiled by Numba: see `softbench_backends.numba.numerics` for the arithmetic."""

    name = "numba"
    summary = "fused SIMD kernels on all CPU cores, compiled by Numba at first use"
    requires: ClassVar[tuple[str, ...]] = ("numba",)
    install = "pip install numba"
    accepts_strided = True

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: dict[Any, Callable[..., Any]] = {}
        self._small: dict[Any, Callable[..., Any]] = {}  # `_small_kernel` by its arguments

    def info(self) -> dict[str, object]:
        """Versions, threads and the instruction set compiled for."""
        import llvmlite
        import numba

        from softbench_backends.numba import threads

        return {
            "device": "cpu",
            "numba": numba.__version__,
            "llvmlite": llvmlite.__version__,
            "threads": numba.get_num_threads(),
            "threading_layer": threads.layer() or "not started",
            "flush_to_zero": FLUSH_TO_ZERO[can_restore()],
        }

    def kernels(self, ops: Collection[str], dtypes: Collection[str]) -> Iterator[tuple[str, Callable[[], bool]]]:
        """Every form of every kernel behind ``ops``; the last word of a name says whether it runs on all threads."""
        names = dict.fromkeys(name for op in ops for name in _KERNELS[op])
        for dtype in dtypes:
            for name in names:
                strided = () if name in _KERNELS["log_loss"] else _STRIDED_FORMS  # these take rows only
                huge = (("huge", True),) if name in SHARED else ()
                for shape, parallel in (*_ROW_FORMS, *strided, *huge):
                    label = f"{name} {dtype} {shape} {'parallel' if parallel else 'serial'}"
                    yield label, functools.partial(self._compile, name, np.dtype(dtype).itemsize, shape, parallel)
        if any("loss" in op for op in ops):
            yield "total float64 long serial", functools.partial(self._compile, *_TOTAL)

    def _compile(self, *key: Any) -> bool:
        from softbench_backends.numba.caching import has_place

        self._entry(*key)
        return has_place()

    # -- arrays ----------------------------------------------------------------------------------------

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """As the base class, large arrays aligned, and in memory of earlier results (`results`)."""
        if math.prod(shape) < ALIGNED_SIZE:
            return np.empty(shape, dtype)
        return results.empty(shape, dtype)

    def total(self, values: Array, divisor: Any = None) -> Any:
        """As the base class, compiled where that pays: a sum takes less than the kernel that made what it sums."""
        if values.size > FEW_LOSSES and not flushes_subnormals():
            found = np.empty(1)
            self._entry(*_TOTAL)(values, found, 0, values.size, False)
            result = float(found[0])
            if math.isfinite(result):
                return np.float64(result if divisor is None else result / float(divisor) if divisor != 0 else math.nan)
        return super().total(values, divisor)

    def check_distribution(self, y: Array) -> None:
        """As the base class, which has the last word; that all is well, a kernel sees sooner in large targets."""
        if y.size > SERIAL_SIZE and y.dtype in _FLOATS and y.flags.c_contiguous and y.flags.aligned:
            sums = np.empty(len(y))
            self._call("mass", y, None, sums)
            if bool(np.all(np.abs(sums - 1.0) <= _CLEAR * sum_tolerance(y.dtype.name))):
                return
        super().check_distribution(y)

    # -- calls -----------------------------------------------------------------------------------------

    def _call(self, op: str, x: Array, out: Array | None, *args: Any) -> None:
        """Run a kernel on ``(x, *args)``, on all threads if it is large; ``out`` is a result of the shape of ``x``."""
        if x.ndim == 3:
            self._call_strided(op, x, out, *args)
            return
        n, k = x.shape
        if n * k > SERIAL_SIZE:
            from softbench_backends.numba import threads

            count = threads.count()
            huge = k >= HUGE and n < count and op in SHARED
            if count > 1 and (huge or n > 1):
                shape = "huge" if huge else "short" if k <= SHORT[x.itemsize] else "long"
                streaming = out is not None and streams(x, out)
                threads.run(self._entry(op, x.itemsize, shape, True), (x, *args), n, min(count, n), streaming)
                return
        self._entry(op, x.itemsize, "short" if k <= SHORT[x.itemsize] else "long", False)(x, *args, 0, n, False)

    def _call_strided(self, op: str, x: Array, out: Array | None, *args: Any) -> None:
        """As `_call`, of ``x`` ``(outer, K, inner)``, in blocks of neighbouring rows."""
        outer, k, inner = x.shape
        width = 64 // x.itemsize
        short = k <= SHORT[x.itemsize]
        count = 1
        if x.size > SERIAL_SIZE:
            from softbench_backends.numba import threads

            count = threads.count()
        size = width
        if not (short and op in LANEWISE):
            wanted = -(-inner * outer // (4 * count * width))  # some blocks for every thread
            size *= max(1, min(BLOCK_BYTES // (k * x.itemsize * width), wanted))
        size = min(size, inner)
        blocks = outer * -(-inner // size)
        chunks = min(count, blocks)
        streaming = (
            out is not None and streams(x, out) and inner % width == 0 and out.ctypes.data % (width * x.itemsize) == 0
        )
        kernel = self._entry(op, x.itemsize, "strided short" if short else "strided long", chunks > 1)
        if chunks > 1:
            threads.run(kernel, (x, *args, size), blocks, chunks, streaming)
        else:
            kernel(x, *args, size, 0, blocks, streaming)

    def _entry(self, *key: Any) -> Callable[..., Any]:
        """`softbench_backends.numba.entries.entry`, once for each key."""
        kernel = self._entries.get(key)
        if kernel is None:
            from softbench_backends.numba.entries import entry

            with self._lock:
                kernel = self._entries.get(key)
                if kernel is None:
                    kernel = self._entries[key] = entry(*key)
        return kernel

    def argmax(self, x: Array, out: Array) -> Array:  # noqa: D102
        self._call("argmax", x, None, out)
        return out

    def logsumexp(self, x: Array, out: Array) -> Array:  # noqa: D102
        self._call("logsumexp", x, None, out)
        return out

    def _small_kernel(self, op: str, shape: tuple[int, ...], itemsize: int) -> Callable[..., Any] | None:
        """The kernel for logits so small that finding it takes as long as running it; None for larger ones."""
        if len(shape) != 2 or shape[0] * shape[1] > SERIAL_SIZE:
            return None
        kernel = self._entry(op, itemsize, "short" if shape[1] <= SHORT[itemsize] else "long", False)
        if len(self._small) < REMEMBERED:
            self._small[op, shape, itemsize] = kernel
        return kernel

    def softmax(self, x: Array, out: Array) -> Array:  # noqa: D102
        shape = x.shape
        key = "softmax", shape, x.itemsize
        if kernel := self._small.get(key) or self._small_kernel(*key):
            kernel(x, out, 0, shape[0], False)
        else:
            self._call("softmax", x, out, out)
        return out

    def log_softmax(self, x: Array, out: Array) -> Array:  # noqa: D102
        self._call("log_softmax", x, out, out)
        return out

    def _small_index(self, x: Array, target: Target, loss: Array, out: Array, divisor: float, gradient: bool) -> bool:
        """As in `softmax`, few rows with labels and nothing else: whether this was such a call, and is done."""
        if (
            type(target) is not IndexTarget
            or target.smoothing
            or target.sample_weight is not None
            or target.class_weight is not None
        ):
            return False
        shape = x.shape
        key = "index", shape, x.itemsize
        if kernel := self._small.get(key) or self._small_kernel(*key):
            kernel(x, x, target.labels, _NONE, _NONE, loss, out, 0.0, divisor, gradient, 0, shape[0], False)
            return True
        return False

    def loss_and_gradient(  # noqa: D102
        self, x: Array, target: Target, divisor: Any, loss: Array, out: Array
    ) -> tuple[Array, Array]:
        if divisor and self._small_index(x, target, loss, out, float(divisor), True):
            return loss, out
        op, arrays = _lower(x, target)
        divided = float(divisor) if divisor != 0 else float("nan")
        smoothing = target.smoothing if isinstance(target, IndexTarget) else 0.0
        self._call(op, x, out, *arrays, loss, out, smoothing, divided, True)
        return loss, out

    def loss(self, x: Array, target: Target, loss: Array) -> Array:  # noqa: D102
        if self._small_index(x, target, loss, x, 1.0, False):
            return loss
        op, arrays = _lower(x, target)
        smoothing = target.smoothing if isinstance(target, IndexTarget) else 0.0
        self._call(op, x, None, *arrays, loss, x, smoothing, 1.0, False)
        return loss

    def log_loss(self, p: Array, target: Target, loss: Array) -> Array:  # noqa: D102
        _, arrays = _lower(p, target)
        op = "log_loss_soft" if isinstance(target, SoftTarget) else "log_loss_index"
        self._call(op, p, None, *arrays, loss, p, 0.0, 1.0, False)
        return loss


def _lower(x: Array, target: Target) -> tuple[str, tuple[Array, Array, Array, Array]]:
    """The kernel for a target and what it takes: ``q``, labels, sample weight and class weight, empty where absent."""
    if isinstance(target, SoftTarget):
        return "soft", (target.q, _NO_LABELS, _NONE, _NONE)
    sample = _NONE if target.sample_weight is None else target.sample_weight
    classes = _NONE if target.class_weight is None else target.class_weight
    if target.smoothing == 0.0:
        return "index", (x if x.ndim == 2 else x[0], target.labels, sample, classes)
    k = x.shape[1]
    # The class weights in units in which no sum over a row overflows, then that unit (`soft_rows`).
    base = np.empty((1, k + 1), x.dtype)
    exponent = k.bit_length()
    with np.errstate(all="ignore"):  # weights may be beyond the rows' dtype
        if target.class_weight is not None:
            exponent += math.frexp(float(classes.max()))[1]
            base[0, :k] = np.ldexp(classes, -exponent)
        else:
            base[0, :k] = math.ldexp(1.0, -exponent)
        base[0, k] = np.ldexp(1.0, exponent)
    return "soft", (base, target.labels, sample, classes)


def streams(x: Array, out: Array) -> bool:
    """Whether the result is too large for the caches to keep any of it."""
    return out.nbytes >= _last_level_cache() and x is not out and x.ctypes.data != out.ctypes.data


def _last_level_cache() -> int:
    """Bytes of the largest cache, 32 MiB where the system does not say."""
    global _cache_bytes
    if _cache_bytes == 0:
        _cache_bytes = _read_cache_size()
    return _cache_bytes


_cache_bytes = 0


def _read_cache_size() -> int:
    sizes = []
    base = "/sys/devices/system/cpu/cpu0/cache"
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    try:
        for index in os.listdir(base):
            with open(f"{base}/{index}/size") as file:
                text = file.read().strip()
            sizes.append(int(text[:-1]) * units[text[-1]])
    except (OSError, KeyError, ValueError, IndexError):
        pass
    return max(sizes, default=32 << 20)
