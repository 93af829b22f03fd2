"""Kernels on losses and given probabilities: their sums, and the loss of probabilities, which takes no exponential."""

# mypy: allow-untyped-decorators, allow-untyped-defs, allow-untyped-calls
from __future__ import annotations

import math

import numpy as np

from softbench_backends.numba.compiling import device_function
from softbench_backends.numba.intrinsics import (
    accumulate,
    accumulator,
    add_sums,
    fmin,
    reduce_fmin,
    reduce_sum,
    reduce_term_sum,
    sum_value,
    two_product,
)
from softbench_backends.numba.lanes import GROUP
from softbench_backends.numba.long_rows import row_weight
from softbench_backends.numba.memory import address, broadcast, load, load_partial, load_scalar, offset, width


@device_function
def total_kernel(x, out, first, last, streaming):
    """Sum of the losses ``x[first:last]`` into ``out[0]``: compensated, rounded once, in an order of its own."""
    p = address(x)
    w = width(p)
    hi0, lo0 = accumulator(broadcast(p, 0.0))
    hi1, lo1 = hi0, lo0
    i = first
    while i + 2 * w <= last:
        hi0, lo0 = accumulate(hi0, lo0, load(p, i))
        hi1, lo1 = accumulate(hi1, lo1, load(p, i + w))
        i += 2 * w
    while i < last:
        hi0, lo0 = accumulate(hi0, lo0, load_partial(p, i, last - i, 0.0))
        i += w
    (hi, lo), (more_hi, more_lo) = reduce_sum(hi0, lo0), reduce_sum(hi1, lo1)
    out[0] = sum_value(*add_sums(hi, lo, more_hi, more_lo))


@device_function
def mass_kernel(q, out, first, last, streaming):
    """The sum of every row ``first <= i < last`` of ``q``, NaN where an element is negative or NaN."""
    k = q.shape[1]
    for i in range(first, last):
        p = offset(address(q), i * k)
        w = width(p)
        hi, lo = accumulator(broadcast(p, 0.0))
        least = broadcast(p, 0.0)
        j = 0
        while j + GROUP * w <= k:
            for c in range(GROUP):
                v = load(p, j + c * w)
                hi, lo = accumulate(hi, lo, v)
                least = fmin(least, v)
            j += GROUP * w
        while j < k:
            v = load_partial(p, j, k - j, 0.0)
            hi, lo = accumulate(hi, lo, v)
            least = fmin(least, v)
            j += w
        hi, lo = reduce_term_sum(load_scalar(p, 0), hi, lo)
        out[i] = math.nan if reduce_fmin(least) < 0 else sum_value(hi, lo)


@device_function
def log_loss_index_kernel(
    p, q, labels, sample_weight, class_weight, loss, out, smoothing, divisor, gradient, first, last, streaming
):
    """`RowBackend.log_loss` for labels."""
    k = p.shape[1]
    for i in range(first, last):
        y = labels[i]
        if y < 0 or y >= k:
            loss[i] = 0.0 if y == -1 else math.nan
        else:
            cost = 0.0 - math.log(np.float64(load_scalar(address(p), i * k + y)))
            weight = row_weight(i, y, sample_weight, class_weight)
            loss[i] = weight * cost if weight != 0.0 or cost != math.inf else 0.0


@device_function
def log_loss_soft_kernel(
    p, q, labels, sample_weight, class_weight, loss, out, smoothing, divisor, gradient, first, last, streaming
):
    """`RowBackend.log_loss` for soft targets."""
    k = p.shape[1]
    for i in range(first, last):
        pi, qi = offset(address(p), i * k), offset(address(q), i * k)
        hi, lo = 0.0, 0.0
        for j in range(k):
            weight, probability = np.float64(load_scalar(qi, j)), np.float64(load_scalar(pi, j))
            if weight != 0.0 or probability != probability:
                cost, error = two_product(weight, 0.0 - math.log(probability))
                hi, lo = add_sums(hi, lo, cost, error)
        loss[i] = sum_value(hi, lo)
