"""Timing several candidates against each other: interleaved, after warm-up, with the spread.

Machines drift (clock, neighbours, page cache), so the candidates of a comparison take turns within one run, each round
in another order, and what is reported is the median of many samples with its quartiles, never the minimum alone.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

__all__ = ["CONTROL", "Candidate", "Sample", "Timing", "interleave"]

MIN_ROUNDS: Final = 5
"""With fewer samples nothing can be said of a difference (`softbench.results.compare`)."""
MAX_ROUNDS: Final = 41
SAMPLE_SECONDS: Final = 2e-3
"""A sample repeats the call until it lasts this long: the clock's resolution and a sample's overhead vanish in it."""
SETTLE_SECONDS: Final = 10e-3
"""For which a candidate is called before its sample. Thread pools (OpenMP's among them) spin for milliseconds after the
last work of the candidate before, on the cores that this one is about to use. And a core that was idle is slow at
first: after a pause of 10 ms, NumPy's softmax of 10 numbers took 14 times as long the first time, and nearly twice as
long the fourth time."""
LONG_SECONDS: Final = 50e-3
"""A call that takes as long is not repeated for that: what is slow at first is a small part of it. It has a pause."""
CONTROL: Final = "control"
"""The name under which the control of `interleave` is timed."""
LONG_ENOUGH: Final = 0.02
"""Seconds of samples from which on CPU time over wall time says how many threads ran."""


def _nothing() -> None:
    pass


class Sample(NamedTuple):
    """What so many calls took, in seconds."""

    wall: float
    cpu: float
    """Of all threads of the process."""


class Candidate:
    """What is timed: ``call`` does the work, ``synchronize`` waits until it is done (for devices).

    Subclasses that are timed in another way (in another process, by a device's clock) override `sample`.
    """

    def __init__(self, call: Callable[[], Any], synchronize: Callable[[], None] = _nothing) -> None:
        self.call = call
        self.synchronize = synchronize

    def sample(self, number: int, *, warm: int = 0) -> Sample:
        """Time ``number`` calls, after ``warm`` calls that are not timed."""
        call = self.call
        for _ in range(warm):
            call()
        self.synchronize()
        cpu = time.process_time()
        start = time.perf_counter()
        for _ in range(number):
            call()
        self.synchronize()
        return Sample(time.perf_counter() - start, time.process_time() - cpu)


@dataclass(slots=True)
class Timing:
    """Samples of one candidate, in seconds per call."""

    first: float = 0.0
    """The first call of all, which may have compiled or paged in something; not among the samples."""
    second: float = 0.0
    """The second call, also apart: the result where there was no time for samples."""
    number: int = 1
    """Calls per sample."""
    warm: int = 0
    """Calls before a sample."""
    samples: list[float] = field(default_factory=list)
    """One for each round, in their order."""
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
    def spread(self) -> float:
        """Half the distance of the quartiles, relative to the median."""
        low, high = self.quartiles
        return (high - low) / 2 / self.median if self.median else 0.0

    @property
    def minimum(self) -> float:
        """The fastest sample."""
        return min(self.samples, default=self.second)

    @property
    def cores(self) -> float | None:
        """CPU seconds per second of wall time: how many threads really ran (None: too short to tell)."""
        return self.cpu / self.wall if self.wall >= LONG_ENOUGH else None


def _calibrate(candidate: Candidate, timing: Timing) -> None:
    """Warm the candidate up and find how many calls make a sample."""
    timing.first = candidate.sample(1).wall
    wall = timing.second = candidate.sample(1).wall
    number = 1
    while wall < SAMPLE_SECONDS:
        number = max(number + 1, min(10 * number, int(1.2 * number * SAMPLE_SECONDS / max(wall, 1e-7))))
        wall = candidate.sample(number).wall
    timing.number = number
    each = max(wall / number, 1e-9)
    timing.warm = math.ceil(SETTLE_SECONDS / each) if each < LONG_SECONDS else 0


def _take_turn(candidate: Candidate, timing: Timing) -> None:
    """One sample, once the previous candidate's idle threads have stopped spinning."""
    if not timing.warm:
        time.sleep(SETTLE_SECONDS)
    wall, cpu = candidate.sample(timing.number, warm=timing.warm)
    timing.samples.append(wall / timing.number)
    timing.wall += wall
    timing.cpu += cpu


def interleave(
    candidates: Mapping[str, Candidate],
    seconds: float,
    *,
    control: Callable[[str], Candidate | None] | None = None,
    failed: Callable[[str, Exception], None] | None = None,
    turn: Callable[[], None] = _nothing,
) -> dict[str, Timing]:
    """Time all candidates in turns for about ``seconds`` in all.

    Every candidate gets two calls, then at least five samples unless a single call lasts longer than its share of the
    time. Ctrl-C is the caller's to catch.

    Parameters
    ----------
    candidates
        What to time, by name.
    seconds
        Time for everything, warm-up included; slow candidates may overrun it by a few calls.
    control
        Given the name of a candidate, returns it as another one, which is timed as `CONTROL`: what then differs
        differs by chance. It is asked for the fastest first, until it does not return None.
    failed
        Told of a candidate that raises, which is then left out of what is returned; without it, the exception ends the
        timing.
    turn
        Called after each round, for those who want to look at the machine meanwhile.

    Returns
    -------
    dict of str to Timing
        Candidates that share a number of rounds have as many samples, those of the same round at the same place.
    """
    timings = {name: Timing() for name in candidates}
    everybody = dict(candidates)
    share = seconds / max(1, len(timings))
    start = time.perf_counter()

    def tried(name: str, action: Callable[[Candidate, Timing], None]) -> bool:
        try:
            action(everybody[name], timings[name])
        except Exception as error:
            if failed is None:
                raise
            failed(name, error)
            del timings[name]
            return False
        return True

    enabled = gc.isenabled()
    gc.disable()
    try:
        for name in candidates:
            tried(name, _calibrate)
        running = [name for name in timings if timings[name].second <= share]
        if control and running:
            fastest = sorted(running, key=lambda name: timings[name].second)
            if again := next(filter(None, map(control, fastest)), None):
                everybody[CONTROL], timings[CONTROL] = again, Timing()
                if tried(CONTROL, _calibrate):
                    running.append(CONTROL)
        rounds = 0
        while running and rounds < MAX_ROUNDS and (rounds < MIN_ROUNDS or time.perf_counter() - start < seconds):
            running = [name for name in running[1:] + running[:1] if tried(name, _take_turn)]
            turn()
            rounds += 1
    finally:
        if enabled:
            gc.enable()
    return timings
