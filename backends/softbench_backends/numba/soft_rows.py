"""Kernels for long rows with soft targets or smoothed labels: one row at a time, as `long_rows`.

1. The maximum ``m``, and the minimum.
2. In one pass: ``s``, the sum of the exponentials without one maximum; ``sum q``; and ``sum q (m - x)``, all three with
   their rounding errors.
3. The loss, ``(sum q) log1p(s) + sum q (m - x)``: of terms that are not negative where ``q`` is not.
4. The gradient, ``(sum q) p - q``, from products with their rounding errors, rounded once.

Smoothed labels are ``q = a u + h [k = y]`` with one ``u`` for all rows, so that ``q`` is not written out.

The largest errors that ``python -m benchmarks.studies worst-errors`` finds, in the units of the contract's gates (ulp,
but for these two), and the inputs that give them:

    soft_loss          float32  0.554  log-probabilities, 65 classes, seed 0, entry [142]
    soft_loss          float64  1.672  log-probabilities, 65 classes, seed 0, entry [133]
    soft_gradient      float32  3.992  two-dominant, 1000 classes, seed 0, entry [14, 426]
    soft_gradient      float64  3.992  one-dominant, 1000 classes, seed 0, entry [5, 537]
"""

# mypy: allow-untyped-decorators, allow-untyped-defs, allow-untyped-calls
from __future__ import annotations

import math

from softbench_backends.numba.compiling import device_function
from softbench_backends.numba.intrinsics import (
    accumulate,
    accumulator,
    alone_entry,
    dominated_exp,
    exp_term,
    factor,
    is_alone,
    is_narrow,
    max_dominates,
    min_int,
    narrow_exp,
    narrow_factor,
    narrow_soft_terms,
    quotient,
    reduce_sum,
    reduce_term_sum,
    scaled_sum,
    shifted_exp,
    soft_gradient,
    soft_label_entry,
    soft_loss,
    soft_sums,
    soft_term,
    sum_excluding_max,
    sum_value,
    two_product,
    two_sum,
    without_argmaxes,
)
from softbench_backends.numba.lanes import GROUP
from softbench_backends.numba.long_row_parts import prefetch_distance, row_extrema
from softbench_backends.numba.long_rows import KEEP_BYTES, write_skipped_row
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
    load_group,
    load_partial,
    load_scalar,
    offset,
    prefetch,
    same_address,
    store,
    store_partial,
    store_scalar,
    stream,
    width,
)


@device_function
def soft_row_sums(x, q, n, m):
    """Of one row: `row_sum`, the sum of ``q`` and the sum of ``q (m - x)``; of the latter two the totals."""
    w = width(x)
    hi, lo = accumulator(broadcast(x, 0.0))
    mass_hi, mass_lo = accumulator(broadcast(x, 0.0))
    cost_hi, cost_lo = accumulator(soft_term(broadcast(x, 0.0), m, broadcast(x, 0.0)))
    argmaxes = 0
    i = 0
    while i < n:
        v, p = load_partial(x, i, n - i, -math.inf), load_partial(q, i, n - i, 0.0)
        _, t, more = exp_term(v, m)
        hi, lo = accumulate(hi, lo, t)
        mass_hi, mass_lo = accumulate(mass_hi, mass_lo, p)
        cost_hi, cost_lo = accumulate(cost_hi, cost_lo, soft_term(v, m, p))
        argmaxes += more
        i += w
    hi, lo = reduce_sum(hi, lo)
    mass_hi, mass_lo = reduce_sum(mass_hi, mass_lo)
    cost_hi, cost_lo = reduce_sum(cost_hi, cost_lo)
    return hi, lo, argmaxes, sum_value(mass_hi, mass_lo), sum_value(cost_hi, cost_lo)


