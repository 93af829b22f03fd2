"""``softbench check``: the verdict on one or all backends, for people, machines and CI.

Exit status: 0 everything asked for passed; 1 something failed, or a backend that was named cannot run here;
2 a wrong argument; 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from softbench.errors import BackendUnavailableError, UnknownBackendError

if TYPE_CHECKING:  # rich is imported when there is something to print
    from rich.console import Console

    from softbench.conformance.runner import Report, Result

__all__ = ["add_parser", "main"]

_PER_ROW = 3
"""Failures of a row of the contract that are printed in full: the others mostly say the same."""


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add the ``check`` command to the subparsers of the command line."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "check",
        help="is a backend right? every corner, and the largest error in ulp",
        description="Judges backends by the contract (docs/semantics.md): special values, arguments, options, "
        "accuracy in ulp, invariants, sweeps. Exit status 0: all pass; 1: failures, or a named backend cannot run "
        "here; 2: wrong arguments.",
    )
    parser.add_argument(
        "backends",
        nargs="*",
        metavar="NAME | MODULE:CLASS",
        help="names of backends, or where a class is (imported from the current folder or sys.path); default: all",
    )
    depth = parser.add_mutually_exclusive_group()
    depth.add_argument("--quick", dest="profile", action="store_const", const="quick", help="a few seconds")
    depth.add_argument(
        "--deep", dest="profile", action="store_const", const="deep", help="every sweep in full: minutes"
    )
    parser.add_argument(
        "--select", action="append", metavar="PATTERN", help="only these rows or cases, e.g. nan-row or 'out/*'"
    )
    parser.add_argument("--list", action="store_true", help="list the cases instead")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--junit", type=Path, metavar="FILE", help="write the verdicts as JUnit XML")
    parser.set_defaults(function=main, profile="standard")
    return parser


def main(args: argparse.Namespace) -> int:
    """Run the command; returns its exit status."""
    from softbench.conformance import contract
    from softbench.conformance.ahead import compiling_ahead
    from softbench.conformance.runner import run

    if args.list:
        for case in contract.cases(args.profile):
            if not args.select or any(_selected(pattern, case.id) for pattern in args.select):
                print(case.id)
        return 0
    try:
        subjects, unavailable = _resolve(args.backends)
    except UnknownBackendError as error:
        print(f"softbench check: error: {error}", file=sys.stderr)
        return 2
    if args.junit:
        args.junit.open("ab").close()  # minutes of judging are not for a file that cannot be written
    console = _console()
    reports: list[Report] = []
    for name, backend in subjects:
        ahead = {} if args.select else {name: backend}  # a few cases are done before another process has started
        with _progress(name, quiet=args.json) as advance, compiling_ahead(ahead):
            try:
                report = run(backend, args.profile, advance, select=args.select)
            except ValueError as error:  # --select matches nothing
                print(f"softbench check: error: {error}; see: softbench check --list", file=sys.stderr)
                return 2
        report.backend = name
        reports.append(report)
        if not args.json:
            _print_report(console, report)
        if report.interrupted:
            break
    if args.json:
        verdicts = {"reports": [report.to_dict() for report in reports], "unavailable": unavailable}
        print(json.dumps(verdicts, indent=1, default=str))
    else:
        for reason in unavailable.values():
            console.print(reason, markup=False, highlight=False)
    if args.junit:
        _write_junit(args.junit, reports)
    if any(report.interrupted for report in reports):
        return 130
    missing = [name for name in args.backends if name in unavailable]
    return 0 if all(report.ok for report in reports) and not missing else 1


def _resolve(names: list[str]) -> tuple[list[tuple[str, Any]], dict[str, str]]:
    """The backends to judge, and why the others cannot be."""
    from softbench.loading import load
    from softbench.registry import get_backend, list_backends

    subjects: list[tuple[str, Any]] = []
    unavailable: dict[str, str] = {}
    for name in names or list_backends():
        try:
            subjects.append((name, load(name) if ":" in name else get_backend(name)))
        except BackendUnavailableError as error:
            unavailable[name] = str(error)
            if not names:
                warnings.filterwarnings("ignore", message=".*failed to load")
    return subjects, unavailable


def _selected(pattern: str, case_id: str) -> bool:
    from softbench.conformance.runner import matches

    return matches(pattern, case_id)


# -- for people ----------------------------------------------------------------------------------------


def _console(*, stderr: bool = False) -> Console:
    from rich.console import Console

    return Console(stderr=stderr, soft_wrap=True)


class _progress:
    """A bar on the terminal while a backend is judged; nothing where there is no terminal."""

    def __init__(self, name: str, *, quiet: bool) -> None:
        self._name = name
        self._console = _console(stderr=True)
        self._on = self._console.is_terminal and not quiet

    def __enter__(self) -> Any:
        if not self._on:
            return None
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        # No refresh thread: cases that fork or watch stderr must not find one.
        self._bar = Progress(
            *columns, TextColumn("{task.fields[now]}"), console=self._console, transient=True, auto_refresh=False
        )
        self._bar.start()
        self._task = self._bar.add_task(self._name, total=None, now="")
        return self._advance

    def _advance(self, done: int, total: int, result: Result) -> None:
        self._bar.update(self._task, completed=done, total=total, now=result.id.split("/")[0])
        if done % 16 == 0 or result.seconds > 0.1:
            self._bar.refresh()

    def __exit__(self, *_: object) -> None:
        if self._on:
            self._bar.stop()


def _print_report(console: Console, report: Report) -> None:
    """Verdict, largest errors, failures by row of the contract, skips by reason."""
    from rich.markup import escape

    passed, failed = len(report.of("passed")), len(report.of("failed"))
    word = "[bold red]FAILS[/]" if failed else "[bold green]passes[/]"
    if report.interrupted:
        word = "[bold yellow]interrupted[/]" + (", [bold red]FAILS[/]" if failed else "")
    extra = "".join(f", {len(report.of(s))} {s}" for s in ("skipped", "deviation") if report.of(s))
    console.print(
        f"[bold]{escape(report.backend)}[/] ({report.kind}, {report.profile}) {word}: {passed} cases passed, "
        f"{failed} failed{extra} in {report.seconds:.1f} s",
        highlight=False,
    )
    if report.errors:
        _print_errors(console, report)
    _print_failures(console, report)
    reasons: dict[str, int] = {}
    for result in report.of("skipped"):
        reasons[result.message] = reasons.get(result.message, 0) + 1
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
        for result in results[:_PER_ROW]:
            console.print(f"    FAILED {result.id}", style="red", markup=False, highlight=False)
            console.print(f"      {result.message}", markup=False, highlight=False)
        if len(results) > _PER_ROW:
            rest = ", ".join(result.id.partition("/")[2] for result in results[_PER_ROW : _PER_ROW + 8])
            more = " ..." if len(results) > _PER_ROW + 8 else ""
            console.print(f"    and {len(results) - _PER_ROW} more: {rest}{more}", markup=False, highlight=False)


# -- for machines --------------------------------------------------------------------------------------


def _write_junit(path: Path, reports: list[Report]) -> None:
    """JUnit XML, one suite per backend, as CI services read it."""
    import xml.etree.ElementTree as ET

    suites = ET.Element("testsuites", name="softbench check")
    for report in reports:
        suite = ET.SubElement(
            suites,
            "testsuite",
            name=report.backend,
            tests=str(len(report.results)),
            failures=str(len(report.of("failed"))),
            skipped=str(len(report.of("skipped")) + len(report.of("deviation"))),
            time=f"{report.seconds:.3f}",
        )
        for result in report.results:
            row, _, name = result.id.partition("/")
            place = f"{report.backend}.{row}"
            case = ET.SubElement(suite, "testcase", classname=place, name=name, time=f"{result.seconds:.4f}")
            if result.status == "failed":
                ET.SubElement(case, "failure", message=_xml(result.message))
            elif result.status != "passed":
                ET.SubElement(case, "skipped", message=_xml(result.message))
    path.write_bytes(ET.tostring(suites, encoding="utf-8", xml_declaration=True))


def _xml(text: str) -> str:
    """Without the control characters that XML cannot hold."""
    return "".join(c if c >= " " or c in "\n\t" else "?" for c in text)
