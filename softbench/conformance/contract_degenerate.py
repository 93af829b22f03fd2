"""The contract: no rows, no classes, one class."""

from __future__ import annotations

import itertools
import math
from typing import Any, Final

import numpy as np

from softbench.conformance.backend_under_test import BackendUnderTest
from softbench.conformance.case import FLOATS, NONE, SUM, Example, Raises, Requirement, check, labels_of
from softbench.conformance.failures import call_text, mismatch
from softbench.interface.dtypes import numpy_dtype

__all__ = ["REQUIREMENTS"]

inf, nan = math.inf, math.nan


def _zeros(*shape: int) -> Any:
    return np.zeros(shape)


_EVERY_OPTION: Final[dict[str, Any]] = {
    "sample_weight": np.zeros(0),
    "class_weight": np.array([1.0, 2.0, 0.5]),
    "label_smoothing": 0.1,
    "ignore_index": 1,
    "validate": False,
}


def _no_rows(backend: BackendUnderTest, op: str, form: str) -> None:
    """No rows have no loss, and a mean of nothing, whatever the options."""
    target = np.zeros(0, np.int64) if form == "index" else np.zeros((0, 3))
    names = [name for name in _EVERY_OPTION if (name, op) != ("label_smoothing", "log_loss")]
    names = [name for name in names if (name, form) != ("ignore_index", "soft")]
    for chosen in itertools.chain.from_iterable(itertools.combinations(names, n) for n in range(len(names) + 1)):
        options = {name: _EVERY_OPTION[name] for name in chosen}
        for reduction, due in (("none", np.zeros(0)), ("sum", 0.0), ("mean", nan)):
            found = backend.call(op, np.zeros((0, 3)), target, reduction=reduction, **options)
            said = f"{op}(zeros((0, 3)), {form} target, reduction={reduction!r}, {', '.join(options)})"
            mismatch(found, np.zeros((0, 3)) if op == "gradient" else np.array(due), said)


EMPTY_BATCH = Requirement(
    "empty-batch",
    "N = 0",
    "softmax `(0,K)`; `none` -> `(0,)`; sum -> 0; mean -> NaN; argmax `(0,)` int64; no kernel is launched",
    (
        Example("softmax", _zeros(0, 3), expect=_zeros(0, 3)),
        Example("log_softmax", _zeros(0, 3), expect=_zeros(0, 3)),
        Example("logsumexp", _zeros(0, 3), expect=[]),
        Example("argmax", _zeros(0, 3), expect=[]),
        Example("loss", _zeros(0, 3), labels_of(), [], NONE, name="none"),
        Example("loss", _zeros(0, 3), labels_of(), 0.0, SUM, name="sum"),
        Example("loss", _zeros(0, 3), labels_of(), nan, name="mean"),
        Example("loss", _zeros(0, 3), _zeros(0, 3), nan, name="soft-mean"),
        Example("loss", _zeros(0, 3), _zeros(0, 3), 0.0, SUM, name="soft-sum"),
        Example("gradient", _zeros(0, 3), labels_of(), _zeros(0, 3)),
        Example("gradient", _zeros(0, 3), _zeros(0, 3), _zeros(0, 3), name="soft"),
        Example("log_loss", _zeros(0, 3), labels_of(), [], NONE, name="none"),
        Example("log_loss", _zeros(0, 3), labels_of(), nan, name="mean"),
    ),
    check(
        "empty-batch",
        _no_rows,
        name="options",
        profile="standard",
        op=("loss", "gradient", "log_loss"),
        form=("index", "soft"),
    ),
)

NO_CLASSES = Requirement(
    "no-classes",
    "K = 0",
    "softmax `(N,0)`; logsumexp -inf; argmax and index loss: ValueError",
    (
        Example("softmax", _zeros(2, 0), expect=_zeros(2, 0)),
        Example("log_softmax", _zeros(2, 0), expect=_zeros(2, 0)),
        Example("logsumexp", _zeros(2, 0), expect=[-inf, -inf]),
        Example("argmax", _zeros(2, 0), expect=Raises(ValueError)),
        Example("loss", _zeros(2, 0), labels_of(0, 0), Raises(ValueError)),
        Example("gradient", _zeros(2, 0), labels_of(0, 0), Raises(ValueError)),
        Example("log_loss", _zeros(2, 0), labels_of(0, 0), Raises(ValueError)),
    ),
)

