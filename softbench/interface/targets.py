"""Targets as kernels get them: a class per row, or a distribution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from softbench.interface.labels import IGNORED, INVALID

__all__ = ["IndexTarget", "Reduction", "SoftTarget", "Target"]

Array = Any

Reduction = Literal["mean", "sum", "none"]


@dataclass(slots=True)  # not frozen, which takes longer to make than a small batch to compute
class IndexTarget:
    """One class per row, ``q_k = (1 - smoothing) w[y] [k == y] + smoothing w[k] / K``, times ``s``.

    ``labels`` is ``(N,)`` int64: a class in ``[0, K)``, `IGNORED` or `INVALID`. ``sample_weight`` ``s`` is
    ``(N,)`` float64 or None, ``class_weight`` ``w`` is ``(K,)`` float64 or None (None: all ones).
    Weights multiply: a NaN row of weight 0 stays NaN. `IGNORED` selects: such a row is not read.

    With ``smoothing == 0``: ``loss_i = s w[y] (lse - x_y)`` and the gradient is ``s w[y] (p - onehot(y))``,
    its label entry minus the sum of the *other* probabilities (never ``p_y - 1``, which cancels).
    Otherwise the formulas of `SoftTarget` hold for the ``q`` above.

    Parameters
    ----------
    labels : array of int64, shape (N,)
        Classes, `IGNORED` or `INVALID`.
    sample_weight : array of float64, shape (N,), or None
        None: all ones.
    class_weight : array of float64, shape (K,), or None
        None: all ones.
    smoothing : float
        ``eps`` of label smoothing, in [0, 1].
    may_ignore, may_be_invalid : bool
        Whether some labels may be `IGNORED`, or `INVALID`; False: none is, so kernels need not look.
    reduction : {"none", "sum", "mean"}
        What is to come of the row losses; always "none" but for a `RowBackend.native_loss`.

    Examples
    --------
    >>> import numpy as np
    >>> from softbench.interface import IGNORED, IndexTarget
    >>> IndexTarget(np.array([2, IGNORED])).smoothing
    0.0
    """

    labels: Array
    sample_weight: Array | None = None
    class_weight: Array | None = None
    smoothing: float = 0.0
    may_ignore: bool = True
    may_be_invalid: bool = True
    reduction: Reduction = "none"

    def distribution(self, n_classes: int) -> Array:
        """``q`` as a NumPy array ``(N, K)`` in extended precision; a label that is no class counts as the first."""
        rows = np.arange(len(self.labels))
        w = np.ones(n_classes, np.longdouble) if self.class_weight is None else self.class_weight.astype(np.longdouble)
        labels = np.maximum(self.labels, 0)
        q = np.tile(self.smoothing * w / n_classes, (len(rows), 1))
        q[rows, labels] += (1 - np.longdouble(self.smoothing)) * w[labels]
        return q if self.sample_weight is None else q * self.sample_weight[:, None]

    def select(self, results: Array) -> Array:
        """NumPy results ``(N,)`` or ``(N, K)``, made 0 in `IGNORED` rows and NaN in `INVALID` ones."""
        results[self.labels == IGNORED] = 0
        results[self.labels == INVALID] = np.nan
        return results


@dataclass(frozen=True, slots=True)
class SoftTarget:
    """A distribution per row, weights and smoothing folded in: ``q`` is ``(N, K)`` of the rows' dtype.

    Or float32 beside rows in half precision, for a backend with `RowBackend.wide_soft_targets`.

    Where there are weights or smoothing, the divisor of a mean is folded in as well (the kernel then gets 1).

    ``loss_i = sum_k q_ik (lse_i - x_ik)``, where ``q_ik == 0`` contributes 0 even if ``x_ik == -inf``;
    ``grad_i = (sum_k q_ik) p_i - q_i``.

    For a `RowBackend.native_loss` nothing is folded in: ``q`` is the caller's distribution, and the target is
    ``sample_weight_i class_weight_k ((1 - smoothing) q_ik + smoothing / K)``. A mean is over the sum of the sample
    weights (N without).

    Parameters
    ----------
    q : array, shape (N, K)
        Of the rows' dtype (float32 for rows of half precision), C-contiguous. Rows need not sum to 1.
    sample_weight, class_weight : array of float64, shapes (N,) and (K,), or None
        For a `RowBackend.native_loss` only. None: all ones.
    smoothing : float
        For a `RowBackend.native_loss` only.
    reduction : {"none", "sum", "mean"}
        As of `IndexTarget`.

    Examples
    --------
    >>> import numpy as np
    >>> from softbench.interface import SoftTarget
    >>> SoftTarget(np.array([[0.25, 0.75]])).q.shape
    (1, 2)
    """

    q: Array
    sample_weight: Array | None = None
    class_weight: Array | None = None
    smoothing: float = 0.0
    reduction: Reduction = "none"

    def distribution(self, n_classes: int) -> Array:
        """``q`` as a NumPy array ``(N, K)`` in extended precision."""
        return self.q.astype(np.longdouble)

    def select(self, results: Array) -> Array:
        """The results: with distributions every row counts."""
        return results


Target = IndexTarget | SoftTarget
