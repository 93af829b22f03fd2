"""Accuracy: every function held against the oracle, in ulp, on logits of many kinds and rows of many lengths."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from softbench.conformance.backend_under_test import BackendUnderTest
from softbench.conformance.batch import batch
from softbench.conformance.case import FLOATS, WIDE, Requirement, check
from softbench.conformance.failures import Failure, NotApplicable
from softbench.interface.dtypes import numpy_dtype

__all__ = ["REQUIREMENTS"]

Array = np.ndarray[Any, Any]
Rng = np.random.Generator

_KS: Final = {"quick": (1, 2, 3, 10, 100, 1000), "standard": (1, 2, 3, 10, 100, 1000, 30000)}
_ELEMENTS: Final = {"quick": 2000, "standard": 6000, "deep": 100_000}


def _normal(scale: float) -> Callable[[Rng, int, int, str], Array]:
    return lambda rng, n, k, dtype: scale * rng.standard_normal((n, k))


def _uniform(rng: Rng, n: int, k: int, dtype: str) -> Array:
    return rng.uniform(-600.0, 600.0, (n, k))


def _offset(rng: Rng, n: int, k: int, dtype: str) -> Array:
    """A common offset that costs ``lse - x_y`` all its digits."""
    return {"float16": 3e4, "bfloat16": 1e6}.get(dtype, 1e6) + 3.0 * rng.standard_normal((n, k))


def _dominant(rng: Rng, n: int, k: int, dtype: str) -> Array:
    """One logit far above the rest: s is tiny, and log1p(s), 1 - p and the label's gradient live in its digits."""
    x = rng.standard_normal((n, k))
    x[np.arange(n), rng.integers(0, k, n)] += rng.uniform(5.0, 80.0, n)
    return x


def _close(rng: Rng, n: int, k: int, dtype: str) -> Array:
    """Nearly equal logits."""
    return 1.0 + 1e-3 * rng.standard_normal((n, k))


def _ladder(rng: Rng, n: int, k: int, dtype: str) -> Array:
    """Probabilities over the whole range of the dtype, subnormal ones among them."""
    depth = {"float16": 18.0, "bfloat16": 100.0, "float32": 105.0, "float64": 750.0}[dtype]
    return -depth * rng.uniform(0.0, 1.0, (n, k))


def _ascending(rng: Rng, n: int, k: int, dtype: str) -> Array:
    """Every logit a new maximum: the worst case of an online recurrence."""
    return np.sort(8.0 * rng.standard_normal((n, k)), axis=1)


