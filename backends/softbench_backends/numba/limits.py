"""Sizes at which one way of computing takes over from another, by item size where that matters."""

from __future__ import annotations

from typing import Final

__all__ = [
    "AHEAD_BYTES",
    "ALIGNED_SIZE",
    "BLOCK_BYTES",
    "EARLY_BYTES",
    "FEW_LOSSES",
    "HUGE",
    "KEEP_BYTES",
    "KEPT_BYTES",
    "LANEWISE",
    "MAPPED_BYTES",
    "REMEMBERED",
    "SEGMENT",
    "SERIAL_SIZE",
    "SHARED",
    "SHORT",
]

SHORT: Final = {4: 64, 8: 32}
"""Rows up to this length are taken many at a time (`short_rows`), longer ones one by one (`long_rows`)."""

SERIAL_SIZE: Final = 1 << 15
"""Elements up to which starting threads costs more than it gains."""

FEW_LOSSES: Final = 16
"""Losses up to this number are sooner summed by Python than handed to compiled code."""

REMEMBERED: Final = 1024
"""Shapes of calls up to `SERIAL_SIZE` whose kernel is remembered; more find theirs in the longer way."""

ALIGNED_SIZE: Final = 1 << 18
"""Results of this many elements and more start on a cache line."""

MAPPED_BYTES: Final = 1 << 22
"""Results from this size on come from memory that is kept for others (`results`)."""

KEPT_BYTES: Final = 1 << 30
"""Most that is kept when no array uses it; the system may take all of it."""

KEEP_BYTES: Final = 1 << 22
"""Exponentials of a row up to this size are kept between the passes, those of a larger one computed again."""

EARLY_BYTES: Final = 1 << 13
"""Up to this size, the extrema of a row are found before the row before it is written: L1 holds all of both."""

AHEAD_BYTES: Final = 1 << 11
"""From this size on, the next row is prefetched."""

SEGMENT: Final = 16384
"""Classes that are summed together; also the unit in which a row is shared out to threads."""

HUGE: Final = 4 * SEGMENT
"""From this length on, rows fewer than threads are shared out tile by tile."""

SHARED: Final = frozenset({"softmax", "log_softmax", "logsumexp", "index"})
"""The kernels that can do that."""

BLOCK_BYTES: Final = 1 << 18
"""Size of the buffer into which long rows along another axis than the last are transposed (`strided`)."""

LANEWISE: Final = frozenset({"softmax", "log_softmax", "index"})
"""The kernels that take short rows along another axis from where they are, a vector's width of rows at a time."""
