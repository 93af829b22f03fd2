"""The row kernels, one factory each: ``factory(dtype, plan)`` gives the Python function of a kernel.

Notation of `softbench.interface`: ``m`` the maximum, ``d + r = x - m`` exactly, ``s`` the sum of ``exp(d + r)`` over
all classes but one argmax, ``L = log1p(s)``. Per element everything is in the rows' dtype; a row is finished in
float64, by all its lanes alike, which costs a warp no more than if one did it.

Arrays are flat and contiguous, offsets 64 bits wide. Lanes beyond the end of a row, and rows beyond the last, read an
element that exists and discard it, so that loads need no branch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numba import cuda

from softbench_backends.numba_cuda.arithmetic import (
    UNIT,
    added_pair,
    arithmetic,
    merge,
    normalised,
    product,
    quotient,
    scaled_pair,
)
from softbench_backends.numba_cuda.device import device, fma
from softbench_backends.numba_cuda.lanes import greater, lanes_of, slot_count
from softbench_backends.numba_cuda.plan import Plan

__all__ = [
    "argmax",
    "index_loss",
    "log_loss_index",
    "log_loss_soft",
    "log_softmax",
    "logsumexp",
    "soft_loss",
    "softmax",
]

Kernel = Callable[..., None]
Device = Callable[..., Any]

IGNORED: Final = -1
INVALID: Final = -2
HAS_SAMPLE: Final = 1
HAS_CLASS: Final = 2
HAS_DIVISOR: Final = 4
"""Bits of the ``given`` argument: which pointers are valid. A divisor is a sum and what it rounds away."""

_wide = arithmetic("float64")
_two_sum, _shift, _exp_parts, _scale = _wide.two_sum, _wide.shift, _wide.exp_parts, _wide.scale
_ZERO, _ONE, _NAN, _INF = np.float64(0.0), np.float64(1.0), np.float64(np.nan), np.float64(np.inf)


# -- finishing a row, in float64 -------------------------------------------------------------------------------------


@device
def finish(m: Any, high: Any, low: Any) -> Any:
    """``(high, low, L)`` of a row's ``s``; all NaN where the row's maximum is not finite."""
    if m - m != _ZERO:
        return _NAN, _NAN, _NAN
    return high, low, math.log1p(high) + low / (_ONE + high)


@device
def coefficient(a: Any, a_low: Any, k: Any, high: Any, low: Any) -> Any:
    """``a 2^k / (1 + s)`` as ``(c, c_low, k)`` with 1 <= c < 2 (or 0, or not finite)."""
    total, total_low = _two_sum(high, _ONE)
    c, c_low = quotient(a, a_low, total, total_low + low)
    d, shift = normalised(abs(c))
    factor = _scale(_ONE, -shift)
    return (d if c >= _ZERO else -d) if c == c else c, c_low * factor, k + shift


@device
def weight_over(s: Any, w: Any, divisor: Any, divisor_low: Any) -> Any:
    """``s w / divisor`` as ``(a, a_low, k)``, whatever the range of each; NaN where the divisor is 0."""
    s, k_s = normalised(s)
    w, k_w = normalised(w)
    divisor, k_d = normalised(divisor)
    a, a_low = product(s, w)
    a, a_low = quotient(a, a_low, divisor, _scale(_ONE, -k_d) * divisor_low)
    return (a if divisor != _ZERO else _NAN), a_low, k_s + k_w - k_d


# -- reading a row ---------------------------------------------------------------------------------------------------


def _tile_sums(dtype: str, plan: Plan, keep_exp: bool) -> Device:
    """Device function: ``(high, low)`` of ``s`` of the tile in ``tile``, whose maximum over the row's lanes is ``m``.

    On return ``tile`` holds ``exp(d + r) * 2^UNIT`` if ``keep_exp``, else what it held.
    """
    real = np.float32 if dtype == "float32" else np.float64
    a, lanes = arithmetic(dtype), lanes_of(plan.lanes, dtype)
    two_sum, shift, exp_unit, total, count = a.two_sum, a.shift, a.exp_unit, lanes.total, lanes.count
    values = plan.values
    zero = real(0.0)
    to_unit = np.float64(2.0 ** -UNIT[dtype])

    @device
    def tile_sums(tile: Any, m: Any, slots: Any) -> Any:
        high, low = zero, zero
        ties = np.int32(0)
        for i in range(values):
            d, r = shift(tile[i], m)
            y = exp_unit(d, r)
            ties = np.int32(ties + np.int32(d == zero))
            high, error = two_sum(high, y if d < zero else zero)
            low = low + error
            if keep_exp:
                tile[i] = y
        wide_high, wide_low = total(np.float64(high) * to_unit, np.float64(low) * to_unit, slots)
        others = np.float64(count(ties, slots)) - _ONE
        wide_high, error = _two_sum(others if others > _ZERO else _ZERO, wide_high)
        return wide_high, wide_low + error

    return tile_sums


def _load(dtype: str, plan: Plan) -> Device:
    """Device function: read a tile into registers, -inf beyond the row's end; return its maximum over all lanes."""
    real = np.float32 if dtype == "float32" else np.float64
    maximum, stride, values = lanes_of(plan.lanes, dtype).maximum, plan.lanes, plan.values
    minus_inf = real(-np.inf)

    @device
    def load(x: Any, base: Any, first: Any, k: Any, tile: Any, slots: Any) -> Any:
        for i in range(values):
            j = first + i * stride
            z = x[base + (j if j < k else k - 1)]
            tile[i] = z if j < k else minus_inf
        m = tile[0]
        for i in range(1, values):
            m = greater(m, tile[i])
        return maximum(greater(minus_inf, m), slots)

    return load


