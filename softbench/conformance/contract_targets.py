"""The contract: distributions as targets, and rows that are ignored."""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from softbench.conformance.backend_under_test import BackendUnderTest
from softbench.conformance.batch import batch
from softbench.conformance.case import (
    FLOATS,
    NONE,
    SUM,
    WIDE,
    Example,
    Raises,
    Requirement,
    check,
    labels_of,
    must_raise,
)
from softbench.conformance.contract_labels import BY_LABEL, PROBS, THREE
from softbench.conformance.failures import brief, mismatch
from softbench.interface.dtypes import numpy_dtype

__all__ = ["REQUIREMENTS"]

inf, nan = math.inf, math.nan
_LOOSE: Final = {"validate": False}
_TWO: Final = [[0.0, 0.0], [0.0, 0.0]]


# -- soft targets --------------------------------------------------------------------------------------


def _tolerated(backend: BackendUnderTest, dtype: str) -> None:
    """Sums within max(1e-6, sqrt(eps)) of the target's own dtype pass, whatever the logits' dtype; beyond, not."""
    spec = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float32": 2.0**-23, "float64": 2.0**-52}[dtype]
    tolerance = max(1e-6, math.sqrt(spec))
    for logits in (np.zeros((2, 2)), np.zeros((2, 2), np.float32)):
        for sign in (-1, 1):
            inside = np.array([[0.5, 0.5], [0.5, 0.5 + sign * 0.8 * tolerance]]).astype(numpy_dtype(dtype))
            backend.call("loss", logits, inside)
            beyond = np.array([[0.5, 0.5], [0.5, 0.5 + sign * 2.0 * tolerance]]).astype(numpy_dtype(dtype))
            must_raise(backend, Raises(ValueError, ("1",)), "loss", logits, beyond, {})


SOFT = Requirement(
    "soft-targets",
    "soft targets not summing to 1 (summed in float64; tolerance max(1e-6, sqrt(eps of the target's own dtype))), "
    "negative, NaN",
    "ValueError; with `validate=False`: loss = sum_k y_k (lse - x_k), gradient (sum y) p - y",
    tuple(
        Example(op, logits, target, Raises(ValueError, words), {}, ("float64",), name)
        for op, logits in BY_LABEL
        for name, target, words in (
            ("sum-below", [[0.0, 1.0, 0.0], [0.25, 0.5, 0.0], [1.0, 0.0, 0.0]], ("1", "0.75")),
            ("sum-above", [[0.5, 0.5, 0.5], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]], ("0", "1.5")),
            ("zeros", np.zeros((3, 3)), ("0",)),
            ("sums-1-on-average", [[0.25, 0.25, 0.25], [0.75, 0.5, 0.0], [1.0, 0.0, 0.0]], ("0", "0.75")),
            ("negative", [[0.0, 1.0, 0.0], [1.5, -0.5, 0.0], [1.0, 0.0, 0.0]], ("1", "-0.5")),
            ("nan", [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [nan, 1.0, 0.0]], ("2",)),
            ("infinite", [[0.0, inf, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], ("0",)),
            ("labels-by-mistake", np.array([[0, 1, 2]] * 3), ("0",)),
        )
    )
    + (
        Example("loss", _TWO, [[0.25, 0.75], [1.0, 0.0]], name="in-gate"),
        Example("loss", THREE, [[0.25, 0.25, 0.5]] * 3, options=NONE, name="none"),
        Example("gradient", THREE, [[0.25, 0.25, 0.5]] * 3),
        Example("loss", THREE, np.eye(3, dtype=np.int64), options=NONE, name="integers"),
        Example("loss", _TWO, [[0.5, 0.25], [2.0, 3.0]], options={**NONE, **_LOOSE}, name="any-sum-unvalidated"),
        Example("gradient", [[0.0, 0.0]], [[0.5, 0.25]], [[-0.125, 0.125]], _LOOSE, name="any-sum-unvalidated"),
        Example("gradient", [[0.0, 0.0]], [[2.0, 2.0]], [[0.0, 0.0]], _LOOSE, name="sum-4-unvalidated"),
        Example("gradient", [[0.0, 0.0]], [[-1.0, 0.5]], [[0.75, -0.75]], _LOOSE, name="negative-unvalidated"),
        Example("loss", [[0.0, 0.0]], [[0.0, 0.0]], [0.0], {**NONE, **_LOOSE}, name="zeros-unvalidated"),
        Example("gradient", [[0.0, 0.0]], [[0.0, 0.0]], [[0.0, 0.0]], _LOOSE, name="zeros-unvalidated"),
        Example("loss", [[0.0, 0.0]], [[nan, 0.0]], [nan], {**NONE, **_LOOSE}, name="nan-unvalidated"),
        Example(
            "loss",
            [[0.0, -inf, -inf]],
            [[0.5, 1.0, -0.5]],
            [nan],
            {**NONE, **_LOOSE},
            name="infinities-cancel-unvalidated",
        ),
    ),
    check("soft-targets", _tolerated, name="tolerance", dtype=FLOATS),
)

SOFT_ZERO = Requirement(
    "soft-zero",
    "y = 0 where logit = -inf",
    "contributes 0; y > 0 there: +inf",
    (
        Example("loss", [[0.0, -inf]], [[1.0, 0.0]], [0.0], NONE, name="zero"),
        Example("loss", [[0.0, 0.0, -inf]], [[0.5, 0.5, 0.0]], options=NONE, name="rest"),
        Example("loss", [[0.0, -inf]], [[0.5, 0.5]], [inf], NONE, name="positive"),
        Example("loss", [[0.0, -inf]], [[1.0, 5e-324]], [inf], NONE, ("float64",), "least"),
        Example("loss", [[0.0, -inf]], [[1.0, 1e-45]], [inf], NONE, ("float32",), "least"),
        Example("log_loss", [[1.0, 0.0]], [[1.0, 5e-324]], [inf], NONE, ("float64",), "least"),
        Example("gradient", [[0.0, -inf]], [[1.0, 0.0]], [[0.0, 0.0]], name="zero"),
        Example("gradient", [[0.0, -inf]], [[0.5, 0.5]], [[0.5, -0.5]], name="positive"),
    ),
)

