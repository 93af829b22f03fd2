"""Kernels for short rows: as many rows at a time as a vector has lanes, each row in a lane of its own.

A row of a few classes would leave most lanes of a vector idle and cost a logarithm and a division by
itself. Here groups of rows are transposed in registers, so that vector ``c`` holds class ``c`` of every row
of the group, and everything, the label's entry and the loss included, is done on whole vectors.
"""

# mypy: allow-untyped-decorators, allow-untyped-defs, allow-untyped-calls
from __future__ import annotations

import math

from softbench_backends.numba.blocks import (
    accumulate,
    accumulator,
    any_subnormal,
    column_term,
    every,
    factor,
    index_loss,
    is_near,
    label_entry,
    larger,
    leading,
    least,
    least_lanes,
    least_start,
    log_probability,
    log_sum,
    logsumexp,
    near_column_term,
    near_factor,
    only_labelled,
    others,
    pick,
    precise_probability,
    precise_term,
    probability,
    quotient,
    refined,
    scaled_sum,
    settle,
    shifted_exp,
    smaller,
    soft_gradient,
    soft_label_entry,
    soft_loss,
    soft_sums,
    soft_term,
    times,
    vanishes,
)
from softbench_backends.numba.jit import part
from softbench_backends.numba.limits import SHORT
from softbench_backends.numba.memory import (
    address,
    load,
    load_rows,
    offset,
    put,
    scratch,
    spread,
    store,
    store_first,
    width,
)
from softbench_backends.numba.rows import row_weight
from softbench_backends.numba.soft_rows import smoothed
from softbench_backends.numba.transposition import collect, columns_to_rows, deal, rows_to_columns

MOST_CLASSES = max(SHORT.values())  # what the scratch tiles hold


@part
def enter(x, rows, k, tile):
    """``rows`` rows of ``k`` elements from ``x`` into the columns of ``tile``."""
    w = width(x)
    if rows == w and 2 <= k <= 4:
        if k == 2:
            deal(x, 2, tile)
        elif k == 3:
            deal(x, 3, tile)
        else:
            deal(x, 4, tile)
        return
    for c in range(0, k, w):
        rows_to_columns(offset(x, c), k, rows, min(w, k - c), offset(tile, c * w))


@part
def leave(tile, out, rows, k):
    """The inverse of `enter`."""
    w = width(out)
    if rows == w and 2 <= k <= 4:
        if k == 2:
            collect(tile, 2, out)
        elif k == 3:
            collect(tile, 3, out)
        else:
            collect(tile, 4, out)
        return
    for c in range(0, k, w):
        columns_to_rows(offset(tile, c * w), offset(out, c), k, rows, min(w, k - c))


@part
def column_max(tile, k):
    """Maximum of every row, passing over NaN."""
    w = width(tile)
    m = larger(spread(tile, -math.inf), load(tile, 0))
    for c in range(1, k):
        m = larger(m, load(tile, c * w))
    return m


@part
def column_min(tile, k):
    """Minimum of every row, passing over NaN."""
    w = width(tile)
    low = smaller(spread(tile, math.inf), load(tile, 0))
    for c in range(1, k):
        low = smaller(low, load(tile, c * w))
    return low


@part
def column_sum(tile, e, k, m):
    """The scaled exponentials to ``e``; per row what `rows.tile_sum` gives."""
    w = width(tile)
    hi, lo = accumulator(m)
    argmaxes = spread(tile, 0.0)
    smallest = least_start(m)
    for c in range(k):
        exp, below, argmaxes = column_term(load(tile, c * w), m, argmaxes)
        store(e, c * w, exp)
        hi, lo = accumulate(hi, lo, below)
        smallest = least(smallest, exp)
    return hi, lo, argmaxes, smallest


@part
def column_statistics(tile, e, k):
    """Maxima; whether all rows are near (`rows.near_tile_sum`); what `column_sum` gives, ``e`` not scaled if near."""
    w = width(tile)
    m = column_max(tile, k)
    near = every(is_near(m, column_min(tile, k)))
    if not near:
        return m, near, *column_sum(tile, e, k, m)
    hi, lo = accumulator(m)
    argmaxes = spread(tile, 0.0)
    for c in range(k):
        exp, below, argmaxes = near_column_term(load(tile, c * w), m, argmaxes)
        store(e, c * w, exp)
        hi, lo = accumulate(hi, lo, below)
    return m, near, *scaled_sum(m, hi, lo), argmaxes, least_start(m)


