"""Judging a backend: every case of a profile, and the report that comes of it."""

from __future__ import annotations

import fnmatch
import importlib.util
import time
import traceback
import warnings
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

import softbench
from softbench.conformance import contract
from softbench.conformance.backend_under_test import BackendUnderTest
from softbench.conformance.case import PROFILES, Case, Profile
from softbench.conformance.failures import Failure, NotApplicable
from softbench.front.backend import Backend
from softbench.interface import RowBackend
from softbench.loading import load
from softbench.registry import get_backend

__all__ = ["Report", "Result", "Status", "judge_case", "matches", "run", "skip_reason", "under_test"]

Status = Literal["passed", "failed", "skipped", "deviation"]

_HINTS: Final = {
    "ml_dtypes": "ml_dtypes is not installed (pip install ml_dtypes)",
    "pandas": "pandas is not installed (pip install pandas)",
}


@dataclass(frozen=True, slots=True)
class Result:
    """The verdict on one case."""

    id: str
    status: Status
    message: str = ""
    """Why it failed, was skipped, or what deviation is declared."""
    seconds: float = 0.0


@dataclass
class Report:
    """What a run of the kit found. `to_dict` makes it JSON."""

    backend: str
    kind: str
    cost: str
    profile: str
    info: dict[str, object]
    results: list[Result] = field(default_factory=list)
    errors: list[dict[str, Any]] = field(default_factory=list)
    """Largest error in ulp by function and dtype: ``function, dtype, max, gate, input, case``."""
    seconds: float = 0.0
    interrupted: bool = False
    softbench: str = softbench.__version__

    def of(self, status: Status) -> list[Result]:
        """The results of one status."""
        return [result for result in self.results if result.status == status]

    @property
    def ok(self) -> bool:
        """Nothing failed and nothing was left out by an interruption."""
        return not self.interrupted and not self.of("failed")

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists, strings and numbers, with a summary first."""
        counts = {status: len(self.of(status)) for status in ("passed", "failed", "skipped", "deviation")}
        return {"backend": self.backend, "ok": self.ok, "counts": counts, **asdict(self)}


def run(
    backend: str | Backend | RowBackend | type[RowBackend] | Any,
    profile: Profile = "standard",
    progress: Callable[[int, int, Result], None] | None = None,
    *,
    select: Iterable[str] | None = None,
) -> Report:
    """Judge a backend by the contract.

    Parameters
    ----------
    backend
        A name, ``"module:Class"``, a `softbench.front.backend.Backend`, a `softbench.interface.RowBackend` (class or
        instance), or any object with the public functions as methods.
    profile
        ``"quick"`` (seconds), ``"standard"``, or ``"deep"`` (minutes: every sweep in full).
    progress
        Called after each case with the number judged, the number to judge, and the `Result`.
    select
        Patterns of case ids (`fnmatch`, or the id of a row); None: all.

    Returns
    -------
    Report
        A case that raises anything is a failed case. Ctrl-C ends the run, and the report holds what was judged
        (``report.interrupted``).

    Raises
    ------
    UnknownBackendError, BackendUnavailableError
        See `softbench.get_backend`; and for ``module:Class`` `softbench.conformance.backend_under_test.load`.
    ValueError
        An unknown profile, or a pattern of ``select`` that matches no case.
    """
    if profile not in PROFILES:
        raise ValueError(f"profile is {profile!r}, expected one of {', '.join(map(repr, PROFILES))}")
    subject = under_test(backend, profile)
    chosen = contract.cases(profile)
    if select is not None:
        patterns = list(select)
        idle = [pattern for pattern in patterns if not any(matches(pattern, case.id) for case in chosen)]
        if idle:  # misspelt, perhaps: whoever asks would believe it judged
            raise ValueError(f"no case of profile {profile!r} matches {', '.join(map(repr, idle))}")
        if not patterns:
            raise ValueError("select is empty, expected patterns of case ids, or None for all cases")
        chosen = [case for case in chosen if any(matches(pattern, case.id) for pattern in patterns)]
    info = subject.be.info() if hasattr(subject.be, "info") else {}
    report = Report(subject.name, subject.kind, subject.cost, profile, info)
    start = time.perf_counter()
    try:
        for done, case in enumerate(chosen, 1):
            report.results.append(judge_case(subject, case))
            if progress is not None:
                progress(done, len(chosen), report.results[-1])
        report.results += _deviations(subject, report.results, whole=select is None and profile != "quick")
    except KeyboardInterrupt:
        report.interrupted = True
    report.seconds = time.perf_counter() - start
    report.errors = subject.errors()
    return report


def under_test(backend: Any, profile: Profile = "standard") -> BackendUnderTest:
    """The `BackendUnderTest` for whatever `run` takes."""
    if isinstance(backend, str):
        name = backend
        backend = load(backend) if ":" in backend else get_backend(backend)
        return BackendUnderTest(backend, name=name if ":" in name else None, profile=profile)
    from softbench.loading import build

    return BackendUnderTest(build(backend, repr(backend)), profile=profile)


def judge_case(subject: BackendUnderTest, case: Case) -> Result:
    """The verdict on one case, declared deviations taken into account."""
    reason = skip_reason(subject, case)
    if reason:
        return Result(case.id, "skipped", reason)
    declared = [(key, why) for key, why in subject.deviations.items() if matches(key, case.id)]
    start = time.perf_counter()
    try:
        decide(subject, case)
    except NotApplicable as error:
        return Result(case.id, "skipped", str(error), time.perf_counter() - start)
    except Exception as error:  # a crash in a case is a failure of that case
        message = str(error) if isinstance(error, Failure) else _crash(error)
        seconds = time.perf_counter() - start
        if declared:
            return Result(case.id, "deviation", f"{declared[0][1]} [{message}]", seconds)
        return Result(case.id, "failed", message, seconds)
    seconds = time.perf_counter() - start
    for key, why in declared:
        if "/" in key:  # a declaration by row is held to its row as a whole
            return Result(case.id, "failed", f"declared deviation {key!r} ({why}) no longer occurs", seconds)
    return Result(case.id, "passed", "", seconds)


def decide(subject: BackendUnderTest, case: Case) -> None:
    """Run a case: it raises unless the backend passes."""
    subject.case = case.id
    with warnings.catch_warnings(), np.errstate():
        warnings.simplefilter("ignore")  # that none leaks is a case of its own
        case.check(subject)


def skip_reason(subject: BackendUnderTest, case: Case) -> str:
    """Why a case cannot be asked of this backend here, or ''."""
    if "host" in case.needs and not subject.host:
        return "concerns arrays in host memory"
    for module in sorted(case.needs - {"host"}):
        if importlib.util.find_spec(module) is None:
            return _HINTS.get(module, f"{module} is not installed")
    if case.max_k > subject.max_k:
        return f"takes {case.max_k} classes, more than a backend of cost {subject.cost!r} is asked for"
    return ""


def _deviations(subject: BackendUnderTest, results: list[Result], whole: bool) -> list[Result]:
    """Failures of declarations that nothing answers to (only known once everything has run)."""
    stale = []
    known = {case.id for case in contract.all_cases()}
    for key, why in subject.deviations.items():
        if not any(matches(key, name) for name in known):
            stale.append(
                Result(f"deviations/{key}", "failed", f"declared deviation {key!r} is no row or case of the kit")
            )
        elif whole and not any(matches(key, r.id) and r.status in ("deviation", "failed") for r in results):
            stale.append(Result(f"deviations/{key}", "failed", f"declared deviation {key!r} ({why}) no longer occurs"))
    return stale


def matches(pattern: str, case_id: str) -> bool:
    """Whether a pattern of `run`'s ``select``, or the key of a declared deviation, means this case."""
    return fnmatch.fnmatchcase(case_id, pattern if "/" in pattern else f"{pattern}/*")


def _crash(error: Exception) -> str:
    """An exception in one line, with the last place outside the kit where it passed."""
    frames = traceback.extract_tb(error.__traceback__)
    kit = str(Path(__file__).parent)
    ours = [f for f in frames if not f.filename.startswith(kit)] or frames
    where = f" at {Path(ours[-1].filename).name}:{ours[-1].lineno} in {ours[-1].name}" if ours else ""
    return f"{type(error).__name__}: {error}{where}"
