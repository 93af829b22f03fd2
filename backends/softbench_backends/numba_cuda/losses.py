"""Losses and their gradients as operations of `operations`: labels, distributions, smoothed labels."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from softbench.interface.labels import IGNORED, INVALID
from softbench.interface.row_plan import RowPlan
from softbench_backends.numba_cuda.arithmetic import RAISE, added_pair, arithmetic, normalised, quotient, scaled_pair
from softbench_backends.numba_cuda.device import device, fma
from softbench_backends.numba_cuda.finishing import (
    QUICK_LIMIT,
    coefficient,
    divisor_of,
    log_sum,
    scaling,
    tiny,
    weight_over,
)
from softbench_backends.numba_cuda.memory import memory, real_of
from softbench_backends.numba_cuda.operations import WITHOUT_TARGET, Operation, no_start
from softbench_backends.numba_cuda.records import HAS_CLASS, HAS_SAMPLE
from softbench_backends.numba_cuda.sums import LOWERED

__all__ = ["index", "operation", "smooth", "soft"]

Device = Callable[..., Any]

_wide = arithmetic("float64")
_two_sum, _shift, _exp_parts, _scale = _wide.two_sum, _wide.shift, _wide.exp_parts, _wide.scale
_ZERO, _ONE, _NAN = np.float64(0.0), np.float64(1.0), np.float64(np.nan)
_NO = np.int32(0)


@device
def _weights(target: Any, row: Any, y: Any) -> Any:
    """``(s, w[y])``: sample and class weight of a row."""
    return (
        target.sample_weight[row] if target.given & HAS_SAMPLE else _ONE,
        target.class_weight[y] if target.given & HAS_CLASS else _ONE,
    )


def index(dtype: str, plan: RowPlan) -> Operation:
    """Loss ``s w (L - (d_y + r_y))`` and gradient ``s w (p - onehot(y)) / divisor``. Zhao eq. (9)-(11).

    The gradient's label entry is minus the sum of the *other* probabilities.
    """
    real, read = real_of(dtype), memory(dtype, plan.width, plan.whole).read
    prepare, quick, exact = scaling(dtype)
    zero = real(0.0)

    @device
    def begin(x: Any, base: Any, row: Any, k: Any, target: Any) -> Any:
        label = target.labels[row]
        y = label if label >= 0 else np.int64(0)
        return label, y, np.float64(read(x, base + y))

    @device
    def finish(sums: Any, start: Any, row: Any, k: Any, target: Any, result: Any, at: Any) -> Any:
        label, y, x_y = start
        m = sums[0]
        high, low, log_s = log_sum(m, sums[1], sums[2])
        if label == INVALID:
            high, low, log_s = _NAN, _NAN, _NAN
        s, w = _weights(target, row, y)
        d, r = _shift(x_y, m)
        over, over_low = divisor_of(target)
        weight, weight_low, power = weight_over(s, w, over, over_low)
        c, c_low, power = coefficient(weight, weight_low, power, high, low)
        # Excluding the label: s itself where the label is an argmax, else 1 + s less its own exponential.
        excluding_label, excluding_label_low = high, low
        if d < _ZERO:
            f, e = _exp_parts(d, r)
            excluding_label, excluding_label_low = _two_sum(_ONE, high)
            excluding_label, error = _two_sum(excluding_label, -_scale(f, e))
            excluding_label_low = (excluding_label_low + low) + error
        excluding_label, label_power = excluding_label + excluding_label_low, power
        if tiny(high) and d == _ZERO:
            excluding_label, label_power = sums[3], power - RAISE
        result[at] = m
        result[at + 1] = c
        result[at + 2] = c_low
        result[at + 3] = np.float64(power)
        result[at + 4] = _ZERO - _scale(fma(excluding_label, c, excluding_label * c_low), label_power)
        result[at + 5] = np.float64(label == IGNORED)
        # A weight of 0 contributes 0, even where the class is absent.
        loss = s * w * ((log_s - d) - r) if s * w != _ZERO else s * w * log_s
        if tiny(high) and d == _ZERO:
            loss = _scale(s * w * sums[3], -RAISE)
        return _ZERO if label == IGNORED else loss

    @device
    def unpack(result: Any, at: Any) -> Any:
        c, c_low, power = result[at + 1], result[at + 2], np.int64(result[at + 3])
        factor, factor_low, last = prepare(c, c_low, power)
        ignored = np.int32(result[at + 5])
        return real(result[at]), factor, factor_low, last, ignored, c, c_low, power, real(result[at + 4])

    @device
    def entry(y: Any, q: Any, r: Any) -> Any:
        return zero if r[4] != _NO else quick(y, r[1], r[2], r[3])

    @device
    def careful(x: Any, q: Any, r: Any) -> Any:
        return zero if r[4] != _NO else exact(x, r[0], r[5], r[6], r[7])

    @device
    def label_entry(r: Any) -> Any:
        return r[8]

    return Operation(arithmetic(dtype), begin, finish, 6, unpack, entry, True, _beyond_quick_7, careful, label_entry)


@device
def _beyond_quick_7(r: Any) -> Any:
    return r[7] >= QUICK_LIMIT


def soft(dtype: str, plan: RowPlan, q_dtype: str) -> Operation:
    """Loss ``sum_k q_k (L - d_k)`` and gradient ``(sum q) p - q``, over the divisor, for ``q`` in ``q_dtype``.

    Zhao eq. (9)-(11). The loss is summed as ``(sum q) L + sum_k q_k (m - x_k)``; for ``q >= 0`` all its terms are.
    """
    real = real_of(dtype)
    load, read = memory(q_dtype, plan.width, plan.whole).load, memory(q_dtype, plan.width, plan.whole).read
    prepare, quick, exact = scaling(dtype)
    zero, slack = real(0.0), real(_SLACK * np.finfo(real).eps)
    zero_exponent = np.int64(0)

    @device
    def load_targets(target: Any, base: Any, j: Any, start: Any, targets: Any, i: Any) -> None:
        load(target.q, base + j, targets, i)

    @device
    def load_targets_again(target: Any, base: Any, j: Any, y: Any, r: Any, targets: Any, i: Any) -> None:
        load(target.q, base + j, targets, i)

    @device
    def target_again(target: Any, base: Any, j: Any, y: Any, r: Any) -> Any:
        return read(target.q, base + j)

    @device
    def finish(sums: Any, start: Any, row: Any, k: Any, target: Any, result: Any, at: Any) -> Any:
        high, low, log_s = log_sum(sums[0], sums[1], sums[2])
        over, over_low = divisor_of(target)
        over = over if over != _ZERO else _NAN
        _mass_coefficient(sums, high, low, over, over_low, zero_exponent, result, at)
        inverse, inverse_low = quotient(_ONE, _ZERO, over, over_low)
        result[at + 4] = inverse
        result[at + 5] = inverse_low
        result[at + 6] = np.float64(_alone(sums))
        return _loss_of(sums, log_s, zero_exponent)

    @device
    def unpack(result: Any, at: Any) -> Any:
        c, c_low, power = result[at + 1], result[at + 2], np.int64(result[at + 3])
        factor, factor_low, last = prepare(c, c_low, power)
        per_q = real(result[at + 4])
        rest = (result[at + 4] - np.float64(per_q)) + result[at + 5]
        per_q_low = real(rest) if rest - rest == _ZERO else zero
        alone = np.int32(result[at + 6])
        return real(result[at]), factor, factor_low, last, per_q, per_q_low, c, c_low, power, alone

    @device
    def entry(y: Any, q: Any, r: Any) -> Any:
        return fma(-q, r[4], fma(-q, r[5], quick(y, r[1], r[2], r[3])))

    @device
    def careful(x: Any, q: Any, r: Any) -> Any:
        value = fma(-q, r[4], fma(-q, r[5], exact(x, r[0], r[6], r[7], r[8])))
        return zero if x == r[0] and abs(value) <= slack * abs(q * r[4]) else value

    targets = load_targets, load_targets_again, target_again
    return _of_distribution(dtype, no_start, finish, 7, unpack, entry, careful, targets)


def _of_distribution(
    dtype: str, begin: Any, finish: Any, size: int, unpack: Any, entry: Any, careful: Any, targets: tuple[Any, Any, Any]
) -> Operation:
    """What `soft` and `smooth` have in common; ``targets`` load them, load them again, and make one again."""
    load, load_again, again = targets
    return Operation(
        arithmetic(dtype),
        begin,
        finish,
        size,
        unpack,
        entry,
        True,
        _is_rare,
        careful,
        load_targets=load,
        load_targets_again=load_again,
        target_again=again,
    )


_SLACK: Final = 2.0
"""Where a class has p = 1, its entry is what the others weigh; less of it than this, in units of the last place of the
class's own weight, is what two roundings of the same number leave."""