@part
def column_factor(tile, k, m, hi, lo, argmaxes, smallest, share, less):
    """`rows.row_factor`, row by row in the lanes."""
    s, rest = others(m, hi, lo, argmaxes)
    f, h, g = factor(m, s, rest, share, less)
    e = least_lanes(smallest)
    if vanishes(m, e, f, g):
        better, remainder = column_precise_sum(tile, k, m)
        hi, lo = refined(m, e, f, g, hi, lo, better, remainder)
        s, rest = others(m, hi, lo, argmaxes)
        f, h, g = factor(m, s, rest, share, less)
    return s, rest, f, h, g


@part
def column_probability(tile, e, c, m, f, h, g):
    """Probabilities of class ``c``, times what is in ``f``."""
    at = c * width(tile)
    p = probability(load(e, at), f, g)
    if any_subnormal(p):
        p = precise_probability(p, load(tile, at), m, f, h, g)
    return p


@part
def column_precise_sum(tile, k, m):
    """`column_sum` to far less than an ulp."""
    w = width(tile)
    hi, lo = accumulator(m)
    for c in range(k):
        e, less = precise_term(load(tile, c * w), m)
        hi, lo = accumulate(hi, lo, e)
        hi, lo = accumulate(hi, lo, less)
    return hi, lo


# -- what is done to rows whose classes are in the vectors of a tile; results go to ``e`` in the same form --


@part
def tile_softmax(tile, e, k):
    """Probabilities."""
    w = width(tile)
    m, near, hi, lo, argmaxes, smallest = column_statistics(tile, e, k)
    if near:
        s, rest = others(m, hi, lo, argmaxes)
        whole, normal = near_factor(m, s, rest, 1.0, 0.0)
        if every(normal):
            for c in range(k):
                store(e, c * w, times(load(e, c * w), whole))
            return
        hi, lo, argmaxes, smallest = column_sum(tile, e, k, m)
    _, _, f, h, g = column_factor(tile, k, m, hi, lo, argmaxes, smallest, 1.0, 0.0)
    for c in range(k):
        store(e, c * w, column_probability(tile, e, c, m, f, h, g))


@part
def tile_log_softmax(tile, e, k):
    """Logarithms of probabilities."""
    w = width(tile)
    m, _, hi, lo, argmaxes, _ = column_statistics(tile, e, k)
    s, lo = others(m, hi, lo, argmaxes)
    log = log_sum(m, s, lo)
    for c in range(k):
        store(e, c * w, log_probability(load(tile, c * w), m, log))


@part
def tile_index(tile, e, k, labels, weight, share, less, loss, first, rows, gradient):
    """Losses of ``rows`` rows from ``first`` on, by their labels, and gradients if asked for.

    ``weight`` of every row, and what `lane_shares` made of it.
    """
    w = width(tile)
    y = load_rows(tile, address(labels), first, rows, -1)
    at_label = load(tile, 0)
    for c in range(1, k):
        at_label = pick(at_label, load(tile, c * w), y, c)
    m, near, hi, lo, argmaxes, smallest = column_statistics(tile, e, k)
    s, rest = others(m, hi, lo, argmaxes)
    value = index_loss(m, s, log_sum(m, s, rest), at_label, weight)
    store_first(address(loss), first, rows, only_labelled(value, y, k))
    if not gradient:
        return
    if near:
        whole, normal = near_factor(m, s, rest, share, less)
        if every(normal):
            f, h, g = factor(m, s, rest, share, less)
            entry = label_entry(m, s, rest, at_label, f, h, g, share)
            # No exponential of such rows is infinite or NaN, so what is multiplied is selected once, not per class.
            whole, entry = only_labelled(whole, y, k), only_labelled(entry, y, k)
            for c in range(k):
                store(e, c * w, pick(times(load(e, c * w), whole), entry, y, c))
            return
        hi, lo, argmaxes, smallest = column_sum(tile, e, k, m)
    s, rest, f, h, g = column_factor(tile, k, m, hi, lo, argmaxes, smallest, share, less)
    entry = label_entry(m, s, rest, at_label, f, h, g, share)
    for c in range(k):
        p = column_probability(tile, e, c, m, f, h, g)
        store(e, c * w, only_labelled(pick(p, entry, y, c), y, k))


