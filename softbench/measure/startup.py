"""What a backend costs before its first result: import, first calls (compilation), in fresh processes.

Two processes with an empty compilation cache of their own: the first finds nothing compiled (cold), the second what the
first has left (cached).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

from softbench.measure.remote import Remote, RemoteError
from softbench.measure.workloads import Workload
from softbench.results.record import FirstCall, Startup

__all__ = ["measure", "representatives"]

#: Large enough that a backend takes its parallel path, small enough that the call itself costs little.
_LARGE_ENOUGH: Final = 1_000_000
_MOST: Final = 5_000_000
_PATIENCE: Final = 60.0


def representatives(workloads: Iterable[Workload]) -> list[Workload]:
    """One workload for each (op, dtype, target) among them: near a million logits, and not much more."""
    chosen: dict[tuple[str, str, str], Workload] = {}
    for workload in workloads:
        if workload.elements > _MOST:
            continue
        key = (workload.op, workload.dtype, workload.target)
        if key not in chosen or _distance(workload) < _distance(chosen[key]):
            chosen[key] = workload
    return list(chosen.values())


def _distance(workload: Workload) -> float:
    return abs(workload.elements / _LARGE_ENOUGH - 1)


def measure(name: str, workloads: Sequence[Workload], cache: str) -> Startup:
    """Import and first calls of backend ``name``, with ``cache`` as the (empty) compilation cache."""
    cold, problem = _in_fresh_process(name, workloads, cache)
    cached, _ = _in_fresh_process(name, workloads, cache) if not problem else ([], "")
    calls: list[FirstCall] = []
    for i, workload in enumerate(workloads):
        extra = [found[i + 1] if len(found) > i + 1 else None for found in (cold, cached)]
        about = {"op": workload.op, "dtype": workload.dtype, "target": workload.target}
        calls.append({**about, "cold": extra[0], "cached": extra[1]})  # type: ignore[typeddict-item]
    imports = [found[0] for found in (cold, cached) if found]
    return {"imported": min(imports, default=None), "first_calls": calls, "problem": problem}


def _in_fresh_process(name: str, workloads: Sequence[Workload], cache: str) -> tuple[list[float], str]:
    """Seconds of the import and of each workload's first call above its second; and what went wrong, if anything."""
    found: list[float] = []
    with Remote(name, {"NUMBA_CACHE_DIR": cache}) as remote:
        try:
            found.append(remote.ask("imported", patience=_PATIENCE, name=name))
            for workload in workloads:
                plain = replace(workload, logits="normal")  # a fit would compile what is about to be measured
                found.append(remote.ask("first_call", patience=_PATIENCE, workload=plain.to_dict()))
        except RemoteError as error:
            return found, str(error)
    return found, ""
