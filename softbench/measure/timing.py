"""Timing several arms against each other: interleaved, after warm-up, with the spread.

Machines drift (clock, neighbours, page cache), so the arms of a comparison take turns within one run, each round
in another order, and what is reported is the median of many samples with its quartiles, never the minimum alone.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

__all__ = ["Arm", "Timing", "interleave"]

MIN_ROUNDS: Final = 3
MAX_ROUNDS: Final = 41
SAMPLE_SECONDS: Final = 2e-3
"""A sample repeats the call until it lasts this long: the clock's resolution and a sample's overhead vanish in it."""
SETTLE_SECONDS: Final = 10e-3
"""Pause before a sample: thread pools (OpenMP's among them) spin for milliseconds after their last work, on the cores
that the next arm is about to use."""


def _nothing() -> None:
    pass


@dataclass(frozen=True, slots=True)
class Arm:
    """What is timed: ``call`` does the work, ``synchronize`` waits until it is done (for devices)."""

    call: Callable[[], Any]
    synchronize: Callable[[], None] = _nothing


@dataclass(slots=True)
class Timing:
    """Samples of one arm, in seconds per call."""

    first: float = 0.0
    """The first call of all, which may have compiled or paged in something; not among the samples."""
    second: float = 0.0
    """The second call, also apart: the result where there was no time for samples."""
    number: int = 1
    """Calls per sample."""
    samples: list[float] = field(default_factory=list)
    wall: float = 0.0
    cpu: float = 0.0

    @property
    def median(self) -> float:
        """Median seconds per call (of one warm call, if there was time for no more)."""
        return statistics.median(self.samples) if self.samples else self.second

    @property
    def quartiles(self) -> tuple[float, float]:
        """First and third quartile: half of all samples lie between."""
        if len(self.samples) < 2:
            return self.median, self.median
        low, _, high = statistics.quantiles(self.samples, n=4, method="inclusive")
        return low, high

    @property
    def minimum(self) -> float:
        """The fastest sample."""
        return min(self.samples, default=self.second)

    @property
    def cores(self) -> float | None:
        """CPU seconds per second of wall time: how many threads really ran (None: too short to tell)."""
        return self.cpu / self.wall if self.wall >= 0.02 else None


def _sample(arm: Arm, number: int) -> tuple[float, float]:
    """Seconds of wall and of CPU time for that many calls."""
    call = arm.call
    arm.synchronize()
    cpu = time.process_time()
    start = time.perf_counter()
    for _ in range(number):
        call()
    arm.synchronize()
    return time.perf_counter() - start, time.process_time() - cpu


def _calibrate(arm: Arm, timing: Timing) -> None:
    """Warm the arm up and find how many calls make a sample."""
    timing.first = _sample(arm, 1)[0]
    wall = timing.second = _sample(arm, 1)[0]
    number = 1
    while wall < SAMPLE_SECONDS:
        number = max(number + 1, min(10 * number, int(1.2 * number * SAMPLE_SECONDS / max(wall, 1e-7))))
        wall = _sample(arm, number)[0]
    timing.number = number


def _take_turn(arm: Arm, timing: Timing) -> None:
    """One sample, once the previous arm's idle threads have stopped spinning; short calls find their data warm."""
    time.sleep(SETTLE_SECONDS)
    if timing.second < SETTLE_SECONDS:
        arm.call()
    wall, cpu = _sample(arm, timing.number)
    timing.samples.append(wall / timing.number)
    timing.wall += wall
    timing.cpu += cpu


def interleave(arms: Mapping[str, Arm], seconds: float, *, order: Sequence[str] = ()) -> dict[str, Timing]:
    """Time all arms in turns for about ``seconds`` in all.

    Every arm gets two calls, then at least three samples unless a single call lasts longer than the arm's share
    of the time. Ctrl-C is the caller's to catch.

    Parameters
    ----------
    arms
        What to time, by name.
    seconds
        Time for everything, warm-up included; slow arms may overrun it by a few calls.
    order
        Names to begin with; the rest follow in the mapping's order.
    """
    names = [*order, *(name for name in arms if name not in order)]
    timings = {name: Timing() for name in names}
    share = seconds / max(1, len(names))
    start = time.perf_counter()
    enabled = gc.isenabled()
    gc.disable()
    try:
        for name in names:
            _calibrate(arms[name], timings[name])
        running = [name for name in names if timings[name].second <= share]
        rounds = 0
        while running and rounds < MAX_ROUNDS and (rounds < MIN_ROUNDS or time.perf_counter() - start < seconds):
            turn = rounds % len(running)
            for name in running[turn:] + running[:turn]:
                _take_turn(arms[name], timings[name])
            rounds += 1
    finally:
        if enabled:
            gc.enable()
    return timings