@part
def lane_shares(tile, weights, labels, sample_weight, class_weight, k, first, rows, divisor):
    """The weights of ``rows`` rows from ``first`` on, in lanes, and these over ``divisor``, with a correction.

    1 where a row has no weight. ``weights`` is room for a float64 per lane of ``tile``'s vectors.
    """
    w = width(tile)
    weighted = sample_weight.size > 0 or class_weight.size > 0
    for r in range(w):
        label = labels[first + r] if weighted and r < rows else -1
        put(weights, r, row_weight(first + r, label, sample_weight, class_weight) if 0 <= label < k else 1.0)
    weight = load_rows(tile, weights, 0, w, 1.0)
    share, less = quotient(weight, 0.0, divisor, 0.0)
    return weight, share, less


# -- the kernels ------------------------------------------------------------------------------------------------


@part
def softmax_columns(x, out, first, last, streaming):
    """`RowBackend.softmax` of the rows ``first <= i < last``."""
    k = x.shape[1]
    w = width(address(x))
    tile = scratch(address(x), MOST_CLASSES)
    e = scratch(address(x), MOST_CLASSES)
    for i in range(first, last, w):
        rows = min(w, last - i)
        enter(offset(address(x), i * k), rows, k, tile)
        tile_softmax(tile, e, k)
        leave(e, offset(address(out), i * k), rows, k)


@part
def log_softmax_columns(x, out, first, last, streaming):
    """`RowBackend.log_softmax` of the rows ``first <= i < last``."""
    k = x.shape[1]
    w = width(address(x))
    tile = scratch(address(x), MOST_CLASSES)
    e = scratch(address(x), MOST_CLASSES)
    for i in range(first, last, w):
        rows = min(w, last - i)
        enter(offset(address(x), i * k), rows, k, tile)
        tile_log_softmax(tile, e, k)
        leave(e, offset(address(out), i * k), rows, k)


@part
def logsumexp_columns(x, out, first, last, streaming):
    """`RowBackend.logsumexp` of the rows ``first <= i < last``."""
    k = x.shape[1]
    w = width(address(x))
    tile = scratch(address(x), MOST_CLASSES)
    for i in range(first, last, w):
        rows = min(w, last - i)
        enter(offset(address(x), i * k), rows, k, tile)
        m, _, hi, lo, argmaxes, _ = column_statistics(tile, tile, k)
        s, lo = others(m, hi, lo, argmaxes)
        store_first(address(out), i, rows, logsumexp(m, s, lo, hi))


@part
def argmax_columns(x, out, first, last, streaming):
    """`RowBackend.argmax` of the rows ``first <= i < last``."""
    k = x.shape[1]
    w = width(address(x))
    tile = scratch(address(x), MOST_CLASSES)
    for i in range(first, last, w):
        rows = min(w, last - i)
        enter(offset(address(x), i * k), rows, k, tile)
        best = load(tile, 0)
        at = load_rows(address(x), address(out), i, 0, 0)
        for c in range(1, k):
            best, at = leading(best, at, load(tile, c * w), c)
        store_first(address(out), i, rows, at)


