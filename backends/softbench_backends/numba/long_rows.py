"""Kernels for long rows: one row at a time, its classes along the lanes.

Three passes over a row, which is read from memory once if it fits the caches:

1. The maximum ``m``, and the minimum. A row of ordinary range is *narrow* (`numerics.is_narrow`): none of its
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
    accumulate,
    accumulator,
    add_sums,
    any_subnormal,
    any_vanishing,
    coarse_exp,
    dominated_exp,
    exp_term,
    factor,
    first_match,
    fmax,
    fmin,
    index_loss,
    is_narrow,
    label_entry,
    log_probability,
    log_sum,
    logsumexp,
    max_dominates,
    min_int,
    min_positive,
    min_positive_start,
    nan_seen,
    narrow_exp,
    narrow_factor,
    precise_probability,
    precise_term,
    probability,
    quotient,
    reduce_fmax,
    reduce_fmin,
    reduce_min_positive,
    reduce_sum,
    reduce_term_sum,
    rounded_like,
    scaled_sum,
    shifted_exp,
    smaller_positive,
    sum_excluding_max,
    times,
    without_argmaxes,
)
from softbench_backends.numba.lanes import GROUP, VECTOR_BYTES
from softbench_backends.numba.memory import (
    address,
    broadcast,
    choose_buffer,
    elements_to_alignment,
    fence,
    free_buffer,
    heap_buffer,
    holds_computed,
    itemsize,
    load,
    load_group,
    load_partial,
    load_scalar,
    offset,
    prefetch,
    same_address,
    stack_buffer,
    store,
    store_partial,
    store_scalar,
    stream,
    width,
)

SEGMENT = 16384
"""Classes that are summed together; also the unit in which a row is shared out to threads (`split_rows`)."""

KEEP_BYTES = 1 << 22
"""Exponentials of a row up to this size are kept between the passes, those of a larger one computed again."""

EARLY_BYTES = 1 << 13
"""Up to this size, the extrema of a row are found before the row before it is written: L1 holds all of both."""

AHEAD_BYTES = 1 << 11
"""From this size on, the next row is prefetched."""

DEFERRED_ROWS = VECTOR_BYTES // 8
"""Rows whose losses and entries at labels are computed together: a vector of float64."""


@device_function
def row_extrema(x, n):
    """Maximum and minimum of ``x[:n]``, passing over NaN."""
    w = width(x)
    a = b = c = d = broadcast(x, -math.inf)
    low0 = low1 = low2 = low3 = broadcast(x, math.inf)
    i = 0
    while i + 4 * w <= n:
        v0, v1, v2, v3 = load(x, i), load(x, i + w), load(x, i + 2 * w), load(x, i + 3 * w)
        a, b, c, d = fmax(a, v0), fmax(b, v1), fmax(c, v2), fmax(d, v3)
        low0, low1, low2, low3 = fmin(low0, v0), fmin(low1, v1), fmin(low2, v2), fmin(low3, v3)
        i += 4 * w
    while i < n:
        v = load_partial(x, i, n - i, load_scalar(x, 0))
        a, low0 = fmax(a, v), fmin(low0, v)
        i += w
    return reduce_fmax(fmax(fmax(a, b), fmax(c, d))), reduce_fmin(fmin(fmin(low0, low1), fmin(low2, low3)))


@device_function
def plain_exp(x, v, m):
    """Exponentials of ``v``, of a narrow row of ``x``, as results of the type of ``x`` need them."""
    return narrow_exp(v, m) if holds_computed(x) else coarse_exp(v, m)


@device_function
def narrow_segment_sum(x, e, n, m, dominated, keep, ahead, pending, pending_f, j, rest, precise):
    """`segment_sum` of a row that `is_narrow`, ``dominated`` if `max_dominates`: the same, but ``e`` is not scaled.

    ``precise``: in float32 also where `plain_exp` is in less.

    What ``e`` held before are the exponentials of the pending row, the one before. Its results are written meanwhile,
    ``pending[j:rest] = e pending_f``, a group for a group, so that memory is busy while the cores are. ``j`` keeps
    ahead of what is overwritten; the last result is the new ``j``. ``j`` to ``rest`` are whole groups, no more of them
    than the row has.
    """
    w = width(x)
    hi, lo = accumulator(broadcast(x, 0.0))
    argmaxes = 0
    i = 0
    while i + GROUP * w <= n:
        v = load_group(x, i)
        if dominated and (precise or holds_computed(x)):
            e0 = dominated_exp(v, m)
        else:
            e0 = narrow_exp(v, m) if precise else plain_exp(x, v, m)
        if ahead:
            for p in range(GROUP):
                prefetch(x, i + ahead + p * w)
        if j < rest:
            stream(pending, j, times(load_group(e, j), pending_f))
            j += GROUP * w
        if keep:
            store(e, i, e0)
        e0, n0 = without_argmaxes(e0, v, m)
        argmaxes += n0
        hi, lo = accumulate(hi, lo, e0)
        i += GROUP * w
    while i < n:
        v = load_partial(x, i, n - i, m)
        e0 = narrow_exp(v, m) if precise else plain_exp(x, v, m)
        if keep:
            store_partial(e, i, n - i, e0)
        e0, n0 = without_argmaxes(e0, v, m)
        argmaxes += n0
        hi, lo = accumulate(hi, lo, e0)
        i += w
    high, low = reduce_term_sum(load_scalar(x, 0), hi, lo)
    high, low = scaled_sum(m, high, low)
    return high, low, argmaxes - (i - n), j


@device_function
def narrow_row_sum(x, e, n, m, dominated, keep, ahead, pending, pending_f, j, rest, precise):
    """`narrow_segment_sum` over all tiles of a row."""
    hi, lo, argmaxes = 0.0, 0.0, 0
    for start in range(0, n, SEGMENT):
        high, low, more, j = narrow_segment_sum(
            offset(x, start), offset(e, start), min_int(SEGMENT, n - start), m, dominated, keep, ahead,
            offset(pending, start), pending_f, j - start, rest - start, precise,
        )  # fmt: skip
        j += start
        hi, lo = add_sums(hi, lo, high, low)
        argmaxes += more
    return hi, lo, argmaxes, j


@device_function
def write_narrow_probabilities(x, e, out, n, kept, m, f, streaming):
    """``out[:n] = e f``; ``e`` is read if it was ``kept``; ``streaming`` past the caches."""
    w = width(out)
    j = 0
    if streaming:
        j = min_int(elements_to_alignment(out), n)
        v = load_partial(e, 0, j, m) if kept else plain_exp(x, load_partial(x, 0, j, m), m)
        store_partial(out, 0, j, times(v, f))
    while j + GROUP * w <= n:
        v = times(load_group(e, j) if kept else plain_exp(x, load_group(x, j), m), f)
        if streaming:
            stream(out, j, v)
        else:
            store(out, j, v)
        j += GROUP * w
    while j < n:
        v = load_partial(e, j, n - j, m) if kept else plain_exp(x, load_partial(x, j, n - j, m), m)
        store_partial(out, j, n - j, times(v, f))
        j += w


@device_function
def begin_pending(e, out, n, f):
    """Write the ends of ``out[:n] = e f``; what lies between, ``j`` to ``rest``, are whole groups on cache lines."""
    w = width(out)
    j = min_int(elements_to_alignment(out), n)
    rest = n - (n - j) % (GROUP * w)
    store_partial(out, 0, j, times(load_partial(e, 0, j, 0.0), f))
    for i in range(rest, n, w):
        store_partial(out, i, n - i, times(load_partial(e, i, n - i, 0.0), f))
    return j, rest


@device_function
def write_pending(e, out, f, j, rest):
    """What is left to write of a pending row: ``out[j:rest] = e f``."""
    while j < rest:
        stream(out, j, times(load_group(e, j), f))
        j += GROUP * width(out)


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
def segment_sum(x, e, n, m, keep, ahead):
    """Sum of the exponentials below the maximum ``m``, its correction, number of argmaxes, smallest exponential but 0.

    The scaled exponentials go to ``e`` if ``keep`` is set. ``x + ahead`` is prefetched,
    unless that is 0.
    """
    w = width(x)
    hi, lo = accumulator(broadcast(x, 0.0))
    smallest = min_positive_start(broadcast(x, 0.0))
    argmaxes = 0
    i = 0
    while i + GROUP * w <= n:
        e0, t0, n0 = exp_term(load_group(x, i), m)
        if ahead:
            for j in range(GROUP):
                prefetch(x, i + ahead + j * w)
        if keep:
            store(e, i, e0)
        hi, lo = accumulate(hi, lo, t0)
        smallest = min_positive(smallest, e0)
        argmaxes += n0
        i += GROUP * w
    while i < n:
        e0, t0, n0 = exp_term(load_partial(x, i, n - i, -math.inf), m)
        if keep:
            store_partial(e, i, n - i, e0)
        hi, lo = accumulate(hi, lo, t0)
        smallest = min_positive(smallest, e0)
        argmaxes += n0
        i += w
    high, low = reduce_term_sum(load_scalar(x, 0), hi, lo)
    # Missing lanes hold -inf: they are argmaxes of a row of nothing else, which has no result anyway.
    return high, low, argmaxes, reduce_min_positive(smallest)


@device_function
def row_sum(x, e, n, m, keep, ahead):
    """`segment_sum` over all tiles of a row."""
    hi, lo, argmaxes, smallest = 0.0, 0.0, 0, math.inf
    for start in range(0, n, SEGMENT):
        high, low, more, least_here = segment_sum(
            offset(x, start), offset(e, start), min_int(SEGMENT, n - start), m, keep, ahead
        )
        hi, lo = add_sums(hi, lo, high, low)
        argmaxes += more
        smallest = smaller_positive(smallest, least_here)
    return hi, lo, argmaxes, smallest


@device_function
def row_factor(x, n, m, hi, lo, argmaxes, smallest, weight_hi, weight_lo):
    """``s'``, its correction and what `factor` makes of it; of a better sum if a probability is subnormal.

    Not of narrow rows, whose ``smallest`` is inf: all exponentials are normal numbers there, and their sum has no more
    than its ordinary error.
    """
    s, s_lo = sum_excluding_max(m, hi, lo, float(argmaxes))
    f, h, g = factor(m, s, s_lo, weight_hi, weight_lo)
    if any_vanishing(m, smallest, f, g):
        hi, lo = precise_sum(x, n, m)
        s, s_lo = sum_excluding_max(m, hi, lo, float(argmaxes))
        f, h, g = factor(m, s, s_lo, weight_hi, weight_lo)
    return s, s_lo, f, h, g


@device_function
def partial_probabilities(x, e, i, n, kept, m, f, h, g):
    """The probabilities of up to a vector of classes from ``i`` on, of ``n``; from ``e`` if they were ``kept``."""
    exp = load_partial(e, i, n - i, 0.0) if kept else shifted_exp(load_partial(x, i, n - i, -math.inf), m)
    p = probability(exp, f, g)
    if any_subnormal(p):
        p = precise_probability(p, load_partial(x, i, n - i, -math.inf), m, f, h, g)
    return p


@device_function
def group_probabilities(x, e, i, kept, m, f, h, g):
    """As `partial_probabilities`, of a whole group of vectors."""
    exp = load_group(e, i) if kept else shifted_exp(load_group(x, i), m)
    p = probability(exp, f, g)
    if any_subnormal(p):
        p = precise_probability(p, load_group(x, i), m, f, h, g)
    return p


@device_function
def write_probabilities(x, e, out, n, kept, m, f, h, g, streaming):
    """``out`` = the probabilities times what is in ``f``; ``streaming`` past the caches.

    ``e`` holds the scaled exponentials if ``kept``. It may be ``out``, as may ``x``, but not both of them.
    """
    w = width(out)
    i = 0
    if streaming:
        i = min_int(elements_to_alignment(out), n)
        store_partial(out, 0, i, partial_probabilities(x, e, 0, i, kept, m, f, h, g))
        while i + GROUP * w <= n:
            stream(out, i, group_probabilities(x, e, i, kept, m, f, h, g))
            i += GROUP * w
    while i + GROUP * w <= n:
        store(out, i, group_probabilities(x, e, i, kept, m, f, h, g))
        i += GROUP * w
    while i < n:
        store_partial(out, i, n - i, partial_probabilities(x, e, i, n, kept, m, f, h, g))
        i += w


@device_function
def precise_sum(x, n, m):
    """Sum of the exponentials below the maximum, and its correction, to far less than an ulp."""
    w = width(x)
    hi, lo = accumulator(broadcast(x, 0.0))
    i = 0
    while i < n:
        e, e_lo = precise_term(load_partial(x, i, n - i, -math.inf), m)
        hi, lo = accumulate(hi, lo, e)
        hi, lo = accumulate(hi, lo, e_lo)
        i += w
    return reduce_sum(hi, lo)


@device_function
def write_log_probabilities(x, out, n, m, log, streaming):
    """``out = (x - m) - L``."""
    w = width(out)
    i = 0
    if streaming:
        i = min_int(elements_to_alignment(out), n)
        store_partial(out, 0, i, log_probability(load_partial(x, 0, i, 0.0), m, log))
        while i + w <= n:
            stream(out, i, log_probability(load(x, i), m, log))
            i += w
    while i + w <= n:
        store(out, i, log_probability(load(x, i), m, log))
        i += w
    if i < n:
        store_partial(out, i, n - i, log_probability(load_partial(x, i, n - i, 0.0), m, log))


@device_function
def fill(out, n, value):
    """``out[:n] = value``."""
    w = width(out)
    v = broadcast(out, value)
    i = 0
    while i < n:
        store_partial(out, i, n - i, v)
        i += w


@device_function
def prefetch_distance(k, itemsize):
    """How far ahead of the exponentials to prefetch: the next row, unless rows are too short to matter."""
    return k if k * itemsize >= AHEAD_BYTES else 0


@device_function
def row_sum_excluding_max(x, n, ahead, precise):
    """The maximum of a row, what `sum_excluding_max` gives, and the sum that it was given.

    ``precise`` as for `narrow_segment_sum`: a maximum and a logarithm that cancel need every digit of it.
    """
    m, low = row_extrema(x, n)
    if is_narrow(m, low):
        hi, lo, argmaxes, _ = narrow_row_sum(x, x, n, m, max_dominates(m, low), False, ahead, x, m, 0, 0, precise)
    else:
        hi, lo, argmaxes, _ = row_sum(x, x, n, m, False, ahead)
    s, s_lo = sum_excluding_max(m, hi, lo, float(argmaxes))
    return m, s, s_lo, hi


@device_function
def log_softmax_kernel(x, out, first, last, streaming):
    """`RowBackend.log_softmax` of the rows ``first <= i < last``."""
    k = x.shape[1]
    ahead = prefetch_distance(k, x.itemsize)
    for i in range(first, last):
        xi, oi = offset(address(x), i * k), offset(address(out), i * k)
        m, s, s_lo, _ = row_sum_excluding_max(xi, k, ahead, False)
        write_log_probabilities(xi, oi, k, m, log_sum(m, s, s_lo), streaming)
    if streaming:
        fence()


@device_function
def logsumexp_kernel(x, out, first, last, streaming):
    """`RowBackend.logsumexp` of the rows ``first <= i < last``."""
    k = x.shape[1]
    ahead = prefetch_distance(k, x.itemsize)
    for i in range(first, last):
        m, s, s_lo, total = row_sum_excluding_max(offset(address(x), i * k), k, ahead, True)
        store_scalar(address(out), i, logsumexp(m, s, s_lo, total))


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
