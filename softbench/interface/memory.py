"""What a backend needs to know of this machine's memory."""

from __future__ import annotations

import contextlib
import functools
import os
from typing import Final

__all__ = ["last_level_cache"]

_CACHES: Final = "/sys/devices/system/cpu/cpu0/cache"
_UNITS: Final = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


@functools.cache
def last_level_cache() -> int:
    """Bytes of the largest cache of the first core; 32 MiB where the system does not say."""
    sizes = [32 << 20]
    with contextlib.suppress(OSError):
        sizes = [found for index in os.listdir(_CACHES) if (found := _size(f"{_CACHES}/{index}/size"))] or sizes
    return max(sizes)


def _size(path: str) -> int:
    """Bytes of the cache that this file is about; 0 where it says nothing."""
    try:
        with open(path) as file:
            text = file.read().strip()
        return int(text[:-1]) * _UNITS[text[-1]]
    except (OSError, KeyError, ValueError, IndexError):
        return 0
