"""Which backend to choose, from what was measured: for each case by the number of calls, and overall.

A backend costs its import and first call once, then its time per call. Which is the cheapest in total for ``n``
calls is the lower envelope of those lines; where it changes hands is the break-even point. Where the measurement cannot
tell two times apart, the verdict is a tie.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final, Literal, NamedTuple

from softbench.results.record import BackendRecord, CaseRecord, Recommendation, Record, Result, Step
from softbench.results.statistics import Interval, ratio_of

__all__ = ["Line", "compared", "defect", "envelope", "exclusion", "is_wrong", "recommend"]

LEAST: Final = 0.02
"""Differences below this are a tie, whatever the samples say: another process would have other ones."""
FEW: Final = 5
"""Rounds below which nothing but a tie can be told, unless one takes more than `MUCH` times as long."""
MUCH: Final = 1.5
_ERRS: Final = "errs by"
"""How the reason begins that excludes a result only for its errors."""


class Line(NamedTuple):
    """Total time of ``n`` calls: ``setup + n * per_call``."""

    backend: str
    setup: float
    per_call: float


def envelope(lines: list[Line]) -> list[Step]:
    """Which backend is the cheapest from which call on, beginning with call 1."""
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


def is_wrong(result: Result) -> bool:
    """Whether a result is beyond the accuracy of the contract, without a declaration that it would be."""
    accuracy = result.get("accuracy")
    return accuracy is not None and not accuracy["ok"] and "deviation" not in accuracy


def defect(backend: BackendRecord | None, result: Result) -> str:
    """What is known against a timed result; empty if nothing is. An error that is declared is no defect."""
    if backend and not backend.get("conformance", {"ok": True})["ok"]:
        return "failed the checks"
    if is_wrong(result):
        return "wrong on this case"
    if "failed" in result:
        return result["failed"]
    return "above the limit, which is impossible" if result.get("impossible") else ""


def exclusion(backend: BackendRecord | None, result: Result, max_ulp: float | None) -> str:
    """Why a timed result is not to be recommended; empty if it may be."""
    if found := defect(backend, result):
        return found
    if backend is None or "conformance" not in backend:
        return "not checked"
    accuracy = result.get("accuracy")
    if accuracy is None:
        return "its results were not judged"
    within = accuracy["ok"] if max_ulp is None else accuracy["max_ulp"] <= max_ulp
    return "" if within else f"{_ERRS} {accuracy['max_ulp']:.3g} ulp"


def compared(case: CaseRecord, name: str, base: str) -> Interval | None:
    """How many times as long one candidate takes as another; the interval knows how far one differs from itself.

    None without samples of both.
    """
    results = case["results"]
    found = ratio_of(results[name].get("samples", []), results[base].get("samples", []))
    if found is None:
        return None
    control = case.get("stability", {}).get("control")
    return found.widened(max(LEAST, abs(math.log(control["ratio"])) if control else 0.0))


def _tied(case: CaseRecord, name: str, fastest: str) -> bool:
    """Whether a candidate may be as fast as the fastest."""
    interval = compared(case, name, fastest)
    times = [case["results"][who]["median"] for who in (name, fastest)]
    if interval is None or min(len(case["results"][who]["samples"]) for who in (name, fastest)) < FEW:
        return times[0] <= MUCH * times[1]
    return interval.low <= 1.0


def _setup(backend: BackendRecord, case: CaseRecord, state: Literal["cold", "cached"]) -> float:
    """Import and first call of this operation; nothing where it could not be measured."""
    startup = backend.get("startup")
    if startup is None:
        return 0.0
    for call in startup["first_calls"]:
        if (call["op"], call["dtype"], call["target"]) == (case["op"], case["dtype"], case["target"]):
            return (startup["imported"] or 0.0) + (call[state] or 0.0)
    return startup["imported"] or 0.0


def _lines(
    names: list[str], case: CaseRecord, backends: Mapping[str, BackendRecord], state: Literal["cold", "cached"]
) -> list[Line]:
    return [Line(name, _setup(backends[name], case, state), case["results"][name]["median"]) for name in names]


def recommend(record: Record, max_ulp: float | None = None) -> None:
    """Fill in ``recommendations`` and ``overall`` from the cases measured so far.

    Parameters
    ----------
    record
        A run, filled in place.
    max_ulp
        The largest error that a backend may have on a case; None: what the contract allows.
    """
    backends = record.get("backends", {})
    found: list[Recommendation] = []
    excluded: dict[str, set[str]] = {}
    for case in record.get("cases", []):
        timed = {name: result for name, result in case["results"].items() if "median" in result}
        reasons = {name: exclusion(backends.get(name), result, max_ulp) for name, result in timed.items()}
        for name, reason in reasons.items():
            if reason:
                excluded.setdefault(name, set()).add(reason)
        fit = sorted((name for name in timed if not reasons[name]), key=lambda name: timed[name]["median"])
        if fit:
            found.append(_verdict(case, fit, reasons, backends))
    record["recommendations"] = found
    record["overall"] = _overall(found, record.get("cases", []), excluded)


def _verdict(
    case: CaseRecord, fit: list[str], reasons: Mapping[str, str], backends: Mapping[str, BackendRecord]
) -> Recommendation:
    fastest, *others = fit
    results = case["results"]
    runner_up = others[0] if others else ""
    interval = compared(case, runner_up, fastest) if runner_up else None
    times = {name: results[name]["median"] for name in (*fit, *reasons)}
    inaccurate = [name for name, reason in reasons.items() if reason.startswith(_ERRS)]
    return {
        "case": case["name"],
        "fastest": fastest,
        "tied": [name for name in others if _tied(case, name, fastest)],
        "runner_up": runner_up,
        "ratio": times[runner_up] / times[fastest] if runner_up else None,
        "interval": (interval.low, interval.high) if interval else None,
        "excluded": {name: reason for name, reason in reasons.items() if reason},
        "less_accurate": sorted((name for name in inaccurate if times[name] < times[fastest]), key=times.__getitem__),
        "cold": envelope(_lines(fit, case, backends, "cold")),
        "cached": envelope(_lines(fit, case, backends, "cached")),
    }


def _overall(verdicts: list[Recommendation], cases: list[CaseRecord], excluded: Mapping[str, set[str]]) -> str:
    """One sentence: which backend is fastest how often, and by how much on the geometric mean of the cases of both."""
    if not verdicts:
        why = "; ".join(f"{name}: {' and '.join(sorted(reasons))}" for name, reasons in excluded.items())
        return f"no recommendation, since {f'no backend may be recommended ({why})' if why else 'nothing was measured'}"
    best = {verdict["case"]: {verdict["fastest"], *verdict["tied"]} for verdict in verdicts}
    names = sorted({name for row in best.values() for name in row})
    alone = {name: sum(row == {name} for row in best.values()) for name in names}
    shared = {name: sum(name in row for row in best.values()) for name in names}
    winner = max(names, key=lambda name: (shared[name], alone[name]))
    text = f"{winner} is the fastest in {alone[winner]} of {len(verdicts)} cases"
    if shared[winner] > alone[winner]:
        text += f", and ties in {shared[winner] - alone[winner]} more"
    means = _means(winner, verdicts, cases)
    return f"{text}; on the geometric mean {means}" if means else text


def _means(winner: str, verdicts: list[Recommendation], cases: list[CaseRecord]) -> str:
    """How many times as fast the winner is as each other, over the cases where both may be recommended."""
    by_name = {case["name"]: case["results"] for case in cases}
    logs: dict[str, list[float]] = {}
    for verdict in verdicts:
        results = by_name[verdict["case"]]
        fit = [name for name, result in results.items() if "median" in result and name not in verdict["excluded"]]
        if winner in fit:
            for name in fit:
                logs.setdefault(name, []).append(math.log(results[name]["median"] / results[winner]["median"]))
    ratios = {name: math.exp(sum(found) / len(found)) for name, found in logs.items() if name != winner}
    return ", ".join(
        f"{ratio:.3g}x as fast as {name}"
        + ("" if len(logs[name]) == len(logs[winner]) else f" ({_count(len(logs[name]))})")
        for name, ratio in sorted(ratios.items(), key=lambda item: item[1])
    )


def _count(cases: int) -> str:
    return f"{cases} case{'s' if cases != 1 else ''}"
