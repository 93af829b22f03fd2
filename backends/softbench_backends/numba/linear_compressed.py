"""Linear logits of sparse features: which kernels of `linear_sparse` run on what."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from numba import int64

from softbench.interface import Array, CompressedMatrix
from softbench.interface.linear import LinearKernels
from softbench_backends.numba import threads
from softbench_backends.numba.linear_entries import linear_kernel, row_kernel
from softbench_backends.numba.linear_given import Directions, Targets, intercept_column, run
from softbench_backends.numba.linear_sparse import GROUP_CLASSES, UNIT

__all__ = ["predictions", "sums"]

_BLOCK: Final = 64
"""Rows whose logits go to a row kernel at a time."""
_LOGITS_BYTES: Final = 1 << 20
"""Logits of the rows that are summed together, about: the second-level cache holds them."""
_ROWS: Final = (1 << 10, 1 << 14)
"""Least and most of these rows; most where columns are turned to rows, which takes as long for few as for many."""
_TILE_BYTES: Final = 1 << 20
"""Sums of the features that are taken at a time, about: the second-level cache holds them."""
_NO_CURSORS: Final = np.empty(0, np.int64)
_SAMPLE: Final = 1 << 14
"""Entries that are looked at to share features out to threads, about."""


class _Rows(NamedTuple):
    """Rows of a matrix."""

    slice: slice
    data: Array
    indices: Array
    indptr: Array


def predictions(
    backend: LinearKernels,
    op: Literal["argmax", "softmax"],
    x: CompressedMatrix,
    coef: Array,
    intercept: Array | None,
    out: Array,
) -> Array:
    """A row kernel of the logits."""
    k = len(coef)
    model, bias = _by_features(coef), intercept_column(intercept, k)
    rows_kernel = row_kernel(op, coef.itemsize, k)
    size = x.shape[0] if x.order == "csr" else _ROWS[1]
    for part in _parts(x, size, coef.dtype):
        to = out[part.slice]
        kernel = linear_kernel(f"{op}_entries", coef.itemsize, rows_kernel.reference_type, x.indices.itemsize)
        arguments = part.data, part.indices, part.indptr, model, bias, rows_kernel.reference, to, _BLOCK
        run(kernel, arguments, -(-len(to) // _BLOCK), x.data.size * k)
    return out


def sums(
    backend: LinearKernels,
    given: Targets | Directions,
    x: CompressedMatrix,
    coef: Array,
    intercept: Array | None,
    loss: Array | None,
) -> tuple[Array, Array]:
    """Losses, or a few sums of them, and what is summed over rows: ``(p + 1, K)``, the intercept's last."""
    p, k, itemsize, index_bytes = x.shape[1], len(coef), coef.itemsize, x.indices.itemsize
    model, bias = _by_features(coef), intercept_column(intercept, k)
    direction = (_by_features(given.direction[0]), given.direction[1]) if given.direction else ()
    total = backend.empty((p + 1, model.shape[1]), "float64")
    least, most = _ROWS
    size = min(max(_LOGITS_BYTES // (k * itemsize), least), most) // _BLOCK * _BLOCK
    losses = []
    columns = x if x.order == "csc" else x.columns
    if columns is None or columns.dtype != coef.dtype or given.ignores:
        columns, bounds, cursors = None, _shares(x, total.shape[1] * 8), _NO_CURSORS
    else:
        bounds, cursors = _shares(columns, 0), columns.indptr[:-1].astype(np.int64)
    for part in _parts(x, size if x.order == "csr" else most, coef.dtype):
        rows = part.slice
        skip, kernel, others = given.rows(rows, coef.dtype, k)
        z = _logits(rows.stop - rows.start, k, coef.dtype)
        row_loss = np.empty(len(z)) if loss is None else loss[rows]
        entries = part.data, part.indices, part.indptr
        results = (row_loss, z) if given.kind == "target" else (z,)
        arguments = *entries, model, bias, kernel.reference, *direction, *others, *results, _BLOCK
        work = int(part.indptr[-1] - part.indptr[0]) * k
        run(
            linear_kernel(f"{given.kind}_entries", itemsize, kernel.reference_type, index_bytes),
            arguments,
            -(-len(z) // _BLOCK),
            work,
        )
        if given.gradient and columns is None:
            summing = *entries, skip.astype(np.float64), z, total, rows.start == 0, bounds
            run(linear_kernel("add_entries", itemsize, int64, index_bytes), summing, len(bounds) - 1, work)
        elif given.gradient and columns is not None:
            gathering = columns.data, columns.indices, columns.indptr, cursors, rows.start, z, total, rows.start == 0
            add_columns = linear_kernel("add_columns", itemsize, int64, columns.indices.itemsize)
            run(add_columns, (*gathering, bounds), len(bounds) - 1, work)
        if loss is None and given.kind == "target":
            losses.append(backend.total(row_loss))
    return (np.array(losses) if loss is None else loss), total[:, :k]


def _by_features(coef: Array) -> Array:
    """``(K, p)`` as ``(p, K)``, the classes padded with 0 for whole vectors."""
    k, p = coef.shape
    padded = np.zeros((p, -(-k // UNIT) * UNIT), coef.dtype)
    padded[:, :k] = coef.T
    return padded


def _shares(x: CompressedMatrix, feature_bytes: int) -> Array:
    """Bounds between features that divide the entries among threads, about, and further into tiles that fit a cache.

    They change no result. Which features have many entries is seen in a sample.
    """
    p, count = x.shape[1], threads.count()
    if p == 0:
        return np.zeros(2, np.int64)
    if x.order == "csc":
        entries = x.indptr.astype(np.int64)
    else:
        sample = x.indices[:: max(1, x.indices.size // _SAMPLE)]
        entries = np.concatenate([[0], np.cumsum(np.bincount(sample, minlength=p)[:p])])
    count *= max(1, round(p * feature_bytes / (count * _TILE_BYTES)))
    shares = np.searchsorted(entries, entries[-1] * np.arange(1, count) / count)
    return np.unique(np.concatenate([[0], np.minimum(shares, p), [p]]))


def _parts(x: CompressedMatrix, size: int, dtype: np.dtype[Any]) -> Iterator[_Rows]:
    """``size`` rows at a time, their entries of a dtype."""
    n = x.shape[0]
    if x.order == "csc":
        for part in _rows_of_columns(x.data, x.indices, x.indptr, n, _shares(x, 0), size):
            yield part._replace(data=part.data.astype(dtype, copy=False))
        return
    for a in range(0, n, size):
        b = min(a + size, n)
        part = _Rows(slice(a, b), x.data, x.indices, x.indptr[a : b + 1])
        if x.dtype != dtype:
            first, last = part.indptr[0], part.indptr[-1]
            data, indices = x.data[first:last].astype(dtype), x.indices[first:last]
            part = _Rows(part.slice, data, indices, part.indptr - first)
        yield part


def _logits(n: int, k: int, dtype: np.dtype[Any]) -> Array:
    """Room for logits, and behind them for a vector: kernels read whole vectors of the last row."""
    return np.zeros(n * k + GROUP_CLASSES, dtype)[: n * k].reshape(n, k)


def _rows_of_columns(data: Array, indices: Array, indptr: Array, n: int, bounds: Array, size: int) -> Iterator[_Rows]:
    """Rows of a matrix that is stored by columns, in which entries are sorted: as CSR, part by part."""
    cursors = indptr[:-1].astype(np.int64)
    tiles, index_bytes = len(bounds) - 1, indices.itemsize
    for a in range(0, n, size):
        rows = min(size, n - a)
        counts = np.empty((tiles, rows), np.int64)
        columns = indices, indptr, cursors, a, rows
        run(linear_kernel("count_entries", 8, int64, index_bytes), (*columns, counts, bounds), tiles, indices.size)
        starts = np.zeros(rows + 1, np.int64)
        np.cumsum(counts.sum(axis=0), out=starts[1:])
        places = starts[:-1] + np.cumsum(counts, axis=0) - counts
        to_data, to_indices = np.empty(starts[-1], data.dtype), np.empty(starts[-1], indices.dtype)
        kernel = linear_kernel("place_entries", data.itemsize, int64, index_bytes)
        run(kernel, (data, *columns, places, bounds, to_data, to_indices), tiles, indices.size)
        yield _Rows(slice(a, a + rows), to_data, to_indices, starts.astype(indices.dtype))
