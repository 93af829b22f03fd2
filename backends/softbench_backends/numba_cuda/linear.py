"""What linear logits need: products of matrices in tiles, sums of many of them, Hessians of rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numba import cuda

from softbench.interface.device_backend import KernelTarget
from softbench.interface.device_linear import SUMMED_ROWS
from softbench.interface.labels import IGNORED, INVALID
from softbench_backends.numba_cuda.arithmetic import arithmetic
from softbench_backends.numba_cuda.device import SIMULATED
from softbench_backends.numba_cuda.finishing import divisor_of
from softbench_backends.numba_cuda.lanes import lanes_of, slot_count
from softbench_backends.numba_cuda.launch import THREADS, compiled, grid_of, launch
from softbench_backends.numba_cuda.memory import real_of
from softbench_backends.numba_cuda.records import HAS_CLASS, HAS_SAMPLE, target_fields, target_types
from softbench_backends.numba_cuda.views import View

__all__ = ["add_parts", "curvature", "multiply", "multiply_parts"]

_two_sum = arithmetic("float64").two_sum
_ZERO, _ONE, _NAN = np.float64(0.0), np.float64(1.0), np.float64(np.nan)

_TILE: Final = 2 if SIMULATED else 16
"""Rows and columns of a tile, an element per thread."""
_LANES: Final = 4 if SIMULATED else 32
_ROWS: Final = 1 if SIMULATED else 8
"""Lanes of a row, and rows of a block, of `curvature`."""


def _product_kernel(dtype: str, summed: int, has_bias: bool, ignores: bool) -> Callable[..., None]:
    """``sum_l a_il b_jl + bias_j``, or ``sum_l a_li b_lj`` over each ``summed`` terms where that is not 0.

    A thread has an element of the result. Terms are added up tile by tile, and then the tiles.
    """
    real, size = real_of(dtype), _TILE
    parts = summed > 0
    zero, step = real(0.0), _TILE + 1  # a row more than a tile has, so that its columns lie in different banks
    room = size * step

    def kernel(a: Any, b: Any, bias: Any, labels: Any, out: Any, rows: Any, columns: Any, terms: Any) -> None:
        tile_a = cuda.shared.array(room, real)
        tile_b = cuda.shared.array(room, real)  # in a line of its own: the simulator takes arrays of one line for one
        thread = np.int64(cuda.threadIdx.x)
        u, v = thread // size, thread % size
        across = (columns + size - 1) // size
        block, part = np.int64(cuda.blockIdx.x), np.int64(cuda.blockIdx.y)
        top, left = block // across * size, block % across * size
        first = part * summed
        last = min(first + summed, terms) if parts else terms
        total = zero
        for start in range(first, last, size):
            # Threads side by side read elements side by side: terms, or in parts what they are of.
            term = start + (u if parts else v)
            row, column = top + (v if parts else u), left + (v if parts else u)
            at = v * step + u if parts else u * step + v
            reads_a, reads_b = term < last and row < rows, term < last and column < columns
            if ignores and reads_b:
                reads_b = labels[term] != IGNORED
            tile_a[at] = a[term * rows + row if parts else row * terms + term] if reads_a else zero
            tile_b[at] = b[term * columns + column if parts else column * terms + term] if reads_b else zero
            cuda.syncthreads()
            some = zero
            for i in range(size):
                some += tile_a[u * step + i] * tile_b[v * step + i]
            total += some
            cuda.syncthreads()
        row, column = top + u, left + v
        if row < rows and column < columns:
            out[(part * rows + row) * columns + column] = total + bias[column] if has_bias else total

    return kernel


def _product(
    a: View,
    b: View,
    bias: View | None,
    labels: View | None,
    out: View,
    sizes: tuple[int, int, int],
    parts: int,
    stream: int,
) -> None:
    name = out.dtype.name
    options = name, SUMMED_ROWS if parts else 0, bias is not None, labels is not None
    arguments = (name, name, name, "int64", name, "int", "int", "int")
    kernel = compiled(_product_kernel, options, arguments, _TILE * _TILE)
    tiles = -(-sizes[0] // _TILE) * -(-sizes[1] // _TILE)
    launch(kernel, (tiles, max(parts, 1)), _TILE * _TILE, stream, a, b, bias, labels, out, *sizes)


def multiply(block: View, coef: View, intercept: View | None, out: View, stream: int) -> None:
    """``block coef' + intercept`` into ``out`` ``(n, K)``."""
    sizes = block.shape[0], coef.shape[0], coef.shape[1]
    _product(block, coef, intercept, None, out, sizes, 0, stream)


