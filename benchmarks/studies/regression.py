"""One evaluation of the objective of softmax regression: fused, and by two products of matrices.

``python -m benchmarks.studies regression-oracle``. Whole fits: ``softbench run --suite regression``.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

import softbench as sb
from benchmarks.studies.common import add_seconds, parser, spread
from softbench.measure.ceiling import ceiling
from softbench.measure.fits.data import DATA
from softbench.measure.timing import Candidate, interleave


def multiply_add_rate() -> float:
    """Operations a second, two a multiply-add, of the matrix product at its best: 1024 x 1024 float32."""
    a = np.ones((1024, 1024), np.float32)
    out = np.empty_like(a)
    timing = interleave({"product": Candidate(lambda: np.matmul(a, a, out=out))}, 1.0)["product"]
    return 2 * 1024**3 / min(timing.samples)


def evaluations(X: Any, y: Any, k: int) -> dict[str, Candidate]:
    """Ways to the loss and its gradient."""
    from threadpoolctl import threadpool_limits

    rng = np.random.default_rng(0)
    W = (0.03 * rng.normal(size=(k, X.shape[1]))).astype(X.dtype)
    b = np.zeros(k, X.dtype)
    be = sb.get_backend("numba")

    def two_products() -> Any:
        z = X @ W.T + b
        loss, g = be.loss_and_gradient(z, y, out=z)
        return loss, (X.T @ g).T, g.sum(axis=0)

    def on_one_thread() -> Any:
        with threadpool_limits(1, "blas"):
            return two_products()

    calls = {
        "fused": lambda: be.linear_loss_and_gradient(X, W, b, y),
        "fused, loss only": lambda: be.linear_loss(X, W, b, y),
        "two products": two_products,
        "two products, BLAS on one thread": on_one_thread,
    }
    return {name: Candidate(call) for name, call in calls.items()}


def oracle(arguments: Sequence[str]) -> int:
    """One evaluation of the loss and its gradient: fused, and by two products of matrices.

    Beside the limit: the larger of one parallel reading of X and 4 N p K operations at the rate of a matrix product.
    """
    options = parser("regression-oracle", oracle)
    options.add_argument("--data", action="append", choices=tuple(DATA), help="may be repeated (default: all)")
    add_seconds(options, 20.0, "data set")
    parsed = options.parse_args(arguments)
    rate = multiply_add_rate()
    print(
        f"multiply-adds: {rate / 1e9:.0f} Gflop/s; OPENBLAS_CORETYPE {os.environ.get('OPENBLAS_CORETYPE', 'not set')}"
    )
    for name in parsed.data or DATA:
        X, y = DATA[name].arrays()
        k = int(y.max()) + 1
        entries = X.data if hasattr(X, "indptr") else X
        read = ceiling("read", entries.nbytes)
        candidates = evaluations(X, y, k) | {"read": read.candidate}
        timings = interleave(candidates, parsed.seconds)
        limit = max(timings["read"].median, 4 * entries.size * k / rate)
        best = min(timing.median for way, timing in timings.items() if way.startswith("two"))
        fused = timings["fused"].median
        print(f"\n{name} {X.shape} {X.dtype}, {k} classes, milliseconds: median (quartiles)")
        for way, timing in timings.items():
            print(f"  {way:34} {spread(timing, 1e3, 2):>26}")
        print(f"  fused: {best / fused:.2f} times as fast as two products", end=", ")
        print(f"{limit / fused:.2f} of the limit of {1e3 * limit:.2f} ms")
    return 0
