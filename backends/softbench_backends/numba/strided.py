"""Kernels for classes that lie apart in memory: softmax along an axis that is not the last.

``x`` is C-contiguous ``(outer, K, inner)`` with ``inner > 1``; row ``o inner + j`` is ``x[o, :, j]``. A whole row must
not be gathered element by element, and a transposed copy of all of ``x`` would be written and read once more. So
rows are taken in blocks of ``size`` along ``inner``, where memory is contiguous; kernels count blocks:

* Short rows lie in memory as `short_rows` wants them, class by class: vector ``c`` is loaded from where class ``c`` is.
* Long rows, and short ones of which there is no such kernel, are transposed in registers into a buffer that stays in
  the second-level cache, computed there by the kernels for contiguous rows, and transposed back on their way out.
  Results are those of contiguous rows, bit for bit, because they come from the same kernels.
"""

# mypy: allow-untyped-decorators, allow-untyped-defs, allow-untyped-calls
from __future__ import annotations

import numpy as np

from softbench_backends.numba.calls import call_kernel
from softbench_backends.numba.compiling import device_function
from softbench_backends.numba.memory import (
    address,
    fence,
    load,
    load_partial,
    offset,
    stack_buffer,
    store,
    store_partial,
    stream,
    width,
)
from softbench_backends.numba.short_rows import MOST_CLASSES
from softbench_backends.numba.tiles import lane_weights, tile_index, tile_log_softmax, tile_softmax
from softbench_backends.numba.transposition import transpose
from softbench_backends.numba.vector_types import rows_at_once

__all__ = [
    "block_size",
    "index_kernel",
    "log_softmax_kernel",
    "softmax_kernel",
    "transposed_map",
    "transposed_reduction",
    "transposed_target",
]

BLOCK_BYTES = 1 << 18
"""Size of the buffer into which rows are transposed."""


