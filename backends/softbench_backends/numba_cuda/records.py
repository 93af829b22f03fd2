"""Arguments of kernels by name: records that the host fills, and whose fields kernels read.

A record is a `NamedTuple`. On the host its fields are a view, a number, or None for no array; in a kernel they are
pointers and numbers. What a kernel is compiled for is a record of types: storage dtypes (pointers), "int" and "real".
The driver is given the fields one after the other, 8 bytes each.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from softbench.interface.device_backend import NO_TARGET, KernelTarget

__all__ = [
    "HAS_CLASS",
    "HAS_DIVISOR",
    "HAS_SAMPLE",
    "SEGMENT_TYPES",
    "Rows",
    "Segments",
    "Targets",
    "flattened",
    "regrouped",
    "row_types",
    "target_fields",
    "target_types",
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
    """`softbench.interface.device_backend.KernelTarget`, and which of its arrays there are."""

    labels: Any
    sample_weight: Any
    class_weight: Any
    smoothing: Any
    q: Any
    divisor: Any
    divisor_value: Any
    given: Any
    """`HAS_SAMPLE`, `HAS_CLASS` and `HAS_DIVISOR`, which a kernel cannot tell from pointers."""


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


_NONE_GIVEN: Final = Targets(*NO_TARGET, 0)


def target_fields(target: KernelTarget) -> tuple[Any, ...]:
    """The fields of `Targets`: a target, and what a kernel cannot tell of it."""
    if target is NO_TARGET:
        return _NONE_GIVEN
    given = 0
    if target.sample_weight is not None:
        given |= HAS_SAMPLE
    if target.class_weight is not None:
        given |= HAS_CLASS
    if target.divisor is not None:
        given |= HAS_DIVISOR
    return (*target, given)


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
