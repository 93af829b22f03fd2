"""What kernels for short rows are made of: as many rows as a vector has lanes, a vector for each class.

A *tile* is such a group of rows in memory: its classes one after the other, a lane for each row.
"""

# mypy: allow-untyped-decorators, allow-untyped-defs, allow-untyped-calls
from __future__ import annotations

import math

from softbench_backends.numba.compiling import device_function
from softbench_backends.numba.intrinsics import (
    accumulate,
    accumulator,
    all_lanes,
    any_subnormal,
    any_vanishing,
    factor,
    fmax,
    fmin,
    index_loss,
    is_narrow,
    label_entry,
    lane_exp_term,
    log_probability,
    log_sum,
    mask_unlabelled,
    min_positive,
    min_positive_lanes,
    min_positive_start,
    narrow_exp,
    narrow_factor,
    narrow_lane_exp_term,
    narrow_soft_terms,
    precise_probability,
    precise_term,
    probability,
    quotient,
    refined_sum,
    scaled_sum,
    select_label,
    soft_term,
    sum_excluding_max,
    sum_value,
    times,
)
from softbench_backends.numba.long_rows import row_weight
from softbench_backends.numba.memory import (
    address,
    broadcast,
    itemsize,
    load,
    load_per_row,
    offset,
    prefetch,
    store,
    store_partial,
    store_scalar,
    width,
)
from softbench_backends.numba.transposition import deinterleave, interleave, transpose_in, transpose_out
from softbench_backends.numba.vector_types import VECTOR_BYTES

TILES_AHEAD = 2
"""How many tiles after the one that is loaded another one is prefetched."""


