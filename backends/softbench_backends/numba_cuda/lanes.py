"""Reductions over the lanes that share a row, in an order fixed by their number.

A row belongs to ``lanes`` consecutive threads, a power of two. Up to a warp they exchange by shuffles; beyond, each
warp reduces, the warps' results meet in shared memory, and every warp reduces those again. Butterflies make all
lanes hold the same bits. Every thread of a block takes part in every reduction.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np
from numba import cuda

from softbench_backends.numba_cuda.arithmetic import arithmetic
from softbench_backends.numba_cuda.device import device, shuffle_xor, sync_warp

__all__ = ["WARP", "Lanes", "greater", "lanes_of", "slot_count"]

Device = Callable[..., Any]

WARP: Final = 32
_two_sum = arithmetic("float64").two_sum


class Lanes(NamedTuple):
    """Reductions over the lanes of a row; all lanes get the result.

    Each takes ``slots`` last: float64 in shared memory, `slot_count` of them, unused within a warp. The kernel owns
    them, because Numba cannot link a device function that declares shared memory and is called from two others.
    """

    maximum: Device
    """Of one value per lane; NaN if any is NaN."""
    total: Device
    """``(high, low)`` float64 pairs summed: high parts exactly, by TwoSum."""
    total_and_count: Device
    """The same, and an int32 summed along."""
    first_best: Device
    """``(value, index)``: the first NaN, else the lowest index of the maximum."""
    fence: Device
    """Everything read by the lanes of a row before is read before anything they write after."""


def slot_count(lanes: int) -> int:
    """Elements of shared memory that the reductions over ``lanes`` threads need.

    Within a warp that is none, but an array of 0 elements would be a dynamic one.
    """
    return 3 * lanes // WARP if lanes > WARP else 1


@device
def greater(a: Any, b: Any) -> Any:
    """The larger; NaN if either is."""
    return b if (b > a or b != b) else a


@device
def better(a: Any, i: Any, b: Any, j: Any) -> Any:
    """The better of two candidates for argmax."""
    equal = b == a or (a != a and b != b)
    take = (j < i) if equal else (b > a or b != b)
    return (b, j) if take else (a, i)


@functools.cache
def lanes_of(lanes: int, dtype: str) -> Lanes:
    """The reductions for rows of ``lanes`` threads holding ``dtype`` values."""
    real = np.float64 if dtype == "float64" else np.float32
    within = min(lanes, WARP)
    warps = max(lanes // WARP, 1)

    @device
    def warp_maximum(value: Any, width: Any) -> Any:
        distance = 1
        while distance < width:
            value = greater(value, shuffle_xor(value, distance))
            distance *= 2
        return value

    @device
    def warp_total(high: Any, low: Any, width: Any) -> Any:
        distance = 1
        while distance < width:
            other, other_low = shuffle_xor(high, distance), shuffle_xor(low, distance)
            high, error = _two_sum(high, other)
            low = (low + other_low) + error
            distance *= 2
        return high, low

    @device
    def warp_total_and_count(high: Any, low: Any, count: Any, width: Any) -> Any:
        distance = 1
        while distance < width:
            other, other_low = shuffle_xor(high, distance), shuffle_xor(low, distance)
            high, error = _two_sum(high, other)
            low = (low + other_low) + error
            count = np.int32(count + shuffle_xor(count, distance))
            distance *= 2
        return high, low, count

    @device
    def warp_best(value: Any, index: Any, width: Any) -> Any:
        distance = 1
        while distance < width:
            value, index = better(value, index, shuffle_xor(value, distance), shuffle_xor(index, distance))
            distance *= 2
        return value, index

    if warps == 1:

        @device
        def maximum(value: Any, slots: Any) -> Any:
            return warp_maximum(value, within)

        @device
        def total(high: Any, low: Any, slots: Any) -> Any:
            return warp_total(high, low, within)

        @device
        def total_and_count(high: Any, low: Any, count: Any, slots: Any) -> Any:
            return warp_total_and_count(high, low, count, within)

        @device
        def first_best(value: Any, index: Any, slots: Any, index_slots: Any) -> Any:
            return warp_best(value, index, within)

        return Lanes(maximum, total, total_and_count, first_best, sync_warp)

    # More than a warp: the row has the block to itself. A barrier before the slots are written keeps the last
    # reduction's readers safe.

    @device
    def block_maximum(value: Any, slots: Any) -> Any:
        value = warp_maximum(value, WARP)
        thread = cuda.threadIdx.x
        cuda.syncthreads()
        if thread % WARP == 0:
            slots[thread // WARP] = np.float64(value)
        cuda.syncthreads()
        return real(warp_maximum(real(slots[thread % warps]), warps))

    @device
    def block_total(high: Any, low: Any, slots: Any) -> Any:
        high, low = warp_total(high, low, WARP)
        thread = cuda.threadIdx.x
        cuda.syncthreads()
        if thread % WARP == 0:
            slots[thread // WARP] = high
            slots[warps + thread // WARP] = low
        cuda.syncthreads()
        return warp_total(slots[thread % warps], slots[warps + thread % warps], warps)

    @device
    def block_total_and_count(high: Any, low: Any, count: Any, slots: Any) -> Any:
        high, low, count = warp_total_and_count(high, low, count, WARP)
        thread = cuda.threadIdx.x
        cuda.syncthreads()
        if thread % WARP == 0:
            slots[thread // WARP] = high
            slots[warps + thread // WARP] = low
            slots[2 * warps + thread // WARP] = np.float64(count)
        cuda.syncthreads()
        count = np.int32(slots[2 * warps + thread % warps])
        return warp_total_and_count(slots[thread % warps], slots[warps + thread % warps], count, warps)

    @device
    def block_best(value: Any, index: Any, slots: Any, index_slots: Any) -> Any:
        value, index = warp_best(value, index, WARP)
        thread = cuda.threadIdx.x
        cuda.syncthreads()
        if thread % WARP == 0:
            slots[thread // WARP] = np.float64(value)
            index_slots[thread // WARP] = index
        cuda.syncthreads()
        return warp_best(real(slots[thread % warps]), index_slots[thread % warps], warps)

    @device
    def block_fence() -> None:
        cuda.syncthreads()

    return Lanes(block_maximum, block_total, block_total_and_count, block_best, block_fence)
