"""Memory for large results: aligned, in large pages, and kept for the next result when an array is gone.

A new array waits for the system to find pages and to clear them, which takes longer than softmax does. So memory of
results is used again. What is kept the system may take back at any time (``MADV_FREE``), as if it had been freed; pages
that it has not taken are there at once.

Such results are arrays like any other: they own their memory, can be resized and pickled. NumPy is told how to get,
resize and free it by its interface for that (`NEP 49 <https://numpy.org/neps/nep-0049.html>`__): an array keeps the
handler that was set when it was made. An array may be freed where no Python code may run, as while an exception is
being raised; hence that part is machine code, from LLVM's language (`keeper`). It runs, as all of NumPy's memory
management does, while its thread holds the interpreter's lock, so what it does is never interrupted.

`limit_kept_memory` and ``SOFTBENCH_KEPT_MEMORY`` (bytes) say how much is kept, 0 for nothing; `release_kept_memory`
empties it.
"""

from __future__ import annotations

import contextlib
import contextvars
import ctypes
import functools
import mmap
import operator
import os
import sys
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np

from softbench_backends.numba.keeper import KEEPER

__all__ = ["ALIGNED_SIZE", "empty", "limit_kept_memory", "read_environment", "release_kept_memory"]

ALIGNED_SIZE: Final = 1 << 18
"""Results of this many elements and more start on a cache line."""

MAPPED_BYTES: Final = 1 << 22
"""Results from this size on come from memory that is kept for others."""

KEPT_BYTES: Final = 1 << 30
"""Most that is kept when no array uses it, unless something else is asked for; the system may take all of it."""

VARIABLE: Final = "SOFTBENCH_KEPT_MEMORY"

_PAGE: Final = 1 << 21
"""Bytes of a large page, and the granularity of what is mapped."""

_HEADER: Final = 64
"""Bytes before an array: where its memory starts, how much was mapped (0: allocated by the C library), and its size."""

_SLOTS: Final = 256
"""Most pieces of memory that are kept."""

_ADVICE: Final = getattr(mmap, "MADV_FREE", None)

# -- how much is kept -------------------------------------------------------------------------------------------------

_state: Final = (ctypes.c_int64 * (3 + _SLOTS))(KEPT_BYTES)


def limit_kept_memory(nbytes: int) -> None:
    """Keep at most so many bytes of earlier results from now on; what is kept beyond that is given back.

    Parameters
    ----------
    nbytes
        0: keep nothing. The default is ``2**30``, or what the environment variable ``SOFTBENCH_KEPT_MEMORY`` says.

    Raises
    ------
    TypeError, ValueError
        It is no integer, or negative.

    Examples
    --------
    >>> from softbench_backends.numba import limit_kept_memory
    >>> limit_kept_memory(0)
    >>> limit_kept_memory(2**30)
    """
    if isinstance(nbytes, bool):
        raise TypeError("nbytes must be an integer, got bool")
    try:
        wanted = operator.index(nbytes)
    except TypeError:
        raise TypeError(f"nbytes must be an integer, got {type(nbytes).__name__}") from None
    if wanted < 0:
        raise ValueError(f"nbytes must not be negative, got {wanted}")
    _state[0] = min(wanted, sys.maxsize)
    while _state[1] > _state[0]:
        _give_back()


def release_kept_memory() -> int:
    """Give all that is kept back to the system; how many bytes that were.

    Examples
    --------
    >>> from softbench_backends.numba import release_kept_memory
    >>> freed = release_kept_memory()
    >>> release_kept_memory()
    0
    """
    total = 0
    while freed := _give_back():
        total += freed
    return total


def read_environment() -> None:
    """Obey ``SOFTBENCH_KEPT_MEMORY``; ValueError if it is no number of bytes."""
    value = os.environ.get(VARIABLE, "").strip()
    if value:
        if not (value.isascii() and value.isdigit()):
            raise ValueError(f"{VARIABLE} must be a number of bytes, got {value!r}")
        limit_kept_memory(int(value))


def _give_back() -> int:
    """Unmap one of the kept pieces; its size, 0 if there is none."""
    keeper = _keeper()
    address = keeper.take(ctypes.addressof(_state), 0, sys.maxsize) if keeper else None
    if not address:
        return 0
    size = _header(address)[2]
    keeper.unmap(address)  # type: ignore[union-attr]
    return int(size)


# -- the handler ------------------------------------------------------------------------------------------------------


class _Allocator(ctypes.Structure):
    """``PyDataMem_Handler`` of NumPy's C interface."""

    _fields_ = (
        ("name", ctypes.c_char * 127),
        ("version", ctypes.c_uint8),
        ("context", ctypes.c_void_p),
        ("malloc", ctypes.c_void_p),
        ("calloc", ctypes.c_void_p),
        ("realloc", ctypes.c_void_p),
        ("free", ctypes.c_void_p),
    )


class _Keeper(NamedTuple):
    take: Callable[[int, int, int], int | None]
    unmap: Callable[[int], None]
    set_handler: Callable[[Any], Any]
    capsule: Any


_SET_HANDLER: Final = 304  # of NumPy's C interface: PyDataMem_SetHandler
_SIZE: Final = ctypes.c_size_t
_ADDRESS: Final = ctypes.c_void_p


def _header(address: int) -> Any:
    """Start, mapped bytes and size of the memory of an array."""
    return (ctypes.c_int64 * 3).from_address(address - _HEADER)


