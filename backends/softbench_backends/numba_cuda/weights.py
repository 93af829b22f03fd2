"""Labels as int64, weights of rows, and soft targets with everything folded in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import cuda

from softbench.interface.device_backend import KernelTarget
from softbench.interface.labels import IGNORED, INVALID
from softbench_backends.numba_cuda.arithmetic import added_pair, arithmetic, product, quotient, scaled_pair
from softbench_backends.numba_cuda.finishing import divisor_of
from softbench_backends.numba_cuda.launch import THREADS, compiled, grid_of, launch
from softbench_backends.numba_cuda.memory import reader, writer
from softbench_backends.numba_cuda.records import HAS_CLASS, HAS_SAMPLE, target_fields, target_types
from softbench_backends.numba_cuda.views import STORAGE, View

__all__ = ["label_rows", "soft_target_rows", "weight_rows"]

_two_sum = arithmetic("float64").two_sum
_ZERO, _ONE, _NAN = np.float64(0.0), np.float64(1.0), np.float64(np.nan)


def _label_kernel(dtype: str) -> Callable[..., None]:
    def kernel(labels: Any, classes: Any, ignore: Any, ignoring: Any, out: Any, n: Any) -> None:
        i = np.int64(cuda.blockIdx.x) * cuda.blockDim.x + cuda.threadIdx.x
        if i < n:
            label = np.int64(labels[i])  # a uint64 beyond int64 turns negative: no class either
            lowered = label if label >= 0 and label < classes else INVALID
            out[i] = IGNORED if ignoring != 0 and label == ignore else lowered

    return kernel


def label_rows(labels: View, classes: int, ignored: int | None, out: View, stream: int) -> None:
    """Contiguous integer ``labels`` as int64: a class, -1 (ignored) or -2 (no class)."""
    arguments = STORAGE[labels.dtype.name], "int", "int", "int", "int64", "int"
    kernel = compiled(_label_kernel, (labels.dtype.name,), arguments, THREADS)
    ignoring = int(ignored is not None)
    launch(kernel, grid_of(labels.size), THREADS, stream, labels, classes, ignored or 0, ignoring, out, labels.size)


def _weight_kernel() -> Callable[..., None]:
    def kernel(target: Any, out: Any, n: Any) -> None:
        i = np.int64(cuda.blockIdx.x) * cuda.blockDim.x + cuda.threadIdx.x
        if i < n:
            label = target.labels[i]
            s = target.sample_weight[i] if target.given & HAS_SAMPLE else _ONE
            w = _ONE
            if target.given & HAS_CLASS and label >= 0:
                w = target.class_weight[label]
            high, low = product(s, w)
            out[i] = _ZERO if label == IGNORED else high
            out[n + i] = _ZERO if label == IGNORED or low - low != _ZERO else low

    return kernel


def weight_rows(target: KernelTarget, out: View, stream: int) -> None:
    """``s_i w[y_i]``, 0 in ignored rows, then its rounding errors; an invalid label counts with class weight 1."""
    kernel = compiled(_weight_kernel, (), (target_types(), "float64", "int"), THREADS)
    n = target.labels.size
    launch(kernel, grid_of(n), THREADS, stream, *target_fields(target), out, n)


def _soft_kernel(source: str, result: str) -> Callable[..., None]:
    read, write = reader(source), writer(result)

    def kernel(target: Any, out: Any, n: Any, k: Any) -> None:
        i = np.int64(cuda.blockIdx.x) * cuda.blockDim.x + cuda.threadIdx.x
        if i < n * k:
            keep, keep_low = _two_sum(_ONE, -target.smoothing)
            spread, spread_low = quotient(target.smoothing, _ZERO, np.float64(k), _ZERO)
            q, low = scaled_pair(keep, keep_low, np.float64(read(target.q[i])))
            q, low = added_pair(q, low, spread, spread_low)
            if target.given & HAS_CLASS:
                q, low = scaled_pair(q, low, target.class_weight[i % k])
            if target.given & HAS_SAMPLE:
                q, low = scaled_pair(q, low, target.sample_weight[i // k])
            over, over_low = divisor_of(target)
            q, low = quotient(q, low, over if over != _ZERO else _NAN, over_low)
            q = q + low
            out[i] = write(q)

    return kernel


def soft_target_rows(target: KernelTarget, out: View, stream: int) -> None:
    """``s_i w_k ((1 - smoothing) y_ik + smoothing / K) / divisor``, rounded once to the dtype of ``out``; ``y`` is
    ``target.q``.
    """
    names = target.q.dtype.name, out.dtype.name
    arguments = target_types(STORAGE[names[0]]), STORAGE[names[1]], "int", "int"
    kernel = compiled(_soft_kernel, names, arguments, THREADS)
    n, k = out.shape
    launch(kernel, grid_of(n * k), THREADS, stream, *target_fields(target), out, n, k)
