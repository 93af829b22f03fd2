"""Arguments of kernels by name: records that the host fills, and whose fields kernels read.

A record is a `NamedTuple`. On the host its fields are a `View`, a number, or None for no array; in a kernel they are
pointers and numbers. What a kernel is compiled for is a record of types: storage dtypes (pointers), "int" and "real".
The driver is given the fields one after the other, 8 bytes each.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from softbench_backends.numba_cuda.views import View

__all__ = [
    "HAS_CLASS",
    "HAS_DIVISOR",
    "HAS_SAMPLE",
    "NO_TARGET",
    "SEGMENT_TYPES",
    "Rows",
    "Segments",
    "Targets",
    "flattened",
    "regrouped",
    "row_types",
    "target_types",
    "targets_of",
]

HAS_SAMPLE: Final = 1
HAS_CLASS: Final = 2
HAS_DIVISOR: Final = 4


class Rows(NamedTuple):
    """The rows of an operation and its results."""

    x: Any
    """``(n, k)``: logits, or probabilities."""
    out: Any
    """``(n, k)``: entries of the result."""
    numbers: Any
    """``(n,)``: a number per row, of the rows' dtype for logsumexp, else float64."""
    n: Any
    k: Any


class Targets(NamedTuple):
    """What rows are compared with, and how: labels or ``q``, weights, smoothing, and the divisor of a mean."""

    labels: Any = None
    """``(n,)`` int64."""
    sample_weight: Any = None
    """``(n,)`` float64."""
    class_weight: Any = None
    """``(k,)`` float64."""
    smoothing: Any = 0.0
    q: Any = None
    """``(n, k)``: a distribution per row."""
    divisor: Any = None
    """``(2,)`` float64: a sum and what it rounds away."""
    divisor_value: Any = 1.0
    """The divisor, where that is a number."""
    given: Any = 0
    """`HAS_SAMPLE`, `HAS_CLASS` and `HAS_DIVISOR`: which of these arrays there are, as a kernel cannot tell."""


class Segments(NamedTuple):
    """How rows are cut, for the kernels of rows that do not stay on chip."""

    parts: Any
    """float64: the parts of all rows, then the rows' results."""
    first: Any
    """Number of the first row."""
    length: Any
    """Elements of a segment."""
    pieces: Any
    """Segments of a row."""


SEGMENT_TYPES: Final = Segments("float64", "int", "int", "int")


def row_types(rows: str, numbers: str) -> Rows:
    """Types of `Rows`, by the storage dtypes of the rows and of the numbers per row."""
    return Rows(rows, rows, numbers, "int", "int")


def target_types(q: str = "float64") -> Targets:
    """Types of `Targets`, by the storage dtype of ``q``."""
    return Targets("int64", "float64", "float64", "real", q, "float64", "real", "int")


NO_TARGET: Final = Targets()


def targets_of(
    labels: View | None = None,
    sample_weight: View | None = None,
    class_weight: View | None = None,
    smoothing: float = 0.0,
    q: View | None = None,
    divisor: View | float = 1.0,
) -> Targets:
    """The record of a target; the divisor is a number, or two on the device."""
    given = (HAS_SAMPLE if sample_weight is not None else 0) | (HAS_CLASS if class_weight is not None else 0)
    if isinstance(divisor, View):
        return Targets(labels, sample_weight, class_weight, smoothing, q, divisor, 1.0, given | HAS_DIVISOR)
    return Targets(labels, sample_weight, class_weight, smoothing, q, None, float(divisor), given)


def flattened(arguments: tuple[Any, ...]) -> list[Any]:
    """Arguments one after the other, records taken apart."""
    flat: list[Any] = []
    for argument in arguments:
        flat.extend(argument if isinstance(argument, tuple) else (argument,))
    return flat


def regrouped(flat: tuple[Any, ...], arguments: tuple[Any, ...]) -> list[Any]:
    """The inverse of `flattened`: ``flat`` in records as they are in ``arguments``."""
    fields = iter(flat)
    return [
        type(argument)(*(next(fields) for _ in argument)) if isinstance(argument, tuple) else next(fields)
        for argument in arguments
    ]
