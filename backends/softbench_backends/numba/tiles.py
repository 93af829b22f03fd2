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
    is_near,
    is_ordered,
    join,
    label_entry,
    log_sum,
    logsumexp,
    near_factor,
    others,
    quotient,
    rounded,
    smaller_positive,
)
from softbench_backends.numba.calls import invoke
from softbench_backends.numba.jit import part
from softbench_backends.numba.limits import TILE
from softbench_backends.numba.memory import address, fence, offset, put
from softbench_backends.numba.rows import (
    fill,
    near_tile_sum,
    near_write,
    row_extrema,
    row_factor,
    row_weight,
    tile_sum,
    write_log_probabilities,
    write_probabilities,
)

# What is done to a tile. One function serves all; Numba would compile it for each of these numbers as a literal, hence
# np.int64.
_EXTREMA, _SUM, _PROBABILITIES, _LOGS = 0, 1, 2, 3


@part
def tile_jobs(job, x, out, tiles, m, f, h, g, first, last, streaming):
    """Do ``job`` to the tiles ``first <= j < last`` of all rows together.

    ``tiles`` ``(N, tiles, 6)`` holds what is found: the maximum, what `tile_sum` gives, and the minimum; ``m``, ``f``,
    ``h`` and ``g`` ``(N,)`` what is needed: the maximum of the row, and for sums its minimum as ``f``, for
    probabilities what `row_writing` gives, for logarithms ``L`` as ``f``.
    """
    k = x.shape[1]
    for j in range(first, last):
        i, t = j // tiles.shape[1], j % tiles.shape[1]
        n = min(TILE, k - t * TILE)
        xt, ot = offset(address(x), i * k + t * TILE), offset(address(out), i * k + t * TILE)
        if job == _EXTREMA:
            tiles[i, t, 0], tiles[i, t, 5] = row_extrema(xt, n)
        elif job == _SUM:
            least = rounded(m[i], f[i])
            if is_near(m[i], least):
                ordered = is_ordered(m[i], least)
                hi, lo, argmaxes, _ = near_tile_sum(xt, xt, n, m[i], ordered, False, 0, xt, m[i], 0, 0)
                tiles[i, t, 1], tiles[i, t, 2], tiles[i, t, 3], tiles[i, t, 4] = hi, lo, argmaxes, math.inf
            else:
                tiles[i, t, 1], tiles[i, t, 2], tiles[i, t, 3], tiles[i, t, 4] = tile_sum(xt, xt, n, m[i], False, 0)
        elif job == _PROBABILITIES and g[i] == 0.0:
            near_write(xt, xt, ot, n, False, m[i], rounded(m[i], f[i]), streaming)
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
    """The tiles; of every row the maximum, the minimum, and as ``(N, 4)`` what `row_sum` gives.

    The smallest exponential of a row that `is_near` is not looked for: inf.
    """
    n, k = x.shape
    tiles = np.empty((n, (k + TILE - 1) // TILE, 6))
    m, least, sums = np.empty(n, x.dtype), np.empty(n), np.empty((n, 4))
    all_tiles(share, jobs, np.int64(_EXTREMA), x, x, tiles, m, least, least, least, streaming)
    for i in range(n):
        m[i], least[i] = tiles[i, 0, 0], tiles[i, 0, 5]
        for t in range(1, tiles.shape[1]):  # never NaN: `row_extrema` passes over them
            m[i] = max(m[i], tiles[i, t, 0])
            least[i] = min(least[i], tiles[i, t, 5])
    all_tiles(share, jobs, np.int64(_SUM), x, x, tiles, m, least, least, least, streaming)
    for i in range(n):
        hi, lo, argmaxes, smallest = 0.0, 0.0, 0.0, math.inf
        for t in range(tiles.shape[1]):
            hi, lo = join(hi, lo, tiles[i, t, 1], tiles[i, t, 2])
            argmaxes += tiles[i, t, 3]
            smallest = smaller_positive(smallest, tiles[i, t, 4])
        sums[i, 0], sums[i, 1], sums[i, 2], sums[i, 3] = hi, lo, argmaxes, smallest
    return tiles, m, least, sums


@part
def row_writing(x, n, m, least, hi, lo, argmaxes, smallest, share, less):
    """`rows.row_factor`, and what multiplies the exponentials as they are written: ``f``, ``h``, ``g``.

    That is the same, or, with 0 for ``g``, what `near_factor` gave.
    """
    s, rest, f, h, g = row_factor(x, n, m, hi, lo, argmaxes, smallest, share, less)
    whole, normal = near_factor(m, s, rest, share, less)
    if is_near(m, rounded(m, least)) and normal:
        return (s, rest, f, h, g), (np.float64(whole), 0.0, 0.0)
    return (s, rest, f, h, g), (f, h, g)


@part
def softmax_tiles(share, jobs, x, out, streaming):
    """`rows.softmax_rows` of all rows."""
    n, k = x.shape
    tiles, m, least, sums = statistics(share, jobs, x, streaming)
    f, h, g = np.empty(n), np.empty(n), np.empty(n)
    for i in range(n):
        hi, lo, argmaxes, smallest = sums[i, 0], sums[i, 1], sums[i, 2], sums[i, 3]
        xi = offset(address(x), i * k)
        _, (f[i], h[i], g[i]) = row_writing(xi, k, m[i], least[i], hi, lo, argmaxes, smallest, 1.0, 0.0)
    all_tiles(share, jobs, np.int64(_PROBABILITIES), x, out, tiles, m, f, h, g, streaming)


@part
def log_softmax_tiles(share, jobs, x, out, streaming):
    """`rows.log_softmax_rows` of all rows."""
    tiles, m, _, sums = statistics(share, jobs, x, streaming)
    log = np.empty(x.shape[0])
    for i in range(x.shape[0]):
        s, rest = others(m[i], sums[i, 0], sums[i, 1], sums[i, 2])
        log[i] = log_sum(m[i], s, rest)
    all_tiles(share, jobs, np.int64(_LOGS), x, out, tiles, m, log, log, log, streaming)


@part
def logsumexp_tiles(share, jobs, x, out, streaming):
    """`rows.logsumexp_rows` of all rows."""
    _, m, _, sums = statistics(share, jobs, x, streaming)
    for i in range(x.shape[0]):
        s, rest = others(m[i], sums[i, 0], sums[i, 1], sums[i, 2])
        put(address(out), i, logsumexp(m[i], s, rest, sums[i, 0]))


@part
def slope(x, n, m, least, hi, lo, argmaxes, smallest, at_label, weight, divisor):
    """Of a row and its label: what multiplies its exponentials, and the gradient's entry at the label."""
    share, less = quotient(weight, 0.0, divisor, 0.0)
    (s, rest, f, h, g), written = row_writing(x, n, m, least, hi, lo, argmaxes, smallest, share, less)
    return written, label_entry(m, s, rest, at_label, f, h, g, share)


@part
def index_tiles(
    share, jobs, x, q, labels, sample_weight, class_weight, loss, out, smoothing, divisor, gradient, streaming
):
    """`rows.index_rows` of all rows."""
    n, k = x.shape
    tiles, m, least, sums = statistics(share, jobs, x, streaming)
    # Rows whose label is no class are written like near ones, times 0, and filled afterwards.
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
                (f[i], h[i], g[i]), entries[i] = slope(
                    xi, k, m[i], least[i], hi, lo, argmaxes, smallest, x[i, y], weight, divisor
                )
        else:
            loss[i] = 0.0 if y == -1 else math.nan
    if gradient:
        all_tiles(share, jobs, np.int64(_PROBABILITIES), x, out, tiles, m, f, h, g, streaming)
        for i in range(n):
            if 0 <= labels[i] < k:
                put(address(out), i * k + labels[i], entries[i])
            else:
                fill(offset(address(out), i * k), k, loss[i])
