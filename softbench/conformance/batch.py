"""Batches of rows with everything a call may need, and the public functions seen as maps from rows to rows.

The checks that compare two calls (layouts, permutations, rows alone, threads) run over every `View`, so that a
property is asked of all functions in all their forms.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

import numpy as np

from softbench.conformance.backend_under_test import BackendUnderTest
from softbench.interface.dtypes import numpy_dtype

__all__ = ["MAPS", "OPS", "VIEWS", "VIEW_BY_NAME", "Batch", "View", "batch", "provided"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Batch:
    """``N`` rows of logits and what goes with them."""

    x: Array
    """Logits ``(N, K)``."""
    p: Array
    """Probabilities ``(N, K)``, for ``log_loss``."""
    labels: Array
    """``(N,)`` int64; every seventh is -1, which `View` makes the index to ignore."""
    q: Array
    """Soft targets ``(N, K)`` of the logits' dtype, summing to 1 within its tolerance."""
    s: Array
    """Sample weights ``(N,)`` float64."""
    w: Array
    """Class weights ``(K,)`` float64."""

    @property
    def known(self) -> Array:
        """The labels with nothing to ignore."""
        return np.maximum(self.labels, 0)

    def take(self, rows: Any) -> Batch:
        """The batch of these rows."""
        return Batch(self.x[rows], self.p[rows], self.labels[rows], self.q[rows], self.s[rows], self.w)

    def permuted(self, order: Array) -> Batch:
        """The batch with its classes in another order."""
        place = np.argsort(order)
        labels = np.where(self.labels >= 0, place[np.maximum(self.labels, 0)], self.labels)
        return Batch(self.x[:, order], self.p[:, order], labels, self.q[:, order], self.s, self.w[order])

    def mapped(self, change: Callable[[Array], Array]) -> Batch:
        """The batch with each array changed, such as to lie in memory otherwise."""
        return Batch(*(change(part) for part in (self.x, self.p, self.labels, self.q, self.s, self.w)))

    def shifted(self, x: Array) -> Batch:
        """The batch with other logits."""
        return replace(self, x=x)


def batch(n: int, k: int, dtype: str, scale: float = 3.0, seed: int = 0) -> Batch:
    """Rows of ``N(0, scale)`` logits, the same for the same arguments.

    Copies: a backend that overwrites its input must not spoil the cases that come after.
    """
    return _made(n, k, dtype, scale, seed).mapped(np.array)


@functools.lru_cache(maxsize=64)
def _made(n: int, k: int, dtype: str, scale: float, seed: int) -> Batch:
    rng = np.random.default_rng([seed, n, k])
    form = numpy_dtype(dtype)
    x = (scale * rng.standard_normal((n, k))).astype(form)
    p = rng.dirichlet(np.ones(k), n).astype(form)
    labels = rng.integers(0, k, n)
    labels[3::7] = -1
    # Sixteenths, so that rows sum to 1 exactly in every dtype.
    q = (rng.multinomial(16, np.ones(k) / k, n) / 16).astype(form)
    return Batch(x, p, labels, q, rng.uniform(0.5, 2.0, n), rng.uniform(0.5, 2.0, k))


@dataclass(frozen=True)
class View:
    """A public function in one of its forms, as a map from a `Batch` to one result per row."""

    name: str
    op: str
    target: Literal["", "index", "soft"] = ""
    weighted: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def maps(self) -> bool:
        """Whether the result has the shape of the logits (and takes ``out=``)."""
        return self.op in ("softmax", "log_softmax", "gradient")

    def arguments(self, rows: Batch) -> tuple[Any, Any, dict[str, Any]]:
        """Logits (or probabilities), target and options of the call."""
        options = dict(self.options)
        if self.target == "index":
            options["ignore_index"] = -1
        if self.weighted:
            options |= {"sample_weight": rows.s, "class_weight": rows.w}
        if self.target:
            options["reduction"] = "none"
        target = {"": None, "index": rows.labels, "soft": rows.q}[self.target]
        return rows.p if self.op == "log_loss" else rows.x, target, options

    def run(self, backend: BackendUnderTest, rows: Batch, **more: Any) -> Array:
        """The result, as an ndarray whose first axis is the rows'."""
        logits, target, options = self.arguments(rows)
        result: Array = backend.call(self.op, logits, target, **options, **more)
        return result


def _views() -> tuple[View, ...]:
    smoothed = {"label_smoothing": 0.125}
    return (
        View("argmax", "argmax"),
        View("logsumexp", "logsumexp"),
        View("softmax", "softmax"),
        View("log_softmax", "log_softmax"),
        View("loss", "loss", "index"),
        View("gradient", "gradient", "index"),
        View("weighted-loss", "loss", "index", True),
        View("weighted-gradient", "gradient", "index", True),
        View("smoothed-loss", "loss", "index", True, smoothed),
        View("smoothed-gradient", "gradient", "index", True, smoothed),
        View("soft-loss", "loss", "soft"),
        View("soft-gradient", "gradient", "soft"),
        View("log-loss", "log_loss", "index"),
        View("soft-log-loss", "log_loss", "soft"),
    )


VIEWS: Final = _views()
OPS: Final = tuple(dict.fromkeys(view.op for view in VIEWS))
MAPS: Final = tuple(view for view in VIEWS if view.maps)
VIEW_BY_NAME: Final = {view.name: view for view in VIEWS}


def provided(backend: BackendUnderTest) -> list[View]:
    """The views of functions that a backend has."""
    return [view for view in VIEWS if view.op in backend.provides]
