"""Judging a backend in processes of its own, which this one watches.

Somebody else's code may exit, crash, hang, or print; none of that may pass for a verdict, or take one from others. A
case without an answer is a failed case, and the rest is judged by a new process. With two cores two processes judge,
one from the first case on and one from the last, of cases sorted by dtype: most kernels are then loaded or compiled by
one of them only, and each process sees the same cases in the same order every time.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from softbench import errors, processes
from softbench.conformance import contract
from softbench.conformance.backend_under_test import Worst, error_rows
from softbench.conformance.case import Case
from softbench.conformance.printed import Printed
from softbench.conformance.profiles import Profile
from softbench.conformance.runner import is_whole, selected, stale_deviations
from softbench.conformance.verdicts import Report, Result
from softbench.loading import Source
from softbench.machine import usable_cores

__all__ = ["judge_apart", "reproduce_apart"]

_LOADING: Final = 60.0  # seconds at least for loading a backend, which imports its library
_SIDES: Final = {"float32": 0, "float16": 0, "float64": 2, "bfloat16": 2}  # by dtype: first cases, last cases
_FEW: Final = 50  # cases that one process has judged before another has started
_MAX_LOST: Final = 12  # processes that may be lost until the rest is given up
_HANG: Final = 3  # what one that hangs counts for: they take longest
_END: Final = 1.0  # seconds that a process may take to end after it has stopped to talk
_HEARTBEAT: Final = 0.1  # seconds between looks at whether the processes are still there
_WHOLE_RUN: Final = 24 * 3600.0  # seconds after which a process is ended whatever happens

_ERRORS: Final = {error.__name__: error for error in (errors.UnknownBackendError, errors.BackendUnavailableError)}


def judge_apart(
    backend: str | Source,
    profile: Profile = "standard",
    progress: Callable[[int, int, Result], None] | None = None,
    *,
    select: Iterable[str] | None = None,
    timeout: float = 120.0,
) -> Report:
    """Judge a backend by the contract as `softbench.conformance.run` does, but in other processes.

    Parameters
    ----------
    backend
        A name, ``"module:Class"``, ``"module:function as op"``, or a `softbench.loading.Source`.
    profile, progress, select
        See `softbench.conformance.run`.
    timeout
        Seconds that a case may take; one that takes longer has failed.

    Returns
    -------
    Report
        A case in which the process ends or hangs is a failed case. If that happens too often, or the backend cannot
        even be loaded, ``report.stopped`` says so and the cases that are left are ``unjudged``. Ctrl-C ends the run,
        and the report holds what was judged (``report.interrupted``).

    Raises
    ------
    UnknownBackendError, BackendUnavailableError
        See `softbench.get_backend` and `softbench.loading.load`.
    ValueError
        An unknown profile, or a pattern of ``select`` that matches no case.
    """
    source = Source.of(backend) if isinstance(backend, str) else backend
    run = _Run(source, profile, selected(profile, select), progress, timeout)
    start = time.perf_counter()
    try:
        run.judge()
        whole = is_whole(select, profile, run.few_shapes) and not run.report.stopped
        run.late += stale_deviations(run.deviations, list(run.results.values()), whole=whole)
    except KeyboardInterrupt:
        run.report.interrupted = True
    finally:
        run.end()
    return run.finished(time.perf_counter() - start)


def _side(case: Case) -> int:
    """From which of `_SIDES` a case is judged; 1 for what is between."""
    return _SIDES.get(case.name.rpartition("-")[2], 1)


def _environment() -> dict[str, str]:
    """Two processes judge at once, each with threads on all cores: those that wait must not keep the others from them.

    By default threads of OpenMP wait in a loop; that alone took a third of the time.
    """
    return {"OMP_WAIT_POLICY": "PASSIVE", **processes.environment()}


class _Worker:
    """A process that judges one case after the other."""

    def __init__(self, source: Source, profile: str, timeout: float, backwards: bool) -> None:
        self.backwards = backwards
        self.timeout = timeout
        self.cases: deque[Case] = deque()  # at work on the first; on loading the backend if there is none
        self.loaded = False
        self.printed = Printed()
        self._received = b""
        self._spoilt = False  # others have written among its answers
        self._silent: set[int] = set()  # descriptors that have come to their end
        asked, self._ask = os.pipe()
        self._answers, answer = os.pipe()
        self._deadline = time.monotonic() + max(timeout, _LOADING)
        arguments = (profile, repr(timeout), str(asked), str(answer))
        try:
            self._child = processes.start(
                processes.python("-m", "softbench.conformance.worker", source.to_json(), *arguments),
                limit=_WHOLE_RUN,
                env=_environment(),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(asked, answer),
            )
        finally:
            os.close(asked)
            os.close(answer)
        assert self._child.stdout is not None
        self._output = self._child.stdout.fileno()
        for descriptor in (self._answers, self._output):
            os.set_blocking(descriptor, False)

    def watched(self) -> set[int]:
        """File descriptors to wait for."""
        return {self._answers, self._output} - self._silent

    def ask(self, number: int, case: Case) -> None:
        """Have a case judged."""
        self.cases.append(case)
        self._deadline = time.monotonic() + self.timeout
        with contextlib.suppress(BrokenPipeError):  # that it has ended is found by `problem`
            os.write(self._ask, b"%d\n" % number)

    def answers(self, name: str) -> bool:
        """Whether an answer is for the case that it is at work on; then it is at work on the next."""
        if not self.cases or self.cases[0].id != name:
            return False
        self.cases.popleft()
        self._deadline = time.monotonic() + self.timeout
        return True

    def messages(self) -> Iterator[dict[str, Any]]:
        """What the process has said since the last time."""
        self.printed.take(self._read(self._output))
        self._received += self._read(self._answers)
        *lines, self._received = self._received.split(b"\n")
        for line in lines:
            message = processes.message(line)
            self._spoilt = self._spoilt or message is None
            if self._spoilt or message is None:  # what follows may be anybody's
                return
            yield message

    def _read(self, descriptor: int) -> bytes:
        """What can be read without waiting."""
        parts = []
        with contextlib.suppress(BlockingIOError):
            while part := os.read(descriptor, 1 << 16):
                parts.append(part)
            self._silent.add(descriptor)
        return b"".join(parts)

    def problem(self) -> str:
        """Why no answer will come: how the process has ended, or that its time is over. Empty while it may come."""
        if self._spoilt:
            return "writes among the answers of its process"
        if self._answers in self._silent:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(_END)
        status = self._child.poll()
        if status is not None:
            return f"ends its process ({processes.describe(status) or 'exit status 0'})"
        if self.late():
            return f"does not end within {self.timeout if self.loaded else max(self.timeout, _LOADING):g} s"
        return "closes the file descriptors of its process" if self._answers in self._silent else ""

    def late(self) -> bool:
        """Whether the time for what it is at is over."""
        return time.monotonic() > self._deadline

    def end(self) -> None:
        """End the process and all that it has started."""
        self._child.__exit__()
        os.close(self._ask)
        os.close(self._answers)


class _Run:
    """A run in the making."""

    def __init__(
        self,
        source: Source,
        profile: Profile,
        chosen: list[Case],
        progress: Callable[[int, int, Result], None] | None,
        timeout: float,
    ) -> None:
        self.report = Report(source.spec, "cpu", "compiled", profile, {})
        self.chosen = chosen
        self.results: dict[str, Result] = {}
        self.late: list[Result] = []  # what is known only once everything has run
        self.deviations: dict[str, str] = {}
        self.few_shapes = False
        self.worst: dict[tuple[str, str], Worst] = {}
        self._source, self._profile, self._progress, self._timeout = source, profile, progress, timeout
        self._numbers = {case.id: number for number, case in enumerate(contract.all_cases())}
        shared = usable_cores() > 1 and len(chosen) > _FEW
        self._left = sorted(chosen, key=_side) if shared else list(chosen)
        self._workers: list[_Worker] = []
        self._lost = 0
        self._start(backwards=False)
        if shared:  # both load at the same time
            self._start(backwards=True)

    def judge(self) -> None:
        """Until every case has a verdict, or none can be had."""
        while self._workers and not self.report.stopped and len(self.results) < len(self.chosen):
            self._wait()
            for worker in list(self._workers):
                if worker not in self._workers:  # ended since
                    continue
                problem = worker.problem()
                heard = list(worker.messages())  # after that: a process that has ended may have answered before
                for message in heard:
                    self._hear(worker, message)
                if problem and not heard and (worker.cases or not worker.loaded):
                    self._lose(worker, problem)

    def end(self) -> None:
        """End all processes."""
        for worker in self._workers:
            self._end(worker)
        self._workers = []

    def finished(self, seconds: float) -> Report:
        """The report, in the order of the cases."""
        report = self.report
        reason = f"not judged: {report.stopped}" if report.stopped else ""
        for case in self.chosen:
            if case.id in self.results:
                report.results.append(self.results[case.id])
            elif reason:
                report.results.append(Result(case.id, "unjudged", reason))
        report.results += self.late
        report.errors = error_rows(self.worst)
        report.seconds = seconds
        return report

    def _start(self, backwards: bool) -> None:
        self._workers.append(_Worker(self._source, self._profile, self._timeout, backwards))

    def _wait(self) -> None:
        """Until some process has said something, or a moment has passed."""
        with selectors.DefaultSelector() as selector:
            for worker in self._workers:
                for descriptor in worker.watched():
                    selector.register(descriptor, selectors.EVENT_READ)
            selector.select(_HEARTBEAT)

    def _hear(self, worker: _Worker, message: dict[str, Any]) -> None:
        if "error" in message:
            if message["error"] in _ERRORS:
                raise _ERRORS[message["error"]](message["message"])
            self._give_up("the backend could not be loaded", f"loading {self._source.spec} raises {message['message']}")
        elif not worker.loaded:
            worker.loaded = True
            self._introduce(worker, message)
            self._give(worker)
        else:
            result = Result(**message["result"])
            if not worker.answers(result.id):  # and its answers would be waited for for ever
                asked = worker.cases[0].id if worker.cases else "nothing"
                self._give_up("softbench was changed meanwhile", f"asked for {asked}, it judges {result.id}")
                return
            for gate, dtype, error in message["worst"]:
                found = Worst(**error)
                seen = self.worst.get((gate, dtype))
                if seen is None or found.max > seen.max:
                    self.worst[gate, dtype] = found
            self._decide(result)
            self._give(worker)

    def _introduce(self, worker: _Worker, message: dict[str, Any]) -> None:
        """What the first process says of the backend."""
        report = self.report
        if report.info or self.results:
            return
        report.backend, report.kind, report.cost = message["name"], message["kind"], message["cost"]
        report.info = message["info"]
        self.deviations, self.few_shapes = message["deviations"], message["few_shapes"]
        report.results = [Result(**result) for result in message["declarations"]]
        if report.kind not in ("cpu", "simulator"):  # one process on a device: the others have judged nothing yet
            for other in [other for other in self._workers if other is not worker]:
                self._workers.remove(other)
                self._end(other)
            worker.backwards = False

    def _give(self, worker: _Worker) -> None:
        """The next case, from the end that is this process's, and one ahead, so that it need not wait for us."""
        while self._left and len(worker.cases) < (2 if len(self._left) > _FEW else 1):
            case = self._left.pop(-1 if worker.backwards else 0)
            worker.ask(self._numbers[case.id], case)

    def _decide(self, result: Result) -> None:
        self.results[result.id] = result
        if self._progress is not None:
            self._progress(len(self.results), len(self.chosen), result)

    def _lose(self, worker: _Worker, problem: str) -> None:
        """A process that gives no answer: its case has failed, and another process goes on."""
        self._workers.remove(worker)
        place = worker.printed.place()
        message = problem + (f", in {place}" if place else "")
        self._end(worker)
        if not worker.loaded:
            if not self._workers:  # else the other one goes on alone
                self._give_up("the backend could not be loaded", f"loading {self._source.spec} {message}")
            return
        self._lost += _HANG if worker.late() else 1
        if worker.cases:
            self._decide(Result(worker.cases.popleft().id, "failed", message))
            self._left = [*self._left, *worker.cases] if worker.backwards else [*worker.cases, *self._left]
        if self._lost >= _MAX_LOST:
            self.report.stopped = "given up: too many cases end their process, or do not end"
        elif self._left:
            self._start(worker.backwards)

    def _give_up(self, why: str, message: str) -> None:
        self.report.stopped = why
        self.late.append(Result("process/loading", "failed", message))

    def _end(self, worker: _Worker) -> None:
        self.report.printed = self.report.printed or worker.printed.beginning()
        worker.end()


def reproduce_apart(
    backend: str | Source, case_id: str, profile: Profile = "standard", *, timeout: float = 120.0
) -> str:
    """Three lines of Python that show what is wrong with a case, made in a process of their own.

    Parameters
    ----------
    backend, profile, timeout
        See `judge_apart`; the time is for all of it.
    case_id
        Id of a case.

    Returns
    -------
    str
        Empty if the case passes there. Where making the lines ends the process, they have the whole case run.
    """
    from softbench.conformance.reproduce import case_text

    source = Source.of(backend) if isinstance(backend, str) else backend
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "lines"
        command = processes.python(
            *("-m", "softbench.conformance.reproduce"), source.to_json(), case_id, profile, str(answer)
        )
        done = processes.run(command, limit=timeout, env=processes.environment())
        if not done.problem and answer.exists():
            return answer.read_text(encoding="utf-8")
    return case_text(source, case_id, profile, f"the process that looks for a smaller call: {done.problem}")