_UNEVEN: Final = {  # numbers whose products and quotients are rounded
    "sample_weight": np.array([0.06, 0.37, 0.76]),
    "class_weight": np.array([0.34]),
    "label_smoothing": 0.2,
}
_ONLY: Final = {  # rows with one class, by what they are: logits, labels, distributions, class weights
    "one-class": ([[7.0], [-3.5], [0.0]], [0, 0, 0], [[1.0]] * 3, [0.34]),
    "others-absent": ([[-inf, 3.0], [2.0, -inf], [-inf, 0.0]], [1, 0, 1], [[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]], None),
    "others-weightless": ([[-inf, 3.0, -inf], [-inf, 900.0, -inf], [-inf, 0.0, -inf]], [1, 1, 0],
                          [[0.0, 1.0, 0.0]] * 3, [0.0, 0.34, 0.0]),
}  # fmt: skip


def _only_class(backend: BackendUnderTest, form: str, dtype: str) -> None:
    """Where p = 1 and no other class has a weight, +0 remains, whatever the weights and the smoothing."""
    values, labels, soft, weights = _ONLY[form]
    x = np.array(values).astype(numpy_dtype(dtype))
    for chosen in itertools.product((False, True), repeat=3):
        options = {key: value for (key, value), use in zip(_UNEVEN.items(), chosen, strict=True) if use}
        if "class_weight" in options and weights is None:
            continue
        if "class_weight" in options:
            options["class_weight"] = np.array(weights)
        elif "label_smoothing" in options and len(x[0]) > 1:
            continue  # the others have a weight then
        for target, reduction in itertools.product((np.array(labels), np.array(soft)), ("none", "sum", "mean")):
            if form == "others-weightless" and target.ndim == 1 and "class_weight" not in options:
                continue  # the last label's loss is infinite
            loss, gradient = backend.call("loss_and_gradient", x, target, reduction=reduction, **options)
            said = call_text("loss_and_gradient", x, target, {"reduction": reduction, **options})
            mismatch(loss, np.zeros(loss.shape, loss.dtype), f"{said}[0]", signed=True)
            mismatch(gradient, np.zeros(x.shape, x.dtype), f"{said}[1]", signed=True)


ONE_CLASS = Requirement(
    "one-class",
    "K = 1, finite; p = 1 and no weight on other classes",
    "softmax exactly 1; log_softmax, loss, gradient exactly +0 (never -0, never 1e-17) under all weights and smoothing",
    (
        Example("softmax", [[7.0], [-3.5]], expect=[[1.0], [1.0]]),
        Example("log_softmax", [[7.0], [-3.5]], expect=[[0.0], [0.0]], signed=True),
        Example("loss", [[7.0], [-3.5]], labels_of(0, 0), [0.0, 0.0], NONE, name="none", signed=True),
        Example("loss", [[7.0], [-3.5]], labels_of(0, 0), 0.0, name="mean", signed=True),
        Example("loss", [[7.0]], [[1.0]], [0.0], NONE, name="soft", signed=True),
        Example("gradient", [[7.0], [-3.5]], labels_of(0, 0), [[0.0], [0.0]], signed=True),
        Example("gradient", [[7.0]], [[1.0]], [[0.0]], name="soft", signed=True),
        Example("gradient", [[7.0]], labels_of(0), [[0.0]], {"label_smoothing": 0.25}, name="smoothed", signed=True),
        Example("logsumexp", [[7.0], [-3.5]], expect=[7.0, -3.5]),
        Example("argmax", [[7.0], [-3.5]], expect=[0, 0]),
        Example("log_loss", [[1.0]], labels_of(0), [0.0], NONE, signed=True),
    ),
    check("one-class", _only_class, name="weighted", form=_ONLY, dtype=FLOATS),
)

REQUIREMENTS = (EMPTY_BATCH, NO_CLASSES, ONE_CLASS)