def _row_sums(dtype: str, plan: Plan, keep_exp: bool) -> Device:
    """Device function: ``(m, high, low)`` of a row from one reading; ``tile`` is left as `_tile_sums` leaves it."""
    real = np.float32 if dtype == "float32" else np.float64
    load, tile_sums = _load(dtype, plan), _tile_sums(dtype, plan, keep_exp)
    width = plan.lanes * plan.values
    if plan.resident:

        @device
        def row_sums(x: Any, base: Any, lane: Any, k: Any, tile: Any, slots: Any) -> Any:
            m = load(x, base, lane, k, tile, slots)
            high, low = tile_sums(tile, m, slots)
            return m, high, low
    else:

        @device
        def row_sums(x: Any, base: Any, lane: Any, k: Any, tile: Any, slots: Any) -> Any:
            m, high, low = -_INF, _ZERO, _ZERO
            for start in range(0, k, width):
                m_tile = load(x, base, start + lane, k, tile, slots)
                tile_high, tile_low = tile_sums(tile, m_tile, slots)
                m, high, low = merge(m, high, low, np.float64(m_tile), tile_high, tile_low)
            return real(m), high, low

    return row_sums


def _place(plan: Plan) -> Device:
    """Device function: ``(row, lane)`` of this thread; the row may lie beyond the last."""
    lanes, rows = plan.lanes, plan.rows

    @device
    def place() -> Any:
        thread = np.int64(cuda.threadIdx.x)
        return np.int64(cuda.blockIdx.x) * rows + thread // lanes, thread % lanes

    return place


# -- without a target ------------------------------------------------------------------------------------------------


def argmax(dtype: str, plan: Plan) -> Kernel:
    """Zhao eq. (1), (2). One online pass, whatever the plan."""
    first_best, stride, place = lanes_of(plan.lanes, dtype).first_best, plan.lanes, _place(plan)
    shared = slot_count(plan.lanes)

    def kernel(x: Any, out: Any, n: Any, k: Any) -> None:
        slots = cuda.shared.array(shared, np.float64)
        index_slots = cuda.shared.array(shared, np.int64)
        row, lane = place()
        base = (row if row < n else n - 1) * k
        best = lane if lane < k else k - 1
        value = x[base + best]
        for j in range(lane + stride, k, stride):
            z = x[base + j]
            # Within a lane indices ascend: only a larger value, or the first NaN, is better.
            take = z > value or (z != z and value == value)
            value = z if take else value
            best = j if take else best
        value, best = first_best(value, best, slots, index_slots)
        if row < n and lane == 0:
            out[row] = best

    return kernel


def logsumexp(dtype: str, plan: Plan) -> Kernel:
    """``m + L``. Zhao eq. (3)."""
    real = np.float32 if dtype == "float32" else np.float64
    row_sums, place, values = _row_sums(dtype, plan, False), _place(plan), plan.values
    shared = slot_count(plan.lanes)

    def kernel(x: Any, out: Any, n: Any, k: Any) -> None:
        tile = cuda.local.array(values, real)
        slots = cuda.shared.array(shared, np.float64)
        row, lane = place()
        m, high, low = row_sums(x, (row if row < n else n - 1) * k, lane, k, tile, slots)
        high, low, log_s = finish(np.float64(m), high, low)
        if row < n and lane == 0:
            out[row] = real(np.float64(m) + log_s) if log_s == log_s else m

    return kernel


