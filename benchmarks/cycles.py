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
from softbench.measure.timing import Arm, interleave
from softbench.results.units import duration

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
    arguments: str
    """Pointers ``x``, ``e``, ``out``, numbers ``m``, ``f``, a count ``n``; constants leave nothing but the loop."""
    once: str
    """An instruction that there is one of for every vector."""
    rare: bool = False
    """Taken in place of another loop of ordinary rows."""


LOOPS: Final = (
    Loop("row_extrema", "maximum and minimum", "x n", r"vmax"),
    Loop("near_tile_sum", "exponentials and their sum", "x e n m True True 0 x m 0 0", r"vcmpeq"),
    Loop("near_tile_sum", "the same, if a size exceeds the maximum's", "x e n m False True 0 x m 0 0", r"vcmpeq", True),
    Loop("near_write", "results", "x e out n True m f False", r"vmul"),
)


def _assembly(loop: Loop, dtype: str) -> list[str]:
    """The loop, compiled for a dtype by itself."""
    from numba import njit, types

    from softbench_backends.numba import rows

    number = getattr(types, dtype)
    pointer = types.CPointer(number)
    kinds = {"x": pointer, "e": pointer, "out": pointer, "n": types.int64, "m": number, "f": number}
    given = [name for name in kinds if name in loop.arguments.split()]
    # Inlined, so that constants are constants for the compiler.
    part = njit(getattr(rows, loop.part).py_func, error_model="numpy", inline="always")
    probe = eval(f"lambda {', '.join(given)}: part({', '.join(loop.arguments.split())})", {"part": part})
    dispatcher = njit(probe, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)
    dispatcher.compile(tuple(kinds[name] for name in given))
    return [line.strip() for line in dispatcher.inspect_asm(dispatcher.signatures[0]).splitlines()]


def _inner_loops(lines: list[str]) -> list[list[str]]:
    """Instructions from the target of every backward jump to the jump."""
    labels = {line[:-1]: at for at, line in enumerate(lines) if re.fullmatch(r"\.\w+:", line)}
    jumps = [(at, re.match(r"j\w+\s+(\.\w+)", line)) for at, line in enumerate(lines)]
    return [lines[labels[jump[1]] : at] for at, jump in jumps if jump and labels.get(jump[1], at) < at]


def counted(loop: Loop, dtype: str) -> tuple[dict[str, float], int]:
    """Instructions by kind for 64 bytes, and bytes of the registers they work on."""
    loops = [[line for line in lines if re.search(r"%[xyz]mm", line)] for lines in _inner_loops(_assembly(loop, dtype))]
    best = max(loops, key=len)  # the others are for what is less than a group
    size = 64 if any("%zmm" in line for line in best) else 32 if any("%ymm" in line for line in best) else 16
    kinds = Counter(kind for line in best for kind, pattern in KINDS.items() if re.match(pattern, line))
    once = sum(bool(re.match(loop.once, line)) for line in best) * size / 64
    return {kind: kinds[kind] / once for kind in KINDS}, size


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
        cycles = at_least(kinds, size)
        print(f"| {loop.does} | " + " | ".join(f"{number:.3g}" for number in kinds.values()) + f" | {cycles:.3g} |")
        if not loop.rare:
            total, last = total + cycles, cycles
    cycle, (median, low, high) = _measured(parsed.dtype, parsed.seconds)
    took = f"{median / cycle:.1f} ({low / cycle:.1f}-{high / cycle:.1f})"
    print(f"at least {total:.1f} cycles; measured, {parsed.dtype} rows of {CLASSES} on one thread in L2: {took}")
    print(f"clock: {1e-9 / cycle:.2f} GHz")
    if parsed.goals:
        print("\n".join(predicted(json.loads(parsed.goals.read_text()), parsed.dtype, total, last, cycle)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
