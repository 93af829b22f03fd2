"""Reporters of how far a long command has come. `softbench.cli.progress` has those who show it to people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

__all__ = ["NullProgress", "ProgressReporter"]


class ProgressReporter(Protocol):
    """Gets the steps of a command, and what they should take."""

    def begin(self, expected: Sequence[float]) -> None:
        """So many steps will come; what each should take, in seconds or in any unit of their own."""

    def step(self, text: str) -> None:
        """A step begins, and the one before it is done."""

    def detail(self, text: str) -> None:
        """How far a long step has come; called often."""

    def note(self, text: str) -> None:
        """Something a reader should know."""


class NullProgress:
    """A reporter that shows nothing."""

    def begin(self, expected: Sequence[float]) -> None:
        """See `ProgressReporter`."""

    def step(self, text: str) -> None:
        """See `ProgressReporter`."""

    def detail(self, text: str) -> None:
        """See `ProgressReporter`."""

    def note(self, text: str) -> None:
        """See `ProgressReporter`."""
