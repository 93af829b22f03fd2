"""A record as tables on a terminal, or as plain text where there is none."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from softbench.results.layout import Column, fitted
from softbench.results.recommend import is_wrong
from softbench.results.record import BackendRecord, CaseRecord, Recommendation, Record, Result
from softbench.results.units import bandwidth, duration, percent, ratio, size, ulps

__all__ = ["backend_table", "machine_line", "show", "stability_lines"]

_FAILURE_WIDTH: Final = 240


def show(record: Record, out: Console) -> None:
    """Everything, in the order of the questions: which can run, which are right, how fast, which to choose."""
    for part in _parts(record, out.width):
        out.print(part)


def _parts(record: Record, width: int) -> Iterable[RenderableType]:
    yield Text(machine_line(record), style="dim")
    yield backend_table(record["backends"], width)
    yield from _failures(record["backends"])
    cases = record.get("cases", [])
    if any("median" in result for case in cases for result in case["results"].values()):
        yield Text()
        yield from _case_lines(cases)
        yield Text(_LEGEND, style="dim")
    yield from _skips(cases)
    yield from _costs(cases, width)
    if record.get("recommendations"):
        yield Text()
        table = _advice_table(record["recommendations"], width)
        yield table
        shown = {str(column.header) for column in table.columns}
        yield Text("; ".join(text for heading, text in _ADVICE.items() if heading in shown), style="dim")
        yield from _less_accurate(record["recommendations"], cases)
    for note in record.get("notes", []):
        yield Text(note, style="yellow")
    yield from stability_lines(record)
    if record.get("overall"):
        yield Text(f"Overall: {record['overall']}.", style="bold")
    if not record.get("complete"):
        yield Text("The run was interrupted: this is what it had measured.", style="bold yellow")


_LEGEND: Final = (
    "time: median of interleaved samples; spread: half the interquartile range, or once for a single sample; of limit: "
    "the bytes that must move, per second, as a fraction of a plain read or copy of as many bytes, measured beside it; "
    "max ulp: the worst error on these very inputs; deviates as declared: it is less accurate than the contract asks, "
    "and says so; it is recommended only where --max-ulp allows that much"
)


def machine_line(record: Record) -> str:
    """One line on where this was measured."""
    machine = record.get("machine", {})
    cpu = machine.get("cpu", {})
    widest = next((name for flag, name in _VECTORS if flag in cpu.get("flags", [])), "")
    last = max((c["bytes"] for c in cpu.get("caches", [])), default=0)
    memory = machine.get("memory_bytes")
    threads = record.get("config", {}).get("threads") or machine.get("usable_cores")
    parts = [
        str(cpu.get("model", "unknown processor")),
        f"{threads} thread{'s' if threads != 1 else ''}",
        widest,
        f"{size(last)} last-level cache" if last else "",
        size(memory) if memory else "",
        f"Python {record.get('versions', {}).get('python', '?')}",
        f"NumPy {record.get('versions', {}).get('numpy', '?')}",
    ]
    return ", ".join(part for part in parts if part)


_VECTORS: Final = (("avx512f", "AVX-512"), ("avx2", "AVX2"), ("avx", "AVX"), ("sve", "SVE"), ("asimd", "NEON"))


# -- which can run -------------------------------------------------------------------------------------------------


def backend_table(backends: dict[str, BackendRecord], width: int, *, title: str = "Backends") -> Table:
    """Which can run here, and why the others cannot; verdict and start-up where they were measured."""
    entries = list(backends.values())
    columns = [
        Column("backend", [Text(name) for name in backends]),
        Column("here", [Text(e["kind"], style="green") if e["ok"] else Text("no", style="red") for e in entries]),
    ]
    if any("conformance" in entry for entry in entries):
        columns.append(Column("conforms", [_verdict(entry) for entry in entries], 1, right=True))
        columns.append(Column("worst ulp", [Text(_worst(entry)) for entry in entries], 3, right=True))
    if any("startup" in entry for entry in entries):
        starts = [_startup(entry) for entry in entries]
        columns.append(Column("import", [Text(start[0]) for start in starts], 4, right=True))
        columns.append(Column("first call", [Text(start[1]) for start in starts], 2, right=True))
    columns.append(Column("what it is, or why it is not here", [_about(entry) for entry in entries], folds=True))
    return fitted(title, columns, width)


def _about(entry: BackendRecord) -> Text:
    install = f" ({entry['install']})" if entry.get("install") else ""
    if not entry["ok"]:
        return Text(entry["reason"] + install)
    return Text("; ".join(part for part in (entry["summary"], entry["reason"]) if part))


def _verdict(entry: BackendRecord) -> Text:
    if "conformance" not in entry:
        return Text("-", style="dim")
    verdict = entry["conformance"]
    return Text(f"{verdict['passed']}/{verdict['total']}", style="green" if verdict["ok"] else "bold red")


def _worst(entry: BackendRecord) -> str:
    """The error nearest to its gate, and the gate."""
    verdict = entry.get("conformance")
    if not verdict or not verdict["max_ulp"]:
        return "-"
    gates = verdict["gates"]
    key, error = max(verdict["max_ulp"].items(), key=lambda item: item[1] / gates[item[0]] if gates[item[0]] else 0.0)
    return f"{ulps(error)} of {gates[key]:g}"


def _startup(entry: BackendRecord) -> tuple[str, str]:
    if "startup" not in entry:
        return "-", "-"
    startup = entry["startup"]
    cold = [call["cold"] for call in startup["first_calls"] if call["cold"] is not None]
    imported = startup["imported"]
    return duration(imported) if imported is not None else "?", duration(max(cold)) if cold else "?"


def _failures(backends: dict[str, BackendRecord]) -> Iterable[Text]:
    for name, entry in backends.items():
        verdict = entry.get("conformance")
        if verdict and not verdict["ok"]:
            failures = verdict["failures"]
            first = failures[0] if failures else "no verdict"
            first = first if len(first) < _FAILURE_WIDTH else first[:_FAILURE_WIDTH] + " ..."
            yield Text(f"{name} is WRONG in {len(failures)} cases, the first: {first}", style="bold red")
            asked = name.replace(" as ", " --as ")  # a function is named with what it computes
            yield Text(f"all of them: softbench check --quick {asked}", style="red")
        if entry.get("startup", {}).get("problem"):
            yield Text(f"{name}: first calls not measured: {entry['startup']['problem']}", style="yellow")
    declaring = [name for name, entry in backends.items() if entry.get("conformance", {}).get("deviations")]
    if declaring:
        yield Text(
            f"otherwise than the contract, as they declare: {', '.join(declaring)} (where and why: docs/peers.md)",
            style="yellow",
        )


# -- how fast ------------------------------------------------------------------------------------------------------


def _case_lines(cases: list[CaseRecord]) -> Iterable[Text]:
    """A heading and a line per backend for each case; narrow enough for 60 columns."""
    width = max(len(name) for case in cases for name in case["results"])
    yield Text("Speed and error", style="bold")
    yield Text(f"  {'backend':<{width}} {'time':>8} {'spread':>6} {'of limit':>8} {'max ulp':>8}", style="dim")
    for case in cases:
        timed = {name: result for name, result in case["results"].items() if "median" in result}
        if timed:
            yield Text(case["name"], style="bold").append(f"  {_limit(case)}", style="not bold dim")
        best = min((result["median"] for result in timed.values()), default=0.0)
        for name, result in sorted(timed.items(), key=lambda item: item[1]["median"]):
            yield _backend_line(name.ljust(width), result, best)


def _limit(case: CaseRecord) -> str:
    """What the time would be at the measured bandwidth."""
    if case["bound"] == "call":
        return "the cost of a call"
    parts = [
        f"limit {duration(limit['floor_seconds'])}: {limit['operation']} at {bandwidth(limit['bandwidth'])}"
        + ("" if home == "cpu" else f" on {home}'s device")
        for home, limit in case["ceilings"].items()
    ]
    return "; ".join([*parts, *case.get("no_ceiling", {}).values()])


def _backend_line(name: str, result: Result, best: float) -> Text:
    low, high = result["quartiles"]
    line = Text(f"  {name} {duration(result['median']):>8} ")
    spread = f"+-{percent((high - low) / 2 / result['median'])}" if len(result["samples"]) > 1 else "once"
    line.append(f"{spread:>6} ", style="dim")
    fraction, impossible = result.get("fraction"), result.get("impossible", False)
    line.append(f"{'-' if fraction is None else percent(fraction):>8}", style="bold red" if impossible else "")
    line.append(f" {ulps(result['accuracy']['max_ulp']) if 'accuracy' in result else '':>8}")
    times = result["median"] / best
    line.append("  fastest" if times == 1.0 else f"  {ratio(times)}", style="green" if times == 1.0 else "")
    if impossible:
        line.append("  IMPOSSIBLE", style="bold red")
    if is_wrong(result):
        line.append("  WRONG", style="bold red")
    elif "deviation" in result.get("accuracy", {}):
        line.append("  deviates as declared", style="yellow")
    return line


def _skips(cases: list[CaseRecord]) -> Iterable[Text]:
    """Which were not timed on how many cases, and why; cases without any time; fractions that are not believed."""
    reasons: dict[tuple[str, str, str], list[str]] = {}
    for case in cases:
        if "skipped" in case:
            yield Text(f"left out: {case['name']}: {case['skipped']}", style="yellow")
        for name, result in case["results"].items():
            for key, what in (("failed", "FAILED"), ("skipped", "not timed"), ("dropped", "no fraction")):
                if key in result:
                    reason = str(result[key]).removeprefix("no fraction: ")  # type: ignore[literal-required]
                    reasons.setdefault((what, "" if key == "dropped" else name, reason), []).append(case["name"])
    for (what, name, reason), where in reasons.items():
        unique = list(dict.fromkeys(where))
        cases_of = unique[0] if len(unique) == 1 else f"{len(unique)} cases"
        style = "bold red" if what == "FAILED" else "dim"
        yield Text(f"{what}: {f'{name} on ' if name else ''}{cases_of}: {reason}", style=style)


def _costs(cases: list[CaseRecord], width: int) -> Iterable[RenderableType]:
    """What a call costs besides its time, on the largest case."""
    measured = [case for case in cases if any("costs" in result for result in case["results"].values())]
    if not measured:
        return
    case = max(measured, key=lambda c: c["floor_bytes"])
    rows = {name: result["costs"] for name, result in case["results"].items() if "costs" in result}
    yield Text()
    columns = [Column("backend", [Text(name) for name in rows])]
    for heading, key, show_one, rank in (
        ("memory at the peak", "peak", size, 0),
        ("of that the call's", "call", size, 2),
        ("arrays there", "to_backend", duration, 1),
        ("and back", "from_backend", duration, 1),
    ):
        found = [costs.get(key) for costs in rows.values()]
        cells = [Text(show_one(float(v)) if isinstance(v, (int, float)) else "?") for v in found]
        columns.append(Column(heading, cells, rank, right=True))
    yield fitted(f"Besides the time, on {case['name']}", columns, width)


# -- which to choose -----------------------------------------------------------------------------------------------


def _advice_table(advice: list[Recommendation], width: int) -> Table:
    """A line per case, the answer first."""
    return fitted(
        "Which to choose",
        [
            Column("take", [_answer(verdict) for verdict in advice]),
            Column("for", [Text(verdict["case"]) for verdict in advice]),
            Column("pays from call", [Text(_pays(verdict)) for verdict in advice], 2, right=True),
            Column("next best", [Text(_margin(verdict)) for verdict in advice], 1),
            Column("interval", [Text(_interval(verdict), style="dim") for verdict in advice], 3),
            Column("before", [Text(_before(verdict), style="dim") for verdict in advice], 4),
        ],
        width,
    )


def _answer(verdict: Recommendation) -> Text:
    if verdict["tied"]:
        return Text(f"{' = '.join([verdict['fastest'], *verdict['tied']])}", style="yellow")
    return Text(verdict["fastest"], style="bold green")


def _margin(verdict: Recommendation) -> str:
    return f"{verdict['runner_up']} {ratio(verdict['ratio'])}" if verdict["ratio"] else ""


def _interval(verdict: Recommendation) -> str:
    if not verdict["interval"]:
        return ""
    low, high = verdict["interval"]
    return f"{low:.3g}-{high:.3g}"


def _pays(verdict: Recommendation) -> str:
    cold, cached = verdict["cold"][-1]["from_call"], verdict["cached"][-1]["from_call"]
    return f"{cold:,}" if cold == cached else f"{cold:,} ({cached:,})"


def _before(verdict: Recommendation) -> str:
    return verdict["cold"][-2]["backend"] if len(verdict["cold"]) > 1 else ""


_ADVICE: Final = {
    "take": "a = b: a tie, which the measurement cannot break",
    "next best": "next best: its time as a multiple",
    "interval": "interval: of that multiple",
    "pays from call": "pays from call: the first call at which import, compilation and all calls so far have cost less "
    "than with anybody else (in brackets: where an earlier process has left compiled code)",
    "before": "before: which is the cheapest until then",
}
"""What the columns say, by their headings: a narrow terminal shows fewer of them."""


def _less_accurate(advice: list[Recommendation], cases: list[CaseRecord]) -> Iterable[Text]:
    """Which would be faster, and how many digits they cost: a line each."""
    results = {case["name"]: case["results"] for case in cases}
    found: dict[str, list[tuple[float, float, str]]] = {}
    for verdict in advice:
        timed = results[verdict["case"]]
        for name in verdict.get("less_accurate", []):
            times = timed[verdict["fastest"]]["median"] / timed[name]["median"]
            found.setdefault(name, []).append((times, timed[name]["accuracy"]["max_ulp"], verdict["case"]))
    for name, wins in found.items():
        most, _, case = max(wins)
        error = max(ulp for _, ulp, _ in wins)
        where = case if len(wins) == 1 else f"{len(wins)} cases, the most on {case}"
        yield Text(
            f"faster but less accurate: {name}, {ratio(most)} as fast on {where}; "
            + (f"--max-ulp {math.ceil(error)} lets it in" if math.isfinite(error) else "without a bound on its error"),
            style="yellow",
        )


def stability_lines(record: Record) -> Iterable[Text]:
    """Whether to believe small differences."""
    found = record.get("stability")
    if not found:
        return
    load = found.get("load_after")
    if found["verdict"] == "stable":
        yield Text(
            "The machine was left alone" + (f" (load average {load:.2g})." if load is not None else "."), style="dim"
        )
        return
    yield Text(f"Disturbed, so do not trust small differences: {'; '.join(found['reasons'])}.", style="yellow")
