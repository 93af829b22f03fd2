"""The functions of linear logits, for dense features by `linear_dense`, for sparse ones by `linear_compressed`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final, Literal

from softbench.interface import Array, CompressedMatrix, Features, LinearTarget
from softbench.interface.linear import LinearKernels
from softbench_backends.numba.modules import loaded

__all__ = ["LinearCalls"]

_COPY_BYTES: Final = 32
"""Bytes for each coefficient that a copy of the features may take: as four arrays of coefficients in float64."""


class LinearCalls(LinearKernels):
    """The functions of linear logits on kernels of this package: see `softbench_backends.numba.linear`."""

    def accept_features(self, obj: Any, argument: str) -> Features:
        """As the base class; entries of rows, or columns, that are in no order are sorted, in a copy."""
        x = super().accept_features(obj, argument)
        if isinstance(x, CompressedMatrix) and not obj.has_sorted_indices:
            return super().accept_features(obj.sorted_indices(), argument)
        return x

    def prepared(self, x: Features, classes: int) -> Features:
        """A copy by columns of what is stored by rows, unless it takes more than a few arrays of coefficients."""
        if not isinstance(x, CompressedMatrix) or x.order != "csr" or x.columns is not None:
            return x
        if x.data.nbytes + x.indices.nbytes > _COPY_BYTES * x.shape[1] * classes:
            return x
        by_columns = x.source.tocsc()
        arrays = by_columns.data, by_columns.indices, by_columns.indptr
        return replace(x, columns=CompressedMatrix(*arrays, x.shape, "csc", by_columns))

    def linear_argmax(self, x: Features, coef: Array, intercept: Array | None, out: Array) -> Array:  # noqa: D102
        return self._predictions("argmax", x, coef, intercept, out)

    def linear_softmax(self, x: Features, coef: Array, intercept: Array | None, out: Array) -> Array:  # noqa: D102
        return self._predictions("softmax", x, coef, intercept, out)

    def linear_loss(  # noqa: D102
        self, x: Features, coef: Array, intercept: Array | None, target: LinearTarget, loss: Array | None
    ) -> Array:
        return self._sums(loaded("linear_given").Targets(self, target, 1, False), x, coef, intercept, loss)[0]

    def linear_loss_and_gradient(  # noqa: D102
        self,
        x: Features,
        coef: Array,
        intercept: Array | None,
        target: LinearTarget,
        divisor: Any,
        loss: Array | None,
    ) -> tuple[Array, Array, Array]:
        return self._sums(loaded("linear_given").Targets(self, target, divisor, True), x, coef, intercept, loss)

    def linear_hessian_product(  # noqa: D102
        self,
        x: Features,
        coef: Array,
        intercept: Array | None,
        target: LinearTarget,
        divisor: Any,
        direction: Array,
        intercept_direction: Array | None,
        probs: Array | None,
    ) -> tuple[Array, Array]:
        given = loaded("linear_given").Directions(self, target, divisor, direction, intercept_direction, probs)
        return self._sums(given, x, coef, intercept, None)[1:]

    def _predictions(
        self, op: Literal["argmax", "softmax"], x: Features, coef: Array, intercept: Array | None, out: Array
    ) -> Array:
        module = loaded("linear_compressed" if isinstance(x, CompressedMatrix) else "linear_dense")
        return module.predictions(self, op, x, coef, intercept, out)

    def _sums(
        self, given: Any, x: Features, coef: Array, intercept: Array | None, loss: Array | None
    ) -> tuple[Array, Array, Array]:
        """Losses, and what is summed over rows for ``coef`` and for the intercept."""
        if isinstance(x, CompressedMatrix):
            losses, total = loaded("linear_compressed").sums(self, given, x, coef, intercept, loss)
            return losses, total[:-1].T, total[-1]
        losses, total = loaded("linear_dense").sums(self, given, x, coef, intercept, loss)
        return losses, total[:, : x.shape[1]], total[:, -1]
