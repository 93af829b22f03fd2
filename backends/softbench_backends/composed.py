"""Cross-entropy composed from a library's softmax and log_softmax with NumPy, as users of such a library write it.

The loss picks the labels' entries of log_softmax, the gradient is softmax minus one-hot: no care beyond that is taken,
because none is taken where people do this by hand. Everything stays in the logits' dtype but for weights.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final

import numpy as np

from softbench.interface import IGNORED, INVALID, Array, IndexTarget, Reduction, RowBackend, SoftTarget, Target

__all__ = ["DEVIATIONS", "ComposedLoss", "IndexRows"]

DEVIATIONS: Final[dict[str, str]] = {
    "one-class": "a loss of 0 is -0: minus the logarithm of 1",
    "absent-classes": "as accuracy-softmax and accuracy-log-softmax",
    "subnormal": "probabilities of the rounded shift are off by several spacings",
    "log-loss": "a loss of 0 is -0: minus the logarithm of 1",
    "soft-zero": "0 times the logarithm of an absent class is NaN",
    "ignore-index": "sums are taken in the logits' dtype, in an order that depends on which rows are in them",
    "weight-0": "0 times an infinite loss is NaN",
    "class-weight": "as accuracy-loss and accuracy-soft: weights of 1e300 show what is lost",
    "weight-sizes": "as weight-0 and class-weight: products of weights overflow, and 0 times infinity is NaN",
    "label-smoothing": "a smoothing so small that its share of a class is 0: 0 times an infinite loss is NaN",
    "large-integers": "as accuracy-log-softmax and accuracy-gradient",
    "label-dtypes": "as accuracy-gradient",
    "reductions/loss-mean-of-large-float64": "a mean is a sum divided: losses of 1.7e308 overflow in it",
    "size/classes-loss": "as accuracy-log-softmax",
    "changed-arguments": "as accuracy-softmax and accuracy-log-softmax",
    "held-results": "as equivalent-calls",
    "sequences": "as accuracy-softmax and accuracy-log-softmax",
    "accuracy-softmax": "the shift x - max is rounded",
    "accuracy-log-softmax": "log(sum) instead of log1p",
    "accuracy-loss": "as accuracy-log-softmax",
    "accuracy-gradient": "softmax minus one-hot, as users compose it: p_y - 1 cancels where p_y is near 1",
    "accuracy-weighted": "as accuracy-loss and accuracy-gradient",
    "accuracy-soft": "as accuracy-softmax and accuracy-log-softmax",
    "accuracy-log-loss": "NumPy's float32 logarithm is off by more than 2 units now and then",
    "symmetries": "a permutation changes results by more than the gates leave",
    "bounds": "gradient rows do not sum to 0 within the gates of their entries; a loss of 0 is -0",
    "equivalent-calls": "a gradient alone is that of softmax, with its loss that of the exponential of log_softmax",
    "every-k": "as accuracy-softmax and accuracy-log-softmax",
    "every-n": "as accuracy-softmax",
    "every-index": "as accuracy-log-softmax and accuracy-gradient",
    "long-rows": "as accuracy-softmax and accuracy-log-softmax",
    "combinations": "as accuracy-softmax, accuracy-log-softmax, weight-0 and soft-zero",
}
"""What a backend that composes its losses here does otherwise, unless it says more."""


class ComposedLoss(RowBackend):
    """What a library with softmax and log_softmax leaves to its users. Classes are along axis 1 of two or three."""

    native_loss = True
    accepts_strided = True
    writes_out: ClassVar = frozenset[str]()

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """Nothing: these libraries make their own results."""
        return None

    def total(self, values: Array, divisor: Any = None) -> Any:
        """What the kernels have reduced, in float64; `NumpyArrayOps.total` of losses that there are none of."""
        return np.float64(values) if values.ndim == 0 else super().total(values, divisor)

    def argmax(self, x: Array, out: Array) -> Array:
        """NumPy's."""
        return np.argmax(x, axis=1).reshape(-1)

    def loss(self, x: Array, target: Target, loss: Array) -> Array:
        """``-log p`` at the label, or ``-sum q log p``."""
        with np.errstate(all="ignore"):
            return _losses(self.log_softmax(x, None), target)

    def gradient(self, x: Array, target: Target, divisor: Any, out: Array) -> Array:
        """``(sum q) p - q``, from softmax."""
        with np.errstate(all="ignore"):
            return _gradient(self.softmax(x, None), target)

    def loss_and_gradient(self, x: Array, target: Target, divisor: Any, loss: Array, out: Array) -> tuple[Array, Array]:
        """Both, from one log_softmax and its exponential."""
        with np.errstate(all="ignore"):
            log_p = self.log_softmax(x, None)
            losses = _losses(log_p, target)
            return losses, _gradient(np.exp(log_p, out=log_p), target)

    def log_loss(self, p: Array, target: Target, loss: Array) -> Array:
        """``-log p`` at the label, or `scipy.special.xlogy`, which makes 0 log 0 of nothing."""
        from scipy.special import xlogy

        with np.errstate(all="ignore"):
            if isinstance(target, SoftTarget):
                return _soft_reduced(-xlogy(_distribution(target, p.shape), p).sum(axis=1), target)
            rows = IndexRows(target, p.shape)
            return rows.reduced(rows.finished(_weighted(-np.log(p[rows.at]), rows.weight)), target.reduction)


