"""What the memory of this machine allows, measured: reading, copying and updating arrays of a given size.

A kernel that must read a row and write a row cannot beat the best copy of the same bytes with the same threads;
one that only reads cannot beat the best read. Which way of copying is best depends on the size (one core in cache;
beyond it all cores, with stores that bypass the cache), so several are tried and the fastest is the ceiling.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final, Literal, NamedTuple

import numpy as np

from softbench.front.backend import Backend
from softbench.machine import usable_cores
from softbench.measure.timing import Candidate, interleave
from softbench.measure.workloads import Workload

__all__ = ["HOST_KINDS", "Ceiling", "ceiling", "device_ceiling", "host_limit", "limit_of"]

Operation = Literal["read", "copy", "update"]

HOST_KINDS: Final = frozenset({"cpu", "distributed"})
"""Kinds of backends that compute in the memory of the host: without a cluster, Dask does so too."""

_LINE: Final = 64
_TRIAL_SECONDS: Final = 0.15


class Ceiling(NamedTuple):
    """The fastest way found to do an operation, as a candidate to be timed beside the kernels it bounds."""

    operation: Operation
    method: str
    moved: int
    """Bytes read plus bytes written by one call of the candidate."""
    candidate: Candidate


def ceiling(operation: Operation, nbytes: int, threads: int | None = None) -> Ceiling:
    """The best way to read, copy or update ``nbytes`` of host memory with up to ``threads`` threads (None: all)."""
    methods = _METHODS[operation](_aligned(nbytes), threads or usable_cores())
    candidates = {name: Candidate(call) for name, call in methods.items()}
    best = next(iter(candidates))
    if len(candidates) > 1:
        timings = interleave(candidates, _TRIAL_SECONDS)
        best = min(timings, key=lambda name: timings[name].median)
    moved = nbytes if operation == "read" else 2 * nbytes
    return Ceiling(operation, best, moved, candidates[best])


def limit_of(workload: Workload, backend: Backend, threads: int | None = None) -> Ceiling:
    """The limit of a workload in the memory that a backend computes in."""
    if backend.availability().kind in HOST_KINDS:
        return host_limit(workload, threads)
    return device_ceiling(backend, workload.ceiling, workload.traffic.total // 2)


def host_limit(workload: Workload, threads: int | None = None) -> Ceiling:
    """The limit of a workload in the memory of the host."""
    traffic = workload.traffic.total
    return ceiling(workload.ceiling, traffic if workload.ceiling == "read" else traffic // 2, threads)


def device_ceiling(backend: Backend, operation: Operation, nbytes: int) -> Ceiling:
    """A copy of ``nbytes`` within a device's memory, by the backend's own array primitive.

    It bounds reads and updates too: a copy moves twice the bytes, and is counted so.
    """
    source = backend.asarray(_aligned(nbytes).view(np.float32).reshape(1, -1))
    target = backend.asarray(np.zeros(source.shape, np.float32))
    rows = backend.rows

    def copy() -> None:
        rows.from_rows(source, source.shape, 1, "float32", target)

    return Ceiling(operation, "device copy", 2 * nbytes, Candidate(copy, backend.synchronize))


def _aligned(nbytes: int) -> np.ndarray[Any, Any]:
    """At least ``nbytes`` of random words, uint64, beginning on a cache line."""
    n = max(1, -(-nbytes // _LINE)) * _LINE
    raw = np.empty(n + _LINE, np.uint8)
    start = -raw.ctypes.data % _LINE
    array = raw[start : start + n].view(np.uint64)
    pattern = np.random.Generator(np.random.SFC64(1)).integers(1, 1 << 62, 8, dtype=np.uint64)
    array.reshape(-1, 8)[:] = pattern
    return array


def _kernels(threads: int) -> Any:
    """The module of compiled kernels, set to run on that many threads."""
    import numba

    from softbench.measure import memory_kernels

    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
    return memory_kernels


def _read(a: np.ndarray[Any, Any], threads: int) -> dict[str, Callable[[], Any]]:
    kernels = _kernels(threads)
    methods: dict[str, Callable[[], Any]] = {"1 thread": functools.partial(kernels.read_one, a)}
    if threads > 1:
        partial = np.empty(-(-a.nbytes // kernels.BLOCK), np.uint64)
        methods[f"{threads} threads"] = functools.partial(kernels.read_all, a, partial)
    return methods


def _copy(a: np.ndarray[Any, Any], threads: int) -> dict[str, Callable[[], Any]]:
    kernels = _kernels(threads)
    b = _aligned(a.nbytes)
    methods: dict[str, Callable[[], Any]] = {"1 thread, memcpy": functools.partial(np.copyto, b, a)}
    if threads > 1:
        methods[f"{threads} threads, memcpy"] = functools.partial(kernels.copy_all, a, b)
    methods[f"{threads} threads, streaming stores"] = functools.partial(kernels.stream_all, a, b)
    return methods


def _update(a: np.ndarray[Any, Any], threads: int) -> dict[str, Callable[[], Any]]:
    kernels = _kernels(threads)
    methods: dict[str, Callable[[], Any]] = {"1 thread": functools.partial(kernels.update_one, a)}
    if threads > 1:
        methods[f"{threads} threads"] = functools.partial(kernels.update_all, a)
    return methods


_METHODS: Final = {"read": _read, "copy": _copy, "update": _update}
