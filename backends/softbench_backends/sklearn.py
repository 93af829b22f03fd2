"""scikit-learn: its softmax, its log_loss and the multinomial loss that its LogisticRegression minimises."""

from __future__ import annotations

import functools
from typing import Any, ClassVar, TypeGuard

import numpy as np

from softbench.interface import Array, IndexTarget, SoftTarget, Target
from softbench_backends.composed import DEVIATIONS, ComposedLoss, IndexRows

__all__ = ["SklearnBackend"]


class SklearnBackend(ComposedLoss):
    """scikit-learn on rows.

    Class indices without smoothing go to ``sklearn._loss.HalfMultinomialLoss`` as in ``LogisticRegression``: class
    weights are multiplied into the sample weights, and what a mean is over divides afterwards. Means and sums of
    `log_loss` are `sklearn.metrics.log_loss`, which clips. What scikit-learn has no function for (log_softmax, soft
    targets, smoothing, losses of single rows from probabilities) is composed (`softbench_backends.composed`).

    Parameters
    ----------
    n_threads
        Threads of the multinomial loss. ``LogisticRegression`` uses one, which is the default.
    """

    name = "sklearn"
    requires = ("sklearn",)
    install = "pip install scikit-learn"
    accepts_strided = False
    writes_out: ClassVar = frozenset({"gradient", "loss_and_gradient"})

    deviations: ClassVar = {
        **DEVIATIONS,
        "log-loss": (
            "means and sums clip probabilities at the precision of their dtype "
            "(https://github.com/scikit-learn/scikit-learn/issues/24515); a loss of 0 is -0"
        ),
        "spoilt-sums": "sums and means of log_loss of a row with NaN are a ValueError of its own",
        "settings": "log_loss warns of probabilities that do not sum to 1",
        "accuracy-log-softmax": "it has none: the logarithm of its softmax, as predict_log_proba, is -inf where p is 0",
        "accuracy-loss": "log(sum) + max - x_y: a common offset costs the loss its digits",
        "sample-weight/loss-mean-of-one-float64": "as accuracy-loss",
        "accuracy-gradient": "p_y - 1 cancels where p_y is near 1",
        "size/classes-loss": "as accuracy-loss: a sum of 2**24 terms in float32 stops growing",
        "size/classes-gradient": "as size/classes-loss",
        "symmetries": "a common shift changes the loss; a permutation more than the gates leave",
        "equivalent-calls": "labels go to its multinomial loss, distributions and smoothing are composed",
    }

    def __init__(self, n_threads: int = 1) -> None:
        self.n_threads = n_threads

    def info(self) -> dict[str, object]:
        """Version and threads."""
        import sklearn

        return {"device": "cpu", "threads": self.n_threads, "sklearn": sklearn.__version__}

    def softmax(self, x: Array, out: Array) -> Array:
        """`sklearn.utils.extmath.softmax`; in place it is its ``copy=False``."""
        from sklearn.utils.extmath import softmax

        with np.errstate(all="ignore"):
            return softmax(x, copy=out is not x)

    def log_softmax(self, x: Array, out: Array) -> Array:
        """The logarithm of its softmax, as ``predict_log_proba``: it has no other."""
        with np.errstate(all="ignore"):
            p = self.softmax(x, out)
            return np.log(p, out=p)

    def logsumexp(self, x: Array, out: Array) -> Array:
        """SciPy's, which scikit-learn uses too."""
        from scipy.special import logsumexp

        with np.errstate(all="ignore"):
            return logsumexp(x, axis=1)

    def loss(self, x: Array, target: Target, loss: Array) -> Array:
        """``HalfMultinomialLoss.loss``; else composed."""
        if not _is_multinomial(target, x.shape[1]):
            return super().loss(x, target, loss)
        rows = IndexRows(target, x.shape)
        losses = _multinomial(x.shape[1]).loss(**self._arguments(x, rows))
        return rows.reduced(rows.finished(losses), target.reduction)

    def gradient(self, x: Array, target: Target, divisor: Any, out: Array) -> Array:
        """``HalfMultinomialLoss.gradient``; else composed."""
        if not _is_multinomial(target, x.shape[1]):
            return super().gradient(x, target, divisor, out)
        rows = IndexRows(target, x.shape)
        gradient = _multinomial(x.shape[1]).gradient(gradient_out=_apart(out, x), **self._arguments(x, rows))
        return _divided(gradient, rows, target)

    def loss_and_gradient(self, x: Array, target: Target, divisor: Any, loss: Array, out: Array) -> tuple[Array, Array]:
        """``HalfMultinomialLoss.loss_gradient``; else composed."""
        if not _is_multinomial(target, x.shape[1]):
            return super().loss_and_gradient(x, target, divisor, loss, out)
        rows = IndexRows(target, x.shape)
        multinomial = _multinomial(x.shape[1])
        losses, gradient = multinomial.loss_gradient(gradient_out=_apart(out, x), **self._arguments(x, rows))
        return rows.reduced(rows.finished(losses), target.reduction), _divided(gradient, rows, target)

    def log_loss(self, p: Array, target: Target, loss: Array) -> Array:
        """`sklearn.metrics.log_loss` of class indices, for means and sums without class weights; else composed."""
        single = target.reduction == "none" or p.shape[1] < 2
        if single or isinstance(target, SoftTarget) or target.class_weight is not None or target.may_be_invalid:
            return super().log_loss(p, target, loss)
        from sklearn.metrics import log_loss

        labels, weight = target.labels, target.sample_weight
        if target.may_ignore:
            counted = labels >= 0
            p, labels, weight = p[counted], labels[counted], None if weight is None else weight[counted]
        if not len(labels):
            return np.asarray(0.0 if target.reduction == "sum" else np.nan)
        mean = target.reduction == "mean"
        classes = np.arange(p.shape[1])
        return np.asarray(log_loss(labels, p, normalize=mean, sample_weight=weight, labels=classes))

    def _arguments(self, x: Array, rows: IndexRows) -> dict[str, Any]:
        """What all functions of the loss take: labels and weights in the dtype of the logits."""
        with np.errstate(over="ignore"):
            weight = None if rows.weight is None else rows.weight.astype(x.dtype)
        return {
            "y_true": rows.known.astype(x.dtype),
            "raw_prediction": x,
            "sample_weight": weight,
            "n_threads": self.n_threads,
        }


@functools.lru_cache(maxsize=128)
def _multinomial(n_classes: int) -> Any:
    from sklearn._loss import HalfMultinomialLoss

    return HalfMultinomialLoss(n_classes=n_classes)


def _is_multinomial(target: Target, n_classes: int) -> TypeGuard[IndexTarget]:
    return isinstance(target, IndexTarget) and target.smoothing == 0.0 and n_classes > 1


def _apart(out: Array, x: Array) -> Array:
    """``out`` unless it is the logits, which the loss goes on reading."""
    return None if out is x else out


def _divided(gradient: Array, rows: IndexRows, target: IndexTarget) -> Array:
    if target.reduction == "mean":
        with np.errstate(all="ignore"):
            gradient /= rows.divisor()
    return rows.finished(gradient)
