"""What is made once, when it is first asked for: a library imported, a kernel compiled.

That takes long, and meanwhile anything may happen: another thread asks for the same, a signal handler interrupts the
thread that asks and asks again, another thread forks, a user presses Ctrl-C. So it is made in a thread of its own. The
thread that asks waits for that one, and holds no lock meanwhile that others may need:

>>> squares = FirstUse(lambda n: n * n)
>>> squares(3)
9

* **Threads** that ask for one thing get the same object.
* A **signal handler** waits as all do: the thread that makes things is not the one that it has interrupted.
* **Ctrl-C** ends the waiting. What is being made is finished all the same, never left half done.
* A **fork** waits until nothing is being made, so that no lock in the child belongs to a thread that is not there. It
  gives up after `PATIENCE` seconds; what has not been made by then is an error in that child (`ForkedTooSoonError`).
* At the **end of the process** whatever is being made is finished first: a compiler may not be interrupted.

Where a thread of its own would have to wait for the thread that asks, things are made at once by that one: where
making one thing takes another; during an import, because it holds the locks of the modules above it; where it holds a
lock that making things takes (`make_at_once_if`); while it forks; and where no thread can be started. So a signal
handler that interrupts the import of the very library that it needs gets the ImportError that Python gives it.

Subinterpreters are not supported, as NumPy does not support them.
"""

from __future__ import annotations

import _thread
import atexit
import logging  # noqa: F401  # what is registered later is done earlier when a process forks: see `_before_fork`
import os
import sys
import threading
import weakref
from collections.abc import Callable, Hashable
from types import FrameType
from typing import Any, Final, Generic, TypeVar

__all__ = ["PATIENCE", "FirstUse", "ForkedTooSoonError", "hold_during_fork", "make_at_once_if"]

PATIENCE: Final = 30.0
"""Seconds that a fork, or the end of the process, waits for what is being made."""

T = TypeVar("T")


class ForkedTooSoonError(RuntimeError):
    """Something would have to be made in a process that was forked while another thread was making something."""


