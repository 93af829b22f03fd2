"""The numba backend on narrower processors than this one, against plain NumPy.

    python -m benchmarks.portability [haswell x86-64 ...] [--seconds S] [--out FILE.json]

For each processor a process of its own, for which Numba compiles, and NumPy chooses its loops, as if they ran there:
``haswell`` has AVX2 with fused multiply-add, ``x86-64`` what every such processor has. What is measured is the code for
that processor on this one. The cases are those of `benchmarks.goals` in float32; NumPy is the expression that one
writes without a library, and takes its turns with the backend in one process.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.goals import GOALS, Goal, _numba, _spread
from softbench import machine
from softbench.timing import Arm, interleave
from softbench.units import duration

SCHEMA: Final = "softbench.portability/1"
NATIVE: Final = "native"
PROCESSORS: Final = (NATIVE, "haswell", "x86-64")
CASES: Final = tuple(goal for goal in GOALS if goal.dtype == "float32")


def _numpy(goal: Goal, x: np.ndarray, y: np.ndarray) -> Callable[[], Any]:
    """The case in plain NumPy: the maximum, one exponential, one sum."""
    axis, rows = goal.axis, np.arange(len(y))
    out = np.zeros_like(x)

    def softmax() -> Any:
        p = out if goal.out else np.empty_like(x)
        np.subtract(x, x.max(axis, keepdims=True), out=p)
        np.exp(p, out=p)
        p /= p.sum(axis, keepdims=True)
        return p

    def loss() -> Any:
        top = x.max(axis)
        e = np.exp(x - top[:, None])
        return np.mean(np.log(e.sum(axis)) + (top - x[rows, y]))

    def loss_and_gradient() -> Any:
        top = x.max(axis)
        np.subtract(x, top[:, None], out=out)
        np.exp(out, out=out)
        total = out.sum(axis)
        value = np.mean(np.log(total) + (top - x[rows, y]))
        np.divide(out, (total * len(y))[:, None], out=out)
        out[rows, y] -= 1 / len(y)
        return value, out

    return {"softmax": softmax, "loss": loss, "loss_and_gradient": loss_and_gradient}[goal.op]


def measure(seconds: float) -> None:
    """The child's side: one JSON line a case, compiled for whatever processor the environment names."""
    for goal in CASES:
        rng = np.random.Generator(np.random.SFC64(1))
        x = rng.standard_normal(goal.shape, dtype=np.float32) * np.float32(4.0)
        y = rng.integers(0, goal.shape[1], goal.shape[0])
        arms = {"numba": Arm(_numba(goal, x, y)), "numpy": Arm(_numpy(goal, x, y))}
        timings = interleave(arms, seconds)
        print(
            json.dumps({"name": goal.name, **{name: _spread(timing) for name, timing in timings.items()}}), flush=True
        )


def _has(name: str, kind: str) -> bool:
    """Whether the processor of that name has what NumPy calls a kind of SIMD extensions."""
    return name == "haswell" and kind != "X86_V4" and not kind.startswith("AVX512")


def processor(name: str, seconds: float) -> list[dict[str, Any]]:
    """Every case on the processor of that name."""
    named = {}
    if name != NATIVE:
        beyond = [kind for kind in np.show_config("dicts")["SIMD Extensions"]["found"] if not _has(name, kind)]
        named = {"NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": "", "NPY_DISABLE_CPU_FEATURES": " ".join(beyond)}
    command = [sys.executable, "-m", "benchmarks.portability", "--child", "--seconds", str(seconds)]
    done = subprocess.run(command, env={**os.environ, **named}, stdout=subprocess.PIPE, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def _cell(entry: dict[str, Any]) -> str:
    """Time with the half width of its quartiles, and how many times NumPy's time that is."""
    ours, theirs = entry["numba"], entry["numpy"]
    low, high = ours["quartiles"]
    spread = (high - low) / 2 / ours["median"]
    return f"{duration(ours['median'])} ±{spread:.0%}, {theirs['median'] / ours['median']:.1f}x"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.portability", description=__doc__.split("\n\n")[0])
    parser.add_argument("processors", nargs="*", default=PROCESSORS, help=f"default: {' '.join(PROCESSORS)}")
    parser.add_argument("--seconds", type=float, default=2.0, help="time per case and processor")
    parser.add_argument("--out", type=Path, help="write everything as JSON")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parsed = parser.parse_args()
    if parsed.child:
        measure(parsed.seconds)
        return 0
    found = {name: processor(name, parsed.seconds) for name in parsed.processors}
    if parsed.out:
        surroundings = {"machine": machine.fingerprint(), "versions": machine.versions(), "threads": machine.threads()}
        record = {"schema": SCHEMA, **surroundings, "processors": found}
        parsed.out.write_text(json.dumps(record, indent=1) + "\n")
    print(f"| case | {' | '.join(found)} |")
    print("|---" * (1 + len(found)) + "|")
    for entries in zip(*found.values(), strict=True):
        print(f"| {entries[0]['name']} | " + " | ".join(map(_cell, entries)) + " |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
