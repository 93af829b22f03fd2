"""Linear logits of blocks of rows: one task for each, whose sums are added up in a fixed tree.

A task gets its rows of ``X`` and of the target, and the coefficients, which are one piece of every graph: each worker
gets them once. It returns a vector: the sum of its losses in three parts (`softbench_backends.dask.checks.sum_parts`),
then the gradients, or the product, as they come from the local backend.
"""

from __future__ import annotations

import functools
import importlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from softbench.interface import Array, Features, IndexTarget, LinearTarget, SoftRows
from softbench_backends.dask import checks
from softbench_backends.dask.arrays import F64, DaskArrays, Sums, number
from softbench_backends.dask.tasks import Local
from softbench_backends.library_arrays import View

__all__ = ["LinearBlocks"]

Form = tuple[Any, ...]


class LinearBlocks(DaskArrays):
    """The functions of linear logits. Classes have blocks of rows with all features, and ``local``."""

    def accept_features(self, obj: Any, argument: str) -> Features:
        """A `View` in blocks of rows that hold all features; of a Dask dataframe too, whose rows are counted now."""
        if not self.is_own(obj) and hasattr(obj, "to_dask_array"):
            obj = obj.to_dask_array(lengths=True)
        x: View = self.accept(obj, argument)
        if x.ndim != 2:
            return x
        whole = x.array.rechunk({1: -1})
        self.check_memory(whole, argument)
        return self.view(whole, x.source)

    def linear_argmax(self, x: Features, coef: Array, intercept: Array | None, out: Array) -> Array:
        """Lazy, by blocks of rows."""
        return self._each_row("linear_argmax", x, coef, intercept)

    def linear_softmax(self, x: Features, coef: Array, intercept: Array | None, out: Array) -> Array:
        """Lazy, by blocks of rows."""
        return self._each_row("linear_softmax", x, coef, intercept)

    def linear_loss(
        self, x: Features, coef: Array, intercept: Array | None, target: LinearTarget, loss: Array | None
    ) -> Array:
        """Row losses, or sums of them in parts."""
        if loss is not None:
            return self._each_row("linear_loss", x, coef, intercept, target)
        sums, _, _ = self._linear(x, coef, intercept, target, 1.0, loss_part, (), gradients=False)
        return sums

    def linear_loss_and_gradient(
        self, x: Features, coef: Array, intercept: Array | None, target: LinearTarget, divisor: Any, loss: Array | None
    ) -> tuple[Array, Array, Array]:
        """A task for each block of rows; their vectors are added in a fixed tree."""
        found = self._linear(x, coef, intercept, target, divisor, loss_part, (), gradients=True)
        if loss is None:
            return found
        return self._each_row("linear_loss", x, coef, intercept, target), *found[1:]

    def linear_hessian_product(
        self, x: Features, coef: Array, intercept: Array | None, target: LinearTarget, divisor: Any,
        direction: Array, intercept_direction: Array | None, probs: Array | None,
    ) -> tuple[Array, Array]:  # fmt: skip
        """A task for each block of rows."""
        more = (_piece(direction), _piece(intercept_direction))
        return self._linear(x, coef, intercept, target, divisor, hessian_part, more, probs=probs)[1:]

    def _linear(
        self, x: View, coef: View, intercept: View | None, target: LinearTarget, divisor: Any,
        part: Callable[..., Any], more: tuple[Any, ...], probs: View | None = None, **options: Any,
    ) -> tuple[View, View, View]:  # fmt: skip
        """Sums over blocks of rows: losses in parts ``(3,)``, ``(K, p)`` and ``(K,)``."""
        a, (k, p) = x.array, coef.shape
        form, arrays = target_arrays(a, target)
        if part is hessian_part:
            options["kept"] = probs is not None
            arrays = arrays if probs is None else [_beside(a, probs), *arrays]
        width = 3 + (k * p + k if options.get("gradients", True) else 0)
        parts = self._on_blocks(
            part, "ij", (a, "ij"), _piece(coef), _piece(intercept), *more, number(divisor), _folded(target),
            *arrays, local=self.local, form=form, adjust_chunks={"i": 1, "j": width}, dtype=F64, **options,
        )  # fmt: skip
        sums = self._tree(parts, add, 0)

        def piece(start: int, **sizes: int) -> Any:
            cut = functools.partial(_cut, start=start, shape=tuple(sizes.values()))
            return self._on_blocks(cut, "".join(sizes), (sums, "ij"), new_axes=sizes, dtype=F64)

        losses = Sums(piece(0, i=1, s=3), (1, 3), F64, self.da)
        if width == 3:
            return losses, None, None  # type: ignore[return-value]
        return losses, self.view(piece(3, k=k, p=p)), self.view(piece(3 + k * p, k=k))

    def _each_row(self, kernel: str, x: View, coef: View, intercept: View | None, target: Any = None) -> View:
        """A result for each row of linear logits."""
        a, k = x.array, coef.shape[0]
        form, arrays = ((), []) if target is None else target_arrays(a, target)
        folded = () if target is None else (_folded(target),)
        index, dtype = ("ik", coef.dtype) if kernel == "linear_softmax" else ("i", F64)
        dtype = np.dtype(np.int64) if kernel == "linear_argmax" else dtype
        found = self._on_blocks(
            each_row, index, (a, "ij"), _piece(coef), _piece(intercept), *folded, *arrays,
            local=self.local, kernel=kernel, form=form, new_axes={"k": k} if "k" in index else {}, dtype=dtype,
        )  # fmt: skip
        return self.view(found)


