"""Compiling kernels once each, and launching them on a stream.

On a device a kernel is compiled for one signature in which every array is a bare pointer and every argument takes 8
bytes. A launch then packs the arguments into one buffer and calls the driver: what Numba's own launch does besides
(looking a compiled version up by the types of the arguments, an object for the stream and one for the configuration, a
warning about small grids) costs several times as much; ``python -m benchmarks.studies gpu-launches`` counts it. The
simulator has no pointers and gets arrays over the same memory.
"""

from __future__ import annotations

import ctypes
import functools
import struct
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from numba import cuda, types

from softbench_backends.numba_cuda.device import SIMULATED
from softbench_backends.numba_cuda.records import flattened
from softbench_backends.numba_cuda.views import STORAGE, View

__all__ = [
    "POINTER_TYPES",
    "THREADS",
    "Launchable",
    "checked",
    "compiled",
    "copy_bytes",
    "current_context",
    "grid_of",
    "launch",
    "signature",
]

POINTER_TYPES: Final = {
    "float64": types.float64,
    "float32": types.float32,
    **{f"{sign}int{bits}": getattr(types, f"{sign}int{bits}") for sign in ("", "u") for bits in (8, 16, 32, 64)},
}
"""Numba's type of each storage dtype."""

_SCALARS: Final = {"int": types.int64, "real": types.float64}
_PACKED: Final = {"int": "q", "real": "d"}

THREADS: Final = 4 if SIMULATED else 256
"""Threads per block of kernels in which each has an element of its own."""

_LARGEST_GRID: Final = 2**31 - 1
_STATIC_LIMIT: Final = 48 << 10
"""Bytes of dynamic shared memory that a kernel need not ask for."""

_one_at_a_time = threading.Lock()  # the simulator runs one kernel at a time, and refuses a second one


def grid_of(n: int) -> tuple[int, int]:
    """The grid of blocks of `THREADS` for ``n`` elements."""
    return -(-n // THREADS), 1


def signature(arguments: Sequence[Any]) -> Any:
    """The Numba signature of a kernel: ``arguments`` are storage dtypes (pointers), "int", "real"; or records."""
    return types.void(*map(_type_of, arguments))


def _type_of(argument: Any) -> Any:
    if isinstance(argument, tuple):
        return types.NamedTuple([_type_of(field) for field in argument], type(argument))
    return _SCALARS.get(argument) or types.CPointer(POINTER_TYPES[argument])


@functools.cache
def compiled(factory: Callable[..., Any], options: tuple[Any, ...], arguments: tuple[Any, ...], threads: int) -> Any:
    """``factory(*options)`` as something to `launch`: compiled here and now, for the current device.

    ``arguments``: see `signature`.
    """
    function = factory(*options)
    if SIMULATED:
        from softbench_backends.numba_cuda.simulated import quiet

        return cuda.jit(quiet(function, arguments))
    return Launchable(cuda.jit(signature(arguments), launch_bounds=threads)(function), flattened(arguments))


class Launchable:
    """A compiled kernel, and where its arguments are packed, per thread."""

    def __init__(self, dispatcher: Any, arguments: Sequence[str]) -> None:
        from cuda.bindings import driver

        self._driver = driver
        (kernel,) = dispatcher.overloads.values()
        self._load = kernel.library.get_cufunc  # onto the current device
        self._handles: dict[int, Any] = {}  # by context
        self._format = struct.Struct("=" + "".join(_PACKED.get(a, "Q") for a in arguments))
        self._local = threading.local()

    def _buffer(self) -> tuple[Any, int]:
        """This thread's buffer for arguments, and where the array of pointers into it lies."""
        try:
            buffer, address, _ = self._local.buffer
        except AttributeError:
            size = self._format.size
            buffer = (ctypes.c_char * size)()
            start = ctypes.addressof(buffer)
            pointers = (ctypes.c_void_p * (size // 8))(*range(start, start + size, 8))
            address = ctypes.addressof(pointers)
            self._local.buffer = buffer, address, pointers
        return buffer, address

    def _function(self, shared: int) -> Any:
        """The driver's handle on the current device, which may have ``shared`` bytes of dynamic shared memory."""
        context = current_context()
        handle = self._handles.get(context)
        if handle is None:
            driver, found = self._driver, self._load()
            if shared > _STATIC_LIMIT:
                attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
                device = cuda.get_current_device().id
                checked(driver.cuKernelSetAttribute(attribute, shared, driver.CUkernel(int(found.handle)), device))
            handle = self._handles[context] = driver.CUfunction(int(found.handle))
        return handle

    def __call__(self, grid: tuple[int, int], threads: int, shared: int, stream: int, arguments: Sequence[Any]) -> None:
        """Queue the kernel; the driver copies the arguments before it returns."""
        function = self._function(shared)
        buffer, address = self._buffer()
        self._format.pack_into(buffer, 0, *arguments)
        result = self._driver.cuLaunchKernel(function, *grid, 1, threads, 1, 1, shared, stream, address, 0)
        if int(result[0]):
            checked(result)


def current_context() -> int:
    """Handle of this thread's current context; of that of Numba's current device, made current, where there is none.

    The driver is asked because Numba's own question takes several times as long.
    """
    from cuda.bindings import driver

    context = int(driver.cuCtxGetCurrent()[1])
    if not context:
        cuda.current_context()
        context = int(driver.cuCtxGetCurrent()[1])
    return context


def checked(result: tuple[Any, ...]) -> None:
    """RuntimeError naming the error of a driver call that failed."""
    if int(result[0]) != 0:
        raise RuntimeError(f"CUDA: {result[0].name}")


def launch(
    kernel: Any,
    grid: tuple[int, int],
    threads: int,
    stream: int,
    *arguments: View | int | float | None,
    shared: int = 0,
) -> None:
    """Run ``kernel`` on a grid of blocks; a `View` is passed as the address of its first element, None as no array.

    ``arguments`` are those it was compiled for, the fields of its records one after the other.
    ``shared``: bytes of dynamic shared memory, the same at every launch of a kernel that has any.
    """
    if grid[0] > _LARGEST_GRID:
        raise ValueError(f"{grid[0]} blocks of rows are more than a grid can hold")
    if SIMULATED:
        from softbench_backends.numba_cuda.simulated import launching

        with _one_at_a_time, launching():
            kernel[grid, threads, 0, shared](*(_memory(a) if isinstance(a, View) else a for a in arguments))
        return
    kernel(grid, threads, shared, stream, [a.address if isinstance(a, View) else a or 0 for a in arguments])


def copy_bytes(source: View, target: View, stream: int) -> None:
    """Copy the memory of a contiguous view into that of another, of as many bytes, by the driver."""
    size = source.span
    if SIMULATED:
        ctypes.memmove(target.address, source.address, size)
        return
    from cuda.bindings import driver

    current_context()
    checked(driver.cuMemcpyDtoDAsync(target.address, source.address, size, stream))


def _memory(view: View) -> Any:
    """The simulator's array over the memory from a view's first element on."""
    from numba.cuda.simulator.cudadrv.devicearray import FakeCUDAArray

    storage = np.dtype(STORAGE[view.dtype.name])
    if view.span == 0:
        return FakeCUDAArray(np.empty(0, storage))
    buffer = (ctypes.c_char * view.span).from_address(view.address)
    return FakeCUDAArray(np.frombuffer(memoryview(buffer), storage))
