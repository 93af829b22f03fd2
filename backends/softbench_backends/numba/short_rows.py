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

    softmax            float32  2.113  masked, 32 classes, seed 0, entry [276, 16]
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

from softbench_backends.numba.compiling import device_function
from softbench_backends.numba.intrinsics import (
    all_lanes,
    alone_entry,
    both,
    factor,
    is_alone,
    is_finite,
    is_narrow,
    logsumexp,
    mask_unlabelled,
    narrow_factor,
    quotient,
    running_argmax,
    select_label,
    select_lanes,
    shifted_exp,
    soft_gradient,
    soft_label_entry,
    soft_loss,
    soft_sums,
    sum_excluding_max,
    widened,
)
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
from softbench_backends.numba.tiles import (
    lane_weights,
    load_tile,
    narrow_tile_soft_sums,
    store_tile,
    tile_exp_sum,
    tile_index,
    tile_log_softmax,
    tile_max,
    tile_min,
    tile_soft_sums,
    tile_softmax,
    tile_statistics,
)

LONGEST = {2: 64, 4: 64, 8: 32}
"""Rows up to this length, by item size, are taken many at a time, longer ones one by one (`long_rows`)."""

MOST_CLASSES = max(LONGEST.values())
"""What a tile on the stack holds."""


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
        m, _, hi, lo, argmaxes, _ = tile_statistics(tile, tile, k, False)
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
        for c in range(1, k if labels.size else 1):
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
