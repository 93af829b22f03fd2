"""Judging a backend: every case of a profile, and the report that comes of it.

`run` judges in this process, where a debugger reaches the backend. What is not to be trusted that far is judged in a
process of its own: `softbench.conformance.apart`.
"""

from __future__ import annotations

import fnmatch
import time
import warnings
from collections.abc import Callable, Collection, Iterable
from typing import Any, Final

import numpy as np

from softbench.conformance import contract
from softbench.conformance.backend_under_test import BackendUnderTest, under_test
from softbench.conformance.case import Case, is_installed
from softbench.conformance.declarations import problems
from softbench.conformance.failures import Failure, NotApplicable, crash
from softbench.conformance.profiles import PROFILES, Profile
from softbench.conformance.verdicts import Report, Result
from softbench.errors import NotProvidedError
from softbench.front.backend import Backend
from softbench.interface import RowBackend

__all__ = [
    "CheckFailed",
    "check_function",
    "decide",
    "judge_case",
    "judge_declarations",
    "matches",
    "run",
    "selected",
    "skip_reason",
    "stale_deviations",
]

_TOLD: Final = 5
"""Failures of a function that are told in full."""

_HINTS: Final = {
    "ml_dtypes": "ml_dtypes is not installed (pip install ml_dtypes)",
    "pandas": "pandas is not installed (pip install pandas)",
    "hypothesis": 'hypothesis is not installed (pip install "softbench[kit]")',
}


def run(
    backend: str | Backend | RowBackend | type[RowBackend] | Any,
    profile: Profile = "standard",
    progress: Callable[[int, int, Result], None] | None = None,
    *,
    select: Iterable[str] | None = None,
) -> Report:
    """Judge a backend by the contract, in this process.

    Parameters
    ----------
    backend : str, Backend, RowBackend or object
        A name, ``"module:Class"``, a `softbench.front.backend.Backend`, a `softbench.interface.RowBackend` (class or
        instance), or any object with the public functions as methods.
    profile : {"quick", "standard", "deep"}, default "standard"
        ``"quick"`` (seconds), ``"standard"``, or ``"deep"`` (minutes: every sweep in full).
    progress : callable, optional
        Called after each case with the number judged, the number to judge, and the `Result`.
    select : iterable of str, optional
        Patterns of case ids (`fnmatch`, or the id of a row). By default all.

    Returns
    -------
    Report
        A case that raises anything is a failed case. Ctrl-C ends the run, and the report holds what was judged
        (``report.interrupted``).

    Raises
    ------
    UnknownBackendError, BackendUnavailableError
        See `softbench.get_backend`; and for ``module:Class`` `softbench.loading.load`.
    ValueError
        An unknown profile, or a pattern of ``select`` that matches no case.

    Examples
    --------
    >>> from softbench.conformance import run
    >>> run("numpy", "quick", select=["argmax-ties"]).ok
    True
    """
    chosen = selected(profile, select)
    found = under_test(backend, profile)
    info = found.be.info() if hasattr(found.be, "info") else {}
    report = Report(found.name, found.kind, found.cost, profile, info)
    report.results += judge_declarations(found)
    start = time.perf_counter()
    try:
        for done, case in enumerate(chosen, 1):
            report.results.append(judge_case(found, case))
            if progress is not None:
                progress(done, len(chosen), report.results[-1])
        whole = is_whole(select, profile, found.few_shapes)
        report.results += stale_deviations(found.deviations, report.results, whole=whole)
    except KeyboardInterrupt:
        report.interrupted = True
    report.seconds = time.perf_counter() - start
    report.errors = found.errors()
    return report


class CheckFailed(AssertionError):
    """A function is not right; ``report`` has everything."""

    def __init__(self, report: Report) -> None:
        self.report = report
        failed = report.of("failed")
        lines = [f"{report.backend}: {len(failed)} cases failed, {len(report.of('passed'))} passed"]
        lines += [f"  {result.id}: {result.message}" for result in failed[:_TOLD]]
        lines += [f"  and {len(failed) - _TOLD} more"] if len(failed) > _TOLD else []
        lines += [] if failed else ["  nothing could be asked of it, and no verdict is no success"]
        super().__init__("\n".join(lines))


def check_function(
    function: Callable[..., Any],
    op: str,
    *,
    profile: Profile = "standard",
    library: str | None = None,
    dtypes: Collection[str] | None = None,
    select: Iterable[str] | None = None,
) -> Report:
    """Judge one function by the contract, in this process: for a test of yours.

    >>> import numpy as np
    >>> from softbench.conformance import check_function
    >>> def argmax(x):
    ...     return np.argmax(x, axis=1)
    >>> check_function(argmax, op="argmax", profile="quick").ok
    True

    Parameters
    ----------
    function, op, library, dtypes
        As `softbench.functions.backend_of` takes them: a function of 2-d arrays of NumPy, PyTorch, JAX or CuPy, and
        what it computes (``"softmax"``, ``"log_softmax"``, ``"logsumexp"``, ``"loss"``, ``"gradient"``, ...).
    profile, select
        As `run` takes them.

    Returns
    -------
    Report
        Of what was asked; what the function does not have (other functions, weights, smoothing) is skipped.

    Raises
    ------
    CheckFailed
        (an AssertionError) A case failed; the message has the first ones, its ``report`` all.
    TypeError, ValueError
        The function cannot be called so: see `softbench.functions.backend_of`.
    """
    from softbench.functions import backend_of

    report = run(backend_of(function, op, library=library, dtypes=dtypes), profile, select=select)
    if not report.ok:
        raise CheckFailed(report)
    return report