def block_size(shape: tuple[int, ...], itemsize: int, threads: int, transposed: bool) -> int:
    """Rows of a block of logits of this shape; ``transposed`` into a buffer, or taken from where they are."""
    outer, k, inner = shape
    size = rows_at_once(itemsize)
    if transposed:
        wanted = -(-inner * outer // (4 * threads * size))  # some blocks for every thread
        size *= max(1, min(BLOCK_BYTES // (k * itemsize * size), wanted))
    return min(size, inner)


@device_function
def block_place(block, size, k, inner):
    """The first element and the first row of a block of up to ``size`` neighbouring rows, and how many they are."""
    per = (inner + size - 1) // size
    o, j = block // per, block % per * size
    return o * k * inner + j, o * inner + j, min(size, inner - j)


# -- through a buffer -----------------------------------------------------------------------------------------
#
# ``kernel`` is the address (`calls`) of one for contiguous rows.


@device_function
def transposed_map(kernel, x, out, size, first, last, streaming):
    """A kernel from rows of logits to ``out`` ``(N, K)`` on blocks of ``(outer, K, inner)``."""
    k, inner = x.shape[1], x.shape[2]
    buffer = np.empty((size, k), x.dtype)
    for block in range(first, last):
        at, _, n = block_place(block, size, k, inner)
        transpose(offset(address(x), at), inner, k, n, address(buffer), k, False)
        call_kernel(kernel, (buffer, buffer), 0, n, False)
        transpose(address(buffer), k, n, k, offset(address(out), at), inner, streaming)
    if streaming:
        fence()


@device_function
def transposed_reduction(kernel, x, out, size, first, last, streaming):
    """A kernel from rows of logits to ``out`` ``(N,)`` on blocks of ``(outer, K, inner)``."""
    k, inner = x.shape[1], x.shape[2]
    buffer = np.empty((size, k), x.dtype)
    for block in range(first, last):
        at, row, n = block_place(block, size, k, inner)
        transpose(offset(address(x), at), inner, k, n, address(buffer), k, False)
        call_kernel(kernel, (buffer, out[row : row + n]), 0, n, False)


@device_function
def transposed_target(
    kernel, x, q, labels, sample_weight, class_weight, loss, out, smoothing, divisor, gradient,
    size, first, last, streaming,
):  # fmt: skip
    """A kernel with labels on blocks of ``(outer, K, inner)``."""
    k, inner = x.shape[1], x.shape[2]
    buffer = np.empty((size, k), x.dtype)
    for block in range(first, last):
        at, row, n = block_place(block, size, k, inner)
        transpose(offset(address(x), at), inner, k, n, address(buffer), k, False)
        args = (
            buffer, q, labels[row : row + n], sample_weight[row : row + n], class_weight, loss[row : row + n],
            buffer, smoothing, divisor, gradient,
        )  # fmt: skip
        call_kernel(kernel, args, 0, n, False)
        if gradient:
            transpose(address(buffer), k, n, k, offset(address(out), at), inner, streaming)
    if streaming:
        fence()


# -- short rows, from where they are ---------------------------------------------------------------------------


@device_function
def load_tile(x, inner, n, k, tile):
    """Classes of ``n`` neighbouring rows, a vector apiece, from ``x`` into ``tile``."""
    w = width(x)
    if n == w:
        for c in range(k):
            store(tile, c * w, load(x, c * inner))
    else:
        for c in range(k):
            store(tile, c * w, load_partial(x, c * inner, n, 0.0))


@device_function
def store_tile(e, out, inner, n, k, streaming):
    """The inverse of `load_tile`; ``streaming`` past the caches if all lanes count."""
    w = width(out)
    if n < w:
        for c in range(k):
            store_partial(out, c * inner, n, load(e, c * w))
    elif streaming:
        for c in range(k):
            stream(out, c * inner, load(e, c * w))
    else:
        for c in range(k):
            store(out, c * inner, load(e, c * w))


@device_function
def softmax_kernel(x, out, size, first, last, streaming):
    """`short_rows.softmax_kernel` of blocks of ``(outer, K, inner)``."""
    k, inner = x.shape[1], x.shape[2]
    tile, e = stack_buffer(address(x), MOST_CLASSES), stack_buffer(address(x), MOST_CLASSES)
    for block in range(first, last):
        at, _, n = block_place(block, size, k, inner)
        load_tile(offset(address(x), at), inner, n, k, tile)
        tile_softmax(tile, e, k)
        store_tile(e, offset(address(out), at), inner, n, k, streaming)
    if streaming:
        fence()


@device_function
def log_softmax_kernel(x, out, size, first, last, streaming):
    """`short_rows.log_softmax_kernel` of blocks of ``(outer, K, inner)``."""
    k, inner = x.shape[1], x.shape[2]
    tile, e = stack_buffer(address(x), MOST_CLASSES), stack_buffer(address(x), MOST_CLASSES)
    for block in range(first, last):
        at, _, n = block_place(block, size, k, inner)
        load_tile(offset(address(x), at), inner, n, k, tile)
        tile_log_softmax(tile, e, k)
        store_tile(e, offset(address(out), at), inner, n, k, streaming)
    if streaming:
        fence()


@device_function
def index_kernel(
    x, q, labels, sample_weight, class_weight, loss, out, smoothing, divisor, gradient, size, first, last, streaming
):
    """`short_rows.index_kernel` of blocks of ``(outer, K, inner)``."""
    k, inner = x.shape[1], x.shape[2]
    xp = address(x)
    tile = stack_buffer(xp, MOST_CLASSES)
    e = stack_buffer(xp, MOST_CLASSES)
    weights = stack_buffer(address(loss), 2)
    weighted = sample_weight.size > 0 or class_weight.size > 0
    weight, weight_hi, weight_lo = lane_weights(tile, weights, labels, sample_weight, class_weight, k, 0, 0, divisor)
    for block in range(first, last):
        at, row, n = block_place(block, size, k, inner)
        load_tile(offset(xp, at), inner, n, k, tile)
        if weighted:
            weight, weight_hi, weight_lo = lane_weights(
                tile, weights, labels, sample_weight, class_weight, k, row, n, divisor
            )
        tile_index(tile, e, k, labels, weight, weight_hi, weight_lo, loss, row, n, gradient)
        if gradient:
            store_tile(e, offset(address(out), at), inner, n, k, streaming)
    if streaming:
        fence()
