"""What a process that judges has printed: where it was when it crashed or was stuck."""

from __future__ import annotations

from typing import Final

__all__ = ["Printed"]

_TAIL: Final = 20_000
"""Characters that are kept, from the start and from the end."""


class Printed:
    """Beginning and end of what a process prints."""

    def __init__(self) -> None:
        self.start = self.end = b""

    def take(self, text: bytes) -> None:
        """More of it."""
        room = _TAIL - len(self.start)
        self.start += text[:room]
        self.end = (self.end + text)[-_TAIL:]

    def beginning(self) -> str:
        """What the backend itself has printed first."""
        text = self.start.decode(errors="replace")
        return "" if text.startswith(("Fatal Python error", "Timeout (")) else text

    def place(self) -> str:
        """Where Python says it was when it crashed or was stuck: the innermost place of the thread that matters."""
        lines = self.end.decode(errors="replace").splitlines()
        threads = [i for i, line in enumerate(lines) if "most recent call first" in line]
        chosen = next((i for i in threads if lines[i].startswith("Current thread")), threads[-1] if threads else None)
        if chosen is None:
            return ""
        places = [line.strip() for line in lines[chosen + 1 :] if line.strip().startswith("File ")]
        return next((place for place in places if "/softbench/" not in place), "")