@device
def _alone(sums: Any) -> Any:
    """Whether one class has p = 1: the only one, or the only one that is not absent."""
    return sums[3] == _ZERO


@device
def _is_rare(r: Any) -> Any:
    return r[8] >= QUICK_LIMIT or r[9] != _NO


@device
def _loss_of(sums: Any, log_s: Any, exponent: Any) -> Any:
    """``((sum q) L + sum q (m - x)) 2^exponent``."""
    mass, gap, gap_low = sums[4] + sums[5], sums[6], sums[7]
    if tiny(sums[1]) and log_s == log_s:
        of_mass = _scale(mass * sums[3], exponent - RAISE)
    else:
        of_mass = _scale(mass * log_s, exponent)
    gap = gap + gap_low if gap_low - gap_low == _ZERO else gap
    return of_mass + _scale(gap, exponent + LOWERED)


@device
def _mass_coefficient(
    sums: Any, high: Any, low: Any, over: Any, over_low: Any, exponent: Any, result: Any, at: Any
) -> None:
    """``m`` and the coefficient of the probabilities, ``(sum q) 2^exponent / divisor / (1 + s)``, into ``result``."""
    mass, mass_low = sums[4], sums[5]
    _, size_power = normalised(abs(mass))
    to_size = _scale(_ONE, -size_power)
    c, c_low = quotient(mass * to_size, mass_low * to_size, over, over_low)
    c, c_low, power = coefficient(c, c_low, exponent + size_power, high, low)
    result[at] = sums[0]
    result[at + 1] = c
    result[at + 2] = c_low
    result[at + 3] = np.float64(power)


