"""Losses and gradients composed from a library's softmax and log_softmax, as users of the library write them."""

from __future__ import annotations

from typing import Any

import numpy as np

from softbench.interface import IGNORED, INVALID, IndexTarget, RowBackend, Target


def distribution(target: Target, shape: tuple[int, int]) -> Any:
    """The target as a distribution ``q`` (N, K), weights and smoothing folded in."""
    if not isinstance(target, IndexTarget):
        return target.q.astype(np.float64)
    n, k = shape
    w = np.ones(k) if target.class_weight is None else target.class_weight
    row, label = np.arange(n), np.maximum(target.labels, 0)
    q = np.tile(target.smoothing / k * w, (n, 1))
    q[row, label] += (1 - target.smoothing) * w[label]
    return q if target.sample_weight is None else q * target.sample_weight[:, None]


def select(target: Target, rows: Any) -> Any:
    """Ignored rows become 0, rows whose label is no class NaN."""
    if isinstance(target, IndexTarget):
        rows[target.labels == IGNORED] = 0
        rows[target.labels == INVALID] = np.nan
    return rows


class ComposedBackend(RowBackend):
    """Everything that a library with softmax, log_softmax and logsumexp leaves to its users."""

    def argmax(self, x: Any, out: Any) -> Any:
        """NumPy's."""
        return x.argmax(axis=1)

    def loss_and_gradient(self, x: Any, target: Target, divisor: Any, loss: Any, out: Any) -> tuple[Any, Any]:
        """``-sum q log p`` and ``(sum q) p - q``."""
        q = distribution(target, x.shape)
        log_p = self.log_softmax(x, np.empty_like(x)).astype(np.float64)
        p = self.softmax(x, np.empty_like(x)).astype(np.float64)
        with np.errstate(all="ignore"):
            losses = np.where((q == 0) & ~np.isnan(log_p), 0, -q * log_p).sum(axis=1)
            gradient = (q.sum(axis=1, keepdims=True) * p - q) / (divisor or np.nan)
        return select(target, losses), select(target, gradient).astype(x.dtype)

    def log_loss(self, p: Any, target: Target, loss: Any) -> Any:
        """``-sum q log p``."""
        q = distribution(target, p.shape)
        with np.errstate(all="ignore"):
            losses = np.where(q == 0, 0, q * (0 - np.log(p.astype(np.float64)))).sum(axis=1)
        return select(target, losses)
