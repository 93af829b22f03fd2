"""Every solver on every data set, each in a process of its own, into the record of a run.

A case is a data set, its results are curves: how far above the minimum after how many seconds. `Result.median` is the
time to come within `worker.WITHIN` of the minimum; who did not has none, and the reason.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, cast

import numpy as np

from softbench import machine, processes
from softbench.measure.fits.data import Data, save, select
from softbench.measure.fits.solvers import SOLVERS, Solver
from softbench.measure.fits.worker import WITHIN
from softbench.measure.progress import NullProgress, ProgressReporter
from softbench.measure.run import beginning
from softbench.measure.stability import Watch, probe, run_stability
from softbench.measure.surroundings import thread_limit
from softbench.results.record import CaseRecord, Record, Result, Whole

__all__ = ["SECONDS", "FitConfig", "run"]

SECONDS: Final = {"quick": 2.5, "standard": 6.5, "full": 90.0}
"""Of a solver on a data set, by profile: after which no longer fit is begun."""
_START_SECONDS: Final = 8.0
"""What a process may take before its time begins: it imports libraries, and reads the data."""
_COMPILE_SECONDS: Final = 150.0
"""The same of the process that finds the minimum, and compiles."""


@dataclass(frozen=True, slots=True)
class FitConfig:
    """What to run."""

    profile: str = "standard"
    """One of `SECONDS`."""
    cases: tuple[str, ...] = ()
    """Names or patterns of `softbench.measure.fits.data.DATA`; none: those of the profile."""
    solvers: tuple[str, ...] = ()
    """Only solvers whose name has one of these in it; none: all."""
    seconds: float | None = None
    """Of a solver on a data set; None: as the profile has it."""
    threads: int | None = None
    """Threads that libraries may use; None: one per usable core."""
    suite: str = "regression"

    def data(self) -> dict[str, Data]:
        """The data sets. ValueError for a pattern that matches nothing."""
        return select(self.cases, self.profile)

    def contenders(self) -> list[Solver]:
        """The solvers. ValueError if a name is of none."""
        for part in self.solvers:
            if not any(part in str(solver) for solver in SOLVERS):
                raise ValueError(f"no solver has {part!r} in its name: there are {', '.join(map(str, SOLVERS))}")
        return [s for s in SOLVERS if not self.solvers or any(part in str(s) for part in self.solvers)]


def run(config: FitConfig, progress: ProgressReporter | None = None, record: Record | None = None) -> Record:
    """Do it all. Ctrl-C ends it early, with ``complete`` False and what was measured so far.

    Parameters
    ----------
    config
        What to run.
    progress
        Told of steps.
    record
        Filled in place, for a caller who wants to look at it meanwhile.

    Returns
    -------
    Record
        Of a solver that fails or is not here with the reason.

    Raises
    ------
    ValueError
        A part of ``config`` that means nothing.
    """
    data, solvers = config.data(), config.contenders()
    progress = progress or NullProgress()
    found: Any = {} if record is None else record
    found.update(beginning("regression", asdict(config)))
    seconds = config.seconds or SECONDS[config.profile]
    began, watch, clocks = time.perf_counter(), Watch(), [probe()]
    load = machine.load_average()
    found["backends"] = {
        str(s): {"summary": "", "ok": not s.absent(), "kind": "cpu", "reason": s.absent(), "install": ""}
        for s in solvers
    }
    progress.begin([seconds + 3.0] * (len(data) * (len(solvers) + 1)))
    idle = watch.lap()
    try:
        with thread_limit(config.threads), tempfile.TemporaryDirectory(prefix="softbench-") as place:
            found["threads"] = machine.threads()
            for name, problem in data.items():
                folder = Path(place, name)
                folder.mkdir()
                _measure(name, problem, solvers, seconds, folder, found["cases"], progress)
                clocks.append(probe())
        found["complete"] = True
    except KeyboardInterrupt as stop:
        found["stopped"] = str(stop) or "interrupted"
    judged = [case["stability"] for case in found["cases"] if "stability" in case]
    found["stability"] = run_stability(idle, judged, clocks, [])
    found["stability"]["load_before"], found["stability"]["load_after"] = load, machine.load_average()
    found["seconds"] = time.perf_counter() - began
    return cast(Record, found)


def _measure(
    name: str,
    problem: Data,
    solvers: Sequence[Solver],
    seconds: float,
    folder: Path,
    cases: list[CaseRecord],
    progress: ProgressReporter,
) -> None:
    """One data set: the minimum, then one solver after the other. Each is in ``cases`` as soon as it is measured."""
    progress.step(f"{name}: data, and their minimum")
    X, y = problem.arrays()
    shape = int(X.shape[0]), int(X.shape[1]), int(y.max()) + 1
    sparse = hasattr(X, "indptr")
    floor = X.data.nbytes + X.indices.nbytes + X.indptr.nbytes if sparse else X.nbytes
    save(X, y, folder)
    dtype = X.dtype.name
    del X, y
    entry: CaseRecord = {
        "name": name, "op": "fit", "shape": list(shape), "dtype": dtype, "target": "index", "result": "new", "axis": -1,
        "bound": "call", "why": problem.why, "floor_bytes": int(floor), "ceilings": {}, "results": {},
    }  # fmt: skip
    cases.append(entry)
    watch = Watch()
    events, _ = _apart(_COMPILE_SECONDS + 4 * seconds, folder, -1)
    values = [event["objective"] for event in events]
    runs: dict[str, tuple[list[dict[str, Any]], str]] = {}
    for solver in solvers:
        progress.step(f"{name}: {solver}")
        skipped = solver.absent() or solver.unfit(sparse, shape, machine.available_memory() or np.inf, seconds)
        if skipped:
            entry["results"][str(solver)] = {"skipped": skipped}
            continue
        limit, number = _START_SECONDS + seconds, SOLVERS.index(solver)
        least = min(values, default=float("-inf"))
        runs[str(solver)] = _apart(limit, folder, number, seconds, least)
        values += [event["objective"] for event in runs[str(solver)][0] if "objective" in event]
        if problem.whole:
            # glibc keeps much of what is freed, and a second fit would seem to take little: no array is to be kept.
            runs[str(solver)][0].extend(_apart(limit, folder, number, MALLOC_MMAP_THRESHOLD_="262144")[0])
        if values:
            entry["minimum"] = min(values)
        for who, (seen, ended) in runs.items():  # anew for all: the last one may have found a lower minimum
            entry["results"][who] = _result(seen, min(values, default=0.0), problem.whole, seconds, ended)
    entry["stability"] = {"reasons": watch.lap().reasons}


def _apart(limit: float, *arguments: object, **environment: str) -> tuple[list[dict[str, Any]], str]:
    """What a worker has said, and how it ended if it did not by itself."""
    command = processes.python("-m", "softbench.measure.fits.worker", *map(str, arguments))
    done = processes.run(command, limit=limit, env=processes.environment(**environment))
    events = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if done.status is None:
        return events, "cut off"
    last = done.stderr.strip().splitlines()[-1:] if done.status else []
    return events, ": ".join([done.problem, *last]) if done.status else ""


def _result(events: Sequence[Mapping[str, Any]], minimum: float, whole: int, seconds: float, ended: str) -> Result:
    """A solver's curve, its time to `WITHIN`, and its memory."""
    fits = [event for event in events if "iterations" in event]
    result: Result = {
        "curve": [
            {
                "iterations": fit["iterations"],
                "seconds": fit["seconds"],
                "suboptimality": max(0.0, (fit["objective"] - minimum) / abs(minimum)),
            }
            for fit in sorted(fits, key=lambda fit: (fit["iterations"], fit["seconds"]))
        ]
    }
    for event in events:
        if "setting" in event:
            result["setting"] = event["setting"]
    peaks = [(fit["peak"], fit["call"]) for fit in fits if fit["peak"] is not None]
    if peaks:
        calls = [call for _, call in peaks if call is not None]
        result["costs"] = {"peak": max(peak for peak, _ in peaks), "call": max(calls, default=None)}
    at_scale = [event for event in events if "rows" in event]
    if len(at_scale) == 2 and all(event["call"] is not None for event in at_scale):
        result["costs"]["whole"] = _extrapolated(at_scale[0], at_scale[1], whole)
    near = [point for point in result["curve"] if point["suboptimality"] <= WITHIN]
    if near:
        first = min(point["iterations"] for point in near)
        samples = [point["seconds"] for point in near if point["iterations"] == first]
        low, middle, high = (float(q) for q in np.quantile(samples, (0.25, 0.5, 0.75)))
        result |= {
            "clock": "host", "median": middle, "quartiles": (low, high), "minimum": min(samples), "samples": samples,
            "number": 1, "fraction": None,
        }  # fmt: skip
        return result
    stopped = next((event["ended"] for event in events if "ended" in event), "")
    reached = f", {result['curve'][-1]['suboptimality']:.1e} above the minimum" if result["curve"] else ""
    result["failed"] = (ended or stopped or f"out of time ({seconds:g} s)") + reached
    return result


def _extrapolated(all_rows: Mapping[str, Any], half: Mapping[str, Any], whole: int) -> Whole:
    """Bytes for the features, and for a fit besides, of ``whole`` rows: a straight line through the two measured."""
    slope = max(0.0, (all_rows["call"] - half["call"]) / (all_rows["rows"] - half["rows"]))
    return {
        "rows": whole,
        "features": int(all_rows["bytes"] / all_rows["rows"] * whole),
        "call": int(all_rows["call"] + slope * (whole - all_rows["rows"])),
    }
