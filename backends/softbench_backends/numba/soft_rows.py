"""Kernels for long rows with soft targets or smoothed labels: one row at a time, as `rows`."""

# mypy: allow-untyped-decorators, allow-untyped-defs, allow-untyped-calls
from __future__ import annotations

import math

from softbench_backends.numba.blocks import (
    accumulate,
    accumulator,
    below,
    factor,
    fold,
    fold_terms,
    is_near,
    is_ordered,
    lesser,
    near_exp,
    near_factor,
    near_soft_term,
    ordered_exp,
    others,
    quotient,
    scaled_sum,
    settle,
    shifted_exp,
    soft_gradient,
    soft_label_entry,
    soft_loss,
    soft_sums,
    soft_term,
    term,
    two_product,
    two_sum,
)
from softbench_backends.numba.jit import part
from softbench_backends.numba.lanes import GROUP
from softbench_backends.numba.limits import KEEP_BYTES
from softbench_backends.numba.memory import (
    address,
    allocate,
    fence,
    get,
    load_first,
    load_group,
    misaligned,
    offset,
    prefetch,
    put,
    release,
    same_address,
    spread,
    store,
    store_first,
    stream,
    width,
)
from softbench_backends.numba.rows import prefetched_ahead, row_extrema, skip


@part
def soft_row_sums(x, q, n, m):
    """Of one row: `row_sum`, the sum of ``q`` and the sum of ``q (m - x)``; of the latter two the totals."""
    w = width(x)
    hi, lo = accumulator(spread(x, 0.0))
    mass_hi, mass_lo = accumulator(spread(x, 0.0))
    cost_hi, cost_lo = accumulator(soft_term(spread(x, 0.0), m, spread(x, 0.0)))
    argmaxes = 0
    i = 0
    while i < n:
        v, p = load_first(x, i, n - i, -math.inf), load_first(q, i, n - i, 0.0)
        _, t, more = term(v, m)
        hi, lo = accumulate(hi, lo, t)
        mass_hi, mass_lo = accumulate(mass_hi, mass_lo, p)
        cost_hi, cost_lo = accumulate(cost_hi, cost_lo, soft_term(v, m, p))
        argmaxes += more
        i += w
    hi, lo = fold(hi, lo)
    mass_hi, mass_lo = fold(mass_hi, mass_lo)
    cost_hi, cost_lo = fold(cost_hi, cost_lo)
    return hi, lo, argmaxes, settle(mass_hi, mass_lo), settle(cost_hi, cost_lo)


@part
def near_soft_row_sums(x, q, e, n, m, ordered, keep, ahead, ahead_q):
    """`soft_row_sums` of a row that `is_near`, and maybe `is_ordered`. The exponentials, not scaled, go to ``e`` if
    ``keep`` is set; ``x + ahead`` and ``q + ahead_q`` are prefetched, unless that is 0."""
    w = width(x)
    hi, lo = accumulator(spread(x, 0.0))
    mass, mass_low = accumulator(spread(x, 0.0))
    cost, cost_low = accumulator(spread(x, 0.0))
    argmaxes = 0
    i = 0
    while i + GROUP * w <= n:
        v, p = load_group(x, i), load_group(q, i)
        e0 = ordered_exp(v, m) if ordered else near_exp(v, m)
        if ahead:
            for j in range(GROUP):
                prefetch(x, i + ahead + j * w)
        if ahead_q:
            for j in range(GROUP):
                prefetch(q, i + ahead_q + j * w)
        if keep:
            store(e, i, e0)
        e0, more = below(e0, v, m)
        hi, lo = accumulate(hi, lo, e0)
        mass, mass_low, cost, cost_low = near_soft_term(mass, mass_low, cost, cost_low, v, m, p)
        argmaxes += more
        i += GROUP * w
    while i < n:
        v, p = load_first(x, i, n - i, m), load_first(q, i, n - i, 0.0)
        e0 = near_exp(v, m)
        if keep:
            store_first(e, i, n - i, e0)
        e0, more = below(e0, v, m)
        hi, lo = accumulate(hi, lo, e0)
        mass, mass_low, cost, cost_low = near_soft_term(mass, mass_low, cost, cost_low, v, m, p)
        argmaxes += more
        i += w
    like = get(x, 0)
    hi, lo = fold_terms(like, hi, lo)
    hi, lo = scaled_sum(m, hi, lo)
    mass, mass_low = fold_terms(like, mass, mass_low)
    cost, cost_low = fold_terms(like, cost, cost_low)
    return hi, lo, argmaxes - (i - n), settle(mass, mass_low), settle(cost, cost_low)


