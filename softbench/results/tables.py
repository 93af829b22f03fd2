"""A record as tables on a terminal, or as plain text where there is none."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from softbench.results.record import BackendRecord, CaseRecord, Record, Result
from softbench.results.units import bandwidth, duration, percent, size, ulps

__all__ = ["backend_table", "console", "machine_line", "show"]

_FAILURE_WIDTH: Final = 240
_PLAIN_WIDTH: Final = 100  # where no terminal says how wide it is


def console(*, stderr: bool = False) -> Console:
    """A console that writes plain text of a fixed width where there is no terminal."""
    made = Console(stderr=stderr, highlight=False, soft_wrap=False)
    return made if made.is_terminal else Console(stderr=stderr, highlight=False, width=_PLAIN_WIDTH, no_color=True)


def show(record: Record, out: Console) -> None:
    """Everything, in the order of the questions: who is here, who is right, how fast, which to choose."""
    for part in _parts(record):
        out.print(part)


def _parts(record: Record) -> Iterable[RenderableType]:
    yield Text(machine_line(record), style="dim")
    yield backend_table(record["backends"])
    yield from _failures(record["backends"])
    cases = record.get("cases", [])
    if any("median" in result for case in cases for result in case["results"].values()):
        yield Text()
        yield from _case_lines(cases)
        yield Text(_LEGEND, style="dim")
    yield from _skips(cases)
    if record.get("recommendations"):
        yield Text()
        yield _advice_table(record)
        yield Text(_ADVICE, style="dim")
    for note in record.get("notes", []):
        yield Text(note, style="yellow")
    if record.get("overall"):
        yield Text(f"Overall: {record['overall']}.", style="bold")
    if not record.get("complete"):
        yield Text("The run was interrupted: this is what it had measured.", style="bold yellow")


_LEGEND: Final = (
    "time: median of interleaved samples; spread: half the interquartile range; of limit: the bytes that must move, "
    "per second, as a fraction of a plain read or copy of as many bytes, measured beside it; max ulp: the worst error "
    "on these very inputs"
)


def machine_line(record: Record) -> str:
    """One line on where this was measured."""
    machine = record.get("machine", {})
    cpu = machine.get("cpu", {})
    widest = next((name for flag, name in _VECTORS if flag in cpu.get("flags", [])), "")
    last = max((c["bytes"] for c in cpu.get("caches", [])), default=0)
    threads = record.get("config", {}).get("threads") or machine.get("usable_cores")
    parts = [
        str(cpu.get("model", "unknown processor")),
        f"{threads} thread{'s' if threads != 1 else ''}",
        widest,
        f"{size(last)} last-level cache" if last else "",
        size(machine["memory_bytes"]) if machine.get("memory_bytes") else "",
        f"Python {record.get('versions', {}).get('python', '?')}",
        f"NumPy {record.get('versions', {}).get('numpy', '?')}",
    ]
    return ", ".join(part for part in parts if part)


_VECTORS: Final = (("avx512f", "AVX-512"), ("avx2", "AVX2"), ("avx", "AVX"), ("sve", "SVE"), ("asimd", "NEON"))


def backend_table(backends: dict[str, BackendRecord], *, title: str = "Backends") -> Table:
    """Who is here, and why others are not; verdict and start-up where they were measured."""
    full = any("conformance" in entry or "startup" in entry for entry in backends.values())
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    table.add_column("backend", no_wrap=True)
    table.add_column("here", no_wrap=True)
    if full:
        for heading in ("conforms", "worst ulp", "import", "first call"):
            table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("what it is, or why it is not here", overflow="fold")
    for name, entry in backends.items():
        here = Text(entry["kind"], style="green") if entry["ok"] else Text("no", style="red")
        cells: list[RenderableType] = [name, here]
        if full:
            cells += [_verdict(entry), _worst(entry), *_startup(entry)]
        missing = entry["reason"] + (f" ({entry['install']})" if entry.get("install") else "")
        about = (
            entry.get("summary", "") + (f"; {entry['reason']}" if entry["reason"] else "") if entry["ok"] else missing
        )
        table.add_row(*cells, Text(about))
    return table


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
    key, error = max(
        verdict["max_ulp"].items(), key=lambda item: float(item[1]) / gates[item[0]] if gates[item[0]] else 0.0
    )
    return f"{ulps(float(error))} of {gates[key]:g}"


def _startup(entry: BackendRecord) -> list[str]:
    if "startup" not in entry:
        return ["-", "-"]
    startup = entry["startup"]
    cold = [call["cold"] for call in startup["first_calls"] if call["cold"] is not None]
    imported = startup["imported"]
    return [duration(imported) if imported is not None else "?", duration(max(cold)) if cold else "?"]


def _failures(backends: dict[str, BackendRecord]) -> Iterable[Text]:
    for name, entry in backends.items():
        failures = entry["conformance"]["failures"] if "conformance" in entry else []
        if failures:
            first = failures[0] if len(failures[0]) < _FAILURE_WIDTH else failures[0][:_FAILURE_WIDTH] + " ..."
            yield Text(f"{name} is WRONG in {len(failures)} cases, the first: {first}", style="bold red")
            yield Text(f"all of them: softbench check --quick {name}", style="red")
        if entry.get("startup", {}).get("problem"):
            yield Text(f"{name}: first calls not measured: {entry['startup']['problem']}", style="yellow")


def _case_lines(cases: list[CaseRecord]) -> Iterable[Text]:
    """A heading and a line per backend for each case; narrow enough for 80 columns."""
    width = max(len(name) for case in cases for name in case["results"])
    yield Text("Speed and error", style="bold")
    yield Text(f"  {'backend':<{width}}  {'time':>8}  {'spread':>6}  {'of limit':>8}  {'max ulp':>9}", style="dim")
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
    return "; ".join(
        f"limit {duration(limit['floor_seconds'])}: {limit['operation']} at {bandwidth(limit['bandwidth'])}"
        + ("" if home == "cpu" else f" on {home}'s device")
        for home, limit in case["ceilings"].items()
    )


def _backend_line(name: str, result: Result, best: float) -> Text:
    low, high = result["quartiles"]
    ratio = result["median"] / best
    line = Text(f"  {name}  {duration(result['median']):>8}  ")
    line.append(f"{'+-' + percent((high - low) / 2 / result['median']):>6}  ", style="dim")
    fraction = result["fraction"]
    line.append(
        f"{'-' if fraction is None else percent(fraction):>8}", style="bold red" if result["impossible"] else ""
    )
    if "accuracy" in result:
        line.append(f"  {ulps(float(result['accuracy']['max_ulp'])):>9}")
    line.append("  fastest" if ratio == 1.0 else f"  {ratio:,.3g}x", style="green" if ratio == 1.0 else "")
    if result["impossible"]:
        line.append("  IMPOSSIBLE", style="bold red")
    if "accuracy" in result and not result["accuracy"]["ok"]:
        line.append("  WRONG", style="bold red")
    return line


def _skips(cases: list[CaseRecord]) -> Iterable[Text]:
    """Who was not timed on how many cases, and why; cases that nobody ran, and why."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for case in cases:
        if "skipped" in case:
            yield Text(f"left out: {case['name']}: {case['skipped']}", style="yellow")
        for name, result in case["results"].items():
            if "skipped" in result:
                reasons.setdefault((name, result["skipped"]), []).append(case["name"])
    for (name, reason), where in reasons.items():
        cases_of = where[0] if len(where) == 1 else f"{len(where)} cases"
        yield Text(f"not timed: {name} on {cases_of}: {reason}", style="dim")


def _advice_table(record: Record) -> Table:
    table = Table(title="Which to choose", title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    table.add_column("case", no_wrap=True)
    table.add_column("take", no_wrap=True)
    table.add_column("next best", no_wrap=True)
    table.add_column("pays from call", justify="right", no_wrap=True)
    table.add_column("compiled", justify="right", no_wrap=True)
    table.add_column("before", no_wrap=True)
    for advice in record["recommendations"]:
        before = advice["cold"][-2]["backend"] if len(advice["cold"]) > 1 else ""
        table.add_row(
            advice["case"],
            Text(advice["fastest"], style="green"),
            f"{advice['runner_up']} {advice['ratio']:,.3g}x" if advice["ratio"] else "",
            f"{advice['cold'][-1]['from_call']:,}",
            f"{advice['cached'][-1]['from_call']:,}",
            Text(before, style="dim"),
        )
    return table


_ADVICE: Final = (
    "next best: its time as a multiple; pays from call: the first call at which import, compilation and all calls so "
    "far have cost less than with anybody else; compiled: the same where an earlier process has left compiled code; "
    "before: who is the cheapest until then"
)
