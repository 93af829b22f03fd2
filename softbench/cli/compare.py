"""``softbench compare``: two saved runs side by side."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from softbench.cli.arguments import DEFAULT_OUT, UsageError, complain, positive
from softbench.cli.progress import make_console

if TYPE_CHECKING:  # what compares is imported when there is something to compare
    from softbench.results.compare import Change

__all__ = ["add_parser"]


def add_parser(commands: Any) -> None:
    """Add the command to the subparsers of the command line."""
    compare = commands.add_parser(
        "compare",
        help="two saved runs: what became faster or slower, and how sure that is",
        description="Compares the times of two runs of one machine. Exit status: 1 with --fail-on-regression if "
        "something is slower by more than that, or was right and is wrong now.",
    )
    compare.add_argument("before", type=Path, metavar="A.json", help=f"saved by softbench run, in ./{DEFAULT_OUT}/")
    compare.add_argument("after", type=Path, metavar="B.json", help="another one, of the same machine")
    compare.add_argument(
        "--fail-on-regression",
        type=positive,
        metavar="PERCENT",
        help="end with status 1 if something is slower by more",
    )
    compare.add_argument(
        "--least", type=positive, default=5.0, metavar="PERCENT", help="smaller changes are the same (default: 5)"
    )
    compare.add_argument("--markdown", action="store_true", help="print Markdown, for the summary of a CI job")
    compare.add_argument("--force", action="store_true", help="compare runs of unlike machines")
    compare.set_defaults(function=_compare)


def _compare(parsed: argparse.Namespace) -> int:
    from softbench.results.compare import changes, differences, one_sided, regressions, unlike_machines
    from softbench.results.record import read

    try:
        before, after = read(parsed.before), read(parsed.after)
    except ValueError as error:
        raise UsageError(error) from None
    unlike = unlike_machines(before, after)
    if unlike and not parsed.force:
        raise UsageError(f"{unlike}; --force compares them all the same")
    found = changes(before, after, parsed.least / 100)
    notes = [*([unlike] if unlike else []), *differences(before, after), *one_sided(before, after)]
    notes += [f"{c.case} on {c.backend} is not compared: {c.why}" for c in found if c.verdict == "not compared"]
    if not found:
        raise UsageError("; ".join(["the two runs have no measurement in common", *notes]))
    worse = regressions(found, parsed.fail_on_regression or 0.0, before, after)
    if parsed.markdown:
        _print_markdown(found, notes)
    else:
        for note in notes:
            print(f"note: {note}")
        _print_fitted(found)
        print(_summary(found))
    if parsed.fail_on_regression is None or not worse:
        return 0
    for sentence in worse:
        complain(sentence, 1)
    return 1


_HEADINGS = ("verdict", "case", "backend", "before", "after", "ratio", "interval")


def _row(change: Change) -> tuple[str, ...]:
    from softbench.results.units import duration

    interval = f"{change.effect.low:.3f}-{change.effect.high:.3f}" if change.effect else ""
    times = duration(change.before), duration(change.after)
    return (change.verdict, change.case, change.backend, *times, f"{change.ratio:.3f}", interval)


def _print_fitted(found: list[Change]) -> None:
    from rich.text import Text

    from softbench.results.layout import Column, fitted

    out = make_console()
    styles = {"faster": "green", "slower": "bold red", "not compared": "red"}
    cells = [[Text(cell) for cell in _row(change)] for change in found]
    for row, change in zip(cells, found, strict=True):
        row[0].stylize(styles.get(change.verdict, ""))
    ranks = (0, 0, 0, 3, 3, 1, 2)
    columns = [
        Column(heading, [row[i] for row in cells], ranks[i], right=i in (3, 4, 5))
        for i, heading in enumerate(_HEADINGS)
    ]
    out.print(fitted("", columns, out.width))


def _summary(found: list[Change]) -> str:
    """How many of each verdict."""
    counts: dict[str, int] = {}
    for change in found:
        counts[change.verdict] = counts.get(change.verdict, 0) + 1
    return ", ".join(f"{count} {verdict}" for verdict, count in counts.items())


_MARKS = {"faster": "🟢 ", "slower": "🔴 ", "not compared": "⚠️ "}


def _print_markdown(found: list[Change], notes: list[str]) -> None:
    """What changed as a table, the rest folded away."""
    print(f"### softbench: {_summary(found)}\n")
    for note in notes:
        print(f"* {note}")
    if notes:
        print()
    changed = [change for change in found if change.verdict in _MARKS]
    if changed:
        _print_table(changed)
    others = [change for change in found if change.verdict not in _MARKS]
    if others:
        print(f"<details><summary>{len(others)} without a change that could be told</summary>\n")
        _print_table(others)
        print("</details>")


def _print_table(found: list[Change]) -> None:
    print("| " + " | ".join(_HEADINGS) + " |")
    print("|---" * len(_HEADINGS) + "|")
    for change in found:
        cells = [cell.replace("|", "\\|") for cell in _row(change)]
        print(f"| {_MARKS.get(change.verdict, '')}" + " | ".join(cells) + " |")
    print()
