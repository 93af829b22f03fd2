"""What an arithmetic of the oracle must offer: the quantities of a row, and the weighting of a target.

`softbench.accuracy.numpy_engine` has two of them, float64 and x87 longdouble; `softbench.accuracy.arb` is the third.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from softbench.accuracy.ulp import Truth

__all__ = ["F64", "Arithmetic", "Array", "Engine", "Reduction", "Weighting"]

Array = NDArray[Any]
F64 = NDArray[np.float64]
Arithmetic = Literal["float64", "longdouble", "arb"]
Reduction = Literal["mean", "sum", "none"]


class Weighting(NamedTuple):
    """A target with its options, per row: ``q_k = s w_k ((1 - eps) y_k + eps / K)``, ``y`` one-hot for indices."""

    labels: NDArray[np.int64] | None
    """``(N,)``, for class indices; those that are no class occur in rows that are `ignored` or `invalid`."""
    y: Array | None
    """``(N, K)`` for distributions: float64, or longdouble if given so."""
    ignored: NDArray[np.bool_]
    """``(N,)``: rows whose loss is 0 and gradient +0, whatever their logits."""
    invalid: NDArray[np.bool_]
    """``(N,)``: rows whose label is no class; all NaN."""
    s: F64 | None
    """``(N,)`` sample weights."""
    w: F64 | None
    """``(K,)`` class weights."""
    eps: float

    @property
    def plain_index(self) -> bool:
        """Whether the target is one class per row, unsmoothed."""
        return self.labels is not None and self.eps == 0.0

    def take(self, rows: slice) -> Weighting:
        """The target of some rows."""
        return self._replace(
            labels=None if self.labels is None else self.labels[rows],
            y=None if self.y is None else self.y[rows],
            ignored=self.ignored[rows],
            invalid=self.invalid[rows],
            s=None if self.s is None else self.s[rows],
        )


class Engine(Protocol):
    """An arithmetic: the quantities of rows ``x``, an ``(N, K)`` float64 array with ``K >= 1``.

    64-bit integers come as longdouble, or as Python's own where that is too short for them.
    """

    def logsumexp(self, x: F64) -> Truth:
        """``m + L``, ``(N,)``."""

    def log1p_s(self, x: F64) -> Truth:
        """``L``, ``(N,)``; NaN for rows without finite probabilities."""

    def softmax(self, x: F64) -> Truth:
        """``p``, ``(N, K)``."""

    def log_softmax(self, x: F64) -> Truth:
        """``log p``, ``(N, K)``."""

    def loss(self, x: F64, target: Weighting, reduction: Reduction) -> Truth:
        """``(N,)``, or 0-d for "sum" and "mean"."""

    def gradient(self, x: F64, target: Weighting, reduction: Reduction) -> Truth:
        """``(N, K)``."""

    def probability_mass(self, x: F64, target: Weighting, reduction: Reduction) -> Truth:
        """``(sum_k |q_k|) p``, ``(N, K)``."""

    def log_loss(self, p: F64, target: Weighting, reduction: Reduction) -> Truth:
        """``(N,)`` or 0-d, from probabilities."""
