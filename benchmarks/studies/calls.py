"""Studies of whole calls: what the layers cost, another axis than the last, the first call of a process."""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

import softbench as sb
from benchmarks.studies.common import add_dtype, add_seconds, parser, print_beside
from softbench import processes
from softbench.measure.timing import Candidate, interleave

# -- what a call costs -------------------------------------------------------------------------------------------------


def layers(n: int, k: int) -> dict[str, Candidate]:
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
        return {name: Candidate(call) for name, call in calls.items()}
    torch.set_num_threads(2)
    tx, tl = torch.from_numpy(x), torch.from_numpy(labels)
    leaf = tx.clone().requires_grad_()

    def forward_backward() -> None:
        leaf.grad = None
        cross_entropy(leaf, tl).backward()

    calls["torch softmax"] = lambda: torch.softmax(tx, 1)
    calls["torch loss"] = lambda: cross_entropy(tx, tl)
    calls["torch loss_and_gradient"] = forward_backward
    return {name: Candidate(call) for name, call in calls.items()}


def _row_loss(be: sb.Backend, x: np.ndarray, labels: np.ndarray, losses: np.ndarray) -> Any:
    from softbench.interface import IndexTarget

    target = IndexTarget(labels)
    return lambda: be.rows.loss(x, target, losses)


def overhead(arguments: Sequence[str]) -> int:
    """What the public call costs on arrays so small that nothing else does.

    Interleaved with PyTorch where that is installed. The rows of a breakdown call one layer less each.
    """
    options = parser("overhead", overhead)
    add_seconds(options, 6.0, "shape")
    parsed = options.parse_args(arguments)
    for n, k in ((1, 10), (64, 10)):
        print(f"({n}, {k}) float32, microseconds per call: median (quartiles), and how many times as fast as torch")
        print_beside("torch", interleave(layers(n, k), parsed.seconds), 1e6, 2)
    return 0


# -- another axis than the last ----------------------------------------------------------------------------------------

AXES = (
    ((1000, 4096), 0),  # the transposed matrix
    ((8, 21, 512, 512), 1),  # segmentation, few classes
    ((4, 150, 256, 256), 1),  # segmentation, many classes
    ((64, 1000, 49), 1),  # dense prediction on a small map
)


def along_axis(shape: tuple[int, ...], axis: int, dtype: str) -> dict[str, Candidate]:
    import torch

    torch.set_num_threads(2)
    x = np.random.default_rng(0).normal(size=shape).astype(dtype)
    y = np.random.default_rng(1).integers(0, shape[axis], shape[:axis] + shape[axis + 1 :])
    be = sb.get_backend("numba")
    out = be.rows.empty(shape, x.dtype)
    tx, tout = torch.from_numpy(x), torch.empty(shape, dtype=getattr(torch, dtype))
    return {
        "softmax(out=)": Candidate(lambda: be.softmax(x, axis=axis, out=out)),
        "softmax": Candidate(lambda: be.softmax(x, axis=axis)),
        "log_softmax(out=)": Candidate(lambda: be.log_softmax(x, axis=axis, out=out)),
        "loss_and_gradient(out=)": Candidate(lambda: be.loss_and_gradient(x, y, axis=axis, out=out)),
        "torch softmax(out=)": Candidate(lambda: torch.softmax(tx, axis, out=tout)),
        "torch softmax": Candidate(lambda: torch.softmax(tx, axis)),
        "torch log_softmax(out=)": Candidate(lambda: torch.log_softmax(tx, axis, out=tout)),
    }


def strided(arguments: Sequence[str]) -> int:
    """Softmax and loss along another axis than the last, beside PyTorch."""
    options = parser("strided", strided)
    add_dtype(options)
    add_seconds(options, 4.0, "shape")
    parsed = options.parse_args(arguments)
    for shape, axis in AXES:
        timings = interleave(along_axis(shape, axis, parsed.dtype), parsed.seconds)
        print(
            f"{shape} axis {axis} {parsed.dtype}, ns per element: median (quartiles), how many times as fast as torch"
        )
        print_beside("torch", timings, 1e9 / math.prod(shape), 3)
    return 0


# -- soft targets -----------------------------------------------------------------------------------------------------

SOFT: Final = ((1, 10), (64, 10), (60_000, 10), (20_000, 64), (4096, 1000))


