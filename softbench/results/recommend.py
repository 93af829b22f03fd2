"""Which backend to choose, from what was measured: for each case by the number of calls, and overall.

A backend costs its import and first call once, then its time per call. Which is the cheapest in total for ``n``
calls is the lower envelope of those lines; where it changes hands is the break-even point.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, NamedTuple

from softbench.results.record import BackendRecord, CaseRecord, Recommendation, Record, Step

__all__ = ["Line", "envelope", "recommend"]


class Line(NamedTuple):
    """Total time of ``n`` calls: ``setup + n * per_call``."""

    backend: str
    setup: float
    per_call: float


def envelope(lines: list[Line]) -> list[Step]:
    """Who is the cheapest from which call on, beginning with call 1."""
    steps: list[Step] = []
    n = 1
    current = min(lines, key=lambda line: (line.setup + line.per_call, line.per_call))
    while True:
        steps.append({"from_call": n, "backend": current.backend})
        later = [
            (math.floor((line.setup - current.setup) / (current.per_call - line.per_call)) + 1, line)
            for line in lines
            if line.per_call < current.per_call
        ]
        if not later:
            return steps
        n, current = min(((max(at, n + 1), line) for at, line in later), key=lambda e: (e[0], e[1].per_call))


def _right(record: BackendRecord | None) -> bool:
    """Whether nothing is known against the backend's results."""
    return record is not None and record.get("conformance", {"ok": True})["ok"]


def _setup(backend: BackendRecord, case: CaseRecord, state: Literal["cold", "cached"]) -> float:
    """Import and first call of this operation; nothing where it could not be measured."""
    startup = backend.get("startup")
    if startup is None:
        return 0.0
    for call in startup["first_calls"]:
        if (call["op"], call["dtype"], call["target"]) == (case["op"], case["dtype"], case["target"]):
            return (startup["imported"] or 0.0) + (call[state] or 0.0)
    return startup["imported"] or 0.0


def _lines(case: CaseRecord, backends: Mapping[str, BackendRecord], state: Literal["cold", "cached"]) -> list[Line]:
    return [
        Line(name, _setup(backends[name], case, state), result["median"])
        for name, result in case.get("results", {}).items()
        if "median" in result
        and _right(backends.get(name))
        and result.get("accuracy", {"ok": True})["ok"]
        and not result.get("impossible")
    ]


def _overall(cases: list[CaseRecord], backends: Mapping[str, BackendRecord]) -> str:
    """One sentence: who is fastest how often, and by how much on the geometric mean of all cases measured."""
    times = {
        case["name"]: {line.backend: line.per_call for line in lines}
        for case in cases
        if (lines := _lines(case, backends, "cold"))
    }
    if not times:
        wrong = [name for name, entry in backends.items() if not _right(entry)]
        why = f"{' and '.join(wrong)} failed the checks" if wrong else "nothing was measured"
        return f"no recommendation, since {why}"
    names = sorted({name for row in times.values() for name in row})
    everywhere = [name for name in names if all(name in row for row in times.values())]
    wins = {name: sum(min(row, key=row.__getitem__) == name for row in times.values()) for name in names}
    winner = max(names, key=lambda name: (wins[name], name in everywhere))
    text = f"{winner} is the fastest in {wins[winner]} of {len(times)} cases"
    if winner not in everywhere:
        return text
    ratios = {
        name: math.exp(sum(math.log(row[name] / row[winner]) for row in times.values()) / len(times))
        for name in everywhere
        if name != winner
    }
    if ratios:
        means = ", ".join(f"{ratio:.3g}x faster than {name}" for name, ratio in sorted(ratios.items(), key=_second))
        text += f"; on their geometric mean {means}"
    return text


def _second(item: tuple[str, float]) -> float:
    return item[1]


def recommend(record: Record) -> None:
    """Fill in ``recommendations`` and ``overall`` from the cases measured so far."""
    backends = record.get("backends", {})
    found: list[Recommendation] = []
    for case in record.get("cases", []):
        cold_lines = _lines(case, backends, "cold")
        if not cold_lines:
            continue
        ranked = sorted(cold_lines, key=lambda line: line.per_call)
        second = ranked[1] if len(ranked) > 1 else None
        found.append(
            {
                "case": case["name"],
                "fastest": ranked[0].backend,
                "runner_up": second.backend if second else "",
                "ratio": second.per_call / ranked[0].per_call if second else None,
                "cold": envelope(cold_lines),
                "cached": envelope(_lines(case, backends, "cached")),
            }
        )
    record["recommendations"] = found
    record["overall"] = _overall(record.get("cases", []), backends)
