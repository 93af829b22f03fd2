"""How the parts of kernels are compiled."""

# mypy: allow-untyped-calls
from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit

__all__ = ["part"]


def part(function: Callable[..., Any]) -> Any:
    """Compile a function that only other compiled functions call.

    It gets nothing that Python or C could call it by, which saves time for every one of the many parts of a kernel.
    """
    # Numba names symbols and files after the qualified name, in which closures of one text are alike.
    function.__qualname__ = function.__name__
    return njit(function, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)
