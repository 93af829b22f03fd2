"""What is summed over a row, from tiles in registers, and how parts of a row are joined.

Notation of `softbench.interface`: ``m`` the maximum, ``d + r = x - m`` exactly, ``s`` the sum of ``exp(d + r)`` over
all classes but one argmax. Sums of a row, or of part of one, are a tuple of float64:

* ``(m, high, low, raised)``, where ``s = high + low`` and ``raised = s 2^RAISE``, which counts where ``s`` is tiny;
* with a distribution as target, also ``(mass, mass_low, gap, gap_low)``: ``sum q`` and ``sum q (m - x) 2^-LOWERED`` as
  pairs. So lowered it does not overflow where a weight of the row brings it back.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np

from softbench.interface.row_plan import RowPlan
from softbench_backends.numba_cuda.arithmetic import RAISE, UNIT, Arithmetic, arithmetic, merge, normalised
from softbench_backends.numba_cuda.device import device, shuffle_xor
from softbench_backends.numba_cuda.lanes import greater, lanes_of
from softbench_backends.numba_cuda.memory import real_of

__all__ = ["LOWERED", "Parts", "exponential_sums", "parts", "target_sums", "tile_maximum"]

Device = Callable[..., Any]

_wide = arithmetic("float64")
_two_sum, _scale = _wide.two_sum, _wide.scale
_ZERO, _ONE, _INF = np.float64(0.0), np.float64(1.0), np.float64(np.inf)

LOWERED: Final = np.int64(64)
_LOWER: Final = np.float64(2.0**-64)


# -- of a tile -------------------------------------------------------------------------------------------------------


def tile_maximum(values: int) -> Device:
    """Device function ``(tile, least)``: the largest of ``least`` and the elements of a tile; NaN if any is."""

    @device
    def largest(tile: Any, least: Any) -> Any:
        m = least
        for i in range(values):
            m = greater(m, tile[i])
        return m

    return largest


class Exponentials(NamedTuple):
    """Device functions that sum exponentials."""

    add: Device
    """``(tile, m, high, low, ties)``: the sum of a lane with a tile of it added; maxima are counted instead."""
    total: Device
    """``(high, low, ties, slots)``: all lanes' sums as ``(high, low, raised)`` of ``s``."""


def exponential_sums(a: Arithmetic, dtype: str, plan: RowPlan, keep: bool) -> Exponentials:
    """Exponentials of tiles, summed in units of 2^-UNIT per lane; ``keep``: they replace the logits in the tile."""
    shift, exp_unit, accumulate = a.shift, a.exp_unit, a.accumulate
    total_and_count, values = lanes_of(plan.lanes, dtype).total_and_count, plan.values
    zero = real_of(dtype)(0.0)
    raise_by, lower_by = np.float64(2.0 ** (int(RAISE) - UNIT[dtype])), np.float64(2.0 ** -int(RAISE))

    @device
    def add(tile: Any, m: Any, high: Any, low: Any, ties: Any) -> Any:
        for i in range(values):
            d, r = shift(tile[i], m)
            y = exp_unit(d, r)
            ties = np.int32(ties + np.int32(d == zero))
            high, low = accumulate(high, low, y if d < zero else zero)
            if keep:
                tile[i] = y
        return high, low, ties

    @device
    def total(high: Any, low: Any, ties: Any, slots: Any) -> Any:
        wide_high, wide_low, count = total_and_count(
            np.float64(high) * raise_by, np.float64(low) * raise_by, ties, slots
        )
        raised = wide_high + wide_low
        wide_high, wide_low = wide_high * lower_by, wide_low * lower_by
        tied = np.float64(count) - _ONE
        wide_high, error = _two_sum(tied if tied > _ZERO else _ZERO, wide_high)
        return wide_high, wide_low + error, raised

    return Exponentials(add, total)


