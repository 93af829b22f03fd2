"""Numba's lock on compiling, for all that compile: also while Numba, or this package, is being imported.

It belongs to what `numba_internals` lists; that module cannot be imported by a thread that must not wait for others.
"""

from __future__ import annotations

import sys
from typing import Any

from softbench.interface.first_use import hold_during_fork, make_at_once_if

__all__: list[str] = []


def _lock() -> Any:
    return getattr(sys.modules.get("numba.core.compiler_lock"), "global_compiler_lock", None)


def _taken_by_this_thread() -> bool:
    """It may be in a signal handler, or in a function that Numba calls while it compiles."""
    return bool(getattr(_lock(), "is_locked", bool)())


hold_during_fork(lambda: getattr(_lock(), "_lock", None))
make_at_once_if(_taken_by_this_thread)
