"""One workload on several backends at once, each in a process of its own, beside the limit of the machine."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from softbench import machine
from softbench.measure.ceiling import HOST_KINDS
from softbench.measure.digits import TrainedDigits
from softbench.measure.inputs import missing_extra
from softbench.measure.progress import ProgressReporter
from softbench.measure.records import ceiling_record, result_record
from softbench.measure.remote import Remote, RemoteCandidate, RemoteError
from softbench.measure.stability import Load, Watch, case_stability
from softbench.measure.timing import CONTROL, Candidate, Timing, interleave
from softbench.measure.workloads import OPS, Workload
from softbench.results.record import CaseRecord, Result
from softbench.results.units import percent, size

__all__ = ["Comparison", "Participant", "skip_reason"]

INTERPRETED_LIMIT: Final = 50_000
"""An interpreted backend needs a microsecond or so per logit: beyond this a single call would eat the time budget."""
MEMORY_SHARE: Final = 0.7
"""Of the available memory, what a case may take."""
MOST_LOST: Final = 3
"""Processes of a backend that may end or hang before nothing more is asked of it."""
LIMIT_TRIES: Final = 2
"""How often a limit that is not believed is measured again."""
LIMIT_SPREAD: Final = 0.15
"""Spread of a limit's samples (half the distance of the quartiles) beyond which it is not believed."""
COSTLY: Final = 1.0
"""Seconds of a call beyond which nothing is measured that takes further calls."""


@dataclass
class Participant:
    """A backend that takes part, and the process that it is measured in."""

    name: str
    kind: str = "cpu"
    cost: str = "compiled"
    provides: frozenset[str] = frozenset(OPS)
    remote: Remote | None = None
    lost: int = 0
    """Processes that have ended or hung."""
    gone: str = ""
    """Why nothing more is asked of it."""

    @property
    def home(self) -> str:
        """Whose memory it computes in."""
        return "cpu" if self.kind in HOST_KINDS else self.name

    def process(self) -> Remote:
        """Its process; a new one if the last is gone. `RemoteError` where the backend cannot be made."""
        if self.remote is None:
            self.start()
            self.opened()
        assert self.remote is not None
        return self.remote

    def start(self) -> None:
        """Start a process, and have it make the backend, without waiting for it."""
        self.remote = Remote(self.name)
        self.remote.send("open", name=self.name)

    def opened(self) -> None:
        """Wait for what `start` began. `RemoteError`."""
        assert self.remote is not None
        try:
            about = self.remote.receive()
        except RemoteError as error:
            self.failed(error)
            raise
        self.kind, self.cost, self.provides = about["kind"], about["cost"], frozenset(about["provides"])

    def failed(self, error: RemoteError) -> None:
        """Take note of a failure: a process that is gone is replaced, up to `MOST_LOST` times."""
        if error.alive:
            return
        self.lost += 1
        self.close()
        if self.lost >= MOST_LOST:
            self.gone = f"not asked any more after {self.lost} processes of it ended or hung, the last: {error}"

    def close(self) -> None:
        """End its process."""
        if self.remote is not None:
            self.remote.close()
            self.remote = None


def skip_reason(cost: str, provides: frozenset[str] | None, workload: Workload) -> str | None:
    """Why a backend of that cost, with those functions, is not timed on a workload, if so."""
    if provides is not None and workload.op not in provides:
        return f"does not provide {workload.op}"
    if cost == "interpreted" and workload.elements > INTERPRETED_LIMIT:
        return f"interpreted: more than {INTERPRETED_LIMIT:,} logits would take too long"
    return None


