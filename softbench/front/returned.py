"""What comes back from a kernel: checked, and given the shape, dtype and kind of array that the caller asked for."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from softbench.front.logits import Plan
from softbench.interface import Array, RowBackend
from softbench.interface.dtypes import name_of

__all__ = ["Destination", "checked", "destination", "empty_result", "per_row", "restore_layout"]


def checked(rows: RowBackend, method: str, result: Any, buffer: Any, shape: tuple[int, ...], dtype: str) -> Array:
    """What the kernel of this name returned: its buffer, or an array of its own of this shape and dtype.

    Floats of another width are accepted: they are rounded later. TypeError for anything else, so that the backend is
    named rather than whatever meets its result next.
    """
    if result is buffer is not None:
        return result
    form = getattr(result, "dtype", None)
    name = name_of(form) if isinstance(form, np.dtype) else getattr(form, "name", "")
    fits = name == dtype or (dtype != "int64" and (name == "bfloat16" or getattr(form, "kind", "") == "f"))
    if not fits or result.shape != shape:
        what = f"a {type(result).__name__}"
        if form is not None:
            what = f"an array of shape {result.shape} and dtype {form}"
        raise TypeError(
            f"backend {rows.name!r}: {method} returned {what}, expected an array of shape {shape} and dtype {dtype}"
        )
    return result


class Destination(NamedTuple):
    """Where a kernel writes a result in the shape of the logits, and where that is to go."""

    buffer: Array
    """For the kernel. None where the backend's library makes its own results."""
    direct: bool
    """Whether that is the caller's memory."""
    place: Array | None
    """``out`` as the backend accepted it, checked (`softbench.front.out`)."""
    out: Any
    """``out`` as the caller passed it."""


def destination(rows: RowBackend, plan: Plan, x: Array, place: Array | None, out: Any) -> Destination:
    """The destination of a kernel on ``x``."""
    if place is not None and plan.in_order and plan.compute == plan.result and rows.layout(place).contiguous:
        return Destination(place if place.shape == x.shape else place.reshape(x.shape), True, place, out)
    return Destination(rows.empty(x.shape, plan.compute), False, place, out)


def restore_layout(rows: RowBackend, plan: Plan, result: Array, to: Destination) -> Any:
    """The result of a kernel in the shape, order and dtype of the caller's, or in the caller's ``out``."""
    if to.direct and result is to.buffer:
        return to.out
    shape = plan.x.shape
    last = len(shape) - 1
    if plan.strided:
        result = result.reshape(-1, shape[last])
    restored = rows.from_rows(result, shape, last if plan.in_order else plan.axis, plan.result, to.place)
    return rows.wrap(restored, plan.given) if to.out is None else to.out


def empty_result(rows: RowBackend, plan: Plan, out: Any) -> Any:
    """The result in the shape of logits without elements."""
    return rows.wrap(rows.full(plan.x.shape, 0.0, plan.result), plan.given) if out is None else out


def per_row(rows: RowBackend, plan: Plan, values: Array, shape: tuple[int, ...]) -> Any:
    """Per-row results ``(N,)`` in the dtype and the shape that the caller expects."""
    column = rows.from_rows(values.reshape(plan.n, 1), (plan.n, 1), 1, plan.result)
    return rows.wrap(column.reshape(shape), plan.given)
