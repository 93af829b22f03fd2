"""Checks of a GPU backend besides the conformance kit: where another kernel takes over, and beyond 2^31 elements."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import numpy as np

from softbench.accuracy import judging
from softbench.interface.dtypes import numpy_dtype
from softbench.machine import usable_cores
from softbench.measure.gpu.libraries import BackendLibrary, Host
from softbench.registry import get_backend

__all__ = ["check_boundaries", "check_large", "check_linear"]

DTYPES: Final = ("float32", "bfloat16", "float64", "float16")
MOST_AT_ONCE: Final = 16
LINEAR: Final = ((60_000, 784, 10), (6_000, 256, 1000))
"""Rows, features and classes: several chunks of rows each."""
SUM_GATE: Final = 64.0
"""Of a gradient, in u sum_i abs(g_ik x_ij), as in the conformance kit."""
LARGE: Final = (1 << 31) + 1
LARGE_CLASSES: Final = (1000, 131072)
ROOM: Final = 1.1  # of the bytes of input and result: the allocator's own, labels


def check_boundaries(library: BackendLibrary, end: float) -> dict[str, Any]:
    """Every function against the gates for rows of each K at which the backend changes its kernel, and just beyond it.

    Just beyond are K + 1, where elements are read one by one, and the next K that 16 bytes divide. Kernels are compiled
    when first asked for, so several shapes are judged at once, which keeps all cores of the host busy.

    Until ``end`` (of `time.perf_counter`). Returns the number of results ``judged``, the ``failures`` as sentences, and
    the shapes ``left_out`` for lack of time.
    """
    found: dict[str, Any] = {"judged": 0, "failures": [], "left_out": []}
    shapes = []
    for dtype in DTYPES:
        try:
            width = 16 // numpy_dtype(dtype).itemsize
        except ImportError:
            found["left_out"].append(f"{dtype}: needs ml_dtypes")
            continue
        ks = {k for most in library.boundaries(dtype) for k in (most, most + 1, (most // width + 1) * width)}
        shapes += [(dtype, k) for k in sorted(ks)]
    pool = ThreadPoolExecutor(min(usable_cores(), MOST_AT_ONCE))
    try:
        for part in [pool.submit(_judge_shape, library, dtype, k, end) for dtype, k in shapes]:
            verdict = part.result()
            for key, value in verdict.items():
                found[key] += value
    finally:
        pool.shutdown(cancel_futures=True)
    return found


def _judge_shape(library: BackendLibrary, dtype: str, k: int, end: float) -> dict[str, Any]:
    found: dict[str, Any] = {"judged": 0, "failures": [], "left_out": []}
    if time.perf_counter() > end:
        found["left_out"].append(f"{dtype} K={k}")
        return found
    rng = np.random.default_rng(k)
    x = (4.0 * rng.standard_normal((3, k))).astype(numpy_dtype(dtype))
    try:
        library.upload(x)
    except (TypeError, ValueError) as error:  # the library's arrays have no such dtype
        found["left_out"].append(f"{dtype} K={k}: {error}")
        return found
    _judge_rows(library, x, rng.integers(0, k, 3), found)
    return found


def _judge_rows(library: BackendLibrary, x: Host, labels: Host, found: dict[str, Any]) -> None:
    """Judge every function on a few rows; an exception of one is a failure of that one."""
    n, k = x.shape
    for op, options in _calls():
        try:
            target = (labels,) if op in ("loss", "gradient") else ()
            there = [library.upload(array) for array in (x, *target)]
            result = library.download(getattr(library.backend, op)(*there, **options))
            verdict = judging.judge(op, result, x, *target, **options)
            problem = "" if verdict.ok else verdict.message
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
        found["judged"] += 1
        if problem:
            found["failures"].append(f"{op} {n}x{k} {x.dtype.name} {options or ''}: {problem}")


def _calls() -> Iterator[tuple[str, dict[str, Any]]]:
    yield from ((op, {}) for op in ("logsumexp", "softmax", "log_softmax"))
    for op in ("loss", "gradient"):
        yield op, {"reduction": "none"}
        yield op, {"reduction": "none", "label_smoothing": 0.1}


def check_linear(library: BackendLibrary) -> dict[str, Any]:
    """Loss and gradients of linear logits of so many rows that they come in chunks, against NumPy in float64.

    Features and coefficients are such that every logit is a float32, whatever the order of its sum.
    """
    found: dict[str, Any] = {"judged": 0, "failures": [], "left_out": []}
    for n, p, k in LINEAR:
        rng = np.random.default_rng(k)
        x = rng.integers(-4, 5, (n, p)).astype(np.float32)
        w, b = ((rng.integers(-8, 9, shape) / 64).astype(np.float32) for shape in ((k, p), (k,)))
        labels = rng.integers(0, k, n)
        there = [library.upload(array) for array in (x, w, b, labels)]
        for ignored in (None, 0):
            try:
                found_here = library.backend.linear_loss_and_gradient(*there, ignore_index=ignored)
                problem = _linear_problem([library.download(part) for part in found_here], x, w, b, labels, ignored)
            except Exception as error:
                problem = f"{type(error).__name__}: {error}"
            found["judged"] += 1
            if problem:
                found["failures"].append(
                    f"linear_loss_and_gradient {n}x{p}x{k} float32, ignore_index={ignored}: {problem}"
                )
    return found


def _linear_problem(got: list[Host], x: Host, w: Host, b: Host, labels: Host, ignored: int | None) -> str:
    """What is wrong with a loss and gradients; empty if nothing is."""
    numpy = get_backend("numpy")
    x, w, b = (array.astype(np.float64) for array in (x, w, b))
    loss, *due = numpy.linear_loss_and_gradient(x, w, b, labels, ignore_index=ignored)
    u = np.finfo(np.float32).eps / 2
    if not abs(got[0] - loss) <= 8 * u * loss:
        return f"loss {got[0]!r}, expected {loss!r}"
    g = np.abs(numpy.gradient(x @ w.T + b, labels, ignore_index=ignored))
    for name, part, expected, size in zip(
        ("coef", "intercept"), got[1:], due, (g.T @ np.abs(x), g.sum(axis=0)), strict=True
    ):
        error = np.abs(part - expected) / (u * size + np.finfo(np.float64).tiny)
        if not (error <= SUM_GATE).all():
            return f"gradient of {name} is off by {error.max():.3g} units, gate {SUM_GATE:g}"
    return ""


def check_large(library: BackendLibrary) -> dict[str, Any]:
    """Softmax, and loss with gradient, of more than 2^31 float16 elements: the first and the last two rows are judged.

    As `check_boundaries`; a device without the memory is named in ``left_out``.
    """
    found: dict[str, Any] = {"judged": 0, "failures": [], "left_out": []}
    needed, free = int(ROOM * 2 * 2 * LARGE), library.clock.free_bytes()
    if free < needed:
        found["left_out"].append(f"{LARGE} elements: needs {needed >> 20} MiB of device memory, free are {free >> 20}")
        return found
    for k in LARGE_CLASSES:
        n = -(-LARGE // k)
        some = np.array([0, 1, n - 2, n - 1])
        rng = np.random.default_rng(k)
        few = (4.0 * rng.standard_normal((4, k))).astype(np.float16)
        labels = np.zeros(n, np.int64)
        labels[some] = rng.integers(0, k, 4)
        host = np.zeros((n, k), np.float16)
        host[some] = few
        x, y = library.upload(host), library.upload(labels)
        del host
        for op in ("softmax", "loss_and_gradient"):
            for name, result in _large_results(library, op, x, y):
                ends = np.concatenate([library.download(result[:2]), library.download(result[-2:])])
                target = (labels[some],) if name != "softmax" else ()
                options: dict[str, Any] = {"reduction": "none"} if target else {}
                verdict = judging.judge(name, ends, few, *target, **options)
                found["judged"] += 1
                if not verdict.ok:
                    found["failures"].append(f"{name} {n}x{k} float16: {verdict.message}")
    return found


def _large_results(library: BackendLibrary, op: str, x: Any, y: Any) -> list[tuple[str, Any]]:
    if op == "softmax":
        return [("softmax", library.backend.softmax(x))]
    loss, gradient = library.backend.loss_and_gradient(x, y, reduction="none")
    return [("loss", loss), ("gradient", gradient)]
