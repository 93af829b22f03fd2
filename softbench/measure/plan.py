"""What a run is to measure: its configuration, and the profiles that say how thorough it is."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Final, Literal

from softbench.measure import workloads
from softbench.measure.workloads import Workload

__all__ = ["PROFILES", "Config", "Profile"]


@dataclass(frozen=True, slots=True)
class Profile:
    """How thorough a run is."""

    about: str
    cases: str
    """The suite of workloads."""
    kit: str
    """The profile of the conformance kit."""
    whole_seconds: float
    """What it is to take on two cores with three backends, checks and all."""
    per_backend: float
    """More of that for every further backend."""
    timing_seconds: tuple[float, float]
    """The least and the most of it for timing."""


PROFILES: Final = {
    "quick": Profile("few cases: a minute", "quick", "quick", 50.0, 6.0, (4.0, 30.0)),
    "standard": Profile("two minutes, four with all peers", "standard", "quick", 100.0, 10.0, (6.0, 90.0)),
    "full": Profile("every case, and more of the kit: half an hour", "all", "standard", 900.0, 120.0, (60.0, 1800.0)),
}
_OPS_OF_SHAPES: Final = ("softmax", "loss_and_gradient")


@dataclass(frozen=True, slots=True)
class Config:
    """What to run."""

    backends: tuple[str, ...] | None = None
    """Names, or ``module:attribute``; None: every backend that can run here."""
    candidates: tuple[str, ...] = ()
    """What takes part besides: ``module:attribute``, or ``module:function as op``."""
    profile: str = "standard"
    """One of `PROFILES`."""
    cases: tuple[str, ...] = ()
    """Suites, names or patterns of `softbench.measure.workloads`; none: the profile's suite, if there are no shapes."""
    ops: tuple[str, ...] = ()
    """What to do with ``shapes`` (none: softmax and loss_and_gradient); of cases, those that do one of them."""
    shapes: tuple[tuple[int, ...], ...] = ()
    """Of further workloads: each into a new array, and where the result is an array, into one that is there."""
    axis: int = -1
    """Of the classes, in ``shapes``."""
    target: Literal["index", "soft"] = "index"
    """Of losses and gradients on ``shapes``."""
    dtypes: tuple[str, ...] = ()
    """Of ``shapes`` (none: float32); cases are put into them."""
    seconds: float | None = None
    """Time for the timing of all cases together, checks and start-up not counted. None: as the profile has it."""
    threads: int | None = None
    """Threads that libraries may use; None: one per usable core."""
    max_ulp: float | None = None
    """The largest error that a recommended backend may have on a case; None: what the contract allows."""
    check: bool = True
    """Run the conformance kit on each backend. A backend that was not checked is not recommended."""
    startup: bool = True
    """Measure import and first calls in fresh processes."""
    costs: bool = True
    """Measure memory, and the way of the arrays there and back."""

    def workloads(self) -> list[Workload]:
        """What is to be measured.

        Raises
        ------
        ValueError
            A pattern that matches nothing; an op, shape, axis or dtype that is none; operations that no case does.
        """
        found = [*self._named(), *self._custom()]
        if not found:
            raise ValueError(f"no case does {' or '.join(self.ops)}")
        return list({workload.name: workload for workload in found}.values())

    def _named(self) -> list[Workload]:
        if self.shapes and not self.cases:
            return []
        patterns = self.cases or (PROFILES[self.profile].cases,)
        found = [case for dtype in self.dtypes or (None,) for case in workloads.select(patterns, dtype)]
        return [case for case in found if case.op in self.ops] if self.ops and not self.shapes else found

    def _custom(self) -> list[Workload]:
        found: list[Workload] = []
        make = functools.partial(workloads.custom, axis=self.axis, target=self.target, why="asked for")
        for dtype in self.dtypes or ("float32",):
            for shape in self.shapes:
                for op in self.ops or _OPS_OF_SHAPES:
                    fresh = make(op, shape, dtype)
                    found.append(fresh)
                    if fresh.writes_array:
                        found.append(make(op, shape, dtype, result="out"))
        return found
