"""What a row costs the numba backend on one thread, with all rows in the L2 cache: ``python -m benchmarks.per_row``.

Nanoseconds per row by number of classes: what is left at few classes is done once per row, the slope is arithmetic. To
see what a change is worth, run it before and after, on a quiet machine.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, Final

import numpy as np

import softbench as sb
from softbench.interface import IndexTarget
from softbench.measure.timing import Arm, interleave

CLASSES: Final = (10, 64, 80, 256, 1000, 4096)
ELEMENTS: Final = 32_000  # a call stays on one thread, and its arrays in the L2 cache


def calls(k: int, dtype: str) -> tuple[int, dict[str, Callable[[], Any]]]:
    """Number of rows, and by function a call of the row kernel on that many."""
    rows = sb.get_backend("numba").rows
    n = max(1, ELEMENTS // k)
    x = np.random.default_rng(0).normal(size=(n, k)).astype(dtype)
    out, numbers, losses, target = np.empty_like(x), np.empty(n, dtype), np.empty(n), IndexTarget(np.arange(n) % k)
    return n, {
        "softmax": lambda: rows.softmax(x, out),
        "log_softmax": lambda: rows.log_softmax(x, out),
        "logsumexp": lambda: rows.logsumexp(x, numbers),
        "loss": lambda: rows.loss(x, target, losses),
        "loss_and_gradient": lambda: rows.loss_and_gradient(x, target, 1.0, losses, out),
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.per_row", description=__doc__.split("\n\n")[0])
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--seconds", type=float, default=1.0, help="per number of classes")
    options = parser.parse_args()
    table: dict[str, list[str]] = {}
    for k in CLASSES:
        n, functions = calls(k, options.dtype)
        timings = interleave({name: Arm(call) for name, call in functions.items()}, options.seconds)
        for name, timing in timings.items():
            low, high = (1e9 * q / n for q in timing.quartiles)
            table.setdefault(name, []).append(f"{1e9 * timing.median / n:.0f} ({low:.0f}-{high:.0f})")
    print(f"nanoseconds per row of {options.dtype}, one thread: median (quartiles)")
    print(f"{'classes':18}" + "".join(f"{k:>18}" for k in CLASSES))
    for name, cells in table.items():
        print(f"{name:18}" + "".join(f"{cell:>18}" for cell in cells))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
