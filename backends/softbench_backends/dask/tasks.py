"""What a task does: kernels of the local backend on a block, with as many threads as the task's worker has for it."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

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
        with np.errstate(all="ignore"), contextlib.nullcontext() if threads is None else rows.limit_threads(threads):
            return kernel(rows)


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
