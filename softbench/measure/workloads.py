"""The workloads: named cases that `softbench run` and the asv suite both take, from this one table.

A case is an operation on logits of a shape and dtype, with the memory traffic that it cannot avoid declared
beside it, so that a time can be read as a fraction of what the machine's memory allows. Inputs are random, never
zeros (zeros compress, and make all exponentials equal), except `digits`: the logits of a trained classifier.
"""

from __future__ import annotations

import fnmatch
import functools
import importlib.util
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, NamedTuple

import numpy as np

from softbench.front.backend import Backend
from softbench.interface.dtypes import numpy_dtype

__all__ = [
    "CASES",
    "Case",
    "Inputs",
    "Traffic",
    "by_name",
    "digits_logits",
    "make_call",
    "make_inputs",
    "missing_extra",
    "select",
]

Op = Literal["softmax", "log_softmax", "logsumexp", "loss", "gradient", "loss_and_gradient"]
Suite = Literal["quick", "asv", "metrics"]

LOGIT_SCALE: Final = 4.0
"""Standard deviation of random logits: a few classes of a row matter, as in a classifier that has learned something."""

_SEED: Final = 20240131  # any constant: the same bits on every machine and in every process


class Traffic(NamedTuple):
    """Bytes that must cross between the cores and memory, at the least."""

    read: int
    written: int

    @property
    def total(self) -> int:
        """Read plus written."""
        return self.read + self.written


@dataclass(frozen=True, slots=True)
class Case:
    """One workload. ``shape`` is (N rows, K classes)."""

    name: str
    op: Op
    shape: tuple[int, int]
    dtype: str
    why: str
    """Why this op and shape is measured at all."""
    result: Literal["fresh", "out", "in place"] = "fresh"
    """Where an array result goes: a new array per call, page faults and all; one allocated before; over the logits."""
    target: Literal["none", "index", "soft"] = "none"
    logits: Literal["normal", "digits"] = "normal"
    bound: Literal["call", "memory"] = "memory"
    """Whether the time is that of the call itself (tiny inputs: a fraction of a memory limit would mean nothing)."""
    suites: frozenset[Suite] = frozenset()

    @property
    def elements(self) -> int:
        """Number of logits."""
        return self.shape[0] * self.shape[1]

    @property
    def itemsize(self) -> int:
        """Bytes per logit."""
        return numpy_dtype(self.dtype).itemsize

    @property
    def writes_array(self) -> bool:
        """Whether the result has the logits' shape."""
        return self.op not in ("logsumexp", "loss")

    @property
    def traffic(self) -> Traffic:
        """The floor: every input is read once and every result written once, whatever the implementation.

        Rows of classes that fit a cache need no more than this (`benchmarks` of rows beyond the last cache level do
        need a second read; they are held to the same floor, since what fits is a property of the machine).
        """
        array = self.elements * self.itemsize
        n = self.shape[0]
        labels = {"none": 0, "index": 8 * n, "soft": array}[self.target]
        per_row = {"logsumexp": self.itemsize * n, "loss": 0, "loss_and_gradient": 0}.get(self.op, 0)
        return Traffic(array + labels, per_row + (array if self.writes_array else 0))

    @property
    def ceiling(self) -> Literal["read", "copy", "update"]:
        """The memory operation that bounds it: reading, copying, or updating in place the same bytes."""
        if not self.writes_array:
            return "read"
        return "update" if self.result == "in place" else "copy"

    @property
    def memory(self) -> int:
        """Bytes that a comparison holds at once: inputs, results, and the arrays of the ceiling."""
        return 2 * (2 * self.elements * self.itemsize) + self.traffic.total


_MNIST = (60_000, 10)
_IMAGENET = (4096, 1000)
_GPT2 = (8192, 50_257)
_LLAMA3 = (512, 128_256)
_INDEX, _OUT = {"target": "index"}, {"result": "out"}


def _case(name: str, op: Op, shape: tuple[int, int], dtype: str, why: str, suites: str = "", **options: Any) -> Case:
    return Case(name, op, shape, dtype, why, suites=frozenset(suites.split()), **options)  # type: ignore[arg-type]


