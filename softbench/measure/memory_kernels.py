"""Compiled loops that only move memory: what `softbench.measure.ceiling` measures. Imports Numba; import it lazily.

Arrays are 1-d uint64 that begin on a cache line and end on one. The parallel versions split them into blocks.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, Final

import llvmlite.ir as ir
import numpy as np
from numba import njit, prange, types
from numba.extending import intrinsic

__all__ = ["copy_all", "read_all", "read_one", "stream_all", "update_all", "update_one"]

LINE: Final = 64
BLOCK: Final = 1 << 16  # bytes per parallel block: small enough to balance, large enough to amortise
_WORDS: Final = BLOCK // 8


def _compiled(**options: bool) -> Callable[[Any], Any]:
    """As `numba.njit`; what it compiles is kept on disk where Numba can tell what it belongs to.

    It cannot for modules without sources.
    """

    def decorate(function: Any) -> Any:
        dispatcher = njit(nogil=True, **options)(function)
        with contextlib.suppress(RuntimeError, AttributeError):  # AttributeError: NUMBA_DISABLE_JIT
            dispatcher.enable_caching()
        return dispatcher

    return decorate


@intrinsic  # type: ignore[untyped-decorator]
def _stream_line(_: Any, target: Any, source: Any) -> Any:
    """Copy one 64-byte line with a store that bypasses the caches (so nothing is read for ownership)."""

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        vector = ir.VectorType(ir.IntType(64), 8).as_pointer()
        to, at = (builder.inttoptr(argument, vector) for argument in arguments)
        store = builder.store(builder.load(at, align=LINE), to, align=LINE)
        store.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)]))
        return context.get_dummy_value()

    return types.void(types.uintp, types.uintp), generate


@intrinsic  # type: ignore[untyped-decorator]
def _fence(_: Any) -> Any:
    """Order streaming stores before anything that follows."""

    def generate(context: Any, builder: Any, _signature: Any, _arguments: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate


@_compiled()
def read_one(a: Any) -> Any:
    """Read on one core: the exclusive or of all words."""
    total = np.uint64(0)
    for i in range(a.size):
        total ^= a[i]
    return total


@_compiled(parallel=True)
def read_all(a: Any, partial: Any) -> None:
    """Read on all cores: the exclusive or of each block into ``partial``."""
    for block in prange(partial.size):
        partial[block] = read_one(a[block * _WORDS : (block + 1) * _WORDS])


@_compiled(parallel=True)
def copy_all(a: Any, b: Any) -> None:
    """Copy on all cores with ordinary stores."""
    for block in prange((a.size + _WORDS - 1) // _WORDS):
        part = slice(block * _WORDS, (block + 1) * _WORDS)
        b[part] = a[part]


@_compiled(parallel=True)
def stream_all(a: Any, b: Any) -> None:
    """Copy on all cores with streaming stores."""
    source, target = np.uintp(a.ctypes.data), np.uintp(b.ctypes.data)
    nbytes = a.size * 8
    for block in prange((nbytes + BLOCK - 1) // BLOCK):
        for i in range(block * BLOCK, min(nbytes, (block + 1) * BLOCK), LINE):
            _stream_line(target + np.uintp(i), source + np.uintp(i))
        _fence()


@_compiled()
def update_one(a: Any) -> None:
    """Read, change and write back every word on one core."""
    for i in range(a.size):
        a[i] += np.uint64(1)


@_compiled(parallel=True)
def update_all(a: Any) -> None:
    """Read, change and write back every word on all cores."""
    for block in prange((a.size + _WORDS - 1) // _WORDS):
        update_one(a[block * _WORDS : (block + 1) * _WORDS])
