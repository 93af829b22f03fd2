"""``softbench check``: the verdict on one or all backends, for people, machines and CI.

Exit status: 0 everything asked for passed; 1 something failed, or a backend that was named cannot run here;
2 a wrong argument; 130 interrupted, 143 and 129 ended by SIGTERM and SIGHUP.

Backends are judged in processes of their own (`softbench.conformance.apart`): whatever they do there, the verdict, the
report and the other backends are safe from it.
"""

from __future__ import annotations

import argparse
import difflib
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from softbench.cli.arguments import UsageError, complain, names, positive
from softbench.cli.progress import make_console, show_progress
from softbench.cli.verdict import print_report
from softbench.errors import BackendUnavailableError, UnknownBackendError
from softbench.functions import LIBRARIES
from softbench.interface import FUNCTIONS
from softbench.interface.dtypes import formats
from softbench.loading import Source
from softbench.registry import get_backend, list_backends

if TYPE_CHECKING:  # the kit is imported when there is something to judge
    from softbench.conformance.verdicts import Report, Result
    from softbench.measure.progress import ProgressReporter

__all__ = ["add_parser", "main"]

_TIMEOUT: Final = 120.0
"""Seconds that a case may take: several times what any takes on a busy machine."""
_FIRST: Final = 30.0
"""Seconds for lines that reproduce the first failure."""


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
    parser.add_argument(
        "--as",
        dest="op",
        metavar="OP",
        choices=FUNCTIONS,
        help="judge a function, MODULE:FUNCTION, as this: " + ", ".join(FUNCTIONS),
    )
    parser.add_argument("--arrays", metavar="LIBRARY", help="whose arrays the function takes (default: found out)")
    parser.add_argument(
        "--dtype", metavar="DTYPE,...", help="dtypes of logits that the function is asked for (default: all it takes)"
    )
    depth = parser.add_mutually_exclusive_group()
    depth.add_argument("--quick", dest="profile", action="store_const", const="quick", help="a few seconds")
    depth.add_argument(
        "--deep", dest="profile", action="store_const", const="deep", help="every sweep in full: minutes"
    )
    parser.add_argument(
        "--select", action="append", metavar="PATTERN", help="only these rows or cases, e.g. nan-row or 'out/*'"
    )
    parser.add_argument(
        "--timeout",
        type=positive,
        default=_TIMEOUT,
        metavar="S",
        help=f"seconds that a case may take; one that takes longer has failed (default: {_TIMEOUT:g})",
    )
    parser.add_argument(
        "--reproduce", metavar="CASE", help="print three lines of Python that show what is wrong with this case"
    )
    parser.add_argument("--list", action="store_true", help="list the cases instead")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--junit", type=Path, metavar="FILE", help="write the verdicts as JUnit XML, at the end and whole"
    )
    parser.set_defaults(function=main, profile="standard")
    return parser


def main(args: argparse.Namespace) -> int:
    """Run the command; returns its exit status."""
    from softbench.conformance.runner import selected
    from softbench.files import clear

    try:
        cases = selected(args.profile, args.select)
    except ValueError as error:
        raise UsageError(f"{error}; see: softbench check --list") from None
    if args.list:
        for case in cases:
            print(case.id)
        return 0
    known = list_backends()
    sources = _sources(args, known)
    if args.reproduce:
        return _reproduce(args, sources, [case.id for case in cases])
    if args.junit:
        clear(args.junit)
    verdicts = _Verdicts(args)
    try:
        for source in sources:
            if not verdicts.judge(source):
                break
    finally:
        verdicts.write()
    return verdicts.status()


def _case_reporter(progress: ProgressReporter, name: str) -> Callable[[int, int, Result], None]:
    """What the kit calls after every case: it reports progress."""

    def on_case(done: int, total: int, result: Result) -> None:
        if done == 1:
            progress.begin([1.0] * total)
        progress.step(f"{name}: {result.id.partition('/')[0]}")

    return on_case


def _reproduce(args: argparse.Namespace, sources: list[Source], cases: list[str]) -> int:
    """Print how to see the failure of a case; status 0 if it passes."""
    from softbench.conformance.apart import reproduce_apart

    if args.reproduce not in cases:
        close = difflib.get_close_matches(args.reproduce, cases, n=2)
        hint = f"; did you mean {' or '.join(close)}?" if close else "; see: softbench check --list"
        raise UsageError(f"no case of profile {args.profile!r} is called {args.reproduce!r}{hint}")
    if len(sources) != 1 or not args.backends:
        raise UsageError("--reproduce needs one backend")
    lines = reproduce_apart(sources[0], args.reproduce, args.profile, timeout=args.timeout)
    print(lines or f"# {args.reproduce} passes on {sources[0].spec}")
    return 1 if lines else 0


