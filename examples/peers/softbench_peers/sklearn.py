"""scikit-learn's multinomial loss (`sklearn._loss.HalfMultinomialLoss`), what LogisticRegression minimises."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from softbench.interface import IndexTarget, Target
from softbench_peers.composed import ComposedBackend, select


class SklearnBackend(ComposedBackend):
    """scikit-learn on rows: its softmax, and its fused loss and gradient for class indices without class weights."""

    name = "sklearn"
    requires = ("sklearn",)
    install = "pip install scikit-learn"

    deviations: ClassVar = {
        "absent-classes": "the logarithm of softmax loses digits, or is -inf, beside absent classes",
        "subnormal": "probabilities of the rounded shift are off by several spacings",
        "accuracy-softmax": "the shift x - max is rounded",
        "accuracy-log-softmax": "it has none: the logarithm of its softmax is -inf where p underflows",
        "accuracy-loss": "log(sum) + max - x_y: a common offset costs the loss its digits",
        "accuracy-gradient": "p_y - 1 cancels where p_y is near 1",
        "accuracy-weighted": "as accuracy-loss and accuracy-gradient",
        "accuracy-soft": "as accuracy-softmax and accuracy-log-softmax",
        "symmetries": "a common shift changes the loss",
        "bounds": "gradient rows do not sum to 0 within the gates of their entries",
        "every-index": "as accuracy-log-softmax, accuracy-loss",
        "every-k": "as accuracy-loss, accuracy-softmax",
        "every-n": "as accuracy-softmax",
        "equivalent-calls": "one-hot targets go through the logarithm of softmax, labels through the fused loss",
        "long-rows": "as accuracy-loss",
    }

    def info(self) -> dict[str, object]:
        """Version."""
        import sklearn

        return {"device": "cpu", "threads": 1, "sklearn": sklearn.__version__}

    def softmax(self, x: Any, out: Any) -> Any:
        """`sklearn.utils.extmath.softmax`."""
        from sklearn.utils.extmath import softmax

        with np.errstate(all="ignore"):
            return softmax(x, copy=True)

    def log_softmax(self, x: Any, out: Any) -> Any:
        """The logarithm of its softmax: it has no other."""
        with np.errstate(all="ignore"):
            return np.log(self.softmax(x, out))

    def logsumexp(self, x: Any, out: Any) -> Any:
        """SciPy's, which scikit-learn uses too."""
        from scipy.special import logsumexp

        with np.errstate(all="ignore"):
            return logsumexp(x, axis=1)

    def loss_and_gradient(self, x: Any, target: Target, divisor: Any, loss: Any, out: Any) -> tuple[Any, Any]:
        """`HalfMultinomialLoss.loss_gradient`, of three classes or more; else composed."""
        plain = isinstance(target, IndexTarget) and target.class_weight is None and not target.smoothing
        if not plain or x.shape[1] < 3:
            return super().loss_and_gradient(x, target, divisor, loss, out)
        assert isinstance(target, IndexTarget)
        losses, gradient = self._multinomial(x, np.maximum(target.labels, 0), target.sample_weight)
        with np.errstate(all="ignore"):
            gradient = gradient / (divisor or np.nan)
        return select(target, losses.astype(np.float64)), select(target, gradient).astype(x.dtype)

    def _multinomial(self, x: Any, labels: Any, weight: Any) -> tuple[Any, Any]:
        from sklearn._loss import HalfMultinomialLoss

        return HalfMultinomialLoss(n_classes=x.shape[1]).loss_gradient(
            y_true=labels.astype(x.dtype),
            raw_prediction=np.ascontiguousarray(x),
            sample_weight=None if weight is None else weight.astype(x.dtype),
        )
