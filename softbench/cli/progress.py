"""Consoles, and the progress of long commands: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:  # rich and everything that measures are imported by the commands that need them
    from rich.console import Console

    from softbench.measure.progress import ProgressReporter

__all__ = ["make_console", "show_progress"]

_REDRAW_SECONDS: Final = 0.2
_SHORT_STEP: Final = 0.05  # seconds: a row of shorter steps is not worth a line each
_PLAIN_WIDTH: Final = 100  # where no terminal says how wide it is


def make_console(*, stderr: bool = False, wrap: bool = True) -> Console:
    """A console that writes plain text of a fixed width where there is no terminal.

    Parameters
    ----------
    stderr
        Whether it writes to standard error.
    wrap
        Whether long lines are broken at the terminal's width, or left to the terminal.

    Returns
    -------
    rich.console.Console
        What writes to it when nobody reads any more gets a BrokenPipeError.
    """
    from rich.console import Console

    class Pipe(Console):
        def on_broken_pipe(self) -> None:
            self.quiet = True
            raise BrokenPipeError

    made = Pipe(stderr=stderr, highlight=False, soft_wrap=not wrap)
    if made.is_terminal:
        return made
    return Pipe(stderr=stderr, highlight=False, soft_wrap=not wrap, width=_PLAIN_WIDTH, no_color=True)


@contextlib.contextmanager
def show_progress(*, lines: bool = True, quiet: bool = False) -> Iterator[ProgressReporter]:
    """A bar on a terminal (redrawn between measurements, never during one), a line per step elsewhere.

    Parameters
    ----------
    lines
        Whether there are lines where there is no terminal.
    quiet
        Show nothing at all.
    """
    console = make_console(stderr=True)
    if quiet or not (lines or console.is_terminal):
        from softbench.measure.progress import NullProgress

        yield NullProgress()
        return
    if not console.is_terminal:
        yield _Lines(console)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        BarColumn(20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=console, auto_refresh=False, transient=True) as bar:
        yield _Bar(bar)


class Remaining:
    """How much time is left, from what the steps should take and what those that are done took."""

    def __init__(self) -> None:
        self.expected: Sequence[float] = ()
        self.done = -1
        self._began = self._step = time.monotonic()

    def begin(self, expected: Sequence[float]) -> None:
        """See `softbench.measure.progress.ProgressReporter`."""
        self.expected, self.done = expected, -1
        self._began = self._step = time.monotonic()

    def step(self) -> None:
        """The next step begins."""
        self.done += 1
        self._step = time.monotonic()

    def seconds(self) -> float | None:
        """What is left; None before anything can be said."""
        if not 0 <= self.done < len(self.expected):
            return None
        past, now = sum(self.expected[: self.done]), time.monotonic()
        # What was done tells how far off the expectations are, the more of it there is.
        whole = sum(self.expected)
        spent = self._step - self._began
        pace = (spent + 0.25 * whole) / (past + 0.25 * whole) if whole else 1.0
        current = max(0.0, pace * self.expected[self.done] - (now - self._step))
        return current + pace * sum(self.expected[self.done + 1 :])

    def __str__(self) -> str:
        seconds = self.seconds()
        if seconds is None:
            return ""
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes}:{rest:02} left"


class _Lines:
    """Progress as plain lines."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.remaining = Remaining()

    def begin(self, expected: Sequence[float]) -> None:
        self.remaining.begin(expected)

    def step(self, text: str) -> None:
        self.remaining.step()
        left = str(self.remaining)
        place = f"[{self.remaining.done + 1}/{len(self.remaining.expected)}]"
        self.console.print(f"{place} {text}" + (f" ({left})" if left else ""), markup=False, soft_wrap=True)

    def detail(self, text: str) -> None:
        pass  # a line per step is enough

    def note(self, text: str) -> None:
        self.console.print(text, markup=False, soft_wrap=True)


class _Bar:
    """Progress as a bar."""

    def __init__(self, bar: Any) -> None:
        self.bar = bar
        self.shown = 0.0
        self.remaining = Remaining()
        self.task = bar.add_task("looking for backends", total=None, left="")
        bar.refresh()

    def begin(self, expected: Sequence[float]) -> None:
        self.remaining.begin(expected)
        self.bar.update(self.task, total=len(expected), completed=0)

    def step(self, text: str) -> None:
        self.remaining.step()
        if time.monotonic() - self.shown > _SHORT_STEP:
            self._show(text)

    def detail(self, text: str) -> None:
        if time.monotonic() - self.shown > _REDRAW_SECONDS:
            self._show(text)

    def note(self, text: str) -> None:
        self.bar.console.print(text, markup=False)

    def _show(self, text: str) -> None:
        self.shown = time.monotonic()
        self.bar.update(self.task, completed=max(0, self.remaining.done), description=text, left=str(self.remaining))
        self.bar.refresh()
