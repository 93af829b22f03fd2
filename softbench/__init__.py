"""softbench: interchangeable, ulp-accurate backends for softmax, cross-entropy and its gradient.

>>> import softbench as sb
>>> sb.softmax([1.0, 2.0, 3.0])
array([0.09003057, 0.24472847, 0.66524096])
>>> with sb.use_backend("python"):
...     round(sb.loss([[1.0, 2.0, 3.0]], [2]), 6)
np.float64(0.407606)
"""

import importlib
from typing import Any

from softbench.api import argmax, log_loss, log_softmax, logsumexp, softmax
from softbench.errors import BackendUnavailableError, NotProvidedError, UnknownBackendError
from softbench.front.backend import Backend
from softbench.interface import Availability
from softbench.linear import (
    linear_argmax,
    linear_hessian_product,
    linear_loss,
    linear_loss_and_gradient,
    linear_softmax,
)
from softbench.losses import gradient, loss, loss_and_gradient
from softbench.method_docs import describe_methods
from softbench.recommendation import recommend
from softbench.registry import available_backends, get_backend, list_backends, use_backend

__version__ = "0.1.0"

__all__ = [
    "Availability",
    "Backend",
    "BackendUnavailableError",
    "NotProvidedError",
    "UnknownBackendError",
    "argmax",
    "available_backends",
    "get_backend",
    "gradient",
    "linear_argmax",
    "linear_hessian_product",
    "linear_loss",
    "linear_loss_and_gradient",
    "linear_softmax",
    "list_backends",
    "log_loss",
    "log_softmax",
    "logsumexp",
    "loss",
    "loss_and_gradient",
    "recommend",
    "softmax",
    "use_backend",
]

describe_methods(
    Backend,
    (
        *(argmax, logsumexp, softmax, log_softmax, log_loss, loss, gradient, loss_and_gradient),
        *(linear_argmax, linear_softmax, linear_loss, linear_loss_and_gradient, linear_hessian_product),
    ),
)


def __getattr__(name: str) -> Any:
    """`SoftmaxRegression`, which needs scikit-learn: it is imported when first asked for."""
    if name != "SoftmaxRegression":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return importlib.import_module("softbench.regression").SoftmaxRegression
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("sklearn", "scipy"):
            raise
        raise ImportError(
            f"softbench.SoftmaxRegression needs {error.name}: pip install 'softbench[model]'", name=error.name
        ) from error


def __dir__() -> list[str]:
    return sorted([*globals(), "SoftmaxRegression"])
