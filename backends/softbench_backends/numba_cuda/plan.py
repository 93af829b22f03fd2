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

So the order in which a row is summed, hence its bits, does not depend on how many rows there are. A device whose blocks
have less than 97 KB of shared memory (compute capability below 8.0) does without that regime.
"""

from __future__ import annotations

import enum
import functools
from typing import Final, NamedTuple

from softbench.interface.dtypes import ITEMSIZE
from softbench_backends.numba_cuda.device import SIMULATED

__all__ = ["MOST_PIECES", "SHARED_BYTES", "Plan", "Regime", "boundaries", "plan_for"]


class Regime(enum.Enum):
    """Where a row is kept between its first reading and the writing of results."""

    REGISTERS = "registers"
    SHARED = "shared"
    SEGMENTS = "segments"


class Plan(NamedTuple):
    """How a row is dealt to threads.

    A tile is ``lanes * values`` elements: groups of ``width`` neighbours go to the lanes in turn. So lane ``l`` holds
    elements ``(g lanes + l) width + u``, ``u < width``, of groups ``g = 0, 1 ...``.
    """

    lanes: int
    """Threads that share a row, or a segment; a power of two."""
    values: int
    """Elements that a thread keeps in registers."""
    regime: Regime
    rows: int
    """Rows per block; 1 beyond a warp. The only number that may differ between machines."""
    width: int = 1
    """Neighbours per group: 16 bytes of them where that divides K, else 1."""
    whole: bool = False
    """Whether groups are aligned, so that one access moves 16 bytes. Changes no result."""
    length: int = 0
    """Elements of a segment, whole tiles of them."""

    @property
    def threads(self) -> int:
        """Threads per block."""
        return self.lanes * self.rows

    @property
    def tile(self) -> int:
        """Elements of a tile."""
        return self.lanes * self.values

    @property
    def kernel(self) -> Plan:
        """All of the plan that a kernel is compiled for."""
        return self._replace(length=0)

    def pieces(self, k: int) -> int:
        """Segments of a row of ``k`` elements."""
        return -(-k // self.length)


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
def plan_for(k: int, dtype: str, wide: bool, shared: bool = True) -> Plan:
    """The plan for rows of ``k`` elements; ``wide`` for operations that hold two arrays at once (soft targets).

    ``shared``: whether blocks of the device can have `SHARED_BYTES`.
    """
    width = 16 // ITEMSIZE[dtype]
    return _plan(k, dtype, wide, shared, width if k % width == 0 else 1)


def _plan(k: int, dtype: str, wide: bool, shared: bool, width: int) -> Plan:
    most = _most_values(dtype, wide)
    values = [count for count in _VALUES if count <= most and count % width == 0]
    if k <= _WARP * most:
        count = next(count for count in values if k <= _WARP * count)
        lanes = 1
        while lanes * count < k:
            lanes *= 2
        return Plan(lanes, count, Regime.REGISTERS, max(_BLOCK // lanes, 1), width)
    # A block per row: the fewest lanes that hold it in half of the registers, so that several blocks share a processor.
    half = max(most // 2, width)
    for lanes in _BLOCK_LANES:
        for count in values:
            if half // 2 < count <= half and k <= lanes * count:
                return Plan(lanes, count, Regime.REGISTERS, 1, width)
    lanes = _BLOCK_LANES[-1]
    if shared and not wide and k * ITEMSIZE[dtype] <= SHARED_BYTES:
        return Plan(lanes, half, Regime.SHARED, 1, width)
    tile = lanes * half
    length = tile * max(1, -(-k // (tile * MOST_PIECES)))
    return Plan(lanes, half, Regime.SEGMENTS, 1, width, length=length)


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
