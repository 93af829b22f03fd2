"""What a measurement needs around it: a cache of its own, a number of threads, an environment that is put back."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping

from softbench import machine

__all__ = ["compilation_cache", "thread_limit"]


@contextlib.contextmanager
def compilation_cache() -> Iterator[str]:
    """An empty folder for compiled code: first calls are honest, and the measuring itself reuses what they left."""
    with (
        tempfile.TemporaryDirectory(prefix="softbench-", ignore_cleanup_errors=True) as folder,
        _environment({"NUMBA_CACHE_DIR": folder}),
    ):
        yield folder


@contextlib.contextmanager
def thread_limit(threads: int | None) -> Iterator[None]:
    """Have processes that are started in the block use so many threads: by their environment, and by affinity.

    Libraries that this process has loaded by now keep theirs, but for those that `threadpoolctl` reaches.
    """
    if threads is None:
        yield
        return
    asked = {name: str(threads) for name in machine.THREAD_VARIABLES if name.endswith("NUM_THREADS")}
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_setaffinity") else None
    with contextlib.ExitStack() as stack:
        stack.enter_context(_environment(asked))
        if allowed is not None:
            os.sched_setaffinity(0, sorted(allowed)[:threads])
            stack.callback(os.sched_setaffinity, 0, allowed)
        with contextlib.suppress(ImportError):
            from threadpoolctl import threadpool_limits

            stack.enter_context(threadpool_limits(threads))
        yield


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Environment variables set inside the block, as they were before after it."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
