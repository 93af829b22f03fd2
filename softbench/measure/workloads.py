"""The workloads: named cases that `softbench run`, the asv suite and the studies take, from this one table.

A workload is an operation on logits of a shape and dtype, with the memory traffic that it cannot avoid declared
beside it, so that a time can be read as a fraction of what the machine's memory allows. Its arrays are made by
`softbench.measure.inputs`.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final, Literal, NamedTuple, get_args

from softbench.interface.dtypes import numpy_dtype

__all__ = [
    "OPS",
    "WORKLOADS",
    "Traffic",
    "Workload",
    "by_name",
    "custom",
    "select",
    "workload_name",
]

Op = Literal[
    "argmax", "softmax", "log_softmax", "logsumexp", "log_loss", "loss", "gradient", "loss_and_gradient"
]  # fmt: skip
OPS: Final[tuple[Op, ...]] = get_args(Op)
Suite = Literal["quick", "standard", "asv", "metrics"]
Where = Literal["fresh", "out", "in place"]
TargetForm = Literal["none", "index", "soft"]

CALL_BYTES: Final = 1 << 16
"""Below this much traffic the time is that of the call itself."""

_LABELLED: Final = frozenset({"log_loss", "loss", "gradient", "loss_and_gradient"})
_ARRAYS: Final = frozenset({"softmax", "log_softmax", "gradient", "loss_and_gradient"})
_SUFFIX: Final = {"float16": "f16", "bfloat16": "bf16", "float32": "f32", "float64": "f64"}
_PLACE: Final[dict[Where, str]] = {"fresh": "", "out": "-out", "in place": "-inplace"}


class Traffic(NamedTuple):
    """Bytes that must cross between the cores and memory, at the least."""

    read: int
    written: int

    @property
    def total(self) -> int:
        """Read plus written."""
        return self.read + self.written


@dataclass(frozen=True, slots=True)
class Workload:
    """One operation on logits of one shape, dtype and form of target."""

    name: str
    op: Op
    shape: tuple[int, ...]
    """Of the logits; mostly ``(N, K)``: N rows of K classes."""
    dtype: str
    why: str = ""
    """Why this op and shape is measured at all."""
    result: Where = "fresh"
    """Where an array result goes: a new array per call, page faults and all; one allocated before; over the logits."""
    target: TargetForm = "none"
    axis: int = -1
    """Of the classes."""
    logits: Literal["normal", "digits"] = "normal"
    bound: Literal["call", "memory"] = "memory"
    """Whether the time is that of the call itself (tiny inputs: a fraction of a memory limit would mean nothing)."""
    suites: frozenset[Suite] = frozenset()

    @property
    def elements(self) -> int:
        """Number of logits."""
        return math.prod(self.shape)

    @property
    def classes(self) -> int:
        """K."""
        return self.shape[self.axis]

    @property
    def rows(self) -> int:
        """N."""
        return self.elements // self.classes

    @property
    def outer(self) -> tuple[int, ...]:
        """The shape without the axis of the classes: that of labels and of results per row."""
        axis = self.axis % len(self.shape)
        return self.shape[:axis] + self.shape[axis + 1 :]

    @property
    def itemsize(self) -> int:
        """Bytes per logit."""
        return numpy_dtype(self.dtype).itemsize

    @property
    def writes_array(self) -> bool:
        """Whether the result has the logits' shape."""
        return self.op in _ARRAYS

    @property
    def traffic(self) -> Traffic:
        """The floor: every input is read once and every result written once, whatever the implementation.

        Rows that fit a cache need no more than this. Rows beyond the last cache level do need a second read; they are
        held to the same floor, since what fits is a property of the machine.
        """
        array = self.elements * self.itemsize
        labels = {"none": 0, "index": 8 * self.rows, "soft": array}[self.target]
        per_row = {"logsumexp": self.itemsize, "argmax": 8}.get(self.op, 0) * self.rows
        return Traffic(array + labels, per_row + (array if self.writes_array else 0))

    @property
    def ceiling(self) -> Literal["read", "copy", "update"]:
        """The memory operation that bounds it: reading, copying, or updating in place the same bytes."""
        if not self.writes_array:
            return "read"
        return "update" if self.result == "in place" else "copy"

    def memory(self, candidates: int) -> int:
        """Bytes that a comparison of so many candidates holds at once.

        Each has the inputs and a result of its own, in a process of its own; the limit has two arrays.
        """
        array = self.elements * self.itemsize
        return candidates * (self.traffic.total + array) + 2 * array

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return found | {"shape": list(self.shape), "suites": sorted(self.suites)}

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Workload:
        """What `to_dict` gave."""
        return cls(**{**found, "shape": tuple(found["shape"]), "suites": frozenset(found["suites"])})


