"""The numba backend on this processor and as on narrower ones, against each other and against plain NumPy.

    python -m benchmarks.studies portability [native haswell x86-64] [--cases PATTERN ...] [--out FILE.json]
    python -m benchmarks.studies portability --table FILE.json    # the table of a run that was saved

For each processor a process of its own, for which Numba compiles, and NumPy chooses its loops, as if they ran there:
``native`` is this one, ``haswell`` has AVX2 with fused multiply-add, ``x86-64`` what every such processor has. What is
measured is the code for that processor on this one. The processes take turns case by case, so that a line compares
what was measured within seconds. The cases are those of the study ``goals`` in float32; NumPy is the expression that
one writes without a library, and takes its turns with the backend in one process.
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.studies.goals import GOALS, Goal, _numba, medians, recorded, relative_spread
from softbench import processes
from softbench.measure.inputs import make_inputs
from softbench.measure.records import case_record
from softbench.measure.run import beginning
from softbench.measure.timing import Candidate, interleave
from softbench.results.record import CaseRecord, Record, Result, read, write
from softbench.results.units import duration, three_digits

NATIVE: Final = "native"
PROCESSORS: Final = (NATIVE, "haswell", "x86-64")
CASES: Final = {goal.name: goal for goal in GOALS if goal.dtype == "float32"}


def _numpy(goal: Goal, x: np.ndarray, y: np.ndarray | None) -> Callable[[], Any]:
    """The case in plain NumPy: the maximum, one exponential, one sum."""
    axis, n = goal.axis, len(x)
    out = np.zeros_like(x)

    def softmax() -> Any:
        p = out if goal.out else np.empty_like(x)
        np.subtract(x, x.max(axis, keepdims=True), out=p)
        np.exp(p, out=p)
        p /= p.sum(axis, keepdims=True)
        return p

    def log_softmax() -> Any:
        np.subtract(x, x.max(axis, keepdims=True), out=out)
        np.subtract(out, np.log(np.exp(out).sum(axis, keepdims=True)), out=out)
        return out

    def mean_loss(differences: np.ndarray, total: np.ndarray) -> Any:
        if goal.target == "soft":
            return np.mean(np.log(total) - (y * differences).sum(axis))
        return np.mean(np.log(total) - differences[np.arange(n), y])

    def loss() -> Any:
        differences = x - x.max(axis, keepdims=True)
        return mean_loss(differences, np.exp(differences).sum(axis))

    def loss_and_gradient() -> Any:
        differences = x - x.max(axis, keepdims=True)
        np.exp(differences, out=out)
        total = out.sum(axis)
        np.divide(out, (total * n)[:, None], out=out)
        if goal.target == "soft":
            np.subtract(out, y / n, out=out)
        else:
            out[np.arange(n), y] -= 1 / n
        return mean_loss(differences, total), out

    ways = {"softmax": softmax, "log_softmax": log_softmax, "loss": loss, "loss_and_gradient": loss_and_gradient}
    return ways[goal.op]


# -- the child: one processor --------------------------------------------------------------------------------------


def measure(goal: Goal, seconds: float) -> dict[str, Result]:
    """The results of a case, compiled for whatever processor the environment names."""
    x, y = make_inputs(goal.workload)
    arms = {"numba": Candidate(_numba(goal, x, y)), "numpy": Candidate(_numpy(goal, x, y))}
    return recorded(goal.workload, interleave(arms, seconds))["results"]


def answer(seconds: float) -> None:
    """Measure the case that every line of the input names; one line of JSON each."""
    for line in sys.stdin:
        print(json.dumps(measure(CASES[line.strip()], seconds)), flush=True)


# -- the parent: all of them ---------------------------------------------------------------------------------------


def _has(name: str, kind: str) -> bool:
    """Whether the processor of that name has what NumPy calls a kind of SIMD extensions."""
    return name == "haswell" and kind != "X86_V4" and not kind.startswith("AVX512")


LIMIT: Final = 6 * 3600
"""Seconds after which a process for a processor ends, whatever becomes of the study."""


def environment(name: str) -> dict[str, str]:
    """Variables by which Numba and NumPy take this processor for the one of that name."""
    if name == NATIVE:
        return {}
    beyond = [kind for kind in np.show_config("dicts")["SIMD Extensions"]["found"] if not _has(name, kind)]
    return {"NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": "", "NPY_DISABLE_CPU_FEATURES": " ".join(beyond)}


def start(name: str, seconds: float) -> processes.Child:
    """A process that answers for the processor of that name."""
    command = [sys.executable, "-m", "benchmarks.studies", "portability", "--child", "--seconds", str(seconds)]
    pipe, variables = subprocess.PIPE, {**os.environ, **environment(name)}
    return processes.start(command, limit=LIMIT, env=variables, stdin=pipe, stdout=pipe, text=True)


def ask(child: processes.Child, case: str) -> dict[str, Result]:
    """The child's `measure` of a case; RuntimeError if it has died."""
    assert child.stdin
    assert child.stdout
    with contextlib.suppress(BrokenPipeError):
        print(case, file=child.stdin, flush=True)
    line = child.stdout.readline()
    if not line:
        with contextlib.suppress(BrokenPipeError):  # it holds the question still
            child.stdin.close()
        raise RuntimeError(f"{case}: the process ended with status {child.wait()}")
    found: dict[str, Result] = json.loads(line)
    return found


