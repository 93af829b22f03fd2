"""A block of rows of dense features: its logits, and what sums over its rows add up.

The functions that the kernels of `linear` consist of.
"""

# mypy: allow-untyped-decorators, allow-untyped-defs, allow-untyped-calls
from __future__ import annotations

from typing import Final

from softbench_backends.numba.compiling import device_function
from softbench_backends.numba.intrinsics import accumulate, accumulator, add_sums, reduce_sum, sum_value, times
from softbench_backends.numba.linear_tiles import CLASSES, ROWS, VECTORS, add_products, dot_products
from softbench_backends.numba.memory import (
    address,
    broadcast,
    load_partial,
    load_scalar,
    offset,
    store_scalar,
    width,
)
from softbench_backends.numba.transposition import transpose

__all__ = [
    "LINEAR_SPAN",
    "SUMMED_ROWS",
    "add_column_sums",
    "add_gradients",
    "block_logits",
    "block_loss",
    "hessian_rows",
    "lines_per_step",
    "next_tile",
    "pack",
]

LINEAR_SPAN: Final = 2048
"""Features whose products are summed in their own dtype before that goes to float64."""
LINEAR_WEIGHTS: Final = 1 << 15
"""Bytes of the weights that a block of rows is multiplied with at a time."""
SUMMED_ROWS: Final = 128
"""Most rows whose products are summed in the features' own dtype before that goes to float64."""


@device_function
def next_tile(classes):
    """Classes of the next tile where ``classes`` are left: tiles of nearly one size, none larger than `CLASSES`."""
    tiles = (classes + CLASSES - 1) // CLASSES
    return (classes + tiles - 1) // tiles


@device_function
def lines_per_step(k, p):
    """Cache lines to ask for in each step of the inner loops: so that all are asked for that the loops take.

    None where features are so many that a block of rows is larger than the second-level cache.
    """
    if p > LINEAR_SPAN:
        return 0
    return 2 if k <= CLASSES else 1


@device_function
def span_logits(x, x_stride, w, w_stride, p, k, start, start_stride, z, rows, ahead, lines, left):
    """``z = start + x w'`` for the rows of a block, ``p`` features and ``k`` classes.

    A few classes at a time, so that their weights stay in the first-level cache, go over all rows. ``left`` cache
    lines from ``ahead`` on are asked for meanwhile, ``lines`` in a step.
    """
    lanes = width(x)
    group = max(CLASSES, LINEAR_WEIGHTS * lanes // (64 * p + 1))
    for c0 in range(0, k, group):
        c1 = min(k, c0 + group)
        i = 0
        while i < rows:
            many = i + ROWS <= rows
            c = c0
            while c < c1:
                n = next_tile(c1 - c)
                xi, wi = offset(x, i * x_stride), offset(w, c * w_stride)
                si, zi = offset(start, i * start_stride + c), offset(z, i * k + c)
                step = lines * lanes if left > 0 else 0
                if many:
                    ahead = dot_products(ROWS, xi, x_stride, n, wi, w_stride, p, si, start_stride, zi, k, ahead, step)
                else:
                    ahead = dot_products(1, xi, x_stride, n, wi, w_stride, p, si, start_stride, zi, k, ahead, step)
                left -= lines * (p // lanes)
                c += n
            i += ROWS if many else 1


@device_function
def block_logits(x, x_stride, w, k, p, bias, z, wide, rows, ahead, lines, left):
    """The logits ``z`` of the rows of a block; ``wide`` is room for them in float64 where there are many features.

    Long sums are taken span by span, and these in float64: their error does not grow with the number of features.
    """
    start, start_stride, j = bias, 0, 0
    while p - j > LINEAR_SPAN:
        xj, wj = offset(x, j), offset(w, j)
        span_logits(xj, x_stride, wj, p, LINEAR_SPAN, k, start, start_stride, wide, rows, ahead, 0, 0)
        start, start_stride, j = wide, k, j + LINEAR_SPAN
    xj, wj = offset(x, j), offset(w, j)
    span_logits(xj, x_stride, wj, p, p - j, k, start, start_stride, z, rows, ahead, lines, left)


@device_function
def add_gradients(x, x_stride, p, g, k, rows, total, stride, ahead, lines, left):
    """``total[c, j] += sum_i g[i, c] x[i, j]`` over the rows of a block; rows of ``total`` are ``stride`` apart."""
    lanes = width(x)
    j = 0
    while j < p:
        many = j + VECTORS * lanes <= p
        c = 0
        while c < k:
            n = next_tile(k - c)
            xj, gc, to = offset(x, j), offset(g, c), offset(total, c * stride + j)
            step = lines * lanes if left > 0 else 0
            if many:
                ahead = add_products(VECTORS, rows, xj, x_stride, lanes, n, gc, k, to, stride, ahead, step)
            else:
                ahead = add_products(1, rows, xj, x_stride, p - j, n, gc, k, to, stride, ahead, step)
            left -= lines * rows
            c += n
        j += VECTORS * lanes if many else lanes


@device_function
def add_column_sums(g, k, first, last, rows, sums, total, stride):
    """``total[c] += sum_i g[i, c]`` for ``first <= c < last``: the intercept's gradient, as of one more feature."""
    for c in range(first, last):
        sums[c] = 0.0
    for i in range(rows):
        for c in range(first, last):
            sums[c] += load_scalar(g, i * k + c)
    for c in range(first, last):
        store_scalar(total, c * stride, load_scalar(total, c * stride) + sums[c])


@device_function
def pack(x, first, rows, skip, to):
    """Rows of ``x``, however they lie in memory, one behind the other; 0 in those with -1 in ``skip``."""
    p = x.shape[1]
    apart, along = x.strides[0] // x.itemsize, x.strides[1] // x.itemsize
    at = offset(address(x), first * apart)
    if apart == 1:
        transpose(at, along, p, rows, to, p, False)
    else:
        for i in range(rows):
            for j in range(p):
                store_scalar(to, i * p + j, load_scalar(at, i * apart + j * along))
    if skip.size:
        for i in range(rows):
            if skip[first + i] == -1:
                for j in range(p):
                    store_scalar(to, i * p + j, 0.0)


@device_function
def block_loss(loss, rows, hi, lo):
    """The sum ``hi + lo`` after the losses of a block."""
    p = address(loss)
    w = width(p)
    high, low = accumulator(broadcast(p, 0.0))
    for i in range(0, rows, w):
        high, low = accumulate(high, low, load_partial(p, i, rows - i, 0.0))
    return add_sums(hi, lo, *reduce_sum(high, low))


@device_function
def hessian_rows(p, u, k, first, rows, mass, scale):
    """``u = m p (u - sum(p u))`` row by row, ``m`` the mass times ``scale``; 0 where it is negative: a row is ignored.

    Without masses, every row counts once.
    """
    w = width(u)
    for i in range(rows):
        at = i * k
        hi, lo = accumulator(broadcast(u, 0.0))
        for c in range(0, k, w):
            products = times(load_partial(p, at + c, k - c, 0.0), load_partial(u, at + c, k - c, 0.0))
            hi, lo = accumulate(hi, lo, products)
        mean = sum_value(*reduce_sum(hi, lo))
        m = mass[first + i] * scale if mass.size else scale
        for c in range(k):
            value = m * (load_scalar(p, at + c) * (load_scalar(u, at + c) - mean))
            store_scalar(u, at + c, 0.0 if m < 0.0 else value)
