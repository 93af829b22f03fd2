"""Host time of calls of the CuPy backend, from the public function to where a kernel would be started.

``python benchmarks/gpu_calls.py`` runs without a card: NumPy stands in for CuPy, and starting a kernel does nothing. So
this counts what softbench adds to CuPy's own launches and allocations, and calls nothing of CuPy.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

SHAPE = (128, 1000)
CALLS = 20_000


class NoDevice:
    """Arrays of NumPy, and kernels that do nothing."""

    xp = np
    cache_bytes = staged_bytes = 50 << 20

    def launch(self, kernel: str, how: Any, arguments: Sequence[Any]) -> None:
        pass

    def adopt(self, obj: Any) -> Any:
        return obj

    def give(self, result: Any, like: Any) -> Any:
        return result

    def layout(self, array: Any) -> Any:
        from softbench.interface.host_arrays import Layout

        return Layout(array.flags.c_contiguous, True)

    def address(self, array: Any) -> int:
        return int(array.ctypes.data)

    def to_numpy(self, array: Any) -> Any:
        return array

    def synchronize(self) -> None:
        pass

    def capturing(self) -> bool:
        return False

    def info(self) -> dict[str, object]:
        return {}


def seconds(call: Callable[[], Any], calls: int = CALLS) -> float:
    """Of one call: the best of five rounds."""
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(calls // 5):
            call()
        best = min(best, (time.perf_counter() - start) / (calls // 5))
    return best


def calls() -> dict[str, Callable[[], Any]]:
    """By name, calls on a float32 array of `SHAPE`."""
    from softbench.front.backend import Backend
    from softbench_backends.cupy import CupyBackend

    backend = Backend(CupyBackend(NoDevice()))
    x, labels = np.zeros(SHAPE, np.float32), np.zeros(SHAPE[0], np.int64)
    out = np.empty_like(x)
    return {
        "softmax": lambda: backend.softmax(x),
        "softmax, out=": lambda: backend.softmax(x, out=out),
        "loss": lambda: backend.loss(x, labels, validate=False),
        "loss_and_gradient, out=": lambda: backend.loss_and_gradient(x, labels, validate=False, out=out),
    }


def main() -> None:
    """Print the table."""
    for name, call in calls().items():
        print(f"{name:<26}{seconds(call) * 1e6:8.1f} us")


if __name__ == "__main__":
    main()
