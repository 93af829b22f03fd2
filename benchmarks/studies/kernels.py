"""Studies of the numba kernels: instructions counted, one row on one thread, both ways around every threshold."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

import softbench as sb
from benchmarks.studies.common import add_dtype, add_seconds, parser, spread
from benchmarks.studies.goals import GOALS, medians, of_limit
from softbench.interface import IndexTarget
from softbench.measure.run import beginning
from softbench.measure.timing import Candidate, interleave
from softbench.results.record import Record, read, write

# -- cycles ------------------------------------------------------------------------------------------------------------

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
    """In `softbench_backends.numba.long_row_parts`."""
    does: str
    arguments: str
    """Pointers ``x``, ``e``, ``out``, numbers ``m``, ``f``, a count ``n``; constants leave nothing but the loop."""
    once: str
    """An instruction that there is one of for every vector."""
    rare: bool = False
    """Taken in place of another loop of ordinary rows."""


LOOPS: Final = (
    Loop("row_extrema", "maximum and minimum", "x n", r"vmax"),
    Loop("narrow_segment_sum", "exponentials and their sum", "x e n m True True 0 x m 0 0 False", r"vcmpeq"),
    Loop(
        "narrow_segment_sum",
        "the same, if a size exceeds the maximum's",
        "x e n m False True 0 x m 0 0 False",
        r"vcmpeq",
        True,
    ),
    Loop("write_narrow_probabilities", "results", "x e out n True m f False", r"vmul"),
)


def _assembly(loop: Loop, dtype: str) -> list[str]:
    """The loop, compiled for a dtype by itself."""
    from numba import njit, types

    from softbench_backends.numba import long_row_parts

    number = getattr(types, dtype)
    pointer = types.CPointer(number)
    kinds = {"x": pointer, "e": pointer, "out": pointer, "n": types.int64, "m": number, "f": number}
    given = [name for name in kinds if name in loop.arguments.split()]
    # Inlined, so that constants are constants for the compiler.
    part = njit(getattr(long_row_parts, loop.part).py_func, error_model="numpy", inline="always")
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
    arms = {"softmax": Candidate(lambda: rows.softmax(x, out)), "clock": Candidate(_clock(links))}
    timings = interleave(arms, seconds)
    median, low, high = (t * 64 / x.nbytes for t in (timings["softmax"].median, *timings["softmax"].quartiles))
    return timings["clock"].median / (links * LINK), (median, low, high)


def bounds(dtype: str, seconds: float) -> dict[str, Any]:
    """Of a dtype: instructions and least cycles of every loop, cycles measured, and the seconds of one."""
    loops = []
    for loop in LOOPS:
        kinds, size = counted(loop, dtype)
        loops.append({"does": loop.does, "rare": loop.rare, "instructions": kinds, "cycles": at_least(kinds, size)})
    cycle, measured = _measured(dtype, seconds)
    return {"loops": loops, "measured": [time / cycle for time in measured], "cycle": cycle}


def least(found: dict[str, Any]) -> float:
    """Cycles of 64 bytes in all loops that rows of ordinary range take."""
    return float(sum(loop["cycles"] for loop in found["loops"] if not loop["rare"]))


def cycles_table(record: Record) -> list[str]:
    """Lines of Markdown: the instructions of every loop, and what they add up to."""
    lines = [f"| 64 bytes of | loop | {' | '.join(KINDS)} | cycles >= |", "|---" * (3 + len(KINDS)) + "|"]
    for dtype, found in record["checks"]["cycles"].items():
        for loop in found["loops"]:
            numbers = [f"{number:.3g}" for number in (*loop["instructions"].values(), loop["cycles"])]
            lines.append(f"| {dtype} | {loop['does']} | {' | '.join(numbers)} |")
    for dtype, found in record["checks"]["cycles"].items():
        median, low, high = found["measured"]
        lines += [
            "",
            f"{dtype}: at least {least(found):.1f} cycles in all; measured {median:.1f} ({low:.1f}-{high:.1f})",
        ]
        lines[-1] += f" on one thread, rows of {CLASSES} classes in L2, at {1e-9 / found['cycle']:.2f} GHz."
    return lines


def predicted(goals: Record, cycles: Record, dtype: str) -> list[str]:
    """Lines of Markdown for the cases that move memory, in units of the time that their memory takes.

    Those whose loops are not counted, of logarithms and soft targets, are left out.
    """
    lines = ["| case | arithmetic | both at once - one after the other | measured |", "|---|---|---|---|"]
    known, found = {goal.name: goal for goal in GOALS}, cycles["checks"]["cycles"][dtype]
    for case in goals["cases"]:
        goal, times = known[case["name"]], medians(case)
        memory = times.get("copy", times.get("read"))
        if goal.dtype != dtype or memory is None or goal.op == "log_softmax" or goal.target == "soft":
            continue
        vectors = goal.shape[0] * goal.shape[1] * np.dtype(dtype).itemsize / 64
        each = least(found) - (found["loops"][-1]["cycles"] if goal.op == "loss" else 0.0)
        arithmetic = vectors * each * found["cycle"] / goals["machine"]["usable_cores"] / memory
        cells = (goal.name, f"{arithmetic:.2f}", f"{max(1.0, arithmetic):.2f} - {1.0 + arithmetic:.2f}")
        lines.append(f"| {' | '.join(cells)} | {of_limit(times['numba'], memory)} |")
    return lines


def cycles(arguments: Sequence[str]) -> int:
    """What bounds the numba backend, by counting instructions, beside what was measured.

    The inner loops of the kernels for long rows of ordinary range as LLVM compiles them for this processor: how many
    instructions of each kind 64 bytes take, and how many cycles that is at least where, as on Zen 4, two pipes multiply
    and compare, two others add, and an operation holds its pipe for a cycle, a 512-bit one for two. Beside it what 64
    bytes take by the clock, on one thread, rows in L2. With a file of the study ``goals`` from this machine: what its
    cases would take, in units of their memory's time, if arithmetic and memory overlapped, if one came after the other,
    and what they did take.
    """
    options = parser("cycles", cycles)
    add_seconds(options, 2.0, "measurement")
    options.add_argument("--goals", type=Path, metavar="FILE", help="what the study goals measured on this machine")
    options.add_argument("--out", type=Path, help="write everything as JSON")
    parsed = options.parse_args(arguments)
    record = beginning("cycles", {"seconds": parsed.seconds, "threads": None})
    record["checks"] = {"cycles": {dtype: bounds(dtype, parsed.seconds) for dtype in ("float32", "float64")}}
    record["complete"] = True
    print("\n".join(cycles_table(record)))
    if parsed.goals:
        for dtype in record["checks"]["cycles"]:
            print("\n".join(["", *predicted(read(parsed.goals), record, dtype)]))
    if parsed.out:
        write(record, parsed.out)
    return 0


# -- one row on one thread ---------------------------------------------------------------------------------------------

ROW_CLASSES: Final = (10, 64, 80, 256, 1000, 4096)
ELEMENTS: Final = 32_000  # a call stays on one thread, and its arrays in the L2 cache


def row_calls(k: int, dtype: str) -> tuple[int, dict[str, Callable[[], Any]]]:
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


def per_row(arguments: Sequence[str]) -> int:
    """What a row costs the numba backend on one thread, with all rows in the L2 cache.

    Nanoseconds per row by number of classes: what is left at few classes is done once per row, the slope is arithmetic.
    To see what a change is worth, run it before and after, on a quiet machine.
    """
    options = parser("per-row", per_row)
    add_dtype(options)
    add_seconds(options, 1.0, "number of classes")
    parsed = options.parse_args(arguments)
    table: dict[str, list[str]] = {}
    for k in ROW_CLASSES:
        n, functions = row_calls(k, parsed.dtype)
        timings = interleave({name: Candidate(call) for name, call in functions.items()}, parsed.seconds)
        for name, timing in timings.items():
            table.setdefault(name, []).append(spread(timing, 1e9 / n, 0))
    print(f"nanoseconds per row of {parsed.dtype}, one thread: median (quartiles)")
    print(f"{'classes':18}" + "".join(f"{k:>18}" for k in ROW_CLASSES))
    for name, cells in table.items():
        print(f"{name:18}" + "".join(f"{cell:>18}" for cell in cells))
    return 0


# -- thresholds --------------------------------------------------------------------------------------------------------


class Choice(NamedTuple):
    """Two ways at one size, and the one that is taken."""

    limit: str
    size: str
    ways: dict[str, Callable[[], Any]]
    taken: str


def choices(itemsize: int) -> Iterator[Choice]:
    """Sizes around every limit."""
    from softbench_backends.numba import NumbaBackend, short_rows, split_rows, threads
    from softbench_backends.numba.dispatch import streams
    from softbench_backends.numba.kernels import Rows, callable_kernel

    backend, count = NumbaBackend(), threads.count()
    serial, split = threads.SERIAL_SIZE, split_rows.SHORTEST

    def arrays(n: int, k: int) -> tuple[Any, Any]:
        x = np.random.default_rng(0).normal(size=(n, k)).astype(f"f{itemsize}")
        return x, backend.empty(x.shape, x.dtype)

    def alone(n: int, k: int, taken: Rows) -> Callable[[], Any]:
        kernel, (x, out) = callable_kernel("softmax", f"float{8 * itemsize}", taken, False), arrays(n, k)
        return lambda: kernel(x, out, 0, n, False)

    def together(n: int, k: int, taken: Rows) -> Callable[[], Any]:
        kernel, args = callable_kernel("softmax", f"float{8 * itemsize}", taken, True), arrays(n, k)
        return lambda: kernel(args, n, min(count, n), streams(*args))

    short = short_rows.LONGEST[itemsize]
    for k in sorted({4, short // 4, short // 2, short, max(short_rows.LONGEST.values())}):
        ways = {
            "many rows at once": alone(ELEMENTS // k, k, Rows.SHORT),
            "row by row": alone(ELEMENTS // k, k, Rows.LONG),
        }
        yield Choice("short_rows.LONGEST", f"{k} classes", ways, "many rows at once" if k <= short else "row by row")
    for size in (serial // 8, serial // 2, serial, 4 * serial):
        for k, shape in ((8, Rows.SHORT), (1024, Rows.LONG)):
            ways = {"one thread": alone(size // k, k, shape), "all threads": together(size // k, k, shape)}
            taken = "one thread" if size <= serial else "all threads"
            yield Choice("threads.SERIAL_SIZE", f"{size // k}x{k}", ways, taken)
    for k in (split // 4, split, 16 * split, 64 * split):
        for n in sorted({1, count // 2, count, 2 * count}):
            ways = {"a row to a thread": together(n, k, Rows.LONG), "rows shared out": together(n, k, Rows.SPLIT)}
            taken = "rows shared out" if k >= split and n < count else "a row to a thread"
            yield Choice("split_rows.SHORTEST", f"{n}x{k}", ways, taken)


def thresholds(arguments: Sequence[str]) -> int:
    """Both ways of computing around every size where the numba backend changes its way.

    One line for every size: microseconds either way, softmax with ``out=``, and which way the backend takes
    there. Run it to see whether the limits suit a machine.
    """
    options = parser("thresholds", thresholds)
    add_dtype(options)
    add_seconds(options, 0.5, "line")
    parsed = options.parse_args(arguments)
    print(f"microseconds, {parsed.dtype}: median (quartiles); * the way that is taken")
    for choice in choices(np.dtype(parsed.dtype).itemsize):
        timings = interleave({way: Candidate(call) for way, call in choice.ways.items()}, parsed.seconds)
        cells = [
            f"{'*' if way == choice.taken else ' '} {way} {spread(timing, 1e6, 1)}" for way, timing in timings.items()
        ]
        print(f"{choice.limit:22}{choice.size:16}" + "".join(f"{cell:48}" for cell in cells).rstrip(), flush=True)
    return 0
