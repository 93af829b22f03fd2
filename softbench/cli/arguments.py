"""What the commands share: the parser class, values of options, errors, plain tables."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import re
import shutil
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NoReturn

__all__ = ["DEFAULT_OUT", "Parser", "UsageError", "columns", "complain", "count", "names", "positive", "shape"]

DEFAULT_OUT: Final = Path("softbench-results")
"""Where results are saved unless the user says otherwise."""


class Parser(argparse.ArgumentParser):
    """argparse, with close matches in its message about a wrong choice."""

    def error(self, message: str) -> NoReturn:
        """Exit with status 2 and the message."""
        match = re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message)
        if match:
            close = difflib.get_close_matches(match[1], re.findall(r"[\w-]+", match[2]), n=1)
            message += f"; did you mean {close[0]!r}?" if close else ""
        super().error(message)


class UsageError(Exception):
    """A wrong argument that argparse cannot see: exit status 2."""


def positive(text: str) -> float:
    """An option's value as a positive finite number."""
    with contextlib.suppress(ValueError):
        if 0 < (value := float(text)) < float("inf"):
            return value
    raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")


def count(text: str) -> int:
    """An option's value as a positive whole number."""
    with contextlib.suppress(ValueError):
        if (value := int(text)) > 0:
            return value
    raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")


def names(text: str) -> list[str]:
    """The names in a list separated by commas; `UsageError` if there are none."""
    found = [name.strip() for name in text.split(",") if name.strip()]
    if not found:
        raise UsageError(f"{text!r} names nothing")
    return found


def complain(error: object, status: int) -> int:
    """Say what is wrong on standard error; returns ``status``, for the command to return."""
    text = f"softbench: error: {error}"
    if sys.stderr is not None and sys.stderr.isatty():
        width = shutil.get_terminal_size().columns
        text = textwrap.fill(text, width, break_long_words=False, break_on_hyphens=False)
    print(text, file=sys.stderr)
    return status


def columns(rows: Sequence[tuple[str, ...]]) -> None:
    """Print rows as a plain table; the last column is as wide as it needs to be."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    for row in rows:
        print("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]))


def shape(text: str) -> tuple[int, ...]:
    """``4096x1000`` as a tuple of lengths; `UsageError` if it is none."""
    lengths = text.lower().split("x")
    if not all(length.isdecimal() and int(length) > 0 for length in lengths):
        raise UsageError(f"{text!r} is no shape: expected positive lengths with an x between them, such as 4096x1000")
    return tuple(map(int, lengths))
