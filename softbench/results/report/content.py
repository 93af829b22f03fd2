"""What a report says, as plain values for the template: verdicts, measurements, costs, conformance, machines."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from typing import Any, Final

from softbench.results.record import BackendRecord, CaseRecord, Recommendation, Record, Result, timed_results
from softbench.results.report.cells import (
    Cell,
    Source,
    Table,
    compared,
    number,
    source_cells,
    source_heading,
    text,
    why_not,
)
from softbench.results.units import bandwidth, duration, percent, ratio, size, ulps

__all__ = ["conformance", "costs", "csv_text", "machines", "measurements", "verdicts"]


_TOLD: Final = 20
"""Failures of the kit that are told in the page; the JSON has all."""
_MESSAGE: Final = 200
"""Characters of a message."""


def _about_case(case: CaseRecord) -> list[Cell]:
    n, k = case["shape"]
    target = {"none": "", "index": "", "soft": ", soft targets"}.get(case["target"], "")
    where = {"out": ", into out=", "in place": ", in place"}.get(case["result"], "")
    axis = "" if case["axis"] in (-1, 1) else f", axis {case['axis']}"
    return [
        text(case["op"] + target + where + axis, "name"),
        Cell(f"{n:,} x {k:,}", n * k, "number"),
        text(case["dtype"]),
    ]


_CASE: Final = (
    ("operation", "the function, the kind of target, where the result goes"),
    ("rows x classes", "shape of the logits"),
    ("dtype", "of the logits"),
)


# -- which to take -------------------------------------------------------------------------------------------------


def verdicts(found: Sequence[Source]) -> Table:
    """One line per case: which to take, by how much it wins, from which call on."""
    rows = []
    for source in found:
        cases = {case["name"]: case for case in source.record["cases"]}
        for advice in source.record.get("recommendations", []):
            case = cases[advice["case"]]
            rows.append([*source_cells(source), *_about_case(case), *_verdict(advice, case)])
    headings = (
        *source_heading(found),
        *_CASE,
        ("take", "the fastest backend among those that are right; names joined by = are a tie"),
        ("time", "median of its warm calls"),
        ("next best", "its time as a multiple, and the 95% interval of that"),
        ("of limit", "how much of the measured memory bandwidth it reaches"),
        ("max ulp", "its largest error on these very inputs, in units in the last place"),
        ("pays from call", "from which call on import, compilation and all calls so far cost least with it"),
        ("less accurate", "which would be faster, how many times as fast, and its largest error on these very inputs"),
    )
    return Table("verdict", "Which backend to take", headings, rows)


def _verdict(advice: Recommendation, case: CaseRecord) -> list[Cell]:
    result = case["results"][advice["fastest"]]
    tied = advice.get("tied", [])
    times, bounds = advice.get("ratio"), advice.get("interval")
    runner_up = Cell("-", None)
    if times is not None:
        span = f" ({bounds[0]:.3g} to {bounds[1]:.3g})" if bounds else ""
        runner_up = Cell(f"{advice['runner_up']} {ratio(times)}{span}", times)
    cold = advice["cold"][-1]["from_call"]
    before = advice["cold"][-2]["backend"] if len(advice["cold"]) > 1 else ""
    return [
        Cell(" = ".join([advice["fastest"], *tied]), advice["fastest"], "tie" if tied else "take"),
        number(result["median"], duration(result["median"])),
        runner_up,
        _fraction(result),
        _error(result),
        Cell(f"{cold:,}" + (f" (until then {before})" if before else ""), cold),
        _less_accurate(advice, case),
    ]


def _less_accurate(advice: Recommendation, case: CaseRecord) -> Cell:
    """The fastest of those that would be faster."""
    if not (names := advice.get("less_accurate")):
        return Cell("-", None)
    found, best = case["results"][names[0]], case["results"][advice["fastest"]]["median"]
    times = best / found["median"]
    return Cell(f"{names[0]} {ratio(times)} ({ulps(found['accuracy']['max_ulp'])} ulp)", times, "declared")


def _fraction(result: Result) -> Cell:
    fraction = result.get("fraction")
    if fraction is None:
        return Cell("-", None, "number", result.get("dropped", ""))
    return Cell(percent(fraction), fraction, "bad" if result.get("impossible") else "number")


def _error(result: Result) -> Cell:
    if "accuracy" not in result:
        return Cell("-", None, "number")
    accuracy = result["accuracy"]
    error = float(accuracy["max_ulp"])
    if "deviation" in accuracy:
        told = f"beyond what the contract allows, as it declares: {accuracy['deviation']}"
        return Cell(ulps(error), error, "declared", told[:_MESSAGE])
    return Cell(ulps(error), error, "number" if accuracy["ok"] else "bad", accuracy["detail"][:_MESSAGE])


# -- everything that was measured ----------------------------------------------------------------------------------


def measurements(found: Sequence[Source]) -> Table:
    """Every candidate on every case."""
    rows = []
    for source in found:
        for case in source.record["cases"]:
            best = min((r["median"] for r in case["results"].values() if "median" in r), default=None)
            for name, result in sorted(case["results"].items(), key=lambda item: item[1].get("median", float("inf"))):
                rows.append([*source_cells(source), *_about_case(case), text(name, "name"), *_measured(result, best)])
    headings = (
        *source_heading(found),
        *_CASE,
        ("backend", ""),
        ("time", "median of its warm calls"),
        ("interval", "of the median, 95%"),
        ("times the fastest", ""),
        ("of limit", "how much of the measured memory bandwidth it reaches"),
        ("bandwidth", "bytes that must move, per second"),
        ("max ulp", "largest error on these very inputs"),
        ("memory of a call", "what the process grew by, at the most"),
        ("remark", ""),
    )
    return Table("measurements", "Everything that was measured", headings, rows)


def _measured(result: Result, best: float | None) -> list[Cell]:
    if "median" not in result:
        return [*[Cell("-", None, "number")] * 7, why_not(result)]
    low, high = result["interval"] if "interval" in result else result["quartiles"]
    call = result.get("costs", {}).get("call")
    declared = "deviates as declared" if "deviation" in result.get("accuracy", {}) else ""
    remark = "above the limit: not believed" if result.get("impossible") else declared
    return [
        number(result["median"], duration(result["median"])),
        Cell(f"{duration(low)} to {duration(high)}", low, "number"),
        compared(result["median"] / best if best else None),
        _fraction(result),
        number(result.get("bandwidth"), bandwidth(result.get("bandwidth", 0.0))),
        _error(result),
        number(call, size(call or 0)),
        Cell(remark, remark, "faint"),
    ]


# -- costs before the first result ---------------------------------------------------------------------------------


def costs(found: Sequence[Source]) -> Table:
    """Import, first calls, copies to and from the backend's memory."""
    rows = []
    for source in found:
        for name, backend in source.record["backends"].items():
            if "startup" in backend:
                rows += [[*source_cells(source), text(name, "name"), *cells] for cells in _costs(source, name, backend)]
    headings = (
        *source_heading(found),
        ("backend", ""),
        ("operation", "of the first call"),
        ("dtype", ""),
        ("import", "a fresh process makes the backend and one trivial call"),
        ("first call", "above a later one, nothing compiled before"),
        ("compiled before", "the same where an earlier process has left compiled code"),
        ("arrays there", "the largest case's inputs from NumPy arrays to the backend's own"),
        ("and back", "its results to NumPy arrays"),
    )
    return Table("costs", "What the first result costs", headings, rows)


