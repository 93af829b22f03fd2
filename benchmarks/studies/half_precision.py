"""Studies of half precision: numba against PyTorch and against its own float32, and the memory that calls take."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import numpy as np

import softbench as sb
from benchmarks.studies.common import add_seconds, parser, spread
from softbench import processes
from softbench.interface.dtypes import numpy_dtype
from softbench.measure.timing import Candidate, interleave

HALVES: Final = ("float16", "bfloat16")
SHAPES: Final = ((64, 10), (60_000, 10), (4096, 1000), (512, 128_256))
OPS: Final = ("softmax", "log_softmax", "loss", "loss_and_gradient")


def _logits(shape: tuple[int, int], dtype: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal(shape, dtype=np.float32).astype(numpy_dtype(dtype))
    return x, rng.integers(0, shape[1], shape[0])


def _ours(op: str, shape: tuple[int, int], dtype: str, backend: str = "numba") -> Callable[[], Any]:
    """A call of the backend; results of the logits' shape go to ``out``."""
    x, labels = _logits(shape, dtype)
    out, function = np.zeros_like(x), getattr(sb.get_backend(backend), op)
    if op == "loss":
        return lambda: function(x, labels)
    if op == "loss_and_gradient":
        return lambda: function(x, labels, out=out)
    return lambda: function(x, out=out)


def _torch(op: str, shape: tuple[int, int], dtype: str) -> Callable[[], Any]:
    """The same call of PyTorch, with ``out=`` where there is such an argument."""
    import torch

    torch.set_num_threads(2)
    x, labels = _logits(shape, "float32")
    logits, target = torch.from_numpy(x).to(getattr(torch, dtype)), torch.from_numpy(labels)
    if op in ("softmax", "log_softmax"):
        out, function = torch.zeros_like(logits), getattr(torch, op)
        return lambda: function(logits, 1, out=out)
    cross_entropy = torch.nn.functional.cross_entropy

    def forward() -> Any:
        with torch.no_grad():
            return cross_entropy(logits, target)

    leaf = logits.clone().requires_grad_()

    def forward_backward() -> None:
        leaf.grad = None
        cross_entropy(leaf, target).backward()

    return forward if op == "loss" else forward_backward


def cells(op: str, shape: tuple[int, int], seconds: float) -> Iterator[str]:
    """Microseconds in float32, then for each half: microseconds, torch over ours, our float32 over ours."""
    calls = {"float32": _ours(op, shape, "float32")}
    for dtype in HALVES:
        calls[dtype], calls[f"torch {dtype}"] = _ours(op, shape, dtype), _torch(op, shape, dtype)
    timings = interleave({name: Candidate(call) for name, call in calls.items()}, seconds)
    yield spread(timings["float32"], 1e6, 1)
    for dtype in HALVES:
        ours = timings[dtype]
        yield spread(ours, 1e6, 1)
        yield f"{timings[f'torch {dtype}'].median / ours.median:.2f}"
        yield f"{timings['float32'].median / ours.median:.2f}"


def half_precision(arguments: Sequence[str]) -> int:
    """The numba backend in float16 and bfloat16, beside PyTorch in the same dtype and our own float32.

    All take turns in one process. One line for each function and shape: microseconds, median (quartiles), and how many
    times as long PyTorch and our float32 take. Results go to existing arrays, where there is ``out``; PyTorch's loss
    and gradient is the forward and backward pass.
    """
    options = parser("half-precision", half_precision)
    add_seconds(options, 2.0, "line")
    options.add_argument("--shape", action="append", metavar="NxK", help="one of the shapes only; may be repeated")
    parsed = options.parse_args(arguments)
    shapes = [tuple(map(int, shape.split("x"))) for shape in parsed.shape] if parsed.shape else SHAPES
    print("| case | float32 us | " + " | ".join(f"{dtype} us | torch | float32" for dtype in HALVES) + " |")
    print("|---" * (2 + 3 * len(HALVES)) + "|")
    for shape in shapes:
        for op in OPS:
            n, k = shape
            print(f"| {op} {n}x{k} | {' | '.join(cells(op, (n, k), parsed.seconds))} |", flush=True)
    return 0


