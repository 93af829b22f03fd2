"""What a report says of fits (``softbench run --suite regression``), as `softbench.results.report.content` has it."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Final

from softbench.results.record import CaseRecord, Result
from softbench.results.report.cells import (
    Cell,
    Source,
    Table,
    compared,
    number,
    source_cells,
    source_heading,
    text,
    why_not,
)
from softbench.results.units import duration, ratio, size

__all__ = ["csv_text", "measurements", "verdicts"]

_CASE: Final = (
    ("data", ""),
    ("rows x features", ""),
    ("classes", ""),
    ("dtype", "of the features"),
)
_TIME: Final = ("time", "median of a whole fit that ends within 1e-6 of the minimum, as a part of it")


def _about_case(case: CaseRecord) -> list[Cell]:
    n, p, k = case["shape"]
    return [
        text(case["name"], "name"), Cell(f"{n:,} x {p:,}", n * p, "number"), number(k, f"{k:,}"), text(case["dtype"])
    ]  # fmt: skip


def _arrived(case: CaseRecord) -> list[tuple[float, str]]:
    """Who came within reach of the minimum, the fastest first."""
    return sorted((result["median"], name) for name, result in case["results"].items() if "median" in result)


def verdicts(found: Sequence[Source]) -> Table:
    """One line per data set: the fastest solver, and the next."""
    rows = []
    for source in found:
        for case in source.record["cases"]:
            ranks = _arrived(case)
            if not ranks:
                continue
            best, name = ranks[0]
            runner_up = Cell("-", None)
            if len(ranks) > 1:
                runner_up = Cell(f"{ranks[1][1]} {ratio(ranks[1][0] / best)}", ranks[1][0] / best)
            first = [text(name, "take"), number(best, duration(best)), runner_up]
            rows.append([*source_cells(source), *_about_case(case), *first])
    headings = (
        *source_heading(found),
        *_CASE,
        ("fastest", "the solver that is first within 1e-6 of the minimum"),
        _TIME,
        ("next best", "its time as a multiple"),
    )
    return Table("verdict", "Which solver is the fastest", headings, rows)


def measurements(found: Sequence[Source]) -> Table:
    """Every solver on every data set."""
    rows = []
    for source in found:
        for case in source.record["cases"]:
            ranks = _arrived(case)
            order = sorted(case["results"].items(), key=lambda item: item[1].get("median", float("inf")))
            for name, result in order:
                cells = _measured(result, ranks[0][0] if ranks else 0.0)
                rows.append([*source_cells(source), *_about_case(case), text(name, "name"), *cells])
    headings = (
        *source_heading(found),
        *_CASE,
        ("solver", ""),
        _TIME,
        ("times the fastest", ""),
        ("memory", "what a fit takes besides its input, at the most"),
        ("remark", ""),
    )
    return Table("measurements", "Everything that was measured", headings, rows)


def _measured(result: Result, best: float) -> list[Cell]:
    taken = result.get("costs", {}).get("call")
    memory = number(taken, size(taken or 0))
    if "median" not in result:
        return [number(None, ""), number(None, ""), memory, why_not(result)]
    remark = result.get("setting", "")
    return [
        number(result["median"], duration(result["median"])),
        compared(result["median"] / best),
        memory,
        Cell(remark, remark, "faint"),
    ]


_COLUMNS: Final = (
    "run", "machine", "version", "data", "rows", "features", "classes", "dtype", "solver", "iterations", "seconds",
    "suboptimality",
)  # fmt: skip


def csv_text(found: Sequence[Source]) -> str:
    """All curves as CSV: a line for each fit."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for source in found:
        record = source.record
        head = [source.letter, record["machine"].get("id", ""), record.get("version", "")]
        for case in record["cases"]:
            for name, result in case["results"].items():
                for point in result.get("curve", []):
                    fit = [point["iterations"], point["seconds"], point["suboptimality"]]
                    writer.writerow([*head, case["name"], *case["shape"], case["dtype"], name, *fit])
    return out.getvalue()
