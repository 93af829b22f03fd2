"""Accuracy: every function held against the oracle, in ulp, on logits of many kinds and rows of many lengths."""

from __future__ import annotations

import functools
import zlib
from typing import Any, Final

import numpy as np

from softbench.accuracy.hard_inputs import HARD_INPUTS
from softbench.conformance.backend_under_test import BackendUnderTest
from softbench.conformance.batch import batch
from softbench.conformance.case import FLOATS, WIDE, Requirement, check
from softbench.conformance.failures import Failure, NotApplicable

__all__ = ["REQUIREMENTS"]

Array = np.ndarray[Any, Any]

_KS: Final = {"quick": (1, 2, 3, 10, 100, 1000), "standard": (1, 2, 3, 10, 100, 1000, 30000)}
_ELEMENTS: Final = {"quick": 2000, "standard": 6000, "deep": 100_000}


@functools.lru_cache(maxsize=128)
def _logits(family: str, n: int, k: int, dtype: str) -> Array:
    return HARD_INPUTS[family](np.random.default_rng([zlib.crc32(family.encode()), n, k]), n, k, dtype)


_TELLING: Final = ("normal-30", "dominant", "ladder")
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
            if backend.stops_at_first:
                break
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


_ALL: Final = (
    "normal-1",
    "normal-30",
    "uniform-600",
    "offset",
    "dominant",
    "close",
    "ladder",
    "ascending",
    "two-scales",
    "far-below",
)
_FEW: Final = ("normal-1", "uniform-600", "offset", "ladder")
_SOME: Final = ("normal-1", "normal-30", "offset", "dominant")

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
        ("normal-1",),
        ("normal-1",),
    ),
)
