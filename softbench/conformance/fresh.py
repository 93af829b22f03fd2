"""Calls in another process: one in which the backend has not been called yet, or a fork of this one.

Some bugs are there on a first call only, or on a second; others when a process is forked, or may use fewer CPUs. The
process that judges a backend forks another before it calls it for the first time (`Nursery`); that one forks again for
every question, so that each is asked of a backend that has never been called.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, Final

from softbench import processes
from softbench.conformance.failures import Failure, NotApplicable, crash

__all__ = ["Nursery", "can_fork", "in_a_fork"]

_LONG: Final = 24 * 3600.0
_GRACE: Final = 10.0  # seconds beyond its patience until the nursery itself counts as lost

_Answer = tuple[str, Any]


def can_fork() -> None:
    """`NotApplicable` where processes cannot be forked."""
    if not hasattr(os, "fork"):
        raise NotApplicable("no os.fork on this system")


def in_a_fork(function: Callable[..., Any], *arguments: Any, patience: float) -> Any:
    """``function(*arguments)`` in a fork of this process: what it returns.

    Raises
    ------
    Failure
        What the function raises; or that the child dies, or does not end within ``patience`` seconds.
    """
    can_fork()
    return _unwrapped(_asked_in_a_fork(function, arguments, patience))


class Nursery:
    """A fork of this process from before the first call of a backend; made by the process that judges."""

    def __init__(self, backend: Any) -> None:
        self._ours, theirs = multiprocessing.Pipe()
        parent = os.getpid()
        self._process = _fork()
        if self._process == 0:
            self._ours.close()
            processes.end_with_parent(parent, _LONG)
            _serve(theirs, backend)
        theirs.close()

    def ask(self, function: Callable[..., Any], *arguments: Any, patience: float) -> Any:
        """``function(backend, *arguments)`` where the backend has not been called before: what it returns.

        ``function`` must be one that can be pickled. Raises as `in_a_fork` does.
        """
        self._ours.send((function, arguments, patience))
        if not self._ours.poll(patience + _GRACE):
            raise Failure(f"no end within {patience:g} s, and the process does not react")
        try:
            answer: _Answer = self._ours.recv()
        except EOFError:
            raise Failure("the process from before the first call has died") from None
        return _unwrapped(answer)


def _serve(asked: Connection, backend: Any) -> None:
    with contextlib.suppress(EOFError, OSError):
        while True:
            function, arguments, patience = asked.recv()
            asked.send(_asked_in_a_fork(function, (backend, *arguments), patience))
    os._exit(0)


def _fork() -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that forking beside threads is dangerous is the point
        return os.fork()


def _asked_in_a_fork(function: Callable[..., Any], arguments: tuple[Any, ...], patience: float) -> _Answer:
    receiver, sender = multiprocessing.Pipe(duplex=False)
    parent = os.getpid()
    child = _fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            processes.end_with_parent(parent, patience + _GRACE)
            receiver.close()
            sender.send(_answer(function, arguments))
        os._exit(0)
    sender.close()
    answer: _Answer = ("died", None)
    with receiver:
        if not receiver.poll(patience):
            os.kill(child, signal.SIGKILL)
            answer = ("hangs", patience)
        else:
            with contextlib.suppress(EOFError):
                answer = receiver.recv()
    status = _wait(child)
    return ("died", processes.describe(status) or "exit status 0") if answer[0] == "died" else answer


def _wait(child: int) -> int:
    """The status of a child that has said all it has to say."""
    end = time.monotonic() + _GRACE
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _answer(function: Callable[..., Any], arguments: tuple[Any, ...]) -> _Answer:
    try:
        return "done", function(*arguments)
    except NotApplicable as error:
        return "not applicable", str(error)
    except Failure as error:
        return "failure", str(error)
    except BaseException as error:  # somebody else's code
        return "raises", crash(error)


def _unwrapped(answer: _Answer) -> Any:
    kind, value = answer
    if kind == "done":
        return value
    if kind == "not applicable":
        raise NotApplicable(value)
    message = {"hangs": "no end within {:g} s", "died": "the process dies ({})", "raises": "raises {}"}.get(kind, "{}")
    raise Failure(message.format(value))
