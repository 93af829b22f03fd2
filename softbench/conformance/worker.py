"""The process in which `softbench.conformance.apart` has a backend judged: ``python -m softbench.conformance.worker``.

It is told by lines on one pipe which case to judge next, and answers in lines of JSON on another. What the backend
prints goes to neither. The other end of both pipes watches: a case without an answer is a failed case.
"""

from __future__ import annotations

import faulthandler
import json
import os
import sys
from dataclasses import asdict
from typing import IO, Any, Final

from softbench.conformance import contract
from softbench.conformance.backend_under_test import BackendUnderTest, under_test
from softbench.conformance.failures import crash
from softbench.conformance.fresh import Nursery
from softbench.conformance.runner import judge_case, judge_declarations
from softbench.conformance.verdicts import Result
from softbench.errors import BackendUnavailableError, UnknownBackendError
from softbench.loading import Source

__all__ = ["main"]

_TOLD_BEFORE: Final = 0.9
"""Share of the time for a case after which a stuck one says where it is stuck."""


def main(source: str, profile: str, timeout: str, tasks: str, answers: str) -> None:
    """Load the backend, then judge the cases whose numbers come on the file descriptor ``tasks``, until it ends."""
    faulthandler.enable()
    seconds = float(timeout)
    with os.fdopen(int(tasks)) as asked, os.fdopen(int(answers), "w") as told:
        backend = _loaded(_source(source), profile, told)
        if backend is not None:
            backend.patience = min(backend.patience, seconds / 2)
            cases = contract.all_cases()
            for line in asked:
                faulthandler.dump_traceback_later(seconds * _TOLD_BEFORE)
                result = _judged(backend, cases[int(line)])
                faulthandler.cancel_dump_traceback_later()
                worst, backend.worst_since = backend.worst_since, {}
                _say(told, result=asdict(result), worst=[[*key, asdict(error)] for key, error in worst.items()])
        sys.stdout.flush()
    os._exit(0)  # threads and exit handlers of the backend are nobody's business any more


def _source(text: str) -> Source:
    found = json.loads(text)
    return Source(**{**found, "dtypes": tuple(found["dtypes"])})


def _loaded(source: Source, profile: Any, told: IO[str]) -> BackendUnderTest | None:
    """The backend, introduced to the other end; or None, after saying why there is none."""
    try:
        backend = under_test(source, profile)
        info = backend.be.info() if hasattr(backend.be, "info") else {}
    except (BackendUnavailableError, UnknownBackendError) as error:
        _say(told, error=type(error).__name__, message=str(error))
        return None
    except BaseException as error:  # somebody else's code
        _say(told, error="", message=crash(error))
        return None
    if backend.host and hasattr(os, "fork"):
        backend.nursery = Nursery(backend)
    declarations = [asdict(result) for result in judge_declarations(backend)]
    about = {name: getattr(backend, name) for name in ("name", "kind", "cost", "deviations")}
    _say(told, **about, info=info, declarations=declarations)
    return backend


def _judged(backend: BackendUnderTest, case: Any) -> Result:
    try:
        return judge_case(backend, case)
    except KeyboardInterrupt:  # of the backend's own making: nobody at a terminal can mean this process
        return Result(case.id, "failed", "raises KeyboardInterrupt")


def _say(told: IO[str], **message: Any) -> None:
    told.write(json.dumps(message, default=str) + "\n")
    told.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