class _Job:
    """One thing while it is being made. Only `wait` blocks, each time on a lock of its own."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._claim = _thread.allocate_lock()  # of several threads that were started for it, the first one works
        self._waiting: list[Any] = []
        self.done = False
        self.error: BaseException | None = None

    def start(self) -> None:
        """Have it made. All that find the job do this: the thread that began it may have been interrupted."""
        if not self._claim.locked():
            _thread.start_new_thread(self.run, ())

    def run(self) -> None:
        if not self._claim.acquire(blocking=False):
            return
        try:
            with _making, _Maker():
                self._make()
        except BaseException as error:  # for the threads that wait
            self.error = error
        finally:
            self.finish()

    def finish(self) -> None:
        self.done = True
        for lock in tuple(self._waiting):
            lock.release()

    def wait(self) -> None:
        lock = _thread.allocate_lock()
        lock.acquire()
        self._waiting.append(lock)
        if not self.done:  # else `finish` may not have seen the lock
            lock.acquire()


class FirstUse(Generic[T]):
    """A function whose results are made once, in the way that the module describes.

    Parameters
    ----------
    make
        Makes the result for its positional arguments, which are hashable. An exception reaches all that wait, and the
        next call makes another attempt.
    """

    def __init__(self, make: Callable[..., T]) -> None:
        self._make = make
        self.made: dict[Hashable, T] = {}
        """Results so far, by tuples of arguments."""
        self._jobs: dict[Hashable, _Job] = {}
        _everything.add(self)

    def __call__(self, *key: Any) -> T:
        """The result for these arguments."""
        try:
            return self.made[key]
        except KeyError:
            return self._first(key)

    def _first(self, key: tuple[Any, ...]) -> T:
        while key not in self.made:
            if _forked_too_soon:
                raise ForkedTooSoonError(
                    "this process was forked while another thread of its parent was compiling or importing: what was "
                    "not ready by then cannot be had here; call each function once before forking, or use spawn"
                )
            if _at_once():
                with _Maker():
                    self.made.setdefault(key, self._make(*key))
                break
            job = self._jobs.setdefault(key, _Job(lambda: self._finished(key)))
            try:
                job.start()
            except RuntimeError:  # no more threads, or none any more
                job.run()
            job.wait()
            if job.error is not None:
                raise job.error
        return self.made[key]

    def _finished(self, key: tuple[Any, ...]) -> None:
        try:
            if key not in self.made:  # made by a thread that had to make it itself
                self.made[key] = self._make(*key)
        finally:
            self._jobs.pop(key, None)

    def abandon(self) -> None:
        """In a forked child: nothing is being made any more. A frame of this thread that was waiting asks anew."""
        for job in tuple(self._jobs.values()):
            job.finish()
        self._jobs.clear()


# -- who makes things at once -----------------------------------------------------------------------------------------

_makers: dict[int, int] = {}
"""Threads that are making something: how many things, one for the sake of another."""

_conditions: list[Callable[[], bool]] = []


class _Maker:
    """The thread that makes something: what it asks for meanwhile it makes itself."""

    def __enter__(self) -> None:
        thread = _thread.get_ident()
        _makers[thread] = _makers.get(thread, 0) + 1  # what a signal handler adds it has taken away when it returns

    def __exit__(self, *_: object) -> None:
        thread = _thread.get_ident()
        depth = _makers.get(thread, 1) - 1
        if depth:
            _makers[thread] = depth
        else:
            _makers.pop(thread, None)


def make_at_once_if(condition: Callable[[], bool]) -> None:
    """Have the thread that asks make things itself where ``condition()`` holds: it has a lock that making takes."""
    _conditions.append(condition)


def _at_once() -> bool:
    thread = _thread.get_ident()
    return thread in _makers or bool(_held.get(thread)) or _imports() or any(holds() for holds in tuple(_conditions))


def _imports() -> bool:
    """Whether this thread is inside an import statement."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


# -- forks, and the end -----------------------------------------------------------------------------------------------

_everything: weakref.WeakSet[FirstUse[Any]] = weakref.WeakSet()
_making = threading.RLock()
"""Held while something is being made."""

_others: list[Callable[[], Any]] = []
_held: dict[int, list[list[Any]]] = {}
"""What a thread that forks has taken, and may be taking; twice, if a signal handler forks meanwhile."""
_forked_too_soon = False


def hold_during_fork(find: Callable[[], Any]) -> None:
    """Have forks wait for another `threading.RLock` too: a compiler's own, which others take without asking here.

    ``find`` is asked for it at every fork; None if there is no such lock yet.
    """
    _others.append(find)


def _before_fork() -> None:
    # Before the lock of `logging` is taken, which imports need for a moment: the thread that is waited for may import.
    locks: list[Any] = []
    _held.setdefault(_thread.get_ident(), []).append(locks)
    for find in (lambda: _making, *_others):
        lock = find()  # when those before it are taken: no thread imports a compiler then
        if lock is not None:
            taken = lock.acquire(timeout=PATIENCE)
            locks.append(lock if taken else None)


def _after_fork() -> bool:
    """Whether all locks had been taken."""
    held = _held[_thread.get_ident()]
    complete = None not in held[-1]
    while held[-1]:
        if (lock := held[-1].pop()) is not None:
            lock.release()
    held.pop()
    return complete


def _in_child() -> None:
    global _making, _forked_too_soon
    thread = _thread.get_ident()
    for other in (set(_makers) | set(_held)) - {thread}:  # threads that are not there
        _makers.pop(other, None)
        _held.pop(other, None)
    if not _after_fork():
        _forked_too_soon = True
        _making = threading.RLock()
    for made in tuple(_everything):
        made.abandon()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_in_child)


@atexit.register
def _at_exit() -> None:
    if _making.acquire(timeout=PATIENCE):
        _making.release()
