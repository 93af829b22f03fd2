"""The main job: which backends are here, are they right, how fast, how near the limit, which to choose.

`run` fills a `softbench.results.record.Record` step by step, so that an interrupted run keeps what it has measured.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Final, Protocol

import softbench
from softbench import machine
from softbench.front.backend import Backend
from softbench.measure import spot_check as accuracy
from softbench.measure import startup, workloads
from softbench.measure.ceiling import Ceiling, ceiling, device_ceiling
from softbench.measure.timing import Arm, Timing, interleave
from softbench.measure.workloads import Case
from softbench.registry import DISTRIBUTIONS, available_backends, get_backend, list_backends
from softbench.results.recommend import recommend
from softbench.results.record import SCHEMA, BackendRecord, CaseRecord, CeilingRecord, Conformance, Record, Result
from softbench.results.units import size

__all__ = ["Config", "Listener", "Quiet", "ceilings", "run", "unfit"]

#: An interpreted backend needs a microsecond or so per logit: beyond this a single call would eat the time budget.
INTERPRETED_LIMIT: Final = 50_000
#: A default run is to end within two minutes on two cores: checks first, then as much timing as fits. Preparing and
#: judging the inputs of the cases takes the rest.
WHOLE_SECONDS: Final = 88.0
TIMING_SECONDS: Final = (5.0, 30.0)
#: Share of the available memory that a case may take.
_MEMORY_SHARE: Final = 0.7


@dataclass(frozen=True, slots=True)
class Config:
    """What to run."""

    backends: tuple[str, ...] | None = None
    """Names; None: every one that is available."""
    cases: tuple[str, ...] = ("quick",)
    """Suites, names or patterns of `softbench.measure.workloads`."""
    dtype: str | None = None
    """Put all cases into this dtype."""
    seconds: float | None = None
    """Time for the timing of all cases together, checks and start-up not counted. None: what is left of
    `WHOLE_SECONDS` after those, within `TIMING_SECONDS`."""
    threads: int | None = None
    """Threads that libraries may use; None: one per usable core."""
    check: bool = True
    """Run the conformance kit (quick profile) on each backend."""
    startup: bool = True
    """Measure import and first calls in fresh processes."""


class Listener(Protocol):
    """Who is told of progress."""

    def begin(self, steps: int) -> None:
        """The number of steps that will come."""

    def step(self, text: str) -> None:
        """A step begins."""

    def detail(self, text: str) -> None:
        """How far a long step has come; often."""

    def note(self, text: str) -> None:
        """Something a reader should know."""


class Quiet:
    """Nobody."""

    def begin(self, steps: int) -> None:
        """Nothing."""

    def step(self, text: str) -> None:
        """Nothing."""

    def detail(self, text: str) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""


def run(config: Config, listener: Listener | None = None, record: Record | None = None) -> Record:
    """Do it all. Ctrl-C ends it early, with ``complete`` False and what was measured so far.

    Parameters
    ----------
    config
        What to run.
    listener
        Told of progress.
    record
        Filled in place, for a caller who wants to look at it meanwhile.

    Raises
    ------
    UnknownBackendError, BackendUnavailableError
        A backend that ``config`` names and that is not there.
    ValueError
        A case pattern that matches nothing.
    """
    told = listener or Quiet()
    record = {} if record is None else record
    cases = workloads.select(config.cases, config.dtype)
    began = time.perf_counter()
    start: Record = {
        "schema": SCHEMA,
        "version": softbench.__version__,
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "complete": False,
        "config": asdict(config),
        "machine": machine.fingerprint(),
        "versions": machine.versions(DISTRIBUTIONS),
        "notes": [],
        "backends": {},
        "cases": [],
    }
    record.update(start)
    try:
        with _thread_limit(config.threads), _compilation_cache() as cache:
            named = [get_backend(name) for name in config.backends or ()]
            _survey(record, {backend.name for backend in named})
            backends = [get_backend(name) for name, entry in record["backends"].items() if entry["ok"]]
            backends = [b for b in backends if record["backends"][b.name]["kind"] != "simulator"]
            backends = [b for b in backends if not named or b in named]
            told.begin(len(backends) * (config.check + config.startup) + len(cases))
            if config.startup:
                chosen = startup.representatives(cases)
                for backend in backends:
                    told.step(f"{backend.name}: import and first calls")
                    mine = [case for case in chosen if unfit(backend, case) is None]
                    record["backends"][backend.name]["startup"] = startup.measure(backend.name, mine, cache)
            if config.check:
                from softbench.conformance.ahead import compiling_ahead

                with compiling_ahead({backend.name: backend for backend in backends}):
                    for backend in backends:
                        told.step(f"{backend.name}: is it right?")
                        record["backends"][backend.name]["conformance"] = _conformance(backend, told)
            share = _timing_seconds(config, time.perf_counter() - began) / len(cases)
            for case in cases:
                told.step(case.name)
                entry = _case_record(case)
                record["cases"].append(entry)
                _measure(case, entry, backends, config.threads, share, told)
            for backend in backends:
                record["backends"][backend.name]["info"] = backend.info()
            record["threads"] = machine.threads()
        record["complete"] = True
    except KeyboardInterrupt:
        record["stopped"] = "interrupted"
        record.setdefault("threads", machine.threads())
    record["notes"] += _remarks(record)
    recommend(record)
    record["seconds"] = time.perf_counter() - began
    return record


# -- backends ------------------------------------------------------------------------------------------


def _survey(record: Record, named: set[str]) -> None:
    """Who is here, and why others are not."""
    summaries = list_backends()
    for name, state in available_backends().items():
        entry: BackendRecord = {
            "summary": summaries.get(name, ""),
            "ok": state.ok,
            "kind": state.kind,
            "reason": state.reason,
            "install": state.install,
        }
        if state.kind == "simulator":
            entry["reason"] = state.reason or "a simulator is checked, never timed"
        elif state.ok and named and name not in named:
            entry["reason"] = "here, but not asked for"
        record["backends"][name] = entry


def _conformance(backend: Backend, told: Listener) -> Conformance:
    """The verdict of the kit's quick profile."""
    from softbench import conformance

    def progress(done: int, total: int, _: object) -> None:
        told.detail(f"{backend.name}: is it right? {done} of {total} cases")

    report = conformance.run(backend, profile="quick", progress=progress)
    if report.interrupted:  # half a verdict is none
        raise KeyboardInterrupt
    failed = report.of("failed")
    return {
        "ok": report.ok,
        "passed": len(report.of("passed")),
        "total": len(report.results) - len(report.of("skipped")),
        "max_ulp": {f"{error['function']} {error['dtype']}": float(error["max"]) for error in report.errors},
        "gates": {f"{error['function']} {error['dtype']}": float(error["gate"]) for error in report.errors},
        "failures": [f"{result.id}: {result.message}" for result in failed],
        "seconds": report.seconds,
    }


