"""The main job: which backends are here, are they right, how fast, how near the limit, which to choose.

`run` fills a `softbench.results.record.Record` step by step, so that an interrupted run keeps what it has measured.
Every backend is asked, judged and timed in processes of its own (`softbench.measure.remote`): whatever one does is a
row of the record, and the others go on.
"""

from __future__ import annotations

import contextlib
import datetime
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final, cast

import softbench
from softbench import machine
from softbench.built_in import DISTRIBUTIONS
from softbench.conformance import contract
from softbench.conformance.apart import judge_apart
from softbench.conformance.peers import PEERS
from softbench.errors import UnknownBackendError
from softbench.measure import startup
from softbench.measure.comparison import Comparison, Participant, skip_reason
from softbench.measure.plan import PROFILES, Config
from softbench.measure.progress import NullProgress, ProgressReporter
from softbench.measure.records import case_record
from softbench.measure.remote import RemoteError
from softbench.measure.stability import Watch, oversubscription, probe, run_stability
from softbench.measure.surroundings import compilation_cache, thread_limit
from softbench.measure.survey import survey
from softbench.measure.workloads import Workload
from softbench.registry import get_backend, list_backends
from softbench.results.recommend import recommend
from softbench.results.record import SCHEMA, CaseRecord, Conformance, Machine, Record

__all__ = ["run"]

IDLE_SECONDS: Final = 0.5
"""For which the machine is watched before anything is measured."""
STARTUP_SECONDS: Final = {"compiled": 9.0, "interpreted": 2.0, "simulated": 2.0}
"""What start-up of a backend takes, about: for the remaining time that is shown."""
KIT_SECONDS: Final = 12.0
PEER_CASES: Final = {peer.backend: peer.sample for peer in PEERS.values() if not peer.options}
"""Cases of each row of the contract that a quick look at somebody else's library takes: docs/peers.md has them all."""


def run(
    config: Config,
    progress: ProgressReporter | None = None,
    record: Record | None = None,
    resumed: Record | None = None,
) -> Record:
    """Do it all. Ctrl-C ends it early, with ``complete`` False and what was measured so far.

    Parameters
    ----------
    config
        What to run.
    progress
        Told of steps.
    record
        Filled in place, for a caller who wants to look at it meanwhile.
    resumed
        The record of an interrupted run of the same configuration: what that has is not measured again.

    Returns
    -------
    Record
        Of a backend that fails or is not here with the reason.

    Raises
    ------
    UnknownBackendError
        A name in ``config`` that no backend has, or a candidate that cannot be loaded.
    ValueError
        A case pattern that matches nothing, or another part of ``config`` that means nothing.
    """
    cases = config.workloads()
    known = list_backends()
    for name in config.backends or ():
        if ":" not in name and name not in known:
            get_backend(name)  # raises, with close matches
    return _Run(config, cases, progress or NullProgress(), {} if record is None else record, resumed).all()


def beginning(command: str, config: Mapping[str, Any]) -> Record:
    """The record of a run of which nothing is known yet but where it is."""
    return {
        "schema": SCHEMA,
        "command": command,
        "version": softbench.__version__,
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "complete": False,
        "config": dict(config),
        "machine": cast(Machine, machine.fingerprint()),
        "versions": machine.versions(DISTRIBUTIONS),
        "threads": machine.threads(),
        "notes": [],
        "backends": {},
        "cases": [],
    }


