"""What bounds the numba backend, by counting instructions, beside what was measured.

    python -m benchmarks.cycles [--dtype float64] [--goals FILE.json]

The inner loops of the kernels for long rows of ordinary range as LLVM compiles them for this processor: how many
instructions of each kind 64 bytes take, and how many cycles that is at least where, as on Zen 4, two pipes multiply and
compare, two others add, and an operation holds its pipe for a cycle, a 512-bit one for two. Beside it what 64 bytes
take by the clock, on one thread, rows in L2. With a file of `benchmarks.goals` from this machine: what its cases would
take if arithmetic and memory overlapped, if one came after the other, and what they did take.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

import softbench as sb
from benchmarks.goals import GOALS
from softbench.timing import Arm, interleave
from softbench.units import duration

KINDS: Final = {
    "multiply": r"vf[n]?m\w+|vmul\w+",
    "compare": r"vcmp\w+|vmax\w+|vmin\w+",
    "add": r"vadd\w+|vsub\w+",
    "other": r"vcvt\w+|vp\w+|vextract\w+|vperm\w+|vshuf\w+|vblend\w+",
}
"""Of vector instructions, by mnemonic; those that only move data are left out."""

ROWS, CLASSES = 8, 4096
"""A call stays on one thread, and its arrays in the L2 cache."""

LINK: Final = 4
"""Cycles of an integer multiplication and a bit operation that waits for it, on x86-64 cores of the last ten years."""


class Loop(NamedTuple):
    """The inner loop of a part of a kernel."""

    part: str
    """In `softbench_backends.numba.rows`."""
    does: str
    once: str
    """An instruction that there is one of for every vector."""
    without: str = r"$^"
    """Loops with such an instruction are other ones."""


# `near_tile_sum` writes the row behind besides, where results are streamed: that is the last loop's work, done early.
LOOPS: Final = (
    Loop("row_extrema", "maximum and minimum", r"vmax"),
    Loop("near_tile_sum", "exponentials and their sum", r"vcmpeq"),
    Loop("near_write", "results", r"vmul", without=r"vf\w+"),
)


def _assembly(part: str, dtype: str) -> list[str]:
    """A part of the kernels, compiled for a dtype by itself."""
    from numba import njit, types

    from softbench_backends.numba import rows

    number = getattr(types, dtype)
    p = types.CPointer(number)
    count, flag = types.int64, types.boolean
    arguments = {
        "row_extrema": (p, count),
        "near_tile_sum": (p, p, count, number, flag, count, p, number, count, count),
        "near_write": (p, p, p, count, flag, number, number),
    }[part]
    dispatcher = njit(getattr(rows, part).py_func, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)
    dispatcher.compile(arguments)
    return [line.strip() for line in dispatcher.inspect_asm(dispatcher.signatures[0]).splitlines()]


def _inner_loops(lines: list[str]) -> list[list[str]]:
    """Instructions from the target of every backward jump to the jump."""
    labels = {line[:-1]: at for at, line in enumerate(lines) if re.fullmatch(r"\.\w+:", line)}
    jumps = [(at, re.match(r"j\w+\s+(\.\w+)", line)) for at, line in enumerate(lines)]
    return [lines[labels[jump[1]] : at] for at, jump in jumps if jump and labels.get(jump[1], at) < at]


def counted(loop: Loop, dtype: str) -> tuple[dict[str, float], int]:
    """Instructions by kind for 64 bytes, and bytes of the registers they work on."""
    best: list[str] = []
    for lines in _inner_loops(_assembly(loop.part, dtype)):
        vectors = [line for line in lines if re.search(r"%[xyz]mm", line)]
        if not any(re.match(loop.without, line) for line in vectors) and len(vectors) > len(best):
            best = vectors
    size = 64 if any("%zmm" in line for line in best) else 32 if any("%ymm" in line for line in best) else 16
    kinds = Counter(kind for line in best for kind, pattern in KINDS.items() if re.match(pattern, line))
    once = sum(bool(re.match(loop.once, line)) for line in best) * size / 64
    # What the row behind takes in the loop of another part is counted there.
    early = sum("vmovnt" in line for line in best)
    return {kind: (kinds[kind] - (early if kind == "multiply" else 0)) / once for kind in KINDS}, size


def at_least(kinds: dict[str, float], size: int) -> float:
    """Cycles that Zen 4 needs for these instructions on registers of ``size`` bytes."""
    return max(kinds["multiply"] + kinds["compare"], kinds["add"]) * max(1, size // 32) / 2


def _clock(links: int) -> Callable[[], Any]:
    """A call that takes ``links`` times `LINK` cycles, and little else."""
    from numba import njit

    @njit
    def chain(n: int, h: int) -> int:
        for _ in range(n):
            h = (h * 6364136223846793005) ^ 1  # two links of a sum would become one
        return h

    return lambda: chain(links, 1)


def _measured(dtype: str, seconds: float) -> tuple[float, tuple[float, float, float]]:
    """Seconds of a cycle; of 64 bytes on one thread in L2, the median and the quartiles."""
    rows = sb.get_backend("numba").rows
    x = np.random.default_rng(0).normal(size=(ROWS, CLASSES)).astype(dtype)
    out, links = np.empty_like(x), 100_000
    arms = {"softmax": Arm(lambda: rows.softmax(x, out)), "clock": Arm(_clock(links))}
    timings = interleave(arms, seconds)
    median, low, high = (t * 64 / x.nbytes for t in (timings["softmax"].median, *timings["softmax"].quartiles))
    return timings["clock"].median / (links * LINK), (median, low, high)


def predicted(record: dict[str, Any], dtype: str, cycles: float, results: float, cycle: float) -> list[str]:
    """Lines of Markdown for the cases that move memory; 64 bytes take ``cycles``, ``results`` of them to be written."""
    lines = ["| case | memory | arithmetic | both at once - one after the other | measured |", "|---|---|---|---|---|"]
    goals = {goal.name: goal for goal in GOALS}
    for entry in record["goals"]:
        goal, medians = goals[entry["name"]], {name: time["median"] for name, time in entry["times"].items()}
        memory = medians.get("copy", medians.get("read"))
        if goal.dtype != dtype or memory is None:
            continue
        vectors = goal.shape[0] * goal.shape[1] * np.dtype(dtype).itemsize / 64
        each = cycles - results if goal.op == "loss" else cycles
        arithmetic = vectors * each * cycle / record["machine"]["usable_cores"]
        bounds = f"{duration(max(memory, arithmetic))} - {duration(memory + arithmetic)}"
        cells = (goal.name, duration(memory), duration(arithmetic), bounds, duration(medians["numba"]))
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cycles", description=__doc__.split("\n\n")[0])
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--seconds", type=float, default=2.0, help="for the measurement")
    parser.add_argument("--goals", type=Path, metavar="FILE", help="what benchmarks.goals measured on this machine")
    parsed = parser.parse_args()
    print("| 64 bytes | " + " | ".join(KINDS) + " | cycles >= |")
    print("|---" * (2 + len(KINDS)) + "|")
    total = last = 0.0
    for loop in LOOPS:
        kinds, size = counted(loop, parsed.dtype)
        total += (last := at_least(kinds, size))
        print(f"| {loop.does} | " + " | ".join(f"{number:.3g}" for number in kinds.values()) + f" | {last:.3g} |")
    cycle, (median, low, high) = _measured(parsed.dtype, parsed.seconds)
    took = f"{median / cycle:.1f} ({low / cycle:.1f}-{high / cycle:.1f})"
    print(f"at least {total:.1f} cycles; measured, {parsed.dtype} rows of {CLASSES} on one thread in L2: {took}")
    print(f"clock: {1e-9 / cycle:.2f} GHz")
    if parsed.goals:
        print("\n".join(predicted(json.loads(parsed.goals.read_text()), parsed.dtype, total, last, cycle)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
