"""Linear logits on a CUDA device, chunk by chunk: what is the same whatever kernels are written in.

A chunk of rows is multiplied by the coefficients, its logits go through the row kernels, and the gradient of these is
multiplied by the same chunk. Up to `SUMMED_ROWS` rows are added up in the dtype of the logits; their sums are added up
in float64, with what that rounds away. Chunks depend on shapes alone, and nothing here waits for the device.
"""

from __future__ import annotations

import abc
from collections.abc import Iterator
from typing import Any, ClassVar, Final

from softbench.interface.device_backend import NO_TARGET, DeviceBackend, KernelTarget, kernel_target, operands
from softbench.interface.dtypes import name_of
from softbench.interface.linear_targets import LinearTarget
from softbench.interface.targets import IndexTarget, SoftTarget, Target

__all__ = ["SUMMED_ROWS", "LinearDeviceBackend"]

Array = Any

SUMMED_ROWS: Final = 128
"""Rows whose products are added up in their own dtype: a bound on that error."""
_ELEMENTS: Final = 1 << 24
"""Of a chunk of features, of its logits, and of its sums over `SUMMED_ROWS` rows: at most about so many each."""


class LinearDeviceBackend(DeviceBackend):
    """`DeviceBackend` with the functions of linear logits; of dense features."""

    sparse_formats: ClassVar[tuple[str, ...]] = ()

    # -- to implement ----------------------------------------------------------------------------------

    @abc.abstractmethod
    def rows_part(self, x: Array, first: int, count: int) -> Array:
        """Some rows of a matrix of any layout, over the same memory."""

    @abc.abstractmethod
    def multiply(self, block: Array, coef: Array, intercept: Array | None) -> Array:
        """``block coef' + intercept`` ``(n, K)``, C-contiguous; ``block`` is ``(n, p)`` with ``p >= 1``."""

    @abc.abstractmethod
    def multiply_parts(self, g: Array, block: Array, labels: Array | None, parts: Array) -> None:
        """Into ``parts`` ``(ceil(n / SUMMED_ROWS), K, p)``: ``g' block`` of each `SUMMED_ROWS` rows.

        A row whose label is `IGNORED` counts as 0 in ``block``, whatever it holds; ``labels`` None: there is none.
        """

    @abc.abstractmethod
    def add_parts(self, parts: Array, total: Array, rest: Array) -> None:
        """Add ``parts`` ``(M, K, p)`` to ``total`` ``(K, p)`` float64; what that rounds away is in ``rest``."""

    @abc.abstractmethod
    def curvature(self, probs: Array, u: Array, target: KernelTarget) -> None:
        """``m_i p_ik (u_ik - sum_l p_il u_il)`` over ``u``; ``m_i`` is the mass of a row's target over the divisor.

        It is 0 in rows `IGNORED`, NaN in rows `INVALID`; a row has mass 1 where there are neither labels nor ``q``.
        """

    # -- functions -------------------------------------------------------------------------------------

    def linear_argmax(self, x: Array, coef: Array, intercept: Array | None, out: Array) -> Array:
        """`argmax` of the logits."""
        for first, block in self._chunks(x, coef):
            count = block.shape[0]
            self.argmax(self._logits(block, coef, intercept), self.part(out, first, count))
        return out

    def linear_softmax(self, x: Array, coef: Array, intercept: Array | None, out: Array) -> Array:
        """`softmax` of the logits."""
        for first, block in self._chunks(x, coef):
            self.softmax(self._logits(block, coef, intercept), self.rows_part(out, first, block.shape[0]))
        return out

    def linear_loss(
        self, x: Array, coef: Array, intercept: Array | None, target: LinearTarget, loss: Array | None
    ) -> Array:
        """Losses of the rows; where ``loss`` is None the sums of chunks."""
        losses = _Losses(self, x, coef, loss)
        for first, block in self._chunks(x, coef):
            logits = self._logits(block, coef, intercept)
            room = losses.room(first, block.shape[0])
            self.loss(logits, self._target_part(target, first, logits), room)
            losses.keep(room)
        return losses.result

    def linear_loss_and_gradient(
        self, x: Array, coef: Array, intercept: Array | None, target: LinearTarget, divisor: Any, loss: Array | None
    ) -> tuple[Array, Array, Array]:
        """`linear_loss`, and the gradients in float64."""
        losses = _Losses(self, x, coef, loss)
        sums = _GradientSums(self, x, coef)
        for first, block in self._chunks(x, coef):
            logits = self._logits(block, coef, intercept)
            room = losses.room(first, block.shape[0])
            lowered = self._target_part(target, first, logits)
            self.loss_and_gradient(logits, lowered, divisor, room, logits)
            losses.keep(room)
            sums.add(logits, block, _ignoring(lowered))
        return losses.result, *sums.totals()

    def linear_hessian_product(
        self,
        x: Array,
        coef: Array,
        intercept: Array | None,
        target: LinearTarget,
        divisor: Any,
        direction: Array,
        intercept_direction: Array | None,
        probs: Array | None,
    ) -> tuple[Array, Array]:
        """``R' x`` and ``R' 1`` with ``R`` of `curvature`."""
        sums = _GradientSums(self, x, coef)
        for first, block in self._chunks(x, coef):
            count = block.shape[0]
            u = self._logits(block, direction, intercept_direction)
            if probs is None:
                p = self._logits(block, coef, intercept)
                self.softmax(p, p)
            else:
                p = self.as_rows(self.rows_part(probs, first, count), 1, name_of(coef.dtype))
            labels = None
            if not isinstance(target, IndexTarget) and target.y is None:
                weight = None if target.sample_weight is None else self.part(target.sample_weight, first, count)
                given = operands(sample_weight=weight, divisor=divisor)
            else:
                lowered = self._target_part(target, first, u)
                given, labels = kernel_target(lowered, divisor), _ignoring(lowered)
            self.curvature(p, u, given)
            sums.add(u, block, labels)
        return sums.totals()

    # -- how they do it --------------------------------------------------------------------------------

    def _chunks(self, x: Array, coef: Array) -> Iterator[tuple[int, Array]]:
        """Number of the first row of each chunk, and its rows in the dtype of the logits."""
        n, size = x.shape[0], chunk_rows(*coef.shape)
        for first in range(0, n, size):
            count = min(size, n - first)
            yield first, self.as_rows(self.rows_part(x, first, count), 1, name_of(coef.dtype))

    def _logits(self, block: Array, coef: Array, intercept: Array | None) -> Array:
        if block.shape[1]:
            return self.multiply(block, coef, intercept)
        dtype = name_of(coef.dtype)  # no features: the product of a column of zeros
        none = self.full((block.shape[0], 1), 0.0, dtype), self.full((coef.shape[0], 1), 0.0, dtype)
        return self.multiply(*none, intercept)

    def _target_part(self, target: LinearTarget, first: int, logits: Array) -> Target:
        """The target of the rows of ``logits``."""
        count, dtype = logits.shape[0], name_of(logits.dtype)
        weight = None if target.sample_weight is None else self.part(target.sample_weight, first, count)
        if isinstance(target, IndexTarget):
            labels = self.part(target.labels, first, count)
            return IndexTarget(labels, weight, target.class_weight, target.smoothing, target.may_ignore)
        y: Any = target.y
        y = self.as_rows(self.rows_part(y, first, count), 1, name_of(y.dtype))
        if not target.folded:
            return SoftTarget(self.as_rows(y, 1, dtype))
        return SoftTarget(self.soft_rows(y, dtype, target.smoothing, target.class_weight, weight, target.divisor))


