"""What a backend costs before its first result: import, first calls (compilation), in fresh processes.

`measure` starts ``python -m softbench.measure.startup NAME CASE ...`` twice with an empty compilation cache of its own:
the first process finds nothing compiled (cold), the second what the first has left (cached).
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Final

import numpy as np

from softbench import processes
from softbench.measure import workloads
from softbench.measure.workloads import Case
from softbench.registry import get_backend
from softbench.results.record import FirstCall, Startup

__all__ = ["measure", "representatives"]

#: Large enough that a backend takes its parallel path, small enough that the call itself costs little.
_LARGE_ENOUGH: Final = 1_000_000
_LIMIT: Final = 60.0
"""Seconds that a process may take."""


def representatives(cases: Iterable[Case], most: int = 5_000_000) -> list[Case]:
    """One case for each (op, dtype, target) among the cases: near a million logits, at most ``most``."""
    chosen: dict[tuple[str, str, str], Case] = {}
    for case in cases:
        if case.elements > most:
            continue
        key = (case.op, case.dtype, case.target)
        if key not in chosen or _distance(case) < _distance(chosen[key]):
            chosen[key] = case
    return list(chosen.values())


def _distance(case: Case) -> float:
    return abs(case.elements / _LARGE_ENOUGH - 1)


def measure(name: str, cases: list[Case], cache: str) -> Startup:
    """Import and first calls of backend ``name`` on ``cases``, with ``cache`` as the (empty) compilation cache."""
    cold, problem = _in_fresh_process(name, cases, cache)
    cached, _ = _in_fresh_process(name, cases, cache) if not problem else ([], "")
    calls: list[FirstCall] = []
    for i, case in enumerate(cases):
        extra = [rows[i + 1] if len(rows) > i + 1 else None for rows in (cold, cached)]
        calls.append({"op": case.op, "dtype": case.dtype, "target": case.target, "cold": extra[0], "cached": extra[1]})
    imports = [rows[0] for rows in (cold, cached) if rows]
    return {"imported": min(imports, default=None), "first_calls": calls, "problem": problem}


def _in_fresh_process(name: str, cases: list[Case], cache: str) -> tuple[list[float], str]:
    """Seconds of the import and of each case's first call above its second; and what went wrong, if anything."""
    labels = [f"{case.name}:{case.dtype}" for case in cases]
    done = processes.run(
        processes.python("-m", "softbench.measure.startup", name, *labels),
        limit=_LIMIT,
        env=processes.environment(NUMBA_CACHE_DIR=cache),
    )
    problem = done.problem
    if done.status and done.status > 0:  # Python's own last word says more
        problem = (done.stderr.strip().splitlines() or [problem])[-1][:300]
    rows = []
    for line in done.stdout.splitlines():
        with contextlib.suppress(ValueError):
            rows.append(float(json.loads(line)))
    return rows, problem


def _report(name: str, labels: list[str]) -> None:
    """The child's side: one JSON number a line, as soon as it is known."""
    start = time.perf_counter()
    backend = get_backend(name)
    backend.to_numpy(backend.argmax(backend.asarray(np.zeros((1, 2), np.float32))))
    print(json.dumps(time.perf_counter() - start), flush=True)
    for label in labels:
        case = _find(*label.split(":"))
        case = replace(case, logits="normal")  # a fit would compile what is about to be measured
        call: Any = workloads.make_call(case, backend, workloads.make_inputs(case))
        times = []
        for _ in range(3):
            start = time.perf_counter()
            call()
            backend.synchronize()
            times.append(time.perf_counter() - start)
        print(json.dumps(max(0.0, times[0] - min(times[1:]))), flush=True)


def _find(name: str, dtype: str) -> Case:
    """A case of the table, or one that was put into another dtype."""
    return next(case for case in (*workloads.CASES, *workloads.select(["all"], dtype)) if case.name == name)


if __name__ == "__main__":
    _report(sys.argv[1], sys.argv[2:])