def selected(profile: Profile, select: Iterable[str] | None = None) -> list[Case]:
    """The cases of a profile that match one of the patterns; ValueError for a pattern that matches none."""
    if profile not in PROFILES:
        raise ValueError(f"profile is {profile!r}, expected one of {', '.join(map(repr, PROFILES))}")
    cases = contract.cases(profile)
    if select is None:
        return cases
    patterns = list(select)
    idle = [pattern for pattern in patterns if not any(matches(pattern, case.id) for case in cases)]
    if idle:  # misspelt, perhaps: a reader would believe it judged
        raise ValueError(f"no case of profile {profile!r} matches {', '.join(map(repr, idle))}")
    if not patterns:
        raise ValueError("select is empty, expected patterns of case ids, or None for all cases")
    return [case for case in cases if any(matches(pattern, case.id) for pattern in patterns)]


def judge_case(backend: BackendUnderTest, case: Case) -> Result:
    """The verdict on one case, declared deviations taken into account."""
    reason = skip_reason(backend, case)
    if reason:
        return Result(case.id, "skipped", reason)
    declared = [(key, why) for key, why in backend.deviations.items() if matches(key, case.id)]
    start = time.perf_counter()
    try:
        decide(backend, case)
    except NotApplicable as error:
        return Result(case.id, "skipped", str(error), time.perf_counter() - start)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a crash in a case is a failure of that case, and so is sys.exit
        lacking = error if isinstance(error, NotProvidedError) else error.__context__
        if isinstance(lacking, NotProvidedError) and backend.may_lack(case.requirement):
            return Result(case.id, "skipped", str(lacking), time.perf_counter() - start)
        message = str(error) if isinstance(error, Failure) else crash(error)
        seconds = time.perf_counter() - start
        if declared:
            return Result(case.id, "deviation", f"{declared[0][1]} [{message}]", seconds)
        return Result(case.id, "failed", message, seconds)
    seconds = time.perf_counter() - start
    for key, why in declared:
        if "/" in key:  # a declaration by row is held to its row as a whole
            return Result(case.id, "failed", f"declared deviation {key!r} ({why}) no longer occurs", seconds)
    return Result(case.id, "passed", "", seconds)


def decide(backend: BackendUnderTest, case: Case) -> None:
    """Run a case: it raises unless the backend passes."""
    backend.case = case.id
    with warnings.catch_warnings(), np.errstate():
        warnings.simplefilter("ignore")  # that none leaks is a case of its own
        case.check(backend)


def skip_reason(backend: BackendUnderTest, case: Case) -> str:
    """Why a case cannot be asked of this backend here, or ''."""
    if "host" in case.needs and not backend.host:
        return "concerns arrays in host memory"
    for module in sorted(case.needs - {"host"}):
        if not is_installed(module):
            return _HINTS.get(module, f"{module} is not installed")
    if case.max_k > backend.max_k:
        return f"takes {case.max_k} classes, more than a backend of cost {backend.cost!r} is asked for"
    if backend.few_shapes and case.id not in contract.sample(backend.profile):
        return f"each shape is compiled anew: the {backend.profile} profile asks a few cases of each row"
    return ""


def judge_declarations(backend: BackendUnderTest) -> list[Result]:
    """Failures of what the backend declares in attributes that the kit does not read."""
    return [Result(f"declarations/{name}", "failed", problem) for name, problem in problems(backend.rows)]


def is_whole(select: object, profile: Profile, few_shapes: bool) -> bool:
    """Whether a run asks everything, so that a declared deviation that does not occur is stale."""
    return select is None and profile != "quick" and not few_shapes


def stale_deviations(deviations: dict[str, str], results: list[Result], whole: bool) -> list[Result]:
    """Failures of declared deviations that nothing answers to (only known once everything has run)."""
    stale = []
    known = {case.id for case in contract.all_cases()}
    for key, why in deviations.items():
        if not any(matches(key, name) for name in known):
            problem = f"declared deviation {key!r} is no row or case of the kit"
            stale.append(Result(f"deviations/{key}", "failed", problem))
        elif whole and not any(matches(key, r.id) and r.status in ("deviation", "failed") for r in results):
            problem = f"declared deviation {key!r} ({why}) no longer occurs"
            stale.append(Result(f"deviations/{key}", "failed", problem))
    return stale


def matches(pattern: str, case_id: str) -> bool:
    """Whether a pattern of `run`'s ``select``, or the key of a declared deviation, means this case."""
    return fnmatch.fnmatchcase(case_id, pattern if "/" in pattern else f"{pattern}/*")
