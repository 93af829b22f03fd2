"""The contract: any thread may call, at any time."""

from __future__ import annotations

import sys
import threading
import time
import warnings
from typing import Any, Final

import numpy as np

from softbench.conformance.backend_under_test import BackendUnderTest
from softbench.conformance.batch import VIEW_BY_NAME, VIEWS, Batch, View, batch, provided
from softbench.conformance.case import Requirement, check
from softbench.conformance.failures import Failure, mismatch, told
from softbench.conformance.same_bits import bits_of, shapes_of

__all__ = ["REQUIREMENTS"]

Array = np.ndarray[Any, Any]

_SECONDS: Final = {"quick": 0.03, "standard": 0.12, "deep": 3.0}
"""How long threads call one function, at least."""


_Work = list[tuple[View, Batch, Array]]
"""Calls, with what they must return."""


class _Caller(threading.Thread):
    """Calls functions on inputs of its own, over and over, and compares bits."""

    def __init__(self, backend: BackendUnderTest, work: _Work, together: Any) -> None:
        super().__init__(daemon=True)
        self.error: BaseException | None = None
        self.seconds = 0.0
        self._backend, self._work, self._together = backend, work, together

    def run(self) -> None:
        try:
            self._together.wait(self._backend.patience)
            end = time.monotonic() + self.seconds
            for turn in range(10_000):
                for view, rows, due in self._work:
                    result = view.run(self._backend, rows)
                    said = f"{view.name} of {rows.x.dtype.name} {rows.x.shape} in one of several threads"
                    mismatch(result, due, said, than=" (in one thread)")
                if time.monotonic() > end and turn >= 1:
                    break
        except BaseException as error:
            self.error = error


def _call_at_once(backend: BackendUnderTest, works: list[_Work], seconds: float) -> None:
    """Threads with work of their own, all at the same time; warnings are errors in each."""
    together = threading.Barrier(len(works))
    callers = [_Caller(backend, work, together) for work in works]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # a buffer that is shared gives itself away
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            for caller in callers:
                caller.seconds = seconds
                caller.start()
            end = time.monotonic() + backend.patience
            for caller in callers:
                caller.join(max(0.0, end - time.monotonic()))
    finally:
        sys.setswitchinterval(interval)
    if any(caller.is_alive() for caller in callers):
        raise Failure(f"{len(callers)} threads calling at once: no end within {backend.patience:.0f} s")
    for caller in callers:
        if caller.error is not None:
            raise caller.error


_THREAD_SHAPES: Final = {
    "compiled": ((64, 10), (50, 300), (2, 20_000)),
    "interpreted": ((3, 20),),
    "simulated": ((2, 5),),
}


_SCALES: Final = (3.0, 0.5, 30.0, 3.0)
"""Of the logits of as many threads; six times as many where there may be a place for each of four or eight."""


def _by_itself(backend: BackendUnderTest, view: View, dtype: str) -> None:
    """All threads in one function, each with logits of its own."""
    shapes = _THREAD_SHAPES[backend.cost]
    seconds = _SECONDS[backend.profile] / len(shapes)
    for n, k in shapes:
        many = k == 300 and dtype == "float32" and backend.profile != "quick"
        scales = _SCALES * (6 if many else 1)
        inputs = [batch(n, k, dtype, scale, seed) for seed, scale in enumerate(scales)]
        inputs[1] = inputs[1].shifted(np.round(inputs[1].x))  # ties for the maximum
        works = [[(view, rows, view.run(backend, rows))] for rows in inputs]
        _call_at_once(backend, works, seconds * (4 if many else 1))


def _all_functions(backend: BackendUnderTest, count: int) -> None:
    """Every function in some thread, at any time."""
    views = provided(backend)
    shapes = _THREAD_SHAPES[backend.cost][:2]
    work = [(view, batch(n, k, "float32", seed=seed)) for view in views for seed in range(2) for n, k in shapes]
    known = [(view, rows, view.run(backend, rows)) for view, rows in work]
    # Neighbours are in the same function at once, and take turns often.
    works = [known[i:] + known[:i] for i in range(count)]
    _call_at_once(backend, works, _SECONDS[backend.profile])


_TURNS: Final = 4000
"""Lines of Python after each of which another thread has its turn, at most: what compiles has millions of lines."""


class _TakingTurns:
    """Has the thread that it traces stop after every line, so that others see what is half done there."""

    def __init__(self) -> None:
        self.left = _TURNS

    def trace(self, frame: Any, event: str, argument: Any) -> Any:
        self.left -= 1
        if self.left < 0:
            sys.settrace(None)
            return None
        time.sleep(0.0)
        return self.trace


def _first_at_once(backend: BackendUnderTest, name: str, shape: tuple[int, int], dtype: str) -> list[bytes]:
    """The first calls of a process, from several threads."""
    view, rows = VIEW_BY_NAME[name], batch(*shape, dtype)
    found: list[bytes | BaseException] = []
    together = threading.Barrier(4)

    def one() -> None:
        try:
            together.wait(backend.patience)
            sys.settrace(_TakingTurns().trace)
            found.append(view.run(backend, rows).tobytes())
        except BaseException as error:
            found.append(error)

    threads = [threading.Thread(target=one, daemon=True) for _ in range(4)]
    sys.setswitchinterval(1e-6)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(backend.patience)
    if len(found) < len(threads):
        raise Failure(f"no end within {backend.patience:.0f} s")
    for result in found:
        if isinstance(result, BaseException):
            raise result
    return [result for result in found if isinstance(result, bytes)]


def _first_from_threads(backend: BackendUnderTest, view: View) -> None:
    """Several threads make the first calls of a process at once: what is made then must be whole before it is used."""
    times = {"quick": 1, "standard": 2, "deep": 20}[backend.profile]
    for turn in range(times):
        shape, dtype = shapes_of(backend)[(turn + 1) % 2], ("float32", "float64")[turn % 2]
        due = bits_of(backend, view, shape, dtype)
        said = f"{view.name} of {dtype} {shape}, first called by 4 threads at once"
        with told(said):
            found = backend.afresh(_first_at_once, view.name, shape, dtype)
        if any(bits != due for bits in found):
            raise Failure(f"{said}, has other bits than later")


CONCURRENCY = Requirement(
    "concurrency",
    "concurrency",
    "many Python threads may call one backend at once, also for the first time",
    checks=check("concurrency", _all_functions, name="threads", count=(2, 8))
    + check("concurrency", _all_functions, name="threads", profile="standard", count=(16,))
    + check("concurrency", _by_itself, name="one-function", view=VIEWS, dtype=("float32",))
    + check("concurrency", _by_itself, name="one-function", profile="standard", view=VIEWS, dtype=("float64",))
    + check("concurrency", _first_from_threads, name="first-calls", needs=("host",), profile="standard", view=VIEWS),
)

REQUIREMENTS = (CONCURRENCY,)
