"""The process in which `softbench.conformance.apart` has a backend judged: ``python -m softbench.conformance.worker``.

Lines on one pipe say which case to judge next; lines of JSON on another answer. What the backend prints goes to
neither. The other end of both pipes watches: a case without an answer is a failed case.
"""

from __future__ import annotations

import faulthandler
import gc
import json
import math
import os
import sys
import time
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

_TRACEBACK_AT: Final = 0.9
"""Share of the time for a case after which a stuck one says where it is stuck."""
_SOONER: Final = 0.1
"""By how much of that time it may say so sooner: the watch is a thread, and one for every case takes longer than many
of them do."""


def main(source: str, profile: str, timeout: str, tasks: str, answers: str) -> None:
    """Load the backend, then judge the cases whose numbers come on the file descriptor ``tasks``, until it ends."""
    faulthandler.enable()
    seconds = float(timeout)
    with os.fdopen(int(tasks)) as tasks_in, os.fdopen(int(answers), "w") as replies:
        backend = _loaded(Source.from_json(source), profile, replies)
        if backend is not None:
            backend.patience = min(backend.patience, seconds / 2)
            cases = contract.all_cases()
            watched_since = -math.inf
            for line in tasks_in:
                if time.monotonic() - watched_since > seconds * _SOONER:
                    faulthandler.dump_traceback_later(seconds * _TRACEBACK_AT)
                    watched_since = time.monotonic()
                result = _judged(backend, cases[int(line)])
                worst, backend.worst_since = backend.worst_since, {}
                _reply(replies, result=asdict(result), worst=[[*key, asdict(error)] for key, error in worst.items()])
        sys.stdout.flush()
    os._exit(0)  # threads and exit handlers of the backend are nobody's business any more


def _loaded(source: Source, profile: Any, replies: IO[str]) -> BackendUnderTest | None:
    """The backend, introduced to the other end; or None, after saying why there is none."""
    try:
        backend = under_test(source, profile)
        info = backend.be.info() if hasattr(backend.be, "info") else {}
    except (BackendUnavailableError, UnknownBackendError) as error:
        _reply(replies, error=type(error).__name__, message=str(error))
        return None
    except BaseException as error:  # somebody else's code
        _reply(replies, error="", message=crash(error))
        return None
    gc.freeze()  # what has been imported stays, and need not be looked through again and again
    if backend.host and hasattr(os, "fork"):
        backend.nursery = Nursery(backend)
    declarations = [asdict(result) for result in judge_declarations(backend)]
    about = {name: getattr(backend, name) for name in ("name", "kind", "cost", "deviations", "few_shapes")}
    _reply(replies, **about, info=info, declarations=declarations)
    return backend


def _judged(backend: BackendUnderTest, case: Any) -> Result:
    try:
        return judge_case(backend, case)
    except KeyboardInterrupt:  # of the backend's own making: nobody at a terminal can mean this process
        return Result(case.id, "failed", "raises KeyboardInterrupt")


def _reply(replies: IO[str], **message: Any) -> None:
    replies.write(json.dumps(message, default=str) + "\n")
    replies.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