def compared(goal: Goal, found: dict[str, dict[str, Result]]) -> CaseRecord:
    """The case of the record: what was measured of each processor, by name and processor."""
    case = case_record(goal.workload)
    case["results"] = {f"{who} on {name}": times for name, both in found.items() for who, times in both.items()}
    return case


def _cell(case: CaseRecord, name: str) -> str:
    """Time with the half width of its quartiles, and how many times as long NumPy takes."""
    ours, theirs = (case["results"][f"{who} on {name}"] for who in ("numba", "numpy"))
    low, high = ours["quartiles"]
    spread = f" ±{relative_spread(ours):.0%}" if low != high else ""
    return f"{duration(ours['median'])}{spread}, {theirs['median'] / ours['median']:.1f}x"


def header(names: list[str]) -> list[str]:
    """The first lines of the table, in Markdown."""
    columns = [*names, *(f"{name} / {names[0]}" for name in names[1:])]
    return [f"| case | {' | '.join(columns)} |", "|---" * (1 + len(columns)) + "|"]


def row(case: CaseRecord) -> str:
    """The line of a case; the last columns: how many times as long it takes as on the first processor."""
    names = _processors(case)
    first, *others = (medians(case)[f"numba on {name}"] for name in names)
    ratios = [three_digits(other / first) for other in others]
    return f"| {' | '.join([case['name'], *(_cell(case, name) for name in names), *ratios])} |"


def _processors(case: CaseRecord) -> list[str]:
    return [name.removeprefix("numba on ") for name in case["results"] if name.startswith("numba on ")]


def table(record: Record) -> list[str]:
    """Lines of Markdown of a run that was saved: how many times as long NumPy takes, and narrower processors."""
    names = _processors(record["cases"][0])
    columns = [*(f"NumPy / numba, {name}" for name in names), *(f"{name} / {names[0]}" for name in names[1:])]
    return [
        f"| case | {' | '.join(columns)} |",
        "|---" * (1 + len(columns)) + "|",
        *(f"| {' | '.join([case['name'], *_ratios(case, names)])} |" for case in record["cases"]),
    ]


def _ratios(case: CaseRecord, names: list[str]) -> list[str]:
    times = medians(case)
    first, *others = (times[f"numba on {name}"] for name in names)
    beside = [f"{times[f'numpy on {name}'] / times[f'numba on {name}']:.1f}" for name in names]
    return [*beside, *(three_digits(other / first) for other in others)]


def portability(arguments: Sequence[str]) -> int:
    """See the module."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.studies portability", description=str(__doc__).split("\n\n")[0]
    )
    parser.add_argument("processors", nargs="*", metavar="PROCESSOR", help=f"default: {' '.join(PROCESSORS)}")
    parser.add_argument("--cases", nargs="+", default=["*"], metavar="PATTERN", help="shell patterns of names of goals")
    parser.add_argument("--seconds", type=float, default=2.0, help="time per case and processor")
    parser.add_argument("--out", type=Path, help="write everything as JSON")
    parser.add_argument("--table", type=Path, metavar="FILE", help="measure nothing, print that JSON as Markdown")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parsed = parser.parse_args(arguments)
    if parsed.child:
        answer(parsed.seconds)
        return 0
    if parsed.table:
        print("\n".join(table(read(parsed.table))))
        return 0
    names = list(dict.fromkeys(parsed.processors or PROCESSORS))
    if unknown := sorted(set(names) - set(PROCESSORS)):
        parser.error(f"unknown processors {', '.join(unknown)}; there are {', '.join(PROCESSORS)}")
    cases = [case for case in CASES if any(fnmatch.fnmatch(case, pattern) for pattern in parsed.cases)]
    if not cases:
        parser.error(f"no case matches {' '.join(parsed.cases)}; there are {', '.join(CASES)}")
    record = beginning("portability", {"seconds": parsed.seconds, "threads": None})
    print("\n".join(header(names)))
    with contextlib.ExitStack() as stack:
        children = {name: stack.enter_context(start(name, parsed.seconds)) for name in names}
        for case in cases:
            record["cases"].append(compared(CASES[case], {name: ask(child, case) for name, child in children.items()}))
            print(row(record["cases"][-1]), flush=True)
    record["complete"] = True
    if parsed.out:
        write(record, parsed.out)
    return 0