def _costs(source: Source, name: str, backend: BackendRecord) -> Iterator[list[Cell]]:
    startup = backend["startup"]
    there, back = _copies(source.record, name)
    for call in startup["first_calls"]:
        yield [
            text(call["op"] + (", soft targets" if call["target"] == "soft" else "")),
            text(call["dtype"]),
            *(number(v, duration(v or 0.0)) for v in (startup["imported"], call["cold"], call["cached"], there, back)),
        ]


def _copies(record: Record, name: str) -> tuple[float | None, float | None]:
    """Seconds of the copies to and from the backend, on the largest case that has them."""
    best: tuple[int, float | None, float | None] = (0, None, None)
    for case, candidate, result in timed_results(record):
        taken = result.get("costs", {})
        elements = case["shape"][0] * case["shape"][1]
        if candidate == name and elements > best[0] and "to_backend" in taken:
            best = (elements, taken.get("to_backend"), taken.get("from_backend"))
    return best[1], best[2]


# -- which are right -----------------------------------------------------------------------------------------------

_FUNCTIONS: Final = {
    "softmax": "softmax", "log_softmax": "log_softmax", "logsumexp": "logsumexp", "index_loss": "loss",
    "label_gradient": "gradient at the label", "off_label_gradient": "gradient elsewhere", "log_loss": "log_loss",
}  # fmt: skip
"""Functions of the kit that a reader of a report meets elsewhere too."""


def conformance(found: Sequence[Source]) -> Table:
    """The verdict of the kit on every backend: cases, errors in float32, what deviates."""
    rows = []
    for source in found:
        for name, backend in source.record["backends"].items():
            rows.append([*source_cells(source), text(name, "name"), *_conforms(backend)])
    headings = (
        *source_heading(found),
        ("backend", ""),
        ("cases passed", "of the conformance kit"),
        *((label, "largest error in float32, ulp (and what is allowed)") for label in _FUNCTIONS.values()),
        ("what deviates", ""),
    )
    return Table("conformance", "Which are right", headings, rows)


