"""How kernels and the functions that they consist of are compiled."""

# mypy: allow-untyped-calls
from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numba
from numba import njit, types

from softbench_backends.numba import numba_internals

__all__ = ["Compiled", "compile_for", "device_function"]


def device_function(function: Callable[..., Any], name: str = "") -> Any:
    """Compile a function that only other compiled functions call.

    It gets nothing that Python or C could call it by, which saves time for every one of the many in a kernel.
    A function made inside another one needs a ``name`` that nothing else in its module has: Numba names symbols after
    the qualified name and a number that counts up in each process, so code that another process has left on disk
    would otherwise be linked to whatever function has the same number here.
    """
    if name:
        function.__name__ = function.__qualname__ = name
    if "<locals>" in function.__qualname__:
        raise ValueError(f"{function.__qualname__} in {function.__module__} needs a name of its own")
    return njit(function, error_model="numpy", **numba_internals.device_options)


class Compiled(NamedTuple):
    """A function, compiled for one combination of types."""

    function: Callable[..., Any]
    """For Python. The machine code lives as long as it does."""
    reference: Any
    """For `softbench_backends.numba.calls.call_kernel`."""
    reference_type: types.Type
    """Numba's type of that."""


def compile_for(function: Callable[..., Any], arguments: tuple[types.Type, ...], parallel: bool = False) -> Compiled:
    """Compile (or load) a function for one combination of types.

    It is called without Numba's dispatcher, which would compile again for every combination of read-only arrays, and
    would take longer than a small row does.
    """
    numba_internals.require_compiler()
    options = numba_internals.kernel_options
    dispatcher = njit(function, error_model="numpy", nogil=True, parallel=parallel, **options)
    numba_internals.keep_on_disk(dispatcher)
    with _no_collection():
        dispatcher.compile(arguments)
    if "entry points" in numba_internals.MISSING:
        return Compiled(dispatcher, dispatcher, numba.typeof(dispatcher))
    return Compiled(*numba_internals.machine_code(dispatcher, arguments), types.int64)


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Put garbage collection off: a compiler makes objects by the million, and keeps most of them."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
