"""scipy.special's softmax, log_softmax and logsumexp."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from softbench_peers.composed import ComposedBackend


class ScipyBackend(ComposedBackend):
    """SciPy on rows, in the rows' own dtype."""

    name = "scipy"
    requires = ("scipy",)
    install = "pip install scipy"

    deviations: ClassVar = {
        "absent-classes": "as accuracy-softmax and accuracy-log-softmax",
        "plus-infinity": "log_softmax of a row with +inf is -inf beside it, not NaN",
        "subnormal": "probabilities of the rounded shift are off by several spacings",
        "accuracy-softmax": "the shift x - max is rounded",
        "accuracy-log-softmax": (
            "log(sum) instead of log1p: log_softmax([0, -40])[0] is 0 (https://github.com/scipy/scipy/issues/19521)"
        ),
        "accuracy-loss": "as log_softmax (https://github.com/scipy/scipy/issues/19521)",
        "accuracy-gradient": "softmax minus one-hot, as users compose it: p_y - 1 cancels",
        "accuracy-weighted": "as accuracy-loss and accuracy-gradient",
        "accuracy-soft": "the rounded shift of softmax",
        "symmetries": "a permutation changes results by more than the gates leave",
        "every-index": "as accuracy-log-softmax",
        "every-k": "as accuracy-log-softmax, accuracy-softmax",
        "every-n": "as accuracy-softmax",
        "bounds": "gradient rows do not sum to 0 within the gates of their entries",
        "long-rows": "as accuracy-softmax, accuracy-log-softmax",
    }

    def info(self) -> dict[str, object]:
        """Version."""
        import scipy

        return {"device": "cpu", "threads": 1, "scipy": scipy.__version__}

    def softmax(self, x: Any, out: Any) -> Any:
        """`scipy.special.softmax`."""
        from scipy.special import softmax

        with np.errstate(all="ignore"):
            return softmax(x, axis=1)

    def log_softmax(self, x: Any, out: Any) -> Any:
        """`scipy.special.log_softmax`."""
        from scipy.special import log_softmax

        with np.errstate(all="ignore"):
            return log_softmax(x, axis=1)

    def logsumexp(self, x: Any, out: Any) -> Any:
        """`scipy.special.logsumexp`."""
        from scipy.special import logsumexp

        with np.errstate(all="ignore"):
            return logsumexp(x, axis=1)