def _piece(view: View | None) -> tuple[Any, str | None]:
    """An array that every task gets whole.

    It has no index, so that Dask fuses tasks with those of their rows. With Dask's query planning nothing lazy can be
    without one: there it has indices of one block.
    """
    if view is None:
        return None, None
    da, held = importlib.import_module("dask.array"), view.source
    planned = hasattr(da.Array, "expr")
    if held is not None:
        held = held.copy()  # the caller's may be another by the time that results are computed
        if planned:
            return da.from_array(held, held.shape), "uv"[: held.ndim]
        return importlib.import_module("dask").delayed(held, pure=True, traverse=False), None
    whole = view.array.rechunk(-1)
    return (whole, "uv"[: view.ndim]) if planned else (whole.to_delayed().item(), None)


def _folded(target: Any) -> tuple[Any, str | None]:
    """What is folded into a distribution; 1 where nothing is."""
    return number(getattr(target, "divisor", 1.0))


def target_arrays(a: Any, target: LinearTarget) -> tuple[Form, list[tuple[Any, str | None]]]:
    """A target as what tells tasks its form, and its arrays beside rows ``a``: in their blocks, or whole."""
    soft = isinstance(target, SoftRows)
    y = target.y if isinstance(target, SoftRows) else target.labels
    given = (y, target.sample_weight, target.class_weight)
    form = (soft, *(view is not None for view in given), target.smoothing)
    pairs: list[tuple[Any, str | None]] = [_beside(a, view) for view in given[:2] if view is not None]
    return form, pairs if target.class_weight is None else [*pairs, _piece(target.class_weight)]


def _beside(a: Any, view: View) -> tuple[Any, str]:
    """A value, or a vector, for each row of ``a``: in its blocks."""
    return view.array.rechunk((a.chunks[0], *(-1,) * (view.ndim - 1))), "ij"[: view.ndim]


def _target(form: Form, arrays: tuple[Array, ...], over: Any) -> LinearTarget:
    soft, *present, smoothing = form
    given = iter(arrays)
    y, s, w = (next(given) if there else None for there in present)
    return SoftRows(y, s, w, smoothing, over) if soft else IndexTarget(y, s, w, smoothing)


def loss_part(
    x: Array, coef: Array, intercept: Array | None, divisor: Any, folded: Any, *arrays: Array, local: Local, form: Form,
    gradients: bool,
) -> Array:  # fmt: skip
    """Losses of a block of rows, and their gradients if wanted: ``(1, 3 + K p + K)``."""

    def kernel(rows: Any) -> Array:
        target = _target(form, arrays, np.asarray(folded)[()])
        block, w, b = rows.accept_features(np.ascontiguousarray(x), "X"), np.ascontiguousarray(coef), intercept
        if not gradients:
            return checks.sum_parts(np.atleast_1d(rows.linear_loss(block, w, b, target, None)))
        over = np.asarray(divisor)[()]
        losses, first, second = rows.linear_loss_and_gradient(block, w, b, target, over, None)
        return np.concatenate([checks.sum_parts(np.atleast_1d(losses))[0], np.ravel(first), second])[None]

    return np.asarray(local.run(kernel))


def hessian_part(
    x: Array, coef: Array, intercept: Array | None, direction: Array, intercept_direction: Array | None, divisor: Any,
    folded: Any, *arrays: Array, local: Local, form: Form, kept: bool,
) -> Array:  # fmt: skip
    """The product of a block of rows: ``(1, 3 + K p + K)``, of which the first three are 0."""

    def kernel(rows: Any) -> Array:
        probs, rest = (np.ascontiguousarray(arrays[0]), arrays[1:]) if kept else (None, arrays)
        target, over = _target(form, rest, np.asarray(folded)[()]), np.asarray(divisor)[()]
        block, w, v = rows.accept_features(np.ascontiguousarray(x), "X"), *map(np.ascontiguousarray, (coef, direction))
        parts = rows.linear_hessian_product(block, w, intercept, target, over, v, intercept_direction, probs)
        return np.concatenate([np.zeros(3), *map(np.ravel, parts)])[None]

    return np.asarray(local.run(kernel))


def each_row(
    x: Array, coef: Array, intercept: Array | None, *arrays: Array, local: Local, kernel: str, form: Form
) -> Array:
    """A result for each row: classes, probabilities or losses."""

    def call(rows: Any) -> Array:
        block, w = rows.accept_features(np.ascontiguousarray(x), "X"), np.ascontiguousarray(coef)
        if kernel == "linear_loss":
            folded, *rest = arrays
            target = _target(form, tuple(rest), np.asarray(folded)[()])
            return rows.linear_loss(block, w, intercept, target, np.empty(len(x)))
        shape, dtype = ((len(x),), np.int64) if kernel == "linear_argmax" else ((len(x), len(w)), w.dtype)
        return getattr(rows, kernel)(block, w, intercept, np.empty(shape, dtype))

    return np.asarray(local.run(call))


def _cut(sums: Array, start: int, shape: tuple[int, ...]) -> Array:
    """An array out of the vector of sums ``(1, L)``."""
    return sums[0, start : start + math.prod(shape)].reshape(shape)


def add(parts: Array) -> Array:
    """Vectors of several blocks, ``(b, L)``, as one ``(1, L)``."""
    if len(parts) == 1:
        return parts
    rest: Array = functools.reduce(np.add, parts[:, 3:])
    return np.concatenate([checks.add_parts(parts[:, :3])[0], rest])[None]
