"""What a call will need of each worker's memory, before it starts."""

from __future__ import annotations

import os
import sys
from typing import Any, Final, NamedTuple

import numpy as np

__all__ = ["Workers", "check", "needed", "workers"]

_KEPT: Final = 0.8
"""Of a worker's memory; from there on Dask's workers pause."""
_RESULTS: Final = 3.0
"""Blocks of the logits' size that a task holds at once: its logits, their copy as rows, the result."""
_TILES: Final = 1 << 20  # bytes of tiles in float64 and extended precision


class Workers(NamedTuple):
    """Who will compute."""

    scheduler: str
    workers: int
    threads_per_worker: int
    memory_per_worker: int
    """Bytes; 0: unknown."""


def workers() -> Workers:
    """The workers of the current distributed client, else this process as one."""
    distributed = sys.modules.get("distributed")
    if distributed is not None:
        try:
            known = distributed.default_client().scheduler_info(n_workers=-1)["workers"].values()
        except ValueError:  # no client
            known = ()
        if known:
            return Workers(
                "distributed",
                len(known),
                max(int(worker["nthreads"]) for worker in known),
                min(int(worker["memory_limit"]) for worker in known),
            )
    import dask.config

    scheduler = dask.config.get("scheduler", None)
    alone = scheduler in ("synchronous", "sync", "single-threaded")
    threads = 1 if alone else int(dask.config.get("num_workers", None) or _usable_cores())
    return Workers("synchronous" if alone else "threads", 1, threads, _installed())


def needed(block: tuple[int, ...], itemsize: int) -> int:
    """Bytes that a task on one block takes at most."""
    return int(np.prod(block, dtype=float) * itemsize * _RESULTS) + _TILES


def check(array: Any, argument: str) -> None:
    """MemoryError with chunks that fit, if the largest block does not fit as often as a worker has threads."""
    found = workers()
    if not found.memory_per_worker or not array.size:
        return
    block = tuple(max(sizes) for sizes in array.chunks)
    wanted, has = needed(block, array.dtype.itemsize) * found.threads_per_worker, _KEPT * found.memory_per_worker
    if wanted <= has:
        return
    raise MemoryError(
        f"{argument} has blocks of {block} {array.dtype}: {found.threads_per_worker} tasks at a time need about "
        f"{_size(wanted)} of a worker that has {_size(found.memory_per_worker)}, of which {_KEPT:.0%} may be used. "
        f"Rechunk it, for example to {suggested(block, array.dtype.itemsize, found)}"
    )


def suggested(block: tuple[int, ...], itemsize: int, found: Workers) -> tuple[int, ...]:
    """Chunks that fit: fewer rows first, then fewer classes."""
    room = (_KEPT * found.memory_per_worker / found.threads_per_worker - _TILES) / (itemsize * _RESULTS)
    sizes = list(block)
    for axis in range(len(sizes)):
        others = float(np.prod(sizes, dtype=float)) / sizes[axis]
        sizes[axis] = max(1, min(sizes[axis], int(room / others)))
    return tuple(sizes)


def _size(size: float) -> str:
    return f"{size / 2**30:.3g} GiB" if size >= 2**30 else f"{size / 2**20:.3g} MiB"


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _installed() -> int:
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return 0
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