class _Run:
    """A run in the making."""

    def __init__(
        self, config: Config, cases: list[Workload], progress: ProgressReporter, record: Any, resumed: Record | None
    ) -> None:
        self.config = config
        self.cases = cases
        self.progress = progress
        self.record: Record = record
        self.resumed = resumed
        self.began = time.perf_counter()
        self.clocks: list[float] = []

    def all(self) -> Record:
        """The steps, in the order of the questions."""
        record = self.record
        record.update(beginning("run", asdict(self.config)))
        before, watch = machine.load_average(), Watch()
        try:
            time.sleep(IDLE_SECONDS)
            idle = watch.lap()
            if idle.reasons:
                self.progress.note(f"this machine is busy ({idle.reasons[0]}): small differences will mean nothing")
            self.clocks.append(probe())
            with thread_limit(self.config.threads), compilation_cache() as cache:
                record["threads"] = machine.threads()
                self._survey()
                participants = self._participants()
                self._demand_candidates()
                self._begin(participants)
                self._startup(participants, cache)
                self._check(participants)
                self._time(participants)
            record["complete"] = True
        except KeyboardInterrupt as stop:
            record["stopped"] = str(stop) or "interrupted"
            idle = watch.lap()
        self.clocks.append(probe())
        judged = [case["stability"] for case in record["cases"] if "stability" in case]
        record["stability"] = run_stability(idle, judged, self.clocks, self._oversubscribed())
        record["stability"]["load_before"], record["stability"]["load_after"] = before, machine.load_average()
        record["notes"] += _remarks(record)
        recommend(record, self.config.max_ulp)
        record["seconds"] = time.perf_counter() - self.began
        return record

    # -- which can run -----------------------------------------------------------------------------------------

    def _survey(self) -> None:
        """Which can run here, and why the others cannot. Where backends were named, no other library is loaded."""
        asked = list_backends() if self.config.backends is None else self.config.backends
        self.record["backends"] = survey(dict.fromkeys([*asked, *self.config.candidates]))

    def _participants(self) -> list[Participant]:
        """Those that can be timed; why others cannot is in the record."""
        backends = self.record["backends"]
        untimed = {"simulator": "a simulator is checked, never timed"}
        if self.config.backends is None:
            untimed["distributed"] = "timed where it is named (--backend): its blocks are another backend's"
        for entry in backends.values():
            entry["reason"] = entry["reason"] or untimed.get(entry["kind"], "")
        asked = [Participant(name) for name, entry in backends.items() if entry["ok"] and entry["kind"] not in untimed]
        for participant in asked:
            participant.start()
        found = []
        for participant in asked:
            try:
                participant.opened()
                found.append(participant)
            except RemoteError as error:
                backends[participant.name]["ok"], backends[participant.name]["reason"] = False, str(error)
            participant.close()  # until it is timed
        return found

    def _demand_candidates(self) -> None:
        """A candidate is what the run is for. UnknownBackendError: one cannot be loaded, and nothing is measured."""
        for name in self.config.candidates:
            entry = self.record["backends"][name]
            if not entry["ok"]:
                raise UnknownBackendError(f"{name}: {entry['reason']}")

    def _begin(self, participants: Sequence[Participant]) -> None:
        """Say what is to come, and what it should take."""
        steps = [STARTUP_SECONDS[p.cost] for p in participants] if self.config.startup else []
        steps += [KIT_SECONDS] * len(participants) if self.config.check else []
        share = self._timing_seconds(sum(steps)) / len(self.cases)
        self.progress.begin([*steps, *([share + 1.0] * len(self.cases))])

    # -- the three questions -----------------------------------------------------------------------------------

    def _startup(self, participants: Sequence[Participant], cache: str) -> None:
        """What each costs before its first result."""
        if not self.config.startup:
            return
        cases = startup.representatives(self.cases)
        for participant in participants:
            self.progress.step(f"{participant.name}: import and first calls")
            entry = self.record["backends"][participant.name]
            kept = self._kept(participant.name, "startup")
            mine = [case for case in cases if skip_reason(participant.cost, participant.provides, case) is None]
            entry["startup"] = kept or startup.measure(participant.name, mine, cache)

    def _check(self, participants: Sequence[Participant]) -> None:
        """Whether each is right."""
        if not self.config.check:
            return
        for participant in participants:
            self.progress.step(f"{participant.name}: is it right?")
            entry = self.record["backends"][participant.name]
            kept = self._kept(participant.name, "conformance")
            entry["conformance"] = kept or conformance(participant.name, self._kit, self.progress)

    @property
    def _kit(self) -> str:
        return PROFILES[self.config.profile].kit

    def _time(self, participants: list[Participant]) -> None:
        """How fast, and how near the limit."""
        record, done = self.record, self._done()
        left = sum(case.name not in done for case in self.cases)
        share = self._timing_seconds(time.perf_counter() - self.began) / max(1, left)
        comparison = Comparison(participants, self.config.threads, self.progress, costs=self.config.costs)
        with contextlib.closing(comparison):
            for case in self.cases:
                self.progress.step(case.name)
                if case.name in done:
                    record["cases"].append(done[case.name])
                    continue
                entry = case_record(case)
                record["cases"].append(entry)
                comparison.measure(case, entry, share)
                self.clocks.append(probe())
            for participant in participants:
                with contextlib.suppress(RemoteError):
                    record["backends"][participant.name] |= participant.process().ask("describe")

    def _timing_seconds(self, spent: float) -> float:
        """Time for the timing of all cases together, when that much is spent already."""
        if self.config.seconds is not None:
            return self.config.seconds
        profile = PROFILES[self.config.profile]
        here = sum(entry["ok"] for entry in self.record.get("backends", {}).values())
        least, most = profile.timing_seconds
        whole = profile.whole_seconds + profile.per_backend * max(0, here - 3)
        return min(most, max(least, whole - spent))

    # -- an earlier run ----------------------------------------------------------------------------------------

    def _kept(self, name: str, what: str) -> Any:
        """What an earlier run has found of a backend, if it has."""
        kept: dict[str, Any] = dict(self.resumed["backends"].get(name, {})) if self.resumed else {}
        return kept.get(what)

    def _done(self) -> dict[str, CaseRecord]:
        """The cases that an earlier run has measured whole, by name."""
        cases = self.resumed["cases"] if self.resumed else []
        return {case["name"]: case for case in cases if "skipped" in case or "stability" in case}

    def _oversubscribed(self) -> list[str]:
        allowed = min(machine.usable_cores(), machine.cpu_quota() or math.inf)
        return [
            f"{name}: {problem}"
            for name, entry in self.record["backends"].items()
            for problem in oversubscription(entry.get("threads", {}), self.config.threads or allowed)
        ]


