"""Sizes at which one way of computing takes over from another, by item size where that matters."""

from __future__ import annotations

from typing import Final

__all__ = ["ALIGNED_BYTES", "SERIAL_SIZE", "SHORT"]

SHORT: Final = {4: 32, 8: 16}
"""Rows up to this length are taken many at a time (`columns`), longer ones one by one (`rows`)."""

SERIAL_SIZE: Final = 1 << 15
"""Elements up to which starting threads costs more than it gains."""

ALIGNED_BYTES: Final = 1 << 20
"""Results from this size on start on a cache line."""