# -- ignore_index --------------------------------------------------------------------------------------


def _select_not_multiply(backend: BackendUnderTest, dtype: str, place: str) -> None:
    """Ignored rows of NaN and infinities: loss 0, gradient +0; the others are a batch without them, bit for bit."""
    k = 40 if backend.cost != "simulated" else 7
    rows = batch(backend.rows_of(k, 30), k, dtype)
    index = {"first": 0, "inside": 2, "outside": -100, "beyond": k, "far": 2**40}[place]
    labels = np.where(rows.known == index, 1, rows.known)
    x = rows.x.copy()
    gone = np.arange(len(x)) % 3 == 1
    labels[gone] = index
    x[gone] = np.resize([nan, inf, -inf], k).astype(x.dtype)
    options = {"ignore_index": index}
    for more in ({}, {"class_weight": rows.w}, {"label_smoothing": 0.25}):
        said = ", ".join([dtype, *(f"{key}={brief(value)}" for key, value in {**options, **more}.items())]) + ":"
        for op in backend.provided("loss", "gradient"):
            found = backend.call(op, x, labels, **NONE, **options, **more)
            zeros = np.zeros(found[gone].shape, found.dtype)
            mismatch(found[gone], zeros, f"{op} of ignored rows of NaN and inf, {said}", signed=True)
            for reduction in ("none", "mean"):
                with_them = backend.call(op, x, labels, reduction=reduction, **options, **more)
                without = backend.call(op, x[~gone], labels[~gone], reduction=reduction, **more)
                beside = with_them[~gone] if with_them.ndim else with_them
                what = f"{op}, reduction={reduction!r}, of rows beside ignored ones, {said}"
                mismatch(beside, without, what, than=" as without them")


_X2: Final = [[0.0, 0.0], [nan, nan]]

IGNORE = Requirement(
    "ignore-index",
    "ignore_index",
    "default None. Loss 0 and gradient exactly +0 for that row even if its logits are NaN/inf (select, don't "
    "multiply). May lie inside or outside the class range; its class stays in the denominator; with soft targets: "
    "error",
    (
        Example("loss", _X2, labels_of(0, -100), options={"ignore_index": -100}, name="mean"),
        Example("loss", _X2, labels_of(0, 1), options={"ignore_index": 1, **NONE}, name="inside"),
        Example("gradient", _X2, labels_of(0, -1), [[-0.5, 0.5], [0.0, 0.0]], {"ignore_index": -1}, signed=True),
        Example("gradient", [[0.0, 0.0]], labels_of(0), [[-0.5, 0.5]], {"ignore_index": 1}, name="class-stays"),
        Example("loss", [[0.0, 0.0]], labels_of(-100), Raises(ValueError, ("-100",)), name="default-none"),
        Example("loss", [[0.0, 0.0]], labels_of(-1), [nan], {**_LOOSE, **NONE}, name="minus-one-is-not-ignored"),
        Example("loss", [[0.0, 0.0]], labels_of(-1), [0.0], {"ignore_index": -1, **_LOOSE, **NONE}, name="unvalidated"),
        Example(
            "gradient", [[0.0, 0.0]], labels_of(-2), [[nan] * 2], {"ignore_index": -1, **_LOOSE}, name="other-wild"
        ),
    )
    + tuple(
        Example(op, logits, np.eye(3), Raises(ValueError, ("ignore_index",)), {"ignore_index": 1}, WIDE, "soft")
        for op, logits in (("loss", THREE), ("gradient", THREE), ("log_loss", np.eye(3)))
    )
    + tuple(
        Example("loss", THREE, labels_of(0, 1, 2), Raises(TypeError), {"ignore_index": bad}, ("float64",), f"is-{bad}")
        for bad in (1.0, "1", True)
    ),
    check("ignore-index", _select_not_multiply, dtype=FLOATS, place=("first", "inside", "outside", "beyond", "far")),
)

_IGNORED: Final = {"ignore_index": 1}

ALL_IGNORED = Requirement(
    "all-ignored",
    "all rows ignored",
    "none 0s, sum 0, mean NaN with zero gradient",
    (
        Example("loss", THREE, labels_of(1, 1, 1), [0.0] * 3, {**_IGNORED, **NONE}, name="none", signed=True),
        Example("loss", THREE, labels_of(1, 1, 1), 0.0, {**_IGNORED, **SUM}, name="sum"),
        Example("loss", THREE, labels_of(1, 1, 1), nan, _IGNORED, name="mean"),
        Example("gradient", THREE, labels_of(1, 1, 1), np.zeros((3, 3)), _IGNORED, name="mean", signed=True),
        Example("gradient", THREE, labels_of(1, 1, 1), np.zeros((3, 3)), {**_IGNORED, **SUM}, name="sum", signed=True),
        Example("log_loss", PROBS, labels_of(1, 1, 1), nan, _IGNORED, name="mean"),
        Example("log_loss", PROBS, labels_of(1, 1, 1), 0.0, {**_IGNORED, **SUM}, name="sum"),
    ),
)

REQUIREMENTS = (SOFT, SOFT_ZERO, IGNORE, ALL_IGNORED)
