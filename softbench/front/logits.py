"""Logits: checked, on their way to a kernel, and what comes back of them: one immutable plan per call."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from softbench.front.options import check_axis
from softbench.interface import Array, RowBackend
from softbench.interface.dtypes import ITEMSIZE, name_of, numpy_dtype, result_dtype, row_dtype
from softbench.interface.integers import WIDE_INTEGERS

__all__ = ["Formats", "Plan", "kernel_rows", "plan_logits"]


class Formats:
    """Dtypes of results and of rows, cached by the dtype of the logits: asking a dtype for its name is slow."""

    def __init__(self, rows: RowBackend) -> None:
        self._rows = rows
        self._found: dict[Any, tuple[str, str]] = {}
        self.halves: set[Any] = set()
        """Of these dtypes, those in half precision that kernels take as they are."""

    def of(self, dtype: Any, argument: str) -> tuple[str, str]:
        """Those for logits (or probabilities, by ``argument``) of a dtype; TypeError."""
        if dtype not in self._found:
            self._found[dtype] = self._first(dtype, argument)
        return self._found[dtype]

    def _first(self, dtype: Any, argument: str) -> tuple[str, str]:
        name = dtype.name
        result = result_dtype(name)
        if result is None:
            raise TypeError(
                f"{argument} has dtype {name}: expected float16, bfloat16, float32, float64 or an integer type"
            )
        compute = row_dtype(result, self._rows.dtypes)
        if result == compute and ITEMSIZE[result] == 2 and dtype == numpy_dtype(result):
            self.halves.add(numpy_dtype(result))
        return result, compute


class Plan(NamedTuple):
    """Logits (or probabilities) lowered to rows: what the kernel gets, and the form in which results go back."""

    probabilities: bool
    """Whether these are probabilities, which unlike logits mean something else when a number is added."""
    given: Any
    """What the caller passed: results are that kind of array."""
    x: Array
    """The same as the backend accepted it, with all its axes."""
    axis: int
    """Of the classes, ``0 <= axis < x.ndim``."""
    n: int
    """Rows."""
    k: int
    """Classes."""
    outer: tuple[int, ...]
    """Shape without ``axis``: that of class indices, sample weights and per-row results."""
    result: str
    """Dtype of results."""
    compute: str
    """Dtype of rows."""
    strided: bool
    """Whether the kernel gets ``(outer, K, inner)`` as it lies, not ``(N, K)``."""
    ready: bool
    """Whether ``x`` is rows already, as `softbench.front.fast_path` knows them."""

    @property
    def argument(self) -> str:
        """Name of the public argument, for messages."""
        return _name(self.probabilities)

    @property
    def shifts(self) -> bool:
        """Whether rows are 64-bit integers, of which one may have to be subtracted (`softbench.interface.integers`)."""
        return not self.probabilities and name_of(self.x.dtype) in WIDE_INTEGERS

    @property
    def empty(self) -> bool:
        """Whether there is nothing for a kernel to do."""
        return self.n * self.k == 0

    @property
    def in_order(self) -> bool:
        """Whether a kernel's result lies in memory as the caller wants it."""
        return self.strided or self.axis == self.x.ndim - 1


def _name(probabilities: bool) -> str:
    return "probs" if probabilities else "logits"


def plan_logits(rows: RowBackend, formats: Formats, logits: Any, axis: Any, probabilities: bool) -> Plan:
    """The plan of a call on ``logits``; TypeError and AxisError for what has none.

    Parameters
    ----------
    rows
        The backend.
    formats
        Of this backend.
    logits, axis
        As the caller passed them.
    probabilities
        Whether ``logits`` are probabilities.
    """
    argument = _name(probabilities)
    rows.follow(logits)
    x = rows.accept(logits, argument)
    result, compute = formats.of(x.dtype, argument)
    if x.ndim == 0:
        raise TypeError(f"{argument} is 0-d: expected an array with at least one axis of classes")
    shape = x.shape
    index = check_axis(axis, x.ndim)
    outer = shape[:index] + shape[index + 1 :]
    strided = (
        rows.accepts_strided
        and not probabilities
        and index != x.ndim - 1
        and math.prod(shape[index + 1 :]) > 1
        and name_of(x.dtype) not in WIDE_INTEGERS
        and rows.layout(x).contiguous
    )
    n, k = math.prod(outer), shape[index]
    return Plan(probabilities, logits, x, index, n, k, outer, result, compute, strided, False)


def kernel_rows(rows: RowBackend, plan: Plan) -> Array:
    """What a kernel gets for the logits of a plan that is not `empty`."""
    if plan.ready:
        return plan.x
    if plan.shifts:
        return rows.integer_rows(plan.x, plan.axis, plan.given)[0]
    return (rows.as_blocks if plan.strided else rows.as_rows)(plan.x, plan.axis, plan.compute)