def _sources(args: argparse.Namespace, known: Iterable[str]) -> list[Source]:
    """What to judge; `UsageError` for what cannot be meant."""
    for name in args.backends:
        if args.op and ":" not in name:
            raise UsageError(f"--as {args.op} is for a function: expected MODULE:FUNCTION, got {name!r}")
        if ":" not in name and name not in known:
            get_backend(name)  # raises, with close matches
    if args.op and not args.backends:
        raise UsageError(f"--as {args.op} needs a function, MODULE:FUNCTION")
    if not args.op and (args.arrays or args.dtype):
        raise UsageError("--arrays and --dtype are for a function, which --as names")
    if args.arrays and args.arrays not in LIBRARIES:
        raise UsageError(f"--arrays {args.arrays!r}: expected one of {', '.join(LIBRARIES)}")
    dtypes = tuple(names(args.dtype)) if args.dtype else ()
    for dtype in dtypes:
        if dtype not in formats:
            raise UsageError(f"--dtype {dtype!r}: expected some of {', '.join(formats)}")
    return [Source(name, args.op or "", args.arrays or "", dtypes) for name in args.backends or known]


class _Verdicts:
    """What is found: printed as it comes, and written at the end."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.reports: list[Report] = []
        self.unavailable: dict[str, str] = {}
        self.unknown: dict[str, str] = {}
        self.unread = False
        """Whether nobody reads standard output any more."""

    def judge(self, source: Source) -> bool:
        """Judge one backend; whether to go on."""
        from softbench.conformance.apart import judge_apart

        args, name = self.args, source.spec
        try:
            with show_progress(lines=False, quiet=args.json) as progress:
                on_case = _case_reporter(progress, name)
                report = judge_apart(source, args.profile, on_case, select=args.select, timeout=args.timeout)
        except BackendUnavailableError as error:
            self.unavailable[name] = str(error)
            return True
        except UnknownBackendError as error:
            self.unknown[name] = str(error)
            complain(error, 2)
            return True
        report.backend = name
        self.reports.append(report)
        if not args.json:
            self._tell(lambda: print_report(make_console(wrap=False), report))
            self._tell(lambda: self._print_reproducer(source, report))
        return not report.interrupted and not (self.unread and not args.junit)

    def write(self) -> None:
        """The report files and JSON, and what else there is to say."""
        from softbench.conformance.junit import junit_xml
        from softbench.files import write_whole

        args = self.args
        if args.junit:
            absent = {name: why for name, why in self.unavailable.items() if name in args.backends} | self.unknown
            write_whole(args.junit, junit_xml(self.reports, absent))
        self._tell(self._print_json if args.json else self._print_unavailable)

    def _print_reproducer(self, source: Source, report: Report) -> None:
        """Lines that show the first failure, if they are found soon."""
        from softbench.conformance import contract
        from softbench.conformance.apart import reproduce_apart

        known = {case.id for case in contract.all_cases()}
        first = next((result.id for result in report.of("failed") if result.id in known), None)
        if first is None or report.interrupted or report.stopped:
            return
        lines = reproduce_apart(source, first, self.args.profile, timeout=min(_FIRST, self.args.timeout))
        if lines:
            make_console().print(f"  to see {first} (softbench check --reproduce CASE for another):", highlight=False)
            print(f"{lines}\n")

    def _print_json(self) -> None:
        verdicts = [report.to_dict() for report in self.reports]
        found = {"reports": verdicts, "unavailable": self.unavailable, "unknown": self.unknown}
        print(json.dumps(found, indent=1, default=str))

    def _print_unavailable(self) -> None:
        for reason in self.unavailable.values():
            make_console(wrap=False).print(reason, markup=False, highlight=False)

    def status(self) -> int:
        """The exit status."""
        if self.unread:
            raise BrokenPipeError
        if self.unknown:
            return 2
        if any(report.interrupted for report in self.reports):
            return 130
        missing = [name for name in self.args.backends if name in self.unavailable]
        return 0 if self.reports and all(report.ok for report in self.reports) and not missing else 1

    def _tell(self, say: Callable[[], None]) -> None:
        """Print. Who reads standard output may go: a report file is written all the same."""
        if self.unread:
            return
        try:
            say()
            if sys.stdout is not None:
                sys.stdout.flush()
        except BrokenPipeError:
            self.unread = True
