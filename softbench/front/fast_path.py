"""Plain calls, the commonest: float matrices of NumPy along their last axis, on a backend that takes them as they are.

They skip everything that could not change them (accepting, layout, lowering, wrapping), which takes several times as
long as the softmax of a few rows. What is plain is told by identity where that can only fail to recognise it: a
byte-swapped dtype is another object, and so may be an axis given as some other kind of -1. Whatever is not recognised
takes the long way through `softbench.front.backend`, to the same results and errors.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Any, Final

import numpy as np

from softbench.interface import Array, RowBackend
from softbench.interface.host_arrays import HostArrays

__all__ = ["FLOAT32", "FLOAT64", "is_only_labels", "is_plain_out", "plain_shape", "takes_plain"]

FLOAT32: Final = np.dtype("float32")
FLOAT64: Final = np.dtype("float64")
_INT64: Final = np.dtype("int64")
_LAST: Final = -1
_SECOND: Final = 1  # the last of a matrix
_SKIPPED: Final = ("accept", "layout", "shares_memory", "as_rows", "from_rows", "wrap")


def takes_plain(rows: type[RowBackend]) -> bool:
    """Whether a backend does nothing of its own in what plain calls skip."""
    return rows.kind == "cpu" and all(getattr(rows, name) is getattr(HostArrays, name) for name in _SKIPPED)


def plain_shape(x: Any, axis: Any, halves: Container[Any] = ()) -> tuple[int, ...] | None:
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


def is_plain_out(out: Any, x: Array) -> bool:
    """Whether the result for plain ``x`` (`plain_shape`) can be written into ``out`` without another question."""
    return (
        type(out) is np.ndarray
        and out.dtype is x.dtype
        and out.shape == x.shape
        and out.flags.carray
        and (out is x or not np.may_share_memory(out, x))  # of contiguous arrays the bounds decide
    )


def is_only_labels(
    target: Any, outer: tuple[int, ...], class_weight: Any, sample_weight: Any, ignore_index: Any, smoothing: Any
) -> bool:
    """Whether a target is plain too: int64 labels for rows of shape ``outer``, and nothing beside them."""
    return (
        class_weight is None
        and sample_weight is None
        and ignore_index is None
        and type(smoothing) is float
        and smoothing == 0.0
        and type(target) is np.ndarray
        and target.dtype is _INT64
        and target.shape == outer
    )
