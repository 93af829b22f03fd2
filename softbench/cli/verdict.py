"""A report of the conformance kit, as people read it."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:  # rich is imported when there is something to print
    from rich.console import Console

    from softbench.conformance.verdicts import Report, Result

__all__ = ["print_report"]

_SHOWN: Final = 3
"""Failures of a row of the contract that are printed in full: the others mostly say the same."""


def print_report(console: Console, report: Report) -> None:
    """Verdict, largest errors, failures by row of the contract, skips by reason."""
    from rich.markup import escape

    passed, failed = len(report.of("passed")), len(report.of("failed"))
    word = "[bold green]passes[/]" if report.ok else "[bold red]FAILS[/]"
    if report.interrupted:
        word = "[bold yellow]interrupted[/]" + (", [bold red]FAILS[/]" if failed else "")
    extra = "".join(f", {len(report.of(s))} {s}" for s in ("skipped", "deviation", "unjudged") if report.of(s))
    console.print(
        f"[bold]{escape(report.backend)}[/] ({report.kind}, {report.profile}) {word}: {passed} cases passed, "
        f"{failed} failed{extra} in {report.seconds:.1f} s",
        highlight=False,
    )
    if report.errors:
        _print_errors(console, report)
    _print_failures(console, report)
    if report.stopped:
        console.print(f"  {report.stopped}", style="bold red", markup=False, highlight=False)
    elif not report.of("passed") and not failed and not report.interrupted:
        console.print("  nothing was judged, and no verdict is no success", style="bold red", highlight=False)
    if report.printed:
        first = report.printed.strip().partition("\n")[0][:100]
        console.print(f"  it prints: {first}", style="yellow", markup=False, highlight=False)
    reasons: dict[str, int] = {}
    for result in report.of("skipped"):
        _, lacks, what = result.message.partition("does not provide ")
        reason = lacks + what.partition(": it provides")[0] if lacks else result.message
        reasons[reason] = reasons.get(reason, 0) + 1
    for reason, count in reasons.items():
        console.print(f"  skipped {count}: {escape(reason)}", style="dim", highlight=False)
    for result in report.of("deviation"):
        console.print(
            f"  declared deviation {escape(result.id)}: {escape(result.message)}", style="yellow", highlight=False
        )
    console.print()


def _print_errors(console: Console, report: Report) -> None:
    from rich.table import Table
    from rich.text import Text

    dtypes = [d for d in ("float64", "float32", "float16", "bfloat16") if any(e["dtype"] == d for e in report.errors)]
    table = Table(title="largest error in ulp (gate)", title_justify="left", title_style="", box=None, padding=(0, 2))
    table.add_column("")
    for dtype in dtypes:
        table.add_column(dtype, justify="right")
    by_place = {(e["function"], e["dtype"]): e for e in report.errors}
    for function in dict.fromkeys(e["function"] for e in report.errors):
        cells: list[Any] = []
        for dtype in dtypes:
            found = by_place.get((function, dtype))
            if found is None:
                cells.append("")
                continue
            over = found["max"] > found["gate"]
            cells.append(Text(f"{found['max']:.3g} ({found['gate']:g})", style="bold red" if over else ""))
        table.add_row(function, *cells)
    console.print(table)
    worst = max(report.errors, key=lambda e: e["max"] / e["gate"] if e["gate"] else 0.0)
    console.print(
        f"  nearest to its gate: {worst['max']:.3g} ulp at {worst['input']} [{worst['case']}]",
        markup=False,
        highlight=False,
    )


def _print_failures(console: Console, report: Report) -> None:
    from softbench.conformance import contract

    rows = {row.id: row for row in contract.all_requirements()}
    failures: dict[str, list[Result]] = {}
    for result in report.of("failed"):
        failures.setdefault(result.id.partition("/")[0], []).append(result)
    for row, results in failures.items():
        sentence = f": {rows[row].case}: {rows[row].result}" if row in rows else ""
        console.print(f"  {row}{sentence}", style="bold", markup=False, highlight=False)
        for result in results[:_SHOWN]:
            console.print(f"    FAILED {result.id}", style="red", markup=False, highlight=False)
            console.print(textwrap.indent(result.message, " " * 6), markup=False, highlight=False)
        if len(results) > _SHOWN:
            rest = ", ".join(result.id.partition("/")[2] for result in results[_SHOWN : _SHOWN + 8])
            more = " ..." if len(results) > _SHOWN + 8 else ""
            console.print(f"    and {len(results) - _SHOWN} more: {rest}{more}", markup=False, highlight=False)