def softmax(dtype: str, plan: Plan) -> Kernel:
    """``exp(d + r) / (1 + s)``. Zhao eq. (4), (5)."""
    real = np.float32 if dtype == "float32" else np.float64
    shift, exp_unit = arithmetic(dtype).shift, arithmetic(dtype).exp_unit
    row_sums, place, fence = _row_sums(dtype, plan, True), _place(plan), lanes_of(plan.lanes, dtype).fence
    stride, values, resident = plan.lanes, plan.values, plan.resident
    to_unit = np.float64(2.0 ** -UNIT[dtype])
    shared = slot_count(plan.lanes)

    def kernel(x: Any, out: Any, n: Any, k: Any) -> None:
        tile = cuda.local.array(values, real)
        slots = cuda.shared.array(shared, np.float64)
        row, lane = place()
        base = (row if row < n else n - 1) * k
        m, high, low = row_sums(x, base, lane, k, tile, slots)
        high, low, _ = finish(np.float64(m), high, low)
        total, total_low = _two_sum(high, _ONE)
        c, c_low = quotient(_ONE, _ZERO, total, total_low + low)
        c, c_low = c * to_unit, c_low * to_unit
        factor = real(c)
        factor_low = real((c - np.float64(factor)) + c_low)
        fence()
        if resident:
            for i in range(values):
                j = lane + i * stride
                if j < k and row < n:
                    out[base + j] = fma(tile[i], factor, tile[i] * factor_low)
        else:
            for j in range(lane, k, stride):
                d, r = shift(x[base + j], m)
                y = exp_unit(d, r)
                if row < n:
                    out[base + j] = fma(y, factor, y * factor_low)

    return kernel


def log_softmax(dtype: str, plan: Plan) -> Kernel:
    """``(d - L) + r``: nothing cancels, both ``d`` and ``-L`` being <= 0."""
    real = np.float32 if dtype == "float32" else np.float64
    shift = arithmetic(dtype).shift
    row_sums, place, fence = _row_sums(dtype, plan, False), _place(plan), lanes_of(plan.lanes, dtype).fence
    stride, values, resident = plan.lanes, plan.values, plan.resident
    shared = slot_count(plan.lanes)

    def kernel(x: Any, out: Any, n: Any, k: Any) -> None:
        tile = cuda.local.array(values, real)
        slots = cuda.shared.array(shared, np.float64)
        row, lane = place()
        base = (row if row < n else n - 1) * k
        m, high, low = row_sums(x, base, lane, k, tile, slots)
        high, low, log_s = finish(np.float64(m), high, low)
        log_s_rounded = real(log_s)
        log_s_low = real(log_s - np.float64(log_s_rounded))
        fence()
        if resident:
            for i in range(values):
                j = lane + i * stride
                d, r = shift(tile[i], m)
                if j < k and row < n:
                    out[base + j] = (d - log_s_rounded) + (r - log_s_low)
        else:
            for j in range(lane, k, stride):
                d, r = shift(x[base + j], m)
                if row < n:
                    out[base + j] = (d - log_s_rounded) + (r - log_s_low)

    return kernel


# -- with a target ---------------------------------------------------------------------------------------------------


def _store_scaled(dtype: str) -> tuple[Device, Device, Device]:
    """Device functions that apply a row's coefficient ``c 2^k`` to its exponentials, before the one rounding.

    ``prepare(c, c_low, k)`` gives ``(factor, factor_low, power)``; ``quick(y, factor, factor_low, power)`` is right for
    ``y = exp(d + r) 2^UNIT`` while ``k`` is below `quick_limit`: beyond, what `exp_unit` flushed to 0 would matter, and
    ``exact(x, m, c, c_low, k)`` starts again from the logit.
    """
    real = np.float32 if dtype == "float32" else np.float64
    a = arithmetic(dtype)
    shift, exp_parts, scale, power_of = a.shift, a.exp_parts, a.scale, a.power
    unit = np.int64(UNIT[dtype])
    least = np.int64(-30)  # y * factor stays normal down to the smallest y that matters
    zero = real(0.0)

    @device
    def split(c: Any, c_low: Any) -> Any:
        factor = real(c)
        rest = (c - np.float64(factor)) + c_low
        return factor, (real(rest) if rest - rest == _ZERO else zero)

    @device
    def prepare(c: Any, c_low: Any, k: Any) -> Any:
        first = k if k > least else least
        first = first if first < unit else unit
        factor, factor_low = split(c, c_low)
        to_unit = power_of(first - unit)
        return factor * to_unit, factor_low * to_unit, scale(real(1.0), k - first)

    @device
    def quick(y: Any, factor: Any, factor_low: Any, power: Any) -> Any:
        return fma(y, factor, y * factor_low) * power

    @device
    def exact(x: Any, m: Any, c: Any, c_low: Any, k: Any) -> Any:
        d, r = shift(x, m)
        f, n = exp_parts(d, r)
        factor, factor_low = split(c, c_low)
        return scale(fma(f, factor, f * factor_low), n + k)

    return prepare, quick, exact


