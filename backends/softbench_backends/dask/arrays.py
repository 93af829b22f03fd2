"""Dask arrays as the front takes them: blocks, checks of values block by block, sums in fixed trees."""

from __future__ import annotations

import functools
import importlib
import math
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from softbench.interface import Array, messages
from softbench.interface.dtypes import name_of, numpy_dtype, sum_tolerance
from softbench.interface.host_arrays import NumpyArrayOps
from softbench_backends.dask import checks, memory, tasks
from softbench_backends.dask.tasks import Local
from softbench_backends.library_arrays import LibraryArrays, View

__all__ = ["F64", "FAN", "DaskArrays", "Sums", "number"]

FAN: Final = 8
"""Blocks that are combined at a time."""
F64: Final = np.dtype("float64")
_LATER: Final = object()


class Sums(View):
    """Losses that are added up already: the sum in the parts of `checks.sum_parts`."""


class DaskArrays(LibraryArrays):
    """What the front asks of arrays, of Dask's; and the two ways in which blocks are computed, one by one and together.

    Parameters
    ----------
    blocks
        How many blocks NumPy arrays are cut into along each axis of rows, and along the last one, that of classes.
        None: rows as Dask chooses, all classes.
    """

    local: Local
    waits = True
    lazy = True

    def __init__(self, blocks: tuple[int, int] | None) -> None:
        super().__init__()
        self.da = importlib.import_module("dask.array")
        self.blocks = blocks

    # -- arrays ----------------------------------------------------------------------------------------

    def in_child(self) -> None:
        """Nothing: a forked child has a scheduler of its own."""

    def knows(self, obj: Any) -> bool:
        """Whether it is a Dask array."""
        return isinstance(obj, self.da.Array)

    def check_own(self, array: Any, argument: str) -> None:
        """TypeError for ``out``, ValueError for unknown chunk sizes, MemoryError for blocks that do not fit."""
        if argument == "out":
            raise TypeError("out is a Dask array, which is lazy and cannot be written: leave it out")
        if any(math.isnan(size) for size in array.shape):
            raise ValueError(
                f"{argument} has chunks of unknown sizes (shape {array.shape}): call its compute_chunk_sizes() first"
            )
        if argument in ("logits", "probs"):
            self.check_memory(array, argument)

    def check_memory(self, array: Any, argument: str, held: float = 0.0, extra: int = 0) -> None:
        """MemoryError with chunks that fit, where blocks of ``array`` do not (`memory.check`)."""
        memory.check(array, argument, self.local.name, held, extra)

    def view(self, array: Any, source: np.ndarray[Any, Any] | None = None) -> View:
        """A Dask array."""
        return View(array, tuple(array.shape), array.dtype, self.da, source)

    def from_host(self, host: np.ndarray[Any, Any], argument: str) -> Any:
        """A NumPy array in blocks."""
        if argument == "out" or (host.dtype.kind not in "biuf" and name_of(host.dtype) != "bfloat16"):
            return host
        native = np.asarray(host, host.dtype.newbyteorder("="))
        return self.view(self.asarray(native), host)

    def _cut(self, host: np.ndarray[Any, Any]) -> tuple[Any, ...]:
        """Sizes of the blocks of a NumPy array."""
        if not host.size:  # of which Dask cannot choose
            return tuple(host.shape)
        if self.blocks is None:
            return (*("auto",) * (host.ndim - 1), -1)[: host.ndim]
        counts = (*(self.blocks[0],) * max(1, host.ndim - 1), self.blocks[1])[: host.ndim]
        return tuple(max(1, -(-size // count)) for size, count in zip(host.shape, counts, strict=True))

    def host(self, view: View) -> np.ndarray[Any, Any]:
        """What it was made of, or what comes of computing it."""
        return view.source if view.source is not None else np.asarray(view.array.compute())

    def wrap(self, result: Array, like: Any) -> Any:
        """The Dask array if ``like`` is one, else a NumPy array of its own."""
        return result.array if self.is_own(like) else NumpyArrayOps.wrap(self, self.host(result), like)

    def computed(self, result: Any) -> Any:
        """Dask arrays whose blocks are in memory: in that of the workers, where there are any."""
        parts = result if isinstance(result, tuple) else (result,)
        there = importlib.import_module("dask").persist(*parts)
        return there if isinstance(result, tuple) else there[0]

    def asarray(self, obj: Any) -> Any:
        """A Dask array."""
        if self.is_own(obj):
            return obj
        host = np.asarray(obj)
        return self.da.from_array(host, self._cut(host), name=False)

    def astype(self, view: View, dtype: str) -> Any:
        """Block by block, as of NumPy arrays."""
        return self._per_block(_cast, view.array, dtype=numpy_dtype(dtype), to=dtype)

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """A place for a result: nothing is written before results are asked for, so it is none of any memory."""
        return _LATER

    # -- rows with weights beyond the range of kernels: few, looked at and computed in this process -----------

    def host_copy(self, array: Array) -> np.ndarray[Any, Any]:
        """Computed now."""
        return self.host(array)

    def device_copy(self, array: np.ndarray[Any, Any]) -> Array:
        """In blocks."""
        return self.view(self.asarray(array), array)

    def read_rows(self, rows: Array, which: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Computed now; no other rows leave their blocks."""
        return np.asarray(rows.array[which].compute())

    def write_rows(self, rows: Array, which: np.ndarray[Any, Any], values: np.ndarray[Any, Any]) -> None:
        """A result with these rows in place of its own."""
        changed = rows.array.copy()
        with np.errstate(all="ignore"):
            changed[which] = values.astype(rows.dtype)
        rows.replace(changed)

    def as_rows(self, x: Array, axis: int, dtype: str) -> Array:
        """``x`` with ``axis`` last as ``(N, K)`` of ``dtype``."""
        if x.source is not None and x.ndim == 2 and axis == 1:
            host = NumpyArrayOps.as_rows(self, x.source, axis, dtype)
            return x if host is x.source else self.view(self.asarray(host), host)
        held: Any = x._array
        if x.shape == (1, *held.shape):  # a vector, soon to be one again: Dask's query planning has no reshape
            same = name_of(x.dtype) == dtype
            vector = held if same else self._per_block(_cast, held, dtype=numpy_dtype(dtype), to=dtype)
            return View(vector, x.shape, vector.dtype, self.da)
        rows = super().as_rows(x, axis, name_of(x.dtype))
        return rows if name_of(rows.dtype) == dtype else self.view(self.astype(rows, dtype))

    # -- checks and what depends on values -------------------------------------------------------------

    def index_labels(self, labels: Array, n_classes: int, ignore_index: int | None, validate: bool) -> Array:
        """Labels as int64: a class, IGNORED or INVALID. Checked now, computed again when they are needed."""
        if labels.source is not None:
            return super().index_labels(labels, n_classes, ignore_index, validate)
        if validate:
            bad = checks.first(labels.array, checks.bad_labels, n_classes=n_classes, ignore_index=ignore_index)
            if bad is not None:
                (row,), value = bad
                raise messages.no_class(row, value, n_classes, ignore_index)
        mapped = self._per_block(
            checks.labels, labels.array, dtype=np.dtype(np.int64), n_classes=n_classes, ignore_index=ignore_index
        )
        return self.view(mapped)

    def check_range(self, values: Array, argument: str, low: float, high: float) -> None:
        """ValueError naming the first entry that is NaN or outside ``[low, high]``."""
        if values.source is not None:
            super().check_range(values, argument, low, high)
        elif (bad := checks.first(values.array, checks.out_of_range, low=low, high=high)) is not None:
            raise messages.out_of_range(argument, bad[0], bad[1], low, high)

    def all_between(self, values: Array, low: float, high: float) -> bool:
        """Whether all ``values`` are 0 or in ``[low, high]``; of blocks, computed now."""
        if values.source is not None:
            return super().all_between(self.host(values), low, high)
        return checks.first(values.array, checks.immoderate, low=low, high=high) is None

    def check_distribution(self, y: Array) -> None:
        """ValueError naming the first row of soft targets that is no distribution."""
        if y.source is not None:
            super().check_distribution(y)
            return
        bad = checks.first(y.array, checks.negative)
        if bad is not None:
            row, k = bad[0]
            raise messages.negative_target(row, k, bad[1])
        sums = y.array.sum(axis=1, dtype=F64, split_every=FAN)
        bad = checks.first(sums, checks.no_sum, tolerance=sum_tolerance(name_of(y.dtype)))
        if bad is not None:
            raise messages.not_a_distribution(bad[0][0], bad[1])

    def soft_rows(
        self, y: Array, dtype: str, smoothing: float, class_weight: Array | None, sample_weight: Array | None,
        divisor: Any,
    ) -> Array:  # fmt: skip
        """Distributions with weights, smoothing and divisor folded in, rounded once."""
        a = y.array
        w = None if class_weight is None else class_weight.array.rechunk((a.chunks[1],))
        s = None if sample_weight is None else sample_weight.array.rechunk((a.chunks[0],))
        found = self._on_blocks(
            checks.soft_rows, "ij", (a, "ij"), (w, "j"), (s, "i"), number(divisor),
            dtype=numpy_dtype(dtype), to=dtype, smoothing=smoothing, n_classes=a.shape[1],
        )  # fmt: skip
        return self.view(found)

    def divisor(self, labels: Array | None, sample_weight: Array | None, class_weight: Array | None) -> Any:
        """Sum of the weights of rows that are not ignored, in a fixed tree; a 0-d array."""
        a: Any = labels.array if labels is not None else sample_weight.array  # type: ignore[union-attr]
        s = None if sample_weight is None or labels is None else sample_weight.array.rechunk(a.chunks)
        w = None if class_weight is None else class_weight.array.rechunk(-1)
        counted = self._on_blocks(
            checks.row_weights, "i", (a, "i"), (s, "i"), (w, "w"), of_labels=labels is not None, dtype=F64
        )
        return self.view(self._on_blocks(checks.sum_of_parts, "", (self._sums(counted), "is"), dtype=F64))

    def total(self, values: Array, divisor: Any = None) -> Any:
        """Sum of losses in a fixed tree, over ``divisor`` if given; a 0-d array."""
        if values.source is not None:
            found = NumpyArrayOps.total(
                self, values.source, self.host(divisor) if isinstance(divisor, View) else divisor
            )
            return self.from_host(np.asarray(found), "result")
        parts = values.array if isinstance(values, Sums) else self._sums(values.array)
        return self.view(self._on_blocks(checks.finished_total, "", (parts, "is"), number(divisor), dtype=F64))

    def _sums(self, values: Any) -> Any:
        """Sums of ``(N,)`` in parts, ``(1, 3)``."""
        parts = self._on_blocks(
            checks.sum_parts, "is", (values, "i"), new_axes={"s": 3}, adjust_chunks={"i": 1}, dtype=F64
        )
        return self._tree(parts, checks.add_parts, 0)

    def in_task(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function of blocks that is computed with a task's threads: for those that have none of the kernels."""
        return functools.partial(tasks.limited, function, self.local)

    # -- blockwise and reduction -----------------------------------------------------------------------

    def _on_blocks(
        self, function: Callable[..., Any], index: str, *pairs: tuple[Any, str | None], dtype: Any, **options: Any
    ) -> Any:
        """`dask.array.blockwise`; along an index that the result has not there is one block."""
        named = function.func if isinstance(function, functools.partial) else function
        meta = np.empty_like(pairs[0][0]._meta, shape=(0,) * len(index), dtype=dtype)  # of the blocks' own library
        return self.da.blockwise(
            functools.partial(tasks.on_blocks, function), index, *flat(pairs), align_arrays=False, dtype=dtype,
            token=named.__name__.strip("_"), meta=meta, **options,
        )  # fmt: skip

    def _per_block(self, function: Callable[..., Any], a: Any, *, dtype: Any, **options: Any) -> Any:
        """A function of each block, of the block's shape."""
        index = "ijklmnopqrstuvwxyz"[: a.ndim]
        return self._on_blocks(function, index, (a, index), dtype=dtype, **options)

    def _parts(self, function: Callable[..., Any], a: Any, width: int, *pairs: tuple[Any, str | None]) -> Any:
        """``width`` numbers for each row and block of classes; TypeError for blocks that NumPy cannot compute on."""
        if not isinstance(a._meta, np.ndarray):
            raise TypeError(
                f"blocks are of type {type(a._meta).__name__} and hold some of the classes: expected NumPy arrays, or "
                f"blocks with all classes of their rows. For these call rechunk with -1 for the axis of the classes"
            )
        part = functools.partial(_as_part, function)
        axes, chunks = {"s": width}, {"j": 1}
        return self._on_blocks(part, "ijs", (a, "ij"), *pairs, new_axes=axes, adjust_chunks=chunks, dtype=F64)

    def _combined(self, parts: Any, combine: Callable[..., Any]) -> Any:
        """Parts of blocks of classes side by side, ``(n, b, width)``, as those of rows, in a fixed tree."""
        return self._on_blocks(_of_rows, "is", (self._tree(parts, combine, 1), "ijs"), dtype=F64)

    def _tree(self, parts: Any, combine: Callable[..., Any], axis: int) -> Any:
        """Blocks of size 1 along ``axis`` combined to one, in a fixed tree."""
        function = functools.partial(_combine, combine)
        return self.da.reduction(
            parts, function, function, axis=axis, keepdims=True, dtype=F64, split_every=FAN, combine=function,
            concatenate=True, meta=np.empty((0,) * parts.ndim),
        )  # fmt: skip

    def _of_blocks(
        self, function: Callable[..., Any], a: Any, *pairs: tuple[Any, str | None], dtype: Any = None
    ) -> View:
        """A function of each block and more, of the block's shape: a second look, until which blocks are held."""
        dtype = a.dtype if dtype is None else dtype
        self.check_memory(a, "logits", held=len(a.chunks[1]) * max(1.0, dtype.itemsize / a.dtype.itemsize))
        return self.view(self._on_blocks(function, "ij", (a, "ij"), *pairs, dtype=dtype))

    def _of_kept(self, function: Callable[..., Any], kept: Any, dtype: Any, *pairs: tuple[Any, str | None]) -> View:
        """A function of what is kept of rows, one number each."""
        return self.view(self._on_blocks(function, "i", (kept, "is"), *pairs, dtype=dtype))


def _as_part(function: Callable[..., Any], *blocks: Any, **options: Any) -> Any:
    """``(n, 1, width)``: what a function of a block has of its rows."""
    return function(*blocks, **options)[:, None]


def _of_rows(kept: Any) -> Any:
    """``(n, width)``: what is kept of rows."""
    return kept[:, 0]


def _combine(combine: Callable[..., Any], parts: Any, axis: Any = None, keepdims: Any = None) -> Any:
    """Of several blocks, as Dask asks; what is empty tells Dask the dimensions and dtype of results."""
    return combine(parts) if parts.size else parts


def flat(pairs: tuple[tuple[Any, str | None], ...]) -> list[Any]:
    """Arguments of blockwise; None stands for an array that there is none of."""
    flat: list[Any] = []
    for array, index in pairs:
        flat += [None, None] if array is None else [array, index]
    return flat


def number(divisor: Any) -> tuple[Any, str | None]:
    """A divisor as an argument of blockwise: a 0-d array, a sum and what that rounds away ``(2,)``, or a number."""
    return (divisor.array.rechunk(-1), "z"[: divisor.ndim]) if isinstance(divisor, View) else (divisor, None)


def _cast(x: Array, to: str) -> Array:
    if not isinstance(x, np.ndarray):  # of a device
        return x.astype(numpy_dtype(to))
    return NumpyArrayOps().as_rows(x.reshape(1, -1), 1, to).reshape(x.shape)
