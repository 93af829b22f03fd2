"""What the first call of the numba backend takes in a fresh process: ``python -m benchmarks.firstcall [--repeats N]``.

Cold with an empty cache on disk, then from the cache that this has left; the median of several pairs of processes. The
clock starts when NumPy and softbench are imported and the logits are there; importing Numba is part of the call.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Final

import numpy as np

COLD_GOAL, CACHED_GOAL = 3.0, 0.4
"""Seconds."""

CASES: Final = tuple(
    (op, shape)
    for op in ("softmax", "loss", "loss_and_gradient")
    for shape in ((64, 10), (8192, 10), (4, 1000), (4096, 1000))
)
"""float32: short and long rows, few and so many that all threads take part."""


def first_call(op: str, n: int, k: int) -> float:
    """Seconds of the first call in this process."""
    import softbench as sb

    x = np.random.default_rng(0).standard_normal((n, k), dtype=np.float32)
    arguments = (x,) if op == "softmax" else (x, np.arange(n) % k)
    call = getattr(sb.get_backend("numba"), op)
    start = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - start


def in_fresh_process(op: str, shape: tuple[int, int], cache: str) -> float:
    """`first_call` in a process of its own, with that cache."""
    command = [sys.executable, "-m", "benchmarks.firstcall", "--child", op, *map(str, shape)]
    done = subprocess.run(
        command, env={**os.environ, "NUMBA_CACHE_DIR": cache}, stdout=subprocess.PIPE, text=True, check=True
    )
    return float(json.loads(done.stdout))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.firstcall", description=__doc__.split("\n\n")[0])
    parser.add_argument("--repeats", type=int, default=3, help="pairs of processes per case")
    parser.add_argument("--child", nargs=3, metavar=("OP", "N", "K"), help=argparse.SUPPRESS)
    parsed = parser.parse_args()
    if parsed.child:
        op, n, k = parsed.child
        print(json.dumps(first_call(op, int(n), int(k))))
        return
    print(f"first call, float32, seconds: cold (goal {COLD_GOAL:g}), from the cache (goal {CACHED_GOAL:g})")
    for op, shape in CASES:
        cold, cached = [], []
        for _ in range(parsed.repeats):
            with tempfile.TemporaryDirectory() as cache:
                cold.append(in_fresh_process(op, shape, cache))
                cached.append(in_fresh_process(op, shape, cache))
        cells = (f"{statistics.median(times):.2f} ({min(times):.2f}-{max(times):.2f})" for times in (cold, cached))
        print(f"  {op:18}{shape[0]:>5} x {shape[1]:<5}" + "  ".join(cells), flush=True)


if __name__ == "__main__":
    main()
