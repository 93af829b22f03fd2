"""Which threads hold which elements of a row: a function of K, dtype and operation alone.

==============================  ==============================================================================
row                             regime
==============================  ==============================================================================
up to a warp's registers        `Regime.REGISTERS`, 1 to 32 lanes: K up to 1024; half of that in float64
up to a block's registers       `Regime.REGISTERS`, 128 to 512 lanes: K up to 8192; half of that in float64
up to 96 KB                     `Regime.SHARED`, 512 lanes, the row in dynamic shared memory
beyond                          `Regime.SEGMENTS`: up to 256 blocks per row, read twice where there is an array result
==============================  ==============================================================================

Soft targets take registers of their own: their regimes end at half of these K, and what is beyond a block's registers
is cut into segments.

A device whose blocks have less than 97 KB of shared memory (compute capability below 8.0) does without that regime.
"""

from __future__ import annotations

import functools
from typing import Final

from softbench.interface.dtypes import ITEMSIZE
from softbench.interface.row_plan import Regime, RowPlan, vector_width
from softbench_backends.numba_cuda.device import SIMULATED

__all__ = ["MOST_PIECES", "SHARED_BYTES", "boundaries", "plan_for"]


_WARP = 32
_BLOCK: Final = 8 if SIMULATED else 128
"""Threads of a block of short rows: each simulated thread is a thread of the operating system."""

SHARED_BYTES: Final = 96 << 10
"""The largest row in shared memory: two blocks of 512 threads fit a multiprocessor of 228 KB."""
MOST_PIECES: Final = 256

_VALUES: Final = (4, 6, 8, 12, 16, 24, 32)
_BLOCK_LANES: Final = (128, 256, 512)


def _most_values(dtype: str, wide: bool) -> int:
    """Elements per lane of a warp per row, 128 threads to the block; twice those of a block per row."""
    words = (2 if dtype == "float64" else 1) * (2 if wide else 1)
    return 32 // words


@functools.cache
def plan_for(k: int, dtype: str, wide: bool, shared: bool = True) -> RowPlan:
    """The plan for rows of ``k`` elements; ``wide`` for operations that hold two arrays at once (soft targets).

    ``shared``: whether blocks of the device can have `SHARED_BYTES`.
    """
    return _plan(k, dtype, wide, shared, vector_width(k, dtype))


def _plan(k: int, dtype: str, wide: bool, shared: bool, width: int) -> RowPlan:
    most = _most_values(dtype, wide)
    values = [count for count in _VALUES if count <= most and count % width == 0]
    if k <= _WARP * most:
        count = next(count for count in values if k <= _WARP * count)
        lanes = 1
        while lanes * count < k:
            lanes *= 2
        return RowPlan(lanes, count, Regime.REGISTERS, max(_BLOCK // lanes, 1), width)
    # A block per row: the fewest lanes that hold it in half of the registers, so that several blocks share a processor.
    half = max(most // 2, width)
    for lanes in _BLOCK_LANES:
        for count in values:
            if half // 2 < count <= half and k <= lanes * count:
                return RowPlan(lanes, count, Regime.REGISTERS, 1, width)
    lanes = _BLOCK_LANES[-1]
    if shared and not wide and k * ITEMSIZE[dtype] <= SHARED_BYTES:
        return RowPlan(lanes, half, Regime.SHARED, 1, width)
    tile = lanes * half
    length = tile * max(1, -(-k // (tile * MOST_PIECES)))
    return RowPlan(lanes, half, Regime.SEGMENTS, 1, width, length=length)


def boundaries(dtype: str, shared: bool = True) -> list[int]:
    """The largest K of each plan but the last, for rows of ``dtype``, whether 16 bytes divide them or not."""
    found: set[int] = set()
    for width in (1, 16 // ITEMSIZE[dtype]):
        k, step = width, width
        while (plan := _plan(k, dtype, False, shared, width)).regime is not Regime.SEGMENTS:
            # Plans change where a number of lanes ends, or the shared memory.
            ends = plan.tile if plan.regime is Regime.REGISTERS else SHARED_BYTES // ITEMSIZE[dtype]
            found.add(ends)
            k = ends + step
    return sorted(found)
