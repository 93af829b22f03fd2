"""Whether ``softbench run``, asv and the standard library's timeit say the same of the same calls."""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import timeit
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

import softbench as sb
from benchmarks.studies.common import parser
from softbench import processes
from softbench.measure.plan import Config
from softbench.measure.run import run
from softbench.measure.workloads import by_name
from softbench.results.compare import Verdict, changes
from softbench.results.record import Record
from softbench.results.statistics import median_interval
from softbench.results.units import duration

ROOT: Final = Path(__file__).parents[2]
CALLS: Final = (
    ("numba", "softmax-4096x1000-f32"),
    ("numpy", "softmax-1x10-f32"),
    ("scipy", "softmax-4096x1000-f32"),
    ("sklearn", "loss_and_gradient-4096x1000-f32"),
)
"""Microseconds and milliseconds, one thread and all of them, with and without a target."""
REPEATS: Final = 11

Samples = dict[tuple[str, str], list[float]]
"""Seconds per call, by backend and case."""


def by_run(seconds: float) -> Record:
    """What ``softbench run`` finds, all of it in one run, as its users have it."""
    backends, cases = (tuple(dict.fromkeys(names)) for names in zip(*CALLS, strict=True))
    config = Config(backends=backends, cases=cases, seconds=seconds, check=False, startup=False, costs=False)
    return run(config)


def by_asv(backend: str, case: str) -> list[float]:
    """Samples of the benchmark that ``asv run`` runs, by asv's own runner."""
    from asv_runner.discovery import disc_benchmarks

    (benchmark,) = (b for b in disc_benchmarks(str(ROOT / "benchmarks")) if b.name == "speed.Steady.time_call")
    names, cases = ([value.strip("'") for value in values] for values in benchmark.params)
    benchmark.set_param_idx(names.index(backend) * len(cases) + cases.index(case))
    if benchmark.do_setup():
        raise RuntimeError(f"asv skips {backend} on {case}")
    found: list[float] = benchmark.do_run()["samples"]
    return found


def by_timeit(backend: str, case: str) -> list[float]:
    """Samples of a loop that anybody would write: `timeit.Timer.repeat`, and nothing of ``softbench.measure``."""
    workload = by_name(case)
    n, k = workload.shape
    rng = np.random.default_rng(0)
    x = (4.0 * rng.standard_normal((n, k))).astype(workload.dtype)
    function = getattr(sb.get_backend(backend), workload.op)
    arguments = (x,) if workload.op == "softmax" else (x, rng.integers(0, k, n))
    timer = timeit.Timer(lambda: function(*arguments))
    number = max(1, timer.autorange()[0] // 4)  # which takes 50 ms or more
    return [seconds / number for seconds in timer.repeat(REPEATS, number)]


_APART: Final[dict[str, Callable[[str, str], list[float]]]] = {"asv": by_asv, "timeit": by_timeit}


def agreement(arguments: Sequence[str]) -> int:
    """``softbench run``, asv and timeit on the same calls, in turn; 1 where one differs from ``softbench run``.

    Each measures in fresh processes, several times in turn. They are compared as ``softbench compare`` compares two
    runs: a ratio has an interval, which knows by how much two processes of the same differ (the A/A controls).
    """
    options = parser("agreement", agreement)
    options.add_argument("--rounds", type=int, default=4, help="times that each of the three measures (default: 4)")
    options.add_argument("--seconds", type=float, default=8.0, help="of softbench run, each time (default: 8)")
    options.add_argument("--child", nargs=3, metavar=("HOW", "BACKEND", "CASE"), help=argparse.SUPPRESS)
    parsed = options.parse_args(arguments)
    if parsed.child:
        how, backend, case = parsed.child
        print(json.dumps(_APART[how](backend, case)))
        return 0
    runs: list[Record] = []
    others: dict[str, Samples] = {how: {call: [] for call in CALLS} for how in _APART}
    for _ in range(parsed.rounds):
        runs.append(by_run(parsed.seconds))
        for how, found in others.items():
            for call, samples in found.items():
                samples += _in_a_process(how, *call)
    return int(any(verdict in ("faster", "slower") for verdict in compared(runs, others)))


def _in_a_process(how: str, backend: str, case: str) -> list[float]:
    done = processes.run(
        [sys.executable, "-m", "benchmarks.studies", "agreement", "--child", how, backend, case], limit=120, cwd=ROOT
    )
    found: list[float] = json.loads(done.checked().splitlines()[-1])
    return found


def compared(runs: Sequence[Record], others: Mapping[str, Samples]) -> list[Verdict]:
    """Print what each has found beside what ``softbench run`` has; the verdicts of `softbench.results.compare`."""
    calls = next(iter(others.values()))
    before = {call: [sample for record in runs for sample in _samples(record, *call)] for call in calls}
    base = _record(runs[0], before)
    # All controls of all runs say how far two processes of the same differ.
    base["cases"] += [{**case, "name": f"{case['name']} again"} for record in runs for case in record["cases"]]
    verdicts: list[Verdict] = []
    lines: dict[tuple[str, str], list[str]] = {call: [] for call in calls}
    for how, samples in others.items():
        for change in changes(base, _record(runs[0], samples)):
            call = change.backend, change.case
            effect: Any = change.effect
            span = f", {effect.ratio:.3f} times that ({effect.low:.3f} to {effect.high:.3f})" if effect else ""
            lines[call].append(f"  {how:<14} {_median(samples[call])}{span}: {change.verdict}")
            verdicts.append(change.verdict)
    for (backend, case), found in lines.items():
        print(f"{backend} on {case}, {len(runs)} processes each")
        print("\n".join([f"  {'softbench run':<14} {_median(before[backend, case])}", *found]), flush=True)
    return verdicts


def _samples(record: Record, backend: str, case: str) -> list[float]:
    found: list[float] = next(c for c in record["cases"] if c["name"] == case)["results"][backend]["samples"]
    return found


def _record(record: Record, samples: Samples) -> Record:
    """The record with these samples and no others, believed in any case."""
    made = copy.deepcopy(record)
    for case in made["cases"]:
        case.pop("stability", None)
        case["results"] = {
            backend: {"samples": found, "median": statistics.median(found), "impossible": False}
            for (backend, name), found in samples.items()
            if name == case["name"]
        }
    return made


def _median(samples: Sequence[float]) -> str:
    interval: Any = median_interval(samples)
    return f"{duration(interval.ratio):>8} ({duration(interval.low)} to {duration(interval.high)})"
