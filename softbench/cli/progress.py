"""Progress of a long command: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:  # rich and everything that measures are imported by the commands that need them
    from rich.console import Console

    from softbench.measure.run import Listener

__all__ = ["show_progress"]

_REDRAW_SECONDS: Final = 0.2


@contextlib.contextmanager
def show_progress(console: Console) -> Iterator[Listener]:
    """A bar on a terminal (redrawn between measurements, never during one), a line per step elsewhere."""
    if not console.is_terminal:
        yield _Lines(console)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, auto_refresh=False, transient=True) as bar:
        yield _Bar(bar)


class _Lines:
    """Progress as plain lines."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.total = self.done = 0

    def begin(self, steps: int) -> None:
        self.total = steps

    def step(self, text: str) -> None:
        self.done += 1
        self.console.print(f"[{self.done}/{self.total}] {text}", markup=False)

    def detail(self, text: str) -> None:
        pass  # a line per step is enough

    def note(self, text: str) -> None:
        self.console.print(text, markup=False)


class _Bar:
    """Progress as a bar."""

    def __init__(self, bar: Any) -> None:
        self.bar = bar
        self.shown = 0.0
        self.task = bar.add_task("looking for backends", total=None)
        bar.refresh()

    def begin(self, steps: int) -> None:
        self.bar.update(self.task, total=steps, completed=-1)

    def step(self, text: str) -> None:
        self.bar.update(self.task, advance=1, description=text)
        self.bar.refresh()

    def detail(self, text: str) -> None:
        now = time.monotonic()
        if now - self.shown > _REDRAW_SECONDS:
            self.shown = now
            self.bar.update(self.task, description=text)
            self.bar.refresh()

    def note(self, text: str) -> None:
        self.bar.console.print(text, markup=False)
