"""Kernels for long rows: one row at a time, its classes along the lanes.

Three passes over a row: the maximum; the exponentials and their sum; the results. A row that fits the
caches is read from memory once. Sums are taken tile by tile, and every tile in groups of four vectors, so
their order depends on the length of a row and its dtype only.
"""

# mypy: allow-untyped-decorators, allow-untyped-defs, allow-untyped-calls
from __future__ import annotations

import math

import numpy as np

from softbench_backends.numba.blocks import (
    accumulate,
    accumulator,
    any_subnormal,
    below,
    factor,
    first_match,
    fold,
    fold_terms,
    index_loss,
    is_near,
    is_ordered,
    join,
    label_entry,
    larger,
    largest,
    least,
    least_of,
    least_start,
    lesser,
    log_probability,
    log_sum,
    logsumexp,
    nan_seen,
    near_exp,
    near_factor,
    ordered_exp,
    others,
    precise_probability,
    precise_term,
    probability,
    quotient,
    rounded,
    scaled_sum,
    shifted_exp,
    smaller,
    smaller_positive,
    smallest,
    term,
    times,
    vanishes,
)
from softbench_backends.numba.jit import part
from softbench_backends.numba.lanes import GROUP, VECTOR_BYTES
from softbench_backends.numba.limits import AHEAD_BYTES, EARLY_BYTES, KEEP_BYTES, TILE
from softbench_backends.numba.memory import (
    address,
    allocate,
    fence,
    get,
    load,
    load_first,
    load_group,
    misaligned,
    offset,
    prefetch,
    put,
    release,
    same_address,
    scratch,
    spread,
    store,
    store_first,
    stream,
    width,
)

NOTES = VECTOR_BYTES // 8
"""Rows whose losses and entries at labels are computed together: a vector of float64."""


@part
def row_extrema(x, n):
    """Maximum and minimum of ``x[:n]``, passing over NaN."""
    w = width(x)
    a = b = c = d = spread(x, -math.inf)
    low0 = low1 = low2 = low3 = spread(x, math.inf)
    i = 0
    while i + 4 * w <= n:
        v0, v1, v2, v3 = load(x, i), load(x, i + w), load(x, i + 2 * w), load(x, i + 3 * w)
        a, b, c, d = larger(a, v0), larger(b, v1), larger(c, v2), larger(d, v3)
        low0, low1, low2, low3 = smaller(low0, v0), smaller(low1, v1), smaller(low2, v2), smaller(low3, v3)
        i += 4 * w
    while i < n:
        v = load_first(x, i, n - i, get(x, 0))
        a, low0 = larger(a, v), smaller(low0, v)
        i += w
    return largest(larger(larger(a, b), larger(c, d))), smallest(smaller(smaller(low0, low1), smaller(low2, low3)))


@part
def near_tile_sum(x, e, n, m, ordered, keep, ahead, behind, f_behind, j, rest):
    """`tile_sum` of a row that `is_near`, and maybe `is_ordered`: the results are the same, but ``e`` is not scaled.

    What ``e`` held before are the exponentials of the row behind. Its results are written meanwhile, ``behind[j:rest] =
    e f_behind``, a group for a group, so that memory is busy while the cores are. ``j`` keeps ahead of what is
    overwritten; the last result is the new ``j``. ``j`` to ``rest`` are whole groups, no more of them than the row has.
    """
    w = width(x)
    hi, lo = accumulator(spread(x, 0.0))
    argmaxes = 0
    i = 0
    while i + GROUP * w <= n:
        v = load_group(x, i)
        e0 = ordered_exp(v, m) if ordered else near_exp(v, m)
        if ahead:
            for p in range(GROUP):
                prefetch(x, i + ahead + p * w)
        if j < rest:
            stream(behind, j, times(load_group(e, j), f_behind))
            j += GROUP * w
        if keep:
            store(e, i, e0)
        e0, n0 = below(e0, v, m)
        argmaxes += n0
        hi, lo = accumulate(hi, lo, e0)
        i += GROUP * w
    while i < n:
        v = load_first(x, i, n - i, m)
        e0 = near_exp(v, m)
        if keep:
            store_first(e, i, n - i, e0)
        e0, n0 = below(e0, v, m)
        argmaxes += n0
        hi, lo = accumulate(hi, lo, e0)
        i += w
    high, low = fold_terms(get(x, 0), hi, lo)
    high, low = scaled_sum(m, high, low)
    return high, low, argmaxes - (i - n), j


