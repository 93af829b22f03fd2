"""What the GPU backends are meant to reach on a card, held against a run of `softbench.gpu_selftest`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from softbench.results.record import CaseRecord, Record, Result
from softbench.results.units import percent

__all__ = ["goals_table", "judge_goals"]

DTYPES: Final = ("float32", "bfloat16")
OF_COPY: Final = {256: 0.55, 1024: 0.75} | dict.fromkeys((4096, 8192, 16384, 32768, 65536, 131072), 0.90)
"""Of the measured copy, by K: softmax, log-softmax, loss with gradient."""
OF_READ: Final = 0.90
"""Of the measured read, at any of those K: the loss alone."""
CALL_SHAPE: Final = (128, 1000)
CALLS: Final = 1.5
"""Call time of softmax of the cupy backend for that shape, as a multiple of PyTorch's in eager mode."""

# As reported for github.com/Dao-AILab/quack: on an H100, of its nominal bandwidth. (op, dtype): fraction by K.
PUBLISHED: Final[dict[tuple[str, str], dict[int, float]]] = {
    ("softmax", "bfloat16"): {256: 0.57, 1024: 0.79, 4096: 0.86, 16384: 0.89, 65536: 0.90, 262144: 0.90},
    ("softmax", "float32"): {131072: 0.897},
    ("loss", "bfloat16"): {256: 0.33, 1024: 0.57, 4096: 0.80, 16384: 0.91, 65536: 0.95, 262144: 0.91},
}
NOMINAL: Final = {"H100 80GB HBM3": 3.35e12, "H200": 4.8e12, "A100-SXM4-80GB": 2.039e12}
"""Bytes per second by the data sheet, by a part of the device's name."""


def judge_goals(record: Record, ours: Iterable[str]) -> list[dict[str, Any]]:
    """One entry per library of ``ours``, operation and shape.

    Parameters
    ----------
    record
        As `softbench.measure.gpu.benchmark` fills it.
    ours
        Names of the libraries that are held to the goals. The nominal bandwidth follows from the ``"device"`` that
        each says it runs on.

    Returns
    -------
    list of dict
        ``library, op, n, k, dtype`` and ``goals``: of each goal its ``kind`` (``"copy"``, ``"read"``: fraction of the
        measured one; ``"call"``: call time in calls of eager PyTorch; ``"torch.compile"``: its kernel time in ours;
        ``"quack"``: fraction of the nominal bandwidth), ``target``, ``measured``, and ``met``: None where a figure
        that it needs is missing, or is not believed.
    """
    found = []
    for case in record["cases"]:
        n, k = case["shape"]
        believed = {name: result for name, result in case["results"].items() if not result.get("impossible")}
        for name in ours:
            if name not in case["results"]:
                continue
            device = record["backends"].get(name, {}).get("info", {})  # type: ignore[call-overload]
            goals = _goals(name, case, (n, k), believed, device)
            if goals:
                found.append(
                    {"library": name, "op": case["op"], "n": n, "k": k, "dtype": case["dtype"], "goals": goals}
                )
    return found


def _goals(
    name: str, case: CaseRecord, shape: tuple[int, int], results: Mapping[str, Result], device: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """What one library is to reach on one case, and what it does."""

    def figure(library: str, key: str) -> Any:
        return results.get(library, {}).get(key)

    op, dtype, k = case["op"], case["dtype"], shape[1]
    if shape == CALL_SHAPE:
        if name != "cupy" or op != "softmax":
            return []
        return [_goal("call", CALLS, _ratio(figure(name, "call"), figure("torch", "call")), at_most=True)]
    if not case["ceilings"]:  # the array is so small that the time is that of the call
        return []
    goals = []
    if dtype in DTYPES and k in OF_COPY:
        kind, least = ("read", OF_READ) if op == "loss" else ("copy", OF_COPY[k])
        goals.append(_goal(kind, least, figure(name, "fraction")))
    goals.append(_goal("torch.compile", 1.0, _ratio(figure("torch.compile", "median"), figure(name, "median"))))
    published = PUBLISHED.get((op, dtype), {}).get(k)
    if published is not None:
        goals.append(_goal("quack", published, _ratio(figure(name, "bandwidth"), _nominal(device))))
    return goals


def _ratio(a: float | None, b: float | None) -> float | None:
    return a / b if a and b else None


def _goal(kind: str, target: float, measured: float | None, *, at_most: bool = False) -> dict[str, Any]:
    met = None if measured is None else measured <= target if at_most else measured >= target
    return {"kind": kind, "target": target, "measured": measured, "met": met}


def _nominal(device: Mapping[str, Any]) -> float | None:
    name = str(device.get("device", ""))
    return next((rate for part, rate in NOMINAL.items() if part in name), None)


_COLUMNS: Final = {"of the limit": ("copy", "read"), "call": ("call",), "of torch.compile": ("torch.compile",),
                   "of nominal (quack)": ("quack",)}  # fmt: skip


def goals_table(found: list[dict[str, Any]]) -> str:
    """The entries of `judge_goals` as lines: measured of target, then ``ok``, ``MISSED``, or ``?`` if not measured."""
    lines = [f"{'goals':<52}" + "".join(f"{column:>26}" for column in _COLUMNS)]
    for entry in found:
        what = f"{entry['library']} {entry['op']} {entry['n']}x{entry['k']} {entry['dtype']}"
        cells = [
            next((_cell(goal) for goal in entry["goals"] if goal["kind"] in kinds), "") for kinds in _COLUMNS.values()
        ]
        lines.append(f"{what:<52}" + "".join(f"{cell:>26}" for cell in cells).rstrip())
    every = [goal["met"] for entry in found for goal in entry["goals"]]
    lines.append(f"goals: {every.count(True)} met, {every.count(False)} missed, {every.count(None)} not measured")
    lines.append("quack's figures are as published: of an H100, of its nominal bandwidth (ours: of this card's).")
    return "\n".join(lines)


def _cell(goal: Mapping[str, Any]) -> str:
    times = goal["kind"] in ("call", "torch.compile")
    measured, target = (
        "-" if v is None else f"{v:.2f}x" if times else percent(v) for v in (goal["measured"], goal["target"])
    )
    said = {True: "ok", False: "MISSED", None: "?"}[goal["met"]]
    return f"{measured} of {target} {said}"
