"""Medians and ratios with intervals that assume nothing about how times are distributed."""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Sequence
from typing import Final, NamedTuple

__all__ = ["LEVEL", "Interval", "median_interval", "ratio_of"]

LEVEL: Final = 0.95
"""Of all intervals: how often they hold what they are of."""


class Interval(NamedTuple):
    """An estimate, and between which bounds the truth lies with probability ``level``."""

    ratio: float
    low: float
    high: float
    level: float

    def widened(self, log_margin: float) -> Interval:
        """The same with bounds further apart by a factor of ``exp(log_margin)`` on either side."""
        factor = math.exp(log_margin)
        return self._replace(low=self.low / factor, high=self.high * factor)

    @property
    def holds_one(self) -> bool:
        """Whether no difference is among what is possible."""
        return self.low <= 1.0 <= self.high


@functools.cache
def _rank(n: int) -> tuple[int, float]:
    """From which order statistic to which the median's interval reaches (as an index from either end), and its level.

    The number of samples below the median is binomial. With few samples the whole range does not reach `LEVEL`.
    """
    below = 0.0
    rank, level = 0, 1.0 - 2.0 ** (1 - n)
    for i in range((n - 1) // 2):
        below += math.comb(n, i) * 2.0**-n
        if 1.0 - 2.0 * (below + math.comb(n, i + 1) * 2.0**-n) < LEVEL:
            break
        rank, level = i + 1, 1.0 - 2.0 * (below + math.comb(n, i + 1) * 2.0**-n)
    return rank, level


def median_interval(samples: Sequence[float]) -> Interval | None:
    """The median with an interval from order statistics; None without samples."""
    if not samples:
        return None
    ordered = sorted(samples)
    rank, level = _rank(len(ordered))
    return Interval(statistics.median(ordered), ordered[rank], ordered[-1 - rank], level)


def ratio_of(times: Sequence[float], base: Sequence[float]) -> Interval | None:
    """How many times as long one candidate takes as another that it took turns with; None without common rounds.

    Samples of the same round are compared with each other, so that what drifted from round to round cancels.
    """
    logs = [math.log(a / b) for a, b in zip(times, base, strict=False) if a > 0 and b > 0]
    found = median_interval(logs)
    return found and Interval(math.exp(found.ratio), math.exp(found.low), math.exp(found.high), found.level)