@part
def near_row_sum(x, e, n, m, ordered, keep, ahead, behind, f_behind, j, rest):
    """`near_tile_sum` over all tiles of a row."""
    hi, lo, argmaxes = 0.0, 0.0, 0
    for start in range(0, n, TILE):
        high, low, more, j = near_tile_sum(
            offset(x, start), offset(e, start), lesser(TILE, n - start), m, ordered, keep, ahead,
            offset(behind, start), f_behind, j - start, rest - start,
        )  # fmt: skip
        j += start
        hi, lo = join(hi, lo, high, low)
        argmaxes += more
    return hi, lo, argmaxes, j


@part
def near_write(x, e, out, n, kept, m, f, streaming):
    """``out[:n] = e f``; ``e`` is read if it was ``kept``; ``streaming`` past the caches."""
    w = width(out)
    j = 0
    if streaming:
        j = lesser(misaligned(out), n)
        v = load_first(e, 0, j, m) if kept else near_exp(load_first(x, 0, j, m), m)
        store_first(out, 0, j, times(v, f))
    while j + GROUP * w <= n:
        v = times(load_group(e, j) if kept else near_exp(load_group(x, j), m), f)
        if streaming:
            stream(out, j, v)
        else:
            store(out, j, v)
        j += GROUP * w
    while j < n:
        v = load_first(e, j, n - j, m) if kept else near_exp(load_first(x, j, n - j, m), m)
        store_first(out, j, n - j, times(v, f))
        j += w


@part
def leave_behind(e, out, n, f):
    """Write the ends of ``out[:n] = e f``; what lies between, ``j`` to ``rest``, are whole groups on cache lines."""
    w = width(out)
    j = lesser(misaligned(out), n)
    rest = n - (n - j) % (GROUP * w)
    store_first(out, 0, j, times(load_first(e, 0, j, 0.0), f))
    for i in range(rest, n, w):
        store_first(out, i, n - i, times(load_first(e, i, n - i, 0.0), f))
    return j, rest


@part
def finish(e, out, f, j, rest):
    """What is left to write of a row behind: ``out[j:rest] = e f``."""
    while j < rest:
        stream(out, j, times(load_group(e, j), f))
        j += GROUP * width(out)


@part
def row_max_or_nan(x, n):
    """Maximum of ``x[:n]``, NaN if one is there."""
    w = width(x)
    best, seen = spread(x, -math.inf), spread(x, 0.0)
    i = 0
    while i < n:
        v = load_first(x, i, n - i, -math.inf)
        best, seen = larger(best, v), nan_seen(seen, v)
        i += w
    return math.nan if first_match(seen, math.nan) < w else float(largest(best))


@part
def tile_sum(x, e, n, m, keep, ahead):
    """Sum of the exponentials below the maximum ``m``, its correction, number of argmaxes, smallest exponential but 0.

    The scaled exponentials go to ``e`` if ``keep`` is set. ``x + ahead`` is prefetched,
    unless that is 0.
    """
    w = width(x)
    hi, lo = accumulator(spread(x, 0.0))
    smallest = least_start(spread(x, 0.0))
    argmaxes = 0
    i = 0
    while i + GROUP * w <= n:
        e0, t0, n0 = term(load_group(x, i), m)
        if ahead:
            for j in range(GROUP):
                prefetch(x, i + ahead + j * w)
        if keep:
            store(e, i, e0)
        hi, lo = accumulate(hi, lo, t0)
        smallest = least(smallest, e0)
        argmaxes += n0
        i += GROUP * w
    while i < n:
        e0, t0, n0 = term(load_first(x, i, n - i, -math.inf), m)
        if keep:
            store_first(e, i, n - i, e0)
        hi, lo = accumulate(hi, lo, t0)
        smallest = least(smallest, e0)
        argmaxes += n0
        i += w
    high, low = fold_terms(get(x, 0), hi, lo)
    # Missing lanes hold -inf: they are argmaxes of a row of nothing else, which has no result anyway.
    return high, low, argmaxes, least_of(smallest)


