"""What bounds rows in the caches, by counting instructions, and what they take: ``python -m benchmarks.cycles``.

The inner loops of the numba backend's kernels for long rows of ordinary range (softmax with ``out=``, float32) as LLVM
compiles them for this processor: how many instructions of each kind 64 bytes take, and how many cycles that is at least
where, as on Zen 4, two pipes multiply and compare, two others add, and an operation holds its pipe for a cycle, a
512-bit one for two. Beside it what 64 bytes take by the clock, on one thread.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np

import softbench as sb
from softbench.timing import Arm, interleave

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


def _assembly(part: str) -> list[str]:
    """A part of the kernels, compiled for float32 by itself."""
    from numba import njit, types

    from softbench_backends.numba import rows

    p, number = types.CPointer(types.float32), types.float32
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


def counted(loop: Loop) -> tuple[dict[str, float], int]:
    """Instructions by kind for 64 bytes, and bytes of the registers they work on."""
    best: list[str] = []
    for lines in _inner_loops(_assembly(loop.part)):
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


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cycles", description=__doc__.split("\n\n")[0])
    parser.add_argument("--seconds", type=float, default=2.0, help="for the measurement")
    parsed = parser.parse_args()
    print(f"{'float32, for 64 bytes':30}" + "".join(f"{kind:>10}" for kind in KINDS) + f"{'cycles >=':>12}")
    total = 0.0
    for loop in LOOPS:
        kinds, size = counted(loop)
        total += (cycles := at_least(kinds, size))
        print(f"{loop.does:30}" + "".join(f"{number:>10.2f}" for number in kinds.values()) + f"{cycles:>12.2f}")
    print(f"{'all':30}{'':{10 * len(KINDS)}}{total:>12.2f}")

    rows = sb.get_backend("numba").rows
    x = np.random.default_rng(0).normal(size=(ROWS, CLASSES)).astype(np.float32)
    out, links = np.empty_like(x), 100_000
    timings = interleave({"softmax": Arm(lambda: rows.softmax(x, out)), "clock": Arm(_clock(links))}, parsed.seconds)
    cycle = timings["clock"].median / (links * LINK)
    vector = timings["softmax"].median / (x.size / 16)
    low, high = (quartile / (x.size / 16) / cycle for quartile in timings["softmax"].quartiles)
    print(f"measured: {vector / cycle:.2f} cycles ({low:.2f}-{high:.2f}), {1e9 * vector / 16:.3f} ns per element,")
    print(f"rows of {CLASSES} on one thread in L2, {1e-9 / cycle:.2f} GHz")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
