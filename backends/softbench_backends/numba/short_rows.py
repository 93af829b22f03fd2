"""Kernels for short rows: as many rows at a time as a vector has lanes, each row in a lane of its own.

A row of a few classes would leave most lanes of a vector idle and cost a logarithm and a division by
itself. Here groups of rows are transposed in registers, so that vector ``c`` holds class ``c`` of every row
of the group, and everything, the label's entry and the loss included, is done on whole vectors.

1. Transpose a group of rows into a tile of vectors, one for each class.
2. Per lane, the maximum and the minimum; if all rows of the group are narrow, the shorter exponential is used.
3. Per lane, the exponentials and their sum without one maximum, class by class.
4. Per lane, the results, by the formulas of `long_rows`. Transpose them back.

The largest errors that ``python -m benchmarks.studies worst-errors`` finds, in the units of the contract's gates (ulp,
but for logsumexp and soft targets), and the inputs that give them:

    softmax            float32  1.993  normal-1, 32 classes, seed 0, entry [22, 2]
    softmax            float64  2.134  log-probabilities, 10 classes, seed 0, entry [542, 6]
    log_softmax        float32  1.462  normal-4, 2 classes, seed 0, entry [5316, 1]
    log_softmax        float64  1.457  normal-1, 2 classes, seed 0, entry [4274, 1]
    logsumexp          float32  2.000  offset, 10 classes, seed 0, entry [1254]
    logsumexp          float64  2.000  one-dominant, 2 classes, seed 0, entry [1298]
    index_loss         float32  1.462  normal-4, 2 classes, seed 0, entry [5316]
    index_loss         float64  1.443  normal-1, 2 classes, seed 0, entry [4553]
    label_gradient     float32  1.397  one-dominant, 3 classes, seed 0, entry [3411, 1]
    label_gradient     float64  1.482  one-dominant, 2 classes, seed 0, entry [9329, 1]
    off_label_gradient float32  1.993  normal-1, 32 classes, seed 0, entry [22, 2]
    off_label_gradient float64  2.134  log-probabilities, 10 classes, seed 0, entry [542, 6]
    soft_loss          float32  1.081  normal-1, 2 classes, seed 0, entry [4013]
    soft_loss          float64  2.387  one-dominant, 3 classes, seed 0, entry [3244]
    soft_gradient      float32  3.982  two-dominant, 32 classes, seed 0, entry [534, 20]
    soft_gradient      float64  3.986  one-dominant, 32 classes, seed 0, entry [21, 2]
"""

# mypy: allow-untyped-decorators, allow-untyped-defs, allow-untyped-calls
from __future__ import annotations

import math

from softbench_backends.numba.compiling import device_function
from softbench_backends.numba.intrinsics import (
    accumulate,
    accumulator,
    all_lanes,
    alone_entry,
    any_subnormal,
    any_vanishing,
    both,
    factor,
    fmax,
    fmin,
    index_loss,
    is_alone,
    is_finite,
    is_narrow,
    label_entry,
    lane_exp_term,
    log_probability,
    log_sum,
    logsumexp,
    mask_unlabelled,
    min_positive,
    min_positive_lanes,
    min_positive_start,
    narrow_factor,
    narrow_lane_exp_term,
    narrow_soft_terms,
    precise_probability,
    precise_term,
    probability,
    quotient,
    refined_sum,
    running_argmax,
    scaled_sum,
    select_label,
    select_lanes,
    shifted_exp,
    soft_gradient,
    soft_label_entry,
    soft_loss,
    soft_sums,
    soft_term,
    sum_excluding_max,
    sum_value,
    times,
    widened,
)
from softbench_backends.numba.long_rows import row_weight
from softbench_backends.numba.memory import (
    address,
    broadcast,
    load,
    load_per_row,
    load_scalar,
    offset,
    stack_buffer,
    store,
    store_partial,
    store_scalar,
    width,
)
from softbench_backends.numba.soft_rows import smoothing_weights
from softbench_backends.numba.transposition import deinterleave, interleave, transpose_in, transpose_out

LONGEST = {2: 64, 4: 64, 8: 32}
"""Rows up to this length, by item size, are taken many at a time, longer ones one by one (`long_rows`)."""

MOST_CLASSES = max(LONGEST.values())
"""What a tile on the stack holds."""