@part
def row_sum(x, e, n, m, keep, ahead):
    """`tile_sum` over all tiles of a row."""
    hi, lo, argmaxes, smallest = 0.0, 0.0, 0, math.inf
    for start in range(0, n, TILE):
        high, low, more, least_here = tile_sum(
            offset(x, start), offset(e, start), lesser(TILE, n - start), m, keep, ahead
        )
        hi, lo = join(hi, lo, high, low)
        argmaxes += more
        smallest = smaller_positive(smallest, least_here)
    return hi, lo, argmaxes, smallest


@part
def row_factor(x, n, m, hi, lo, argmaxes, smallest, share, less):
    """``s'``, its correction and what `factor` makes of it; of a better sum if a probability is subnormal.

    Not of near rows, whose ``smallest`` is inf: all exponentials are normal numbers there, and their sum has no more
    than its ordinary error.
    """
    s, rest = others(m, hi, lo, float(argmaxes))
    f, h, g = factor(m, s, rest, share, less)
    if vanishes(m, smallest, f, g):
        hi, lo = precise_sum(x, n, m)
        s, rest = others(m, hi, lo, float(argmaxes))
        f, h, g = factor(m, s, rest, share, less)
    return s, rest, f, h, g


@part
def some_probabilities(x, e, i, n, kept, m, f, h, g):
    """The probabilities of up to a vector of classes from ``i`` on, of ``n``; from ``e`` if they were ``kept``."""
    exp = load_first(e, i, n - i, 0.0) if kept else shifted_exp(load_first(x, i, n - i, -math.inf), m)
    p = probability(exp, f, g)
    if any_subnormal(p):
        p = precise_probability(p, load_first(x, i, n - i, -math.inf), m, f, h, g)
    return p


@part
def group_probabilities(x, e, i, kept, m, f, h, g):
    """As `some_probabilities`, of a whole group of vectors."""
    exp = load_group(e, i) if kept else shifted_exp(load_group(x, i), m)
    p = probability(exp, f, g)
    if any_subnormal(p):
        p = precise_probability(p, load_group(x, i), m, f, h, g)
    return p


@part
def write_probabilities(x, e, out, n, kept, m, f, h, g, streaming):
    """``out`` = the probabilities times what is in ``f``; ``streaming`` past the caches.

    ``e`` holds the scaled exponentials if ``kept``. It may be ``out``, as may ``x``, but not both of them.
    """
    w = width(out)
    i = 0
    if streaming:
        i = lesser(misaligned(out), n)
        store_first(out, 0, i, some_probabilities(x, e, 0, i, kept, m, f, h, g))
        while i + GROUP * w <= n:
            stream(out, i, group_probabilities(x, e, i, kept, m, f, h, g))
            i += GROUP * w
    while i + GROUP * w <= n:
        store(out, i, group_probabilities(x, e, i, kept, m, f, h, g))
        i += GROUP * w
    while i < n:
        store_first(out, i, n - i, some_probabilities(x, e, i, n, kept, m, f, h, g))
        i += w


@part
def precise_sum(x, n, m):
    """Sum of the exponentials below the maximum, and its correction, to far less than an ulp."""
    w = width(x)
    hi, lo = accumulator(spread(x, 0.0))
    i = 0
    while i < n:
        e, less = precise_term(load_first(x, i, n - i, -math.inf), m)
        hi, lo = accumulate(hi, lo, e)
        hi, lo = accumulate(hi, lo, less)
        i += w
    return fold(hi, lo)


@part
def write_log_probabilities(x, out, n, m, log, streaming):
    """``out = (x - m) - L``."""
    w = width(out)
    i = 0
    if streaming:
        i = lesser(misaligned(out), n)
        store_first(out, 0, i, log_probability(load_first(x, 0, i, 0.0), m, log))
        while i + w <= n:
            stream(out, i, log_probability(load(x, i), m, log))
            i += w
    while i + w <= n:
        store(out, i, log_probability(load(x, i), m, log))
        i += w
    if i < n:
        store_first(out, i, n - i, log_probability(load_first(x, i, n - i, 0.0), m, log))


@part
def fill(out, n, value):
    """``out[:n] = value``."""
    w = width(out)
    v = spread(out, value)
    i = 0
    while i < n:
        store_first(out, i, n - i, v)
        i += w


