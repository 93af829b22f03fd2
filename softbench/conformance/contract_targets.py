"""The contract: labels, distributions, and rows that are ignored."""

from __future__ import annotations

import math
from typing import Any, Final

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
from softbench.conformance.failures import NotRefused, brief, call_text, mismatch
from softbench.conformance.layouts import LAYOUTS
from softbench.interface.dtypes import numpy_dtype

__all__ = ["BY_LABEL", "PROBS", "REQUIREMENTS", "THREE"]

inf, nan = math.inf, math.nan
_LOOSE: Final = {"validate": False}
_TWO: Final = [[0.0, 0.0], [0.0, 0.0]]
THREE: Final = [[0.0, 1.0, 2.0], [3.0, 1.0, 0.5], [0.25, 0.0, -1.0]]
PROBS: Final = [[0.25, 0.25, 0.5]] * 3
BY_LABEL: Final = (("loss", THREE), ("gradient", THREE), ("log_loss", PROBS))


# -- labels --------------------------------------------------------------------------------------------

_BAD: Final[dict[str, tuple[Any, str, str]]] = {
    # labels for three classes; the first bad row and its value
    "beyond": (labels_of(0, 3, 9), "1", "3"),
    "negative": (labels_of(0, 2, -1), "2", "-1"),
    "minus-two": (labels_of(-2, 0, 1), "0", "-2"),
    "first-of-several": (labels_of(1, 7, -5), "1", "7"),
    "int8": (labels_of(0, 1, -128, dtype=np.int8), "2", "-128"),
    "uint8": (labels_of(0, 255, 1, dtype=np.uint8), "1", "255"),
    "uint64": (labels_of(0, 1, 2**64 - 1, dtype=np.uint64), "2", str(2**64 - 1)),
    "wraps-in-32-bits": (labels_of(0, 2**32, 1), "1", str(2**32)),
    "smallest": (labels_of(0, 1, -(2**63)), "2", str(-(2**63))),
}


def _first_bad(backend: BackendUnderTest, bad: str, op: str) -> None:
    labels, row, value = _BAD[bad]
    labels = labels.copy()
    logits = np.array(PROBS if op == "log_loss" else THREE)
    must_raise(backend, Raises(ValueError, (row, value)), op, logits, labels, {})


def _before_compute(backend: BackendUnderTest, op: str) -> None:
    """A bad label raises before anything is written, even when it is in the last row."""
    rows = batch(backend.rows_of(8, 50), 8, "float64")
    labels = np.zeros(len(rows.x), np.int64)
    labels[-1] = 8
    out = np.full(rows.x.shape, 777.0)
    given = backend.put(out)
    try:
        getattr(backend.be, op)(backend.put(rows.x), backend.put(labels), out=given)
    except ValueError:
        pass
    else:
        raise NotRefused(f"{op} accepts label 8 for 8 classes in the last of {len(labels)} rows")
    if not (backend.get(given) == 777.0).all():
        raise NotRefused(f"{op} wrote to out before it raised on a bad label")


def _unvalidated(backend: BackendUnderTest, bad: str, op: str) -> None:
    """``validate=False``: NaN for the rows whose label is no class, the others as they are."""
    labels = _BAD[bad][0].copy()
    logits = np.array(PROBS if op == "log_loss" else THREE)
    wrong = np.array([not 0 <= int(label) < 3 for label in labels])
    options: dict[str, Any] = {} if op == "gradient" else NONE
    said = call_text(op, logits, labels, {**options, **_LOOSE})
    good = backend.call(op, logits, np.where(wrong, 0, labels).astype(np.int64), **options)
    result = backend.call(op, logits, labels, **options, **_LOOSE)
    good[wrong] = nan
    mismatch(result, good, said)


def _unvalidated_batch(backend: BackendUnderTest, op: str) -> None:
    """Wild labels all over a batch: NaN in their rows, no bit changed elsewhere, with weights too."""
    k = 70 if backend.cost != "simulated" else 20
    rows = batch(backend.rows_of(k, 300), k, "float64")
    labels = rows.known
    wild = labels.copy()
    wild[1::3] = np.resize([-1, -2, k, 2**31, 2**40, -(2**40), 2**62], len(wild[1::3]))
    logits = rows.p if op == "log_loss" else rows.x
    for weights in ({}, {"class_weight": rows.w, "sample_weight": rows.s}):
        options: dict[str, Any] = {**SUM, **weights} if op == "gradient" else {**NONE, **weights}
        good = backend.call(op, logits, labels, **options)
        result = backend.call(op, logits, wild, **options, **_LOOSE)
        good[1::3] = nan
        mismatch(result, good, f"{op}, every third label no class, validate=False, {', '.join(weights)}:")


