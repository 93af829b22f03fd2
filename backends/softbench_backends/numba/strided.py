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

from typing import Any

import numpy as np

from softbench_backends.numba.calls import call_address
from softbench_backends.numba.jit import device_function
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
from softbench_backends.numba.short_rows import MOST_CLASSES, lane_weights, tile_index, tile_log_softmax, tile_softmax
from softbench_backends.numba.transposition import transpose

__all__ = [
    "index_kernel",
    "log_softmax_kernel",
    "softmax_kernel",
    "transposed_map",
    "transposed_reduction",
    "transposed_target",
]


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
        call_address(kernel, (buffer, buffer), 0, n, False)
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
        call_address(kernel, (buffer, out[row : row + n]), 0, n, False)


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
        call_address(kernel, args, 0, n, False)
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


def _lane_by_lane(name: str, tile_kernel: Any) -> Any:
    """A kernel of `short_rows` from a tile of logits to one of results, made one for ``(outer, K, inner)``."""

    def strided(x, out, size, first, last, streaming):
        k, inner = x.shape[1], x.shape[2]
        tile = stack_buffer(address(x), MOST_CLASSES)
        e = stack_buffer(address(x), MOST_CLASSES)
        for block in range(first, last):
            at, _, n = block_place(block, size, k, inner)
            load_tile(offset(address(x), at), inner, n, k, tile)
            tile_kernel(tile, e, k)
            store_tile(e, offset(address(out), at), inner, n, k, streaming)
        if streaming:
            fence()

    return device_function(strided, name)


softmax_kernel = _lane_by_lane("softmax_strided", tile_softmax)
log_softmax_kernel = _lane_by_lane("log_softmax_strided", tile_log_softmax)


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