# -- backends for which the front converts ---------------------------------------------------------------------------


def half_precision_elsewhere(arguments: Sequence[str]) -> int:
    """How many times as long float16 and bfloat16 take as float32 in the numpy and python backends.

    The arrays of ``python`` have a thousandth of the rows.
    """
    options = parser("half-precision-elsewhere", half_precision_elsewhere)
    add_seconds(options, 2.0, "line")
    parsed = options.parse_args(arguments)
    for backend, shapes in (("numpy", SHAPES[:3]), ("python", ((64, 10), (4, 1000)))):
        for shape in shapes:
            for op in OPS:
                calls = {dtype: _ours(op, shape, dtype, backend) for dtype in ("float32", *HALVES)}
                timings = interleave({name: Candidate(call) for name, call in calls.items()}, parsed.seconds)
                wide = timings["float32"].median
                ratios = ", ".join(f"{dtype} {timings[dtype].median / wide:.2f}" for dtype in HALVES)
                print(f"{backend} {op} {shape[0]}x{shape[1]}: {ratios}", flush=True)
    return 0


# -- memory -----------------------------------------------------------------------------------------------------------

MEMORY_SHAPE: Final = (512, 65_536)
"""64 MiB in half precision, so 128 in float32; a row is short beside it."""


def extra_memory(op: str, dtype: str, target: str) -> int:
    """Bytes by which a call in this process raises its peak memory, when input, output and kernels are there."""
    import resource

    be = sb.get_backend("numba")
    x, labels = _logits(MEMORY_SHAPE, dtype)
    out, arguments = np.zeros_like(x), [x]
    if target == "index":
        arguments.append(labels)
    elif target == "soft":
        arguments.append(np.zeros_like(x))
        arguments[1][:, 0] = 1
    function = getattr(be, op)
    options = {} if op in ("loss", "logsumexp", "argmax") else {"out": out}
    few = {name: value[:2] for name, value in options.items()}
    function(*(a[:2] for a in arguments), **few)  # compiles
    unit = 1 if sys.platform == "darwin" else 1024
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    function(*arguments, **options)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit


MEMORY_CALLS: Final = (
    ("argmax", ""),
    ("logsumexp", ""),
    ("softmax", ""),
    ("log_softmax", ""),
    ("loss", "index"),
    ("loss", "soft"),
    ("loss_and_gradient", "index"),
    ("loss_and_gradient", "soft"),
)


def memory(arguments: Sequence[str]) -> int:
    """What calls of the numba backend in half precision take in memory beside input and output.

    Each call has a process of its own, in which input, output and compiled kernels are there already; by how much it
    raises the peak of resident memory. A copy of the input in float32 would be 128 MiB.
    """
    options = parser("half-precision-memory", memory)
    options.add_argument("--child", nargs=3, metavar=("OP", "DTYPE", "TARGET"), help=argparse.SUPPRESS)
    parsed = options.parse_args(arguments)
    if parsed.child:
        print(json.dumps(extra_memory(*parsed.child)))
        return 0
    size = 2 * math.prod(MEMORY_SHAPE) / 2**20
    print(f"MiB beside input and output of {size:g} MiB each, {MEMORY_SHAPE[0]}x{MEMORY_SHAPE[1]}")
    for op, target in MEMORY_CALLS:
        found = [memory_in_fresh_process(op, dtype, target) / 2**20 for dtype in HALVES]
        line = ", ".join(f"{dtype} {extra:.1f}" for dtype, extra in zip(HALVES, found, strict=True))
        print(f"{op} {target}: {line}", flush=True)
    return 0


def memory_in_fresh_process(op: str, dtype: str, target: str) -> int:
    """`extra_memory` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.studies", "half-precision-memory", "--child", op, dtype, target]
    out = processes.run(command, limit=600.0).checked()
    return int(json.loads(out))
