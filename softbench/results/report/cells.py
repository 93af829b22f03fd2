"""Cells and tables of a report, and the runs that it is of."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from softbench.results.record import Record, Result
from softbench.results.tables import machine_line
from softbench.results.units import ratio

__all__ = [
    "Cell",
    "Source",
    "Table",
    "compared",
    "number",
    "source_cells",
    "source_heading",
    "sources",
    "text",
    "why_not",
]


@dataclass(frozen=True, slots=True)
class Source:
    """One record among those of a report, and how it is told from the others."""

    record: Record
    letter: str
    """A, B, ...; empty in a report of one record."""

    @property
    def title(self) -> str:
        """Letter, machine and time of the run."""
        started = self.record.get("started", "")[:16].replace("T", " ")
        text = f"{machine_line(self.record)}; softbench {self.record.get('version', '?')}, {started} UTC"
        return f"{self.letter}: {text}" if self.letter else text


class Cell(NamedTuple):
    """What stands in a table, what it sorts by, and of what class it is for the style sheet."""

    text: str
    value: float | str | None = None
    kind: str = ""
    detail: str = ""
    """What is shown when the cell is opened."""


class Table(NamedTuple):
    """A table with its caption and headings; a heading's second part explains it."""

    name: str
    caption: str
    headings: Sequence[tuple[str, str]]
    rows: Sequence[Sequence[Cell]]


def sources(records: Sequence[Record]) -> list[Source]:
    """The records with letters, if there are several."""
    letters = string.ascii_uppercase if len(records) > 1 else [""] * len(records)
    return [Source(record, letters[i % len(letters)]) for i, record in enumerate(records)]


def text(value: str, kind: str = "") -> Cell:
    """A cell that sorts by what it says."""
    return Cell(value, value, kind)


def number(value: float | None, said: str, kind: str = "number") -> Cell:
    """A cell that sorts by a number, or has none."""
    return Cell(said if value is not None else "-", value, kind)


def compared(times: float | None) -> Cell:
    """How many times as long as the fastest."""
    if times == 1.0:
        return number(times, "fastest", "best")
    return number(times, ratio(times or 0.0))


def why_not(result: Result) -> Cell:
    """Why there is no time."""
    reason = result.get("failed") or result.get("skipped") or "not measured"
    return Cell(reason, reason, "bad" if "failed" in result else "faint")


def source_cells(source: Source) -> list[Cell]:
    """Which run a row belongs to, where there are several."""
    return [text(source.letter)] if source.letter else []


def source_heading(found: Sequence[Source]) -> tuple[tuple[str, str], ...]:
    """The heading above `source_cells`."""
    return (("run", "which of the runs above"),) if found[0].letter else ()
