"""Kernels for linear logits of dense features: products of matrices around the kernels for rows.

A block of rows is small enough for the second-level cache: its logits are computed (`block_logits`), a row kernel makes
gradients of them in place, and these times the features are added up (`add_gradients`) while the features are still
there. Meanwhile the next block is asked for, a cache line every few multiply-adds, so that memory and cores are busy
at the same time.

Sums over rows have three levels: the rows of a block in the features' own dtype; then float64, by chunks (or blocks)
of rows; then these, in their order. All of them depend on the shape and dtype of the problem alone, so results do not
depend on which thread does what. There are two ways to share the work:

* *chunks* (`target_chunks`, `direction_chunks`): a thread takes whole chunks of rows, and has a sum for each chunk, so
  small that it stays in the second-level cache.
* *blocks* (`target_blocks`, `direction_blocks`): threads share the rows of many blocks for what becomes of their
  logits, and then the elements of the gradient for the sum over these rows (`gradient_tiles`): one sum, however large.
"""

# mypy: allow-untyped-decorators, allow-untyped-defs, allow-untyped-calls
from __future__ import annotations

import numpy as np

from softbench_backends.numba.calls import call_kernel
from softbench_backends.numba.compiling import device_function
from softbench_backends.numba.intrinsics import sum_value
from softbench_backends.numba.linear_blocks import (
    LINEAR_SPAN,
    SUMMED_ROWS,
    add_column_sums,
    add_gradients,
    block_logits,
    block_loss,
    hessian_rows,
    lines_per_step,
    next_tile,
    pack,
)
from softbench_backends.numba.linear_tiles import VECTORS, add_products
from softbench_backends.numba.memory import address, offset, width

# -- kernels ----------------------------------------------------------------------------------------------------


@device_function
def room(x, k, block, packed):
    """Memory for a block: logits in float64, if there are spans of them, and a copy of its rows, if one is needed."""
    p = x.shape[1]
    return np.empty((block if p > LINEAR_SPAN else 0, k)), np.empty((block if packed else 0, p), x.dtype)


@device_function
def target_rows(x, x_stride, w, bias, given, first, rows, z, loss, wide, ahead, lines, left):
    """Losses of a block of rows, and in ``z`` the gradients with respect to the logits, by a kernel for rows.

    ``given`` is a reference to that kernel (`call_kernel`) and what it takes, of all rows.
    """
    kernel, q, labels, sample_weight, class_weight, smoothing, divisor, gradient, soft = given
    k, p = w.shape
    block_logits(x, x_stride, address(w), k, p, address(bias), address(z), address(wide), rows, ahead, lines, left)
    last = first + rows
    part = q[first:last] if soft else q
    weight = sample_weight[first:last]
    arguments = (z, part, labels[first:last], weight, class_weight, loss, z, smoothing, divisor, gradient)
    call_kernel(kernel, arguments, 0, rows, False)


@device_function
def direction_rows(x, x_stride, w, bias, given, first, rows, z, loss, wide, ahead, lines, left):
    """In ``z``, what the Hessian product of a block of rows is the sum of.

    ``given`` is a reference to the softmax kernel, the direction, kept probabilities or none, and masses of all rows
    or none, with what they are multiplied by.
    """
    kernel, direction, direction_bias, probs, mass, scale = given
    k, p = w.shape
    to, more = address(z), address(wide)
    block_logits(x, x_stride, address(direction), k, p, address(direction_bias), to, more, rows, ahead, lines, left)
    if probs.shape[0]:
        hessian_rows(offset(address(probs), first * k), to, k, first, rows, mass, scale)
    else:
        computed = np.empty((rows, k), z.dtype)
        block_logits(x, x_stride, address(w), k, p, address(bias), address(computed), more, rows, x, 0, 0)
        call_kernel(kernel, (computed, computed), 0, rows, False)
        hessian_rows(address(computed), to, k, first, rows, mass, scale)


