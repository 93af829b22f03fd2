"""What kernels for long rows are made of: extrema, sums and results of one row, vector by vector."""

# mypy: allow-untyped-decorators, allow-untyped-defs, allow-untyped-calls
from __future__ import annotations

import math

from softbench_backends.numba.compiling import device_function
from softbench_backends.numba.intrinsics import (
    accumulate,
    accumulator,
    add_sums,
    any_subnormal,
    any_vanishing,
    coarse_exp,
    coarse_log_probability,
    dominated_exp,
    exp_term,
    factor,
    fmax,
    fmin,
    is_narrow,
    log_probability,
    max_dominates,
    min_int,
    min_positive,
    min_positive_start,
    narrow_exp,
    narrow_log_probability,
    precise_probability,
    precise_term,
    probability,
    reduce_fmax,
    reduce_fmin,
    reduce_min_positive,
    reduce_sum,
    reduce_term_sum,
    scaled_sum,
    shifted_exp,
    smaller_positive,
    sum_excluding_max,
    times,
    without_argmaxes,
)
from softbench_backends.numba.lanes import GROUP
from softbench_backends.numba.memory import (
    broadcast,
    elements_to_alignment,
    holds_computed,
    itemsize,
    load,
    load_group,
    load_partial,
    load_scalar,
    offset,
    prefetch,
    store,
    store_normal,
    store_partial,
    stream,
    stream_normal,
    width,
)
from softbench_backends.numba.vector_types import VECTOR_BYTES

SEGMENT = 16384
"""Classes that are summed together; also the unit in which a row is shared out to threads (`split_rows`)."""

AHEAD_BYTES = 1 << 11
"""From this size on, the next row is prefetched."""


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
            for p in range(0, GROUP * w, VECTOR_BYTES // itemsize(x)):  # a line each
                prefetch(x, i + ahead + p)
        if j < rest:
            stream_normal(pending, j, times(load_group(e, j), pending_f))
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
            stream_normal(out, j, v)
        else:
            store_normal(out, j, v)
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
        stream_normal(out, j, times(load_group(e, j), f))
        j += GROUP * width(out)


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
            for j in range(0, GROUP * w, VECTOR_BYTES // itemsize(x)):
                prefetch(x, i + ahead + j)
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
def plain_log_probability(x, v, m, log, narrow):
    """Logarithms of probabilities of ``v``, of a row of ``x``, as results of the type of ``x`` need them."""
    if not holds_computed(x):
        return coarse_log_probability(v, m, log)
    return narrow_log_probability(v, m, log) if narrow else log_probability(v, m, log)


@device_function
def write_log_probabilities(x, out, n, m, log, narrow, streaming):
    """``out = (x - m) - L``, where no difference overflows and no result is subnormal if the row is ``narrow``."""
    w = width(out)
    i = 0
    if streaming:
        i = min_int(elements_to_alignment(out), n)
        store_partial(out, 0, i, plain_log_probability(x, load_partial(x, 0, i, 0.0), m, log, narrow))
    while i + GROUP * w <= n:
        v = plain_log_probability(x, load_group(x, i), m, log, narrow)
        if streaming and narrow:
            stream_normal(out, i, v)
        elif streaming:
            stream(out, i, v)
        elif narrow:
            store_normal(out, i, v)
        else:
            store(out, i, v)
        i += GROUP * w
    while i < n:
        store_partial(out, i, n - i, plain_log_probability(x, load_partial(x, i, n - i, 0.0), m, log, narrow))
        i += w


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
    """The maximum of a row, what `sum_excluding_max` gives, the sum that it was given, and whether it `is_narrow`.

    ``precise`` as for `narrow_segment_sum`: a maximum and a logarithm that cancel need every digit of it.
    """
    m, low = row_extrema(x, n)
    narrow = is_narrow(m, low)
    if narrow:
        hi, lo, argmaxes, _ = narrow_row_sum(x, x, n, m, max_dominates(m, low), False, ahead, x, m, 0, 0, precise)
    else:
        hi, lo, argmaxes, _ = row_sum(x, x, n, m, False, ahead)
    s, s_lo = sum_excluding_max(m, hi, lo, float(argmaxes))
    return m, s, s_lo, hi, narrow
