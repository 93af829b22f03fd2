"""Kernels for a few huge rows: every row is shared out to the threads, tile by tile.

The tiles are those of `rows.row_sum`, and their sums are joined in the same order, so results are the same. A kernel
runs on one thread; ``share`` and ``jobs`` are the addresses (`calls`) of `calls.share_out` and of `tile_jobs`, by which
it has all threads do something to every tile.
"""

# mypy: allow-untyped-decorators, allow-untyped-defs, allow-untyped-calls
from __future__ import annotations

import math

import numpy as np
from numba import types

from softbench_backends.numba.blocks import (
    index_loss,
    join,
    label_entry,
    log_sum,
    logsumexp,
    others,
    quotient,
    smaller_positive,
)
from softbench_backends.numba.calls import invoke
from softbench_backends.numba.jit import part
from softbench_backends.numba.limits import TILE
from softbench_backends.numba.memory import address, fence, offset, put
from softbench_backends.numba.rows import (
    fill,
    row_factor,
    row_max,
    row_weight,
    tile_sum,
    write_log_probabilities,
    write_probabilities,
)

# What is done to a tile. One function serves all; Numba would compile it for each of these numbers as a literal, hence
# np.int64.
_MAX, _SUM, _PROBABILITIES, _LOGS = 0, 1, 2, 3


@part
def tile_jobs(job, x, out, tiles, m, f, h, g, first, last, streaming):
    """Do ``job`` to the tiles ``first <= j < last`` of all rows together.

    ``tiles`` ``(N, tiles, 5)`` holds what is found: the maximum, and what `tile_sum` gives; ``m``,
    ``f``, ``h`` and ``g`` ``(N,)`` what is needed: the maximum, and what `factor` gives, or ``L`` as ``f``.
    """
    k = x.shape[1]
    for j in range(first, last):
        i, t = j // tiles.shape[1], j % tiles.shape[1]
        n = min(TILE, k - t * TILE)
        xt, ot = offset(address(x), i * k + t * TILE), offset(address(out), i * k + t * TILE)
        if job == _MAX:
            tiles[i, t, 0] = row_max(xt, n)
        elif job == _SUM:
            tiles[i, t, 1], tiles[i, t, 2], tiles[i, t, 3], tiles[i, t, 4] = tile_sum(xt, xt, n, m[i], False, 0)
        elif job == _PROBABILITIES:
            write_probabilities(xt, xt, ot, n, False, m[i], f[i], h[i], g[i], streaming)
        else:
            write_log_probabilities(xt, ot, n, m[i], f[i], streaming)
    if streaming:
        fence()


def argument_types(dtype: types.Type) -> tuple[types.Type, ...]:
    """Types of what `tile_jobs` takes before ``first``."""
    logits, numbers = types.Array(dtype, 2, "C"), types.Array(types.float64, 1, "C")
    tiles = types.Array(types.float64, 3, "C")
    return (types.int64, logits, logits, tiles, types.Array(dtype, 1, "C"), numbers, numbers, numbers)


@part
def all_tiles(share, jobs, job, x, out, tiles, m, f, h, g, streaming):
    """`tile_jobs` for every tile of every row, on all threads: ``share`` is the address of `calls.share_out` for it."""
    n = tiles.shape[0] * tiles.shape[1]
    invoke(share, (jobs, (job, x, out, tiles, m, f, h, g)), n, n, streaming)