@functools.cache
def _keeper() -> _Keeper | None:
    """What keeps memory; None where this system, or NumPy, does not allow for it."""
    if _ADVICE is None or not getattr(sys, "_is_gil_enabled", lambda: True)():
        return None
    try:
        from numpy._core._multiarray_umath import _ARRAY_API  # type: ignore[import-not-found]  # what C imports

        return _make_keeper(_ARRAY_API)
    except (ImportError, AttributeError, OSError):
        return None


def _make_keeper(numpy_api: Any) -> _Keeper:
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    text = KEEPER.replace("{advice}", str(_ADVICE)).replace("{slots}", str(_SLOTS))
    machine = llvm.Target.from_default_triple().create_target_machine()
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(text), machine)
    engine.finalize_object()
    at = engine.get_function_address

    library = ctypes.CDLL(None)
    library.aligned_alloc.argtypes, library.aligned_alloc.restype = (_SIZE, _SIZE), _ADDRESS
    library.mmap.argtypes = (_ADDRESS, _SIZE, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
    library.mmap.restype = _ADDRESS
    library.madvise.argtypes = (_ADDRESS, _SIZE, ctypes.c_int)

    take = ctypes.PYFUNCTYPE(_ADDRESS, _ADDRESS, _SIZE, _SIZE)(at("take"))  # these hold the interpreter's lock
    unmap = ctypes.PYFUNCTYPE(None, _ADDRESS)(at("unmap"))
    release = ctypes.PYFUNCTYPE(None, _ADDRESS, _ADDRESS, _SIZE)(at("release"))

    def allocate(context: int | None, size: int) -> int:
        with contextlib.suppress(MemoryError):
            return _allocate(library, take, size)
        return 0

    def allocate_zeros(context: int | None, count: int, size: int) -> int:
        address = allocate(context, count * size)
        if address:
            ctypes.memset(address, 0, count * size)
        return address

    def reallocate(context: int | None, old: int | None, size: int) -> int:
        if old and size <= _header(old)[2]:
            return old
        address = allocate(context, size)
        if address and old is not None:
            ctypes.memmove(address, old, min(size, _header(old)[2]))
            release(context, old, 0)
        return address

    callbacks = (
        ctypes.PYFUNCTYPE(_ADDRESS, _ADDRESS, _SIZE)(allocate),
        ctypes.PYFUNCTYPE(_ADDRESS, _ADDRESS, _SIZE, _SIZE)(allocate_zeros),
        ctypes.PYFUNCTYPE(_ADDRESS, _ADDRESS, _ADDRESS, _SIZE)(reallocate),
    )
    addresses = (ctypes.cast(callback, _ADDRESS) for callback in callbacks)
    handler = _Allocator(b"softbench", 1, ctypes.addressof(_state), *addresses, at("release"))

    new_capsule = ctypes.pythonapi.PyCapsule_New
    new_capsule.argtypes, new_capsule.restype = (_ADDRESS, ctypes.c_char_p, _ADDRESS), ctypes.py_object
    capsule = new_capsule(ctypes.addressof(handler), b"mem_handler", None)
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.argtypes, pointer.restype = (ctypes.py_object, ctypes.c_char_p), _ADDRESS
    table = (_ADDRESS * (_SET_HANDLER + 1)).from_address(pointer(numpy_api, None))
    set_handler = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.py_object)(table[_SET_HANDLER] or 0)

    # Arrays may outlive everything that Python knows of.
    forever = (_state, engine, machine, callbacks, handler, capsule)
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(forever))
    return _Keeper(take, unmap, set_handler, capsule)


def _allocate(library: Any, take: Callable[[int, int, int], int | None], size: int) -> int:
    """Address of new memory, its header filled in. MemoryError if there is none."""
    if size < MAPPED_BYTES:
        base = library.aligned_alloc(64, _HEADER + max(64, -(-size // 64) * 64))
        if not base:
            raise MemoryError
        _header(base + _HEADER)[:] = base, 0, size
        return int(base) + _HEADER
    rounded = -(-size // _PAGE) * _PAGE
    if address := take(ctypes.addressof(_state), rounded, 2 * rounded):
        return address
    try:
        return _map(library, rounded)
    except MemoryError:
        release_kept_memory()
        return _map(library, rounded)


def _map(library: Any, size: int) -> int:
    """Private memory of ``size`` bytes that starts on a large page."""
    total = size + _PAGE + mmap.PAGESIZE
    base = library.mmap(None, total, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
    if base is None or base == ctypes.c_size_t(-1).value:
        raise MemoryError
    address = -(-(base + _HEADER) // _PAGE) * _PAGE
    if hasattr(mmap, "MADV_HUGEPAGE"):  # a system without large pages refuses
        library.madvise(address, size, mmap.MADV_HUGEPAGE)
    _header(address)[:] = base, total, size
    return int(address)


def empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray[Any, Any]:
    """As `numpy.empty`; arrays start on a cache line, so that rows may be streamed past the caches.

    MemoryError: there is no memory.
    """
    keeper = _keeper()
    if keeper is None:
        return np.empty(shape, dtype)

    def with_handler() -> np.ndarray[Any, Any]:
        keeper.set_handler(keeper.capsule)
        return np.empty(shape, dtype)

    return contextvars.copy_context().run(with_handler)  # where the handler remains
