"""Both ways of computing around every size where the numba backend changes: ``python -m benchmarks.thresholds``.

One line for every size: microseconds either way, softmax with ``out=``, and which way the backend takes there
(`softbench_backends.numba.limits`). Run it to see whether the limits suit a machine.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

import numpy as np

from softbench.measure.timing import Arm, interleave

ELEMENTS: Final = 32_000  # of calls on one thread: the arrays stay in the L2 cache


class Choice(NamedTuple):
    """Two ways at one size, and the one that is taken."""

    limit: str
    size: str
    ways: dict[str, Callable[[], Any]]
    taken: str


def choices(itemsize: int) -> Iterator[Choice]:
    """Sizes around every limit."""
    from softbench_backends.numba import NumbaBackend, limits, threads
    from softbench_backends.numba.backend import streams

    backend, count = NumbaBackend(), threads.count()

    def arrays(n: int, k: int) -> tuple[Any, Any]:
        x = np.random.default_rng(0).normal(size=(n, k)).astype(f"f{itemsize}")
        return x, backend.empty(x.shape, x.dtype)

    def alone(n: int, k: int, shape: str) -> Callable[[], Any]:
        kernel, (x, out) = backend._entry("softmax", itemsize, shape, False), arrays(n, k)
        return lambda: kernel(x, out, 0, n, False)

    def together(n: int, k: int, shape: str) -> Callable[[], Any]:
        kernel, args = backend._entry("softmax", itemsize, shape, True), arrays(n, k)
        return lambda: threads.run(kernel, args, n, min(count, n), streams(*args))

    short = limits.SHORT[itemsize]
    for k in sorted({4, short // 4, short // 2, short, max(limits.SHORT.values())}):
        ways = {"many rows at once": alone(ELEMENTS // k, k, "short"), "row by row": alone(ELEMENTS // k, k, "long")}
        yield Choice("SHORT", f"{k} classes", ways, "many rows at once" if k <= short else "row by row")
    for size in (limits.SERIAL_SIZE // 8, limits.SERIAL_SIZE // 2, limits.SERIAL_SIZE, 4 * limits.SERIAL_SIZE):
        for k, shape in ((8, "short"), (1024, "long")):
            ways = {"one thread": alone(size // k, k, shape), "all threads": together(size // k, k, shape)}
            taken = "one thread" if size <= limits.SERIAL_SIZE else "all threads"
            yield Choice("SERIAL_SIZE", f"{size // k}x{k}", ways, taken)
    for k in (limits.HUGE // 4, limits.HUGE, 16 * limits.HUGE, 64 * limits.HUGE):
        for n in sorted({1, count // 2, count, 2 * count}):
            ways = {"a row to a thread": together(n, k, "long"), "rows shared out": together(n, k, "huge")}
            taken = "rows shared out" if k >= limits.HUGE and n < count else "a row to a thread"
            yield Choice("HUGE", f"{n}x{k}", ways, taken)


def main() -> int:
    """Print a line for every choice."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.thresholds", description=__doc__.split("\n\n")[0])
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--seconds", type=float, default=0.5, help="per line")
    options = parser.parse_args()
    print(f"microseconds, {options.dtype}: median (quartiles); * the way that is taken")
    for choice in choices(np.dtype(options.dtype).itemsize):
        timings = interleave({way: Arm(call) for way, call in choice.ways.items()}, options.seconds)
        cells = []
        for way, timing in timings.items():
            low, high = (1e6 * quartile for quartile in timing.quartiles)
            mark = "*" if way == choice.taken else " "
            cells.append(f"{mark} {way} {1e6 * timing.median:.1f} ({low:.1f}-{high:.1f})")
        print(f"{choice.limit:12}{choice.size:16}" + "".join(f"{cell:48}" for cell in cells).rstrip(), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
