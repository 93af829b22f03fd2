"""Signals that ask a command to end: as Ctrl-C does, what was done is kept and children are ended."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Final, NoReturn

__all__ = ["Terminated", "terminable"]

_SIGNALS: Final = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP came; what handles a Ctrl-C handles it."""


@contextlib.contextmanager
def terminable() -> Iterator[list[int]]:
    """Raise `Terminated` in the block when a signal asks to end; yields the list of the signals that came.

    Only the first counts: what is done after it must not be cut short. Signals that are ignored (``nohup``) stay so.
    """
    came: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        came.append(number)
        if len(came) == 1:
            _stop(number)

    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in _SIGNALS:
            if signal.getsignal(number) is signal.SIG_DFL:
                before[number] = signal.signal(number, handle)
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(number: int) -> NoReturn:
    raise Terminated(signal.Signals(number).name)