@device_function
def load_tile(x, rows, k, tile):
    """``rows`` rows of ``k`` elements from ``x`` into the columns of ``tile``."""
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
    """The scaled exponentials to ``e``; per row what `long_rows.segment_sum` gives."""
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
def tile_statistics(tile, e, k):
    """Maxima; whether all rows are narrow (`is_narrow`); what `tile_exp_sum` gives, ``e`` not scaled if they are."""
    w = width(tile)
    m = tile_max(tile, k)
    narrow = all_lanes(is_narrow(m, tile_min(tile, k)))
    if not narrow:
        return m, narrow, *tile_exp_sum(tile, e, k, m)
    hi, lo = accumulator(m)
    argmaxes = broadcast(tile, 0.0)
    for c in range(k):
        exp, below, argmaxes = narrow_lane_exp_term(load(tile, c * w), m, argmaxes)
        store(e, c * w, exp)
        hi, lo = accumulate(hi, lo, below)
    return m, narrow, *scaled_sum(m, hi, lo), argmaxes, min_positive_start(m)


@device_function
def tile_factor(tile, k, m, hi, lo, argmaxes, smallest, weight_hi, weight_lo):
    """`long_rows.row_factor`, row by row in the lanes."""
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
    m, narrow, hi, lo, argmaxes, smallest = tile_statistics(tile, e, k)
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
    m, _, hi, lo, argmaxes, _ = tile_statistics(tile, e, k)
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
    m, narrow, hi, lo, argmaxes, smallest = tile_statistics(tile, e, k)
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


# -- the kernels ------------------------------------------------------------------------------------------------


@device_function
def softmax_kernel(x, out, first, last, streaming):
    """`RowBackend.softmax` of the rows ``first <= i < last``."""
    k = x.shape[1]
    w = width(address(x))
    tile = stack_buffer(address(x), MOST_CLASSES)
    e = stack_buffer(address(x), MOST_CLASSES)
    for i in range(first, last, w):
        rows = min(w, last - i)
        load_tile(offset(address(x), i * k), rows, k, tile)
        tile_softmax(tile, e, k)
        store_tile(e, offset(address(out), i * k), rows, k)


@device_function
def log_softmax_kernel(x, out, first, last, streaming):
    """`RowBackend.log_softmax` of the rows ``first <= i < last``."""
    k = x.shape[1]
    w = width(address(x))
    tile = stack_buffer(address(x), MOST_CLASSES)
    e = stack_buffer(address(x), MOST_CLASSES)
    for i in range(first, last, w):
        rows = min(w, last - i)
        load_tile(offset(address(x), i * k), rows, k, tile)
        tile_log_softmax(tile, e, k)
        store_tile(e, offset(address(out), i * k), rows, k)


@device_function
def logsumexp_kernel(x, out, first, last, streaming):
    """`RowBackend.logsumexp` of the rows ``first <= i < last``."""
    k = x.shape[1]
    w = width(address(x))
    tile = stack_buffer(address(x), MOST_CLASSES)
    for i in range(first, last, w):
        rows = min(w, last - i)
        load_tile(offset(address(x), i * k), rows, k, tile)
        m, _, hi, lo, argmaxes, _ = tile_statistics(tile, tile, k)
        s, s_lo = sum_excluding_max(m, hi, lo, argmaxes)
        store_partial(address(out), i, rows, logsumexp(m, s, s_lo, hi))


@device_function
def argmax_kernel(x, out, first, last, streaming):
    """`RowBackend.argmax` of the rows ``first <= i < last``."""
    k = x.shape[1]
    w = width(address(x))
    tile = stack_buffer(address(x), MOST_CLASSES)
    for i in range(first, last, w):
        rows = min(w, last - i)
        load_tile(offset(address(x), i * k), rows, k, tile)
        best = load(tile, 0)
        at = load_per_row(address(x), address(out), i, 0, 0)
        for c in range(1, k):
            best, at = running_argmax(best, at, load(tile, c * w), c)
        store_partial(address(out), i, rows, at)


@device_function
def index_kernel(
    x, q, labels, sample_weight, class_weight, loss, out, smoothing, divisor, gradient, first, last, streaming
):
    """`RowBackend.loss_and_gradient` for labels without smoothing; ``out`` is written if ``gradient`` is set."""
    k = x.shape[1]
    xp = address(x)
    w = width(xp)
    tile = stack_buffer(xp, MOST_CLASSES)
    e = stack_buffer(xp, MOST_CLASSES)
    weights = stack_buffer(address(loss), 2)
    weighted = sample_weight.size > 0 or class_weight.size > 0
    weight, weight_hi, weight_lo = lane_weights(tile, weights, labels, sample_weight, class_weight, k, 0, 0, divisor)
    for i in range(first, last, w):
        rows = min(w, last - i)
        load_tile(offset(xp, i * k), rows, k, tile)
        if weighted:
            weight, weight_hi, weight_lo = lane_weights(
                tile, weights, labels, sample_weight, class_weight, k, i, rows, divisor
            )
        tile_index(tile, e, k, labels, weight, weight_hi, weight_lo, loss, i, rows, gradient)
        if gradient:
            store_tile(e, offset(address(out), i * k), rows, k)