def with_distributions(n: int, k: int, dtype: str) -> dict[str, Candidate]:
    import torch

    torch.set_num_threads(2)
    rng = np.random.default_rng(0)
    x, q = rng.standard_normal((n, k)).astype(dtype), rng.dirichlet(np.ones(k), n).astype(dtype)
    be, out = sb.get_backend("numba"), np.empty_like(x)
    logits, target = torch.from_numpy(x), torch.from_numpy(q)
    leaf, cross_entropy = logits.clone().requires_grad_(), torch.nn.functional.cross_entropy

    def forward_backward() -> None:
        leaf.grad = None
        cross_entropy(leaf, target).backward()

    return {
        "loss": Candidate(lambda: be.loss(x, q)),
        "loss, not validated": Candidate(lambda: be.loss(x, q, validate=False)),
        "loss_and_gradient(out=)": Candidate(lambda: be.loss_and_gradient(x, q, out=out)),
        "torch loss": Candidate(lambda: cross_entropy(logits, target)),
        "torch loss_and_gradient": Candidate(forward_backward),
    }


def soft_targets(arguments: Sequence[str]) -> int:
    """Loss and gradient with distributions as targets, beside PyTorch, which does not look whether they are any."""
    options = parser("soft-targets", soft_targets)
    add_dtype(options)
    add_seconds(options, 3.0, "shape")
    parsed = options.parse_args(arguments)
    for n, k in SOFT:
        timings = interleave(with_distributions(n, k, parsed.dtype), parsed.seconds)
        print(f"({n}, {k}) {parsed.dtype}, us per call: median (quartiles), how many times as fast as torch")
        print_beside("torch", timings, 1e6, 1)
    return 0


# -- the first call of a process ---------------------------------------------------------------------------------------

COLD_GOAL, CACHED_GOAL = 3.0, 0.4
"""Seconds."""

FIRST_CALLS: Final = tuple(
    (op, shape)
    for op in ("softmax", "loss", "loss_and_gradient")
    for shape in ((64, 10), (8192, 10), (4, 1000), (4096, 1000))
)
"""float32: short and long rows, few and so many that all threads take part."""


def first_call(op: str, n: int, k: int) -> float:
    """Seconds of the first call in this process."""
    import softbench as sb

    x = np.random.default_rng(0).standard_normal((n, k), dtype=np.float32)
    arguments = (x,) if op == "softmax" else (x, np.arange(n) % k)
    call = getattr(sb.get_backend("numba"), op)
    start = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - start


def in_fresh_process(op: str, shape: tuple[int, int], cache: str) -> float:
    """`first_call` in a process of its own, with that cache."""
    command = [sys.executable, "-m", "benchmarks.studies", "first-calls", "--child", op, *map(str, shape)]
    done = processes.run(command, limit=600, env={**os.environ, "NUMBA_CACHE_DIR": cache})
    return float(json.loads(done.checked()))


def first_calls(arguments: Sequence[str]) -> int:
    """What the first call of the numba backend takes in a fresh process.

    Cold with an empty cache on disk, then from the cache that this has left; the median of several pairs of processes.
    The clock starts when NumPy and softbench are imported and the logits are there; importing Numba is part of it.
    """
    options = parser("first-calls", first_calls)
    options.add_argument("--repeats", type=int, default=3, help="pairs of processes per case")
    options.add_argument("--child", nargs=3, metavar=("OP", "N", "K"), help=argparse.SUPPRESS)
    parsed = options.parse_args(arguments)
    if parsed.child:
        op, n, k = parsed.child
        print(json.dumps(first_call(op, int(n), int(k))))
        return 0
    print(f"first call, float32, seconds: cold (goal {COLD_GOAL:g}), from the cache (goal {CACHED_GOAL:g})")
    for op, shape in FIRST_CALLS:
        cold, cached = [], []
        for _ in range(parsed.repeats):
            with tempfile.TemporaryDirectory() as cache:
                cold.append(in_fresh_process(op, shape, cache))
                cached.append(in_fresh_process(op, shape, cache))
        cells = (f"{statistics.median(times):.2f} ({min(times):.2f}-{max(times):.2f})" for times in (cold, cached))
        print(f"  {op:18}{shape[0]:>5} x {shape[1]:<5}" + "  ".join(cells), flush=True)
    return 0
