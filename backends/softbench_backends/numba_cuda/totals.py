"""Sums in an order that depends on lengths alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numba import cuda

from softbench.interface.device_backend import KernelTarget
from softbench_backends.numba_cuda.arithmetic import arithmetic, quotient
from softbench_backends.numba_cuda.device import SIMULATED, device
from softbench_backends.numba_cuda.finishing import divisor_of
from softbench_backends.numba_cuda.lanes import lanes_of, slot_count
from softbench_backends.numba_cuda.launch import compiled, launch
from softbench_backends.numba_cuda.memory import reader
from softbench_backends.numba_cuda.records import target_fields, target_types
from softbench_backends.numba_cuda.views import STORAGE, View

__all__ = ["row_totals", "total"]

_two_sum = arithmetic("float64").two_sum
_ZERO, _ONE, _NAN = np.float64(0.0), np.float64(1.0), np.float64(np.nan)
_LOWER, _RAISE = np.float64(2.0**-64), np.float64(2.0**64)

_SUM_LANES: Final = 4 if SIMULATED else 256
_SUM_CHUNK: Final = 16
_ROW_LANES: Final = 4 if SIMULATED else 32
_ROWS: Final = 1 if SIMULATED else 8
"""Rows per block of `row_totals`: a grid then holds as many rows as memory does."""


def _row_total_kernel(dtype: str, lanes: int, rows: int) -> Callable[..., None]:
    read = reader(dtype)
    add_up, shared = lanes_of(lanes, "float64").total, slot_count(lanes)

    def kernel(x: Any, out: Any, n: Any, k: Any) -> None:
        slots = cuda.shared.array(shared, np.float64)
        thread = np.int64(cuda.threadIdx.x)
        row, lane = np.int64(cuda.blockIdx.x) * rows + thread // lanes, thread % lanes
        base = (row if row < n else n - 1) * k
        high, low = _ZERO, _ZERO
        for j in range(lane, k, lanes):
            high, error = _two_sum(high, np.float64(read(x[base + j])))
            low += error
        high, low = add_up(high, low if low - low == _ZERO else _ZERO, slots)
        if row < n and lane == 0:
            out[row] = high + low if low - low == _ZERO else high

    return kernel


def row_totals(x: View, out: View, stream: int) -> None:
    """Sum of each row of a contiguous ``(N, K)`` array, in float64 with error terms."""
    n, k = x.shape
    arguments = (STORAGE[x.dtype.name], "float64", "int", "int")
    threads = _ROW_LANES * _ROWS
    kernel = compiled(_row_total_kernel, (x.dtype.name, _ROW_LANES, _ROWS), arguments, threads)
    launch(kernel, (-(-n // _ROWS), 1), threads, stream, x, out, n, k)


@device
def _number(low: Any) -> Any:
    """The error term of a sum, which an infinite one does not have."""
    return low if low - low == _ZERO else _ZERO


def _partial_kernel() -> Callable[..., None]:
    add_up, shared, lanes = lanes_of(_SUM_LANES, "float64").total, slot_count(_SUM_LANES), _SUM_LANES

    def kernel(values: Any, partial: Any, n: Any, chunk: Any) -> None:
        slots = cuda.shared.array(shared, np.float64)
        block = np.int64(cuda.blockIdx.x)
        lane = np.int64(cuda.threadIdx.x)
        for unit in range(2):  # as they are, and in units in which no sum of finite numbers overflows
            scale = _ONE if unit == 0 else _LOWER
            high, low = _ZERO, _ZERO
            for i in range(block * chunk + lane, min(n, (block + 1) * chunk), lanes):
                high, error = _two_sum(high, values[i] * scale)
                low += error
            high, low = add_up(high, _number(low), slots)
            if lane == 0:
                partial[4 * block + 2 * unit] = high
                partial[4 * block + 2 * unit + 1] = _number(low)

    return kernel


def _final_kernel() -> Callable[..., None]:
    add_up, shared, lanes = lanes_of(_SUM_LANES, "float64").total, slot_count(_SUM_LANES), _SUM_LANES

    def kernel(partial: Any, target: Any, out: Any, keep_error: Any, n: Any) -> None:
        slots = cuda.shared.array(shared, np.float64)
        lane = np.int64(cuda.threadIdx.x)
        over, over_low = divisor_of(target)
        rounded, rest = _ZERO, _ZERO
        for unit in range(2):
            high, low = _ZERO, _ZERO
            for i in range(lane, n, lanes):
                high, error = _two_sum(high, partial[4 * i + 2 * unit])
                low += error + partial[4 * i + 2 * unit + 1]
            high, low = add_up(high, _number(low), slots)
            if unit == 0:
                result, rest = quotient(high, _number(low), over, over_low)
                rounded = result + rest
                rest = rest - (rounded - result)
            elif rounded - rounded != _ZERO:  # a mean of large losses is a number where their sum is none
                high, low = quotient(high, _number(low), over, over_low)
                rounded = (high + low) * _RAISE
        if lane == 0:
            out[0] = rounded if over != _ZERO else _NAN
            if keep_error != 0:
                out[1] = _number(rest)

    return kernel


def total(values: View, target: KernelTarget, empty: Callable[[int], View], out: View, stream: int) -> None:
    """Sum of contiguous float64 ``values``, over the divisor of ``target``, into ``out``; NaN where that is 0.

    An ``out`` of two elements also gets what the sum rounds away; a divisor on the device is one of these.

    Chunks, their number and the order within them follow from the length alone. Each chunk keeps its rounding errors.
    """
    n = values.size
    # At most 4096 partial sums: the second kernel is one block.
    chunk = _SUM_LANES * max(_SUM_CHUNK, -(-n // (_SUM_LANES * 4096)))
    blocks = -(-n // chunk)
    partial = empty(4 * max(blocks, 1))
    if blocks:
        kernel = compiled(_partial_kernel, (), ("float64", "float64", "int", "int"), _SUM_LANES)
        launch(kernel, (blocks, 1), _SUM_LANES, stream, values, partial, n, chunk)
    kernel = compiled(_final_kernel, (), ("float64", target_types(), "float64", "int", "int"), _SUM_LANES)
    launch(kernel, (1, 1), _SUM_LANES, stream, partial, *target_fields(target), out, int(out.size > 1), blocks)
