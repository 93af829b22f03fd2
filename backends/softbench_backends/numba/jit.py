"""How the parts of kernels are compiled."""

# mypy: allow-untyped-calls
from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit

__all__ = ["part"]


def part(function: Callable[..., Any], name: str = "") -> Any:
    """Compile a function that only other compiled functions call.

    It gets nothing that Python or C could call it by, which saves time for every one of the many parts of a kernel.
    A function made inside another one needs a ``name`` that nothing else in its module has: Numba names symbols after
    the qualified name and a number that counts up in each process, so code that another process has left on disk
    would otherwise be linked to whatever part has the same number here.
    """
    if name:
        function.__name__ = function.__qualname__ = name
    if "<locals>" in function.__qualname__:
        raise ValueError(f"{function.__qualname__} in {function.__module__} needs a name of its own")
    return njit(function, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)