@part
def index_columns(
    x, q, labels, sample_weight, class_weight, loss, out, smoothing, divisor, gradient, first, last, streaming
):
    """`RowBackend.loss_and_gradient` for labels without smoothing; ``out`` is written if ``gradient`` is set."""
    k = x.shape[1]
    xp = address(x)
    w = width(xp)
    tile = scratch(xp, MOST_CLASSES)
    e = scratch(xp, MOST_CLASSES)
    weights = scratch(address(loss), 2)
    weighted = sample_weight.size > 0 or class_weight.size > 0
    weight, share, less = lane_shares(tile, weights, labels, sample_weight, class_weight, k, 0, 0, divisor)
    for i in range(first, last, w):
        rows = min(w, last - i)
        enter(offset(xp, i * k), rows, k, tile)
        if weighted:
            weight, share, less = lane_shares(tile, weights, labels, sample_weight, class_weight, k, i, rows, divisor)
        tile_index(tile, e, k, labels, weight, share, less, loss, i, rows, gradient)
        if gradient:
            leave(e, offset(address(out), i * k), rows, k)


@part
def soft_columns(
    x, q, labels, sample_weight, class_weight, loss, out, smoothing, divisor, gradient, first, last, streaming
):
    """`RowBackend.loss_and_gradient` for soft targets or smoothed labels: see `soft_rows.soft_rows`."""
    k = x.shape[1]
    xp, lp = address(x), address(loss)
    w = width(xp)
    tile = scratch(xp, MOST_CLASSES)
    targets = scratch(xp, MOST_CLASSES)
    e = scratch(xp, MOST_CLASSES)
    of_alls, of_alls_low, of_labels, of_labels_low = scratch(lp, 2), scratch(lp, 2), scratch(lp, 2), scratch(lp, 2)
    for r in range(w):
        put(of_alls, r, 1.0)
        put(of_alls_low, r, 0.0)
        put(of_labels, r, 0.0)
        put(of_labels_low, r, 0.0)
    if labels.size:
        for c in range(k):
            store(targets, c * w, spread(xp, q[0, c]))
    for i in range(first, last, w):
        rows = min(w, last - i)
        enter(offset(xp, i * k), rows, k, tile)
        y = load_rows(xp, address(labels), i, rows if labels.size else 0, 0)
        if labels.size:
            for r in range(rows):
                label = labels[i + r]
                if 0 <= label < k:
                    high, low, h, less = smoothed(i + r, label, k, smoothing, sample_weight, class_weight)
                    put(of_alls, r, high)
                    put(of_alls_low, r, low)
                    put(of_labels, r, h)
                    put(of_labels_low, r, less)
        else:
            enter(offset(address(q), i * k), rows, k, targets)
        of_all, of_all_low = load_rows(xp, of_alls, 0, w, 0.0), load_rows(xp, of_alls_low, 0, w, 0.0)
        of_label, of_label_low = load_rows(xp, of_labels, 0, w, 0.0), load_rows(xp, of_labels_low, 0, w, 0.0)
        m = column_max(tile, k)
        at_label, q_label = load(tile, 0), load(targets, 0)
        mass_hi, mass_lo = accumulator(m)
        cost_hi, cost_lo = accumulator(m)
        for c in range(k):
            v, p = load(tile, c * w), load(targets, c * w)
            at_label, q_label = pick(at_label, v, y, c), pick(q_label, p, y, c)
            mass_hi, mass_lo = accumulate(mass_hi, mass_lo, p)
            cost_hi, cost_lo = accumulate(cost_hi, cost_lo, soft_term(v, m, p))
        hi, lo, argmaxes, _ = column_sum(tile, e, k, m)
        s, lo = others(m, hi, lo, argmaxes)
        mass, cost = soft_sums(settle(mass_hi, mass_lo), settle(cost_hi, cost_lo), of_all, of_label, m, at_label)
        store_first(lp, i, rows, only_labelled(soft_loss(m, s, lo, mass, cost), y, k))
        if gradient:
            share, less = quotient(mass, 0.0, divisor, 0.0)
            f, _, g = factor(m, s, lo, share, less)
            high, low = quotient(of_all, of_all_low, divisor, 0.0)
            h, less = quotient(of_label, of_label_low, divisor, 0.0)
            entry = soft_label_entry(shifted_exp(at_label, m), f, g, q_label, high, low, h, less)
            for c in range(k):
                value = soft_gradient(load(e, c * w), f, g, load(targets, c * w), high, low)
                if labels.size:
                    value = pick(value, entry, y, c)
                store(e, c * w, only_labelled(value, y, k))
            leave(e, offset(address(out), i * k), rows, k)
