"""Which kernel a call takes, and whether on one thread or on all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from softbench.interface import Array
from softbench.interface.dtypes import name_of
from softbench.interface.memory import last_level_cache
from softbench_backends.numba import short_rows, split_rows, strided, threads
from softbench_backends.numba.kernels import KERNELS, Rows, Threads, callable_kernel
from softbench_backends.numba.vector_types import rows_at_once

__all__ = ["callable_kernel", "run", "serial", "streams", "total"]


def contiguous(op: str, k: int, itemsize: int) -> Rows:
    """How rows of ``k`` classes are taken that lie one behind the other."""
    return Rows.SHORT if k <= short_rows.LONGEST[itemsize] and (op, Rows.SHORT) in KERNELS else Rows.LONG


def serial(op: str, k: int, dtype: Any) -> Callable[..., Any]:
    """The kernel for such rows on one thread."""
    return callable_kernel(op, name_of(dtype), contiguous(op, k, dtype.itemsize), False)


def streams(x: Array, out: Array) -> bool:
    """Whether the result is too large for the caches to keep any of it."""
    return out.nbytes >= last_level_cache() and x is not out and x.ctypes.data != out.ctypes.data


def run(op: str, x: Array, out: Array | None, *args: Any) -> None:
    """Run a kernel on ``(x, *args)``, on all threads if it is large; ``out`` is a result of the shape of ``x``."""
    if x.ndim == 3:
        _run_strided(op, x, out, *args)
        return
    n, k = x.shape
    rows = contiguous(op, k, x.itemsize)
    if x.size > threads.SERIAL_SIZE and KERNELS[op, rows].threads is Threads.ANY and (count := threads.count()) > 1:
        if k >= split_rows.SHORTEST and n < count and (op, Rows.SPLIT) in KERNELS and threads.can_split():
            rows = Rows.SPLIT
        if n > 1 or rows is Rows.SPLIT:
            kernel = callable_kernel(op, name_of(x.dtype), rows, True)
            kernel((x, *args), n, min(count, n), out is not None and streams(x, out))
            return
    callable_kernel(op, name_of(x.dtype), rows, False)(x, *args, 0, n, False)


def total() -> Callable[..., Any]:
    """The kernel that sums float64 numbers."""
    return callable_kernel("total", "float64", Rows.LONG, False)


def _run_strided(op: str, x: Array, out: Array | None, *args: Any) -> None:
    """As `run`, of ``x`` ``(outer, K, inner)``, in blocks of neighbouring rows."""
    outer, k, inner = x.shape
    rows = Rows.STRIDED_SHORT if k <= short_rows.LONGEST[x.itemsize] else Rows.STRIDED_LONG
    count = threads.count() if x.size > threads.SERIAL_SIZE else 1
    size = strided.block_size(x.shape, x.itemsize, count, transposed=KERNELS[op, rows].through is not None)
    blocks = outer * -(-inner // size)
    chunks = min(count, blocks)
    width = rows_at_once(x.itemsize)
    streaming = (
        out is not None and streams(x, out) and inner % width == 0 and out.ctypes.data % (width * x.itemsize) == 0
    )
    kernel = callable_kernel(op, name_of(x.dtype), rows, chunks > 1)
    if chunks > 1:
        kernel((x, *args, size), blocks, chunks, streaming)
    else:
        kernel(x, *args, size, 0, blocks, streaming)