def unfit(backend: Backend, case: Case) -> str | None:
    """Why a backend is not timed on a case, if so."""
    if backend.rows.cost == "interpreted" and case.elements > INTERPRETED_LIMIT:
        return f"interpreted: more than {INTERPRETED_LIMIT:,} logits would take too long"
    return None


# -- cases ---------------------------------------------------------------------------------------------


def _case_record(case: Case) -> CaseRecord:
    return {
        "name": case.name,
        "op": case.op,
        "shape": case.shape,
        "dtype": case.dtype,
        "target": case.target,
        "result": case.result,
        "bound": case.bound,
        "why": case.why,
        "floor_bytes": case.traffic.total,
        "ceilings": {},
        "results": {},
    }


def _timing_seconds(config: Config, spent: float) -> float:
    """Time for the timing of all cases together, when that much is spent already."""
    if config.seconds is not None:
        return config.seconds
    least, most = TIMING_SECONDS
    return min(most, max(least, WHOLE_SECONDS - spent))


def _measure(
    case: Case, entry: CaseRecord, backends: list[Backend], threads: int | None, seconds: float, told: Listener
) -> None:
    """One case on all backends and its ceilings, in turns, for about that many seconds."""
    reason = workloads.missing_extra(case)
    free = machine.available_memory()
    if reason is None and free is not None and case.memory > _MEMORY_SHARE * free:
        reason = f"needs {size(case.memory)} of memory, {size(free)} are available"
    if reason:
        entry["skipped"] = reason
        told.note(f"{case.name} is left out: {reason}")
        return
    inputs = workloads.make_inputs(case)
    judge = accuracy.Judge(case, inputs)
    arms: dict[str, Arm] = {}
    fit: list[Backend] = []
    for backend in backends:
        reason = unfit(backend, case)
        if reason:
            entry["results"][backend.name] = {"skipped": reason}
            continue
        try:
            entry["results"][backend.name] = {"accuracy": judge(backend)}
            arms[backend.name] = Arm(workloads.make_call(case, backend, inputs), backend.synchronize)
        except (MemoryError, RuntimeError, NotImplementedError, TypeError, ValueError) as error:
            # Somebody else's backend may not take this op or dtype: that is its result, and harms nobody else's.
            entry["results"][backend.name] = {"skipped": f"{type(error).__name__}: {error}"}
            continue
        fit.append(backend)
    limits_of = ceilings(case, fit, threads) if case.bound == "memory" else {}
    limits = {f"limit {home}": ceiling.arm for home, ceiling in limits_of.items()}
    timings = interleave({**arms, **limits}, seconds)
    for home, limit in limits_of.items():
        entry["ceilings"][home] = _limit_record(case, limit, timings[f"limit {home}"])
    for backend in fit:
        limited = entry["ceilings"].get(_home(backend))
        entry["results"][backend.name].update(_result(case, timings[backend.name], limited))


