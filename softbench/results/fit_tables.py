"""A record of fits (``softbench run --suite regression``) as tables: when each solver was near the minimum."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from rich.console import Console, RenderableType
from rich.text import Text

from softbench.results.layout import Column, fitted
from softbench.results.record import CaseRecord, Record, Result
from softbench.results.tables import machine_line, stability_lines
from softbench.results.units import duration, ratio, size

__all__ = ["seconds_to", "show"]

_NEAR: Final = (1e-2, 1e-4, 1e-6)
_LEGEND: Final = (
    "within: seconds of a whole fit, from the start, that ends so near the minimum, as a part of it (the first of fits "
    "with ever more iterations that does); memory: what a fit takes besides its input, at the most; against: time of a "
    "solver over that of SoftmaxRegression, both to 1e-6. The objective is LogisticRegression's with C = 1, judged in "
    "float64."
)


def show(record: Record, out: Console) -> None:
    """Everything: who is here, a table for each data set, whether to believe it."""
    for part in _parts(record, out.width):
        out.print(part)


def _parts(record: Record, width: int) -> Iterable[RenderableType]:
    yield Text(machine_line(record), style="dim")
    for name, backend in record["backends"].items():
        if not backend["ok"]:
            yield Text(f"{name}: {backend['reason']}", style="dim")
    for case in record["cases"]:
        yield Text()
        yield _table(case, width)
        yield from _whole(case)
    if record["cases"]:
        yield Text(_LEGEND, style="dim")
    yield from stability_lines(record)
    if not record.get("complete"):
        yield Text("The run was interrupted: this is what it had measured.", style="bold yellow")


def _table(case: CaseRecord, width: int) -> RenderableType:
    n, p, k = case["shape"]
    title = f"{case['name']}: {n:,} x {p:,}, {k:,} classes, {case['dtype']}, {size(case['floor_bytes'])} of features"
    results = {name: result for name, result in case["results"].items() if "skipped" not in result}
    ours = next((r["median"] for name, r in results.items() if name.startswith("softbench") and "median" in r), None)
    columns = [Column("solver", [Text(name) for name in results])]
    for within in _NEAR:
        cells = [_time_to(result, within) for result in results.values()]
        columns.append(Column(f"within {within:.0e}".replace("e-0", "e-"), cells, right=True))
    against = [
        Text(ratio(result["median"] / ours) if ours and "median" in result else "-") for result in results.values()
    ]
    columns.append(Column("against", against, rank=1, right=True))
    columns.append(Column("memory", [_memory(result) for result in results.values()], rank=2, right=True))
    notes = [Text(result.get("failed", result.get("setting", ""))) for result in results.values()]
    columns.append(Column("note", notes, rank=3, folds=True))
    return fitted(title, columns, width)


def seconds_to(result: Result, within: float) -> float | None:
    """Of the first number of iterations that ends so near the minimum: the median. None: none does."""
    near = [point for point in result.get("curve", []) if point["suboptimality"] <= within]
    if not near:
        return None
    first = min(point["iterations"] for point in near)
    samples = sorted(point["seconds"] for point in near if point["iterations"] == first)
    return samples[len(samples) // 2]


def _time_to(result: Result, within: float) -> Text:
    seconds = seconds_to(result, within)
    return Text("not reached", style="dim") if seconds is None else Text(duration(seconds))


def _memory(result: Result) -> Text:
    taken = result.get("costs", {}).get("call")
    return Text("-" if taken is None else size(taken))


def _whole(case: CaseRecord) -> Iterable[RenderableType]:
    """What solvers were not asked, and memory at the size that could not be measured."""
    for name, result in case["results"].items():
        if "skipped" in result:
            yield Text(f"{name}: {result['skipped']}", style="dim")
    for name, result in case["results"].items():
        whole = result.get("costs", {}).get("whole")
        if whole:
            yield Text(
                f"{name} at {whole['rows']:,} rows, by a straight line through two measured numbers of rows: "
                f"{size(whole['features'])} of features and {size(whole['call'])} besides"
            )