def _two_scales(rng: Rng, n: int, k: int, dtype: str) -> Array:
    """A few large terms and many small ones, which a naive accumulator loses."""
    x = rng.uniform(-18.0, -14.0, (n, k))
    x[:, :: max(k // 3, 1)] = 0.0
    return x


def _far_below(rng: Rng, n: int, k: int, dtype: str) -> Array:
    """Sizes beyond that of the maximum: a difference is error-free then only if neither is taken for the larger."""
    x = rng.uniform(-50.0, -2.0, (n, k))
    x[np.arange(n), rng.integers(0, k, n)] = rng.uniform(0.5, 2.0, n)
    return x


FAMILIES: Final[dict[str, Callable[[Rng, int, int, str], Array]]] = {
    "N(0,1)": _normal(1.0),
    "N(0,30)": _normal(30.0),
    "U(-600,600)": _uniform,
    "offset-1e6": _offset,
    "dominant": _dominant,
    "close": _close,
    "ladder": _ladder,
    "ascending": _ascending,
    "two-scales": _two_scales,
    "far-below": _far_below,
}


@functools.lru_cache(maxsize=128)
def _logits(family: str, n: int, k: int, dtype: str) -> Array:
    rng = np.random.default_rng([zlib.crc32(family.encode()), n, k])
    return FAMILIES[family](rng, n, k, dtype).astype(numpy_dtype(dtype))


_TELLING: Final = ("N(0,30)", "dominant", "ladder")
"""The kinds of logits that catch most."""

_FORMS: Final[dict[str, tuple[str, str, dict[str, Any]]]] = {
    # op, target, options
    "softmax": ("softmax", "", {}),
    "log_softmax": ("log_softmax", "", {}),
    "logsumexp": ("logsumexp", "", {}),
    "loss": ("loss", "index", {"reduction": "none"}),
    "gradient": ("gradient", "index", {"reduction": "sum"}),
    "weighted-loss": ("loss", "index", {"reduction": "none", "weights": True, "ignore_index": -1}),
    "weighted-gradient": ("gradient", "index", {"reduction": "mean", "weights": True, "ignore_index": -1}),
    "soft-loss": ("loss", "soft", {"reduction": "none"}),
    "soft-gradient": ("gradient", "soft", {"reduction": "sum"}),
    "weighted-soft-gradient": ("gradient", "soft", {"reduction": "mean", "weights": True}),
    "smoothed-loss": ("loss", "index", {"reduction": "none", "label_smoothing": 0.1}),
    "smoothed-gradient": ("gradient", "index", {"reduction": "sum", "label_smoothing": 0.1}),
    "log_loss": ("log_loss", "index", {"reduction": "none"}),
    "soft-log_loss": ("log_loss", "soft", {"reduction": "none"}),
}


def _within_gate(backend: BackendUnderTest, form: str, dtype: str, family: str) -> None:
    op, target, given = _FORMS[form]
    if backend.cost == "simulated" and backend.profile == "quick" and family not in _TELLING:
        raise NotApplicable(f"the quick profile asks a simulator for logits of {', '.join(_TELLING)} only")
    failures: list[Failure] = []
    ks = _KS.get(backend.profile, _KS["standard"])
    for k in backend.ks(*ks) + ([200_000] if backend.profile == "deep" and backend.cost == "compiled" else []):
        n = backend.rows_of(k, max(2, min(200, _ELEMENTS[backend.profile] // k)))
        x = _logits(family, n, k, dtype).copy()
        parts = batch(n, k, dtype)
        options = {key: value for key, value in given.items() if key != "weights"}
        if given.get("weights"):
            options |= {"sample_weight": parts.s, "class_weight": parts.w}
        labels = parts.labels if "ignore_index" in options else parts.known
        if family == "dominant" and target == "index":
            labels = np.where(np.arange(n) % 2 == 0, x.argmax(axis=1), labels)  # where the loss is tiny
        if op == "log_loss":
            x = parts.p
        y = {"": None, "index": labels, "soft": parts.q}[target]
        if target == "soft" and given.get("weights"):  # any float64 distribution: it is rounded with them
            y = np.random.default_rng([n, k]).dirichlet(np.ones(k), n)
        result = backend.call(op, x, y, **options)
        made = f"{'Dirichlet(1)' if op == 'log_loss' else family} {dtype}[{n},{k}]"
        try:
            backend.judge(op, result, x, y, made=made, **options)
        except Failure as failure:  # the other sizes are judged too, so that the largest error is known
            failures.append(failure)
    if failures:
        raise failures[0]


_PLAIN: Final = ("softmax", "log_softmax", "logsumexp", "loss", "gradient")
_OTHER: Final = tuple(form for form in _FORMS if form not in _PLAIN and "log_loss" not in form)


def _gates(
    row: str, case: str, result: str, forms: tuple[str, ...], families: tuple[str, ...], few: tuple[str, ...]
) -> Requirement:
    """A row of the table of gates, over ``families`` in float32 and float64 and ``few`` in half precision."""
    return Requirement(
        row,
        case,
        result,
        checks=check(row, _within_gate, name="gate", form=forms, dtype=WIDE, family=families)
        + check(row, _within_gate, name="gate", form=forms, dtype=FLOATS[:2], family=few),
    )


_ALL: Final = tuple(FAMILIES)
_FEW: Final = ("N(0,1)", "U(-600,600)", "offset-1e6", "ladder")
_SOME: Final = ("N(0,1)", "N(0,30)", "offset-1e6", "dominant")

REQUIREMENTS = (
    _gates("accuracy-softmax", "accuracy of softmax", "4 ulp (half precision: 1)", ("softmax",), _ALL, _FEW),
    _gates(
        "accuracy-log-softmax", "accuracy of log_softmax", "4 ulp (half precision: 1)", ("log_softmax",), _ALL, _FEW
    ),
    _gates(
        "accuracy-logsumexp",
        "accuracy of logsumexp",
        "1 ulp of the result + 4 ulp of log1p(s)",
        ("logsumexp",),
        _ALL,
        _FEW,
    ),
    _gates("accuracy-loss", "accuracy of the index loss per row", "4 ulp (half precision: 1)", ("loss",), _ALL, _FEW),
    _gates(
        "accuracy-gradient",
        "accuracy of the gradient",
        "4 ulp at the label and elsewhere (half precision: 1)",
        ("gradient",),
        _ALL,
        _FEW,
    ),
    _gates(
        "accuracy-weighted",
        "accuracy with weights",
        "the index gates hold for every reduction and weight",
        ("weighted-loss", "weighted-gradient"),
        _SOME,
        _FEW[:1],
    ),
    _gates(
        "accuracy-soft",
        "accuracy with soft targets and smoothing",
        "loss 8 ulp (half precision: 1); gradient within 8u (sum q) p + 2u |g| + eta",
        tuple(form for form in _OTHER if "soft" in form or "smoothed" in form),
        _SOME,
        _FEW[:2],
    ),
    _gates(
        "accuracy-log-loss",
        "accuracy of log_loss",
        "-log p within 2 ulp of the given p",
        ("log_loss", "soft-log_loss"),
        ("N(0,1)",),
        ("N(0,1)",),
    ),
)