def chunk_rows(classes: int, features: int) -> int:
    """Rows of a chunk: a multiple of `SUMMED_ROWS`."""
    most = max(SUMMED_ROWS * classes, SUMMED_ROWS * features, classes * features)
    return SUMMED_ROWS * max(1, _ELEMENTS // most)


def _ignoring(target: Target) -> Array | None:
    """Labels where some may be `IGNORED`."""
    return target.labels if isinstance(target, IndexTarget) and target.may_ignore else None


class _Losses:
    """Losses of all rows in the caller's array, or else the sum of each chunk."""

    def __init__(self, backend: LinearDeviceBackend, x: Array, coef: Array, loss: Array | None) -> None:
        self._backend, self._each, self._kept = backend, loss is not None, 0
        chunks = -(-x.shape[0] // chunk_rows(*coef.shape))
        self.result: Array = loss if loss is not None else backend.empty((chunks,), "float64")

    def room(self, first: int, count: int) -> Array:
        """Where the losses of a chunk go."""
        if self._each:
            return self._backend.part(self.result, first, count)
        return self._backend.empty((count,), "float64")

    def keep(self, losses: Array) -> None:
        """Keep the losses of the next chunk."""
        if not self._each:
            self._backend.sum_values(losses, NO_TARGET, self._backend.part(self.result, self._kept, 1))
        self._kept += 1


class _GradientSums:
    """``G' x`` and ``G' 1`` over all chunks."""

    def __init__(self, backend: LinearDeviceBackend, x: Array, coef: Array) -> None:
        self._backend = backend
        (self._k, self._p), self._dtype = coef.shape, name_of(coef.dtype)
        rows = min(x.shape[0], chunk_rows(*coef.shape))
        self._ones = backend.full((rows, 1), 1.0, self._dtype)
        shapes = (self._k, self._p), (self._k, 1)
        self._sums = [[backend.full(shape, 0.0, "float64") for _ in ("total", "rest")] for shape in shapes]

    def add(self, g: Array, block: Array, labels: Array | None) -> None:
        """Add a chunk; rows of ``labels`` that are `IGNORED` count as 0 in ``block``."""
        backend, count = self._backend, g.shape[0]
        for x, sums in zip((block, backend.rows_part(self._ones, 0, count)), self._sums, strict=True):
            if x.shape[1]:
                parts = backend.empty((-(-count // SUMMED_ROWS), self._k, x.shape[1]), self._dtype)
                backend.multiply_parts(g, x, labels if x is block else None, parts)
                backend.add_parts(parts, *sums)

    def totals(self) -> tuple[Array, Array]:
        """The sums ``(K, p)`` and ``(K,)``."""
        (coef, _), (intercept, _) = self._sums
        return coef, intercept.reshape((self._k,))