@device_function
def narrow_soft_row_sums(x, q, e, n, m, dominated, keep, ahead, ahead_q):
    """`soft_row_sums` of a row that `is_narrow`, ``dominated`` if `max_dominates`.

    The exponentials, not scaled, go to ``e`` if ``keep`` is set; ``x + ahead`` and ``q + ahead_q`` are prefetched,
    unless that is 0.
    """
    w = width(x)
    hi, lo = accumulator(broadcast(x, 0.0))
    mass, mass_low = accumulator(broadcast(x, 0.0))
    cost, cost_low = accumulator(broadcast(x, 0.0))
    argmaxes = 0
    i = 0
    while i + GROUP * w <= n:
        v, p = load_group(x, i), load_group(q, i)
        e0 = dominated_exp(v, m) if dominated else narrow_exp(v, m)
        if ahead:
            for j in range(GROUP):
                prefetch(x, i + ahead + j * w)
        if ahead_q:
            for j in range(GROUP):
                prefetch(q, i + ahead_q + j * w)
        if keep:
            store(e, i, e0)
        e0, more = without_argmaxes(e0, v, m)
        hi, lo = accumulate(hi, lo, e0)
        mass, mass_low, cost, cost_low = narrow_soft_terms(mass, mass_low, cost, cost_low, v, m, p)
        argmaxes += more
        i += GROUP * w
    while i < n:
        v, p = load_partial(x, i, n - i, m), load_partial(q, i, n - i, 0.0)
        e0 = narrow_exp(v, m)
        if keep:
            store_partial(e, i, n - i, e0)
        e0, more = without_argmaxes(e0, v, m)
        hi, lo = accumulate(hi, lo, e0)
        mass, mass_low, cost, cost_low = narrow_soft_terms(mass, mass_low, cost, cost_low, v, m, p)
        argmaxes += more
        i += w
    like = load_scalar(x, 0)
    hi, lo = reduce_term_sum(like, hi, lo)
    hi, lo = scaled_sum(m, hi, lo)
    mass, mass_low = reduce_term_sum(like, mass, mass_low)
    cost, cost_low = reduce_term_sum(like, cost, cost_low)
    return hi, lo, argmaxes - (i - n), sum_value(mass, mass_low), sum_value(cost, cost_low)


@device_function
def write_narrow_soft_gradient(x, q, e, out, n, kept, m, f, high, low, streaming):
    """`write_soft_gradient` of a row that `is_narrow`, with what `narrow_factor` gave; ``e`` is read if ``kept``."""
    w = width(out)
    i = 0
    if streaming:
        i = min_int(elements_to_alignment(out), n)
        v = load_partial(e, 0, i, 0.0) if kept else narrow_exp(load_partial(x, 0, i, m), m)
        store_partial(out, 0, i, soft_gradient(v, f, 1.0, load_partial(q, 0, i, 0.0), high, low))
    while i + GROUP * w <= n:
        v = load_group(e, i) if kept else narrow_exp(load_group(x, i), m)
        gradient = soft_gradient(v, f, 1.0, load_group(q, i), high, low)
        if streaming:
            stream(out, i, gradient)
        else:
            store(out, i, gradient)
        i += GROUP * w
    while i < n:
        v = load_partial(e, i, n - i, 0.0) if kept else narrow_exp(load_partial(x, i, n - i, m), m)
        store_partial(out, i, n - i, soft_gradient(v, f, 1.0, load_partial(q, i, n - i, 0.0), high, low))
        i += w


@device_function
def first_of(x, n, m):
    """Index of the first element equal to ``m``."""
    for i in range(n):
        if load_scalar(x, i) == m:
            return i
    return 0


@device_function
def write_soft_gradient(x, q, out, n, m, f, g, high, low):
    """``out = p - q (high + low)``."""
    w = width(out)
    i = 0
    while i < n:
        e = shifted_exp(load_partial(x, i, n - i, 0.0), m)
        store_partial(out, i, n - i, soft_gradient(e, f, g, load_partial(q, i, n - i, 0.0), high, low))
        i += w


