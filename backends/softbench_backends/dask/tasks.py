"""What a task does: kernels of the local backend on a block, with as many threads as the task's worker has for it."""

from __future__ import annotations

import contextlib
import functools
import importlib
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

import numpy as np

from softbench.interface import Array, IndexTarget, RowBackend, SoftTarget, Target
from softbench.interface.local_rows import local_rows
from softbench_backends.dask.statistics import whole

__all__ = ["Local", "threads_here"]


class Local(NamedTuple):
    """A local backend by name, and how many threads its kernels may take; goes to workers by pickle."""

    name: str
    threads: int | None
    """Of each task; None: `threads_here`."""

    def rows(self) -> RowBackend:
        """Its kernels in this process."""
        return local_rows(self.name)

    def run(self, kernel: Callable[[RowBackend], Any]) -> Any:
        """``kernel(rows)`` with this task's threads."""
        rows = self.rows()
        threads = threads_here() if self.threads is None else self.threads
        with np.errstate(all="ignore"), contextlib.ExitStack() as limits:
            if threads is not None:
                limits.enter_context(rows.limit_threads(threads))
                limits.enter_context(_BLAS.limited(threads))
            return kernel(rows)


class _BlasThreads:
    """The threads of BLAS, which are the process's: limited by the first of its tasks, given back by the last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tasks = 0
        self._limit: Any = None

    @contextlib.contextmanager
    def limited(self, threads: int) -> Iterator[None]:
        """While any task of this process is in here, BLAS has the threads that the first of them asked for."""
        with self._lock:
            self._tasks += 1
            if self._tasks == 1:
                self._limit = _blas_libraries(len(sys.modules)).limit(limits=threads, user_api="blas")
        try:
            yield
        finally:
            with self._lock:
                self._tasks -= 1
                if self._tasks == 0:
                    self._limit.restore_original_limits()


@functools.lru_cache(1)
def _blas_libraries(modules: int) -> Any:
    """Looked for again when there are more modules, which may have loaded others."""
    return importlib.import_module("threadpoolctl").ThreadpoolController()


_BLAS: Final = _BlasThreads()


def threads_here() -> int | None:
    """Threads for a task in this thread: 1 beside other tasks of a worker or a pool, None (all) where it is alone."""
    distributed = sys.modules.get("distributed")
    if distributed is not None:
        try:
            return 1 if distributed.get_worker().state.nthreads >= 1 else None
        except ValueError:  # not in a worker
            pass
    return None if threading.current_thread() is threading.main_thread() else 1


def on_blocks(function: Callable[..., Any], *blocks: Any, **options: Any) -> Any:
    """``function`` of blocks; `dask.array.blockwise` puts those along a summed index into lists, here of one."""
    return function(*map(_alone, blocks), **options)


def _alone(block: Any) -> Any:
    while type(block) is list:
        (block,) = block
    return block


# -- functions of blocks: the first argument is `Local` ------------------------------------------------------


def per_entry(x: Array, local: Local, kernel: str) -> Array:
    """A kernel with a result in the shape of the block."""
    return local.run(lambda rows: _of(rows, kernel)(_rows(x), rows.empty(x.shape, x.dtype)))


def per_row(x: Array, local: Local, kernel: str, dtype: str) -> Array:
    """A kernel with a result for each row."""
    return local.run(lambda rows: _of(rows, kernel)(_rows(x), rows.empty(x.shape[:1], dtype)))


def losses(x: Array, *arrays: Array, local: Local, kernel: str, form: tuple[Any, ...]) -> Array:
    """Losses of the rows of logits or probabilities."""
    return local.run(
        lambda rows: _of(rows, kernel)(_rows(x), lowered(form, arrays), rows.empty(x.shape[:1], "float64"))
    )


def gradients(x: Array, divisor: Any, *arrays: Array, local: Local, form: tuple[Any, ...]) -> Array:
    """The gradient of the losses over ``divisor``."""
    over = whole(divisor)
    return local.run(lambda rows: rows.gradient(_rows(x), lowered(form, arrays), over, rows.empty(x.shape, x.dtype)))


def lowered(form: tuple[Any, ...], arrays: tuple[Array, ...]) -> Target:
    """The target of a block: ``form`` says which arrays there are, and the smoothing."""
    soft, weighted, classes, smoothing = form
    given = iter(arrays)
    y = next(given)
    if soft:
        return SoftTarget(_rows(y))
    s = next(given) if weighted else None
    return IndexTarget(y, s, next(given) if classes else None, smoothing)


def _of(rows: RowBackend, kernel: str) -> Callable[..., Array]:
    found: Callable[..., Array] = getattr(rows, kernel)
    return found


def _rows(x: Array) -> Array:
    """A block as kernels take it; those of other libraries are left as they are."""
    return np.require(x, requirements=["C", "A"]) if isinstance(x, np.ndarray) else x
