"""How a row is shared out among the threads of a device: the words in which kernels of any language plan it.

A plan is a function of K, dtype and operation alone. So the order in which a row is summed, hence its bits, does not
depend on how many rows there are.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

from softbench.interface.dtypes import ITEMSIZE

__all__ = ["Regime", "RowPlan", "vector_width"]

_VECTOR_BYTES = 16


class Regime(enum.Enum):
    """Where a row is kept between its first reading and the writing of results."""

    REGISTERS = "registers"
    """Of the threads of a warp or of a block."""
    SHARED = "shared"
    """In the shared memory of a block."""
    CLUSTER = "cluster"
    """In the shared memory of several blocks that read each other's."""
    SEGMENTS = "segments"
    """Nowhere: blocks read a segment of the row each, and read it again where there is an array result."""


class RowPlan(NamedTuple):
    """How a row is dealt to threads.

    A tile is ``lanes * values`` elements: groups of ``width`` neighbours go to the lanes in turn. So lane ``l`` holds
    elements ``(g lanes + l) width + u``, ``u < width``, of groups ``g = 0, 1 ...``.
    """

    lanes: int
    """Threads of a block that share a row, or what the block has of it; a power of two."""
    values: int
    """Elements that a thread keeps in registers."""
    regime: Regime
    rows: int = 1
    """Rows per block; 1 where more than a warp shares a row. The only number that may differ between machines."""
    width: int = 1
    """Neighbours per group: 16 bytes of them where that divides K, else 1."""
    whole: bool = False
    """Whether groups are aligned, so that one access moves 16 bytes. Changes no result."""
    length: int = 0
    """Elements of a row that a block has, where that is not the whole row in registers."""
    blocks: int = 1
    """Blocks of a cluster, which share a row."""

    @property
    def threads(self) -> int:
        """Threads per block."""
        return self.lanes * self.rows

    @property
    def tile(self) -> int:
        """Elements of a tile."""
        return self.lanes * self.values

    @property
    def kernel(self) -> RowPlan:
        """All of the plan that a kernel may be compiled for: the length is an argument."""
        return self._replace(length=0)

    def pieces(self, k: int) -> int:
        """Segments of a row of ``k`` elements."""
        return -(-k // self.length)


def vector_width(k: int, dtype: str, most: int = _VECTOR_BYTES) -> int:
    """How many neighbours a lane takes at once: 16 bytes of them, at most ``most``, if that divides K; else one."""
    width = min(_VECTOR_BYTES // ITEMSIZE[dtype], most)
    return width if k % width == 0 else 1
