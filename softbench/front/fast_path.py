"""The fast path: float matrices of NumPy along their last axis, on a backend that takes them as they are.

These are the commonest calls. They skip what would change nothing for them (accepting, layout, lowering, wrapping),
which takes several times as long as the softmax of a few rows. They are recognised by comparing objects by identity.
That may miss such a call (``numpy.int64(-1)`` is another object than ``-1``), but never takes another call for one. A
call that is not recognised goes through `softbench.front.logits`, with the same results and errors.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Container, Mapping
from typing import Any, Final

import numpy as np

from softbench.front.logits import Plan
from softbench.front.options import Reduction
from softbench.front.returned import checked
from softbench.interface import Array, IndexTarget, RowBackend, SoftTarget, Target, check_pair
from softbench.interface.dtypes import name_of
from softbench.interface.float_mode import in_ieee_arithmetic
from softbench.interface.host_arrays import NumpyArrayOps

__all__ = ["fast_functions", "ready_plan", "takes_fast_path"]

Function = Callable[..., Any]

FLOAT32: Final = np.dtype("float32")
FLOAT64: Final = np.dtype("float64")
_INT64: Final = np.dtype("int64")
_LAST: Final = -1
_SECOND: Final = 1  # the last of a matrix
_NOT_GIVEN: Final = object()
_SKIPPED: Final = ("follow", "accept", "layout", "shares_memory", "as_rows", "from_rows", "wrap")


def takes_fast_path(rows: type[RowBackend]) -> bool:
    """Whether a backend does nothing of its own in what the fast path skips."""
    return rows.kind == "cpu" and all(getattr(rows, name) is getattr(NumpyArrayOps, name) for name in _SKIPPED)


def ready_shape(x: Any, axis: Any, halves: Container[Any]) -> tuple[int, int] | None:
    """The shape of ``x`` if it is rows already: a native float matrix with elements, C-contiguous and aligned.

    ``halves`` are the dtypes in half precision that are known to be rows of the backend.
    """
    if type(x) is not np.ndarray or (axis is not _LAST and axis is not _SECOND):
        return None
    shape = x.shape
    if len(shape) != 2 or 0 in shape:
        return None
    if (dtype := x.dtype) is not FLOAT32 and dtype is not FLOAT64 and dtype not in halves:
        return None
    flags = x.flags
    # The first says it of arrays that can be written.
    return shape if flags.carray or (flags.c_contiguous and flags.aligned) else None


def ready_plan(logits: Any, axis: Any, probabilities: bool, halves: Container[Any]) -> Plan | None:
    """The plan of logits that are rows already, None for others."""
    shape = ready_shape(logits, axis, halves)
    if shape is None:
        return None
    name = "float32" if logits.dtype is FLOAT32 else name_of(logits.dtype)
    return Plan(probabilities, logits, logits, 1, *shape, shape[:1], name, name, False, True)


def _fits(out: Any, x: Array, target: Array | None = None) -> bool:
    """Whether the result for ready ``x`` can be written into ``out`` without any other check."""
    return (
        type(out) is np.ndarray
        and out.dtype is x.dtype
        and out.shape == x.shape
        and out.flags.carray
        and (out is x or not np.may_share_memory(out, x))  # of contiguous arrays the bounds decide
        and (target is None or not np.may_share_memory(out, target))
    )


def _alone(target: Any, class_weight: Any, sample_weight: Any, ignore_index: Any, smoothing: Any) -> bool:
    """Whether a target is an array of NumPy and nothing goes with it."""
    return (
        type(target) is np.ndarray
        and class_weight is None
        and sample_weight is None
        and ignore_index is None
        and type(smoothing) is float
        and smoothing == 0.0
    )


def _are_labels(target: Array, outer: tuple[int, ...]) -> bool:
    """Whether a target is ready too: int64 labels for rows of shape ``outer``."""
    return target.dtype is _INT64 and target.shape == outer


def _are_distributions(target: Array, x: Array) -> bool:
    """Whether a target is ready too: rows of float32 or float64 as the logits ``x`` are."""
    dtype = target.dtype
    return dtype is x.dtype and (dtype is FLOAT32 or dtype is FLOAT64) and ready_shape(target, _LAST, ()) == x.shape


def fast_functions(rows: RowBackend, others: Mapping[str, Function], halves: Container[Any]) -> dict[str, Function]:
    """Public functions that try the fast path first, to be bound to their backend: methods are pickled by name.

    Parameters
    ----------
    rows
        A backend, for which `takes_fast_path` holds.
    others
        By name, the functions that take every call; in place of each name that is among them a function is returned.
    halves
        See `ready_shape`.
    """
    guard: Callable[..., Any] = (lambda kernel: kernel) if rows.keeps_ieee else in_ieee_arithmetic
    functions: dict[str, Function] = {}
    for name, otherwise in others.items():
        if name in _MAKERS and not (rows.native_loss and _MAKERS[name] is _labelled):
            function = _MAKERS[name](rows, name, guard(getattr(rows, name)), otherwise, halves)
            functions[name] = functools.wraps(getattr(otherwise, "__func__", otherwise))(function)
    return functions


def _map(rows: RowBackend, name: str, kernel: Function, otherwise: Function, halves: Container[Any]) -> Function:
    """A function from logits to an array of their shape."""
    empty = rows.empty

    def call(_: Any, logits: Any, *, axis: int = -1, out: Any = None) -> Any:
        shape = ready_shape(logits, axis, halves)
        if shape is None or (out is not None and not _fits(out, logits)):
            return otherwise(logits, axis=axis, out=out)
        buffer = empty(shape, logits.dtype) if out is None else out
        result = kernel(logits, buffer)
        return result if result is buffer else _finished(rows, name, result, logits, out)

    return call


def _labelled(rows: RowBackend, name: str, kernel: Function, otherwise: Function, halves: Container[Any]) -> Function:
    """The mean or the sum of the losses, its gradient, or both."""
    has_loss, has_gradient = name != "gradient", name != "loss"
    empty, total, index_labels = rows.empty, rows.total, rows.index_labels
    check_distribution = in_ieee_arithmetic(rows.check_distribution)

    def call(
        _: Any,
        logits: Any,
        target: Any,
        *,
        axis: int = -1,
        class_weight: Any = None,
        sample_weight: Any = None,
        ignore_index: int | None = None,
        label_smoothing: float = 0.0,
        reduction: Reduction = "mean",
        validate: bool = True,
        out: Any = _NOT_GIVEN,
    ) -> Any:
        if (
            (reduction != "mean" and reduction != "sum")
            or (shape := ready_shape(logits, axis, halves)) is None
            or not _alone(target, class_weight, sample_weight, ignore_index, label_smoothing)
            or not ((labelled := _are_labels(target, outer := shape[:1])) or _are_distributions(target, logits))
            or (out is not _NOT_GIVEN and not (has_gradient and (out is None or _fits(out, logits, target))))
        ):
            place = {} if out is _NOT_GIVEN else {"out": out}  # which the loss does not take
            return otherwise(
                logits,
                target,
                axis=axis,
                class_weight=class_weight,
                sample_weight=sample_weight,
                ignore_index=ignore_index,
                label_smoothing=label_smoothing,
                reduction=reduction,
                validate=validate,
                **place,
            )
        if out is _NOT_GIVEN:
            out = None
        n, k = shape
        divisor = float(n) if reduction == "mean" else None
        lowered: Target
        if labelled:
            lowered = IndexTarget(index_labels(target, k, None, validate), None, None, 0.0, False, not validate)
        else:
            if validate:
                check_distribution(target)
            lowered = SoftTarget(target)
        losses = empty(outer, FLOAT64) if has_loss else None
        if not has_gradient:
            result = kernel(logits, lowered, losses)
            return total(result if result is losses else _losses(rows, name, result, n), divisor)
        buffer = empty(shape, logits.dtype) if out is None else out
        if not has_loss:
            result = kernel(logits, lowered, divisor or 1, buffer)
            return result if result is buffer else _finished(rows, name, result, logits, out)
        first, second = check_pair(rows.name, kernel(logits, lowered, divisor or 1, losses, buffer))
        if first is not losses:
            first = _losses(rows, f"{name} (losses)", first, n)
        if second is not buffer:
            second = _finished(rows, f"{name} (gradient)", second, logits, out)
        return total(first, divisor), second

    return call


_MAKERS: Final[dict[str, Callable[[RowBackend, str, Function, Function, Container[Any]], Function]]] = {
    "softmax": _map,
    "log_softmax": _map,
    "loss": _labelled,
    "gradient": _labelled,
    "loss_and_gradient": _labelled,
}


def _losses(rows: RowBackend, method: str, result: Any, n: int) -> Array:
    """Losses that a kernel has made itself."""
    return checked(rows, method, result, None, (n,), "float64")


@in_ieee_arithmetic
def _finished(rows: RowBackend, method: str, result: Any, logits: Array, out: Any) -> Any:
    """An array in the shape of the logits that a kernel has made itself, as the caller gets it."""
    name = name_of(logits.dtype)
    return rows.from_rows(checked(rows, method, result, None, logits.shape, name), logits.shape, 1, name, out)
