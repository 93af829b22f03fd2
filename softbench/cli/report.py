"""``softbench report``: saved runs as one HTML file that can be mailed."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from softbench.cli.arguments import DEFAULT_OUT, UsageError

__all__ = ["add_parser"]


def add_parser(commands: Any) -> None:
    """Add the command to the subparsers of the command line."""
    report = commands.add_parser(
        "report",
        help="saved runs as one HTML file: verdicts, pictures, tables, the data",
        description="Writes one HTML file that holds everything: it opens from disk without a network, can be mailed. "
        "Several files (machines, commits) stand side by side, told apart by letters.",
    )
    report.add_argument(
        "files", nargs="*", type=Path, metavar="FILE.json",
        help=f"saved by softbench run (default: the newest in ./{DEFAULT_OUT}/)",
    )  # fmt: skip
    report.add_argument(
        "--out", type=Path, default=Path("softbench-report.html"), metavar="FILE.html",
        help="what to write (default: ./softbench-report.html)",
    )  # fmt: skip
    report.set_defaults(function=_report)


def _report(parsed: argparse.Namespace) -> None:
    from softbench.files import write_whole
    from softbench.results.record import read
    from softbench.results.report import render

    files = parsed.files or [_newest()]
    try:
        page = render([read(path) for path in files])
    except ValueError as error:
        raise UsageError(error) from None
    except ImportError as error:
        raise UsageError(f'{error} (pip install "softbench[bench]")') from None
    write_whole(parsed.out, page.encode())
    print(f"saved: {parsed.out} ({len(files)} run{'s' if len(files) > 1 else ''}, {len(page.encode()) / 1000:.0f} kB)")


def _newest() -> Path:
    """The newest run in the default folder."""
    found = sorted(DEFAULT_OUT.glob("run-*.json"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise UsageError(f"no FILE.json was named, and there is no run in ./{DEFAULT_OUT}/: softbench run makes one")
    return found[-1]
