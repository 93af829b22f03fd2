"""Peak memory, throughput against the measured copy of the same bytes, and the worst error."""

from __future__ import annotations

from benchmarks.common import BACKENDS, METRIC_CASES, Combination
from softbench.measure import run as bench
from softbench.measure import spot_check as accuracy
from softbench.measure.timing import Arm, interleave


class Memory(Combination):
    """Bytes at the peak, interpreter, libraries and inputs included."""

    params = (BACKENDS, METRIC_CASES)

    def peakmem_call(self, name, case_name):
        self.call()


class Tracked(Combination):
    """Figures that are neither time nor memory. For the fraction more is better, for the error less."""

    params = (BACKENDS, METRIC_CASES)

    def track_fraction_of_copy(self, name, case_name):
        (limit,) = bench.ceilings(self.case, [self.backend], None).values()
        arms = {"call": Arm(self.call), "limit": limit.arm}
        timings = interleave(arms, 1.5)
        fraction = self.case.traffic.total / timings["call"].median / (limit.moved / timings["limit"].median)
        if fraction > 1.0:
            raise RuntimeError(f"{fraction:.0%} of the copy measured beside it: impossible, so not recorded")
        return round(fraction, 4)

    def track_max_ulp(self, name, case_name):
        judged = accuracy.Judge(self.case, self.inputs)(self.backend)
        if not judged["ok"]:
            raise RuntimeError(judged["detail"])
        return round(judged["max_ulp"], 4)

    track_fraction_of_copy.unit = "of the measured copy"
    track_max_ulp.unit = "ulp"
