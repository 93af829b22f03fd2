"""What is recorded of a case, of a backend on it, and of the limit."""

from __future__ import annotations

from softbench.measure.timing import Timing
from softbench.measure.workloads import Workload
from softbench.results.record import CaseRecord, CeilingRecord, Result
from softbench.results.statistics import median_interval

__all__ = ["case_record", "ceiling_record", "result_record"]


def case_record(workload: Workload) -> CaseRecord:
    """The record of a case of which nothing is known yet."""
    return {
        "name": workload.name,
        "op": workload.op,
        "shape": list(workload.shape),
        "dtype": workload.dtype,
        "target": workload.target,
        "result": workload.result,
        "axis": workload.axis,
        "bound": workload.bound,
        "why": workload.why,
        "floor_bytes": workload.traffic.total,
        "ceilings": {},
        "results": {},
    }


def result_record(workload: Workload, timing: Timing) -> Result:
    """What a timing says."""
    interval = median_interval(timing.samples)
    return {
        "clock": "host",
        "first": timing.first,
        "median": timing.median,
        "interval": (interval.low, interval.high) if interval else timing.quartiles,
        "quartiles": timing.quartiles,
        "minimum": timing.minimum,
        "samples": [float(f"{sample:.5g}") for sample in timing.samples],
        "number": timing.number,
        "cores": timing.cores,
        "bandwidth": workload.traffic.total / timing.median,
    }


def ceiling_record(workload: Workload, operation: str, method: str, moved: int, timing: Timing) -> CeilingRecord:
    """What the timing of a limit says: ``moved`` bytes per call."""
    speed = moved / timing.median
    return {
        "operation": operation,
        "method": method,
        "bandwidth": speed,
        "median": timing.median,
        "quartiles": timing.quartiles,
        "moved": moved,
        "floor_seconds": workload.traffic.total / speed,
    }