@device_function
def soft_kernel(
    x, q, labels, sample_weight, class_weight, loss, out, smoothing, divisor, gradient, first, last, streaming
):
    """`RowBackend.loss_and_gradient` for soft targets or smoothed labels: see `soft_rows.soft_kernel`."""
    k = x.shape[1]
    xp, lp = address(x), address(loss)
    w = width(xp)
    tile = stack_buffer(xp, MOST_CLASSES)
    targets = stack_buffer(xp, MOST_CLASSES)
    e = stack_buffer(xp, MOST_CLASSES)
    of_alls, of_alls_low, of_labels, of_labels_low = (
        stack_buffer(lp, 2),
        stack_buffer(lp, 2),
        stack_buffer(lp, 2),
        stack_buffer(lp, 2),
    )
    for r in range(w):
        store_scalar(of_alls, r, 1.0)
        store_scalar(of_alls_low, r, 0.0)
        store_scalar(of_labels, r, 0.0)
        store_scalar(of_labels_low, r, 0.0)
    unit = 0.0
    if labels.size:
        unit = float(load_scalar(address(q), k))
        for c in range(k):
            store(targets, c * w, broadcast(xp, load_scalar(address(q), c)))
    for i in range(first, last, w):
        rows = min(w, last - i)
        load_tile(offset(xp, i * k), rows, k, tile)
        y = load_per_row(xp, address(labels), i, rows if labels.size else 0, 0)
        if labels.size:
            for r in range(rows):
                label = labels[i + r]
                if 0 <= label < k:
                    high, low, h, h_lo = smoothing_weights(
                        i + r, label, k, unit, smoothing, sample_weight, class_weight
                    )
                    store_scalar(of_alls, r, high)
                    store_scalar(of_alls_low, r, low)
                    store_scalar(of_labels, r, h)
                    store_scalar(of_labels_low, r, h_lo)
        else:
            load_tile(offset(address(q), i * k), rows, k, targets)
        of_all, of_all_low = load_per_row(xp, of_alls, 0, w, 0.0), load_per_row(xp, of_alls_low, 0, w, 0.0)
        of_label, of_label_low = load_per_row(xp, of_labels, 0, w, 0.0), load_per_row(xp, of_labels_low, 0, w, 0.0)
        at_label, q_label = load(tile, 0), load(targets, 0)
        for c in range(1, k):
            at_label = select_label(at_label, load(tile, c * w), y, c)
            q_label = select_label(q_label, load(targets, c * w), y, c)
        m = tile_max(tile, k)
        narrow_rows = is_narrow(m, tile_min(tile, k))
        # A row's sums do not depend on the rows beside it. One whose targets are not finite counts as wide.
        hi, lo, argmaxes, mass, cost = narrow_tile_soft_sums(tile, targets, e, k, m)
        narrow_rows = both(narrow_rows, is_finite(mass))
        narrow = all_lanes(narrow_rows)
        if not narrow:
            wide_mass, wide_cost = tile_soft_sums(tile, targets, k, m)
            mass, cost = select_lanes(narrow_rows, mass, wide_mass), select_lanes(narrow_rows, cost, wide_cost)
            hi, lo, argmaxes, _ = tile_exp_sum(tile, e, k, m)
        s, s_lo = sum_excluding_max(m, hi, lo, argmaxes)
        mass, cost = soft_sums(mass, cost, of_all, of_label, m, at_label)
        store_partial(lp, i, rows, mask_unlabelled(soft_loss(m, s, s_lo, mass, cost), y, k))
        if gradient:
            weight_hi, weight_lo = quotient(mass, 0.0, divisor, 0.0)
            f, _, g = factor(m, s, s_lo, weight_hi, weight_lo)
            high, low = quotient(of_all, of_all_low, divisor, 0.0)
            h, h_lo = quotient(of_label, of_label_low, divisor, 0.0)
            entry = soft_label_entry(shifted_exp(at_label, m), f, g, q_label, high, low, h, h_lo)
            alone = is_alone(s)
            narrow_f, normal = narrow_factor(m, s, s_lo, weight_hi, weight_lo)
            if narrow and not all_lanes(normal):
                tile_exp_sum(tile, e, k, m)
            elif narrow:
                f, g = widened(narrow_f), load_per_row(xp, of_alls, 0, 0, 1.0)
            for c in range(k):
                value = soft_gradient(load(e, c * w), f, g, load(targets, c * w), high, low)
                if labels.size:
                    value = select_label(value, entry, y, c)
                if alone:
                    v, p = load(tile, c * w), load(targets, c * w)
                    value = alone_entry(value, v, m, s, p, mass, of_all, of_label, y, c, divisor)
                store(e, c * w, mask_unlabelled(value, y, k))
            store_tile(e, offset(address(out), i * k), rows, k)