@part
def prefetched_ahead(k, itemsize):
    """How far ahead of the exponentials to prefetch: the next row, unless rows are too short to matter."""
    return k if k * itemsize >= AHEAD_BYTES else 0


@part
def row_others(x, n, ahead):
    """The maximum of a row, what `others` gives, and the sum that it was given."""
    m, low = row_extrema(x, n)
    if is_near(m, low):
        hi, lo, argmaxes, _ = near_row_sum(x, x, n, m, is_ordered(m, low), False, ahead, x, m, 0, 0)
    else:
        hi, lo, argmaxes, _ = row_sum(x, x, n, m, False, ahead)
    s, rest = others(m, hi, lo, float(argmaxes))
    return m, s, rest, hi


@part
def log_softmax_rows(x, out, first, last, streaming):
    """`RowBackend.log_softmax` of the rows ``first <= i < last``."""
    k = x.shape[1]
    ahead = prefetched_ahead(k, x.itemsize)
    for i in range(first, last):
        xi, oi = offset(address(x), i * k), offset(address(out), i * k)
        m, s, rest, _ = row_others(xi, k, ahead)
        write_log_probabilities(xi, oi, k, m, log_sum(m, s, rest), streaming)
    if streaming:
        fence()


@part
def logsumexp_rows(x, out, first, last, streaming):
    """`RowBackend.logsumexp` of the rows ``first <= i < last``."""
    k = x.shape[1]
    ahead = prefetched_ahead(k, x.itemsize)
    for i in range(first, last):
        m, s, rest, total = row_others(offset(address(x), i * k), k, ahead)
        put(address(out), i, logsumexp(m, s, rest, total))


@part
def argmax_rows(x, out, first, last, streaming):
    """`RowBackend.argmax` of the rows ``first <= i < last``."""
    k = x.shape[1]
    w = width(address(x))
    for i in range(first, last):
        xi = offset(address(x), i * k)
        m = row_max_or_nan(xi, k)
        j = 0
        found = first_match(load_first(xi, 0, k, -math.inf), m)
        while found == w:
            j += w
            found = first_match(load_first(xi, j, k - j, -math.inf), m)
        put(address(out), i, j + found)


@part
def row_weight(i, y, sample_weight, class_weight):
    """``s_i w_y``; a weight that is absent (an empty array) is 1."""
    weight = 1.0
    if sample_weight.size:
        weight = sample_weight[i]
    if class_weight.size:
        weight *= class_weight[y]
    return weight


@part
def skip(y, loss, i, out, k, gradient):
    """Loss, and gradient if it is asked for, of a row whose label is no class: 0 where ignored (-1), else NaN."""
    loss[i] = 0.0 if y == -1 else math.nan
    if gradient:
        fill(out, k, loss[i])


@part
def note(p, i, m, s, rest, at_label, weight, share, less, row):
    """Remember of a row what `settle_labels` needs, as the ``i``-th in ``p``."""
    w = width(p)
    put(p, i, m)
    put(p, i + w, s)
    put(p, i + 2 * w, rest)
    put(p, i + 3 * w, at_label)
    put(p, i + 4 * w, weight)
    put(p, i + 5 * w, share)
    put(p, i + 6 * w, less)
    put(p, i + 7 * w, float(row))


@part
def settle_labels(p, n, x, labels, loss, out, gradient):
    """Loss, and the gradient's entry at the label, of the ``n`` rows noted in ``p``: a logarithm, an exponential and
    divisions one after the other, of many rows at once."""
    k = x.shape[1]
    w = width(p)
    m, at_label = rounded(get(address(x), 0), load(p, 0)), rounded(get(address(x), 0), load(p, 3 * w))
    s, rest, weight, share, less = load(p, w), load(p, 2 * w), load(p, 4 * w), load(p, 5 * w), load(p, 6 * w)
    results = offset(p, 8 * w)
    store(results, 0, index_loss(m, s, log_sum(m, s, rest), at_label, weight))
    for i in range(n):
        loss[np.int64(get(p, i + 7 * w))] = get(results, i)
    if gradient:
        f, h, g = factor(m, s, rest, share, less)
        store(results, 0, label_entry(m, s, rest, at_label, f, h, g, share))
        for i in range(n):
            row = np.int64(get(p, i + 7 * w))
            put(address(out), row * k + labels[row], get(results, i))