def workload_name(
    op: str, shape: Sequence[int] | str, dtype: str, result: Where = "fresh", target: str = "none", axis: int = -1
) -> str:
    """``op-NxK-dtype[-out|-inplace][-soft][-axis0]``: one meaning, for ever, since histories are keyed by names."""
    size = shape if isinstance(shape, str) else "x".join(map(str, shape))
    soft = "-soft" if target == "soft" else ""
    return f"{op}-{size}-{_SUFFIX[dtype]}{_PLACE[result]}{soft}{'' if axis == -1 else f'-axis{axis}'}"


def custom(
    op: str,
    shape: Sequence[int],
    dtype: str = "float32",
    *,
    result: Where = "fresh",
    target: TargetForm | None = None,
    axis: int = -1,
    why: str = "",
    suites: str = "",
) -> Workload:
    """A workload of any shape.

    Parameters
    ----------
    op
        One of `OPS`. Losses and gradients get a target of class indices unless ``target`` is ``"soft"``.
    shape
        Of the logits, at least one dimension, all of them positive.
    dtype
        float16, bfloat16, float32 or float64.
    result
        Where an array result goes; without effect on operations that return numbers per row.
    axis
        Of the classes.

    Raises
    ------
    ValueError
        An op, dtype, shape or axis that is none.
    """
    if op not in OPS:
        raise ValueError(f"op is {op!r}, expected one of {', '.join(OPS)}")
    if dtype not in _SUFFIX:
        raise ValueError(f"dtype is {dtype!r}, expected one of {', '.join(_SUFFIX)}")
    if not shape or min(shape) < 1:
        raise ValueError(f"shape is {tuple(shape)}, expected positive lengths")
    if not -len(shape) <= axis < len(shape):
        raise ValueError(f"axis is {axis}, which a shape of {len(shape)} dimensions does not have")
    axis = axis % len(shape)
    axis = -1 if axis == len(shape) - 1 else axis
    form: TargetForm = (target or "index") if op in _LABELLED else "none"
    made = Workload(
        name=workload_name(op, shape, dtype, result if op in _ARRAYS else "fresh", form, axis),
        op=op,
        shape=tuple(shape),
        dtype=dtype,
        why=why,
        result=result if op in _ARRAYS else "fresh",
        target=form,
        axis=axis,
        suites=frozenset(suites.split()),  # type: ignore[arg-type]
    )
    return replace(made, bound="call") if made.traffic.total < CALL_BYTES else made


_MNIST = (60_000, 10)
_IMAGENET = (4096, 1000)
_GPT2 = (8192, 50_257)
_LLAMA3 = (512, 128_256)
_EVERY: Final = "quick standard asv"
_DIGITS: Final = Workload(
    workload_name("loss_and_gradient", "digits", "float64"), "loss_and_gradient", (1797, 10), "float64",
    "real input: logits of a softmax regression trained on scikit-learn's digits", target="index", logits="digits",
    suites=frozenset({"quick", "standard", "asv", "metrics"}),
)  # fmt: skip

