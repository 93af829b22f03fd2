"""The kernels of `linear` and `linear_sparse`, compiled for a dtype when first asked for."""

# mypy: allow-untyped-calls
from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from numba import types

from softbench.interface.first_use import FirstUse
from softbench_backends.numba import linear, linear_sparse
from softbench_backends.numba.compiling import Compiled
from softbench_backends.numba.dispatch import contiguous
from softbench_backends.numba.kernels import compiled, compiled_for_rows, on_all_threads

__all__ = ["LinearKernel", "linear_kernel", "row_kernel"]

_FLOATS: Final = {4: types.float32, 8: types.float64}
_INDICES: Final = {4: types.int32, 8: types.int64}
_I64: Final = types.int64
_F64: Final = types.float64
_BOOL: Final = types.boolean
_VALUES: Final = types.Array(_F64, 1, "C")
_LABELS: Final = types.Array(_I64, 1, "C")


class LinearKernel(NamedTuple):
    """A kernel on one thread, ``(*args, first, last, streaming)``, and on all, ``(args, n, chunks, streaming)``."""

    serial: Callable[..., Any]
    parallel: Callable[..., Any]


def _signatures(dtype: types.Type, index: types.Type, row_kernel: types.Type) -> dict[str, tuple[types.Type, ...]]:
    """What the kernels take before ``first``, where they call a ``row_kernel`` of this type."""
    x, matrix = types.Array(dtype, 2, "A"), types.Array(dtype, 2, "C")
    data, indices = types.Array(dtype, 1, "C"), types.Array(index, 1, "C")
    model = x, matrix, _VALUES
    target = row_kernel, matrix, _LABELS, _VALUES, _VALUES, _F64, _F64, _BOOL, _BOOL
    direction = row_kernel, matrix, _VALUES, matrix, _VALUES, _F64
    total, totals = types.Array(_F64, 2, "C"), types.Array(_F64, 3, "C")
    chunks = _BOOL, _VALUES, _VALUES, totals, _I64, _I64
    blocks = _BOOL, _VALUES, matrix, matrix, _I64
    entries = data, indices, indices
    sparse_model = *entries, matrix, _VALUES
    columns = indices, indices, _LABELS, _I64, _I64, types.Array(_I64, 2, "C"), _LABELS
    return {
        "target_chunks": (*model, *target, _LABELS, *chunks),
        "direction_chunks": (*model, *direction, _VALUES, *chunks),
        "target_blocks": (*model, *target, _LABELS, *blocks),
        "direction_blocks": (*model, *direction, _VALUES, *blocks),
        "gradient_tiles": (x, matrix, total, _I64),
        "combine": (totals, total),
        "softmax_blocks": (row_kernel, *model, _BOOL, matrix, _I64),
        "argmax_blocks": (row_kernel, *model, _BOOL, _LABELS, _I64),
        "target_entries": (*sparse_model, *target, _VALUES, matrix, _I64),
        "direction_entries": (*sparse_model, *direction, matrix, _I64),
        "softmax_entries": (*sparse_model, row_kernel, matrix, _I64),
        "argmax_entries": (*sparse_model, row_kernel, _LABELS, _I64),
        "add_entries": (*entries, _VALUES, matrix, total, _BOOL, _LABELS),
        "count_entries": columns,
        "place_entries": (data, *columns, data, indices),
    }


def _make(name: str, itemsize: int, row_kernel: types.Type = _I64, index_bytes: int = 8) -> LinearKernel:
    arguments = _signatures(_FLOATS[itemsize], _INDICES[index_bytes], row_kernel)[name]
    function = getattr(linear, name, None) or getattr(linear_sparse, name)
    kernel = compiled(function, arguments)
    return LinearKernel(kernel.function, on_all_threads(kernel, arguments))


linear_kernel: Final = FirstUse(_make)
"""A kernel by name, for features of ``itemsize`` bytes, row kernels of a type, and indices of ``index_bytes``."""


def _make_row_kernel(op: str, itemsize: int, short: bool) -> Compiled:
    return compiled_for_rows(op, f"float{8 * itemsize}", contiguous(op, 1 if short else 1 << 30, itemsize))


_row_kernel: Final = FirstUse(_make_row_kernel)


def row_kernel(op: str, itemsize: int, k: int) -> Compiled:
    """The kernel of ``op`` for contiguous rows of ``k`` classes."""
    return _row_kernel(op, itemsize, contiguous(op, k, itemsize) is contiguous(op, 1, itemsize))
