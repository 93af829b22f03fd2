"""Threads: how many, whose, and where they must not be started.

Large calls are shared out by the threading layer that Numba has chosen, where that takes calls from several threads at
once (OpenMP, TBB). The third layer, workqueue, ends the process (SIGABRT) when two threads enter it together, be it
softbench and a ``prange`` of somebody else's. It is never entered: there, and where Numba has no layer at all, a few
threads of this module's own call the kernels, which need no interpreter while they compute. A row that is so large that
all threads would take part is then left to one.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import queue
from collections.abc import Callable, Iterator
from typing import Any, Final

from softbench.interface.first_use import FirstUse

__all__ = ["SERIAL_SIZE", "can_split", "count", "layer", "shared_out"]

SERIAL_SIZE: Final = 1 << 15
"""Elements up to which starting threads costs more than it gains."""

_TAKE_TURNS: Final = ("omp", "tbb")
"""Layers that any number of threads may enter at once."""

_forked = False


def _after_fork() -> None:
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _start() -> str:
    import numba

    try:
        numba.get_num_threads()  # starts them
        return str(numba.threading_layer())
    except ValueError as error:  # the one that was asked for is not there
        return f"none ({str(error).splitlines()[0]})"


_started: Final = FirstUse(_start)


def layer() -> str | None:
    """The threading layer that Numba chose, None before it had to."""
    return _started.made.get(())


def can_split() -> bool:
    """Whether kernels may have Numba's threads take part."""
    from softbench_backends.numba import numba_internals

    return _started() in _TAKE_TURNS and "entry points" not in numba_internals.MISSING


def count() -> int:
    """Threads to use; 1 in a forked child, where the GNU OpenMP layer ends a process that starts threads."""
    if _forked:
        return 1
    import numba

    if _started() in (*_TAKE_TURNS, "workqueue"):
        return int(numba.get_num_threads())
    return int(numba.config.NUMBA_NUM_THREADS)


@contextlib.contextmanager
def limited(most: int) -> Iterator[None]:
    """While the context lasts, `count` is at most ``most`` for calls of this thread."""
    import numba

    before = numba.get_num_threads()
    numba.set_num_threads(min(most, before))
    try:
        yield
    finally:
        numba.set_num_threads(before)


# -- without a layer --------------------------------------------------------------------------------------------------


class _Call:
    """A kernel while it is shared out. Threads write to it, one waits; none holds a lock that a handler could want."""

    def __init__(self, kernel: Callable[[int], None]) -> None:
        self._kernel = kernel
        self._ended: list[int] = []
        self._woken: queue.SimpleQueue[None] = queue.SimpleQueue()
        self.error: BaseException | None = None

    def help(self, chunk: int) -> None:
        """Do a chunk, on whatever thread."""
        try:
            self._kernel(chunk)
        except BaseException as error:  # it ran out of memory
            self.error = error
        self._ended.append(chunk)
        self._woken.put(None)

    def wait(self, chunks: int) -> None:
        """Wait until other threads have done ``chunks``. Ctrl-C waits too, as they write into the caller's array."""
        interrupted: BaseException | None = None
        while len(self._ended) < chunks:
            try:
                self._woken.get(timeout=1.0)  # one that an exception has swallowed is not waited for
            except queue.Empty:
                pass
            except BaseException as error:
                interrupted = error
        if interrupted is not None:
            raise interrupted


_tickets: queue.SimpleQueue[tuple[_Call, int]] = queue.SimpleQueue()
_helpers: list[int] = []


def _help() -> None:
    while True:
        call, chunk = _tickets.get()
        call.help(chunk)
        del call


def shared_out(function: Callable[..., Any], bound: tuple[Any, ...]) -> Callable[..., Any]:
    """``(args, n, chunks, streaming)`` that calls a kernel for ``0 <= i < n``, a chunk on every one of some threads."""

    def share(args: tuple[Any, ...], n: int, chunks: int, streaming: bool) -> None:
        def kernel(chunk: int) -> None:
            function(*bound, *args, n * chunk // chunks, n * (chunk + 1) // chunks, streaming)

        call = _Call(kernel)
        others = 0
        try:
            while len(_helpers) < chunks - 1:
                try:
                    _helpers.append(_thread.start_new_thread(_help, ()))
                except RuntimeError:  # no more threads: fewer chunks
                    chunks = len(_helpers) + 1
            for chunk in range(1, chunks):
                _tickets.put((call, chunk))
                others += 1
            kernel(0)
        finally:
            call.wait(others)
        if call.error is not None:
            raise call.error

    return share
