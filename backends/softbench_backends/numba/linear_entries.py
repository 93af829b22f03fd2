"""The kernels of `linear` and `linear_sparse`, compiled for a dtype when first asked for."""

# mypy: allow-untyped-calls
from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import Any, Final, NamedTuple

from numba import types

from softbench.interface.first_use import FirstUse
from softbench_backends.numba import linear, linear_sparse
from softbench_backends.numba.compiling import Compiled
from softbench_backends.numba.dispatch import contiguous
from softbench_backends.numba.kernels import compiled, compiled_for_rows, on_all_threads

__all__ = ["LinearKernel", "behind", "linear_kernel", "row_kernel"]

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
        "add_columns": (*entries, _LABELS, _I64, matrix, total, _BOOL, _LABELS),
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


# -- compiling ahead --------------------------------------------------------------------------------------------

_ROW_OPS: Final = {
    "linear_argmax": ("argmax",),
    "linear_softmax": ("softmax",),
    "linear_loss": ("index", "soft"),
    "linear_loss_and_gradient": ("index", "soft"),
    "linear_hessian_product": ("softmax",),
}
"""The row kernels that a function calls, by their op: for short rows, and for long ones."""
_TARGET: Final = ("target_chunks", "combine", "target_blocks"), ("target_entries",)
_KERNELS: Final = {
    "linear_argmax": (("argmax_blocks",), ("argmax_entries",)),
    "linear_softmax": (("softmax_blocks",), ("softmax_entries",)),
    "linear_loss": _TARGET,
    "linear_loss_and_gradient": ((*_TARGET[0], "gradient_tiles"), (*_TARGET[1], "add_entries", "add_columns")),
    "linear_hessian_product": (
        ("direction_chunks", "combine", "direction_blocks", "gradient_tiles"),
        ("direction_entries", "add_entries", "add_columns"),
    ),
}
"""The kernels of a function: of dense features, and of sparse ones, which come in two widths of indices."""
_COLUMNS: Final = ("count_entries", "place_entries")
"""Of features that are stored by columns, besides."""
_ANY_DTYPE: Final = {"combine", "count_entries"}
"""Kernels that read no features: there is one, for float64."""


def behind(functions: Collection[str], itemsizes: Collection[int]) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Every kernel that calls of these functions may ask for: what to call it, and what compiles it."""
    offered: set[tuple[Any, ...]] = set()
    for function in (name for name in functions if name in _KERNELS):
        ops = _ROW_OPS[function]
        dense, sparse = _KERNELS[function]
        for itemsize in itemsizes:
            for op in ops:
                for short in (True, False):
                    if (op, itemsize, short) not in offered:
                        offered.add((op, itemsize, short))
                        label = f"linear {op} float{8 * itemsize} {'short' if short else 'long'} rows"
                        yield label, partial(row_kernel, op, itemsize, 1 if short else 1 << 30)
            forms = [(name, 8) for name in dense] + [(n, b) for b in _INDICES for n in (*sparse, *_COLUMNS)]
            for name, index_bytes in forms:
                of = 8 if name in _ANY_DTYPE else itemsize
                if (name, of, index_bytes) in offered:
                    continue
                offered.add((name, of, index_bytes))
                label = f"linear {name} float{8 * of}" + ("" if name in dense else f" int{8 * index_bytes}")
                yield label, partial(_first, name, of, index_bytes, ops[0])


def _first(name: str, itemsize: int, index_bytes: int, op: str) -> LinearKernel:
    """A kernel as calls ask for it."""
    if name.startswith(("target", "direction", "softmax", "argmax")):
        reference_type = row_kernel(op, itemsize, 1).reference_type
        if name.endswith("entries"):
            return linear_kernel(name, itemsize, reference_type, index_bytes)
        return linear_kernel(name, itemsize, reference_type)
    if name in ("add_entries", "add_columns", *_COLUMNS):
        return linear_kernel(name, itemsize, _I64, index_bytes)
    return linear_kernel(name, itemsize)