def conformance(name: str, profile: str, progress: ProgressReporter) -> Conformance:
    """The verdict of the conformance kit, which judges in processes of its own."""

    def on_case(done: int, total: int, _: object) -> None:
        progress.detail(f"{name}: is it right? {done} of {total} cases")

    select = contract.sample(profile, PEER_CASES[name]) if profile == "quick" and name in PEER_CASES else None
    try:
        report = judge_apart(name, profile, on_case, select=select)  # type: ignore[arg-type]
    except (ImportError, ValueError) as error:  # it could be made a moment ago
        nothing = {"passed": 0, "total": 0, "max_ulp": {}, "gates": {}, "seconds": 0.0}
        return {"ok": False, "failures": [str(error)], **nothing}  # type: ignore[typeddict-item]
    if report.interrupted:  # half a verdict is none
        raise KeyboardInterrupt
    failures = [f"{result.id}: {result.message}" for result in report.of("failed")]
    return {
        "ok": report.ok,
        "passed": len(report.of("passed")),
        "total": len(report.results) - len(report.of("skipped")),
        "max_ulp": {f"{error['function']} {error['dtype']}": float(error["max"]) for error in report.errors},
        "gates": {f"{error['function']} {error['dtype']}": float(error["gate"]) for error in report.errors},
        "failures": failures + ([report.stopped] if report.stopped else []),
        "deviations": sorted({result.id.partition("/")[0] for result in report.of("deviation")}),
        "seconds": report.seconds,
    }


def _remarks(record: Record) -> list[str]:
    """What a reader must know before believing the figures."""
    impossible = [
        f"{name} on {case['name']} ({result['fraction']:.0%})"
        for case in record["cases"]
        for name, result in case["results"].items()
        if result.get("impossible") and result.get("fraction") is not None
    ]
    if not impossible:
        return []
    return [
        "above the measured limit on a quiet machine, which is impossible, so not believed and not recommended: "
        + ", ".join(impossible)
    ]
