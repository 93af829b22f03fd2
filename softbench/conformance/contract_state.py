"""The contract, part 5: what a call may remember (nothing), and who may call: any thread, and any process."""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from typing import Any, Final

import numpy as np

from softbench.conformance.backend_under_test import BackendUnderTest
from softbench.conformance.batch import VIEWS, Batch, View, batch
from softbench.conformance.case import Requirement, check
from softbench.conformance.failures import Failure, NotApplicable, mismatch
from softbench.conformance.fresh import in_a_fork
from softbench.machine import usable_cores

__all__ = ["REQUIREMENTS"]

Array = np.ndarray[Any, Any]

_SHAPES: Final = {
    # few short rows, rows in the middle, and enough of both kinds to be shared out to threads
    "compiled": ((5, 7), (40, 33), (3, 1000), (300, 200), (3, 70_000)),
    "interpreted": ((5, 7), (3, 40)),
    "simulated": ((2, 5),),
}


def _shapes(backend: BackendUnderTest) -> tuple[tuple[int, int], ...]:
    return _SHAPES[backend.cost]


# -- arguments that change between calls ---------------------------------------------------------------

_ARGUMENTS: Final = {"": ("x",), "index": ("x", "labels", "s", "w"), "soft": ("x", "q", "s", "w")}
_PLACES: Final = 12


