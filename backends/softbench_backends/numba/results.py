"""Memory for large results: aligned, in large pages, and kept for the next result when an array is gone.

A new array waits for the system to find pages and to clear them, which takes longer than softmax does. So memory of
results is used again. What is kept the system may take back at any time (``MADV_FREE``), as if it had been freed; pages
that it has not taken are there at once.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import mmap
import sys
from collections.abc import Callable
from typing import Any, Final

import numpy as np

__all__ = ["ALIGNED_SIZE", "empty"]

ALIGNED_SIZE: Final = 1 << 18
"""Results of this many elements and more start on a cache line."""

MAPPED_BYTES: Final = 1 << 22
"""Results from this size on come from memory that is kept for others."""

KEPT_BYTES: Final = 1 << 30
"""Most that is kept when no array uses it; the system may take all of it."""

_PAGE: Final = 1 << 21
"""Bytes of a large page, and the granularity of what is mapped."""

_CAN_KEEP: Final = hasattr(mmap, "MADV_FREE")


class _Mapping:
    """Private memory of ``size`` bytes that starts on a large page."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.memory = mmap.mmap(-1, size + _PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            with contextlib.suppress(OSError):  # a system without large pages
                self.memory.madvise(mmap.MADV_HUGEPAGE)
        start = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        self.offset = -start % _PAGE
        self.address = start + self.offset


class _Lease:
    """Memory in use by one array and all views of it; kept when the last of them is gone."""

    def __init__(self, mapping: _Mapping, nbytes: int) -> None:
        self.mapping = mapping
        data = mapping.address, False
        self.__array_interface__ = {"version": 3, "shape": (nbytes,), "typestr": "|u1", "data": data}

    def __del__(self, ending: Callable[[], bool] = sys.is_finalizing) -> None:
        if not ending():
            _keep(self.mapping)


# Threads share this list, and a lease may end wherever an object is made: hence no lock, but steps that are whole.
_kept: list[_Mapping] = []


def _keep(mapping: _Mapping) -> None:
    try:
        mapping.memory.madvise(mmap.MADV_FREE, mapping.offset, mapping.size)
    except OSError:  # a process may forbid that its memory be taken (mlockall)
        return
    _kept.append(mapping)
    while sum(kept.size for kept in tuple(_kept)) > KEPT_BYTES:
        with contextlib.suppress(IndexError):  # another thread was first
            _kept.pop(0)


def _take(size: int) -> _Mapping:
    """The smallest kept mapping that holds ``size`` bytes without wasting as many, or a new one."""
    for mapping in sorted((kept for kept in tuple(_kept) if size <= kept.size <= 2 * size), key=lambda kept: kept.size):
        with contextlib.suppress(ValueError):  # another thread was first
            _kept.remove(mapping)
            return mapping
    try:
        return _Mapping(size)
    except OSError:
        _kept.clear()
        return _Mapping(size)


def empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray[Any, Any]:
    """As `numpy.empty`; arrays start on a cache line, so that rows may be streamed past the caches.

    MemoryError: there is no memory.
    """
    dtype = np.dtype(dtype)
    nbytes = math.prod(shape) * dtype.itemsize
    if nbytes < MAPPED_BYTES or not _CAN_KEEP:
        raw = np.empty(nbytes + 64, np.uint8)
        start = -raw.ctypes.data % 64
        raw = raw[start : start + nbytes]
    else:
        try:
            raw = np.asarray(_Lease(_take(-(-nbytes // _PAGE) * _PAGE), nbytes))
        except OSError:
            return np.empty(shape, dtype)  # which says how much there is not
    array: np.ndarray[Any, Any] = raw.view(dtype).reshape(shape)
    return array
