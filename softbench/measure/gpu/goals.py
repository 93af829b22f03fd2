"""What the GPU backends are meant to reach on a card, held against a run of `softbench.gpu_selftest`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from softbench.results.units import percent

__all__ = ["goals_table", "judge_goals"]

DTYPES: Final = ("float32", "bfloat16")
OF_COPY: Final = {256: 0.55, 1024: 0.75} | dict.fromkeys((4096, 8192, 16384, 32768, 65536, 131072), 0.90)
"""Of the measured copy, by K: softmax, log-softmax, loss with gradient."""
OF_READ: Final = 0.90
"""Of the measured read, at any of those K: the loss alone."""
CALL_SHAPE: Final = (128, 1000)
CALLS: Final = 1.5
"""Call time of CuPy's softmax of an array of that shape, in calls of PyTorch's eager one."""

# As reported for github.com/Dao-AILab/quack: on an H100, of its nominal bandwidth. (op, dtype): fraction by K.
PUBLISHED: Final[dict[tuple[str, str], dict[int, float]]] = {
    ("softmax", "bfloat16"): {256: 0.57, 1024: 0.79, 4096: 0.86, 16384: 0.89, 65536: 0.90, 262144: 0.90},
    ("softmax", "float32"): {131072: 0.897},
    ("loss", "bfloat16"): {256: 0.33, 1024: 0.57, 4096: 0.80, 16384: 0.91, 65536: 0.95, 262144: 0.91},
}
NOMINAL: Final = {"H100 80GB HBM3": 3.35e12, "H200": 4.8e12, "A100-SXM4-80GB": 2.039e12}
"""Bytes per second by the data sheet, by a part of the device's name."""


def judge_goals(
    rows: Iterable[Mapping[str, Any]], ours: Iterable[str], devices: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """One entry per contestant of ``ours``, operation and shape.

    Parameters
    ----------
    rows
        As `softbench.gpu_selftest.benchmark` measures them.
    ours
        Names of the contestants that are held to the goals.
    devices
        By name of contestant what `softbench.front.backend.Backend.info` says; the nominal bandwidth follows from
        ``"device"``.

    Returns
    -------
    list of dict
        ``contestant, op, n, k, dtype`` and ``goals``: of each goal its ``kind`` (``"copy"``, ``"read"``: fraction of
        the measured one; ``"call"``: call time in calls of eager PyTorch; ``"torch.compile"``: its kernel time in ours;
        ``"quack"``: fraction of the nominal bandwidth), ``target``, ``measured``, and ``met``: None where a figure
        that it needs is missing.
    """
    by = {(row["contestant"], row["op"], row["n"], row["k"], row["dtype"]): row for row in rows}
    ours = set(ours)
    found = []
    for (name, op, n, k, dtype), row in by.items():
        if name not in ours:
            continue
        shape = (op, n, k, dtype)
        goals = []
        if (n, k) == CALL_SHAPE:
            if name == "cupy" and op == "softmax":
                ratio = _ratio(row.get("call_seconds"), by.get(("torch", *shape), {}).get("call_seconds"))
                goals.append(_goal("call", CALLS, ratio, at_most=True))
        elif row.get("limit"):  # else the array is so small that the time is that of the call
            if dtype in DTYPES and k in OF_COPY:
                kind, least = ("read", OF_READ) if op == "loss" else ("copy", OF_COPY[k])
                goals.append(_goal(kind, least, row.get("fraction")))
            compiled = by.get(("torch.compile", *shape), {}).get("kernel_seconds")
            goals.append(_goal("torch.compile", 1.0, _ratio(compiled, row.get("kernel_seconds"))))
            published = PUBLISHED.get((op, dtype), {}).get(k)
            if published is not None:
                of_nominal = _ratio(row.get("bandwidth"), _nominal(devices.get(name, {})))
                goals.append(_goal("quack", published, of_nominal))
        if goals:
            found.append({"contestant": name, "op": op, "n": n, "k": k, "dtype": dtype, "goals": goals})
    return found


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
        what = f"{entry['contestant']} {entry['op']} {entry['n']}x{entry['k']} {entry['dtype']}"
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
