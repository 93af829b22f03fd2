"""Numba's threads: how many, on which layer, and where they must not be started."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

import numba

__all__ = ["count", "layer", "run"]

_forked = False
_lock = threading.Lock()
_concurrent = False  # whether the threading layer is known to take calls from several threads at once


def _after_fork() -> None:
    global _forked, _lock
    _forked = True
    _lock = threading.Lock()  # another thread of the parent may have held it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def count() -> int:
    """Threads to use; 1 in a forked child, where the GNU OpenMP layer ends a process that starts threads."""
    return 1 if _forked else int(numba.get_num_threads())


def layer() -> str | None:
    """The threading layer that Numba chose, None before it had to."""
    try:
        return str(numba.threading_layer())
    except ValueError:
        return None


def run(parallel: Callable[..., Any], *args: Any) -> None:
    """Call a parallel kernel; one at a time where the layer (workqueue) would abort the process on two."""
    global _concurrent
    if _concurrent:
        parallel(*args)
        return
    with _lock:
        parallel(*args)
        _concurrent = layer() in ("omp", "tbb")