def _places(size: int) -> Iterator[tuple[int, int]]:
    """Pairs of entries to exchange: all neighbours of a small array; of a large one some, not at its ends."""
    if size <= 3 * _PLACES:
        yield from ((i, i + 1) for i in range(size - 1))
        return
    rng = np.random.default_rng(size)
    for i in (size // 2, *(int(i) for i in rng.integers(1, size - 2, _PLACES))):
        yield i, i + 1


def _changed_in_place(backend: BackendUnderTest, view: View, argument: str) -> None:
    """Two entries of an argument change places, nothing else does: the result must follow."""
    form = _ARGUMENTS[view.target]
    name = "p" if view.op == "log_loss" and argument == "x" else argument
    if argument not in form or (argument in ("s", "w") and not view.weighted):
        raise NotApplicable(f"{view.name} has no such argument")
    for n, k in ((4, 6), (7, 33), (40, 5), (3, 1000)) if backend.cost == "compiled" else ((3, 5),):
        rows = batch(backend.rows_of(k, n), k, "float64")
        view.run(backend, rows)
        flat = getattr(rows, name).reshape(-1)
        for i, j in _places(flat.size):
            if name == "q" and i // k != j // k:  # each row is a distribution
                continue
            flat[[i, j]] = flat[[j, i]]
            result = view.run(backend, rows)
            logits, target, options = view.arguments(rows)
            said = f"{view.name} of {rows.x.shape}, entries {i} and {j} of {name} exchanged since the last call"
            if view.op == "argmax":
                mismatch(result, logits.argmax(axis=1), said)
            else:
                backend.judge(view.op, result, logits, target, said=said, **options)


def _one_after_the_other(backend: BackendUnderTest, first: View) -> None:
    """What one function has computed is not what another is asked for, on the same arrays with other contents."""
    for second in VIEWS:
        if second.op not in backend.provides:
            continue
        for n, k in ((4, 6), (9, 70)) if backend.cost == "compiled" else ((3, 5),):
            rows = batch(n, k, "float32")
            first.run(backend, rows)
            middle = rows.x[1 : n - 1, 1 : k - 1]
            middle[...] = middle[::-1, ::-1].copy()
            middle = rows.p[1 : n - 1, 1 : k - 1]
            middle[...] = middle[::-1, ::-1].copy()
            rows.labels[1:-1] = rows.labels[1:-1][::-1].copy()
            result = second.run(backend, rows)
            logits, target, options = second.arguments(rows)
            said = f"{second.name} of float32 {(n, k)} after {first.name} of the same arrays with other contents"
            if second.op == "argmax":
                mismatch(result, logits.argmax(axis=1), said)
            else:
                backend.judge(second.op, result, logits, target, said=said, **options)


CHANGED = Requirement(
    "changed-arguments",
    "arrays whose contents change between calls, in the middle, at the same address",
    "the result of the new contents: nothing is remembered of a call",
    checks=check("changed-arguments", _changed_in_place, name="entries", needs=("host",), view=VIEWS, argument=("x",))
    + tuple(
        case
        for view in VIEWS
        for argument in _ARGUMENTS[view.target][1:]
        if view.weighted or argument in ("labels", "q")
        for case in check(
            "changed-arguments", _changed_in_place, name="entries", needs=("host",), view=(view,), argument=(argument,)
        )
    )
    + check("changed-arguments", _one_after_the_other, name="after", needs=("host",), first=VIEWS),
)


# -- results that are held -----------------------------------------------------------------------------

_HELD: Final = 24


def _held(backend: BackendUnderTest, view: View, dtype: str) -> None:
    """Results that the caller holds stay as they are while others are made and thrown away."""
    for n, k in _shapes(backend)[:3]:
        first = [batch(n, k, dtype, seed=seed) for seed in range(3)]
        due = [view.run(backend, rows) for rows in first]
        due = [np.array(result) for result in due]
        held = []
        for i in range(_HELD):
            held.append((i % 3, view.run(backend, first[i % 3])))
            view.run(backend, first[(i + 1) % 3])  # nobody holds this one
        if view.op in ("loss", "gradient") and "loss_and_gradient" in backend.provides:
            logits, target, options = view.arguments(first[0])
            held.append((0, backend.call("loss_and_gradient", logits, target, **options)[view.op == "gradient"]))
        for i, (which, result) in enumerate(held):
            said = f"{view.name} of {dtype} {(n, k)}, result {i} of {len(held)} that are held"
            mismatch(result, due[which], said, than=" as it was")
        if backend.host and any(np.shares_memory(a, b) for (_, a), (_, b) in itertools.pairwise(held)):
            raise Failure(f"{view.name} of {dtype} {(n, k)}: two results that are held share memory")


def _after_nan(backend: BackendUnderTest, view: View, dtype: str) -> None:
    """Calls on NaN, infinities and empty rows leave no trace in the next ones."""
    for n, k in _shapes(backend)[:3]:
        rows = batch(n, k, dtype)
        due = np.array(view.run(backend, rows))
        spoilt = batch(n, k, dtype)
        spoilt.x[::2, ::3], spoilt.x[1::4] = np.nan, -np.inf
        spoilt.x[:, -1] = np.inf
        for _ in range(2):
            view.run(backend, spoilt if view.op != "log_loss" else rows)
            mismatch(
                view.run(backend, rows), due, f"{view.name} of {dtype} {(n, k)} after a call on NaN", than=" (before)"
            )


HELD = Requirement(
    "held-results",
    "results that the caller holds; calls after NaN",
    "stay as they are; the same bits as before",
    checks=check("held-results", _held, name="memory", view=VIEWS, dtype=("float32", "float64"))
    + check(
        "held-results",
        _after_nan,
        view=[view for view in VIEWS if view.op != "log_loss"],
        dtype=("float32", "float64"),
    ),
)


# -- first calls, forks, CPUs --------------------------------------------------------------------------


def _bits(backend: BackendUnderTest, view: View, shape: tuple[int, int], dtype: str) -> bytes:
    result: bytes = view.run(backend, batch(*shape, dtype)).tobytes()
    return result


def _first_call(backend: BackendUnderTest, name: str, shape: tuple[int, int], dtype: str) -> list[bytes]:
    """The bits of the first calls of a process."""
    own, kept = batch(*shape, dtype), batch(*shape, dtype)
    found = [_VIEWS[name].run(backend, own).tobytes()]
    for part in ("x", "p", "labels", "q", "s", "w"):
        if getattr(own, part).tobytes() != getattr(kept, part).tobytes():
            raise Failure("the first call overwrites its arguments")
    return found + [_bits(backend, _VIEWS[name], shape, dtype) for _ in range(2)]


def _first_in_place(backend: BackendUnderTest, name: str, shape: tuple[int, int], dtype: str) -> list[bytes]:
    """The same where the result takes the place of the logits: who tries out several ways must not do so there."""
    found = []
    for _ in range(2):
        rows = batch(*shape, dtype)
        logits, target, options = _VIEWS[name].arguments(rows)
        call = getattr(backend.be, _VIEWS[name].op)
        found.append(call(*([logits] if target is None else [logits, target]), out=logits, **options).tobytes())
    return found


def _first_calls(backend: BackendUnderTest, view: View) -> None:
    """The first call of a process gives the bits of any other."""
    shapes = _shapes(backend)[1:4] if backend.profile != "quick" else _shapes(backend)[1:2]
    for turn, shape in enumerate(shapes or _shapes(backend)):
        dtype = ("float32", "float64")[turn % 2]
        due = _bits(backend, view, shape, dtype)
        for call in (_first_call, _first_in_place) if view.maps else (_first_call,):
            said = (
                f"{view.name} of {dtype} {shape}{', in place,' if call is _first_in_place else ''} in a fresh process"
            )
            with _told(said):
                found = backend.afresh(call, view.name, shape, dtype)
            for i, bits in enumerate(found):
                if bits != due:
                    raise Failure(f"{said}: call {i + 1} has other bits than a later call in this process")


_VIEWS: Final = {view.name: view for view in VIEWS}


def _all_bits(backend: BackendUnderTest, names: list[str], shapes: tuple[tuple[int, int], ...]) -> dict[str, bytes]:
    """The bits of every view at every shape."""
    return {
        f"{name} of float32 {shape}": _bits(backend, _VIEWS[name], shape, "float32")
        for name in names
        for shape in shapes
    }


def _compare(found: dict[str, bytes], due: dict[str, bytes], where: str) -> None:
    for call, bits in found.items():
        if bits != due[call]:
            raise Failure(f"{call} {where} has other bits")


def _names(backend: BackendUnderTest) -> list[str]:
    return [view.name for view in VIEWS if view.op in backend.provides]


def _few_cpus(backend: BackendUnderTest, names: list[str], shapes: Any, count: int) -> dict[str, bytes]:
    """`_all_bits` where the process may use so many CPUs, or is told so."""
    real = sorted(os.sched_getaffinity(0))
    if count <= len(real):
        os.sched_setaffinity(0, real[:count])
    os.cpu_count = os.process_cpu_count = lambda: count  # type: ignore[attr-defined]
    os.sched_getaffinity = lambda pid, /: set(range(count))
    return _all_bits(backend, names, shapes)


def _usable_cpus(backend: BackendUnderTest, count: int) -> None:
    """A process that may use another number of CPUs gets the same bits."""
    if not hasattr(os, "sched_getaffinity"):
        raise NotApplicable("no CPU affinity on this system")
    names, shapes = _names(backend), _shapes(backend)
    where = f"in a process that may use {count} CPU{'s' * (count > 1)}, not {usable_cores()},"
    due = _all_bits(backend, names, shapes)
    with _told(where):
        _compare(backend.afresh(_few_cpus, names, shapes, count), due, where)


def _forked(backend: BackendUnderTest, view: View) -> None:
    """A forked child gets the parent's bits, or an exception; it neither hangs nor dies."""
    shapes = _shapes(backend)
    for shape in shapes if backend.profile != "quick" else (shapes[0], shapes[-1]):
        due = _bits(backend, view, shape, "float32")
        with _told(f"{view.name} of float32 {shape} in a forked child"):
            found = in_a_fork(_bits_or_error, backend, view, shape, patience=backend.patience / 3)
        if found not in (due, None):
            raise Failure(f"{view.name} of float32 {shape} in a forked child has other bits than in its parent")
        if _bits(backend, view, shape, "float32") != due:
            raise Failure(f"{view.name} of float32 {shape} has other bits after a fork than before")


def _bits_or_error(backend: BackendUnderTest, view: View, shape: tuple[int, int]) -> bytes | None:
    try:
        return _bits(backend, view, shape, "float32")
    except Exception:  # allowed
        return None


@contextlib.contextmanager
def _told(said: str) -> Iterator[None]:
    """Put the call before the message of a failure."""
    try:
        yield
    except Failure as failure:
        raise Failure(f"{said}: {failure}") from None


PROCESSES = Requirement(
    "processes",
    "the first call of a process, a forked child, one or more usable CPUs",
    "the same bits; a forked child may raise, but neither hang nor die",
    checks=check("processes", _first_calls, name="first-call", needs=("host",), profile="standard", view=VIEWS)
    + check("processes", _forked, name="fork", needs=("host",), view=VIEWS)
    + check("processes", _usable_cpus, name="cpus", needs=("host",), count=(1,))
    + check("processes", _usable_cpus, name="cpus", needs=("host",), profile="standard", count=(2, 3, 8)),
)


# -- threads -------------------------------------------------------------------------------------------

_SECONDS: Final = {"quick": 0.06, "standard": 0.15, "deep": 3.0}
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


def _by_itself(backend: BackendUnderTest, view: View, dtype: str) -> None:
    """All threads in one function, each with logits of its own."""
    shapes = _THREAD_SHAPES[backend.cost]
    seconds = _SECONDS[backend.profile] / len(shapes)
    for n, k in shapes:
        inputs = [batch(n, k, dtype, scale, seed) for seed, scale in enumerate((3.0, 0.5, 30.0, 3.0))]
        inputs[1] = inputs[1].shifted(np.round(inputs[1].x))  # ties for the maximum
        works = [[(view, rows, view.run(backend, rows))] for rows in inputs]
        _call_at_once(backend, works, seconds)


def _all_functions(backend: BackendUnderTest, count: int) -> None:
    """Every function in some thread, at any time."""
    views = [view for view in VIEWS if view.op in backend.provides]
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
    view, rows = _VIEWS[name], batch(*shape, dtype)
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
        shape, dtype = _shapes(backend)[(turn + 1) % 2], ("float32", "float64")[turn % 2]
        due = _bits(backend, view, shape, dtype)
        said = f"{view.name} of {dtype} {shape}, first called by 4 threads at once"
        with _told(said):
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

REQUIREMENTS = (CHANGED, HELD, PROCESSES, CONCURRENCY)