@part
def write_near_soft_gradient(x, q, e, out, n, kept, m, f, high, low, streaming):
    """`write_soft_gradient` of a row that `is_near`, with what `near_factor` gave; ``e`` is read if it was ``kept``."""
    w = width(out)
    i = 0
    if streaming:
        i = lesser(misaligned(out), n)
        v = load_first(e, 0, i, 0.0) if kept else near_exp(load_first(x, 0, i, m), m)
        store_first(out, 0, i, soft_gradient(v, f, 1.0, load_first(q, 0, i, 0.0), high, low))
    while i + GROUP * w <= n:
        v = load_group(e, i) if kept else near_exp(load_group(x, i), m)
        gradient = soft_gradient(v, f, 1.0, load_group(q, i), high, low)
        if streaming:
            stream(out, i, gradient)
        else:
            store(out, i, gradient)
        i += GROUP * w
    while i < n:
        v = load_first(e, i, n - i, 0.0) if kept else near_exp(load_first(x, i, n - i, m), m)
        store_first(out, i, n - i, soft_gradient(v, f, 1.0, load_first(q, i, n - i, 0.0), high, low))
        i += w


@part
def write_soft_gradient(x, q, out, n, m, f, g, high, low):
    """``out = p - q (high + low)``."""
    w = width(out)
    i = 0
    while i < n:
        e = shifted_exp(load_first(x, i, n - i, 0.0), m)
        store_first(out, i, n - i, soft_gradient(e, f, g, load_first(q, i, n - i, 0.0), high, low))
        i += w


@part
def smoothing_unit(k):
    """Power of two that scales a row of smoothed targets down, so that sums over it do not overflow."""
    unit = 1.0
    while k > 0:
        k //= 2
        unit *= 0.5
    return unit


@part
def smoothed(i, y, k, smoothing, sample_weight, class_weight):
    """What multiplies ``q``, `smoothing_unit` times the class weights, in row ``i``, and what its label has besides.

    Both with a correction.
    """
    weight = sample_weight[i] if sample_weight.size else 1.0
    of_all, of_all_low = two_product(weight, smoothing)
    of_all, of_all_low = quotient(of_all, of_all_low, k * smoothing_unit(k), 0.0)
    if class_weight.size:
        weight *= class_weight[y]
    kept, kept_low = two_sum(1.0, -smoothing)
    of_label, of_label_low = two_product(weight, kept)
    return of_all, of_all_low, of_label, of_label_low + weight * kept_low


@part
def soft_rows(
    x, q, labels, sample_weight, class_weight, loss, out, smoothing, divisor, gradient, first, last, streaming
):
    """`RowBackend.loss_and_gradient` for soft targets ``q`` ``(N, K)``, or for smoothed labels.

    Of the latter ``q`` ``(1, K)`` holds the class weights times `smoothing_unit`, and every row a multiple of it.
    """
    k = x.shape[1]
    keep = gradient and k * x.itemsize <= KEEP_BYTES
    apart = streaming or same_address(address(x), address(out))
    buffer = allocate(address(x), k if apart and keep else 0)
    ahead = prefetched_ahead(k, x.itemsize)
    for i in range(first, last):
        xi, oi = offset(address(x), i * k), offset(address(out), i * k)
        e = buffer if apart else oi
        y = 0
        qi = offset(address(q), i * k)
        of_all, of_all_low, of_label, of_label_low = 1.0, 0.0, 0.0, 0.0
        if labels.size:
            y = labels[i]
            if y < 0 or y >= k:
                skip(y, loss, i, oi, k, gradient)
                continue
            qi = address(q)
            of_all, of_all_low, of_label, of_label_low = smoothed(i, y, k, smoothing, sample_weight, class_weight)
        at_label, q_label = get(xi, y), get(qi, y)
        m, least = row_extrema(xi, k)
        near = is_near(m, least)
        mass = math.inf
        if near:
            hi, lo, argmaxes, mass, cost = near_soft_row_sums(
                xi, qi, e, k, m, is_ordered(m, least), keep, ahead, 0 if labels.size else ahead
            )
        if not abs(mass) < math.inf:  # not near, or targets that are not finite
            hi, lo, argmaxes, mass, cost = soft_row_sums(xi, qi, k, m)
        s, lo = others(m, hi, lo, float(argmaxes))
        mass, cost = soft_sums(mass, cost, of_all, of_label, m, at_label)
        loss[i] = soft_loss(m, s, lo, mass, cost)
        if gradient:
            share, less = quotient(mass, 0.0, divisor, 0.0)
            f, _, g = factor(m, s, lo, share, less)
            high, low = quotient(of_all, of_all_low, divisor, 0.0)
            whole, normal = near_factor(m, s, lo, share, less)
            if near and normal:
                write_near_soft_gradient(xi, qi, e, oi, k, keep, m, whole, high, low, streaming)
            else:
                write_soft_gradient(xi, qi, oi, k, m, f, g, high, low)
            if labels.size:
                h, less = quotient(of_label, of_label_low, divisor, 0.0)
                put(oi, y, soft_label_entry(shifted_exp(at_label, m), f, g, q_label, high, low, h, less))
    release(buffer)
    if streaming:
        fence()
