"""Kernels for long rows: one row at a time, its classes along the lanes.

Three passes over a row, which is read from memory once if it fits the caches:

1. The maximum ``m``, and the minimum. A row of ordinary range is *narrow* (`reductions.is_narrow`): none of its
   exponentials underflows, and the next two passes take a shorter way to the same bits.
2. ``e_k = exp(x_k - m)`` of the exact difference ``d + r``, and ``s``, their sum without one maximum. It is taken by
   segments, and each segment in groups of four vectors, so its order depends on the length of a row and its dtype
   only. It is a float64; of float64 terms a second one carries the rounding errors.
3. The results, where ``L = log1p(s)``:
   softmax ``e_k / (1 + s)``, one division for a row, a product with a correction for an element, rounded once; what is
   subnormal is computed again without the digits that its exponential had lost;
   log_softmax ``(d - L) + r``; logsumexp ``m + L``; loss ``(L - d) - r`` of the label;
   gradient as softmax, at the label ``-(1 + s - e_y) / (1 + s)``, summed without it.

argmax takes the first pass, and looks for the first element that is the maximum.

The largest errors that ``python -m benchmarks.studies worst-errors`` finds, in the units of the contract's gates (ulp,
but for logsumexp), and the inputs that give them:

    softmax            float32  2.355  normal-4, 65 classes, seed 0, entry [61, 61]
    softmax            float64  2.233  normal-4, 65 classes, seed 0, entry [80, 29]
    log_softmax        float32  1.694  offset, 65 classes, seed 0, entry [217, 29]
    log_softmax        float64  1.938  ascending, 65 classes, seed 0, entry [211, 64]
    logsumexp          float32  1.994  offset, 65 classes, seed 0, entry [233]
    logsumexp          float64  2.000  one-dominant, 65 classes, seed 0, entry [31]
    index_loss         float32  1.556  uniform-350, 100 classes, seed 0, entry [104]
    index_loss         float64  1.500  normal-30, 65 classes, seed 0, entry [296]
    label_gradient     float32  1.554  offset, 65 classes, seed 0, entry [68, 1]
    label_gradient     float64  1.440  one-dominant, 65 classes, seed 0, entry [281, 35]
    off_label_gradient float32  2.355  normal-4, 65 classes, seed 0, entry [61, 61]
    off_label_gradient float64  2.233  normal-4, 65 classes, seed 0, entry [80, 29]
"""

# mypy: allow-untyped-decorators, allow-untyped-defs, allow-untyped-calls
from __future__ import annotations

import math

import numpy as np

from softbench_backends.numba.compiling import device_function
from softbench_backends.numba.intrinsics import (
    factor,
    first_match,
    fmax,
    index_loss,
    is_narrow,
    label_entry,
    log_sum,
    logsumexp,
    max_dominates,
    nan_seen,
    narrow_factor,
    quotient,
    reduce_fmax,
    rounded_like,
    sum_excluding_max,
)
from softbench_backends.numba.long_row_parts import (
    begin_pending,
    fill,
    narrow_row_sum,
    prefetch_distance,
    row_extrema,
    row_factor,
    row_sum,
    row_sum_excluding_max,
    write_log_probabilities,
    write_narrow_probabilities,
    write_pending,
    write_probabilities,
)
from softbench_backends.numba.memory import (
    address,
    broadcast,
    choose_buffer,
    fence,
    free_buffer,
    heap_buffer,
    holds_computed,
    itemsize,
    load,
    load_partial,
    load_scalar,
    offset,
    same_address,
    stack_buffer,
    store,
    store_scalar,
    width,
)
from softbench_backends.numba.vector_types import VECTOR_BYTES

KEEP_BYTES = 1 << 22
"""Exponentials of a row up to this size are kept between the passes, those of a larger one computed again."""

EARLY_BYTES = 1 << 13
"""Up to this size, the extrema of a row are found before the row before it is written: L1 holds all of both."""

DEFERRED_ROWS = VECTOR_BYTES // 8
"""Rows whose losses and entries at labels are computed together: a vector of float64."""


@device_function
def log_softmax_kernel(x, out, first, last, streaming):
    """`RowBackend.log_softmax` of the rows ``first <= i < last``."""
    k = x.shape[1]
    ahead = prefetch_distance(k, x.itemsize)
    for i in range(first, last):
        xi, oi = offset(address(x), i * k), offset(address(out), i * k)
        m, s, s_lo, _, narrow = row_sum_excluding_max(xi, k, ahead, False)
        log = log_sum(m, s, s_lo)
        if narrow:
            write_log_probabilities(xi, oi, k, m, log, True, streaming)
        else:
            write_log_probabilities(xi, oi, k, m, log, False, streaming)
    if streaming:
        fence()


@device_function
def logsumexp_kernel(x, out, first, last, streaming):
    """`RowBackend.logsumexp` of the rows ``first <= i < last``."""
    k = x.shape[1]
    ahead = prefetch_distance(k, x.itemsize)
    for i in range(first, last):
        m, s, s_lo, total, _ = row_sum_excluding_max(offset(address(x), i * k), k, ahead, True)
        store_scalar(address(out), i, logsumexp(m, s, s_lo, total))


