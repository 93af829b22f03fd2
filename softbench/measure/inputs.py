"""The arrays of a workload, and the call that is timed.

Inputs are random, never zeros (zeros compress, and make all exponentials equal), except ``digits``: the logits of a
trained classifier. They are the same values on every machine and in every process.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from softbench.front.backend import Backend
from softbench.interface.dtypes import numpy_dtype
from softbench.measure.workloads import Workload

__all__ = ["Inputs", "digits_logits", "keep_digits", "make_call", "make_inputs", "missing_extra", "own_logits"]

LOGIT_SCALE: Final = 4.0
"""Standard deviation of random logits: a few classes of a row matter, as in a classifier that has learned something."""

_SEED: Final = 20240131  # any constant
_LARGEST_IN_HEAP: Final = (1 << 25) - (1 << 16)
"""Bytes of the largest block that glibc's malloc can keep for the next one: its threshold grows to 32 MiB."""


class Inputs(NamedTuple):
    """Arrays of a workload in host memory."""

    logits: np.ndarray[Any, Any]
    """Probabilities for ``log_loss``."""
    target: np.ndarray[Any, Any] | None


def missing_extra(workload: Workload) -> str | None:
    """Why the input of a workload cannot be made here, with the remedy; None if it can."""
    if workload.logits == "digits" and importlib.util.find_spec("sklearn") is None:
        return 'needs scikit-learn for its digits (pip install "softbench[bench]")'
    if workload.dtype == "bfloat16" and importlib.util.find_spec("ml_dtypes") is None:
        return "needs ml_dtypes for bfloat16 (pip install ml_dtypes)"
    return None


def make_inputs(workload: Workload, digits: Path | None = None) -> Inputs:
    """The arrays of a workload: the same values on every machine. ImportError if `missing_extra` says so.

    ``digits``: a file of `keep_digits`; without it, the classifier is trained here. The process is left with an
    allocator that keeps the memory of large arrays, as in a program that has worked with such arrays before.
    """
    _settle_allocator()
    rng = np.random.Generator(np.random.SFC64(_SEED))
    dtype = numpy_dtype(workload.dtype)
    if workload.logits == "digits":
        trained, labels = digits_logits() if digits is None else _kept(digits)
        return Inputs(trained.astype(dtype), labels)
    if workload.op == "log_loss":
        logits = _distributions(rng, workload)
    else:
        kind = dtype if dtype.name in ("float32", "float64") else np.dtype(np.float32)
        logits = rng.standard_normal(workload.shape, dtype=kind)
        logits *= kind.type(LOGIT_SCALE)
    target: np.ndarray[Any, Any] | None = None
    if workload.target == "index":
        target = rng.integers(0, workload.classes, workload.outer)
    elif workload.target == "soft":  # a teacher's probabilities
        target = _distributions(rng, workload).astype(dtype)
    return Inputs(logits.astype(dtype, copy=False), target)


def _distributions(rng: np.random.Generator, workload: Workload) -> np.ndarray[Any, Any]:
    weights = rng.standard_gamma(0.5, workload.shape) + 1e-3
    found: np.ndarray[Any, Any] = weights / weights.sum(axis=workload.axis, keepdims=True)
    return found


def _settle_allocator() -> None:
    """Have malloc keep freed arrays for later ones, up to 32 MiB each.

    glibc's learns from the blocks that are freed which sizes to keep, and gives the rest back to the system, whose
    pages then have to be made again in every call. What it has learned depends on what the process did before: without
    this, SciPy's softmax of 4096x1000 float32 took 9 ms in one process and 19 ms in another.
    """
    np.empty(_LARGEST_IN_HEAP, np.uint8)


def keep_digits(path: Path) -> None:
    """Write `digits_logits` into a file, for the `make_inputs` of other processes: training takes seconds."""
    logits, labels = digits_logits()
    np.savez(path, logits=logits, labels=labels)


def _kept(path: Path) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    with np.load(path) as found:
        return found["logits"], found["labels"]


@functools.cache
def digits_logits() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Logits ``(1797, 10)`` float64 of a softmax regression trained on scikit-learn's digits, and the labels.

    The model of Zhao eq. (1): ``o = x W + b``, fitted by L-BFGS on our own loss and gradient, eq. (9)-(11).
    """
    from scipy.optimize import minimize
    from sklearn.datasets import load_digits

    from softbench.losses import loss_and_gradient

    pixels, labels = load_digits(return_X_y=True)
    x = np.column_stack([pixels / 16.0, np.ones(len(pixels))])

    def objective(w: np.ndarray[Any, Any]) -> tuple[float, np.ndarray[Any, Any]]:
        weights = w.reshape(x.shape[1], 10)
        loss, gradient = loss_and_gradient(x @ weights, labels, backend="numpy")
        return float(loss) + 5e-5 * float(w @ w), (x.T @ gradient).ravel() + 1e-4 * w

    fit = minimize(objective, np.zeros(x.shape[1] * 10), jac=True, method="L-BFGS-B", options={"maxiter": 200})
    return x @ fit.x.reshape(x.shape[1], 10), labels


def make_call(
    workload: Workload, backend: Backend, inputs: Inputs, *, reduction: str = "mean", logits: Any = None
) -> Callable[[], Any]:
    """A call of the workload on a backend, without arguments: arrays are converted, and results allocated, here.

    In place, the call overwrites its own copy of the logits. ``logits``: those of the inputs, converted already. A
    library that cannot write into given memory makes a new result: no copy of ours is timed as if it were its own.
    """
    function = getattr(backend, workload.op)
    if logits is None:
        logits = own_logits(workload, backend, inputs)
    arguments: tuple[Any, ...] = (logits,)
    options: dict[str, Any] = {} if workload.axis == -1 else {"axis": workload.axis}
    if inputs.target is not None:
        arguments += (backend.asarray(inputs.target),)
        options["reduction"] = reduction
    if not fills_out(backend, workload.op):
        pass
    elif workload.result == "in place":
        options["out"] = logits
    elif workload.result == "out":
        options["out"] = backend.asarray(np.zeros(workload.shape, numpy_dtype(workload.dtype)))
    call = functools.partial(function, *arguments, **options)
    return (lambda: backend.rows.computed(call())) if getattr(backend.rows, "lazy", False) else call


def fills_out(backend: Backend, op: str) -> bool:
    """Whether the backend's own library writes results of ``op`` into given memory."""
    filled = getattr(backend.rows, "writes_out", None)
    return filled is None or op in filled


def own_logits(workload: Workload, backend: Backend, inputs: Inputs) -> Any:
    """The logits as the backend takes them: a copy where the workload overwrites them."""
    in_place = workload.result == "in place" and backend.availability().kind == "cpu"
    return backend.asarray(inputs.logits.copy() if in_place else inputs.logits)
