"""Peak memory, time over that of the measured limit, and the worst error: of all of them less is better."""

from __future__ import annotations

import math

from benchmarks.common import BACKENDS, METRIC_CASES, Combination
from softbench.measure.ceiling import limit_of
from softbench.measure.spot_check import Judge
from softbench.measure.timing import Candidate, interleave


class Memory(Combination):
    """Bytes at the peak, interpreter, libraries and inputs included."""

    params = (BACKENDS, METRIC_CASES)

    def peakmem_call(self, name, case_name):
        self.call()


class Tracked(Combination):
    """Figures that are neither time nor memory."""

    params = (BACKENDS, METRIC_CASES)
    tries = 3

    def track_time_over_limit(self, name, case_name):
        """How many times as long as the limit: 1 is the most that the memory allows.

        Whatever else runs slows the limit down, too. What is below 1 is measured again, and left out if it stays so.
        """
        limit = limit_of(self.workload, self.backend)
        for _ in range(self.tries):
            timings = interleave({"call": Candidate(self.call), "limit": limit.candidate}, 1.5)
            least = timings["limit"].median * self.workload.traffic.total / limit.moved
            times = timings["call"].median / least
            if times >= 1.0:
                return round(times, 4)
        print(f"{name} on {case_name}: {times:.2f} of the time of the copy beside it: impossible, so not recorded")
        return math.nan

    def track_max_ulp(self, name, case_name):
        """The largest error, beyond its gate or not: of other people's libraries that is what one wants to see."""
        judged = Judge(self.workload, self.inputs)(self.backend)
        if not math.isfinite(judged["max_ulp"]):
            raise RuntimeError(judged["detail"])
        return round(judged["max_ulp"], 4)

    track_time_over_limit.unit = "times the measured limit"
    track_max_ulp.unit = "ulp"
