"""Kernels for long rows with soft targets or smoothed labels: one row at a time, as `rows`."""

# mypy: allow-untyped-decorators, allow-untyped-defs, allow-untyped-calls
from __future__ import annotations

import math

from softbench_backends.numba.blocks import (
    accumulate,
    accumulator,
    factor,
    fold,
    others,
    quotient,
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
from softbench_backends.numba.memory import address, get, load_first, offset, put, spread, store_first, width
from softbench_backends.numba.rows import row_max, skip


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
    for i in range(first, last):
        xi, oi = offset(address(x), i * k), offset(address(out), i * k)
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
        m = row_max(xi, k)
        hi, lo, argmaxes, mass, cost = soft_row_sums(xi, qi, k, m)
        s, lo = others(m, hi, lo, float(argmaxes))
        mass, cost = soft_sums(mass, cost, of_all, of_label, m, at_label)
        loss[i] = soft_loss(m, s, lo, mass, cost)
        if gradient:
            share, less = quotient(mass, 0.0, divisor, 0.0)
            f, _, g = factor(m, s, lo, share, less)
            high, low = quotient(of_all, of_all_low, divisor, 0.0)
            write_soft_gradient(xi, qi, oi, k, m, f, g, high, low)
            if labels.size:
                h, less = quotient(of_label, of_label_low, divisor, 0.0)
                put(oi, y, soft_label_entry(shifted_exp(at_label, m), f, g, q_label, high, low, h, less))
