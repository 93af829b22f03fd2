"""Targets of functions of linear logits: labels or distributions of all rows, lowered block by block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from softbench.interface.host_arrays import NumpyArrayOps
from softbench.interface.labels import IGNORED, INVALID
from softbench.interface.targets import IndexTarget, SoftTarget

__all__ = ["LinearTarget", "SoftRows", "target_block", "target_mass"]

Array = Any


@dataclass(frozen=True, slots=True)
class SoftRows:
    """A distribution per row with what it is multiplied and divided by, folded in block by block (`SoftTarget`).

    ``q_ik = s_i w_k ((1 - smoothing) y_ik + smoothing / K) / divisor``.

    Parameters
    ----------
    y : array, shape (N, K), or None
        Of any real dtype. None, for a Hessian only: any distribution, which has mass 1.
    sample_weight : array of float64, shape (N,), or None
        None: all ones.
    class_weight : array of float64, shape (K,), or None
        None: all ones.
    smoothing : float
        ``eps`` of label smoothing, in [0, 1].
    divisor : float or array
        Of a mean: what the backend's own ``divisor`` returned, else 1.

    Examples
    --------
    >>> import numpy as np
    >>> from softbench.interface import SoftRows
    >>> SoftRows(np.array([[0.5, 0.5]]), smoothing=0.1).folded
    True
    """

    y: Array | None
    sample_weight: Array | None = None
    class_weight: Array | None = None
    smoothing: float = 0.0
    divisor: Any = 1.0

    @property
    def folded(self) -> bool:
        """Whether there is anything to multiply or divide by."""
        weighted = self.sample_weight is not None or self.class_weight is not None
        return weighted or self.smoothing != 0.0


LinearTarget: TypeAlias = IndexTarget | SoftRows


def target_block(backend: NumpyArrayOps, target: LinearTarget, rows: slice, dtype: str) -> IndexTarget | SoftTarget:
    """The target of a block of rows."""
    sample_weight = None if target.sample_weight is None else target.sample_weight[rows]
    if isinstance(target, IndexTarget):
        labels = target.labels[rows]
        return IndexTarget(labels, sample_weight, target.class_weight, target.smoothing, target.may_ignore)
    y: Any = target.y
    y = backend.as_rows(y[rows], 1, y.dtype.name)
    if not target.folded:
        return SoftTarget(backend.as_rows(y, 1, dtype))
    q = backend.soft_rows(y, dtype, target.smoothing, target.class_weight, sample_weight, target.divisor)
    return SoftTarget(q)


def target_mass(backend: NumpyArrayOps, target: LinearTarget, rows: slice, divisor: Any) -> tuple[Array, Array | None]:
    """``sum_k q_ik`` of a block of rows over ``divisor``, float64, and which of them are ignored, None if none is."""
    divisor = divisor if divisor != 0 else np.nan
    if isinstance(target, SoftRows) and target.y is None:
        weights = np.ones(rows.stop - rows.start) if target.sample_weight is None else target.sample_weight[rows]
        return weights / divisor, None
    lowered = target_block(backend, target, rows, "float64")
    if isinstance(lowered, SoftTarget):
        return lowered.q.sum(axis=1) / divisor, None
    labels, weights = lowered.labels, lowered.class_weight
    mass = np.ones(len(labels)) if lowered.sample_weight is None else lowered.sample_weight.copy()
    if weights is not None:
        eps = lowered.smoothing
        mass *= (1.0 - eps) * weights[np.maximum(labels, 0)] + eps * weights.mean()
    mass[labels == INVALID] = np.nan
    ignored = labels == IGNORED
    return mass / divisor, ignored if ignored.any() else None