def _conforms(backend: BackendRecord) -> list[Cell]:
    kit = backend.get("conformance")
    if kit is None:
        why = backend["reason"] if backend["reason"] or not backend["ok"] else "not checked"
        return [Cell("-", None, "number")] + [Cell("-", None, "number")] * len(_FUNCTIONS) + [Cell(why, why, "faint")]
    cells = [
        Cell(
            f"{kit['passed']:,} of {kit['total']:,}",
            kit["passed"] / max(1, kit["total"]),
            "best" if kit["ok"] else "bad",
        )
    ]
    for function in _FUNCTIONS:
        error, gate = (kit[key].get(f"{function} float32") for key in ("max_ulp", "gates"))
        if error is None or gate is None:
            cells.append(Cell("-", None, "number"))
        else:
            beyond = "declared" if kit["ok"] else "bad"
            cells.append(Cell(f"{ulps(float(error))} ({gate:g})", float(error), beyond if error > gate else "number"))
    wrong, declared = kit["failures"], kit.get("deviations", [])
    parts = [f"{len(wrong)} failed" if wrong else "", f"{len(declared)} as declared" if declared else ""]
    summary = ", ".join(filter(None, parts)) or "nothing"
    told = [failure[:_MESSAGE] for failure in wrong[:_TOLD]]
    if len(wrong) > _TOLD:
        told.append(f"and {len(wrong) - _TOLD} more: they are in the JSON")
    cells.append(Cell(summary, len(wrong) + len(declared), "bad" if wrong else "", "\n".join([*told, *declared])))
    return cells


# -- where ---------------------------------------------------------------------------------------------------------


def machines(found: Sequence[Source]) -> Table:
    """Machine, versions and threads, a column per run."""
    facts = [_facts(source.record) for source in found]
    keys = dict.fromkeys(key for fact in facts for key in fact)
    rows = [[text(key, "name"), *(text(fact.get(key, "-")) for fact in facts)] for key in keys]
    return Table("machine", "Machine and versions", (("", ""), *((s.letter or "this run", "") for s in found)), rows)


def _facts(record: Record) -> dict[str, str]:
    machine: dict[str, Any] = dict(record["machine"])
    processor = machine.get("cpu", {})
    quota = machine.get("cpu_quota")
    caches = ", ".join(
        f"L{c['level']} {c['type']} {size(c['bytes'])}" for c in processor.get("caches", []) if c.get("type")
    )
    facts = {
        "processor": str(processor.get("model", "unknown")),
        "cores usable": str(machine.get("usable_cores", "?")) + (f", quota {quota:g}" if quota else ""),
        "caches": caches,
        "memory": size(machine["memory_bytes"]) if machine.get("memory_bytes") else "",
        "threads asked for": str(record.get("config", {}).get("threads") or "all"),
        "started": record.get("started", ""),
        "took": duration(record["seconds"]) if record.get("seconds") else "",
        "softbench": record.get("version", ""),
        "left alone": _stability(record),
    }
    facts |= {name: version for name, version in record["versions"].items() if name != "softbench"}
    return {key: value for key, value in facts.items() if value}


def _stability(record: Record) -> str:
    stability = record.get("stability")
    if not stability:
        return ""
    return "yes" if stability["verdict"] == "stable" else "no: " + "; ".join(stability["reasons"])


# -- for other programs --------------------------------------------------------------------------------------------


_COLUMNS: Final = (
    "run", "machine", "version", "case", "op", "rows", "classes", "dtype", "target", "result", "axis", "backend",
    "median", "low", "high", "samples", "fraction", "bandwidth", "max_ulp", "reason",
)  # fmt: skip


def csv_text(found: Sequence[Source]) -> str:
    """All measurements as CSV, times in seconds."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for source in found:
        record = source.record
        head = [source.letter, record["machine"].get("id", ""), record.get("version", "")]
        for case in record["cases"]:
            about = [case[key] for key in ("dtype", "target", "result", "axis")]
            for name, result in case["results"].items():
                low, high = result.get("interval", ("", ""))
                measured = [result.get("median", ""), low, high, len(result.get("samples", []))]
                accuracy = result["accuracy"]["max_ulp"] if "accuracy" in result else ""
                fraction = result.get("fraction")
                tail = ["" if fraction is None else fraction, result.get("bandwidth", ""), accuracy]
                reason = result.get("failed") or result.get("skipped") or result.get("dropped") or ""
                writer.writerow(
                    [*head, case["name"], case["op"], *case["shape"], *about, name, *measured, *tail, reason]
                )
    return out.getvalue()
