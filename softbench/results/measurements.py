"""What measurements say of a call that was not measured: an estimate per backend, with how far off it may be.

The time of a backend is so much for a call, for each row and for each logit, fitted to the measured shapes; those that
are near (in doublings of the number of logits and of classes) count more. How far off such an estimate is, is measured
too: every measured shape is estimated from the others.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

import numpy as np

from softbench.results.recommend import LEAST, Line, envelope, exclusion
from softbench.results.record import Record, Step

__all__ = ["Call", "Choice", "Estimate", "choose", "estimates", "start_up"]

FAR: Final = 8.0
"""Doublings from the nearest measured shape beyond which nothing is said."""
LEAST_ERROR: Final = 0.05
"""Of the logarithm of an estimate that is no measurement, at the least."""
NEAR: Final = 0.5
"""Doublings within which one shape says as much as another."""
_TERMS: Final = ([2], [0, 2], [1, 2], [0, 1, 2], [0, 1], [0], [1])
"""What may cost something: 0 the call, 1 a row, 2 a logit. The first of those that fit as well is taken."""
ERROR: Final = 0.15
"""The same per doubling, where there are too few shapes to measure it."""


class Call(NamedTuple):
    """A call whose time is asked for: ``rows`` times ``classes`` logits."""

    op: str
    dtype: str
    rows: int
    classes: int
    target: str = "none"
    result: str = "fresh"
    last: bool = True
    """Whether the classes lie along the last axis."""


class Estimate(NamedTuple):
    """Seconds per call of one backend, and between which bounds they should be."""

    backend: str
    seconds: float
    low: float
    high: float
    max_ulp: float
    """The largest error on the measured shapes that it rests on."""
    measured: str
    """The case that is this very call; empty: there is none."""
    distance: float
    """Doublings from the nearest measured shape."""


class _Point(NamedTuple):
    case: str
    rows: int
    classes: int
    seconds: float
    low: float
    high: float
    max_ulp: float

    def distance(self, rows: int, classes: int) -> float:
        here, there = rows * classes, self.rows * self.classes
        return math.hypot(math.log2(here / there), math.log2(classes / self.classes))


def estimates(record: Record, call: Call, max_ulp: float | None = None) -> list[Estimate]:
    """What each backend should take for a call, the fastest first; of those that may be recommended.

    Only what was measured with the same operation, dtype, form of target and place of the result counts; backends
    that were not are left out, and so are those whose nearest measured shape is `FAR` away.
    """
    found = []
    for name, points in _points(record, call, max_ulp).items():
        estimate = _estimate(name, points, call.rows, call.classes)
        if estimate is not None:
            found.append(estimate)
    return sorted(found, key=lambda estimate: estimate.seconds)


def _points(record: Record, call: Call, max_ulp: float | None) -> dict[str, list[_Point]]:
    points: dict[str, list[_Point]] = {}
    for case in record["cases"]:
        kind = (case["op"], case["dtype"], case["target"], case["result"], case["axis"] == -1)
        if kind != (call.op, call.dtype, call.target, call.result, call.last):
            continue
        classes = case["shape"][case["axis"]]
        rows = math.prod(case["shape"]) // classes
        for name, result in case["results"].items():
            if "median" not in result or exclusion(record["backends"].get(name), result, max_ulp):
                continue
            low, high = result.get("interval", result["quartiles"])
            error = result["accuracy"]["max_ulp"]
            points.setdefault(name, []).append(_Point(case["name"], rows, classes, result["median"], low, high, error))
    return points


def _estimate(name: str, points: Sequence[_Point], rows: int, classes: int) -> Estimate | None:
    nearest = min(points, key=lambda point: point.distance(rows, classes))
    distance, worst = nearest.distance(rows, classes), max(point.max_ulp for point in points)
    if distance == 0.0:
        return Estimate(name, nearest.seconds, nearest.low, nearest.high, nearest.max_ulp, nearest.case, 0.0)
    if distance > FAR:
        return None
    seconds = _interpolated(points, rows, classes)
    error = LEAST_ERROR + 2.0 * max(LEAST_ERROR, _error_per_doubling(points)) * distance
    return Estimate(name, seconds, seconds / math.exp(error), seconds * math.exp(error), worst, "", distance)


def _interpolated(points: Sequence[_Point], rows: int, classes: int) -> float:
    """So much for the call, for each row and for each logit, none of it negative: what fits the measured times best.

    Relative errors count, those of near shapes more: what a logit costs changes with the caches that it lies in.
    """
    shapes = np.array([(1, point.rows, point.rows * point.classes) for point in points], float)
    weights = np.array([1.0 / (point.seconds * (NEAR + point.distance(rows, classes))) for point in points])
    due = weights * [point.seconds for point in points]
    best, least = 0.0, math.inf
    for kept in _TERMS:
        costs, *_ = np.linalg.lstsq(weights[:, None] * shapes[:, kept], due, rcond=None)
        if (costs < 0.0).any():
            continue
        missed = float(np.linalg.norm(weights[:, None] * shapes[:, kept] @ costs - due))
        if missed < least - 1e-9:
            best, least = float(np.array([1, rows, rows * classes])[kept] @ costs), missed
    return best


def _error_per_doubling(points: Sequence[_Point]) -> float:
    """How far off estimates are: each measured shape from the others, per doubling of distance."""
    errors = []
    for point in points:
        others = [other for other in points if other is not point]
        if len(others) < 2:
            return ERROR
        distance = min(other.distance(point.rows, point.classes) for other in others)
        if 0.0 < distance <= FAR:
            guess = _interpolated(others, point.rows, point.classes)
            errors.append(abs(math.log(guess / point.seconds)) / distance)
    return statistics.median(errors) if errors else ERROR


class Choice(NamedTuple):
    """Which backend to take for a call."""

    backend: str
    tied: list[str]
    """Others that may be as fast."""
    estimates: list[Estimate]
    """Of all that may be recommended, the fastest first."""
    cold: list[Step]
    """Which is the cheapest in total from which call on, start-up included, with nothing compiled."""
    cached: list[Step]
    """The same where an earlier process has left compiled code."""

    @property
    def estimate(self) -> Estimate:
        """Of the backend that is chosen."""
        return next(estimate for estimate in self.estimates if estimate.backend == self.backend)


def choose(
    record: Record, call: Call, calls: int | None = None, max_ulp: float | None = None, *, cached: bool = False
) -> Choice | None:
    """Which takes the least time for ``calls`` calls in one process, start-up included; None where nothing is known.

    Parameters
    ----------
    record
        Measurements of one machine.
    call
        What is to be called.
    calls
        How often; None: so often that start-up does not count.
    max_ulp
        The largest error that may be; None: what the contract allows.
    cached
        Whether compiled code of an earlier process is there.
    """
    found = estimates(record, call, max_ulp)
    if not found:
        return None

    def line(estimate: Estimate, state: bool) -> Line:
        return Line(estimate.backend, sum(start_up(record, estimate.backend, call, cached=state)), estimate.seconds)

    both = {state: envelope([line(estimate, state) for estimate in found]) for state in (False, True)}
    steps = both[cached]
    due = [step for step in steps if calls is None or step["from_call"] <= calls]
    best = next(estimate for estimate in found if estimate.backend == due[-1]["backend"])
    tied = []
    if due[-1] is steps[-1]:
        tied = [e.backend for e in found if e is not best and e.low <= (1.0 + LEAST) * best.high]
    return Choice(best.backend, tied, found, both[False], both[True])


def start_up(record: Record, name: str, call: Call, *, cached: bool = False) -> tuple[float, float]:
    """Import, and first call of an operation on a backend, in seconds; nothing where that was not measured.

    Where another operation or dtype was, its first call stands in: compiling takes about as long.
    """
    startup = record["backends"][name].get("startup")
    if startup is None:
        return 0.0, 0.0
    state: Literal["cached", "cold"] = "cached" if cached else "cold"
    mine = [
        first[state] or 0.0
        for first in startup["first_calls"]
        if (first["op"], first["dtype"], first["target"]) == (call.op, call.dtype, call.target)
    ]
    every = [first[state] or 0.0 for first in startup["first_calls"]]
    return startup["imported"] or 0.0, max(mine or every, default=0.0)