@device_function
def row_max_or_nan(x, n):
    """Maximum of ``x[:n]``, NaN if one is there."""
    w = width(x)
    best, seen = broadcast(x, -math.inf), broadcast(x, 0.0)
    i = 0
    while i < n:
        v = load_partial(x, i, n - i, -math.inf)
        best, seen = fmax(best, v), nan_seen(seen, v)
        i += w
    return math.nan if first_match(seen, math.nan) < w else float(reduce_fmax(best))


@device_function
def argmax_kernel(x, out, first, last, streaming):
    """`RowBackend.argmax` of the rows ``first <= i < last``."""
    k = x.shape[1]
    w = width(address(x))
    for i in range(first, last):
        xi = offset(address(x), i * k)
        m = row_max_or_nan(xi, k)
        j = 0
        found = first_match(load_partial(xi, 0, k, -math.inf), m)
        while found == w:
            j += w
            found = first_match(load_partial(xi, j, k - j, -math.inf), m)
        store_scalar(address(out), i, j + found)


@device_function
def row_weight(i, y, sample_weight, class_weight):
    """``s_i w_y``; a weight that is absent (an empty array) is 1."""
    weight = 1.0
    if sample_weight.size:
        weight = sample_weight[i]
    if class_weight.size:
        weight *= class_weight[y]
    return weight


@device_function
def write_skipped_row(y, loss, i, out, k, gradient):
    """Loss, and gradient if it is asked for, of a row whose label is no class: 0 where ignored (-1), else NaN."""
    loss[i] = 0.0 if y == -1 else math.nan
    if gradient:
        fill(out, k, loss[i])


@device_function
def defer_label(p, i, m, s, s_lo, at_label, weight, weight_hi, weight_lo, row):
    """Remember of a row what `finish_labels` needs, as the ``i``-th in ``p``."""
    w = width(p)
    store_scalar(p, i, m)
    store_scalar(p, i + w, s)
    store_scalar(p, i + 2 * w, s_lo)
    store_scalar(p, i + 3 * w, at_label)
    store_scalar(p, i + 4 * w, weight)
    store_scalar(p, i + 5 * w, weight_hi)
    store_scalar(p, i + 6 * w, weight_lo)
    store_scalar(p, i + 7 * w, float(row))


@device_function
def finish_labels(p, n, x, labels, loss, out, gradient):
    """Loss, and the gradient's entry at the label, of the ``n`` rows noted in ``p``: a logarithm, an exponential and
    divisions one after the other, of many rows at once."""
    k = x.shape[1]
    w = width(p)
    m, at_label = (
        rounded_like(load_scalar(address(x), 0), load(p, 0)),
        rounded_like(load_scalar(address(x), 0), load(p, 3 * w)),
    )
    s, s_lo, weight, weight_hi, weight_lo = load(p, w), load(p, 2 * w), load(p, 4 * w), load(p, 5 * w), load(p, 6 * w)
    results = offset(p, 8 * w)
    store(results, 0, index_loss(m, s, log_sum(m, s, s_lo), at_label, weight))
    for i in range(n):
        loss[np.int64(load_scalar(p, i + 7 * w))] = load_scalar(results, i)
    if gradient:
        f, h, g = factor(m, s, s_lo, weight_hi, weight_lo)
        store(results, 0, label_entry(m, s, s_lo, at_label, f, h, g, weight_hi))
        for i in range(n):
            row = np.int64(load_scalar(p, i + 7 * w))
            store_scalar(address(out), row * k + labels[row], load_scalar(results, i))


@device_function
def softmax_kernel(x, out, first, last, streaming):
    """`RowBackend.softmax` of the rows ``first <= i < last``."""
    k = x.shape[1]
    keep = k * itemsize(address(x)) <= KEEP_BYTES
    apart = streaming or same_address(address(x), address(out)) or not holds_computed(address(out))
    buffer = heap_buffer(address(x), k if apart and keep else 0)
    ahead = prefetch_distance(k, x.itemsize)
    # The pending row: its results, whose exponentials are in the buffer, their factor, and which are left to write.
    pending, pending_f, at, end = address(out), load_scalar(address(x), 0), 0, 0
    # The row whose extrema are known. The operations one after the other between a row's sum and its factor, and
    # between its extrema and its first exponential, leave a core idle that has no other row to work on.
    early, known = k * x.itemsize <= EARLY_BYTES, first - 1
    next_m, next_low = pending_f, pending_f
    for i in range(first, last):
        xi, oi = offset(address(x), i * k), offset(address(out), i * k)
        e = choose_buffer(apart, buffer, oi)
        m, low = next_m, next_low
        if known != i:
            m, low = row_extrema(xi, k)
        narrow, dominated = is_narrow(m, low), max_dominates(m, low)
        if narrow:
            hi, lo, argmaxes, at = narrow_row_sum(
                xi, e, k, m, dominated, keep, ahead, pending, pending_f, at, end, False
            )
        write_pending(e, pending, pending_f, at, end)
        at, end = 0, 0
        smallest = math.inf
        if not narrow:
            hi, lo, argmaxes, smallest = row_sum(xi, e, k, m, keep, ahead)
        s, s_lo = sum_excluding_max(m, hi, lo, float(argmaxes))
        narrow_f, normal = narrow_factor(m, s, s_lo, 1.0, 0.0)
        if early and i + 1 < last:
            next_m, next_low = row_extrema(offset(xi, k), k)
            known = i + 1
        if not (narrow and normal):
            _, _, f, h, g = row_factor(xi, k, m, hi, lo, argmaxes, smallest, 1.0, 0.0)
            write_probabilities(xi, e, oi, k, keep and not narrow, m, f, h, g, streaming)
        elif streaming and keep:
            at, end = begin_pending(e, oi, k, narrow_f)
            pending, pending_f = oi, narrow_f
        else:
            write_narrow_probabilities(xi, e, oi, k, keep, m, narrow_f, streaming)
    write_pending(buffer, pending, pending_f, at, end)
    free_buffer(buffer)
    if streaming:
        fence()


