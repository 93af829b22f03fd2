"""What the public call costs on arrays so small that nothing else does: ``python -m benchmarks.overhead``.

Interleaved with PyTorch where that is installed. The rows of a breakdown call one layer less each.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import softbench as sb
from softbench.measure.timing import Arm, interleave

SECONDS = 6.0


def arms(n: int, k: int) -> dict[str, Arm]:
    x = np.random.default_rng(0).normal(size=(n, k)).astype(np.float32)
    labels = np.arange(n) % k
    out, losses = np.empty_like(x), np.empty(n)
    be = sb.get_backend("numba")
    calls: dict[str, Any] = {
        "softmax": lambda: sb.softmax(x, backend="numba"),
        "softmax(out=)": lambda: sb.softmax(x, out=out, backend="numba"),
        "loss": lambda: sb.loss(x, labels, backend="numba"),
        "loss_and_gradient": lambda: sb.loss_and_gradient(x, labels, backend="numba"),
        "  softmax of the backend object": lambda: be.softmax(x),
        "  softmax of the row kernels": lambda: be.rows.softmax(x, out),
        "  numpy.empty": lambda: np.empty(x.shape, x.dtype),
    }
    calls["  loss of the row kernels"] = _row_loss(be, x, labels, losses)
    try:
        import torch
        from torch.nn.functional import cross_entropy
    except ImportError:
        return {name: Arm(call) for name, call in calls.items()}
    torch.set_num_threads(2)
    tx, tl = torch.from_numpy(x), torch.from_numpy(labels)
    leaf = tx.clone().requires_grad_()

    def forward_backward() -> None:
        leaf.grad = None
        cross_entropy(leaf, tl).backward()

    calls["torch softmax"] = lambda: torch.softmax(tx, 1)
    calls["torch loss"] = lambda: cross_entropy(tx, tl)
    calls["torch loss_and_gradient"] = forward_backward
    return {name: Arm(call) for name, call in calls.items()}


def _row_loss(be: sb.Backend, x: np.ndarray, labels: np.ndarray, losses: np.ndarray) -> Any:
    from softbench.interface import IndexTarget

    target = IndexTarget(labels)
    return lambda: be.rows.loss(x, target, losses)


def main() -> None:
    for n, k in ((1, 10), (64, 10)):
        timings = interleave(arms(n, k), SECONDS)
        print(f"({n}, {k}) float32, microseconds per call: median (quartiles), and how many times as fast as torch")
        for name, timing in timings.items():
            low, high = (1e6 * q for q in timing.quartiles)
            peer = timings.get(f"torch {name.removesuffix('(out=)')}")
            ratio = f"{peer.median / timing.median:8.2f} x" if peer else ""
            print(f"  {name:34}{1e6 * timing.median:8.2f} ({low:.2f}-{high:.2f}){ratio}")


if __name__ == "__main__":
    main()
