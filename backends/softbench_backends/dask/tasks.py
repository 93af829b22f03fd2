"""What a task does: kernels of the local backend on a block, with as many threads as the task's worker has for it."""

from __future__ import annotations

import contextlib
import importlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from softbench.interface import Array, IndexTarget, RowBackend, SoftTarget, Target
from softbench.interface.local_rows import local_rows
from softbench_backends.dask import threads
from softbench_backends.dask.memory import Workers
from softbench_backends.dask.statistics import whole

__all__ = [
    "Local",
    "gradients",
    "limited",
    "losses",
    "lowered",
    "on_blocks",
    "oversubscribed",
    "per_entry",
    "per_row",
    "report",
    "reports",
]


class Local(NamedTuple):
    """A local backend by name, and how many threads its kernels may take; goes to workers by pickle."""

    name: str
    threads: int | None
    """Of each task; None: `threads.threads_here`."""

    def rows(self) -> RowBackend:
        """Its kernels in this process."""
        return local_rows(self.name)

    @contextlib.contextmanager
    def limits(self) -> Iterator[None]:
        """While the context lasts, the local backend and libraries for linear algebra have a task's threads."""
        count = threads.threads_here() if self.threads is None else self.threads
        if count is None:
            yield
            return
        with self.rows().limit_threads(count), threads.blas_limited(count):
            yield

    def run(self, kernel: Callable[[RowBackend], Any]) -> Any:
        """``kernel(rows)`` with this task's threads."""
        rows = self.rows()
        with np.errstate(all="ignore"), self.limits():
            return kernel(rows)


def limited(function: Callable[..., Any], local: Local, *arguments: Any, **options: Any) -> Any:
    """``function`` of blocks with a task's threads, where it is none of the local backend's kernels."""
    with local.limits():
        return function(*arguments, **options)


def report(local: Local, dask_worker: Any = None) -> dict[str, Any]:
    """The threads that a task has in this process, as they are found while it is set up as one.

    Parameters
    ----------
    local
        The local backend, with threads for each task; None: all.
    dask_worker
        The worker that this runs in; `distributed.Client.run` gives it. None: none.
    """
    rows = local.rows()
    with local.limits():
        found = {"cores": threads.cores(), "blas": threads.blas_threads(), "local": rows.info().get("threads", 1)}
    return found if dask_worker is None else {"tasks": int(dask_worker.state.nthreads), **found}


def reports(local: Local, found: Workers) -> dict[str, Any]:
    """`report` of each worker, by its address; a sentence where one has none."""
    if found.scheduler != "distributed":
        tasks = found.workers * found.threads_per_worker
        return {"here": {"tasks": tasks, **report(local)}}
    client = importlib.import_module("distributed").default_client()
    answers: dict[str, Any] = client.run(report, local, on_error="return")
    return {
        address: f"{type(answer).__name__}: {answer}" if isinstance(answer, BaseException) else answer
        for address, answer in answers.items()
    }


def oversubscribed(reports: dict[str, Any]) -> list[str]:
    """Hosts on which tasks together have more threads than there are cores."""
    wanted: dict[str, int] = defaultdict(int)
    cores: dict[str, int] = {}
    for address, about in reports.items():
        if isinstance(about, dict):
            host = address.rpartition(":")[0] or address
            wanted[host] += about["tasks"] * max(about["local"], *about["blas"].values(), 1)
            cores[host] = max(about["cores"], cores.get(host, 0))
    return [host for host in wanted if wanted[host] > cores[host]]


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
