"""Kernels for a few huge rows: every row is shared out to the threads, tile by tile.

The tiles are those of `rows.row_sum`, and their sums are joined in the same order, so results are the same.
"""

# mypy: allow-untyped-decorators, allow-untyped-defs, allow-untyped-calls
from __future__ import annotations

import math

import numpy as np
from numba import njit, prange

from softbench_backends.numba.blocks import (
    factor,
    index_loss,
    join,
    label_entry,
    log_sum,
    logsumexp,
    others,
    quotient,
)
from softbench_backends.numba.lanes import address, fence, offset, put
from softbench_backends.numba.limits import TILE
from softbench_backends.numba.rows import (
    fill,
    row_max,
    row_weight,
    tile_sum,
    write_log_probabilities,
    write_shifted_probabilities,
)


@njit(error_model="numpy", parallel=True)
def statistics(x):
    """Of every row: the maximum, ``s'``, its correction, and the plain sum of the terms."""
    n, k = x.shape
    tiles = (k + TILE - 1) // TILE
    maxima = np.empty((n, tiles), x.dtype)
    high, low = np.empty((n, tiles)), np.empty((n, tiles))
    counts = np.empty((n, tiles), np.int64)
    m, s, lo, terms = np.empty(n, x.dtype), np.empty(n), np.empty(n), np.empty(n)
    for j in prange(n * tiles):
        i, t = j // tiles, j % tiles
        maxima[i, t] = row_max(offset(address(x), i * k + t * TILE), min(TILE, k - t * TILE))
    for i in range(n):
        m[i] = maxima[i].max()  # the maximum of a tile is never NaN
    for j in prange(n * tiles):
        i, t = j // tiles, j % tiles
        xt = offset(address(x), i * k + t * TILE)
        high[i, t], low[i, t], counts[i, t] = tile_sum(xt, xt, min(TILE, k - t * TILE), m[i], False, 0)
    for i in range(n):
        total, correction = 0.0, 0.0
        for t in range(tiles):
            total, correction = join(total, correction, high[i, t], low[i, t])
        terms[i] = total
        s[i], lo[i] = others(m[i], total, correction, float(counts[i].sum()))
    return m, s, lo, terms


@njit(error_model="numpy", parallel=True)
def write_tiles(x, out, m, f, g, streaming):
    """`write_shifted_probabilities` of every row with its own ``m``, ``f`` and ``g``."""
    n, k = x.shape
    tiles = (k + TILE - 1) // TILE
    for j in prange(n * tiles):
        i, t = j // tiles, j % tiles
        at = i * k + t * TILE
        xt, ot = offset(address(x), at), offset(address(out), at)
        write_shifted_probabilities(xt, ot, min(TILE, k - t * TILE), m[i], f[i], g[i], streaming)
        if streaming:
            fence()


@njit(error_model="numpy")
def softmax_tiles(x, out, streaming, chunks):
    """`rows.softmax_rows` of all rows."""
    m, s, lo, _ = statistics(x)
    f, g = np.empty(x.shape[0]), np.empty(x.shape[0])
    for i in range(x.shape[0]):
        f[i], g[i] = factor(m[i], s[i], lo[i], 1.0, 0.0)
    write_tiles(x, out, m, f, g, streaming)


@njit(error_model="numpy", parallel=True)
def write_log_tiles(x, out, m, log, streaming):
    """`write_log_probabilities` of every row with its own ``m`` and ``L``."""
    n, k = x.shape
    tiles = (k + TILE - 1) // TILE
    for j in prange(n * tiles):
        i, t = j // tiles, j % tiles
        at = i * k + t * TILE
        xt, ot = offset(address(x), at), offset(address(out), at)
        write_log_probabilities(xt, ot, min(TILE, k - t * TILE), m[i], log[i], streaming)
        if streaming:
            fence()


@njit(error_model="numpy")
def log_softmax_tiles(x, out, streaming, chunks):
    """`rows.log_softmax_rows` of all rows."""
    m, s, lo, _ = statistics(x)
    log = np.empty(x.shape[0])
    for i in range(x.shape[0]):
        log[i] = log_sum(m[i], s[i], lo[i])
    write_log_tiles(x, out, m, log, streaming)


@njit(error_model="numpy")
def logsumexp_tiles(x, out, streaming, chunks):
    """`rows.logsumexp_rows` of all rows."""
    m, s, lo, terms = statistics(x)
    for i in range(x.shape[0]):
        put(address(out), i, logsumexp(m[i], s[i], lo[i], terms[i]))


@njit(error_model="numpy")
def index_tiles(x, q, labels, sample_weight, class_weight, loss, out, smoothing, divisor, gradient, streaming, chunks):
    """`rows.index_rows` of all rows."""
    n, k = x.shape
    m, s, lo, _ = statistics(x)
    f, g, entries = np.empty(n), np.empty(n), np.empty(n)
    for i in range(n):
        y = labels[i]
        if 0 <= y < k:
            weight = row_weight(i, y, sample_weight, class_weight)
            share, less = quotient(weight, 0.0, divisor, 0.0)
            loss[i] = index_loss(m[i], s[i], log_sum(m[i], s[i], lo[i]), x[i, y], weight)
            f[i], g[i] = factor(m[i], s[i], lo[i], share, less)
            entries[i] = label_entry(m[i], s[i], lo[i], x[i, y], f[i], g[i], share)
        else:
            f[i], g[i], entries[i] = 0.0, 0.0, 0.0
            loss[i] = 0.0 if y == -1 else math.nan
    if gradient:
        write_tiles(x, out, m, f, g, streaming)
        for i in range(n):
            if 0 <= labels[i] < k:
                put(address(out), i * k + labels[i], entries[i])
            else:
                fill(offset(address(out), i * k), k, loss[i])