@device_function
def index_kernel(
    x, q, labels, sample_weight, class_weight, loss, out, smoothing, divisor, gradient, first, last, streaming
):
    """`RowBackend.loss_and_gradient` for labels without smoothing; ``out`` is written if ``gradient`` is set.

    The loop of `softmax_kernel`, with a weight in place of 1, and with what is one number per row put off
    (`defer_label`) until there are enough rows to fill a vector.
    """
    k = x.shape[1]
    keep = gradient and k * itemsize(address(x)) <= KEEP_BYTES
    apart = streaming or same_address(address(x), address(out)) or not holds_computed(address(out))
    buffer = heap_buffer(address(x), k if apart and keep else 0)
    ahead = prefetch_distance(k, x.itemsize)
    weighted = sample_weight.size + class_weight.size > 0
    weight_hi, weight_lo = quotient(1.0, 0.0, divisor, 0.0)
    rows, deferred = stack_buffer(address(loss), 9), 0
    pending, pending_f, at, end = address(out), load_scalar(address(x), 0), 0, 0
    early, known = k * x.itemsize <= EARLY_BYTES, first - 1
    next_m, next_low = pending_f, pending_f
    for i in range(first, last):
        xi, oi = offset(address(x), i * k), offset(address(out), i * k)
        y, weight = labels[i], 1.0
        if y < 0 or y >= k:
            write_skipped_row(y, loss, i, oi, k, gradient)
            continue
        at_label = load_scalar(xi, y)
        if weighted:
            weight = row_weight(i, y, sample_weight, class_weight)
            weight_hi, weight_lo = quotient(weight, 0.0, divisor, 0.0)
        e = choose_buffer(apart, buffer, oi)
        m, low = next_m, next_low
        if known != i:
            m, low = row_extrema(xi, k)
        narrow, dominated = is_narrow(m, low), max_dominates(m, low)
        if narrow:
            hi, lo, argmaxes, at = narrow_row_sum(
                xi, e, k, m, dominated, keep, ahead, pending, pending_f, at, end, False
            )
        write_pending(e, pending, pending_f, at, end)
        at, end = 0, 0
        if deferred == DEFERRED_ROWS:
            finish_labels(rows, deferred, x, labels, loss, out, gradient)
            deferred = 0
        smallest = math.inf
        if not narrow:
            hi, lo, argmaxes, smallest = row_sum(xi, e, k, m, keep, ahead)
        s, s_lo = sum_excluding_max(m, hi, lo, float(argmaxes))
        narrow_f, normal = narrow_factor(m, s, s_lo, weight_hi, weight_lo)
        if early and i + 1 < last:
            next_m, next_low = row_extrema(offset(xi, k), k)
            known = i + 1
        if narrow and (normal or not gradient):
            defer_label(rows, deferred, m, s, s_lo, at_label, weight, weight_hi, weight_lo, i)
            deferred += 1
            if not gradient:
                continue
            if streaming and keep:
                at, end = begin_pending(e, oi, k, narrow_f)
                pending, pending_f = oi, narrow_f
            else:
                write_narrow_probabilities(xi, e, oi, k, keep, m, narrow_f, streaming)
            continue
        loss[i] = index_loss(m, s, log_sum(m, s, s_lo), at_label, weight)
        if gradient:
            s, s_lo, f, h, g = row_factor(xi, k, m, hi, lo, argmaxes, smallest, weight_hi, weight_lo)
            write_probabilities(xi, e, oi, k, keep and not narrow, m, f, h, g, streaming)
            store_scalar(oi, y, label_entry(m, s, s_lo, at_label, f, h, g, weight_hi))
    write_pending(buffer, pending, pending_f, at, end)
    free_buffer(buffer)
    finish_labels(rows, deferred, x, labels, loss, out, gradient)
    if streaming:
        fence()
