"""The program of a process that measures one backend, or the machine: `softbench.measure.remote` starts and asks it.

``python -m softbench.measure.worker QUESTIONS ANSWERS`` reads a question a line from one file descriptor, and writes
an answer to another, all JSON. What a backend prints goes to standard output and standard error, which carry
nothing of ours. A backend's exception, an exit included, is an answer; a crash is for the parent to notice.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TextIO

import numpy as np

from softbench import machine
from softbench.errors import BackendUnavailableError, UnknownBackendError
from softbench.interface.dtypes import row_dtype
from softbench.measure import spot_check
from softbench.measure.changing_logits import ChangingCandidate, StaleResultError
from softbench.measure.inputs import Inputs, keep_digits, make_call, make_inputs
from softbench.measure.timing import Candidate
from softbench.measure.workloads import OPS, Workload

__all__ = ["main"]

_MESSAGE: Final = 400
_LONG: Final = 0.02  # seconds of a copy beyond which it is not repeated


class Worker:
    """What a process can be asked: every public method is a question, its arguments and result are JSON."""

    def __init__(self) -> None:
        self.candidates: dict[str, Candidate] = {}
        self.inputs: Inputs | None = None
        self.workload: Workload | None = None
        self.backend: Any = None
        self.plan: list[tuple[str, Callable[[], bool]]] = []

    # -- the backend -------------------------------------------------------------------------------------------

    def availability(self, name: str) -> dict[str, Any]:
        """Whether the backend of a name, or of ``module:attribute``, can run here."""
        from softbench.loading import load
        from softbench.registry import availability

        state = load(name).availability() if ":" in name else availability(name)
        return {"ok": state.ok, "kind": state.kind, "reason": state.reason, "install": state.install}

    def open(self, name: str) -> dict[str, Any]:
        """Make the backend; what it says of itself, and of what it can do."""
        from softbench.loading import load
        from softbench.registry import get_backend

        self.backend = load(name) if ":" in name else get_backend(name)
        rows = self.backend.rows
        kind = self.backend.availability().kind
        return {"kind": kind, "cost": rows.cost, "provides": sorted(getattr(rows, "provides", OPS))}

    def describe(self) -> dict[str, Any]:
        """What the backend says of itself, and the threads of the libraries that are loaded by now."""
        return {"info": dict(self.backend.info()), "threads": machine.threads()}

    # -- before the first result -------------------------------------------------------------------------------

    def imported(self, name: str) -> float:
        """Seconds of making the backend and one trivial call, which makes it load its library."""
        start = time.perf_counter()
        self.open(name)
        backend = self.backend
        if "argmax" in getattr(backend.rows, "provides", OPS):
            backend.to_numpy(backend.argmax(backend.asarray(np.zeros((1, 2), np.float32))))
        return time.perf_counter() - start

    def first_call(self, workload: dict[str, Any]) -> float:
        """Seconds of the first call of a workload in this process, above a later call."""
        made = Workload.from_dict(workload)
        call = make_call(made, self.backend, make_inputs(made))
        times = []
        for _ in range(3):
            start = time.perf_counter()
            call()
            self.backend.synchronize()
            times.append(time.perf_counter() - start)
        return max(0.0, times[0] - min(times[1:]))

    # -- compiling ahead ---------------------------------------------------------------------------------------

    def kernels(self, name: str, ops: list[str], dtypes: list[str]) -> list[str]:
        """What a backend has to compile for these functions, and logits of these dtypes."""
        self.open(name)
        rows = self.backend.rows
        wanted = dict.fromkeys(row_dtype(dtype, rows.dtypes) for dtype in dtypes)
        self.plan = list(rows.kernels(ops, [dtype for dtype in wanted if dtype in rows.dtypes]))
        return [label for label, _ in self.plan]

    def compile(self, number: int) -> bool:
        """Compile one of `kernels`; whether later processes will find it."""
        return bool(self.plan[number][1]())

    # -- a workload --------------------------------------------------------------------------------------------

    def keep_digits(self, path: str) -> None:
        """Train the classifier whose logits are the workload ``digits``, for other processes to `load`."""
        keep_digits(Path(path))

    def load(self, workload: dict[str, Any], judged: bool = True, digits: str = "") -> dict[str, Any]:
        """Make the inputs, judge a whole call of the backend, and have it ready to be timed."""
        self.unload()
        self.workload = Workload.from_dict(workload)
        self.inputs = make_inputs(self.workload, Path(digits) if digits else None)
        accuracy = dict(spot_check.Judge(self.workload, self.inputs)(self.backend)) if judged else {}
        self.candidates["call"] = ChangingCandidate(self.workload, self.backend, self.inputs)
        return accuracy

    def unload(self) -> None:
        """Forget the workload and its arrays."""
        self.candidates.clear()
        self.inputs = self.workload = None

    def sample(self, what: str, number: int, warm: int) -> list[float]:
        """Time calls of the workload (``"call"``), or the limit (``"limit"``): wall and CPU seconds."""
        return list(self.candidates[what].sample(number, warm=warm))

    def looks(self) -> int:
        """How many timed results were looked at."""
        candidate = self.candidates.get("call")
        return candidate.looks if isinstance(candidate, ChangingCandidate) else 0

    def costs(self) -> dict[str, Any]:
        """What a call costs besides its time: memory at the peak, and the way of the arrays there and back."""
        call, results = self.candidates["call"].call, []
        peak = machine.peak_memory_of(lambda: results.append(call()))  # it has been called before, to be timed
        self.backend.synchronize()
        return {"peak": peak.total, "call": peak.call} | self._copies(results[0])

    def _copies(self, result: Any) -> dict[str, float]:
        backend, inputs = self.backend, self.inputs
        assert inputs is not None

        def there() -> Any:
            arrays = [backend.asarray(array) for array in inputs if array is not None]
            backend.synchronize()
            return arrays

        results = result if isinstance(result, tuple) else (result,)
        return {"to_backend": _fastest(there), "from_backend": _fastest(lambda: [backend.to_numpy(r) for r in results])}

    # -- limits ------------------------------------------------------------------------------------------------

    def host_limit(self, workload: dict[str, Any], threads: int | None) -> dict[str, Any]:
        """Have the best way to move a workload's bytes within the host's memory ready to be timed."""
        from softbench.measure.ceiling import host_limit

        return self._limit(host_limit(Workload.from_dict(workload), threads))

    def device_limit(self, workload: dict[str, Any]) -> dict[str, Any]:
        """The same within the memory of the backend's device."""
        from softbench.measure.ceiling import limit_of

        return self._limit(limit_of(Workload.from_dict(workload), self.backend))

    def _limit(self, found: Any) -> dict[str, Any]:
        self.candidates["limit"] = found.candidate
        return {"method": found.method, "moved": found.moved, "operation": found.operation}


