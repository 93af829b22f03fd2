"""The contract: a backend that is pickled or copied, that a signal handler calls, and what it leaves of the process."""

from __future__ import annotations

import contextlib
import copy
import decimal
import gc
import os
import pickle
import random
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np

from softbench.conformance.backend_under_test import BackendUnderTest
from softbench.conformance.batch import VIEW_BY_NAME, VIEWS, View, batch
from softbench.conformance.case import Requirement, check
from softbench.conformance.failures import Failure, NotApplicable, told
from softbench.conformance.same_bits import Call, Shape, all_bits, bits_of, compare_bits, names_of, shapes_of
from softbench.front.backend import Backend
from softbench.registry import get_backend

__all__ = ["REQUIREMENTS"]

_SHAPE: Final = (5, 7)
_LARGE: Final = {"compiled": (300, 200), "interpreted": (3, 40), "simulated": _SHAPE}


# -- pickling ------------------------------------------------------------------------------------------


def _pickled(be: Any) -> list[Any]:
    return [pickle.loads(pickle.dumps(be, protocol)) for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1)]


_WAYS: Final[dict[str, Callable[[Any], list[Any]]]] = {
    "pickle": _pickled,
    "copy": lambda be: [copy.copy(be)],
    "deepcopy": lambda be: [copy.deepcopy(be)],
}


def _is_named(be: Any) -> bool:
    """Whether a name leads to this very object."""
    try:
        return get_backend(be.name) is be
    except Exception:  # no name, or another backend's that is not here
        return False


def _another(backend: BackendUnderTest, way: str) -> None:
    """What comes of pickling or copying a backend has its name and its bits; one without a name here may refuse."""
    try:
        made = _WAYS[way](backend.be)
    except Exception as error:
        if _is_named(backend.be) or (isinstance(backend.be, Backend) and not isinstance(error, pickle.PicklingError)):
            raise Failure(f"{way} of the backend raises {error!r}") from None
        return
    due = all_bits(backend, names_of(backend), [_SHAPE])
    for other in made:
        if getattr(other, "name", None) != getattr(backend.be, "name", None):
            raise Failure(f"{way} of the backend gives one of another name: {getattr(other, 'name', None)!r}")
        found = BackendUnderTest(other, name=backend.name, profile=backend.profile)
        compare_bits(all_bits(found, names_of(found), [_SHAPE]), due, f"by what {way} of the backend gives")


PICKLING = Requirement(
    "pickling",
    "a backend that is pickled, or copied by copy.copy or copy.deepcopy",
    "the backend of that name, with the same bits; one that no name leads to may refuse by pickle.PicklingError",
    checks=check("pickling", _another, name="by", way=tuple(_WAYS)),
)


# -- signal handlers -----------------------------------------------------------------------------------

_SECONDS: Final = 0.3
_PAUSE: Final = 0.001
_AT_LEAST: Final = 10
"""Interruptions, however long one takes."""


@contextlib.contextmanager
def _handler(function: Callable[[], bool]) -> Iterator[None]:
    """Call ``function`` in a signal handler, whatever the thread does meanwhile, and again as long as it says so."""

    def handle(*_: Any) -> None:
        if function():
            signal.setitimer(signal.ITIMER_REAL, _PAUSE)

    before = signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, _PAUSE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _large_bits(backend: BackendUnderTest) -> dict[Call, bytes]:
    return all_bits(backend, names_of(backend), [_LARGE[backend.cost]])


def _interrupted(backend: BackendUnderTest) -> tuple[list[dict[Call, bytes]], list[dict[Call, bytes]]]:
    """Bits of large calls, and of those that a signal handler makes meanwhile."""
    outside: list[dict[Call, bytes]] = []
    inside: list[dict[Call, bytes]] = []
    end = time.monotonic() + _SECONDS

    def interrupt() -> bool:
        """Calls; not for ever, as what they interrupt has a moment only in between."""
        inside.append(_large_bits(backend))
        return len(inside) < _AT_LEAST or time.monotonic() < end

    with _handler(interrupt):
        while not inside or time.monotonic() < end:
            outside.append(_large_bits(backend))
    return outside, inside


