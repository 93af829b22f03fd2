"""Kernels for classes that lie apart in memory: softmax along an axis that is not the last.

``x`` is C-contiguous ``(outer, K, inner)`` with ``inner > 1``; row ``o inner + j`` is ``x[o, :, j]``. A whole row must
not be gathered element by element, and a transposed copy of all of ``x`` would be written and read once more. So
rows are taken in blocks along ``inner``, where memory is contiguous:

* Short rows lie in memory as `columns` wants them, class by class: vector ``c`` is loaded from where class ``c`` is.
* Long rows are transposed in registers into a buffer that stays in the second-level cache, computed there by the
  kernels for contiguous rows, and transposed back on their way out. Results are those of contiguous rows, bit for bit,
  because they come from the same kernels.
"""

# mypy: allow-untyped-decorators, allow-untyped-defs, allow-untyped-calls
from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numba import prange, types

from softbench_backends.numba import columns, rows, soft_rows
from softbench_backends.numba.columns import MOST_CLASSES, lane_shares, tile_index, tile_log_softmax, tile_softmax
from softbench_backends.numba.jit import part
from softbench_backends.numba.memory import (
    address,
    fence,
    load,
    load_first,
    offset,
    scratch,
    store,
    store_first,
    stream,
    width,
)
from softbench_backends.numba.transposition import transpose

__all__ = ["argument_types", "form"]


@part
def place(block, size, k, inner):
    """The first element and the first row of a block of up to ``size`` neighbouring rows, and how many they are."""
    per = (inner + size - 1) // size
    o, j = block // per, block % per * size
    return o * k * inner + j, o * inner + j, min(size, inner - j)


# -- long rows ------------------------------------------------------------------------------------------------


def _by_transposing(kernel: Any) -> Callable[..., Any]:
    """A kernel from rows of logits to ``out`` ``(N, K)``, made one for ``(outer, K, inner)``."""

    def strided(x, out, first, last, size, streaming):
        k, inner = x.shape[1], x.shape[2]
        buffer = np.empty((size, k), x.dtype)
        for block in range(first, last):
            at, _, n = place(block, size, k, inner)
            transpose(offset(address(x), at), inner, k, n, address(buffer), k, False)
            kernel(buffer, buffer, 0, n, False)
            transpose(address(buffer), k, n, k, offset(address(out), at), inner, streaming)
        if streaming:
            fence()

    return strided


def _reduction_by_transposing(kernel: Any) -> Callable[..., Any]:
    """A kernel from rows of logits to ``out`` ``(N,)``, made one for ``(outer, K, inner)``."""

    def strided(x, out, first, last, size, streaming):
        k, inner = x.shape[1], x.shape[2]
        buffer = np.empty((size, k), x.dtype)
        for block in range(first, last):
            at, row, n = place(block, size, k, inner)
            transpose(offset(address(x), at), inner, k, n, address(buffer), k, False)
            kernel(buffer, out[row : row + n], 0, n, False)

    return strided


def _target_by_transposing(kernel: Any) -> Callable[..., Any]:
    """A kernel with labels, made one for ``(outer, K, inner)``."""

    def strided(
        x, q, labels, sample_weight, class_weight, loss, out, smoothing, divisor, gradient, first, last, size, streaming
    ):
        k, inner = x.shape[1], x.shape[2]
        buffer = np.empty((size, k), x.dtype)
        for block in range(first, last):
            at, row, n = place(block, size, k, inner)
            transpose(offset(address(x), at), inner, k, n, address(buffer), k, False)
            kernel(
                buffer, q, labels[row : row + n], sample_weight[row : row + n], class_weight, loss[row : row + n],
                buffer, smoothing, divisor, gradient, 0, n, False,
            )  # fmt: skip
            if gradient:
                transpose(address(buffer), k, n, k, offset(address(out), at), inner, streaming)
        if streaming:
            fence()

    return strided


# -- short rows -----------------------------------------------------------------------------------------------


@part
def enter(x, inner, n, k, tile):
    """Classes of ``n`` neighbouring rows, a vector apiece, from ``x`` into ``tile``."""
    w = width(x)
    if n == w:
        for c in range(k):
            store(tile, c * w, load(x, c * inner))
    else:
        for c in range(k):
            store(tile, c * w, load_first(x, c * inner, n, 0.0))


@part
def leave(e, out, inner, n, k, streaming):
    """The inverse of `enter`; ``streaming`` past the caches if all lanes count."""
    w = width(out)
    if n < w:
        for c in range(k):
            store_first(out, c * inner, n, load(e, c * w))
    elif streaming:
        for c in range(k):
            stream(out, c * inner, load(e, c * w))
    else:
        for c in range(k):
            store(out, c * inner, load(e, c * w))


