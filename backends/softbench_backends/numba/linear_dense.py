"""Linear logits of dense features: how a problem is cut, and which kernels of `linear` run on what.

Everything that decides the order of a sum depends on the shape and dtype of the problem alone (`cut`). The number of
threads decides how many chunks are in work at a time, and so how much memory they take, but no result.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, Literal, NamedTuple

import numpy as np

from softbench.interface import Array
from softbench.interface.linear import LinearKernels
from softbench_backends.numba import threads
from softbench_backends.numba.lanes import width_of
from softbench_backends.numba.linear_blocks import SUMMED_ROWS
from softbench_backends.numba.linear_entries import linear_kernel, row_kernel
from softbench_backends.numba.linear_given import (
    NONE,
    Directions,
    Targets,
    intercept_column,
    run,
)
from softbench_backends.numba.linear_tiles import VECTORS

__all__ = ["predictions", "sums"]

_BLOCK_BYTES: Final = 1 << 18
"""Features of a block of rows, at most: the second-level cache holds it and the next one."""
_LEAST_BLOCK: Final = 32
_CHUNKS: Final = 64
"""Chunks that a problem is cut into, about: work for as many threads."""
_CHUNK_ROWS: Final = (512, 1 << 14)
"""Rows of a chunk: few enough for sums of them to be accurate, enough for the sum of chunks to take no time."""
_OWN_SUM_BYTES: Final = 1 << 20
"""Up to this size every chunk has a gradient of its own, which stays in the second-level cache."""
_SUMS_BYTES: Final = 8 << 20
"""Gradients of chunks that are kept at a time, about."""
_SHARED_BYTES: Final = 8 << 20
"""Features and logits of the rows whose gradient is one sum, about: the last-level cache holds them."""
_TEMPORARY_BYTES: Final = 1 << 22
"""What is made of a part of the rows before kernels take it (weighted targets, other dtypes), about."""
_PADDING: Final = 16
"""Sums have room for whole vectors of features."""


class Cut(NamedTuple):
    """How rows are cut."""

    block: int
    """Rows that are worked on at a time."""
    part: int
    """Rows of a chunk, or where ``shared`` rows whose gradient is one sum: a multiple of ``block``."""
    shared: bool
    """Whether all threads work on one gradient (blocks), or each on its own (chunks)."""
    stride: int
    """From one class to the next in sums: features, padded, and the intercept last."""


def cut(n: int, p: int, k: int, itemsize: int) -> Cut:
    """How a problem is cut."""
    block = SUMMED_ROWS
    while block > _LEAST_BLOCK and block * p * itemsize > _BLOCK_BYTES:
        block //= 2
    stride = (p // _PADDING + 2) * _PADDING
    least, most = _CHUNK_ROWS
    if k * stride * 8 > _OWN_SUM_BYTES:
        rows = min(max(_SHARED_BYTES // ((p + k) * itemsize), 2 * SUMMED_ROWS), most)
        return Cut(block, rows // SUMMED_ROWS * SUMMED_ROWS, True, stride)
    rows = min(max(-(-n // _CHUNKS), least), most)
    return Cut(block, -(-rows // block) * block, False, stride)


def predictions(
    backend: LinearKernels,
    op: Literal["argmax", "softmax"],
    x: Array,
    coef: Array,
    intercept: Array | None,
    out: Array,
) -> Array:
    """A row kernel of the logits."""
    n, p = x.shape
    k, itemsize = len(coef), coef.itemsize
    block = cut(n, p, k, itemsize).block
    bias, of_rows = intercept_column(intercept, k), row_kernel(op, itemsize, k)
    kernel = linear_kernel(f"{op}_blocks", itemsize, of_rows.reference_type)
    at_a_time = n if _direct(x, coef.dtype) else max(1, _TEMPORARY_BYTES // (p * itemsize + 1) // block) * block
    for a in range(0, n, at_a_time):
        part = _features(backend, x, slice(a, a + at_a_time), coef.dtype)
        arguments = of_rows.reference, part, coef, bias, _apart(part), out[a : a + at_a_time], block
        run(kernel, arguments, -(-len(part) // block), part.size * k)
    return out


def sums(
    backend: LinearKernels,
    given: Targets | Directions,
    x: Array,
    coef: Array,
    intercept: Array | None,
    loss: Array | None,
) -> tuple[Array, Array]:
    """Losses, or a few sums of them, and what is summed over rows: ``(K, stride)``, the intercept's last."""
    n, p = x.shape
    k = len(coef)
    how = cut(n, p, k, coef.itemsize)
    total = np.zeros((k if given.gradient else 0, how.stride))
    bias = intercept_column(intercept, k)
    temporary = given.row_bytes + (0 if _direct(x, coef.dtype) else p * coef.itemsize)
    losses = []
    add = _add_with_one_sum if how.shared else _add_with_own_sums
    for rows in _parts(how, n, k, temporary):
        skip, kernel, others = given.rows(rows, coef.dtype, k)
        part = _features(backend, x, rows, coef.dtype)
        packed = _apart(part) or bool(skip.size)
        arguments = part, coef, bias, kernel.reference, *given.direction, *others, skip, packed
        losses.append(
            add(backend, given, how, kernel.reference_type, arguments, NONE if loss is None else loss[rows], total)
        )
    return (np.concatenate(losses) if loss is None else loss), total


