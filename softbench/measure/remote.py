"""Backends in processes of their own: each is asked over a channel of its own, and watched.

A backend that raises, exits, crashes, hangs or prints is one failure with a reason; the others, and the caller, go
on. The process has a user's environment and threads, and its memory is that backend's alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import tempfile
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final

from softbench import processes
from softbench.measure.timing import Candidate, Sample
from softbench.registry import origin

__all__ = ["Remote", "RemoteCandidate", "RemoteError"]

LIMIT: Final = 6 * 3600.0
"""Seconds that a process may last in all, should nobody be left to end it."""
PATIENCE: Final = 120.0
"""Seconds without an answer after which a process counts as hanging: compiling, above all, takes its time."""

_DOING: Final = {
    "open": "was made",
    "availability": "was asked whether it can run here",
    "describe": "was asked what it is",
    "imported": "was made, and called for the first time",
    "first_call": "ran a case for the first time",
    "kernels": "was asked what it compiles",
    "compile": "compiled",
    "keep_digits": "trained a classifier",
    "load": "ran the case for the first time",
    "sample": "was timed",
    "costs": "was asked what a call costs",
}
_SHOWN: Final = 300
_END: Final = 5.0  # seconds that a process may take to end after it has closed its side


class RemoteError(Exception):
    """What a process could not do; the text says why, and whose code it was."""

    def __init__(self, reason: str, *, kind: str, alive: bool) -> None:
        super().__init__(reason)
        self.kind = kind
        """Name of the exception's type, ``"crash"`` or ``"hang"``."""
        self.alive = alive
        """Whether the process can be asked something else."""


class Remote:
    """A process of `softbench.measure.worker`; a context manager that ends it.

    Parameters
    ----------
    name
        The backend, or empty: then it can be asked about the machine only.
    changes
        Environment variables that differ from ours; None removes one.
    """

    def __init__(self, name: str = "", changes: Mapping[str, str | None] | None = None) -> None:
        self.name = name
        environment = processes.environment()
        for variable, value in (changes or {}).items():
            environment.pop(variable, None)
            if value is not None:
                environment[variable] = value
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the process
        questions, self._questions = os.pipe()
        self._answers, answers = os.pipe()
        command = processes.python("-m", "softbench.measure.worker", str(questions), str(answers))
        try:
            self.child = processes.start(
                command,
                limit=LIMIT,
                env=environment,
                stdout=self._log,
                stderr=self._log,
                pass_fds=(questions, answers),
            )
        except BaseException:
            os.close(self._questions)
            os.close(self._answers)
            raise
        finally:
            os.close(questions)
            os.close(answers)
        self._received = b""
        self._asked = ""

    def __enter__(self) -> Remote:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process, whatever it is doing."""
        with contextlib.suppress(OSError):
            os.close(self._questions)
        self.child.kill()
        self.child.wait()
        with contextlib.suppress(OSError):
            os.close(self._answers)
        self._log.close()

    @property
    def alive(self) -> bool:
        """Whether the process is there."""
        return self.child.poll() is None

    def ask(self, question: str, *, patience: float = PATIENCE, **arguments: Any) -> Any:
        """Ask one of the questions of `softbench.measure.worker.Worker`, and wait for the answer.

        Raises
        ------
        RemoteError
            It raised an exception, ended, or said nothing for ``patience`` seconds (and was ended).
        """
        self.send(question, **arguments)
        return self.receive(patience=patience)

    def send(self, question: str, **arguments: Any) -> None:
        """Ask, and let the process work on it until `receive`."""
        self._asked = question
        with contextlib.suppress(OSError):  # that it is gone is found by `receive`
            os.write(self._questions, json.dumps({"ask": question, **arguments}).encode() + b"\n")

    def receive(self, *, patience: float = PATIENCE) -> Any:
        """The answer to what was sent; `RemoteError` as of `ask`."""
        message = processes.message(self._line(patience))
        if message is None or not ("answer" in message or message.keys() >= {"error", "kind"}):
            raise self._ended("it wrote among the answers of its process", "crash")
        if "error" in message:
            raise RemoteError(self._blamed(message["error"]), kind=message["kind"], alive=True)
        return message["answer"]

    def _line(self, patience: float) -> bytes:
        """The next line of the answers."""
        end = time.monotonic() + patience
        while b"\n" not in self._received:
            ready, _, _ = select.select([self._answers], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                raise self._ended(f"no answer within {patience:g} s", "hang")
            part = os.read(self._answers, 1 << 16)
            if not part:
                raise self._ended("", "crash")
            self._received += part
        line, _, self._received = self._received.partition(b"\n")
        return line

    def _ended(self, how: str, kind: str) -> RemoteError:
        """The process says no more, by its own doing or by its silence; it is ended."""
        if not how:
            try:
                how = processes.describe(self.child.wait(_END)) or "exit status 0"
            except subprocess.TimeoutExpired:
                how = "it closed the files of its process"
        said = self._last_words()
        self.child.kill()
        self.child.wait()
        reason = f"{how} when it {_DOING.get(self._asked, self._asked)}" + (f" ({said})" if said else "")
        return RemoteError(self._blamed(reason), kind=kind, alive=False)

    def _last_words(self) -> str:
        """The last line that the process has printed."""
        self._log.seek(0)
        lines = self._log.read().decode(errors="backslashreplace").strip().splitlines()
        return " ".join(lines[-1].split())[:_SHOWN] if lines else ""

    def _blamed(self, reason: str) -> str:
        """The reason, and of whom."""
        whose = origin(self.name) if self.name else ""
        return f"{whose}: {reason}" if whose and whose not in reason else reason


class RemoteCandidate(Candidate):
    """What a process has ready to be timed: its workload (``"call"``) or its limit (``"limit"``)."""

    def __init__(self, remote: Remote, what: str) -> None:
        super().__init__(lambda: None)
        self.remote = remote
        self.what = what

    def sample(self, number: int, *, warm: int = 0) -> Sample:
        """As `Candidate.sample`. `RemoteError`."""
        return Sample(*self.remote.ask("sample", what=self.what, number=number, warm=warm))