def multiply_parts(g: View, block: View, labels: View | None, parts: View, stream: int) -> None:
    """``g' block`` of each `SUMMED_ROWS` rows into ``parts``; of ``block`` rows labelled `IGNORED` are not read."""
    sizes = g.shape[1], block.shape[1], g.shape[0]
    _product(g, block, None, labels, parts, sizes, parts.shape[0], stream)


def _add_kernel() -> Callable[..., None]:
    def kernel(parts: Any, total: Any, rest: Any, count: Any, size: Any) -> None:
        i = np.int64(cuda.blockIdx.x) * cuda.blockDim.x + cuda.threadIdx.x
        if i < size:
            high, low = total[i], rest[i]
            for part in range(count):
                high, error = _two_sum(high, np.float64(parts[part * size + i]))
                low += error
            rounded, error = _two_sum(high, low)
            finite = error - error == _ZERO
            total[i] = rounded if finite else high
            rest[i] = error if finite else _ZERO

    return kernel


def add_parts(parts: View, total: View, rest: View, stream: int) -> None:
    """Add ``parts`` ``(M, K, p)`` to ``total`` ``(K, p)`` float64; what that rounds away is in ``rest``."""
    kernel = compiled(_add_kernel, (), (parts.dtype.name, "float64", "float64", "int", "int"), THREADS)
    launch(kernel, grid_of(total.size), THREADS, stream, parts, total, rest, parts.shape[0], total.size)


def _curvature_kernel(dtype: str, labelled: bool, soft: bool, lanes: int, rows: int) -> Callable[..., None]:
    real = real_of(dtype)
    add_up, shared = lanes_of(lanes, "float64").total, slot_count(lanes)

    def kernel(p: Any, u: Any, target: Any, n: Any, k: Any) -> None:
        slots = cuda.shared.array(shared, np.float64)
        thread = np.int64(cuda.threadIdx.x)
        row, lane = np.int64(cuda.blockIdx.x) * rows + thread // lanes, thread % lanes
        here = row if row < n else n - 1
        base = here * k
        along, weight = _ZERO, _ZERO
        for j in range(lane, k, lanes):
            along += np.float64(p[base + j]) * np.float64(u[base + j])
            if soft:
                weight += np.float64(target.q[base + j])
            elif labelled and target.given & HAS_CLASS:
                weight += target.class_weight[j]
        along, low = add_up(along, _ZERO, slots)
        along = along + low if low - low == _ZERO else along
        weight, low = add_up(weight, _ZERO, slots)
        weight = weight + low if low - low == _ZERO else weight
        label = target.labels[here] if labelled else np.int64(0)
        mass = weight if soft else _ONE
        if labelled and label >= 0 and target.given & HAS_CLASS:
            mass = (_ONE - target.smoothing) * target.class_weight[label] + target.smoothing / np.float64(k) * weight
        if not soft and target.given & HAS_SAMPLE:
            mass *= target.sample_weight[here]
        over, over_low = divisor_of(target)
        mass = mass / (over + over_low) if over != _ZERO and label != INVALID else _NAN
        if row < n:
            for j in range(lane, k, lanes):
                r = np.float64(p[base + j]) * (np.float64(u[base + j]) - along) * mass
                u[base + j] = real(r if label != IGNORED else _ZERO)

    return kernel


def curvature(probs: View, u: View, target: KernelTarget, stream: int) -> None:
    """``m_i p_ik (u_ik - sum_l p_il u_il)`` over ``u``, with the mass ``m_i`` of the target over the divisor."""
    name, (n, k) = u.dtype.name, u.shape
    options = name, target.labels is not None, target.q is not None, _LANES, _ROWS
    kernel = compiled(_curvature_kernel, options, (name, name, target_types(name), "int", "int"), _LANES * _ROWS)
    launch(kernel, (-(-n // _ROWS), 1), _LANES * _ROWS, stream, probs, u, *target_fields(target), n, k)