def _parts(how: Cut, n: int, k: int, temporary: int) -> Iterator[slice]:
    """The rows that are taken at a time, where ``temporary`` bytes a row have to be made."""
    rows = how.part
    if not how.shared:
        count = _SUMS_BYTES // (k * how.stride * 8)
        if temporary:
            count = min(count, _TEMPORARY_BYTES // (temporary * how.part))
        rows *= max(threads.count(), count)
    return (slice(a, min(a + rows, n)) for a in range(0, n, rows))


def _add_with_own_sums(
    backend: LinearKernels,
    given: Targets | Directions,
    how: Cut,
    row_kernel_type: Any,
    arguments: tuple[Any, ...],
    loss: Array,
    total: Array,
) -> Array:
    """Add the sums of chunks of some rows to ``total``; return those of their losses."""
    x, coef = arguments[:2]
    chunks = -(-len(x) // how.part)
    parts, losses = np.empty((chunks, *total.shape)), np.empty(chunks)
    kernel = linear_kernel(f"{given.kind}_chunks", coef.itemsize, row_kernel_type)
    run(kernel, (*arguments, loss, losses, parts, how.part, how.block), chunks, x.size * len(coef))
    run(linear_kernel("combine", 8), (parts, total), len(total), parts.size)
    return losses


def _add_with_one_sum(
    backend: LinearKernels,
    given: Targets | Directions,
    how: Cut,
    row_kernel_type: Any,
    arguments: tuple[Any, ...],
    loss: Array,
    total: Array,
) -> Array:
    """Add the sum over some rows to ``total``; return that of their losses."""
    x, coef = arguments[:2]
    packed = arguments[-1]
    (n, p), k, itemsize = x.shape, len(coef), coef.itemsize
    z, losses = np.empty((n, k), coef.dtype), loss if loss.size else np.empty(n)
    copy = np.empty((n if packed else 0, p), coef.dtype)
    kernel = linear_kernel(f"{given.kind}_blocks", itemsize, row_kernel_type)
    run(kernel, (*arguments, losses, z, copy, how.block), -(-n // how.block), x.size * k)
    if given.gradient:
        group = max(1, _GROUP_LOGITS // n) * _PADDING
        tiles = max(1, -(-p // _tile_features(itemsize))) * -(-k // group)
        run(linear_kernel("gradient_tiles", itemsize), (copy if packed else x, z, total, group), tiles, x.size * k)
    return np.array([backend.total(losses)])


_GROUP_LOGITS: Final = 1 << 13
"""Rows times groups of `_PADDING` classes that share a tile of features, about: 64 KiB of gradients in float32."""


def _tile_features(itemsize: int) -> int:
    return VECTORS * width_of(8 * itemsize)


def _features(backend: LinearKernels, x: Array, rows: slice, dtype: np.dtype[Any]) -> Array:
    """Some rows of ``x`` as kernels take them: of this dtype, in any layout."""
    part = x[rows]
    return part if _direct(x, dtype) else backend.as_rows(part, 1, dtype.name)


def _direct(x: Array, dtype: np.dtype[Any]) -> bool:
    """Whether kernels can read ``x`` where it is."""
    return bool(x.dtype == dtype and x.dtype.isnative and x.flags.aligned)


def _apart(x: Array) -> bool:
    """Whether the features of a row do not lie one behind the other."""
    return bool(x.shape[1] > 1 and x.strides[1] != x.itemsize)
