"""``softbench run``: measure, print, save."""

from __future__ import annotations

import argparse
import datetime
import difflib
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from softbench.cli.arguments import DEFAULT_OUT, UsageError, complain, count, names, positive
from softbench.cli.progress import show_progress
from softbench.interface.dtypes import formats
from softbench.registry import get_backend, list_backends

if TYPE_CHECKING:  # rich and everything that measures are imported by the commands that need them
    from softbench.results.record import Record

__all__ = ["add_parser"]


def add_parser(commands: Any) -> None:
    """Add the command to the subparsers of the command line."""
    run = commands.add_parser(
        "run",
        help="the main job: who is here, who is right, how fast, how near the limit, which to choose",
        description="Checks and times every backend that can run here, and recommends one. "
        f"Prints tables; writes one JSON file and one picture into ./{DEFAULT_OUT}/. Ctrl-C keeps what was measured.",
    )
    run.add_argument("--backends", metavar="NAME,...", help="only these (default: all that can run here)")
    run.add_argument(
        "--cases", metavar="CASE,...", default="quick", help='names, patterns or suites, also "all" (default: quick)'
    )
    run.add_argument("--dtype", choices=sorted(formats), help="put every case into this dtype")
    run.add_argument(
        "--seconds",
        type=positive,
        metavar="S",
        help="time for the timings, checks not counted (default: what fits into two minutes, at most 30)",
    )
    run.add_argument("--threads", type=count, metavar="N", help="threads for every library (default: all cores)")
    run.add_argument("--no-check", action="store_true", help="skip the conformance kit")
    run.add_argument("--no-plot", action="store_true", help="draw no picture")
    run.add_argument("--json", action="store_true", help="print the JSON instead of tables")
    run.add_argument("--out", type=Path, metavar="DIR", help=f"folder for the results (default: ./{DEFAULT_OUT})")
    run.set_defaults(function=_run)


def _run(parsed: argparse.Namespace) -> int:
    from softbench import machine
    from softbench.measure import run as bench
    from softbench.measure import workloads
    from softbench.results import tables as report

    if parsed.threads and parsed.threads > machine.usable_cores():
        raise UsageError(f"--threads {parsed.threads}: this process may use {machine.usable_cores()} cores")
    patterns = names(parsed.cases)
    try:
        workloads.select(patterns, parsed.dtype)
    except ValueError as error:
        raise UsageError(f"{error}{_close_cases(patterns)}; see: softbench list --cases") from None
    named = names(parsed.backends) if parsed.backends is not None else None
    known = list_backends()
    for name in named or ():
        if name not in known:
            get_backend(name)  # raises, with close matches
    folder, trouble = _folder(parsed.out or DEFAULT_OUT)
    if trouble:
        complain(f"{trouble}; the results will only be printed", 1)
    config = bench.Config(
        backends=tuple(named) if named else None,
        cases=tuple(patterns),
        dtype=parsed.dtype,
        seconds=parsed.seconds,
        threads=parsed.threads,
        check=not parsed.no_check,
    )
    with show_progress(report.console(stderr=True)) as listener:
        record = bench.run(config, listener)
    # Saved before it is printed: who pipes the table into `head` gets the files all the same.
    saved, more_trouble = _save(record, folder, plot=not parsed.no_plot) if folder else ([], "")
    if parsed.json:
        from softbench.results.record import dumps

        print(dumps(record), end="")
    else:
        report.show(record, report.console())
        for path in saved:
            print(f"saved: {path}")
    if more_trouble:
        complain(more_trouble, 1)
    if not record["complete"]:
        return 130
    return 1 if trouble or more_trouble else 0


def _close_cases(patterns: Sequence[str]) -> str:
    from softbench.measure.workloads import CASES

    names = ["quick", "asv", "metrics", "all", *(case.name for case in CASES)]
    close = [
        match
        for pattern in patterns
        if pattern not in names
        for match in difflib.get_close_matches(pattern, names, n=2)
    ]
    return f", did you mean {' or '.join(close)}?" if close else ""


def _folder(folder: Path) -> tuple[Path | None, str]:
    """The folder, made and known to be writable before a minute of measuring; or what is wrong with it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder, ""
    except OSError as error:
        return None, f"cannot write into {folder}: {error.strerror or error}"


def _save(record: Record, folder: Path, *, plot: bool) -> tuple[list[Path], str]:
    """Write JSON and picture; the paths written, and what went wrong."""
    from softbench.results.record import write

    stem = datetime.datetime.now().strftime("run-%Y%m%d-%H%M%S")
    saved: list[Path] = []
    try:
        path = folder / f"{stem}.json"
        write(record, path)
        saved.append(path)
        if plot:
            from softbench.results.plot import draw

            draw(record, folder / f"{stem}.png")
            saved.append(folder / f"{stem}.png")
    except ImportError as error:
        return saved, f'no picture: {error} (pip install "softbench[bench]")'
    except ValueError as error:
        return saved, f"no picture: {error}"
    except OSError as error:
        return saved, f"cannot write into {folder}: {error.strerror or error}"
    return saved, ""
