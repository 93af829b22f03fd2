"""Logits that are linear in features, ``X coef' + intercept``: what a backend computes of them, block by block.

A backend inherits everything here and needs to write none of it: the defaults multiply blocks of rows, hand the
logits of each to the row kernels, and add up what comes of them. So the ``(N, K)`` logits and probabilities never
exist as a whole, ``X`` is read once, and memory besides the arguments does not grow with ``N``. A backend overrides
what it has something faster for.

Rules
-----
* ``x`` is a `Features`: a matrix ``(N, p)`` of the backend as the caller gave it, in any layout and any dtype that
  logits may have, or a `CompressedMatrix`. ``coef`` is ``(K, p)`` and ``intercept`` ``(K,)`` or None, C-contiguous
  and float32 or float64: what the logits are computed in. ``K >= 1`` and ``N >= 1``; ``p`` may be 0.
* What is summed over rows is summed in float64 or better, in an order that depends on shapes alone: not on threads.
* A row whose label is `IGNORED` is selected, not multiplied: it adds nothing whatever it holds.
* Every row's logits depend on that row alone where the backend's product of matrices sees to that.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, TypeAlias

import numpy as np

from softbench.interface import messages
from softbench.interface.dtypes import numpy_dtype
from softbench.interface.host_arrays import NumpyArrayOps
from softbench.interface.labels import IGNORED
from softbench.interface.linear_targets import LinearTarget, target_block, target_mass
from softbench.interface.targets import IndexTarget, SoftTarget, Target

__all__ = ["LINEAR_FUNCTIONS", "CompressedMatrix", "Features", "LinearKernels"]

LINEAR_FUNCTIONS: Final = (
    "linear_argmax",
    "linear_softmax",
    "linear_loss",
    "linear_loss_and_gradient",
    "linear_hessian_product",
)
"""The functions of linear logits."""

Array = Any

_SUMMED_ROWS: Final = 128
"""Rows whose products are added up in their own dtype, before they are added to float64: a bound on that error."""
_LOGITS: Final = 1 << 16
"""Logits of a block, about: they stay in the caches."""
_ELEMENTS: Final = 1 << 20
"""Elements of a block of features, about."""


@dataclass(frozen=True, slots=True)
class CompressedMatrix:
    """A sparse matrix, row by row (CSR) or column by column (CSC), as SciPy stores it.

    Entry ``n`` of row (column) ``i``, for ``indptr[i] <= n < indptr[i + 1]``, is ``data[n]`` in column (row)
    ``indices[n]``. Entries that occur twice are added; they may come in any order. Indices lie within the shape.

    Parameters
    ----------
    data : array, shape (entries,)
        Of any dtype that logits may have.
    indices : array of int32 or int64, shape (entries,)
        Columns of the entries (CSC: rows).
    indptr : array, shape (rows + 1,)
        Of the dtype of ``indices``; CSC: one more than columns.
    shape : tuple of int
        Rows and columns.
    order : {"csr", "csc"}
        How it is stored.
    source : object
        The matrix it was made of.
    columns : CompressedMatrix or None
        Of one that is stored by rows, a copy by columns (`LinearKernels.prepared`).

    Examples
    --------
    >>> from scipy.sparse import csr_array
    >>> import softbench as sb
    >>> sb.get_backend("numpy").rows.accept_features(csr_array([[0.0, 2.0]]), "X").data
    array([2.])
    """

    data: Array
    indices: Array
    indptr: Array
    shape: tuple[int, int]
    order: Literal["csr", "csc"]
    source: Any
    columns: CompressedMatrix | None = None

    @property
    def dtype(self) -> Any:
        """Of the entries."""
        return self.data.dtype


Features: TypeAlias = Any
"""An array ``(N, p)`` of the backend, or a `CompressedMatrix`."""


class LinearKernels(NumpyArrayOps):
    """The functions of linear logits, on the primitives and row kernels of a `RowBackend`."""

    if TYPE_CHECKING:  # what `RowBackend` adds
        name: ClassVar[str]
        native_loss: ClassVar[bool]

        def argmax(self, x: Array, out: Array) -> Array: ...  # noqa: D102
        def softmax(self, x: Array, out: Array) -> Array: ...  # noqa: D102
        def loss(self, x: Array, target: Target, loss: Array) -> Array: ...  # noqa: D102
        def loss_and_gradient(  # noqa: D102
            self, x: Array, target: Target, divisor: Any, loss: Array, out: Array
        ) -> tuple[Array, Array]: ...

    sparse_formats: ClassVar[tuple[str, ...]] = ("csr", "csc")
    """Sparse matrices that the backend takes."""

    # -- primitives ------------------------------------------------------------------------------------

    def accept_features(self, obj: Any, argument: str) -> Features:
        """``obj`` as `Features`: TypeError for what `accept` refuses, but for sparse matrices in `sparse_formats`."""
        if self.native_loss:
            raise messages.no_linear_logits(self.name)  # its losses cannot be had block by block
        form = sparse_format(obj)
        if form is None:
            return self.accept(obj, argument)
        if form not in self.sparse_formats or len(obj.shape) != 2:
            raise messages.sparse_format(argument, obj, self.sparse_formats)
        return CompressedMatrix(obj.data, obj.indices, obj.indptr, obj.shape, form, obj)

    def prepared(self, x: Features, classes: int) -> Features:
        """``x`` with what pays to be made of it once if gradients for so many classes are asked for many times.

        That may take as much memory as a few arrays of coefficients, no more. By default it is nothing.
        """
        return x

    def feature_block(self, x: Features, rows: slice, dtype: str) -> Any:
        """The rows of ``x`` in the given dtype, as something that `linear_logits` and `outer_product` take."""
        if not isinstance(x, CompressedMatrix):
            return self.as_rows(x[rows], 1, dtype)
        return x.source[rows].astype(numpy_dtype(dtype), copy=False)

    def linear_logits(self, block: Any, coef: Array, intercept: Array | None) -> Array:
        """``block coef' + intercept`` as C-contiguous rows."""
        logits = block @ coef.T
        if intercept is not None:
            logits += intercept
        return logits

    def outer_product(self, g: Array, block: Any) -> Array:
        """``g' block`` ``(K, p)`` in float64; at most `_SUMMED_ROWS` rows are summed in another dtype."""
        if not isinstance(block, np.ndarray):  # sparse: a sum of float64 costs less than several dense results
            return np.ascontiguousarray((block.astype(np.float64, copy=False).T @ g.astype(np.float64)).T)
        total = np.zeros((g.shape[1], block.shape[1]))
        for start in range(0, len(g), _SUMMED_ROWS):
            part = slice(start, start + _SUMMED_ROWS)
            total += g[part].T @ block[part]
        return total

    # -- functions -------------------------------------------------------------------------------------

    def linear_argmax(self, x: Features, coef: Array, intercept: Array | None, out: Array) -> Array:
        """`argmax` of the logits; ``out`` is ``(N,)`` int64."""
        return self._each_block("argmax", x, coef, intercept, out)

    def linear_softmax(self, x: Features, coef: Array, intercept: Array | None, out: Array) -> Array:
        """`softmax` of the logits; ``out`` is ``(N, K)`` of the dtype of ``coef``."""
        return self._each_block("softmax", x, coef, intercept, out)

    def linear_loss(
        self, x: Features, coef: Array, intercept: Array | None, target: LinearTarget, loss: Array | None
    ) -> Array:
        """Losses of the rows into ``loss`` ``(N,)`` float64; where that is None, a few sums of them: ``(M,)``."""
        totals = []
        with np.errstate(all="ignore"):
            for rows, block in self._blocks(x, coef):
                lowered = target_block(self, target, rows, coef.dtype.name)
                logits = self.linear_logits(block, coef, intercept)
                losses = self.loss(logits, lowered, self.empty((len(logits),), "float64"))
                totals.append(self._keep(losses, loss, rows))
        return np.array(totals) if loss is None else loss

    def linear_loss_and_gradient(
        self,
        x: Features,
        coef: Array,
        intercept: Array | None,
        target: LinearTarget,
        divisor: Any,
        loss: Array | None,
    ) -> tuple[Array, Array, Array]:
        """`linear_loss`, and the gradients of the sum of the losses over ``divisor``, from one reading of ``x``.

        These are ``G' x`` ``(K, p)`` and ``G' 1`` ``(K,)``, float64, where ``G`` is the gradient that
        `RowBackend.loss_and_gradient` gives of the logits; ``divisor`` is as there.
        """
        totals = []
        coef_sum, intercept_sum = CascadedSum(), CascadedSum()
        with np.errstate(all="ignore"):
            for rows, block in self._blocks(x, coef):
                lowered = target_block(self, target, rows, coef.dtype.name)
                logits = self.linear_logits(block, coef, intercept)
                room = self.empty((len(logits),), "float64")
                losses, g = self.loss_and_gradient(logits, lowered, divisor, room, logits)
                totals.append(self._keep(losses, loss, rows))
                coef_sum.add(self.outer_product(g, without_ignored(block, lowered)))
                intercept_sum.add(_column_sums(g))
            gradients = coef_sum.total(), intercept_sum.total()
        return (np.array(totals) if loss is None else loss), *gradients

    def linear_hessian_product(
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
        """The Hessian of what `linear_loss_and_gradient` sums, times a direction ``(K, p)`` and ``(K,)`` or None.

        With ``U`` the linear logits of the direction and ``m_i`` the mass of row ``i``'s target, ``R' x`` and ``R' 1``
        where ``R = m P (U - rowsum(P U))``. ``probs`` are the probabilities ``P`` ``(N, K)``, None: computed here.
        """
        coef_sum, intercept_sum = CascadedSum(), CascadedSum()
        with np.errstate(all="ignore"):
            for rows, block in self._blocks(x, coef):
                if probs is None:
                    logits = self.linear_logits(block, coef, intercept)
                    p = self.softmax(logits, logits)
                else:
                    p = self.as_rows(probs[rows], 1, coef.dtype.name)
                mass, ignored = target_mass(self, target, rows, divisor)
                u = self.linear_logits(block, direction, intercept_direction)
                u -= (p * u).sum(axis=1, keepdims=True)
                r = (p * u * mass[:, None]).astype(coef.dtype)
                if ignored is not None:
                    r[ignored] = 0.0
                    block = clear_rows(block, ignored)
                coef_sum.add(self.outer_product(r, block))
                intercept_sum.add(_column_sums(r))
            return coef_sum.total(), intercept_sum.total()

    # -- how they do it --------------------------------------------------------------------------------

    def _blocks(self, x: Features, coef: Array) -> Iterator[tuple[slice, Any]]:
        """Rows and what `feature_block` makes of them."""
        n, p = x.shape
        size = _LOGITS // coef.shape[0]
        if isinstance(x, CompressedMatrix):
            # Rows of a matrix that is stored by columns cannot be had but all together.
            if x.order == "csc":
                by_rows = x.source.tocsr()
                x = CompressedMatrix(by_rows.data, by_rows.indices, by_rows.indptr, x.shape, "csr", by_rows)
        else:
            size = min(size, _ELEMENTS // max(p, 1))
        size = max(1, size // _SUMMED_ROWS) * _SUMMED_ROWS
        for start in range(0, n, size):
            rows = slice(start, min(start + size, n))
            yield rows, self.feature_block(x, rows, coef.dtype.name)

    def _each_block(
        self,
        kernel: Literal["argmax", "softmax"],
        x: Features,
        coef: Array,
        intercept: Array | None,
        out: Array,
    ) -> Array:
        """A row kernel of the logits, from block to block."""
        with np.errstate(all="ignore"):
            for rows, block in self._blocks(x, coef):
                part = out[rows]
                result = getattr(self, kernel)(self.linear_logits(block, coef, intercept), part)
                if result is not part:
                    part[...] = result
        return out

    def _keep(self, losses: Array, loss: Array | None, rows: slice) -> Any:
        """The losses of a block to their place, or their sum."""
        if loss is None:
            return self.total(losses)
        loss[rows] = losses
        return None


class CascadedSum:
    """A sum of float64 arrays in two levels, so that its error grows with the root of their number at most."""

    _FEW = 64

    def __init__(self) -> None:
        self._sum: Array = 0.0
        self._part: Array = None
        self._count = 0

    def add(self, term: Array) -> None:
        """Add an array; it is taken over."""
        if self._part is None:
            self._part = term
        else:
            self._part += term
        self._count += 1
        if self._count == self._FEW:
            self._sum = self._sum + self._part
            self._part, self._count = None, 0

    def total(self) -> Array:
        """What was added so far."""
        return self._sum if self._part is None else self._sum + self._part


def _column_sums(g: Array) -> Array:
    """Sums over the rows in float64, by pairs: NumPy adds up whole rows one by one."""
    return g.T.copy().sum(axis=1, dtype=np.float64)


def sparse_format(obj: Any) -> Any:
    """``csr``, ``csc`` and so on of a sparse matrix or array of SciPy or CuPy, else None."""
    if any(base.__module__.startswith(("scipy.sparse", "cupyx.scipy.sparse")) for base in type(obj).__mro__):
        return getattr(obj, "format", "") or ""
    return None


def without_ignored(block: Any, target: IndexTarget | SoftTarget) -> Any:
    """``block`` with 0 in the rows that the target ignores: what they hold must not meet their gradient of 0."""
    if isinstance(target, SoftTarget):
        return block
    ignored = target.labels == IGNORED
    return clear_rows(block, ignored) if ignored.any() else block


def clear_rows(block: Any, chosen: Array) -> Any:
    """A copy of ``block`` with 0 in some rows."""
    cleared = block.copy()
    if isinstance(block, np.ndarray):
        cleared[chosen] = 0.0
    else:
        cleared.data[np.repeat(chosen, np.diff(block.indptr))] = 0.0
    return cleared
