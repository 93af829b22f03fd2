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


def by_run(backend: str, case: str, seconds: float) -> Record:
    """What ``softbench run`` finds."""
    config = Config(
        backends=(backend,), cases=(case,), seconds=seconds, check=False, startup=False, costs=False, profile="quick"
    )
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
    runs: a ratio has an interval, which knows by how much two processes of the same differ (the A/A control).
    """
    options = parser("agreement", agreement)
    options.add_argument("--rounds", type=int, default=3, help="times that each of the three measures (default: 3)")
    options.add_argument("--seconds", type=float, default=1.5, help="of softbench run, each time (default: 1.5)")
    options.add_argument("--child", nargs=3, metavar=("HOW", "BACKEND", "CASE"), help=argparse.SUPPRESS)
    parsed = options.parse_args(arguments)
    if parsed.child:
        how, backend, case = parsed.child
        print(json.dumps(_APART[how](backend, case)))
        return 0
    verdicts = []
    for backend, case in CALLS:
        runs: list[Record] = []
        others: dict[str, list[float]] = {how: [] for how in _APART}
        for _ in range(parsed.rounds):
            runs.append(by_run(backend, case, parsed.seconds))
            for how, samples in others.items():
                samples += _in_a_process(how, backend, case)
        verdicts += compared(backend, runs, others)
    return int(any(verdict in ("faster", "slower") for verdict in verdicts))


def _in_a_process(how: str, backend: str, case: str) -> list[float]:
    done = processes.run(
        [sys.executable, "-m", "benchmarks.studies", "agreement", "--child", how, backend, case], limit=120, cwd=ROOT
    )
    found: list[float] = json.loads(done.checked().splitlines()[-1])
    return found


def compared(backend: str, runs: Sequence[Record], others: Mapping[str, Sequence[float]]) -> list[Verdict]:
    """Print what each has found beside what ``softbench run`` has; the verdicts of `softbench.results.compare`."""
    base = _with(runs[0], backend, [s for record in runs for s in record["cases"][0]["results"][backend]["samples"]])
    print(f"{backend} on {base['cases'][0]['name']}, {len(runs)} processes each")
    print(f"  {'softbench run':<14} {_median(base['cases'][0]['results'][backend]['samples'])}")
    verdicts = []
    for how, samples in others.items():
        (change,) = changes(base, _with(runs[-1], backend, samples))
        effect: Any = change.effect
        span = f"{effect.ratio:.3f} times that ({effect.low:.3f} to {effect.high:.3f})" if effect else ""
        print(f"  {how:<14} {_median(samples)}, {span}: {change.verdict}", flush=True)
        verdicts.append(change.verdict)
    return verdicts


def _with(record: Record, backend: str, samples: Sequence[float]) -> Record:
    """The record with other samples, believed in any case."""
    found = copy.deepcopy(record)
    found["cases"][0]["results"][backend] |= {
        "samples": list(samples), "median": statistics.median(samples), "impossible": False,
    }  # fmt: skip
    return found


def _median(samples: Sequence[float]) -> str:
    interval: Any = median_interval(samples)
    return f"{duration(interval.ratio):>8} ({duration(interval.low)} to {duration(interval.high)})"