_QUICK_LIMIT: Final = np.int64(40)
"""Coefficients up to 2^40 times the largest exponential that `exp_unit` flushes are still far below a subnormal."""


def index_loss(dtype: str, plan: Plan, want_loss: bool, want_gradient: bool) -> Kernel:
    """Loss ``s w (L - (d_y + r_y))`` and gradient ``s w (p - onehot(y)) / divisor``. Zhao eq. (9)-(11).

    The gradient's label entry is minus the sum of the *other* probabilities.
    """
    real = np.float32 if dtype == "float32" else np.float64
    a = arithmetic(dtype)
    shift, exp_unit = a.shift, a.exp_unit
    row_sums, place, fence = _row_sums(dtype, plan, want_gradient), _place(plan), lanes_of(plan.lanes, dtype).fence
    prepare, quick, exact = _store_scaled(dtype)
    stride, values, resident = plan.lanes, plan.values, plan.resident
    zero = real(0.0)
    shared = slot_count(plan.lanes)

    def kernel(
        x: Any,
        labels: Any,
        sample_weight: Any,
        class_weight: Any,
        divisor: Any,
        divisor_value: Any,
        given: Any,
        loss: Any,
        out: Any,
        n: Any,
        k: Any,
    ) -> None:
        tile = cuda.local.array(values, real)
        slots = cuda.shared.array(shared, np.float64)
        row, lane = place()
        live = row < n
        row = row if live else n - 1
        base = row * k
        label = labels[row]
        y = label if label >= 0 else 0
        x_y = x[base + y]
        m, high, low = row_sums(x, base, lane, k, tile, slots)
        high, low, log_s = finish(np.float64(m), high, low)
        if label == INVALID:
            high, low, log_s = _NAN, _NAN, _NAN
        s = sample_weight[row] if given & HAS_SAMPLE else _ONE
        w = class_weight[y] if given & HAS_CLASS else _ONE
        d, r = _shift(np.float64(x_y), np.float64(m))
        fence()
        if want_loss and live and lane == 0:
            loss[row] = _ZERO if label == IGNORED else s * w * ((log_s - d) - r)
        if want_gradient:
            over = divisor[0] if given & HAS_DIVISOR else divisor_value
            over_low = divisor[1] if given & HAS_DIVISOR else _ZERO
            weight, weight_low, power = weight_over(s, w, over, over_low)
            c, c_low, power = coefficient(weight, weight_low, power, high, low)
            # Everything but the label: s itself where the label is an argmax, else 1 + s less its own exponential.
            others, others_low = high, low
            if d < _ZERO:
                f, e = _exp_parts(d, r)
                others, others_low = _two_sum(_ONE, high)
                others, error = _two_sum(others, -_scale(f, e))
                others_low = (others_low + low) + error
            others = others + others_low
            at_label = real(_ZERO - _scale(fma(others, c, others * c_low), power))
            if label == IGNORED:
                at_label = zero
            factor, factor_low, rest = prepare(c, c_low, power)
            if resident and power < _QUICK_LIMIT:
                for i in range(values):
                    j = lane + i * stride
                    g = quick(tile[i], factor, factor_low, rest)
                    g = zero if label == IGNORED else g
                    if j < k and live:
                        out[base + j] = at_label if j == y else g
            else:
                for j in range(lane, k, stride):
                    z = x[base + j]
                    if power < _QUICK_LIMIT:
                        z_d, z_r = shift(z, m)
                        g = quick(exp_unit(z_d, z_r), factor, factor_low, rest)
                    else:
                        g = exact(z, m, c, c_low, power)
                    g = zero if label == IGNORED else g
                    if live:
                        out[base + j] = at_label if j == y else g

    return kernel