def _fastest(action: Callable[[], Any]) -> float:
    """Seconds of the fastest of three calls; of one, where it takes long enough to be timed by itself."""
    best = math.inf
    for _ in range(3):
        start = time.perf_counter()
        action()
        best = min(best, time.perf_counter() - start)
        if best > _LONG:
            break
    return best


def _reason(error: BaseException) -> str:
    """An exception in one line; of our own the text says it all."""
    text = " ".join(str(error).split())
    if isinstance(error, (BackendUnavailableError, UnknownBackendError, StaleResultError)):
        return text[:_MESSAGE]
    name = type(error).__name__
    return (f"{name}: {text}" if text else name)[:_MESSAGE]


def main(questions: TextIO, answers: TextIO) -> None:
    """Answer until the questions end."""

    def write(message: dict[str, Any]) -> None:
        answers.write(json.dumps(message, default=str) + "\n")
        answers.flush()

    worker = Worker()
    for line in questions:
        question = json.loads(line)
        try:
            answer = getattr(worker, question.pop("ask"))(**question)
        except BaseException as error:  # an exit in somebody else's code is an answer too
            write({"error": _reason(error), "kind": type(error).__name__})
        else:
            write({"answer": answer})


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is for the parent, which ends this process
    warnings.simplefilter("ignore")
    fds = [int(argument) for argument in sys.argv[1:]]
    for fd in fds:
        os.set_inheritable(fd, False)  # what a backend starts has no business with them
    with open(fds[0], encoding="utf-8") as questions, open(fds[1], "w", encoding="utf-8") as answers:
        main(questions, answers)