def target_sums(dtype: str, plan: RowPlan) -> Device:
    """Device function ``(tile, targets, m, slots)``: ``(mass, mass_low, gap, gap_low)`` of a tile, over all lanes."""
    lanes, exact = lanes_of(plan.lanes, dtype), arithmetic("float64" if dtype == "float64" else "float32")
    maximum, total, two_sum, power_of, values = lanes.maximum, lanes.total, exact.two_sum, exact.power, plan.values
    real = real_of(dtype)
    zero, half, infinite = real(0.0), real(0.5), real(np.inf)
    wide = dtype == "float64"  # a difference of other dtypes is a float64
    # q is scaled to at most 2^-margin: q (m - x) / 2 then overflows nowhere, and loses nothing that matters.
    margin = np.int64(40 if dtype == "float64" else 8)
    double = np.int64(1)

    @device
    def sums(tile: Any, targets: Any, m: Any, slots: Any) -> Any:
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
            beyond = m - tile[i] == infinite if wide else tile[i] == -infinite  # then the class is as if absent
            distance = infinite if beyond else half_m - tile[i] * half
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
            _scale(gap_high, k + double - LOWERED),
            _scale(gap_rest, k + double - LOWERED),
        )

    return sums


# -- of parts of a row -----------------------------------------------------------------------------------------------


class Parts(NamedTuple):
    """Device functions on the sums of parts of a row."""

    size: int
    """Numbers in a part."""
    merge: Device
    """``(a, b)``: the sums of both parts together."""
    none: Device
    """``()``: the sums of no part."""
    get: Device
    """``(memory, at)``: a part that `put` left."""
    put: Device
    """``(memory, at, part)``."""
    exchange: Device
    """``(part, distance)``: that of the lane whose number differs in the bits of ``distance``."""


@functools.cache
def parts(spread: bool) -> Parts:
    """For parts with ``mass`` and ``gap`` or without."""
    if spread:
        return Parts(8, _merge_spread, _none_spread, _get_spread, _put, _exchange_spread)
    return Parts(4, _merge_plain, _none_plain, _get_plain, _put, _exchange_plain)


@device
def _merge_plain(a: Any, b: Any) -> Any:
    return merge(a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3])


@device
def _merge_spread(a: Any, b: Any) -> Any:
    m, high, low, raised = _merge_plain(a, b)
    mass, mass_low, gap, gap_low = a[4], a[5], a[6], a[7]
    # Refer both parts to the joint maximum. A part of nothing but -inf has no distance to it.
    step = (m - a[0]) * _LOWER if a[0] > -_INF else _ZERO
    other_step = (m - b[0]) * _LOWER if b[0] > -_INF else _ZERO
    gap, error = _two_sum(gap, b[6])
    gap_low += error + b[7]
    gap, error = _two_sum(gap, mass * step if step > _ZERO and mass != _ZERO else _ZERO)
    gap_low += error
    gap, error = _two_sum(gap, b[4] * other_step if other_step > _ZERO and b[4] != _ZERO else _ZERO)
    gap_low += error
    mass, error = _two_sum(mass, b[4])
    mass_low += error + b[5]
    return m, high, low, raised, mass, mass_low, gap, gap_low


@device
def _none_plain() -> Any:
    return -_INF, _ZERO, _ZERO, _ZERO


@device
def _none_spread() -> Any:
    return -_INF, _ZERO, _ZERO, _ZERO, _ZERO, _ZERO, _ZERO, _ZERO


@device
def _get_plain(memory: Any, at: Any) -> Any:
    return memory[at], memory[at + 1], memory[at + 2], memory[at + 3]


@device
def _get_spread(memory: Any, at: Any) -> Any:
    return _get_plain(memory, at) + _get_plain(memory, at + 4)


@device
def _put(memory: Any, at: Any, part: Any) -> None:
    for i in range(len(part)):
        memory[at + i] = part[i]


@device
def _exchange_plain(part: Any, distance: Any) -> Any:
    return (
        shuffle_xor(part[0], distance),
        shuffle_xor(part[1], distance),
        shuffle_xor(part[2], distance),
        shuffle_xor(part[3], distance),
    )


@device
def _exchange_spread(part: Any, distance: Any) -> Any:
    return _exchange_plain(part[:4], distance) + _exchange_plain(part[4:], distance)