def _target_source(dtype: str, smoothed: bool, classes: bool) -> Device:
    """Device function: ``q`` at class ``j`` of a row, from the array or from ``off w[j] + on [j == y]``, rounded once.

    ``off`` and ``on`` are float64 pairs, ``off_label`` and ``at_label`` what they come to without class weights.
    """
    real = np.float32 if dtype == "float32" else np.float64
    if not smoothed:

        @device
        def source(
            q: Any,
            class_weight: Any,
            base: Any,
            j: Any,
            y: Any,
            off: Any,
            on: Any,
            off_low: Any,
            on_low: Any,
            off_label: Any,
            at_label: Any,
        ) -> Any:
            return q[base + j]
    elif not classes:

        @device
        def source(
            q: Any,
            class_weight: Any,
            base: Any,
            j: Any,
            y: Any,
            off: Any,
            on: Any,
            off_low: Any,
            on_low: Any,
            off_label: Any,
            at_label: Any,
        ) -> Any:
            return at_label if j == y else off_label
    else:
        # The one place with float64 per element: class weights are float64, and q is rounded once.
        @device
        def source(
            q: Any,
            class_weight: Any,
            base: Any,
            j: Any,
            y: Any,
            off: Any,
            on: Any,
            off_low: Any,
            on_low: Any,
            off_label: Any,
            at_label: Any,
        ) -> Any:
            q_j, q_low = scaled_pair(off, off_low, class_weight[j])
            if j == y:
                q_j, q_low = added_pair(q_j, q_low, on, on_low)
            return real(q_j)

    return source