@device_function
def load_tile(x, rows, k, tile):
    """``rows`` rows of ``k`` elements from ``x`` into the columns of ``tile``; those of a later tile are prefetched.

    Processors see where accesses lead within a page only, and a tile of 64 classes is one.
    """
    w = width(x)
    if rows == w and 2 <= k <= 4:
        if k == 2:
            deinterleave(x, 2, tile)
        elif k == 3:
            deinterleave(x, 3, tile)
        else:
            deinterleave(x, 4, tile)
        return
    for c in range(0, k, w):
        transpose_in(offset(x, c), k, rows, min(w, k - c), offset(tile, c * w))
    later = offset(x, TILES_AHEAD * w * k)
    for p in range(0, w * k, VECTOR_BYTES // itemsize(x)):  # a line each
        prefetch(later, p)


@device_function
def store_tile(tile, out, rows, k):
    """The inverse of `load_tile`."""
    w = width(out)
    if rows == w and 2 <= k <= 4:
        if k == 2:
            interleave(tile, 2, out)
        elif k == 3:
            interleave(tile, 3, out)
        else:
            interleave(tile, 4, out)
        return
    for c in range(0, k, w):
        transpose_out(offset(tile, c * w), offset(out, c), k, rows, min(w, k - c))


@device_function
def tile_max(tile, k):
    """Maximum of every row, passing over NaN."""
    w = width(tile)
    m = fmax(broadcast(tile, -math.inf), load(tile, 0))
    for c in range(1, k):
        m = fmax(m, load(tile, c * w))
    return m


@device_function
def tile_min(tile, k):
    """Minimum of every row, passing over NaN."""
    w = width(tile)
    low = fmin(broadcast(tile, math.inf), load(tile, 0))
    for c in range(1, k):
        low = fmin(low, load(tile, c * w))
    return low


@device_function
def tile_exp_sum(tile, e, k, m):
    """The scaled exponentials to ``e``; per row what `long_row_parts.segment_sum` gives."""
    w = width(tile)
    hi, lo = accumulator(m)
    argmaxes = broadcast(tile, 0.0)
    smallest = min_positive_start(m)
    for c in range(k):
        exp, below, argmaxes = lane_exp_term(load(tile, c * w), m, argmaxes)
        store(e, c * w, exp)
        hi, lo = accumulate(hi, lo, below)
        smallest = min_positive(smallest, exp)
    return hi, lo, argmaxes, smallest


@device_function
def tile_statistics(tile, e, k, whole):
    """Maxima; whether all rows are narrow (`is_narrow`); what `tile_exp_sum` gives, ``e`` not scaled if they are.

    ``whole``: the argmaxes of narrow rows are in the sum and not counted, which is quicker; for who needs ``S = 1 + s``
    only.
    """
    w = width(tile)
    m = tile_max(tile, k)
    narrow = all_lanes(is_narrow(m, tile_min(tile, k)))
    if not narrow:
        return m, narrow, *tile_exp_sum(tile, e, k, m)
    hi, lo = accumulator(m)
    argmaxes = broadcast(tile, 0.0)
    for c in range(k):
        if whole:
            exp = below = narrow_exp(load(tile, c * w), m)
        else:
            exp, below, argmaxes = narrow_lane_exp_term(load(tile, c * w), m, argmaxes)
        store(e, c * w, exp)
        hi, lo = accumulate(hi, lo, below)
    return m, narrow, *scaled_sum(m, hi, lo), argmaxes, min_positive_start(m)


@device_function
def tile_factor(tile, k, m, hi, lo, argmaxes, smallest, weight_hi, weight_lo):
    """`long_row_parts.row_factor`, row by row in the lanes."""
    s, s_lo = sum_excluding_max(m, hi, lo, argmaxes)
    f, h, g = factor(m, s, s_lo, weight_hi, weight_lo)
    e = min_positive_lanes(smallest)
    if any_vanishing(m, e, f, g):
        better, remainder = tile_precise_sum(tile, k, m)
        hi, lo = refined_sum(m, e, f, g, hi, lo, better, remainder)
        s, s_lo = sum_excluding_max(m, hi, lo, argmaxes)
        f, h, g = factor(m, s, s_lo, weight_hi, weight_lo)
    return s, s_lo, f, h, g


@device_function
def tile_probability(tile, e, c, m, f, h, g):
    """Probabilities of class ``c``, times what is in ``f``."""
    at = c * width(tile)
    p = probability(load(e, at), f, g)
    if any_subnormal(p):
        p = precise_probability(p, load(tile, at), m, f, h, g)
    return p


@device_function
def tile_precise_sum(tile, k, m):
    """`tile_exp_sum` to far less than an ulp."""
    w = width(tile)
    hi, lo = accumulator(m)
    for c in range(k):
        e, e_lo = precise_term(load(tile, c * w), m)
        hi, lo = accumulate(hi, lo, e)
        hi, lo = accumulate(hi, lo, e_lo)
    return hi, lo


@device_function
def tile_soft_sums(tile, targets, k, m):
    """Per row the sum of ``q`` and of ``q (m - x)``."""
    w = width(tile)
    mass, mass_low = accumulator(m)
    cost, cost_low = accumulator(m)
    for c in range(k):
        v, q = load(tile, c * w), load(targets, c * w)
        mass, mass_low = accumulate(mass, mass_low, q)
        cost, cost_low = accumulate(cost, cost_low, soft_term(v, m, q))
    return sum_value(mass, mass_low), sum_value(cost, cost_low)


@device_function
def narrow_tile_soft_sums(tile, targets, e, k, m):
    """`tile_exp_sum` but for the smallest, ``e`` not scaled, and `tile_soft_sums`, where all rows are narrow."""
    w = width(tile)
    hi, lo = accumulator(m)
    mass, mass_low = accumulator(m)
    cost, cost_low = accumulator(m)
    argmaxes = broadcast(tile, 0.0)
    for c in range(k):
        v = load(tile, c * w)
        exp, below, argmaxes = narrow_lane_exp_term(v, m, argmaxes)
        store(e, c * w, exp)
        hi, lo = accumulate(hi, lo, below)
        mass, mass_low, cost, cost_low = narrow_soft_terms(mass, mass_low, cost, cost_low, v, m, load(targets, c * w))
    return *scaled_sum(m, hi, lo), argmaxes, sum_value(mass, mass_low), sum_value(cost, cost_low)


# -- what is done to rows whose classes are in the vectors of a tile; results go to ``e`` in the same form --


@device_function
def tile_softmax(tile, e, k):
    """Probabilities."""
    w = width(tile)
    m, narrow, hi, lo, argmaxes, smallest = tile_statistics(tile, e, k, True)
    if narrow:
        s, s_lo = sum_excluding_max(m, hi, lo, argmaxes)
        narrow_f, normal = narrow_factor(m, s, s_lo, 1.0, 0.0)
        if all_lanes(normal):
            for c in range(k):
                store(e, c * w, times(load(e, c * w), narrow_f))
            return
        hi, lo, argmaxes, smallest = tile_exp_sum(tile, e, k, m)
    _, _, f, h, g = tile_factor(tile, k, m, hi, lo, argmaxes, smallest, 1.0, 0.0)
    for c in range(k):
        store(e, c * w, tile_probability(tile, e, c, m, f, h, g))


@device_function
def tile_log_softmax(tile, e, k):
    """Logarithms of probabilities."""
    w = width(tile)
    m, _, hi, lo, argmaxes, _ = tile_statistics(tile, e, k, False)
    s, s_lo = sum_excluding_max(m, hi, lo, argmaxes)
    log = log_sum(m, s, s_lo)
    for c in range(k):
        store(e, c * w, log_probability(load(tile, c * w), m, log))


@device_function
def tile_index(tile, e, k, labels, weight, weight_hi, weight_lo, loss, first, rows, gradient):
    """Losses of ``rows`` rows from ``first`` on, by their labels, and gradients if asked for.

    ``weight`` of every row, and what `lane_weights` made of it.
    """
    w = width(tile)
    y = load_per_row(tile, address(labels), first, rows, -1)
    at_label = load(tile, 0)
    for c in range(1, k):
        at_label = select_label(at_label, load(tile, c * w), y, c)
    m, narrow, hi, lo, argmaxes, smallest = tile_statistics(tile, e, k, False)
    s, s_lo = sum_excluding_max(m, hi, lo, argmaxes)
    value = index_loss(m, s, log_sum(m, s, s_lo), at_label, weight)
    store_partial(address(loss), first, rows, mask_unlabelled(value, y, k))
    if not gradient:
        return
    if narrow:
        narrow_f, normal = narrow_factor(m, s, s_lo, weight_hi, weight_lo)
        if all_lanes(normal):
            f, h, g = factor(m, s, s_lo, weight_hi, weight_lo)
            entry = label_entry(m, s, s_lo, at_label, f, h, g, weight_hi)
            # No exponential of such rows is infinite or NaN, so what is multiplied is selected once, not per class.
            narrow_f, entry = mask_unlabelled(narrow_f, y, k), mask_unlabelled(entry, y, k)
            for c in range(k):
                store(e, c * w, select_label(times(load(e, c * w), narrow_f), entry, y, c))
            return
        hi, lo, argmaxes, smallest = tile_exp_sum(tile, e, k, m)
    s, s_lo, f, h, g = tile_factor(tile, k, m, hi, lo, argmaxes, smallest, weight_hi, weight_lo)
    entry = label_entry(m, s, s_lo, at_label, f, h, g, weight_hi)
    for c in range(k):
        p = tile_probability(tile, e, c, m, f, h, g)
        store(e, c * w, mask_unlabelled(select_label(p, entry, y, c), y, k))


@device_function
def lane_weights(tile, weights, labels, sample_weight, class_weight, k, first, rows, divisor):
    """The weights of ``rows`` rows from ``first`` on, in lanes, and these over ``divisor``, with a correction.

    1 where a row has no weight. ``weights`` is room for a float64 per lane of ``tile``'s vectors.
    """
    w = width(tile)
    weighted = sample_weight.size > 0 or class_weight.size > 0
    for r in range(w):
        label = labels[first + r] if weighted and r < rows else -1
        store_scalar(weights, r, row_weight(first + r, label, sample_weight, class_weight) if 0 <= label < k else 1.0)
    weight = load_per_row(tile, weights, 0, w, 1.0)
    weight_hi, weight_lo = quotient(weight, 0.0, divisor, 0.0)
    return weight, weight_hi, weight_lo
