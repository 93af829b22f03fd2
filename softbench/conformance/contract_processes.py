"""The contract: the first calls of a process, forked children, the number of usable CPUs."""

from __future__ import annotations

import os
from typing import Any, Final

from softbench.conformance.backend_under_test import BackendUnderTest
from softbench.conformance.batch import VIEW_BY_NAME, VIEWS, View, batch
from softbench.conformance.case import Requirement, check
from softbench.conformance.failures import Failure, NotApplicable, told
from softbench.conformance.fresh import in_a_fork
from softbench.conformance.same_bits import Call, all_bits, bits_of, compare_bits, names_of, shapes_of
from softbench.machine import usable_cores

__all__ = ["REQUIREMENTS"]


def _first_call(backend: BackendUnderTest, name: str, shape: tuple[int, int], dtype: str) -> list[bytes]:
    """The bits of the first calls of a process."""
    own, kept = batch(*shape, dtype), batch(*shape, dtype)
    found = [VIEW_BY_NAME[name].run(backend, own).tobytes()]
    for part in ("x", "p", "labels", "q", "s", "w"):
        if getattr(own, part).tobytes() != getattr(kept, part).tobytes():
            raise Failure("the first call overwrites its arguments")
    return found + [bits_of(backend, VIEW_BY_NAME[name], shape, dtype) for _ in range(2)]


def _first_in_place(backend: BackendUnderTest, name: str, shape: tuple[int, int], dtype: str) -> list[bytes]:
    """The same where the result takes the place of the logits: who tries out several ways must not do so there."""
    found = []
    for _ in range(2):
        rows = batch(*shape, dtype)
        logits, target, options = VIEW_BY_NAME[name].arguments(rows)
        call = getattr(backend.be, VIEW_BY_NAME[name].op)
        found.append(call(*([logits] if target is None else [logits, target]), out=logits, **options).tobytes())
    return found


def _first_calls(backend: BackendUnderTest, view: View) -> None:
    """The first call of a process gives the bits of any other."""
    shapes = shapes_of(backend)[1 : 4 if backend.profile != "quick" else 2] or shapes_of(backend)
    for turn, shape in enumerate(shapes):
        dtype = ("float32", "float64")[turn % 2]
        due = bits_of(backend, view, shape, dtype)
        in_place = view.maps and (shape == shapes[-1] or backend.profile == "deep")
        for call in (_first_call, _first_in_place) if in_place else (_first_call,):
            said = (
                f"{view.name} of {dtype} {shape}{', in place,' if call is _first_in_place else ''} in a fresh process"
            )
            with told(said):
                found = backend.afresh(call, view.name, shape, dtype)
            for i, bits in enumerate(found):
                if bits != due:
                    raise Failure(f"{said}: call {i + 1} has other bits than a later call in this process")


_THREADS: Final = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
"""Where people say how many threads there are to be."""


def _few_cpus(backend: BackendUnderTest, names: list[str], shapes: Any, count: int) -> dict[Call, bytes]:
    """`all_bits` where the process may use so many CPUs, or is told so."""
    real = sorted(os.sched_getaffinity(0))
    if count <= len(real):
        os.sched_setaffinity(0, real[:count])
    os.environ |= dict.fromkeys(_THREADS, str(count))
    os.cpu_count = os.process_cpu_count = lambda: count  # type: ignore[attr-defined]
    os.sched_getaffinity = lambda pid, /: set(range(count))
    return _bits_and_totals(backend, names, shapes)


_MOST: Final = {"compiled": 30_011, "interpreted": 66, "simulated": 5}


def _bits_and_totals(backend: BackendUnderTest, names: list[str], shapes: Any) -> dict[Call, bytes]:
    """`all_bits`, and what losses add up to: of several numbers of rows, as some sums happen to agree."""
    found = all_bits(backend, names, shapes)
    most = _MOST[backend.cost]
    rows = batch(most, 3, "float32")
    for op in backend.provided("loss", "log_loss") if {"loss", "log_loss"} & set(backend.provides) else ():
        for n in range(most, 0, -(most // 7)):
            x = (rows.p if op == "log_loss" else rows.x)[:n]
            total = backend.call(op, x, rows.known[:n], reduction="sum")
            found[f"{op}(reduction='sum')", (n, 3)] = total.tobytes()
    return found


def _usable_cpus(backend: BackendUnderTest, count: int) -> None:
    """A process that may use another number of CPUs gets the same bits."""
    if not hasattr(os, "sched_getaffinity"):
        raise NotApplicable("no CPU affinity on this system")
    names, shapes = names_of(backend), shapes_of(backend)
    where = f"in a process that may use {count} CPU{'s' * (count > 1)}, not {usable_cores()},"
    due = _bits_and_totals(backend, names, shapes)
    with told(where):
        compare_bits(backend.afresh(_few_cpus, names, shapes, count), due, where)


def _forked(backend: BackendUnderTest, view: View) -> None:
    """A forked child gets the parent's bits, or an exception; it neither hangs nor dies."""
    shapes = shapes_of(backend)
    for shape in shapes if backend.profile != "quick" else shapes[-1:]:
        due = bits_of(backend, view, shape, "float32")
        with told(f"{view.name} of float32 {shape} in a forked child"):
            found = in_a_fork(_bits_or_error, backend, view, shape, patience=backend.patience / 3)
        if found not in (due, None):
            raise Failure(f"{view.name} of float32 {shape} in a forked child has other bits than in its parent")
        if bits_of(backend, view, shape, "float32") != due:
            raise Failure(f"{view.name} of float32 {shape} has other bits after a fork than before")


def _bits_or_error(backend: BackendUnderTest, view: View, shape: tuple[int, int]) -> bytes | None:
    try:
        return bits_of(backend, view, shape, "float32")
    except Exception:  # allowed
        return None


PROCESSES = Requirement(
    "processes",
    "the first call of a process, a forked child, one or more usable CPUs",
    "the same bits; a forked child may raise, but neither hang nor die",
    checks=check("processes", _first_calls, name="first-call", needs=("host",), profile="standard", view=VIEWS)
    + check("processes", _forked, name="fork", needs=("host",), view=VIEWS)
    + check("processes", _usable_cpus, name="cpus", needs=("host",), count=(1,))
    + check("processes", _usable_cpus, name="cpus", needs=("host",), profile="standard", count=(2, 3, 8)),
)

REQUIREMENTS = (PROCESSES,)