def soft_loss(
    dtype: str, plan: Plan, want_loss: bool, want_gradient: bool, smoothed: bool = False, classes: bool = False
) -> Kernel:
    """Loss ``sum_k q_k (L - d_k)`` and gradient ``(sum q) p - q``, over the divisor. Zhao eq. (9)-(11).

    ``smoothed``: ``q_k = (1 - eps) w[y] [k == y] + eps w[k] / K``, times the sample weight, is made on the fly. The
    loss is summed as ``(sum q) L + sum_k q_k (m - x_k)``; for ``q >= 0`` all its terms are.
    """
    real = np.float32 if dtype == "float32" else np.float64
    a, lanes = arithmetic(dtype), lanes_of(plan.lanes, dtype)
    shift, exp_unit, two_sum, power_of = a.shift, a.exp_unit, a.two_sum, a.power
    maximum, total, fence = lanes.maximum, lanes.total, lanes.fence
    load, tile_sums, place = _load(dtype, plan), _tile_sums(dtype, plan, want_gradient), _place(plan)
    source = _target_source(dtype, smoothed, classes)
    prepare, quick, exact = _store_scaled(dtype)
    stride, values, resident, width = plan.lanes, plan.values, plan.resident, plan.lanes * plan.values
    zero, half, infinite = real(0.0), real(0.5), real(np.inf)
    # q is scaled to at most 2^-margin: q (m - x) / 2 then overflows nowhere, and loses nothing that matters.
    margin = np.int64(8 if dtype == "float32" else 40)

    @device
    def tile_target_sums(tile: Any, targets: Any, m: Any, slots: Any) -> Any:
        """``sum q`` and ``sum q (m - x)`` of a tile, each as a pair."""
        largest = zero
        for i in range(values):
            largest = greater(largest, abs(targets[i]))
        _, k = normalised(np.float64(maximum(largest, slots)))
        k = k + margin
        first = -k >> np.int64(1)
        to_margin, to_margin_too = power_of(first), power_of(-k - first)
        mass, mass_low, gap, gap_low = zero, zero, zero, zero
        half_m = m * half
        for i in range(values):
            q = targets[i]
            scaled = q * to_margin * to_margin_too
            distance = infinite if tile[i] == -infinite else half_m - tile[i] * half
            term = (q if distance == infinite else scaled) * distance
            mass, error = two_sum(mass, scaled)
            mass_low += error
            gap, error = two_sum(gap, zero if q == zero else term)
            gap_low += error
        mass_high, mass_rest = total(np.float64(mass), np.float64(mass_low), slots)
        # A sum that is infinite has no error term.
        gap_high, gap_rest = total(np.float64(gap), np.float64(gap_low if gap_low - gap_low == zero else zero), slots)
        gap_rest = gap_rest if gap_rest - gap_rest == _ZERO else _ZERO
        return (
            _scale(mass_high, k),
            _scale(mass_rest, k),
            _scale(gap_high, k + np.int64(1)),
            _scale(gap_rest, k + np.int64(1)),
        )

    shared = slot_count(plan.lanes)

    def kernel(
        x: Any,
        q: Any,
        labels: Any,
        sample_weight: Any,
        class_weight: Any,
        smoothing: Any,
        divisor: Any,
        divisor_value: Any,
        given: Any,
        loss: Any,
        out: Any,
        n: Any,
        k: Any,
    ) -> None:
        tile = cuda.local.array(values, real)
        slots = cuda.shared.array(shared, np.float64)
        targets = cuda.local.array(values, real)
        row, lane = place()
        live = row < n
        row = row if live else n - 1
        base = row * k
        label, y = np.int64(0), np.int64(-1)
        off, on, off_low, on_low, exponent = _ZERO, _ZERO, _ZERO, _ZERO, np.int64(0)
        if smoothed:
            label = labels[row]
            y = label if label >= 0 else np.int64(0)
            s = sample_weight[row] if given & HAS_SAMPLE else _ONE
            w = class_weight[y] if given & HAS_CLASS else _ONE
            s, exponent = normalised(s)  # its power of two is put back at the end
            off, off_low = quotient(smoothing, _ZERO, np.float64(k), _ZERO)
            off, off_low = scaled_pair(off, off_low, s)
            on, on_low = _two_sum(_ONE, -smoothing)
            on, on_low = scaled_pair(on, on_low, w)
            on, on_low = scaled_pair(on, on_low, s)
        both, _ = added_pair(off, off_low, on, on_low)
        off_label, at_label = real(off), real(both)
        m, high, low = -_INF, _ZERO, _ZERO
        mass, mass_low, gap, gap_low = _ZERO, _ZERO, _ZERO, _ZERO
        for start in range(0, width if resident else k, width):
            m_tile = load(x, base, start + lane, k, tile, slots)
            for i in range(values):
                j = start + lane + i * stride
                q_j = source(
                    q, class_weight, base, j if j < k else k - 1, y, off, on, off_low, on_low, off_label, at_label
                )
                targets[i] = q_j if j < k else zero
            tile_mass, tile_mass_low, tile_gap, tile_gap_low = tile_target_sums(tile, targets, m_tile, slots)
            tile_high, tile_low = tile_sums(tile, m_tile, slots)
            wide_m = np.float64(m_tile)
            if resident:
                m, high, low = wide_m, tile_high, tile_low
                mass, mass_low, gap, gap_low = tile_mass, tile_mass_low, tile_gap, tile_gap_low
            else:
                before = m
                m, high, low = merge(m, high, low, wide_m, tile_high, tile_low)
                # Refer both parts to the joint maximum. A part of nothing but -inf has no distance to it.
                step = m - before if before > -_INF else _ZERO
                tile_step = m - wide_m if wide_m > -_INF else _ZERO
                gap, error = _two_sum(gap, tile_gap)
                gap_low += error + tile_gap_low
                gap, error = _two_sum(gap, mass * step if step > _ZERO else _ZERO)
                gap_low += error
                gap, error = _two_sum(gap, tile_mass * tile_step if tile_step > _ZERO else _ZERO)
                gap_low += error
                mass, error = _two_sum(mass, tile_mass)
                mass_low += error + tile_mass_low
        high, low, log_s = finish(m, high, low)
        if smoothed and label == INVALID:
            high, low, log_s = _NAN, _NAN, _NAN
        narrow_m = real(m)
        fence()
        if want_loss and live and lane == 0:
            gap = gap + gap_low if gap_low - gap_low == _ZERO else gap
            value = _scale((mass + mass_low) * log_s + gap, exponent)
            loss[row] = _ZERO if smoothed and label == IGNORED else value
        if want_gradient:
            over = divisor[0] if given & HAS_DIVISOR else divisor_value
            over_low = divisor[1] if given & HAS_DIVISOR else _ZERO
            over = over if over != _ZERO else _NAN
            if smoothed:  # q is made again, divided before its one rounding
                off, off_low = quotient(off, off_low, over, over_low)
                on, on_low = quotient(on, on_low, over, over_low)
                off, off_low = _scale(off, exponent), _scale(off_low, exponent)
                on, on_low = _scale(on, exponent), _scale(on_low, exponent)
                both, _ = added_pair(off, off_low, on, on_low)
                off_label, at_label = real(off), real(both)
            inverse, inverse_low = quotient(_ONE, _ZERO, over, over_low)
            per_q = real(inverse)
            rest = (inverse - np.float64(per_q)) + inverse_low
            per_q_low = real(rest) if rest - rest == _ZERO else zero
            _, size_power = normalised(abs(mass))
            to_size = _scale(_ONE, -size_power)
            c, c_low = quotient(mass * to_size, mass_low * to_size, over, over_low)
            c, c_low, power = coefficient(c, c_low, exponent + size_power, high, low)
            factor, factor_low, last = prepare(c, c_low, power)
            if resident and power < _QUICK_LIMIT:
                for i in range(values):
                    j = lane + i * stride
                    p = quick(tile[i], factor, factor_low, last)
                    if smoothed:
                        q_j = source(
                            q,
                            class_weight,
                            base,
                            j if j < k else k - 1,
                            y,
                            off,
                            on,
                            off_low,
                            on_low,
                            off_label,
                            at_label,
                        )
                        g = zero if label == IGNORED else p - q_j
                    else:
                        g = fma(-targets[i], per_q, fma(-targets[i], per_q_low, p))
                    if j < k and live:
                        out[base + j] = g
            else:
                for j in range(lane, k, stride):
                    z = x[base + j]
                    if power < _QUICK_LIMIT:
                        z_d, z_r = shift(z, narrow_m)
                        p = quick(exp_unit(z_d, z_r), factor, factor_low, last)
                    else:
                        p = exact(z, narrow_m, c, c_low, power)
                    q_j = source(q, class_weight, base, j, y, off, on, off_low, on_low, off_label, at_label)
                    if smoothed:
                        g = zero if label == IGNORED else p - q_j
                    else:
                        g = fma(-q_j, per_q, fma(-q_j, per_q_low, p))
                    if live:
                        out[base + j] = g

    return kernel


