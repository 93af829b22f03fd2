"""Which threads hold which elements of a row: a function of K, dtype and operation alone.

So the order in which a row is summed, hence its bits, does not depend on how many rows there are or on the card.
"""

from __future__ import annotations

import functools
from typing import Final, NamedTuple

from softbench_backends.numba_cuda.device import SIMULATED

__all__ = ["Plan", "boundaries", "plan_for"]


class Plan(NamedTuple):
    """A tile of a row is ``lanes * values`` elements: lane ``l`` holds elements ``l, l + lanes, l + 2 lanes ...``."""

    lanes: int
    """Threads that share a row; a power of two."""
    values: int
    """Elements that a thread keeps in registers."""
    resident: bool
    """The row is one tile and is read once. Otherwise tiles are merged, and results need a second reading."""
    rows: int
    """Rows per block; 1 beyond a warp. The only number that may differ between machines."""

    @property
    def threads(self) -> int:
        """Threads per block."""
        return self.lanes * self.rows


_WARP = 32
_BLOCK: Final = 8 if SIMULATED else 128
"""Threads of a block of short rows: each simulated thread is a thread of the operating system."""

_VALUES: Final = (4, 6, 8, 12, 16, 24, 32)
_BLOCK_LANES: Final = (128, 256, 512)


def _most_values(dtype: str, wide: bool) -> int:
    """Elements per lane of a warp per row, 128 threads to the block; twice those of a block per row."""
    words = (1 if dtype == "float32" else 2) * (2 if wide else 1)
    return 32 // words


@functools.cache
def plan_for(k: int, dtype: str, wide: bool) -> Plan:
    """The plan for rows of ``k`` elements; ``wide`` for operations that hold two arrays at once (soft targets)."""
    most = _most_values(dtype, wide)
    values = [count for count in _VALUES if count <= most]
    if k <= _WARP * most:
        count = next(count for count in values if k <= _WARP * count)
        lanes = 1
        while lanes * count < k:
            lanes *= 2
        return Plan(lanes, count, True, max(_BLOCK // lanes, 1))
    # A block per row: the fewest lanes that hold it in half of the registers, so that several blocks share a processor.
    half = most // 2
    for lanes in _BLOCK_LANES:
        for count in values:
            if half // 2 < count <= half and k <= lanes * count:
                return Plan(lanes, count, True, 1)
    return Plan(_BLOCK_LANES[-1], half, False, 1)


def boundaries(dtype: str) -> list[int]:
    """The largest K of each plan but the last, for rows of ``dtype``."""
    found, k = [], 1
    while plan_for(k, dtype, False).resident:
        if plan_for(k, dtype, False) != plan_for(k + 1, dtype, False):
            found.append(k)
        k += 1
    return found