def _signals(backend: BackendUnderTest) -> None:
    """Calls in a signal handler, during the first calls of a process and later ones."""
    if not hasattr(signal, "setitimer"):
        raise NotApplicable("no interval timers on this system")
    due = _large_bits(backend)
    with told("calls that a signal handler interrupts, to make calls of its own"):
        outside, inside = backend.afresh(_interrupted)
    for found in outside:
        compare_bits(found, due, "interrupted by a signal handler that calls the backend")
    for found in inside:
        compare_bits(found, due, "in a signal handler that interrupts another call")


SIGNALS = Requirement(
    "signal-handlers",
    "calls in a signal handler that has interrupted a call, the first of a process or a later one",
    "the same bits; no hang",
    checks=check("signal-handlers", _signals, name="interrupted", needs=("host",), profile="standard"),
)

# -- what belongs to the caller ------------------------------------------------------------------------


_OF_THE_CALLER: Final[dict[str, Callable[[], Any]]] = {
    "numpy.geterr()": np.geterr,
    "numpy.get_printoptions()": lambda: {**np.get_printoptions(), "formatter": None},
    "numpy's global random state": lambda: np.random.get_state(legacy=False)["state"]["pos"],  # noqa: NPY002
    "random's global state": lambda: hash(random.getstate()),
    "the warning filters": lambda: list(warnings.filters),
    "the working folder": os.getcwd,
    "os.environ": lambda: dict(os.environ),
    "the CPUs that the thread may use": lambda: getattr(os, "sched_getaffinity", lambda _: None)(0),
    "signal handlers": lambda: [signal.getsignal(number) for number in sorted(signal.valid_signals())],
    "sys.getswitchinterval()": sys.getswitchinterval,
    "sys.getrecursionlimit()": sys.getrecursionlimit,
    "sys.stdout and sys.stderr": lambda: (id(sys.stdout), id(sys.stderr)),
    "garbage collection": lambda: (gc.isenabled(), gc.get_threshold()),
    "the precision of decimal": lambda: decimal.getcontext().prec,
}
"""What a process has one of, by name, and how to look at it."""


def _looked_at() -> dict[str, Any]:
    return {name: look() for name, look in _OF_THE_CALLER.items()}


def _changed(before: dict[str, Any], said: str) -> None:
    for name, after in _looked_at().items():
        if after != before[name]:
            raise Failure(f"{said} changes {name}: {after!r}, before {before[name]!r}")


def _left_alone(backend: BackendUnderTest, view: View) -> None:
    """Nothing of the process is another after a call."""
    for shape in shapes_of(backend)[::3]:
        for dtype in ("float32", "float64"):
            rows = batch(*shape, dtype)
            view.run(backend, rows)  # what loading leaves behind is another case
            before = _looked_at()
            view.run(backend, rows)
            _changed(before, f"{view.name} of {dtype} {shape}")


def _left_alone_at_first(backend: BackendUnderTest) -> None:
    """Nor after the first calls of a process, which load and set up what they need."""
    backend.afresh(_first_traces, names_of(backend), shapes_of(backend)[::3])


def _first_traces(backend: BackendUnderTest, names: list[str], shapes: tuple[Shape, ...]) -> None:
    before = _looked_at()
    for name in names:
        for shape in shapes:
            bits_of(backend, VIEW_BY_NAME[name], shape, "float32")
            _changed(before, f"{name} of float32 {shape}, among the first calls of a process,")


CALLERS = Requirement(
    "callers-own",
    "errstate, warning filters, random generators, signal handlers, environment, CPUs of the caller",
    "are after a call what they were before",
    checks=check("callers-own", _left_alone, name="left-alone", needs=("host",), view=VIEWS)
    + check("callers-own", _left_alone_at_first, name="first-calls", needs=("host",), profile="standard"),
)

REQUIREMENTS = (PICKLING, SIGNALS, CALLERS)
