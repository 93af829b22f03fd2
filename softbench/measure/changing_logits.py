"""A backend on a workload whose logits change between the calls that are timed, and whose timed results are looked at.

What is timed over and over on the same array can be answered from memory: by the array's address, or by its first and
last row. So one logit in the middle of the array is another before every sample (before every call, where a call takes
long enough), and after the sample the row that it is in must have the result that belongs to it. How accurate results
are is judged elsewhere (`softbench.measure.spot_check`); here it is whether they are results of these inputs at all.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from softbench.front.backend import Backend
from softbench.interface.dtypes import numpy_dtype
from softbench.measure.inputs import Inputs, make_call, own_logits
from softbench.measure.timing import Candidate, Sample
from softbench.measure.workloads import Workload

__all__ = ["ChangingCandidate", "ChangingLogits", "StaleResultError"]

Array = np.ndarray[Any, Any]
Place = tuple[Any, ...]

EACH_CALL: Final = 40
"""Up to so many calls per sample the logits change before every single one. (They take 50 us each, or more.)"""
HEIGHT: Final = 3.0
"""The changed logit exceeds the others of its row by that: then it has most of the probability."""
LOSS_HEIGHT: Final = 30.0
"""The same where all that comes back is a mean over the rows, in which one row must be seen."""
TOLERANCE: Final = {"float64": 1e-9, "float32": 1e-3, "float16": 0.05, "bfloat16": 0.2}
"""Relative, of results that belong to the changed row: far looser than any gate, far closer than another row's."""
SHARE: Final = 0.05
"""Of the time of the samples, what looking at results may take, after the first `FIRST_LOOKS`."""
FIRST_LOOKS: Final = 3


class StaleResultError(Exception):
    """A timed call returned what does not belong to its inputs."""


class ChangingLogits:
    """The logits of a workload on a backend, one of which can be changed.

    The inputs are taken over: on the host their array is changed in place. On a device a row is written, or, where
    arrays cannot be written (JAX's), the whole is uploaded anew.
    """

    def __init__(self, workload: Workload, backend: Backend, inputs: Inputs) -> None:
        self.workload = workload
        self.backend = backend
        self.target = inputs.target
        self.host = inputs.logits
        """The logits as they are now."""
        self.array = own_logits(workload, backend, inputs)
        on_host = isinstance(self.array, np.ndarray)
        if on_host and workload.result == "in place":
            self.host = self.array  # calls overwrite it
        self.shared = on_host and np.shares_memory(self.array, self.host)
        self._axis = workload.axis % len(workload.shape)
        self._random = np.random.default_rng()  # of no seed: nobody can know which row it will be
        self.outer: tuple[int, ...] = ()
        """Where the changed row is among the rows."""
        self.class_: int = -1
        """Which logit of the row was changed; -1 before the first change."""
        self.row: Array = np.zeros(0)
        """The changed row, float64."""
        self.original: Array = np.zeros(0)
        """The same before the change."""

    def place(self, outer: tuple[int, ...], k: Any = slice(None)) -> Place:
        """Index of a row of the logits, or of one logit of it."""
        return (*outer[: self._axis], k, *outer[self._axis :])

    def change(self) -> bool:
        """Change one logit, and the one changed before back; whether `array` is another object now."""
        old, new = self.outer, self._choose()
        if self.class_ >= 0 and self.workload.result != "in place":
            self.host[self.place(old)] = self.original
        self.outer = new
        here = self.place(new)
        before = self.host[here].copy()
        self.original = before
        self.class_ = self._column(new, before)
        self.host[self.place(new, self.class_)] = self._value(before)
        self.row = self.host[here].astype(np.float64)
        return not self.shared and self._upload({old, new} if len(old) == len(new) else {new})

    def _choose(self) -> tuple[int, ...]:
        """A row that is neither the first nor the last."""
        n = self.workload.rows
        row = int(self._random.integers(1, n - 1)) if n > 2 else int(self._random.integers(n))
        return tuple(int(i) for i in np.unravel_index(row, self.workload.outer)) if self.workload.outer else ()

    def _column(self, outer: tuple[int, ...], row: Array) -> int:
        """Which logit of the row: one in its middle; of probabilities one that the loss depends on."""
        k = len(row)
        if self.workload.op == "log_loss" and self.target is not None:
            soft = self.workload.target == "soft"
            return int(np.argmax(self.target[self.place(outer)]) if soft else self.target[outer])
        return int(self._random.integers(1, k - 1)) if k > 2 else k - 1

    def _value(self, row: Array) -> float:
        if self.workload.op == "log_loss":
            return float(row[self.class_]) / 2
        height = LOSS_HEIGHT if self.workload.op == "loss" else HEIGHT
        return float(np.max(row.astype(np.float64))) + height + float(self._random.random())

    def _upload(self, rows: set[tuple[int, ...]]) -> bool:
        """Take the change to where the backend computes; whether the whole array had to be uploaded."""
        try:
            for outer in rows:
                here = self.place(outer)
                self.array[here] = self.backend.asarray(np.ascontiguousarray(self.host[here]))
        except Exception:  # whatever a library raises whose arrays are not written, or not so
            self.array = self.backend.asarray(self.host)
            return True
        return False


