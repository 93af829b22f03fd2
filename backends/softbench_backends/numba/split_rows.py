"""Kernels for a few huge rows: every row is shared out to the threads, segment by segment.

1. Every thread finds the extrema of its segments; then one thread those of the row.
2. Every thread sums the exponentials of its segments; then one thread adds the sums, in the order of
   `long_row_parts.row_sum`, whose segments they are: results are the same bits, and so are the largest errors.
3. Every thread writes the results of its segments.

A kernel runs on one thread; ``parallel`` and ``jobs`` are the addresses (`calls`) of `calls.parallel_for` and of
`segment_jobs`, by which it has all threads do something to every segment.
"""

# mypy: allow-untyped-decorators, allow-untyped-defs, allow-untyped-calls
from __future__ import annotations

import math

import numpy as np
from numba import types

from softbench_backends.numba.calls import call_kernel
from softbench_backends.numba.compiling import device_function
from softbench_backends.numba.intrinsics import (
    add_sums,
    index_loss,
    is_narrow,
    label_entry,
    log_sum,
    logsumexp,
    max_dominates,
    narrow_factor,
    quotient,
    rounded_like,
    smaller_positive,
    sum_excluding_max,
)
from softbench_backends.numba.long_row_parts import (
    SEGMENT,
    fill,
    narrow_segment_sum,
    row_extrema,
    row_factor,
    segment_sum,
    write_log_probabilities,
    write_narrow_probabilities,
    write_probabilities,
)
from softbench_backends.numba.long_rows import row_weight
from softbench_backends.numba.memory import address, fence, load_scalar, offset, store_scalar

SHORTEST = 4 * SEGMENT
"""From this length on, rows fewer than threads are shared out segment by segment."""

# What is done to a segment. One function serves all; Numba would compile it for each of these numbers as a literal,
# hence np.int64.
_EXTREMA, _SUM, _PRECISE_SUM, _PROBABILITIES, _LOGS = range(5)


@device_function
def segment_jobs(job, x, out, segments, m, f, h, g, first, last, streaming):
    """Do ``job`` to the segments ``first <= j < last`` of all rows together.

    ``segments`` ``(N, segments, 6)`` holds what is found: the maximum, what `segment_sum` gives, and the minimum.
    ``m``, ``f``, ``h`` and ``g`` ``(N,)`` hold what is needed: the maximum of the row, and for sums its minimum as
    ``f``, for probabilities what `row_write_factors` gives, for logarithms ``L`` as ``f``.
    """
    k = x.shape[1]
    for j in range(first, last):
        i, t = j // segments.shape[1], j % segments.shape[1]
        n = min(SEGMENT, k - t * SEGMENT)
        xt, ot = offset(address(x), i * k + t * SEGMENT), offset(address(out), i * k + t * SEGMENT)
        max_i = rounded_like(load_scalar(xt, 0), m[i])
        if job == _EXTREMA:
            segments[i, t, 0], segments[i, t, 5] = row_extrema(xt, n)
        elif job in (_SUM, _PRECISE_SUM):
            least = rounded_like(max_i, f[i])
            if is_narrow(max_i, least):
                dominated = max_dominates(max_i, least)
                precise = job == _PRECISE_SUM
                hi, lo, argmaxes, _ = narrow_segment_sum(
                    xt, xt, n, max_i, dominated, False, 0, xt, max_i, 0, 0, precise
                )
                segments[i, t, 1], segments[i, t, 2], segments[i, t, 3], segments[i, t, 4] = hi, lo, argmaxes, math.inf
            else:
                segments[i, t, 1], segments[i, t, 2], segments[i, t, 3], segments[i, t, 4] = segment_sum(
                    xt, xt, n, max_i, False, 0
                )
        elif job == _PROBABILITIES and g[i] == 0.0:
            write_narrow_probabilities(xt, xt, ot, n, False, max_i, rounded_like(max_i, f[i]), streaming)
        elif job == _PROBABILITIES:
            write_probabilities(xt, xt, ot, n, False, max_i, f[i], h[i], g[i], streaming)
        else:
            write_log_probabilities(xt, ot, n, max_i, f[i], False, streaming)
    if streaming:
        fence()