def _home(backend: Backend) -> str:
    """Whose memory a backend computes in."""
    return "cpu" if backend.availability().kind == "cpu" else backend.name


def ceilings(case: Case, backends: list[Backend], threads: int | None) -> dict[str, Ceiling]:
    """The limits that apply, by whose memory it is."""
    traffic = case.traffic
    found: dict[str, Ceiling] = {}
    for backend in backends:
        home = _home(backend)
        if home == "cpu" and home not in found:
            nbytes = traffic.total if case.ceiling == "read" else traffic.total // 2
            found[home] = ceiling(case.ceiling, nbytes, threads)
        elif home not in found:
            found[home] = device_ceiling(backend, case.ceiling, traffic.total // 2)
    return found


def _limit_record(case: Case, limit: Ceiling, timing: Timing) -> CeilingRecord:
    speed = limit.moved / timing.median
    return {
        "operation": limit.operation,
        "method": limit.method,
        "bandwidth": speed,
        "median": timing.median,
        "quartiles": timing.quartiles,
        "moved": limit.moved,
        "floor_seconds": case.traffic.total / speed,
    }


def _result(case: Case, timing: Timing, limit: CeilingRecord | None) -> Result:
    speed = case.traffic.total / timing.median
    fraction = speed / limit["bandwidth"] if limit else None
    return {
        "first": timing.first,
        "median": timing.median,
        "quartiles": timing.quartiles,
        "minimum": timing.minimum,
        "samples": len(timing.samples),
        "number": timing.number,
        "cores": timing.cores,
        "bandwidth": speed,
        "fraction": fraction,
        "impossible": fraction is not None and fraction > 1.0,
    }


def _remarks(record: Record) -> list[str]:
    """What a reader must know before believing the figures."""
    remarks = []
    impossible = [
        f"{name} on {case['name']} ({result['fraction']:.0%})"
        for case in record["cases"]
        for name, result in case["results"].items()
        if result.get("impossible") and result["fraction"] is not None
    ]
    if impossible:
        remarks.append(
            "above the measured limit, which is impossible, so not believed and not recommended: "
            + ", ".join(impossible)
        )
    return remarks


# -- surroundings --------------------------------------------------------------------------------------


@contextlib.contextmanager
def _compilation_cache() -> Iterator[str]:
    """An empty folder for compiled code: first calls are honest, and the measuring itself reuses what they left."""
    with (
        tempfile.TemporaryDirectory(prefix="softbench-", ignore_cleanup_errors=True) as folder,
        _environment({"NUMBA_CACHE_DIR": folder}),
    ):
        yield folder


@contextlib.contextmanager
def _thread_limit(threads: int | None) -> Iterator[None]:
    """Ask every library for this many threads: by environment (before it is imported), affinity and pool limits."""
    if threads is None:
        yield
        return
    asked = {name: str(threads) for name in machine.THREAD_VARIABLES if name.endswith("NUM_THREADS")}
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_setaffinity") else None
    with contextlib.ExitStack() as stack:
        stack.enter_context(_environment(asked))
        if allowed is not None:
            os.sched_setaffinity(0, sorted(allowed)[:threads])
            stack.callback(os.sched_setaffinity, 0, allowed)
        with contextlib.suppress(ImportError):
            from threadpoolctl import threadpool_limits

            stack.enter_context(threadpool_limits(threads))
        yield


@contextlib.contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Environment variables set inside the block, as they were before after it."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
