"""Labels as int64, weights of rows, and soft targets with everything folded in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import cuda

from softbench.interface.labels import IGNORED, INVALID
from softbench_backends.numba_cuda.arithmetic import added_pair, arithmetic, product, quotient, scaled_pair
from softbench_backends.numba_cuda.finishing import divisor_of
from softbench_backends.numba_cuda.launch import THREADS, compiled, grid_of, launch
from softbench_backends.numba_cuda.memory import reader, writer
from softbench_backends.numba_cuda.views import STORAGE, View

__all__ = ["label_rows", "scalar", "soft_target_rows", "weight_rows"]

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


def label_rows(labels: View, classes: int, ignore_index: int | None, out: View, stream: int) -> None:
    """Contiguous integer ``labels`` as int64: a class, -1 (ignored) or -2 (no class)."""
    if not labels.size:
        return
    representable = ignore_index is not None and _fits(ignore_index, labels.dtype)
    ignore = int(np.asarray(ignore_index).astype(np.int64)) if representable else 0
    kernel = compiled(
        _label_kernel, (labels.dtype.name,), (STORAGE[labels.dtype.name], "int", "int", "int", "int64", "int"), THREADS
    )
    n = labels.size
    launch(kernel, grid_of(n), THREADS, stream, labels, classes, ignore, int(representable), out, n)


def _fits(value: int, dtype: Any) -> bool:
    limits = np.iinfo(dtype)
    return int(limits.min) <= value <= int(limits.max)


def _weight_kernel() -> Callable[..., None]:
    def kernel(
        labels: Any, sample_weight: Any, has_sample: Any, class_weight: Any, has_class: Any, out: Any, n: Any
    ) -> None:
        i = np.int64(cuda.blockIdx.x) * cuda.blockDim.x + cuda.threadIdx.x
        if i < n:
            label = labels[i]
            s = sample_weight[i] if has_sample != 0 else _ONE
            w = _ONE
            if has_class != 0 and label >= 0:
                w = class_weight[label]
            high, low = product(s, w)
            out[i] = _ZERO if label == IGNORED else high
            out[n + i] = _ZERO if label == IGNORED or low - low != _ZERO else low

    return kernel


def weight_rows(labels: View, sample_weight: View | None, class_weight: View | None, out: View, stream: int) -> None:
    """``s_i w[y_i]``, 0 in ignored rows, then its rounding errors; an invalid label counts with class weight 1."""
    arguments = ("int64", "float64", "int", "float64", "int", "float64", "int")
    kernel = compiled(_weight_kernel, (), arguments, THREADS)
    has_sample, has_class = int(sample_weight is not None), int(class_weight is not None)
    n = labels.size
    launch(kernel, grid_of(n), THREADS, stream, labels, sample_weight, has_sample, class_weight, has_class, out, n)


def _soft_kernel(source: str, target: str) -> Callable[..., None]:
    read, write = reader(source), writer(target)

    def kernel(
        y: Any,
        smoothing: Any,
        class_weight: Any,
        has_class: Any,
        sample_weight: Any,
        has_sample: Any,
        divisor: Any,
        divisor_value: Any,
        on_device: Any,
        out: Any,
        n: Any,
        k: Any,
    ) -> None:
        i = np.int64(cuda.blockIdx.x) * cuda.blockDim.x + cuda.threadIdx.x
        if i < n * k:
            keep, keep_low = _two_sum(_ONE, -smoothing)
            spread, spread_low = quotient(smoothing, _ZERO, np.float64(k), _ZERO)
            q, low = scaled_pair(keep, keep_low, np.float64(read(y[i])))
            q, low = added_pair(q, low, spread, spread_low)
            if has_class != 0:
                q, low = scaled_pair(q, low, class_weight[i % k])
            if has_sample != 0:
                q, low = scaled_pair(q, low, sample_weight[i // k])
            over, over_low = divisor_of(divisor, divisor_value, on_device)
            q, low = quotient(q, low, over if over != _ZERO else _NAN, over_low)
            q = q + low
            out[i] = write(q)

    return kernel


def soft_target_rows(
    y: View,
    smoothing: float,
    class_weight: View | None,
    sample_weight: View | None,
    divisor: View | float,
    out: View,
    stream: int,
) -> None:
    """``s_i w_k ((1 - smoothing) y_ik + smoothing / K) / divisor``, rounded once to the dtype of ``out``."""
    names = y.dtype.name, out.dtype.name
    weights = ("float64", "int", "float64", "int")
    arguments = (STORAGE[names[0]], "real", *weights, "float64", "real", "int", STORAGE[names[1]], "int", "int")
    kernel = compiled(_soft_kernel, names, arguments, THREADS)
    n, k = y.shape
    launch(
        kernel,
        grid_of(n * k),
        THREADS,
        stream,
        y,
        float(smoothing),
        class_weight,
        int(class_weight is not None),
        sample_weight,
        int(sample_weight is not None),
        *scalar(divisor),
        out,
        n,
        k,
    )


def scalar(value: View | float) -> tuple[View | None, float, int]:
    """A number that may be on the device, as three kernel arguments: array, number, whether it is the array."""
    return (value, 1.0, 1) if isinstance(value, View) else (None, float(value), 0)