def argument_types(dtype: types.Type) -> tuple[types.Type, ...]:
    """Types of what `segment_jobs` takes before ``first``."""
    logits, numbers = types.Array(dtype, 2, "C"), types.Array(types.float64, 1, "C")
    segments = types.Array(types.float64, 3, "C")
    return types.int64, logits, logits, segments, numbers, numbers, numbers, numbers


@device_function
def all_segments(parallel, jobs, job, x, out, segments, m, f, h, g, streaming):
    """`segment_jobs` for every segment of every row, on all threads."""
    n = segments.shape[0] * segments.shape[1]
    call_kernel(parallel, (jobs, (job, x, out, segments, m, f, h, g)), n, n, streaming)


@device_function
def segment_statistics(parallel, jobs, x, streaming, sums_job):
    """The segments; of every row the maximum, the minimum, and as ``(N, 4)`` what `row_sum` gives.

    The smallest exponential of a row that `is_narrow` is not looked for: inf. ``sums_job`` says how sums are taken.
    """
    n, k = x.shape
    segments = np.empty((n, (k + SEGMENT - 1) // SEGMENT, 6))
    m, least, sums = np.empty(n), np.empty(n), np.empty((n, 4))
    all_segments(parallel, jobs, np.int64(_EXTREMA), x, x, segments, m, least, least, least, streaming)
    for i in range(n):
        m[i], least[i] = segments[i, 0, 0], segments[i, 0, 5]
        for t in range(1, segments.shape[1]):  # never NaN: `row_extrema` passes over them
            m[i] = max(m[i], segments[i, t, 0])
            least[i] = min(least[i], segments[i, t, 5])
    all_segments(parallel, jobs, sums_job, x, x, segments, m, least, least, least, streaming)
    for i in range(n):
        hi, lo, argmaxes, smallest = 0.0, 0.0, 0.0, math.inf
        for t in range(segments.shape[1]):
            hi, lo = add_sums(hi, lo, segments[i, t, 1], segments[i, t, 2])
            argmaxes += segments[i, t, 3]
            smallest = smaller_positive(smallest, segments[i, t, 4])
        sums[i, 0], sums[i, 1], sums[i, 2], sums[i, 3] = hi, lo, argmaxes, smallest
    return segments, m, least, sums


@device_function
def row_write_factors(x, n, m, least, hi, lo, argmaxes, smallest, weight_hi, weight_lo):
    """`long_row_parts.row_factor`, and what multiplies the exponentials as they are written: ``f``, ``h``, ``g``.

    That is the same, or, with 0 for ``g``, what `narrow_factor` gave.
    """
    s, s_lo, f, h, g = row_factor(x, n, m, hi, lo, argmaxes, smallest, weight_hi, weight_lo)
    narrow_f, normal = narrow_factor(m, s, s_lo, weight_hi, weight_lo)
    if is_narrow(m, rounded_like(m, least)) and normal:
        return (s, s_lo, f, h, g), (np.float64(narrow_f), 0.0, 0.0)
    return (s, s_lo, f, h, g), (f, h, g)


@device_function
def softmax_kernel(parallel, jobs, x, out, streaming):
    """`long_rows.softmax_kernel` of all rows."""
    n, k = x.shape
    segments, m, least, sums = segment_statistics(parallel, jobs, x, streaming, np.int64(_SUM))
    f, h, g = np.empty(n), np.empty(n), np.empty(n)
    for i in range(n):
        hi, lo, argmaxes, smallest = sums[i, 0], sums[i, 1], sums[i, 2], sums[i, 3]
        xi = offset(address(x), i * k)
        mi = rounded_like(load_scalar(xi, 0), m[i])
        _, (f[i], h[i], g[i]) = row_write_factors(xi, k, mi, least[i], hi, lo, argmaxes, smallest, 1.0, 0.0)
    all_segments(parallel, jobs, np.int64(_PROBABILITIES), x, out, segments, m, f, h, g, streaming)


@device_function
def log_softmax_kernel(parallel, jobs, x, out, streaming):
    """`long_rows.log_softmax_kernel` of all rows."""
    segments, m, _, sums = segment_statistics(parallel, jobs, x, streaming, np.int64(_SUM))
    log = np.empty(x.shape[0])
    for i in range(x.shape[0]):
        mi = rounded_like(load_scalar(address(x), 0), m[i])
        s, s_lo = sum_excluding_max(mi, sums[i, 0], sums[i, 1], sums[i, 2])
        log[i] = log_sum(mi, s, s_lo)
    all_segments(parallel, jobs, np.int64(_LOGS), x, out, segments, m, log, log, log, streaming)


@device_function
def logsumexp_kernel(parallel, jobs, x, out, streaming):
    """`long_rows.logsumexp_kernel` of all rows."""
    _, m, _, sums = segment_statistics(parallel, jobs, x, streaming, np.int64(_PRECISE_SUM))
    for i in range(x.shape[0]):
        mi = rounded_like(load_scalar(address(x), 0), m[i])
        s, s_lo = sum_excluding_max(mi, sums[i, 0], sums[i, 1], sums[i, 2])
        store_scalar(address(out), i, logsumexp(mi, s, s_lo, sums[i, 0]))


@device_function
def label_gradient(x, n, m, least, hi, lo, argmaxes, smallest, at_label, weight, divisor):
    """Of a row and its label: what multiplies its exponentials, and the gradient's entry at the label."""
    weight_hi, weight_lo = quotient(weight, 0.0, divisor, 0.0)
    (s, s_lo, f, h, g), written = row_write_factors(x, n, m, least, hi, lo, argmaxes, smallest, weight_hi, weight_lo)
    return written, label_entry(m, s, s_lo, at_label, f, h, g, weight_hi)


@device_function
def index_kernel(
    parallel, jobs, x, q, labels, sample_weight, class_weight, loss, out, smoothing, divisor, gradient, streaming
):
    """`long_rows.index_kernel` of all rows."""
    n, k = x.shape
    segments, m, least, sums = segment_statistics(parallel, jobs, x, streaming, np.int64(_SUM))
    # Rows whose label is no class are written like narrow ones, times 0, and filled afterwards.
    f, h, g, entries = np.zeros(n), np.zeros(n), np.zeros(n), np.zeros(n)
    for i in range(n):
        y = labels[i]
        if 0 <= y < k:
            weight = row_weight(i, y, sample_weight, class_weight)
            hi, lo, argmaxes, smallest = sums[i, 0], sums[i, 1], sums[i, 2], sums[i, 3]
            xi = offset(address(x), i * k)
            at_label = load_scalar(xi, y)
            mi = rounded_like(at_label, m[i])
            s, s_lo = sum_excluding_max(mi, hi, lo, argmaxes)
            loss[i] = index_loss(mi, s, log_sum(mi, s, s_lo), at_label, weight)
            if gradient:
                (f[i], h[i], g[i]), entries[i] = label_gradient(
                    xi, k, mi, least[i], hi, lo, argmaxes, smallest, at_label, weight, divisor
                )
        else:
            loss[i] = 0.0 if y == -1 else math.nan
    if gradient:
        all_segments(parallel, jobs, np.int64(_PROBABILITIES), x, out, segments, m, f, h, g, streaming)
        for i in range(n):
            if 0 <= labels[i] < k:
                store_scalar(address(out), i * k + labels[i], entries[i])
            else:
                fill(offset(address(out), i * k), k, loss[i])