@dataclass
class Comparison:
    """What is the same for all cases of a run: the backends, and the process that measures the machine."""

    participants: list[Participant]
    threads: int | None
    progress: ProgressReporter
    costs: bool = True
    """Whether memory and the way of the arrays are measured as well."""
    control: bool = True
    """Whether the fastest of each case is timed twice."""
    _machine: Remote | None = None
    _digits: TrainedDigits = field(default_factory=TrainedDigits)
    _controls: dict[str, Participant] = field(default_factory=dict)

    def close(self) -> None:
        """End all processes."""
        for participant in (*self.participants, *self._controls.values()):
            participant.close()
        if self._machine is not None:
            self._machine.close()
            self._machine = None
        self._digits.close()

    def groups(self) -> Iterator[int]:
        """The process groups that work for us."""
        for participant in (*self.participants, *self._controls.values()):
            if participant.remote is not None:
                yield participant.remote.child.pid
        if self._machine is not None:
            yield self._machine.child.pid

    def measure(self, workload: Workload, entry: CaseRecord, seconds: float) -> None:
        """Measure a case for about that many seconds, into ``entry``; what is known is there if this is interrupted."""
        reason = missing_extra(workload) or self._too_large(workload)
        if reason:
            entry["skipped"] = reason
            self.progress.note(f"{workload.name} is left out: {reason}")
            return
        candidates = self._loaded(workload, entry)
        limits = self._limits(workload, entry, candidates) if workload.bound == "memory" else {}
        controlled: list[str] = []

        def control(name: str) -> Candidate | None:
            found = self._control(name, workload) if name in candidates else None
            if found is not None:
                controlled.append(name)
            return found

        watch = Watch(self.groups)
        timings = interleave(
            {**candidates, **{f"limit {home}": limit.candidate for home, limit in limits.items()}},
            seconds,
            control=control if self.control else None,
            failed=lambda name, error: self._failed(name, error, entry),
        )
        load = watch.lap()
        entry["stability"] = case_stability(timings, load, controlled[0] if controlled else None)
        for name in candidates:
            if name in timings:
                entry["results"][name].update(result_record(workload, timings[name]))
        for home, limit in limits.items():
            if f"limit {home}" in timings:
                self._judge_limit(workload, entry, home, limit, timings[f"limit {home}"], load)
        self._finish(workload, entry, [name for name in candidates if name in timings])

    # -- the backends ------------------------------------------------------------------------------------------

    def _too_large(self, workload: Workload) -> str | None:
        free, needed = machine.available_memory(), workload.memory(len(self.participants) + self.control)
        if free is None or needed <= MEMORY_SHARE * free:
            return None
        return f"needs {size(needed)} of memory for {len(self.participants)} backends, {size(free)} are available"

    def _loaded(self, workload: Workload, entry: CaseRecord) -> dict[str, Candidate]:
        """Have each backend make the inputs and compute once; those that can go on, why others cannot is recorded."""
        results = entry["results"]
        question = {"workload": workload.to_dict(), "digits": self._digits.path(workload)}
        asked: list[Participant] = []
        for participant in self.participants:
            reason = skip_reason(participant.cost, participant.provides, workload)
            if reason:
                results[participant.name] = {"skipped": reason}
            elif participant.gone:
                results[participant.name] = {"failed": participant.gone}
            else:
                with self._recorded(participant, results):
                    participant.process().send("load", **question)
                    asked.append(participant)
        found: dict[str, Candidate] = {}
        for participant in asked:
            with self._recorded(participant, results):
                assert participant.remote is not None
                results[participant.name] = {"accuracy": participant.remote.receive()}
                found[participant.name] = RemoteCandidate(participant.remote, "call")
        return found

    @contextlib.contextmanager
    def _recorded(self, participant: Participant, results: dict[str, Result]) -> Iterator[None]:
        """What fails in the block is the participant's result."""
        try:
            yield
        except RemoteError as error:
            participant.failed(error)
            results[participant.name] = {"failed": str(error)}

    def _failed(self, name: str, error: Exception, entry: CaseRecord) -> None:
        """A candidate has failed while it was timed."""
        if not isinstance(error, RemoteError):
            raise error
        if name.startswith("limit "):
            self._no_limit(entry, name.removeprefix("limit "), error)
            return
        if name == CONTROL:
            return
        next(p for p in self.participants if p.name == name).failed(error)
        result = entry["results"][name]
        if error.kind == "StaleResultError" and "accuracy" in result:
            accuracy = result["accuracy"]
            accuracy["ok"], accuracy["detail"] = False, str(error)
            accuracy.pop("deviation", None)
        result["failed"] = str(error)

    def _control(self, name: str, workload: Workload) -> Candidate | None:
        """The fastest once more, in another process; None where that cannot be had."""
        again = self._controls.setdefault(name, Participant(name))
        if again.gone:
            return None
        try:
            remote = again.process()
            remote.ask("load", workload=workload.to_dict(), judged=False, digits=self._digits.path(workload))
        except RemoteError as error:
            again.failed(error)
            return None
        return RemoteCandidate(remote, "call")

    # -- limits ------------------------------------------------------------------------------------------------

    def _limits(self, workload: Workload, entry: CaseRecord, candidates: Mapping[str, Candidate]) -> dict[str, _Limit]:
        """The limits that apply, by whose memory it is."""
        found: dict[str, _Limit] = {}
        for participant in self.participants:
            if participant.name not in candidates or participant.home in found or participant.remote is None:
                continue
            home = participant.home
            try:
                if home == "cpu":
                    remote = self._machine_process()
                    about = remote.ask("host_limit", workload=workload.to_dict(), threads=self.threads)
                else:
                    remote = participant.remote
                    about = remote.ask("device_limit", workload=workload.to_dict())
            except RemoteError as error:
                self._no_limit(entry, home, error)
                continue
            found[home] = _Limit(about["operation"], about["method"], about["moved"], RemoteCandidate(remote, "limit"))
        return found

    def _machine_process(self) -> Remote:
        if self._machine is None or not self._machine.alive:
            # The layer that the user asked for, of Numba's threads, is no property of the machine; it may be missing.
            self._machine = Remote("", {"NUMBA_THREADING_LAYER": None})
        return self._machine

    def _no_limit(self, entry: CaseRecord, home: str, error: RemoteError) -> None:
        entry.setdefault("no_ceiling", {})[home] = f"the limit could not be measured: {error}"
        if home == "cpu" and not error.alive and self._machine is not None:
            self._machine.close()
            self._machine = None

    def _judge_limit(
        self, workload: Workload, entry: CaseRecord, home: str, limit: _Limit, timing: Timing, load: Load
    ) -> None:
        """Fractions of a limit that is believed; a limit that is not is measured again, and then dropped.

        A limit is the fastest that the machine can move bytes. Whatever else ran meanwhile makes it slower, and then
        it bounds nothing: what exceeds it is no evidence against a backend.
        """
        at_home = [participant.name for participant in self.participants if participant.home == home]
        concerned = [name for name in at_home if "median" in entry["results"].get(name, {})]
        doubt = _doubt(timing, load)
        tries = 0
        while tries < LIMIT_TRIES and (doubt or _exceeded(entry, concerned, limit.moved / timing.median)):
            tries += 1
            watch = Watch(self.groups)
            try:
                again = interleave({"limit": limit.candidate}, 0.3)["limit"]
            except RemoteError as error:
                self._no_limit(entry, home, error)
                return
            once_more = _doubt(again, watch.lap())
            if again.median < timing.median or (doubt and not once_more):
                timing, doubt = again, once_more
        record = ceiling_record(workload, limit.operation, limit.method, limit.moved, timing)
        entry["ceilings"][home] = record
        for name in concerned:
            result = entry["results"][name]
            fraction = result["bandwidth"] / record["bandwidth"]
            result["fraction"], result["impossible"] = fraction, fraction > 1.0
            if doubt:
                result["fraction"], result["impossible"] = None, False
                result["dropped"] = f"no fraction: while the limit was measured, {doubt}"

    # -- the rest ----------------------------------------------------------------------------------------------

    def _finish(self, workload: Workload, entry: CaseRecord, names: list[str]) -> None:
        """What takes further calls, and what the processes have noticed."""
        for participant in self.participants:
            if participant.name not in names or participant.remote is None:
                continue
            result = entry["results"][participant.name]
            result.setdefault("fraction", None)
            result.setdefault("impossible", False)
            with contextlib.suppress(RemoteError):
                if "accuracy" in result:
                    result["accuracy"]["looks"] = participant.remote.ask("looks")
            if self.costs and result["median"] < COSTLY:
                try:
                    result["costs"] = participant.remote.ask("costs")
                except RemoteError as error:
                    participant.failed(error)
        for participant in (*self.participants, *self._controls.values()):
            if participant.remote is not None:
                with contextlib.suppress(RemoteError):
                    participant.remote.ask("unload")


@dataclass(frozen=True)
class _Limit:
    """A limit that is ready to be timed."""

    operation: str
    method: str
    moved: int
    candidate: Candidate


def _exceeded(entry: CaseRecord, names: Iterable[str], bandwidth: float) -> bool:
    """Whether one of them moves more bytes per second than that."""
    return any(entry["results"][name]["bandwidth"] > bandwidth for name in names)


def _doubt(timing: Timing, load: Load) -> str:
    """Why a limit is not believed; empty if it is."""
    if load.reasons:
        return load.reasons[0]
    if timing.spread > LIMIT_SPREAD:
        return f"its samples spread by {percent(timing.spread)}"
    return ""