def _row_kernel(labelled):
    """The kernel of `softmax_rows` and, ``labelled``, of `index_rows`: one text; each compiles what it needs of it."""

    def kernel(
        x, q, labels, sample_weight, class_weight, loss, out, smoothing, divisor, gradient, first, last, streaming
    ):
        k = x.shape[1]
        keep = gradient and k * x.itemsize <= KEEP_BYTES
        apart = streaming or same_address(address(x), address(out))
        buffer = allocate(address(x), k if apart and keep else 0)
        ahead = prefetched_ahead(k, x.itemsize)
        weighted = sample_weight.size + class_weight.size > 0
        share, more = quotient(1.0, 0.0, divisor, 0.0)
        notes, noted = scratch(address(loss), 9), 0
        # The row behind: its results, whose exponentials are in the buffer, their factor, and which are left to write.
        behind, f_behind, j, rest = address(out), get(address(x), 0), 0, 0
        # The row whose extrema are known. The operations one after the other between a row's sum and its factor, and
        # between its extrema and its first exponential, leave a core idle that has no other row to work on.
        early, known = k * x.itemsize <= EARLY_BYTES, first - 1
        m_next, low_next = f_behind, f_behind
        for i in range(first, last):
            xi, oi = offset(address(x), i * k), offset(address(out), i * k)
            y, weight, at_label = -1, 1.0, get(xi, 0)
            if labelled:
                y = labels[i]
                if y < 0 or y >= k:
                    skip(y, loss, i, oi, k, gradient)
                    continue
                at_label = get(xi, y)
                if weighted:
                    weight = row_weight(i, y, sample_weight, class_weight)
                    share, more = quotient(weight, 0.0, divisor, 0.0)
            e = buffer if apart else oi
            m, low = m_next, low_next
            if known != i:
                m, low = row_extrema(xi, k)
            near, ordered = is_near(m, low), is_ordered(m, low)
            if near:
                hi, lo, argmaxes, j = near_row_sum(xi, e, k, m, ordered, keep, ahead, behind, f_behind, j, rest)
            finish(e, behind, f_behind, j, rest)
            j, rest = 0, 0
            if labelled and noted == NOTES:
                settle_labels(notes, noted, x, labels, loss, out, gradient)
                noted = 0
            tiniest = math.inf
            if not near:
                hi, lo, argmaxes, tiniest = row_sum(xi, e, k, m, keep, ahead)
            s, less = others(m, hi, lo, float(argmaxes))
            whole, normal = near_factor(m, s, less, share, more)
            if early and i + 1 < last:
                m_next, low_next = row_extrema(offset(xi, k), k)
                known = i + 1
            if near and (normal or not gradient):
                if labelled:
                    note(notes, noted, m, s, less, at_label, weight, share, more, i)
                    noted += 1
                if not gradient:
                    continue
                if streaming and keep:
                    j, rest = leave_behind(e, oi, k, whole)
                    behind, f_behind = oi, whole
                else:
                    near_write(xi, e, oi, k, keep, m, whole, streaming)
                continue
            if labelled:
                loss[i] = index_loss(m, s, log_sum(m, s, less), at_label, weight)
            if gradient:
                s, less, f, h, g = row_factor(xi, k, m, hi, lo, argmaxes, tiniest, share, more)
                write_probabilities(xi, e, oi, k, keep and not near, m, f, h, g, streaming)
                if labelled:
                    put(oi, y, label_entry(m, s, less, at_label, f, h, g, share))
        finish(buffer, behind, f_behind, j, rest)
        release(buffer)
        if labelled:
            settle_labels(notes, noted, x, labels, loss, out, gradient)
        if streaming:
            fence()

    return part(kernel, "index_rows" if labelled else "unlabelled_rows")


index_rows = _row_kernel(True)
"""`RowBackend.loss_and_gradient` for labels without smoothing; ``out`` is written if ``gradient`` is set."""

_softmax_rows = _row_kernel(False)


@part
def softmax_rows(x, out, first, last, streaming):
    """`RowBackend.softmax` of the rows ``first <= i < last``."""
    # x stands in for targets, weights and losses, which are not looked at.
    _softmax_rows(x, x, x, x, x, x, out, 0.0, 1.0, True, first, last, streaming)