def _chunk_kernel(rows_of_block, name):
    """A kernel that sums over chunks of rows what ``rows_of_block`` leaves in ``z``."""

    def kernel(
        x, w, bias, given, skip, packed, loss, chunk_loss, total, gradient, chunk, block, first, last, streaming
    ):
        n, p = x.shape
        k = w.shape[0]
        z, row_loss, sums = np.empty((block, k), x.dtype), np.empty(block), np.empty(k)
        wide, copy = room(x, k, block, packed)
        apart, stride = x.strides[0] // x.itemsize, total.shape[2]
        lanes = width(address(x))
        for c in range(first, last):
            end = min(n, (c + 1) * chunk)
            hi, lo = 0.0, 0.0
            if gradient:
                total[c] = 0.0
            for i in range(c * chunk, end, block):
                rows = min(block, end - i)
                at, between, lines = offset(address(x), i * apart), apart, lines_per_step(k, p)
                if packed:
                    pack(x, i, rows, skip, address(copy))
                    at, between, lines = address(copy), p, 0
                # Half of the next block is asked for during the first half of the work.
                ahead, half = offset(at, rows * between), rows * (p // lanes) // 2
                rows_of_block(at, between, w, bias, given, i, rows, z, row_loss, wide, ahead, lines, half)
                hi, lo = block_loss(row_loss, rows, hi, lo)
                if loss.size:
                    loss[i : i + rows] = row_loss[:rows]
                if gradient:
                    to, ahead = address(total[c]), offset(ahead, half * lanes)
                    add_gradients(at, between, p, address(z), k, rows, to, stride, ahead, lines, half)
                    add_column_sums(address(z), k, 0, k, rows, sums, offset(to, stride - 1), stride)
            chunk_loss[c] = sum_value(hi, lo)

    return device_function(kernel, name)


chunks_of_targets = _chunk_kernel(target_rows, "chunks_of_targets")
chunks_of_directions = _chunk_kernel(direction_rows, "chunks_of_directions")


# Kernels take no tuples: what Numba runs on all threads may not.


@device_function
def target_chunks(
    x, w, bias, kernel, q, labels, sample_weight, class_weight, smoothing, divisor, gradient, soft,
    skip, packed, loss, chunk_loss, total, chunk, block, first, last, streaming,
):  # fmt: skip
    """Losses of the chunks ``first <= c < last``, their sums in ``chunk_loss``, and gradients in ``total[c]``."""
    given = kernel, q, labels, sample_weight, class_weight, smoothing, divisor, gradient, soft
    chunks_of_targets(
        x, w, bias, given, skip, packed, loss, chunk_loss, total, gradient, chunk, block, first, last, streaming
    )


@device_function
def direction_chunks(
    x, w, bias, kernel, direction, direction_bias, probs, mass, scale,
    skip, packed, loss, chunk_loss, total, chunk, block, first, last, streaming,
):  # fmt: skip
    """Hessian products of the chunks of rows ``first <= c < last`` in ``total[c]``."""
    given = kernel, direction, direction_bias, probs, mass, scale
    chunks_of_directions(
        x, w, bias, given, skip, packed, loss, chunk_loss, total, True, chunk, block, first, last, streaming
    )


def _block_kernel(rows_of_block, name):
    """A kernel that leaves what ``rows_of_block`` makes of blocks in ``z``, and the rows they took in ``copy``."""

    def kernel(x, w, bias, given, skip, packed, loss, z, copy, block, first, last, streaming):
        n, p = x.shape
        k = w.shape[0]
        wide, _ = room(x, k, block, False)
        apart = x.strides[0] // x.itemsize
        for i in range(first * block, min(n, last * block), block):
            rows = min(block, n - i)
            at, between = offset(address(x), i * apart), apart
            if packed:
                at, between = address(copy[i:]), p
                pack(x, i, rows, skip, at)
            part = z[i : i + rows]
            rows_of_block(at, between, w, bias, given, i, rows, part, loss[i : i + rows], wide, at, 0, 0)

    return device_function(kernel, name)


blocks_of_targets = _block_kernel(target_rows, "blocks_of_targets")
blocks_of_directions = _block_kernel(direction_rows, "blocks_of_directions")


@device_function
def target_blocks(
    x, w, bias, kernel, q, labels, sample_weight, class_weight, smoothing, divisor, gradient, soft,
    skip, packed, loss, z, copy, block, first, last, streaming,
):  # fmt: skip
    """Losses of the blocks of rows ``first <= b < last`` and, in ``z``, gradients with respect to their logits."""
    given = kernel, q, labels, sample_weight, class_weight, smoothing, divisor, gradient, soft
    blocks_of_targets(x, w, bias, given, skip, packed, loss, z, copy, block, first, last, streaming)


@device_function
def direction_blocks(
    x, w, bias, kernel, direction, direction_bias, probs, mass, scale,
    skip, packed, loss, z, copy, block, first, last, streaming,
):  # fmt: skip
    """What the Hessian product is the sum of, for the blocks of rows ``first <= b < last``, in ``z``."""
    given = kernel, direction, direction_bias, probs, mass, scale
    blocks_of_directions(x, w, bias, given, skip, packed, loss, z, copy, block, first, last, streaming)


@device_function
def gradient_tiles(x, z, total, group, first, last, streaming):
    """Add ``z' x`` and ``z' 1`` to the tiles ``first <= t < last`` of ``total``: some features of ``group`` classes."""
    n, p = x.shape
    k = z.shape[1]
    lanes = width(address(x))
    span = VECTORS * lanes
    apart, stride = x.strides[0] // x.itemsize, total.shape[1]
    groups = (k + group - 1) // group
    part, sums = np.empty((group, span)), np.empty(k)
    for t in range(first, last):
        j, c0 = t // groups * span, t % groups * group
        c1 = min(k, c0 + group)
        features = max(0, min(span, p - j))
        part[:] = 0.0
        for i in range(0, n, SUMMED_ROWS):
            rows = min(SUMMED_ROWS, n - i)
            at, zi = offset(address(x), i * apart + j), offset(address(z), i * k + c0)
            add_tile(at, apart, features, zi, k, c1 - c0, rows, address(part), span)
            if j == 0:
                add_column_sums(address(z[i:]), k, c0, c1, rows, sums, offset(address(total), stride - 1), stride)
        for c in range(c0, c1):
            for f in range(features):
                total[c, j + f] += part[c - c0, f]


@device_function
def add_tile(x, x_stride, p, g, g_stride, k, rows, total, stride):
    """`add_gradients` of a few features and some of the classes of ``g``."""
    lanes = width(x)
    many = p == VECTORS * lanes
    c = 0
    while c < k:
        n = next_tile(k - c)
        gc, to = offset(g, c), offset(total, c * stride)
        if many:
            add_products(VECTORS, rows, x, x_stride, lanes, n, gc, g_stride, to, stride, x, 0)
        else:
            for j in range(0, p, lanes):
                xj, tj = offset(x, j), offset(to, j)
                add_products(1, rows, xj, x_stride, p - j, n, gc, g_stride, tj, stride, x, 0)
        c += n


@device_function
def combine(parts, total, first, last, streaming):
    """Add ``parts[c]`` to ``total``, one ``c`` after the other, in its rows ``first <= k < last``."""
    for k in range(first, last):
        for c in range(parts.shape[0]):
            for j in range(total.shape[1]):
                total[k, j] += parts[c, k, j]


@device_function
def softmax_blocks(kernel, x, w, bias, packed, out, block, first, last, streaming):
    """Probabilities of the blocks of rows ``first <= b < last``."""
    predict(kernel, x, w, bias, packed, out, out, block, first, last)


@device_function
def argmax_blocks(kernel, x, w, bias, packed, out, block, first, last, streaming):
    """Classes of the blocks of rows ``first <= b < last``."""
    z = np.empty((block, w.shape[0]), x.dtype)
    predict(kernel, x, w, bias, packed, z, out, block, first, last)


@device_function
def predict(kernel, x, w, bias, packed, z, out, block, first, last):
    """A row kernel of the logits, which go to ``z``: to its first rows, or in the place of the result if it is that."""
    n, p = x.shape
    k = w.shape[0]
    in_place = z.shape[0] == n
    wide, copy = room(x, k, block, packed)
    nothing = np.empty(0, np.int64)
    apart = x.strides[0] // x.itemsize
    for i in range(first * block, min(n, last * block), block):
        rows = min(block, n - i)
        at, between = offset(address(x), i * apart), apart
        if packed:
            pack(x, i, rows, nothing, address(copy))
            at, between = address(copy), p
        part = z[i : i + rows] if in_place else z[:rows]
        block_logits(at, between, address(w), k, p, address(bias), address(part), address(wide), rows, at, 0, 0)
        call_kernel(kernel, (part, out[i : i + rows]), 0, rows, False)