@part
def statistics(share, jobs, x, streaming):
    """The tiles; of every row the maximum, and what `row_sum` gives, as ``(N, 4)``."""
    n, k = x.shape
    tiles = np.empty((n, (k + TILE - 1) // TILE, 5))
    m, sums, unused = np.empty(n, x.dtype), np.empty((n, 4)), np.empty(n)
    all_tiles(share, jobs, np.int64(_MAX), x, x, tiles, m, unused, unused, unused, streaming)
    for i in range(n):
        m[i] = tiles[i, 0, 0]
        for t in range(1, tiles.shape[1]):
            m[i] = max(m[i], tiles[i, t, 0])  # never NaN: `row_max` passes over them
    all_tiles(share, jobs, np.int64(_SUM), x, x, tiles, m, unused, unused, unused, streaming)
    for i in range(n):
        hi, lo, argmaxes, smallest = 0.0, 0.0, 0.0, math.inf
        for t in range(tiles.shape[1]):
            hi, lo = join(hi, lo, tiles[i, t, 1], tiles[i, t, 2])
            argmaxes += tiles[i, t, 3]
            smallest = smaller_positive(smallest, tiles[i, t, 4])
        sums[i, 0], sums[i, 1], sums[i, 2], sums[i, 3] = hi, lo, argmaxes, smallest
    return tiles, m, sums


@part
def softmax_tiles(share, jobs, x, out, streaming):
    """`rows.softmax_rows` of all rows."""
    n, k = x.shape
    tiles, m, sums = statistics(share, jobs, x, streaming)
    f, h, g = np.empty(n), np.empty(n), np.empty(n)
    for i in range(n):
        hi, lo, argmaxes, smallest = sums[i, 0], sums[i, 1], sums[i, 2], sums[i, 3]
        xi = offset(address(x), i * k)
        _, _, f[i], h[i], g[i] = row_factor(xi, k, m[i], hi, lo, argmaxes, smallest, 1.0, 0.0)
    all_tiles(share, jobs, np.int64(_PROBABILITIES), x, out, tiles, m, f, h, g, streaming)


@part
def log_softmax_tiles(share, jobs, x, out, streaming):
    """`rows.log_softmax_rows` of all rows."""
    tiles, m, sums = statistics(share, jobs, x, streaming)
    log = np.empty(x.shape[0])
    for i in range(x.shape[0]):
        s, rest = others(m[i], sums[i, 0], sums[i, 1], sums[i, 2])
        log[i] = log_sum(m[i], s, rest)
    all_tiles(share, jobs, np.int64(_LOGS), x, out, tiles, m, log, log, log, streaming)


@part
def logsumexp_tiles(share, jobs, x, out, streaming):
    """`rows.logsumexp_rows` of all rows."""
    _, m, sums = statistics(share, jobs, x, streaming)
    for i in range(x.shape[0]):
        s, rest = others(m[i], sums[i, 0], sums[i, 1], sums[i, 2])
        put(address(out), i, logsumexp(m[i], s, rest, sums[i, 0]))


@part
def slope(x, n, m, hi, lo, argmaxes, smallest, at_label, weight, divisor):
    """Of a row and its label: what `factor` gives, and the gradient's entry at the label."""
    share, less = quotient(weight, 0.0, divisor, 0.0)
    s, rest, f, h, g = row_factor(x, n, m, hi, lo, argmaxes, smallest, share, less)
    return f, h, g, label_entry(m, s, rest, at_label, f, h, g, share)


@part
def index_tiles(
    share, jobs, x, q, labels, sample_weight, class_weight, loss, out, smoothing, divisor, gradient, streaming
):
    """`rows.index_rows` of all rows."""
    n, k = x.shape
    tiles, m, sums = statistics(share, jobs, x, streaming)
    f, h, g, entries = np.zeros(n), np.zeros(n), np.zeros(n), np.zeros(n)
    for i in range(n):
        y = labels[i]
        if 0 <= y < k:
            weight = row_weight(i, y, sample_weight, class_weight)
            hi, lo, argmaxes, smallest = sums[i, 0], sums[i, 1], sums[i, 2], sums[i, 3]
            s, rest = others(m[i], hi, lo, argmaxes)
            loss[i] = index_loss(m[i], s, log_sum(m[i], s, rest), x[i, y], weight)
            if gradient:
                xi = offset(address(x), i * k)
                f[i], h[i], g[i], entries[i] = slope(xi, k, m[i], hi, lo, argmaxes, smallest, x[i, y], weight, divisor)
        else:
            loss[i] = 0.0 if y == -1 else math.nan
    if gradient:
        all_tiles(share, jobs, np.int64(_PROBABILITIES), x, out, tiles, m, f, h, g, streaming)
        for i in range(n):
            if 0 <= labels[i] < k:
                put(address(out), i * k + labels[i], entries[i])
            else:
                fill(offset(address(out), i * k), k, loss[i])