class ChangingCandidate(Candidate):
    """A backend on a workload, as `softbench.measure.timing.interleave` times it.

    `sample` raises `StaleResultError` for results of other inputs, and whatever the backend raises.
    """

    def __init__(self, workload: Workload, backend: Backend, inputs: Inputs) -> None:
        self.workload = workload
        self.backend = backend
        self.logits = ChangingLogits(workload, backend, inputs)
        self._inputs = inputs
        super().__init__(self._make(), backend.synchronize)
        self.looks = 0
        """How many timed results were looked at."""
        self._looking = self._sampling = 0.0
        self._mean = None if workload.target == "none" or workload.op == "gradient" else self._loss(self.call())

    def _make(self) -> Callable[[], Any]:
        return make_call(self.workload, self.backend, self._inputs, logits=self.logits.array)

    def sample(self, number: int, *, warm: int = 0) -> Sample:
        """As `Candidate.sample`, with other logits before, and a look at the last result behind the clock.

        Freeing a result is part of a call, and timed.
        """
        for _ in range(warm):
            self.call()
        # On a device a wait after every call would be timed too: only calls that fill a sample are timed one by one.
        one_by_one = number == 1 or (self.logits.shared and number <= EACH_CALL)
        wall = cpu = 0.0
        for last in range(number) if one_by_one else (number - 1,):
            if self.logits.change():
                self.call = self._make()
            call = self.call
            self.synchronize()
            began, start = time.process_time(), time.perf_counter()
            for _ in range(0 if one_by_one else number - 1):
                call()
            result: Any = call()
            self.synchronize()
            wall += time.perf_counter() - start
            cpu += time.process_time() - began
            if last == number - 1:
                self._look(result, wall)
            start = time.perf_counter()
            del result
            wall += time.perf_counter() - start
        return Sample(wall, cpu)

    def _look(self, result: Any, wall: float) -> None:
        """Whether this is the result of the logits as they are; not every time, where looking takes long."""
        self._sampling += wall
        if self.looks >= FIRST_LOOKS and self._looking > SHARE * self._sampling:
            return
        start = time.perf_counter()
        problem = self._problem(result)
        self.looks += 1
        self._looking += time.perf_counter() - start
        if problem:
            raise StaleResultError(
                f"a timed call returned what is no result of its inputs, which had changed since the call before: "
                f"row {self.logits.outer}: {problem}"
            )

    # -- what belongs to the changed row ------------------------------------------------------------------------

    def _problem(self, result: Any) -> str:
        """What is wrong with the result of a call; empty if nothing is."""
        op, logits = self.workload.op, self.logits
        p, log_p, lse = _softmax(logits.row)
        if op == "argmax":
            return self._differs("argmax", self._fetch(result, logits.outer), np.argmax(logits.row))
        if op == "logsumexp":
            return self._differs(op, self._fetch(result, logits.outer), lse)
        if op in ("softmax", "log_softmax"):
            return self._differs(op, self._fetch(result, logits.place(logits.outer)), p if op == "softmax" else log_p)
        if op in ("loss", "log_loss"):
            return self._mean_problem(result)
        gradient = result[1] if op == "loss_and_gradient" else result
        problem = self._mean_problem(result) if op == "loss_and_gradient" else ""
        found = self._fetch(gradient, logits.place(logits.outer)).astype(np.float64) * self.workload.rows
        return problem or self._differs("gradient", found, p - self._q())

    def _q(self) -> Array:
        """The target of the changed row as a distribution, float64."""
        logits, target = self.logits, self.logits.target
        assert target is not None
        if self.workload.target == "soft":
            return target[logits.place(logits.outer)].astype(np.float64)
        q = np.zeros(self.workload.classes)
        q[target[logits.outer]] = 1.0
        return q

    def _differs(self, what: str, found: Any, wanted: Any) -> str:
        """Whether something is not what belongs to the row; half-precision zeros are tiny numbers, not wrong ones."""
        dtype = numpy_dtype(self.workload.dtype)
        least = float(np.finfo(np.float32).tiny if dtype.name == "bfloat16" else np.finfo(dtype).tiny)
        gradient = what == "gradient"  # p - q cancels at the label, and has been multiplied by the number of rows
        found, wanted = np.atleast_1d(np.asarray(found, np.float64)), np.atleast_1d(np.asarray(wanted, np.float64))
        room = TOLERANCE[self.workload.dtype] * np.maximum(np.abs(wanted), 1.0 if gradient else 0.0)
        room += 2 * least * (self.workload.rows if gradient else 1)
        if dtype.itemsize == 2 or what == "log_softmax":
            room += TOLERANCE[self.workload.dtype] * (1e-3 if what == "softmax" else 1.0)
        wrong = ~(np.abs(found - wanted) <= room)
        if not wrong.any():
            return ""
        k = int(np.argmax(wrong))
        return f"{what} is {found[k]:.6g} at class {k}, expected {wanted[k]:.6g}"

    def _mean_problem(self, result: Any) -> str:
        """Whether the mean loss has changed by what one row's loss has, where its digits suffice to tell."""
        assert self._mean is not None
        n, now = self.workload.rows, self._loss(result)
        q = self._q()
        wanted = self._row_loss(self.logits.row, q) - self._row_loss(self.logits.original.astype(np.float64), q)
        unit = 2.0 ** -{"float64": 53, "float32": 24, "float16": 11, "bfloat16": 8}[self.workload.dtype]
        room = 0.02 * abs(wanted) + 8 * unit * n * abs(now)
        changed = n * (now - self._mean)
        if room > abs(wanted) / 2 or abs(changed - wanted) <= room:
            return ""
        return f"the mean loss times {n} has changed by {changed:.6g}, expected {wanted:.6g}"

    def _row_loss(self, row: Array, q: Array) -> float:
        with np.errstate(divide="ignore", invalid="ignore"):
            log_p = np.log(row) if self.workload.op == "log_loss" else _softmax(row)[1]
        return -math.fsum((q * log_p)[q != 0])

    def _loss(self, result: Any) -> float:
        loss = result[0] if self.workload.op == "loss_and_gradient" else result
        return float(self.backend.to_numpy(loss))

    def _fetch(self, result: Any, place: Place) -> Any:
        """A row of a result, or its number."""
        if isinstance(result, np.ndarray):
            return result[place]
        if isinstance(result, np.generic):
            return result
        try:
            return self.backend.to_numpy(result[place])
        except Exception:  # whatever a library raises whose arrays are not indexed so
            return self.backend.to_numpy(result)[place]


def _softmax(row: Array) -> tuple[Array, Array, float]:
    """Probabilities, their logarithms and the logsumexp of a row, in float64."""
    shifted = row - row.max()
    p = np.exp(shifted)
    total = float(p.sum())
    return p / total, shifted - math.log(total), float(row.max()) + math.log(total)
