"""Softmax and loss along another axis than the last, beside PyTorch: ``python -m benchmarks.strided [dtype]``."""

from __future__ import annotations

import math
import sys

import numpy as np

import softbench as sb
from softbench.measure.timing import Arm, interleave

CASES = (
    ((1000, 4096), 0),  # the transposed matrix
    ((8, 21, 512, 512), 1),  # segmentation, few classes
    ((4, 150, 256, 256), 1),  # segmentation, many classes
    ((64, 1000, 49), 1),  # dense prediction on a small map
)
SECONDS = 4.0


def arms(shape: tuple[int, ...], axis: int, dtype: str) -> dict[str, Arm]:
    import torch

    torch.set_num_threads(2)
    x = np.random.default_rng(0).normal(size=shape).astype(dtype)
    y = np.random.default_rng(1).integers(0, shape[axis], shape[:axis] + shape[axis + 1 :])
    be = sb.get_backend("numba")
    out = be.rows.empty(shape, x.dtype)
    tx, tout = torch.from_numpy(x), torch.empty(shape, dtype=getattr(torch, dtype))
    return {
        "softmax(out=)": Arm(lambda: be.softmax(x, axis=axis, out=out)),
        "softmax": Arm(lambda: be.softmax(x, axis=axis)),
        "log_softmax(out=)": Arm(lambda: be.log_softmax(x, axis=axis, out=out)),
        "loss_and_gradient(out=)": Arm(lambda: be.loss_and_gradient(x, y, axis=axis, out=out)),
        "torch softmax(out=)": Arm(lambda: torch.softmax(tx, axis, out=tout)),
        "torch softmax": Arm(lambda: torch.softmax(tx, axis)),
        "torch log_softmax(out=)": Arm(lambda: torch.log_softmax(tx, axis, out=tout)),
    }


def main(dtype: str = "float32") -> None:
    for shape, axis in CASES:
        timings = interleave(arms(shape, axis, dtype), SECONDS)
        print(f"{shape} axis {axis} {dtype}, ns per element: median (quartiles), and how many times as fast as torch")
        for name, timing in timings.items():
            median, low, high = (1e9 * t / math.prod(shape) for t in (timing.median, *timing.quartiles))
            peer = timings.get(f"torch {name}")
            ratio = f"{peer.median / timing.median:8.2f} x" if peer else ""
            print(f"  {name:26}{median:8.3f} ({low:.3f}-{high:.3f}){ratio}")


if __name__ == "__main__":
    main(*sys.argv[1:2])
