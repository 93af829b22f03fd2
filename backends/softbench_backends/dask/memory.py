"""What a call will need of each worker's memory, before it starts."""

from __future__ import annotations

import os
import sys
from typing import Any, Final, NamedTuple

import numpy as np

from softbench_backends.dask.threads import cores

__all__ = ["Need", "Workers", "check", "needed", "suggested", "workers"]

_KEPT: Final = 0.8
"""Of a worker's memory; from there on Dask's workers pause."""
_RUNNING: Final = 3.0
"""Blocks of the logits' size that a task holds at once: its logits, its target or their copy as rows, the result."""
_AHEAD: Final = 1.0
"""Blocks per thread that are loaded, or wait to be taken on, meanwhile."""
_TILES: Final = 1 << 20  # bytes of tiles in float64 and extended precision
_BASELINES: Final = {"numpy": 100, "python": 100, "numba": 350}
"""MiB of a worker before it has any data: Python, imports and compiled kernels."""
_OTHER_BASELINE: Final = 350


class Workers(NamedTuple):
    """Who will compute."""

    scheduler: str
    workers: int
    threads_per_worker: int
    memory_per_worker: int
    """Bytes, the least of them; 0: unknown, or no limit."""


def workers() -> Workers:
    """The workers of the current distributed client, else this process as one."""
    distributed = sys.modules.get("distributed")
    if distributed is not None:
        try:
            known = distributed.default_client().scheduler_info(n_workers=-1)["workers"].values()
        except ValueError:  # no client
            known = ()
        if known:
            threads = max(int(worker["nthreads"]) for worker in known)
            limits = [int(worker["memory_limit"]) for worker in known if worker["memory_limit"]]  # None, 0: no limit
            return Workers("distributed", len(known), threads, min(limits, default=0))
    import dask.config

    scheduler = dask.config.get("scheduler", None)
    if scheduler in ("synchronous", "sync", "single-threaded"):
        return Workers("synchronous", 1, 1, _installed())
    pool = int(dask.config.get("num_workers", None) or cores())
    if scheduler in ("processes", "multiprocessing"):
        return Workers("processes", pool, 1, _installed() // pool)
    return Workers("threads", 1, pool, _installed())


class Need(NamedTuple):
    """What a worker takes at most while it computes on blocks."""

    fixed: int
    """Bytes whatever the blocks are."""
    blocks: float
    """Blocks at once."""


def needed(threads: int, local: str, held: float = 0.0, extra: int = 0) -> Need:
    """What tasks on blocks take.

    Parameters
    ----------
    threads
        Tasks at a time.
    local
        The local backend.
    held
        Blocks that stay from one look at them to the next, of each row of blocks: one such row is at work in each
        thread, and one is loaded ahead.
    extra
        Bytes that each task has besides.
    """
    fixed = (_BASELINES.get(local, _OTHER_BASELINE) << 20) + threads * (_TILES + extra)
    return Need(fixed, threads * (_RUNNING + _AHEAD + held) + held)


def check(array: Any, argument: str, local: str, held: float = 0.0, extra: int = 0) -> None:
    """MemoryError with chunks that fit, if what `needed` predicts is more than a worker has."""
    found = workers()
    if not found.memory_per_worker or not array.size:
        return
    block, itemsize = tuple(max(sizes) for sizes in array.chunks), array.dtype.itemsize
    threads = found.threads_per_worker
    need = needed(threads, local, held, extra)
    wanted = need.fixed + need.blocks * itemsize * float(np.prod(block, dtype=float))
    if wanted <= _KEPT * found.memory_per_worker:
        return
    fits = suggested(block, itemsize, found, need)
    remedy = f"Rechunk it, for example to {fits}" if fits else "No chunks fit: use workers with more memory"
    raise MemoryError(
        f"{argument} has blocks of {block} {array.dtype}: {threads} tasks at a time need about {_size(wanted)}, with "
        f"{_size(need.fixed)} whatever the blocks, of a worker that has {_size(found.memory_per_worker)}, of which "
        f"{_KEPT:.0%} may be used. {remedy}"
    )


def suggested(block: tuple[int, ...], itemsize: int, found: Workers, need: Need) -> tuple[int, ...] | None:
    """Chunks that fit: fewer rows first, then fewer classes; None if there are none."""
    room = (_KEPT * found.memory_per_worker - need.fixed) / (itemsize * need.blocks)
    if room < 1.0:
        return None
    sizes = list(block)
    for axis in range(len(sizes)):
        others = float(np.prod(sizes, dtype=float)) / sizes[axis]
        sizes[axis] = max(1, min(sizes[axis], int(room / others)))
    return tuple(sizes)


def _size(size: float) -> str:
    return f"{size / 2**30:.3g} GiB" if size >= 2**30 else f"{size / 2**20:.3g} MiB"


def _installed() -> int:
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return 0
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