# Names say op, shape and dtype and never change their meaning: histories of results are keyed by them.
CASES: Final[tuple[Case, ...]] = (
    # Tiny: what a call costs before any arithmetic. A serving loop classifies one item at a time...
    _case("softmax-1x10-f32", "softmax", (1, 10), "float32", "one item, ten classes: the cost of a call", "quick asv",
          bound="call"),
    # ...and a training loop one small batch at a time.
    _case("softmax-64x10-f32", "softmax", (64, 10), "float32", "one small batch: the cost of a call", "quick",
          bound="call"),
    _case("loss_and_gradient-64x10-f32", "loss_and_gradient", (64, 10), "float32",
          "one training step on a small batch: the cost of a call", "quick asv", bound="call", target="index"),
    # Real logits, of a trained model: most rows have one dominant class, unlike random ones.
    _case("loss_and_gradient-digits-f64", "loss_and_gradient", (1797, 10), "float64",
          "real input: logits of a softmax regression trained on scikit-learn's digits", "quick asv metrics",
          target="index", logits="digits"),
    # MNIST: many rows of few classes, where a row per vector register wastes most lanes.
    _case("softmax-60000x10-f32", "softmax", _MNIST, "float32", "MNIST, whole set: many rows of few classes",
          "quick asv"),
    _case("loss_and_gradient-60000x10-f32", "loss_and_gradient", _MNIST, "float32",
          "MNIST, one full-batch training step", "quick asv", target="index"),
    # ImageNet: the middle of the road, a row fits the first-level cache.
    _case("softmax-4096x1000-f32", "softmax", _IMAGENET, "float32",
          "ImageNet: the middle of the road; a fresh result array per call", "quick asv metrics"),
    _case("softmax-4096x1000-f32-out", "softmax", _IMAGENET, "float32",
          "the same into a preallocated array: what page faults cost", "quick asv", **_OUT),
    # log_softmax of log_softmax is itself, so that repeated calls in place keep meaning the same work.
    _case("log_softmax-4096x1000-f32-inplace", "log_softmax", _IMAGENET, "float32",
          "in place: no second array, no write-allocate", "quick", result="in place"),
    _case("log_softmax-4096x1000-f32", "log_softmax", _IMAGENET, "float32", "the logarithm, without its cancellation",
          "asv"),
    _case("logsumexp-4096x1000-f32", "logsumexp", _IMAGENET, "float32", "read-only: half the traffic of softmax",
          "quick asv"),
    _case("loss-4096x1000-f32", "loss", _IMAGENET, "float32", "evaluation without a gradient: read-only", "",
          **_INDEX),
    _case("loss_and_gradient-4096x1000-f32", "loss_and_gradient", _IMAGENET, "float32",
          "ImageNet, one training step: loss and gradient from one reading", "quick asv metrics", **_INDEX),
    _case("loss_and_gradient-4096x1000-f32-soft", "loss_and_gradient", _IMAGENET, "float32",
          "distillation: a distribution per row as target", "", target="soft"),
    # float64 halves the lanes and doubles the bytes; it is the default of NumPy and SciPy users.
    _case("softmax-4096x1000-f64", "softmax", _IMAGENET, "float64", "double precision: twice the bytes", "quick asv"),
    # Half precision halves the bytes: what mixed-precision training hands over.
    _case("softmax-4096x1000-f16", "softmax", _IMAGENET, "float16", "half precision in and out", ""),
    # Language models: rows of 0.2 to 0.5 MB, arrays beyond every cache: the memory wall itself.
    _case("loss_and_gradient-8192x50257-f32-out", "loss_and_gradient", _GPT2, "float32",
          "GPT-2: 1.6 GB of logits", "", **_INDEX, **_OUT),
    _case("softmax-512x128256-f32-out", "softmax", _LLAMA3, "float32", "Llama 3 vocabulary: far beyond any cache",
          "", **_OUT),
    _case("loss_and_gradient-512x128256-f32-out", "loss_and_gradient", _LLAMA3, "float32",
          "Llama 3 vocabulary, one training step: far beyond any cache", "quick asv metrics", **_INDEX, **_OUT),
    _case("loss_and_gradient-4096x128256-f32-out", "loss_and_gradient", (4096, 128_256), "float32",
          "Llama 3 vocabulary, a full sequence: 2.1 GB of logits", "", **_INDEX, **_OUT),
    # Few huge rows: parallelism over rows alone leaves cores idle or caches useless.
    _case("softmax-32x1048576-f32-out", "softmax", (32, 1 << 20), "float32", "few huge rows: 4 MB each", "", **_OUT),
    # Tall and thin: two classes, where the work per row is less than any overhead per row.
    _case("softmax-1000000x2-f32", "softmax", (1_000_000, 2), "float32", "binary classification: overhead per row",
          "quick asv"),
)  # fmt: skip


class Inputs(NamedTuple):
    """Arrays of a case in host memory."""

    logits: np.ndarray[Any, Any]
    target: np.ndarray[Any, Any] | None


def by_name(name: str) -> Case:
    """The case of this name; KeyError."""
    for case in CASES:
        if case.name == name:
            return case
    raise KeyError(name)


