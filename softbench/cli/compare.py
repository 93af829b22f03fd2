"""``softbench compare``: two saved runs side by side."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from softbench.cli.arguments import DEFAULT_OUT, UsageError, columns

__all__ = ["add_parser"]


def add_parser(commands: Any) -> None:
    """Add the command to the subparsers of the command line."""
    compare = commands.add_parser("compare", help="two saved runs: what became faster or slower")
    compare.add_argument("before", type=Path, metavar="A.json", help=f"saved by softbench run, in ./{DEFAULT_OUT}/")
    compare.add_argument("after", type=Path, metavar="B.json", help="another one, of the same machine")
    compare.set_defaults(function=_compare)


def _compare(parsed: argparse.Namespace) -> None:
    from softbench.results.compare import changes, differences
    from softbench.results.record import read
    from softbench.results.units import duration

    try:
        before, after = read(parsed.before), read(parsed.after)
    except ValueError as error:
        raise UsageError(error) from None
    for difference in differences(before, after):
        print(f"note: {difference}")
    rows = [
        (
            change.case,
            change.backend,
            duration(change.before),
            duration(change.after),
            f"{change.ratio:.3f}",
            change.verdict,
        )
        for change in changes(before, after)
    ]
    if not rows:
        raise UsageError("the two runs have no measurement in common")
    columns([("case", "backend", "before", "after", "ratio", "beyond the spread"), *rows])
