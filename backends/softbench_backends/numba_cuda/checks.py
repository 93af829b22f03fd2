"""Searches for the first bad element of an array.

Each launches on a stream, leaves an index on the device, and returns; who reads it there waits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numba import cuda

from softbench_backends.numba_cuda.launch import THREADS, compiled, grid_of, launch
from softbench_backends.numba_cuda.memory import reader
from softbench_backends.numba_cuda.views import STORAGE, View

__all__ = ["FIRST_NONE", "find_far_from", "find_outside", "search_blocks"]

FIRST_NONE: Final = 2**63 - 1
"""What a search leaves where it found nothing."""

_SEARCH_BLOCKS: Final = 128
_NONE = np.int64(FIRST_NONE)


def search_blocks(n: int) -> int:
    """How many partial results a search over ``n`` elements leaves."""
    return min(grid_of(n)[0], _SEARCH_BLOCKS)


def _search_kernel(dtype: str, far_from: bool) -> Callable[..., None]:
    """Per block, the index of the first element that is neither 0 nor in ``[low, high]``.

    ``far_from``: of the first that is farther than ``high`` from ``low``.
    NaN is outside everything, unless ``high`` itself is NaN, which asks for values below ``low`` only.
    """
    read = reader(dtype)

    def kernel(x: Any, low: Any, high: Any, first: Any, n: Any) -> None:
        best = cuda.shared.array(THREADS, np.int64)
        thread = cuda.threadIdx.x
        found: Any = _NONE
        start = np.int64(cuda.blockIdx.x) * THREADS + thread
        for i in range(start, n, cuda.gridDim.x * THREADS):
            value = np.float64(read(x[i]))
            if far_from:
                bad = not (abs(value - low) <= high)
            elif high != high:
                bad = value < low
            else:
                bad = not (value == 0.0 or low <= value <= high)
            if bad:
                found = min(found, i)
        best[thread] = found
        cuda.syncthreads()
        if thread == 0:
            for other in range(1, THREADS):
                found = min(found, best[other])
            first[cuda.blockIdx.x] = found

    return kernel


def _search(x: View, far_from: bool, low: float, high: float, first: View, stream: int) -> None:
    arguments = (STORAGE[x.dtype.name], "real", "real", "int64", "int")
    kernel = compiled(_search_kernel, (x.dtype.name, far_from), arguments, THREADS)
    launch(kernel, (search_blocks(x.size), 1), THREADS, stream, x, low, high, first, x.size)


def find_outside(x: View, low: float, high: float, first: View, stream: int) -> None:
    """Into ``first``, per block: the first index of contiguous ``x`` not 0 nor in ``[low, high]``, or `FIRST_NONE`.

    With ``high=nan`` only values below ``low`` count, and NaN does not.
    """
    _search(x, False, low, high, first, stream)


def find_far_from(x: View, center: float, distance: float, first: View, stream: int) -> None:
    """Into ``first``, per block: the first index of contiguous ``x`` that is not within ``distance`` of ``center``."""
    _search(x, True, center, distance, first, stream)