# -- from probabilities ----------------------------------------------------------------------------------------------


def log_loss_index(dtype: str, plan: Plan) -> Kernel:
    """``-s w log p_y``: a thread per row. Zhao eq. (7)."""
    threads = plan.threads

    def kernel(
        p: Any, labels: Any, sample_weight: Any, class_weight: Any, given: Any, loss: Any, n: Any, k: Any
    ) -> None:
        row = np.int64(cuda.blockIdx.x) * threads + cuda.threadIdx.x
        if row < n:
            label = labels[row]
            y = label if label >= 0 else 0
            p_y = np.float64(p[row * k + y])
            s = sample_weight[row] if given & HAS_SAMPLE else _ONE
            w = class_weight[y] if given & HAS_CLASS else _ONE
            value = s * w * minus_log(p_y)
            value = _NAN if label == INVALID else value
            loss[row] = _ZERO if label == IGNORED else value

    return kernel


@device
def minus_log(p: Any) -> Any:
    """``-log p``: ``+0`` at 1, ``+inf`` at 0, NaN below."""
    if p > _ZERO:
        return _ZERO - math.log(p)
    return _INF if p == _ZERO else _NAN


def log_loss_soft(dtype: str, plan: Plan) -> Kernel:
    """``-sum_k q_k log p_k``, where ``q_k = 0`` contributes 0. Zhao eq. (6).

    In float64 whatever the dtype: a logarithm is one, and nothing near the cost of a softmax hangs on it.
    """
    total, stride, place = lanes_of(plan.lanes, dtype).total, plan.lanes, _place(plan)
    shared = slot_count(plan.lanes)

    def kernel(p: Any, q: Any, loss: Any, n: Any, k: Any) -> None:
        slots = cuda.shared.array(shared, np.float64)
        row, lane = place()
        base = (row if row < n else n - 1) * k
        high, low = _ZERO, _ZERO
        for j in range(lane, k, stride):
            q_j = np.float64(q[base + j])
            term = q_j * minus_log(np.float64(p[base + j])) if q_j != _ZERO else _ZERO
            high, error = _two_sum(high, term)
            low += error
        low = low if low - low == _ZERO else _ZERO
        high, low = total(high, low, slots)
        if row < n and lane == 0:
            loss[row] = high + low if low - low == _ZERO else high

    return kernel