class IndexRows:
    """Index targets in the shape of the losses, ``(N,)`` or ``(outer, inner)``."""

    def __init__(self, target: IndexTarget, shape: tuple[int, ...]) -> None:
        outer = (shape[0], *shape[2:])
        self.labels = target.labels.reshape(outer)
        self.known = known = np.maximum(self.labels, 0) if target.may_ignore or target.may_be_invalid else self.labels
        """The labels, 0 where a row has none."""
        first = np.arange(shape[0])
        self.at = (first, known) if len(shape) == 2 else (first[:, None], known, np.arange(shape[2]))
        """Where the labels' entries are."""
        w, s = target.class_weight, target.sample_weight
        self.label_weight = None if w is None else w[known]
        self.sample_weight = None if s is None else s.reshape(outer)
        self.weight = _product(self.label_weight, self.sample_weight)
        self.ignored = self.labels == IGNORED if target.may_ignore else None
        self.invalid = self.labels == INVALID if target.may_be_invalid else None

    def finished(self, rows: Array) -> Array:
        """Losses or gradient rows with those that are ignored or have no class."""
        axes_last = np.moveaxis(rows, 1, -1) if rows.ndim > self.labels.ndim else rows
        if self.ignored is not None:
            axes_last[self.ignored] = 0.0
        if self.invalid is not None:
            axes_last[self.invalid] = np.nan
        return rows

    def divisor(self) -> Any:
        """What a mean is over: the rows that count, or their weights."""
        if self.weight is None:
            return self.labels.size if self.ignored is None else np.count_nonzero(~self.ignored)
        return self.weight.sum() if self.ignored is None else self.weight[~self.ignored].sum()

    def reduced(self, losses: Array, reduction: Reduction) -> Array:
        """Losses ``(N,)``, or a number."""
        if reduction == "none":
            return losses.reshape(-1)
        if reduction == "mean" and self.weight is self.ignored is None:
            return np.asarray(losses.mean())
        total = losses.sum()
        with np.errstate(all="ignore"):
            return np.asarray(total if reduction == "sum" else total / self.divisor())


def _losses(log_p: Array, target: Target) -> Array:
    """Reduced losses of log-probabilities."""
    if isinstance(target, SoftTarget):
        return _soft_reduced(-(_distribution(target, log_p.shape) * log_p).sum(axis=1), target)
    rows = IndexRows(target, log_p.shape)
    losses = -log_p[rows.at]
    if target.smoothing == 0.0:
        return rows.reduced(rows.finished(_weighted(losses, rows.weight)), target.reduction)
    spread = log_p if target.class_weight is None else log_p * _along(target.class_weight, log_p)
    losses = (1.0 - target.smoothing) * _weighted(losses, rows.label_weight)
    losses = losses - target.smoothing / log_p.shape[1] * spread.sum(axis=1)
    return rows.reduced(rows.finished(_weighted(losses, rows.sample_weight)), target.reduction)


def _gradient(p: Array, target: Target) -> Array:
    """The gradient of `_losses`, in the memory of the probabilities."""
    if isinstance(target, SoftTarget):
        q = _distribution(target, p.shape)
        p *= np.expand_dims(q.sum(axis=1), 1)
        p -= q
        divisor = _soft_divisor(target, p) if target.reduction == "mean" else None
        return _scaled(p, target.sample_weight, divisor)
    rows = IndexRows(target, p.shape)
    divisor = rows.divisor() if target.reduction == "mean" else None
    if target.smoothing == 0.0:
        p[rows.at] -= 1.0
        return rows.finished(_scaled(p, rows.weight, divisor))
    share, w = target.smoothing / p.shape[1], target.class_weight
    kept = 1.0 - target.smoothing if rows.label_weight is None else (1.0 - target.smoothing) * rows.label_weight
    if w is not None:
        p *= np.expand_dims(kept + share * w.sum(), 1)
    p -= share if w is None else share * _along(w, p)
    p[rows.at] -= kept
    return rows.finished(_scaled(p, rows.sample_weight, divisor))


def _distribution(target: SoftTarget, shape: tuple[int, ...]) -> Array:
    """``q`` without the sample weights."""
    q = target.q
    if target.smoothing:
        q = (1.0 - target.smoothing) * q + target.smoothing / shape[1]
    return _weighted(q, target.class_weight)


def _soft_reduced(losses: Array, target: SoftTarget) -> Array:
    losses = _weighted(losses, target.sample_weight)
    if target.reduction == "none":
        return losses
    return np.asarray(losses.sum() if target.reduction == "sum" else losses.sum() / _soft_divisor(target, losses))


def _soft_divisor(target: SoftTarget, rows: Array) -> Any:
    return len(rows) if target.sample_weight is None else target.sample_weight.sum()


def _scaled(gradient: Array, weight: Array | None, divisor: Any) -> Array:
    """Rows times their weight, over the divisor, in place."""
    if weight is not None:
        gradient *= np.expand_dims(weight if divisor is None else weight / divisor, 1)
    elif divisor is not None:
        gradient /= divisor
    return gradient


def _weighted(values: Array, weight: Array | None) -> Array:
    return values if weight is None else values * weight


def _product(a: Array | None, b: Array | None) -> Array | None:
    return b if a is None else _weighted(a, b)


def _along(weight: Array, x: Array) -> Array:
    """Class weights along axis 1 of ``x``."""
    return weight if x.ndim == 2 else weight[:, None]