@device_function
def smoothing_weights(i, y, k, unit, smoothing, sample_weight, class_weight):
    """What multiplies ``q``, the class weights over ``unit``, in row ``i``, and what its label has besides.

    Both with a correction.
    """
    weight = sample_weight[i] if sample_weight.size else 1.0
    of_all, of_all_low = two_product(weight, smoothing)
    of_all, of_all_low = quotient(of_all * unit, of_all_low * unit, float(k), 0.0)
    weight_low = 0.0
    if class_weight.size:
        weight, weight_low = two_product(weight, class_weight[y])
        weight_low = weight_low if abs(weight) < math.inf else 0.0
    kept, kept_low = two_sum(1.0, -smoothing)
    of_label, of_label_low = two_product(weight, kept)
    return of_all, of_all_low, of_label, of_label_low + (weight * kept_low + weight_low * kept)


@device_function
def soft_kernel(
    x, q, labels, sample_weight, class_weight, loss, out, smoothing, divisor, gradient, first, last, streaming
):
    """`RowBackend.loss_and_gradient` for soft targets ``q`` ``(N, K)``, or for smoothed labels.

    Of the latter ``q`` ``(1, K + 1)`` holds the class weights over a power of two, so that no sum over a row overflows,
    and then that power; every row is a multiple of it.
    """
    k = x.shape[1]
    unit = load_scalar(address(q), k if labels.size else 0)
    keep = gradient and k * itemsize(address(x)) <= KEEP_BYTES
    apart = streaming or same_address(address(x), address(out)) or not holds_computed(address(out))
    buffer = heap_buffer(address(x), k if apart and keep else 0)
    ahead = prefetch_distance(k, x.itemsize)
    for i in range(first, last):
        xi, oi = offset(address(x), i * k), offset(address(out), i * k)
        e = choose_buffer(apart, buffer, oi)
        y = 0
        qi = offset(address(q), i * k)
        of_all, of_all_low, of_label, of_label_low = 1.0, 0.0, 0.0, 0.0
        if labels.size:
            y = labels[i]
            if y < 0 or y >= k:
                write_skipped_row(y, loss, i, oi, k, gradient)
                continue
            qi = address(q)
            of_all, of_all_low, of_label, of_label_low = smoothing_weights(
                i, y, k, unit, smoothing, sample_weight, class_weight
            )
        at_label, q_label = load_scalar(xi, y), load_scalar(qi, y)
        m, least = row_extrema(xi, k)
        narrow = is_narrow(m, least)
        mass = math.inf
        if narrow:
            hi, lo, argmaxes, mass, cost = narrow_soft_row_sums(
                xi, qi, e, k, m, max_dominates(m, least), keep, ahead, 0 if labels.size else ahead
            )
        if not abs(mass) < math.inf:  # not narrow, or targets that are not finite
            hi, lo, argmaxes, mass, cost = soft_row_sums(xi, qi, k, m)
        s, s_lo = sum_excluding_max(m, hi, lo, float(argmaxes))
        mass, cost = soft_sums(mass, cost, of_all, of_label, m, at_label)
        loss[i] = soft_loss(m, s, s_lo, mass, cost)
        if gradient:
            weight_hi, weight_lo = quotient(mass, 0.0, divisor, 0.0)
            f, _, g = factor(m, s, s_lo, weight_hi, weight_lo)
            high, low = quotient(of_all, of_all_low, divisor, 0.0)
            narrow_f, normal = narrow_factor(m, s, s_lo, weight_hi, weight_lo)
            alone = is_alone(s)
            top = first_of(xi, k, m) if alone else 0
            at_top, q_top = load_scalar(xi, top), load_scalar(qi, top)
            if narrow and normal:
                write_narrow_soft_gradient(xi, qi, e, oi, k, keep, m, narrow_f, high, low, streaming)
            else:
                write_soft_gradient(xi, qi, oi, k, m, f, g, high, low)
            if labels.size:
                h, h_lo = quotient(of_label, of_label_low, divisor, 0.0)
                store_scalar(oi, y, soft_label_entry(shifted_exp(at_label, m), f, g, q_label, high, low, h, h_lo))
            if alone:
                entry = alone_entry(at_top, at_top, m, s, q_top, mass, of_all, of_label, y, top, divisor)
                store_scalar(oi, top, entry)
    free_buffer(buffer)
    if streaming:
        fence()
