"""Time per call, in the steady state, and what comes before it."""

from __future__ import annotations

import tempfile

from benchmarks.common import BACKENDS, TIME_CASES, Combination, find, skipped
from softbench.measure import startup, workloads


class Steady(Combination):
    """Seconds per call, compiled and warm."""

    params = (BACKENDS, TIME_CASES)
    # One process per combination with several short samples: asv's statistics need the samples, and a second round
    # would double the number of processes, most of which only skip.
    rounds = 1
    repeat = (5, 15, 1.5)
    sample_time = 0.02
    warmup_time = 0.1

    def time_call(self, name, case_name):
        self.call()


class Start:
    """What a backend costs before its first result, in a fresh process with nothing compiled."""

    params = (BACKENDS,)
    param_names = ("backend",)

    def setup(self, name):
        self.backend = find(name)

    def _measure(self, name):
        cases = [workloads.by_name(case) for case in ("softmax-4096x1000-f32", "softmax-64x10-f32")]
        case = next(case for case in cases if skipped(self.backend, case) is None)
        with tempfile.TemporaryDirectory() as cache:
            measured = startup.measure(name, [case], cache)
        if measured["problem"]:
            raise RuntimeError(measured["problem"])
        return measured

    def track_import(self, name):
        return self._measure(name)["imported"]

    def track_first_call(self, name):
        return self._measure(name)["first_calls"][0]["cold"]

    track_import.unit = track_first_call.unit = "seconds"