def _lane_by_lane(tile_kernel: Any) -> Callable[..., Any]:
    """A kernel of `columns` from a tile of logits to one of results, made one for ``(outer, K, inner)``."""

    def strided(x, out, first, last, size, streaming):
        k, inner = x.shape[1], x.shape[2]
        tile = scratch(address(x), MOST_CLASSES)
        e = scratch(address(x), MOST_CLASSES)
        for block in range(first, last):
            at, _, n = place(block, size, k, inner)
            enter(offset(address(x), at), inner, n, k, tile)
            tile_kernel(tile, e, k)
            leave(e, offset(address(out), at), inner, n, k, streaming)
        if streaming:
            fence()

    return strided


def index_strided(
    x, q, labels, sample_weight, class_weight, loss, out, smoothing, divisor, gradient, first, last, size, streaming
):
    """`columns.index_columns` of blocks of ``(outer, K, inner)``."""
    k, inner = x.shape[1], x.shape[2]
    xp = address(x)
    tile = scratch(xp, MOST_CLASSES)
    e = scratch(xp, MOST_CLASSES)
    weights = scratch(address(loss), 2)
    weighted = sample_weight.size > 0 or class_weight.size > 0
    weight, share, less = lane_shares(tile, weights, labels, sample_weight, class_weight, k, 0, 0, divisor)
    for block in range(first, last):
        at, row, n = place(block, size, k, inner)
        enter(offset(xp, at), inner, n, k, tile)
        if weighted:
            weight, share, less = lane_shares(tile, weights, labels, sample_weight, class_weight, k, row, n, divisor)
        tile_index(tile, e, k, labels, weight, share, less, loss, row, n, gradient)
        if gradient:
            leave(e, offset(address(out), at), inner, n, k, streaming)
    if streaming:
        fence()


# -- what Python calls ----------------------------------------------------------------------------------------


def _kernels(
    wrap: Callable[..., Any], long_rows: Any, short_rows: Any, lanewise: Callable[..., Any] | None = None
) -> tuple[Any, Any, bool]:
    """Kernels for long and for short rows, and whether they have a target."""
    long_kernel = part(wrap(long_rows))
    short_kernel = part(lanewise or wrap(short_rows))
    return long_kernel, short_kernel, wrap is _target_by_transposing


# op -> its kernels; a dispatcher each, which the serial and the parallel form share
_OPS: Final = {
    "softmax": _kernels(_by_transposing, rows.softmax_rows, columns.softmax_columns, _lane_by_lane(tile_softmax)),
    "log_softmax": _kernels(
        _by_transposing, rows.log_softmax_rows, columns.log_softmax_columns, _lane_by_lane(tile_log_softmax)
    ),
    "logsumexp": _kernels(_reduction_by_transposing, rows.logsumexp_rows, columns.logsumexp_columns),
    "argmax": _kernels(_reduction_by_transposing, rows.argmax_rows, columns.argmax_columns),
    "index": _kernels(_target_by_transposing, rows.index_rows, columns.index_columns, index_strided),
    "soft": _kernels(_target_by_transposing, soft_rows.soft_rows, columns.soft_columns),
}


def form(op: str, short: bool, parallel: bool) -> Callable[..., Any]:
    """The Python function of one form of one kernel, to be compiled for `argument_types`.

    ``(x, out, size, streaming, chunks)``, or with a target ``(x, ..., gradient, size, streaming, chunks)``: blocks are
    of ``size`` rows, shared out in ``chunks``.
    """
    long_kernel, short_kernel, with_target = _OPS[op]
    kernel = short_kernel if short else long_kernel
    spans = prange if parallel else range

    def on_map(x, out, size, streaming, chunks):
        blocks = x.shape[0] * ((x.shape[2] + size - 1) // size)
        for j in spans(chunks):
            kernel(x, out, blocks * j // chunks, blocks * (j + 1) // chunks, size, streaming)

    def on_target(
        x, q, labels, sample_weight, class_weight, loss, out, smoothing, divisor, gradient, size, streaming, chunks
    ):
        blocks = x.shape[0] * ((x.shape[2] + size - 1) // size)
        for j in spans(chunks):
            kernel(
                x, q, labels, sample_weight, class_weight, loss, out, smoothing, divisor, gradient,
                blocks * j // chunks, blocks * (j + 1) // chunks, size, streaming,
            )  # fmt: skip

    function = on_target if with_target else on_map
    # Numba names symbols and cache files after the qualified name.
    name = f"{op}_strided_{'short' if short else 'long'}_{'parallel' if parallel else 'serial'}"
    function.__name__ = function.__qualname__ = name
    return function


def argument_types(op: str, dtype: types.Type) -> tuple[types.Type, ...]:
    """Types of the arguments of every `form` of a kernel."""

    def array(dtype: types.Type, ndim: int) -> types.Array:
        return types.Array(dtype, ndim, "C")

    logits, weights = array(dtype, 3), array(types.float64, 1)
    of_blocks = (types.int64, types.boolean, types.int64)
    if _OPS[op][2]:
        return (
            logits, array(dtype, 2), array(types.int64, 1), weights, weights, weights, logits,
            types.float64, types.float64, types.boolean, *of_blocks,
        )  # fmt: skip
    results = {"logsumexp": array(dtype, 1), "argmax": array(types.int64, 1)}
    return (logits, results.get(op, logits), *of_blocks)