LABELS = Requirement(
    "label-range",
    "labels out of range or negative",
    "ValueError before any compute, on every backend, naming the first bad row and value. `validate=False` skips value "
    "checks only (labels, target values), never shape, dtype or aliasing: then an invalid label gives NaN for its row, "
    "never an out-of-bounds access",
    tuple(
        Example(
            op, logits, labels_of(0, -1, 1), Raises(ValueError, ("1", "-1")), {"ignore_index": 2}, WIDE, "not-ignored"
        )
        for op, logits in BY_LABEL
    )
    + tuple(
        Example(
            op,
            logits,
            labels_of(0, 2**64 - 100, 1, dtype=np.uint64),
            Raises(ValueError, ("1", str(2**64 - 100))),
            {"ignore_index": -100},
            WIDE,
            "wraps-to-ignored",
        )
        for op, logits in BY_LABEL
    )
    + tuple(
        Example(op, logits, labels_of(0, 1), Raises(ValueError), _LOOSE, WIDE, "shape-unvalidated")
        for op, logits in BY_LABEL
    )
    + tuple(
        Example(op, logits, np.array([0.0, 1.0, 1.0]), Raises(TypeError), _LOOSE, WIDE, "dtype-unvalidated")
        for op, logits in BY_LABEL
    ),
    check("label-range", _first_bad, name="names-first", bad=_BAD, op=("loss", "gradient", "log_loss"))
    + check("label-range", _unvalidated, bad=_BAD, op=("loss", "gradient", "log_loss"))
    + check("label-range", _unvalidated_batch, name="unvalidated", op=("loss", "gradient", "log_loss"))
    + check("label-range", _before_compute, op=("gradient", "loss_and_gradient")),
)


def _any_width(backend: BackendUnderTest, dtype: str, op: str) -> None:
    """Labels of every integer type mean the same."""
    few = labels_of(0, 2, 1)
    logits = np.array(PROBS if op == "log_loss" else THREE)
    result = backend.call(op, logits, few.astype(dtype))
    mismatch(result, backend.call(op, logits, few), f"{op} with {dtype} labels", than=" (int64)")
    # Up to the largest class that the type can name, beside an ignore_index that it cannot.
    rows = batch(backend.rows_of(300, 8), min(300, backend.max_k), "float64")
    n, k = rows.x.shape
    top = min(np.iinfo(dtype).max, k - 1)
    labels = np.resize([top, 44, top // 2, 0], n) % k
    logits = rows.p if op == "log_loss" else rows.x
    due = backend.call(op, logits, labels)
    for ignored in (None, -100, 256 + top, 300, 2**32 + 44):
        options = {"ignore_index": ignored}
        result = backend.call(op, logits, labels.astype(dtype), **options)
        said = f"{op} of {k} classes with {dtype} labels {labels.tolist()}, ignore_index={ignored},"
        mismatch(result, due, said, than=" (int64, nothing to ignore)")


_INTEGERS: Final = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")


def _any_layout(backend: BackendUnderTest, dtype: str, op: str) -> None:
    """Labels of every integer type mean the same however they lie in memory, in one dimension and in two."""
    rows = batch(backend.rows_of(9, 40), 9, "float32")
    n = len(rows.x) - len(rows.x) % 2
    x = (rows.p if op == "log_loss" else rows.x)[:n]
    for shape in ((n,), (2, n // 2)):
        logits, labels = x.reshape(*shape, 9), rows.known[:n].reshape(shape).astype(dtype)
        due = backend.call(op, logits, labels.astype(np.int64), **NONE)
        for layout, laid in LAYOUTS.items():
            if layout != "broadcast":
                result = backend.call(op, logits, laid(labels), **NONE)
                mismatch(result, due, f"{op} with {layout} {dtype} labels {list(shape)}", than=" (int64, contiguous)")


LABEL_DTYPES = Requirement(
    "label-dtypes",
    "dtypes of labels",
    "bool or float: TypeError; every integer width incl. uint64 and int8 accepted",
    tuple(
        Example(op, logits, np.array([0, 1, 1], dtype), Raises(TypeError, (dtype,)), {}, ("float64",), dtype)
        for op, logits in BY_LABEL
        for dtype in ("bool", "float32", "float64")
    )
    + tuple(
        Example(op, logits, np.array(values), Raises(TypeError), {}, ("float64",), name)
        for op, logits in BY_LABEL
        for name, values in (("complex", [0j, 1j, 1j]),)
    ),
    check(
        "label-dtypes",
        _any_width,
        name="width",
        dtype=_INTEGERS,
        op=("loss", "gradient", "log_loss"),
    )
    + check(
        "label-dtypes",
        _any_layout,
        name="layout",
        needs=("host",),
        dtype=_INTEGERS,
        op=("loss", "gradient", "log_loss"),
    ),
)

LABEL_SHAPES = Requirement(
    "label-shapes",
    "labels of wrong length, or (N,1)",
    "ValueError, never broadcast",
    tuple(
        Example(op, logits, target, Raises(ValueError), {}, ("float64",), name)
        for op, logits in BY_LABEL
        for name, target in (
            ("short", labels_of(0, 1)),
            ("long", labels_of(0, 1, 2, 0)),
            ("one", labels_of(0)),
            ("column", labels_of(0, 1, 2).reshape(3, 1)),
            ("row", labels_of(0, 1, 2).reshape(1, 3)),
            ("scalar", np.array(0)),
            ("three-dimensions", np.zeros((3, 3, 1), np.int64)),
        )
    )
    + tuple(
        Example(op, logits, target, Raises(ValueError), {}, ("float64",), name)
        for op, logits in BY_LABEL
        for name, target in (
            ("soft-one-row", np.array([[0.0, 1.0, 0.0]])),
            ("soft-one-class", np.ones((3, 1))),
            ("soft-wrong-classes", np.array([[0.5, 0.5]] * 3)),
        )
    )
    + tuple(
        Example(op, logits[:1], target, Raises(ValueError), {}, ("float64",), name)
        for op, logits in BY_LABEL
        for name, target in (("scalar-for-a-row", np.array(0)), ("column-for-a-row", labels_of(0).reshape(1, 1)))
    ),
)

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

REQUIREMENTS = (LABELS, LABEL_DTYPES, LABEL_SHAPES, SOFT, SOFT_ZERO, IGNORE, ALL_IGNORED)