WORKLOADS: Final[tuple[Workload, ...]] = (
    # Tiny: what a call costs before any arithmetic. A serving loop classifies one item at a time...
    custom("softmax", (1, 10), why="one item, ten classes: the cost of a call", suites=_EVERY),
    # ...and a training loop one small batch at a time.
    custom("softmax", (64, 10), why="one small batch: the cost of a call", suites="standard"),
    custom("loss_and_gradient", (64, 10), why="one training step on a small batch: the cost of a call",
           suites="standard asv"),
    # Real logits, of a trained model: most rows have one dominant class, unlike random ones.
    _DIGITS,
    # MNIST: many rows of few classes, where a row per vector register wastes most lanes.
    custom("softmax", _MNIST, why="MNIST, whole set: many rows of few classes", suites="standard asv"),
    custom("loss_and_gradient", _MNIST, why="MNIST, one full-batch training step", suites="standard asv"),
    # ImageNet: the middle of the road, a row fits the first-level cache.
    custom("softmax", _IMAGENET, why="ImageNet: the middle of the road; a fresh result array per call",
           suites=f"{_EVERY} metrics"),
    custom("softmax", _IMAGENET, result="out", why="the same into a preallocated array: what page faults cost",
           suites="standard asv"),
    # log_softmax of log_softmax is itself, so that repeated calls in place keep meaning the same work.
    custom("log_softmax", _IMAGENET, result="in place", why="in place: no second array, no write-allocate",
           suites="standard"),
    custom("log_softmax", _IMAGENET, why="the logarithm, without its cancellation", suites="asv"),
    custom("logsumexp", _IMAGENET, why="read-only: half the traffic of softmax", suites="standard asv"),
    custom("loss", _IMAGENET, why="evaluation without a gradient: read-only"),
    custom("loss_and_gradient", _IMAGENET, why="ImageNet, one training step: loss and gradient from one reading",
           suites=f"{_EVERY} metrics"),
    custom("loss_and_gradient", _IMAGENET, target="soft", why="distillation: a distribution per row as target"),
    # float64 halves the lanes and doubles the bytes; it is the default of NumPy and SciPy users.
    custom("softmax", _IMAGENET, "float64", why="double precision: twice the bytes", suites="standard asv"),
    # Half precision halves the bytes: what mixed-precision training hands over.
    custom("softmax", _IMAGENET, "float16", why="half precision in and out"),
    # Language models: rows of 0.2 to 0.5 MB, arrays beyond every cache: the memory wall itself.
    custom("loss_and_gradient", _GPT2, result="out", why="GPT-2: 1.6 GB of logits"),
    custom("softmax", _LLAMA3, result="out", why="Llama 3 vocabulary: far beyond any cache"),
    custom("loss_and_gradient", _LLAMA3, result="out",
           why="Llama 3 vocabulary, one training step: far beyond any cache", suites=f"{_EVERY} metrics"),
    custom("loss_and_gradient", (4096, 128_256), result="out",
           why="Llama 3 vocabulary, a full sequence: 2.1 GB of logits"),
    # Few huge rows: parallelism over rows alone leaves cores idle or caches useless.
    custom("softmax", (32, 1 << 20), result="out", why="few huge rows: 4 MB each"),
    # Tall and thin: two classes, where the work per row is less than any overhead per row.
    custom("softmax", (1_000_000, 2), why="binary classification: overhead per row", suites="standard asv"),
)  # fmt: skip
"""The named workloads. A name never changes its meaning: histories of results are keyed by them."""


def by_name(name: str) -> Workload:
    """The workload of this name; KeyError."""
    for workload in WORKLOADS:
        if workload.name == name:
            return workload
    raise KeyError(name)


def select(patterns: Iterable[str], dtype: str | None = None) -> list[Workload]:
    """Workloads by suite ("quick", "standard", "asv", "metrics", "all"), name or shell pattern, in the table's order.

    ``dtype`` puts every selected workload into another dtype ("float64": ``softmax-64x10-f64`` and so on).
    ValueError naming a pattern that matches nothing.
    """
    wanted: set[str] = set()
    for pattern in patterns:
        names = {
            w.name for w in WORKLOADS if pattern == "all" or pattern in w.suites or fnmatch.fnmatch(w.name, pattern)
        }
        if not names:
            raise ValueError(f"no case matches {pattern!r}")
        wanted |= names
    chosen = [workload for workload in WORKLOADS if workload.name in wanted]
    return list({w.name: w for w in (_in_dtype(w, dtype) for w in chosen)}.values()) if dtype else chosen


def _in_dtype(workload: Workload, dtype: str) -> Workload:
    name = workload.name.replace(f"-{_SUFFIX[workload.dtype]}", f"-{_SUFFIX[dtype]}")
    return replace(workload, name=name, dtype=dtype)
