"""How an array can lie in memory: the elements of one in other strides, alignment, byte order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np

__all__ = ["GARBAGE", "LAYOUTS"]

Array = np.ndarray[Any, Any]

GARBAGE: Final = 777.0
"""What memory holds that a result will take the place of, or that lies between its elements."""


def _strided(a: Array) -> Array:
    big = np.full((2 * a.shape[0],) + tuple(3 * n for n in a.shape[1:]), 7, a.dtype)
    view = big[(slice(None, None, 2),) + (slice(None, None, 3),) * (a.ndim - 1)]
    view[...] = a
    return view


def _reversed(a: Array) -> Array:
    flip = (slice(None, None, -1),) * a.ndim
    return np.ascontiguousarray(a[flip])[flip]


def _read_only(a: Array) -> Array:
    copy = a.copy()
    copy.flags.writeable = False
    return copy


def _unaligned(a: Array) -> Array:
    if a.dtype.itemsize == 1:
        return a.copy()
    raw = np.zeros(a.nbytes + 1, np.uint8)
    view = raw[1:].view(a.dtype).reshape(a.shape)
    view[...] = a
    return view


def _swapped(a: Array) -> Array:
    return a.astype(a.dtype.newbyteorder()) if a.dtype.kind in "iufb" and a.dtype.itemsize > 1 else a.copy()


def _broadcast(a: Array) -> Array:
    return np.broadcast_to(a[:1], a.shape)


LAYOUTS: Final[dict[str, Callable[[Array], Array]]] = {
    "C": np.array,
    "F": np.asfortranarray,
    "strided": _strided,
    "reversed": _reversed,
    "unaligned": _unaligned,
    "byte-swapped": _swapped,
    "read-only": _read_only,
    "broadcast": _broadcast,
}
"""The elements of a C-contiguous array in another layout (``broadcast``: of its first entry)."""
