"""``softbench recommend`` and ``softbench auto``: which backend to take here, and what ``backend="auto"`` would."""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from softbench.cli.arguments import UsageError, complain, count, positive, shape
from softbench.cli.progress import make_console, show_progress
from softbench.interface import FUNCTIONS
from softbench.interface.dtypes import formats

if TYPE_CHECKING:  # what reads measurements is imported when there is something to read
    from softbench.auto import AutoBackend
    from softbench.results.record import Record

__all__ = ["add_parser"]


def add_parser(commands: Any) -> None:
    """Add the commands to the subparsers of the command line."""
    recommend = commands.add_parser(
        "recommend",
        help="which backend to take for a call: from saved measurements, or measured now",
        description="Answers from what softbench run has saved on this machine, or from FILES; measures now where "
        "nothing fits. Exit status: 1 if there is no backend to recommend.",
    )
    recommend.add_argument("files", nargs="*", type=Path, metavar="FILE", help="saved by softbench run, of one machine")
    recommend.add_argument("--op", required=True, choices=FUNCTIONS, metavar="OP", help=", ".join(FUNCTIONS))
    recommend.add_argument("--shape", required=True, metavar="NxK", help="of the logits")
    recommend.add_argument("--axis", type=int, default=-1, help="of the classes (default: -1)")
    recommend.add_argument(
        "--dtype",
        choices=sorted(formats),
        default="float32",
        metavar="DTYPE",
        help=f"{', '.join(sorted(formats))} (default: float32)",
    )
    recommend.add_argument("--target", choices=("index", "soft"), default="index", help="(default: index)")
    recommend.add_argument("--out", action="store_true", help="results go into memory that is there (out=)")
    recommend.add_argument("--calls", type=count, metavar="N", help="in one process (default: many)")
    recommend.add_argument("--max-ulp", type=positive, metavar="U", help="the largest error that may be")
    recommend.add_argument("--no-measure", action="store_true", help="measure nothing, whatever is missing")
    recommend.add_argument("--json", action="store_true", help="print JSON")
    recommend.set_defaults(function=_recommend)

    auto = commands.add_parser(
        "auto",
        help='what backend="auto" follows on this machine',
        description='What backend="auto" follows: the measurements that softbench run has saved for this machine and '
        "number of threads, or a rule.",
    )
    auto.add_argument(
        "--explain", action="store_true", help="print which backend it takes for every measured case, and why"
    )
    auto.set_defaults(function=_auto)


def _recommend(parsed: argparse.Namespace) -> int:
    from softbench.recommendation import recommend

    with show_progress() as progress:
        try:
            advice = recommend(
                parsed.op,
                shape(parsed.shape),
                parsed.dtype,
                axis=parsed.axis,
                target=parsed.target,
                out=parsed.out,
                calls=parsed.calls,
                max_ulp=parsed.max_ulp,
                files=parsed.files,
                measure=not parsed.no_measure,
                progress=progress,
            )
        except ValueError as error:
            raise UsageError(error) from None
        except LookupError as error:
            return complain(error.args[0], 1)
    if parsed.json:
        import json

        found = advice._asdict() | {"call": advice.call._asdict()}
        print(json.dumps(found | {"estimates": [estimate._asdict() for estimate in advice.estimates]}, indent=1))
    else:
        _print(str(advice))
    return 0


def _print(text: str) -> None:
    """Lines that break between words where they are too long."""
    from rich.text import Text

    make_console().print(Text(text))


def _auto(parsed: argparse.Namespace) -> int:
    from softbench.auto import COMPILING, FIRST, RULE
    from softbench.registry import get_backend
    from softbench.results.store import path_of

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # what it warns of is printed below
        made: Any = get_backend("auto")
    record = made.record
    if record is None:
        _print("Nothing has been measured on this machine with this number of threads: softbench run.")
    else:
        _print(f"Measured on {record.get('started', 'an unknown day')} with {made.threads} threads, kept in")
        print(path_of(record["machine"]["id"], made.threads))
        if made.disturbed:
            _print(f"Disturbed while it was measured: {made.disturbed}.")
    for reason in made.stale:
        _print(f"Stale: {reason}.")
    _print(f"For what was not measured: {FIRST}, and {RULE} once {FIRST} should have taken {COMPILING:g} s.")
    if parsed.explain and record is not None:
        _explain(made, record)
    return 0


def _explain(made: AutoBackend, record: Record) -> None:
    """Which backend it takes for every measured case."""
    from rich.text import Text

    from softbench.auto import FIRST
    from softbench.results.layout import Column, fitted
    from softbench.results.measurements import Call
    from softbench.results.units import duration, ratio

    rows = []
    for case in record["cases"]:
        classes, count_of = case["shape"][case["axis"]], 1
        for length in case["shape"]:
            count_of *= length
        kind = case["op"], case["dtype"], count_of // classes, classes, case["target"], case["result"]
        call = Call(*kind, case["axis"] == -1)
        plan = made.plan(call)
        waits = plan.best != FIRST and plan.gain > 0
        calls = f"{int(plan.price // plan.gain) + 1:,}" if waits else ""
        times = ratio(plan.times) if plan.times else ""
        rows.append((plan.best, case["name"], times, calls, duration(plan.price) if waits else ""))
    headings = ("takes", "for", f"than {FIRST}", "from call", "start-up")
    columns = [
        Column(heading, [Text(row[i]) for row in rows], (0, 0, 1, 2, 3)[i], right=i > 1)
        for i, heading in enumerate(headings)
    ]
    out = make_console()
    out.print(fitted("", columns, out.width))
    _print(
        f"than {FIRST}: so many times as fast; from call: until then {FIRST}, calls of one operation and dtype counted "
        "together. Other shapes are interpolated."
    )
