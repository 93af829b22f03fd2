"""Largest errors of the CuPy kernels, in ulp: source executed on the CPU, on no card.

``python benchmarks/gpu_accuracy.py [DTYPE ...]`` builds the kernels with a C++ compiler (a minute per dtype, once) and
judges normal logits of three sizes, and of one size at offsets up to 3000, by the oracle; a minute per dtype.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

CLASSES = {"2-5": (2, 3, 4, 5), "10-100": (10, 33, 100), "600-3001": (600, 1000, 3001), "5000-20000": (5000, 20000)}
ELEMENTS = 60_000
INPUTS = ((1.0, 0.0), (4.0, 0.0), (30.0, 0.0), (4.0, 3000.0))  # standard deviation, largest offset of a row
OPERATIONS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("softmax", {}),
    ("log_softmax", {}),
    ("logsumexp", {}),
    ("loss", {"reduction": "none"}),
    ("gradient", {"reduction": "none"}),
)


def worst(backend: Any, dtype: str, classes: tuple[int, ...]) -> dict[str, float]:
    """The largest error of each operation over rows of these numbers of classes."""
    from softbench.accuracy import gates
    from softbench.interface.dtypes import numpy_dtype

    found = dict.fromkeys((op for op, _ in OPERATIONS), 0.0)
    for k in classes:
        n = max(2, ELEMENTS // k)
        for i, (deviation, offset) in enumerate(INPUTS):
            rng = np.random.default_rng([n, k, i])
            x = deviation * rng.standard_normal((n, k)) + rng.uniform(-offset, offset, (n, 1))
            x = x.astype(numpy_dtype(dtype))
            labels = rng.integers(0, k, n)
            labels[::2] = np.argmax(x[::2].astype(np.float64), axis=1)
            for op, options in OPERATIONS:
                target = (labels,) if options else ()
                result = backend.to_numpy(getattr(backend, op)(x, *target, **options))
                found[op] = max(found[op], gates.judge(op, result, x, *target, **options).max_ulp)
    return found


def main(dtypes: list[str]) -> None:
    """Print the table."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from cuda_on_cpu import CupyOnCpu

    from softbench.front.backend import Backend

    backend = Backend(CupyOnCpu())
    print(f"{'':<10}{'classes':<12}" + "".join(f"{op:>13}" for op, _ in OPERATIONS))
    for dtype in dtypes:
        for name, classes in CLASSES.items():
            errors = worst(backend, dtype, classes)
            print(f"{dtype:<10}{name:<12}" + "".join(f"{error:>13.2f}" for error in errors.values()), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:] or ["float32", "float64", "float16", "bfloat16"])