def select(patterns: Iterable[str], dtype: str | None = None) -> list[Case]:
    """Cases by suite ("quick", "asv", "metrics", "all"), name or shell pattern, in the table's order.

    ``dtype`` puts every selected case into another dtype ("float64": ``softmax-64x10-f64`` and so on).
    ValueError naming a pattern that matches nothing.
    """
    wanted: set[str] = set()
    for pattern in patterns:
        names = {c.name for c in CASES if pattern == "all" or pattern in c.suites or fnmatch.fnmatch(c.name, pattern)}
        if not names:
            raise ValueError(f"no case matches {pattern!r}")
        wanted |= names
    cases = [case for case in CASES if case.name in wanted]
    return list({c.name: c for c in (_in_dtype(case, dtype) for case in cases)}.values()) if dtype else cases


_SUFFIX: Final = {"float16": "f16", "bfloat16": "bf16", "float32": "f32", "float64": "f64"}


def _in_dtype(case: Case, dtype: str) -> Case:
    name = case.name.replace(f"-{_SUFFIX[case.dtype]}", f"-{_SUFFIX[dtype]}")
    return replace(case, name=name, dtype=dtype)


def missing_extra(case: Case) -> str | None:
    """Why the input of a case cannot be made here, with the remedy; None if it can."""
    if case.logits == "digits" and importlib.util.find_spec("sklearn") is None:
        return 'needs scikit-learn for its digits (pip install "softbench[bench]")'
    if case.dtype == "bfloat16" and importlib.util.find_spec("ml_dtypes") is None:
        return "needs ml_dtypes for bfloat16 (pip install ml_dtypes)"
    return None


def make_inputs(case: Case) -> Inputs:
    """The arrays of a case: the same values on every machine. ImportError if `missing_extra` says so."""
    n, k = case.shape
    rng = np.random.Generator(np.random.SFC64(_SEED))
    dtype = numpy_dtype(case.dtype)
    if case.logits == "digits":
        trained, labels = digits_logits()
        return Inputs(trained.astype(dtype), labels)
    kind = dtype if dtype.name in ("float32", "float64") else np.dtype(np.float32)
    logits = rng.standard_normal((n, k), dtype=kind)
    logits *= kind.type(LOGIT_SCALE)
    target: np.ndarray[Any, Any] | None = None
    if case.target == "index":
        target = rng.integers(0, k, n)
    elif case.target == "soft":  # a teacher's probabilities
        weights = rng.standard_gamma(0.5, (n, k)) + 1e-3
        target = (weights / weights.sum(axis=1, keepdims=True)).astype(dtype)
    return Inputs(logits.astype(dtype, copy=False), target)


@functools.cache
def digits_logits() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Logits ``(1797, 10)`` float64 of a softmax regression trained on scikit-learn's digits, and the labels.

    The model of Zhao eq. (1): ``o = x W + b``, fitted by L-BFGS on our own loss and gradient, eq. (9)-(11).
    """
    from scipy.optimize import minimize
    from sklearn.datasets import load_digits

    from softbench.api import loss_and_gradient

    pixels, labels = load_digits(return_X_y=True)
    x = np.column_stack([pixels / 16.0, np.ones(len(pixels))])

    def objective(w: np.ndarray[Any, Any]) -> tuple[float, np.ndarray[Any, Any]]:
        weights = w.reshape(x.shape[1], 10)
        loss, gradient = loss_and_gradient(x @ weights, labels, backend="numpy")
        return float(loss) + 5e-5 * float(w @ w), (x.T @ gradient).ravel() + 1e-4 * w

    fit = minimize(objective, np.zeros(x.shape[1] * 10), jac=True, method="L-BFGS-B", options={"maxiter": 200})
    return x @ fit.x.reshape(x.shape[1], 10), labels


def make_call(case: Case, backend: Backend, inputs: Inputs, *, reduction: str = "mean") -> Callable[[], Any]:
    """A call of the case on a backend, without arguments: arrays are converted, and results allocated, here.

    In place, the call overwrites its own copy of the logits.
    """
    function = getattr(backend, case.op)
    logits = backend.asarray(inputs.logits)
    arguments: tuple[Any, ...] = (logits,)
    options: dict[str, Any] = {}
    if inputs.target is not None:
        arguments += (backend.asarray(inputs.target),)
        options["reduction"] = reduction
    if case.result == "in place":
        if backend.availability().kind == "cpu":
            arguments = (logits.copy(), *arguments[1:])
        options["out"] = arguments[0]
    elif case.result == "out":
        out = backend.asarray(np.zeros(case.shape, numpy_dtype(case.dtype)))
        options["out"] = out
    return functools.partial(function, *arguments, **options)