def smooth(dtype: str, plan: RowPlan, weighted: bool) -> Operation:
    """`soft` for ``q_k = s ((1 - eps) w[y] [k == y] + eps w[k] / K)``, made on the fly; ``weighted``: there are ``w``.

    ``q`` is made again for the gradient, divided before its one rounding.
    """
    real, width = real_of(dtype), plan.width
    prepare, quick, exact = scaling(dtype)
    zero, slack = real(0.0), real(_SLACK * np.finfo(real).eps)

    if weighted:
        # The one place with float64 per element: class weights are float64, and q is rounded once.
        @device
        def make(target: Any, j: Any, y: Any, pairs: Any) -> Any:
            q_j, q_low = scaled_pair(pairs[0], pairs[1], target.class_weight[j])
            if j == y:
                q_j, q_low = added_pair(q_j, q_low, pairs[2], pairs[3])
            return real(q_j)
    else:

        @device
        def make(target: Any, j: Any, y: Any, pairs: Any) -> Any:
            return pairs[5] if j == y else pairs[4]

    @device
    def pairs_of(off: Any, off_low: Any, on: Any, on_low: Any) -> Any:
        """What `make` needs: ``off w[k] + on [k == y]``, and both cases without class weights, rounded."""
        both, _ = added_pair(off, off_low, on, on_low)
        return off, off_low, on, on_low, real(off), real(both)

    @device
    def begin(x: Any, base: Any, row: Any, k: Any, target: Any) -> Any:
        label = target.labels[row]
        y = label if label >= 0 else np.int64(0)
        s, w = _weights(target, row, y)
        s, exponent = normalised(s)  # its power of two is put back at the end
        smoothing = target.smoothing
        off, off_low = quotient(smoothing, _ZERO, np.float64(k), _ZERO)
        off, off_low = scaled_pair(off, off_low, s)
        on, on_low = _two_sum(_ONE, -smoothing)
        on, on_low = scaled_pair(on, on_low, w)
        on, on_low = scaled_pair(on, on_low, s)
        return label, y, exponent, pairs_of(off, off_low, on, on_low)

    @device
    def load_targets(target: Any, base: Any, j: Any, start: Any, targets: Any, i: Any) -> None:
        for u in range(width):
            targets[i + u] = make(target, j + u, start[1], start[3])

    @device
    def load_targets_again(target: Any, base: Any, j: Any, y: Any, r: Any, targets: Any, i: Any) -> None:
        for u in range(width):
            targets[i + u] = make(target, j + u, y, r[5])

    @device
    def target_again(target: Any, base: Any, j: Any, y: Any, r: Any) -> Any:
        return make(target, j, y, r[5])

    @device
    def finish(sums: Any, start: Any, row: Any, k: Any, target: Any, result: Any, at: Any) -> Any:
        label, _, exponent, pairs = start
        high, low, log_s = log_sum(sums[0], sums[1], sums[2])
        if label == INVALID:
            high, low, log_s = _NAN, _NAN, _NAN
        over, over_low = divisor_of(target)
        over = over if over != _ZERO else _NAN
        _mass_coefficient(sums, high, low, over, over_low, exponent, result, at)
        off, off_low = quotient(pairs[0], pairs[1], over, over_low)
        on, on_low = quotient(pairs[2], pairs[3], over, over_low)
        result[at + 4] = np.float64(label == IGNORED)
        result[at + 5], result[at + 6] = _scale(off, exponent), _scale(off_low, exponent)
        result[at + 7], result[at + 8] = _scale(on, exponent), _scale(on_low, exponent)
        result[at + 9] = np.float64(_alone(sums))
        return _ZERO if label == IGNORED else _loss_of(sums, log_s, exponent)

    @device
    def unpack(result: Any, at: Any) -> Any:
        c, c_low, power = result[at + 1], result[at + 2], np.int64(result[at + 3])
        factor, factor_low, last = prepare(c, c_low, power)
        pairs = pairs_of(result[at + 5], result[at + 6], result[at + 7], result[at + 8])
        ignored, alone = np.int32(result[at + 4]), np.int32(result[at + 9])
        return real(result[at]), factor, factor_low, last, ignored, pairs, c, c_low, power, alone

    @device
    def entry(y: Any, q: Any, r: Any) -> Any:
        return zero if r[4] != _NO else quick(y, r[1], r[2], r[3]) - q

    @device
    def careful(x: Any, q: Any, r: Any) -> Any:
        value = exact(x, r[0], r[6], r[7], r[8]) - q
        value = zero if x == r[0] and abs(value) <= slack * abs(q) else value
        return zero if r[4] != _NO else value

    targets = load_targets, load_targets_again, target_again
    return _of_distribution(dtype, begin, finish, 10, unpack, entry, careful, targets)


@functools.cache
def operation(name: str, dtype: str, plan: RowPlan, q_dtype: str = "float32") -> Operation:
    """The operation ``name``, one of `WITHOUT_TARGET`, "index", "soft", "smooth" and "smooth_weighted"."""
    if name in WITHOUT_TARGET:
        return WITHOUT_TARGET[name](dtype)
    if name == "index":
        return index(dtype, plan)
    if name == "soft":
        return soft(dtype, plan, q_dtype)
    return smooth(dtype, plan, name == "smooth_weighted")
