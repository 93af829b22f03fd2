"""Whether the machine was left alone while something was measured, and what makes a measurement hard to believe."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from softbench import machine
from softbench.measure.timing import CONTROL, Timing
from softbench.results.record import CaseStability, Control, Stability
from softbench.results.statistics import ratio_of
from softbench.results.units import percent

__all__ = ["BUSY", "Load", "Watch", "case_stability", "oversubscription", "run_stability"]

BUSY: Final = 0.2
"""Processors that others may use, on the average, before a machine counts as busy."""
THROTTLED: Final = 0.01
"""Share of the time for which a control group may hold threads back."""
DRIFT: Final = 0.10
"""By how much times may change, all together, from the first third of the rounds to the last."""
CLOCK: Final = 0.10
"""By how much the duration of the same arithmetic may change."""
UNEQUAL: Final = 0.10
"""By how much a candidate may differ from itself in another process."""

_PROBE: Final = range(40_000)
_PROBES: Final = 5


@dataclass(frozen=True, slots=True)
class Load:
    """What happened on the machine in a stretch of time."""

    seconds: float = 0.0
    foreign: float | None = None
    """Processors that were busy with what is not ours, on the average; None where the system does not say."""
    stolen: float = 0.0
    """Processors' worth of time that other guests of the host have taken."""
    throttled: float = 0.0
    """Seconds for which a control group has held threads back."""

    @property
    def reasons(self) -> list[str]:
        """What disturbs a measurement, as sentences; empty if nothing does."""
        found = []
        if self.foreign is not None and self.foreign > BUSY:
            found.append(f"others used {self.foreign:.1f} of {machine.usable_cores()} processors")
        if self.stolen > BUSY:
            found.append(f"other guests of the host took {self.stolen:.1f} processors")
        if self.throttled > THROTTLED * self.seconds:
            found.append(f"a control group held threads back for {self.throttled:.2g} s")
        return found


class Watch:
    """Measures the load on the machine, ours left out."""

    def __init__(self, groups: Callable[[], Iterable[int]] = tuple) -> None:
        self.groups = groups
        """The process groups that work for us."""
        self.lap()

    def lap(self) -> Load:
        """The load since the last lap."""
        now = time.monotonic()
        own, busy, throttled = machine.process_time(self.groups()), machine.busy_time(), machine.throttled_seconds()
        before = getattr(self, "_before", None)
        self._before = now, own, busy, throttled
        if before is None or now == before[0]:
            return Load()
        seconds = now - before[0]
        if busy is None or before[2] is None:
            return Load(seconds, None, 0.0, throttled - before[3])
        foreign = (busy.busy - before[2].busy) - (own - before[1])
        return Load(
            seconds,
            max(0.0, foreign / seconds),
            max(0.0, (busy.stolen - before[2].stolen) / seconds),
            throttled - before[3],
        )


def probe() -> float:
    """Seconds of always the same arithmetic in this interpreter: how fast the processor's clock runs."""
    best = math.inf
    for _ in range(_PROBES):
        start = time.perf_counter()
        sum(_PROBE)
        best = min(best, time.perf_counter() - start)
    return best


def oversubscription(threads: Mapping[str, Any], allowed: float) -> list[str]:
    """Libraries with more threads than processors, as sentences.

    Parameters
    ----------
    threads
        What `softbench.machine.threads` said where the libraries are loaded.
    allowed
        Processors: usable ones, or what control groups grant.
    """
    found = {
        name: entry["threads"] for name, entry in threads.items() if isinstance(entry, Mapping) and "threads" in entry
    }
    found |= {str(pool.get("internal_api")): pool["num_threads"] for pool in threads.get("pools", ())}
    return [f"{name} has {n} threads for {allowed:g} processors" for name, n in found.items() if n > math.ceil(allowed)]


def drift(timings: Iterable[Timing]) -> float | None:
    """Times in the last third of the rounds over those in the first, the median over the candidates; None: too few."""
    ratios = []
    for timing in timings:
        third = len(timing.samples) // 3
        if third >= 2:
            ratios.append(statistics.median(timing.samples[-third:]) / statistics.median(timing.samples[:third]))
    return statistics.median(ratios) if ratios else None


def case_stability(timings: Mapping[str, Timing], load: Load, controlled: str | None) -> CaseStability:
    """The verdict on the surroundings of one case.

    Parameters
    ----------
    timings
        Of the candidates, limits and the control.
    load
        While they were taken.
    controlled
        The candidate that the control was.
    """
    found: CaseStability = {"foreign": load.foreign, "stolen": load.stolen, "throttled": load.throttled}
    reasons = load.reasons
    drifted = found["drift"] = drift(timings.values())
    if drifted is not None and abs(math.log(drifted)) > DRIFT:
        reasons.append(f"times drifted by {_change(drifted)}")
    if controlled is not None and CONTROL in timings:
        same = ratio_of(timings[CONTROL].samples, timings[controlled].samples)
        if same is not None:
            control: Control = {"backend": controlled, "ratio": same.ratio, "interval": (same.low, same.high)}
            found["control"] = control
            if abs(math.log(same.ratio)) > UNEQUAL:
                reasons.append(f"{controlled} differed from itself by {_change(same.ratio)}")
    found["reasons"] = reasons
    return found


def _change(ratio: float) -> str:
    return ("+" if ratio > 1 else "-") + percent(abs(ratio - 1))


def run_stability(before: Load, cases: Iterable[CaseStability], probes: Iterable[float], more: list[str]) -> Stability:
    """The verdict on the surroundings of a run.

    Parameters
    ----------
    before
        The load before anything was measured.
    cases
        What `case_stability` gave, in order.
    probes
        What `probe` gave, from the beginning to the end.
    more
        Reasons that are known already.
    """
    reasons = [*more]
    if before.reasons:
        reasons.append(f"before the run {before.reasons[0]}")
    judged = list(cases)
    disturbed = sum(bool(case.get("reasons")) for case in judged)
    if disturbed:
        first = next(reason for case in judged for reason in case.get("reasons", []))
        reasons.append(f"{disturbed} of {len(judged)} cases were disturbed (first: {first})")
    clocks = list(probes)
    if clocks and max(clocks) > (1 + CLOCK) * min(clocks):
        times = max(clocks) / min(clocks)
        reasons.append(f"the processor's clock changed: the same arithmetic took up to {times:.2f}x as long")
    return {
        "verdict": "disturbed" if reasons else "stable",
        "reasons": reasons,
        "foreign_before": before.foreign,
        "clock": max(clocks) / min(clocks) if clocks else None,
    }
