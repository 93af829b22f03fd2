"""SciPy: `scipy.special.softmax`, ``log_softmax`` and ``logsumexp``; losses are composed of them."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from softbench.interface import Array
from softbench_backends.composed import DEVIATIONS, ComposedLoss

__all__ = ["ScipyBackend"]


class ScipyBackend(ComposedLoss):
    """SciPy on rows, in the rows' own dtype; losses and gradients with NumPy (`softbench_backends.composed`)."""

    name = "scipy"
    requires = ("scipy",)
    install = "pip install scipy"

    deviations: ClassVar = {
        **DEVIATIONS,
        "plus-infinity": "log_softmax of a row with +inf is -inf beside it, not NaN",
        "accuracy-log-softmax": (
            "log(sum) instead of log1p: log_softmax([0, -40])[0] is 0 (https://github.com/scipy/scipy/issues/19521)"
        ),
        "out": "as equivalent-calls",
        "callers-own/first-calls": "importing scipy.special adds a warning filter of its own",
    }

    def info(self) -> dict[str, object]:
        """Version; one thread."""
        import scipy

        return {"device": "cpu", "threads": 1, "scipy": scipy.__version__}

    def softmax(self, x: Array, out: Array) -> Array:
        """`scipy.special.softmax`."""
        from scipy.special import softmax

        with np.errstate(all="ignore"):
            return softmax(x, axis=1)

    def log_softmax(self, x: Array, out: Array) -> Array:
        """`scipy.special.log_softmax`."""
        from scipy.special import log_softmax

        with np.errstate(all="ignore"):
            return log_softmax(x, axis=1)

    def logsumexp(self, x: Array, out: Array) -> Array:
        """`scipy.special.logsumexp`."""
        from scipy.special import logsumexp

        with np.errstate(all="ignore"):
            return logsumexp(x, axis=1).reshape(-1)
