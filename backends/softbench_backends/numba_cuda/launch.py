"""Compiling kernels once each, and launching them on a stream.

On a device a kernel is compiled for one signature in which every array is a bare pointer: an argument then costs one
machine word, where a Numba array costs seven and a conversion. The simulator has no pointers and gets arrays over the
same memory.
"""

from __future__ import annotations

import ctypes
import functools
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from numba import cuda, types

from softbench_backends.numba_cuda.device import SIMULATED
from softbench_backends.numba_cuda.views import STORAGE, View

__all__ = ["compiled", "launch", "signature"]

POINTER_TYPES: Final = {
    "float64": types.float64,
    "float32": types.float32,
    **{f"{sign}int{bits}": getattr(types, f"{sign}int{bits}") for sign in ("", "u") for bits in (8, 16, 32, 64)},
}
_SCALARS: Final = {"int": types.int64, "real": types.float64}

_LARGEST_GRID: Final = 2**31 - 1

_one_at_a_time = threading.Lock()  # the simulator runs one kernel at a time, and refuses a second one


def signature(arguments: Sequence[str]) -> Any:
    """The Numba signature of a kernel: ``arguments`` are storage dtypes (pointers), "int" or "real"."""
    return types.void(*(_SCALARS.get(a) or types.CPointer(POINTER_TYPES[a]) for a in arguments))


@functools.cache
def compiled(factory: Callable[..., Any], options: tuple[Any, ...], arguments: tuple[str, ...], threads: int) -> Any:
    """``factory(*options)`` as something to launch: compiled here and now, for the current device."""
    function = factory(*options)
    if SIMULATED:
        from softbench_backends.numba_cuda.simulated import quiet

        return cuda.jit(quiet(function))
    return cuda.jit(signature(arguments), launch_bounds=threads)(function)


def launch(kernel: Any, blocks: int, threads: int, stream: Any, *arguments: View | int | float | None) -> None:
    """Run ``kernel`` on ``blocks`` blocks; a `View` is passed as the address of its first element, None as no array."""
    if blocks > _LARGEST_GRID:
        raise ValueError(f"{blocks} blocks of rows are more than a grid can hold")
    if SIMULATED:
        from softbench_backends.numba_cuda.simulated import prompt_threads

        with _one_at_a_time, prompt_threads():
            kernel[blocks, threads](*(_memory(a) if isinstance(a, View) else a for a in arguments))
        return
    kernel[blocks, threads, stream](*(a.address if isinstance(a, View) else a or 0 for a in arguments))


def _memory(view: View) -> Any:
    """The simulator's array over the memory from a view's first element on."""
    from numba.cuda.simulator.cudadrv.devicearray import FakeCUDAArray

    storage = np.dtype(STORAGE[view.dtype.name])
    if view.span == 0:
        return FakeCUDAArray(np.empty(0, storage))
    buffer = (ctypes.c_char * view.span).from_address(view.address)
    return FakeCUDAArray(np.frombuffer(memoryview(buffer), storage))
