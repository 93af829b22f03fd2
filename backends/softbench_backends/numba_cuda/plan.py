"""Which threads hold which elements of a row: a function of K, dtype and operation alone.

So the order in which a row is summed, hence its bits, does not depend on how many rows there are or on the card.
"""

from __future__ import annotations

import functools
from typing import Final, NamedTuple

from softbench_backends.numba_cuda.device import SIMULATED

__all__ = ["Plan", "plan_for"]


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

_VALUES: Final = {False: (4, 6, 8, 12, 16, 24, 32), True: (4, 6, 8, 12, 16)}
"""Elements per lane. A second array per row (soft targets), or doubles, take the registers of as many more."""


@functools.cache
def plan_for(k: int, dtype: str, wide: bool) -> Plan:
    """The plan for rows of ``k`` elements; ``wide`` for operations that hold two arrays at once."""
    values = _VALUES[wide or dtype == "float64"]
    small = values[0]
    if k <= _WARP * small:
        lanes = 1
        while lanes * small < k:
            lanes *= 2
        return Plan(lanes, small, True, max(_BLOCK // lanes, 1))
    for count in values:
        if k <= _WARP * count:
            return Plan(_WARP, count, True, max(_BLOCK // _WARP, 1))
    for lanes in (128, 256, 512, 1024):
        for count in (12, 16) if not wide and dtype == "float32" else (6, 8):
            if k <= lanes * count:
                return Plan(lanes, count, True, 1)
    if not wide and dtype == "float32":
        return Plan(1024, 32, True, 1) if k <= 1 << 15 else Plan(1024, 16, False, 1)
    return Plan(1024, 8, False, 1)
