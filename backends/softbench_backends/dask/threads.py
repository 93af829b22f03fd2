"""Threads of a task: how many it may take, and the threads of BLAS in a process in which tasks run.

Numba counts threads for each thread that calls, and the local backend limits them. Libraries for linear algebra count
them for the whole process. Their number is set when a task starts in a process where none runs, and set back when the
last one ends; tasks that ask for different numbers get the smallest meanwhile.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any, Final

__all__ = ["blas_limited", "blas_threads", "cores", "threads_here"]


def threads_here() -> int | None:
    """Threads for a task in this thread: 1 beside other tasks, None (all) where it is alone.

    A worker of Dask has ``nthreads`` tasks at a time, and as many cores are its share of the machine: that is one for
    each. So it is in pools of threads or processes.
    """
    distributed = sys.modules.get("distributed")
    if distributed is not None:
        with contextlib.suppress(ValueError):  # not in a worker
            distributed.get_worker()
            return 1
    beside = threading.current_thread() is not threading.main_thread() or multiprocessing.parent_process() is not None
    return 1 if beside else None


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Blas:
    """Libraries for linear algebra that this process has loaded, and the numbers of threads that tasks ask of them."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a signal handler may interrupt the thread that has it, and compute
        self._asked: list[int] = []
        self._modules = 0
        self._libraries: dict[str, Any] = {}
        self._before: dict[str, int] = {}

    def libraries(self) -> dict[str, Any]:
        """Those that are loaded, by file; looked for again when modules were imported, for that takes milliseconds."""
        if len(sys.modules) != self._modules:
            from threadpoolctl import ThreadpoolController

            found = ThreadpoolController().select(user_api="blas").lib_controllers
            self._libraries = {library.filepath: library for library in found if library.num_threads}
            self._modules = len(sys.modules)
        return self._libraries

    @contextlib.contextmanager
    def limited(self, count: int) -> Iterator[None]:
        with self._lock:
            for file, library in self.libraries().items():
                self._before.setdefault(file, library.num_threads)
            self._asked.append(count)
            self._set()
        try:
            yield
        finally:
            with self._lock:
                self._asked.remove(count)
                self._set()
                if not self._asked:
                    self._before.clear()

    def _set(self) -> None:
        """What is asked for, or what was before; at every start and end, for OpenMP has a number for each thread."""
        for file, before in self._before.items():
            _set_threads(self._libraries[file], min(self._asked) if self._asked else before)

    def after_fork(self) -> None:
        """No task of the parent runs in a child, and a lock that one held there is never released here."""
        self._asked.clear()
        self._set()
        self._before.clear()
        self._lock = threading.RLock()


def _set_threads(library: Any, count: int) -> None:
    """From any thread: threadpoolctl (3.8) has OpenBLAS obey the first that sets it alone, until that one is done."""
    release = getattr(library, "clear_controlling_thread", None)
    if release is not None:
        release(force=True)
    library.set_num_threads(count)
    if release is not None:
        release(force=True)


_blas: Final = _Blas()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_blas.after_fork)


def blas_limited(count: int) -> contextlib.AbstractContextManager[None]:
    """While the context lasts, libraries for linear algebra use ``count`` threads, at most one for each core."""
    return _blas.limited(min(count, cores()))


def blas_threads() -> dict[str, int]:
    """Threads of each library for linear algebra that this process has loaded, by the name of its file."""
    return {os.path.basename(file): int(library.num_threads) for file, library in _blas.libraries().items()}
