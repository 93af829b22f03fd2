"""The contract, part 3: labels, soft targets, weights, smoothing, reductions."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

from softbench.conformance.backend_under_test import BackendUnderTest
from softbench.conformance.batch import VIEWS, batch
from softbench.conformance.case import FLOATS, WIDE, Example, Raises, Requirement, check, must_raise
from softbench.conformance.failures import Failure, NotApplicable, NotRefused, brief, call_text, mismatch
from softbench.conformance.layouts import LAYOUTS
from softbench.interface.dtypes import numpy_dtype

__all__ = ["REQUIREMENTS"]

inf, nan = math.inf, math.nan
_NONE: Final = {"reduction": "none"}
_SUM: Final = {"reduction": "sum"}
_LOOSE: Final = {"validate": False}
_TWO: Final = [[0.0, 0.0], [0.0, 0.0]]
_THREE: Final = [[0.0, 1.0, 2.0], [3.0, 1.0, 0.5], [0.25, 0.0, -1.0]]
_PROBS: Final = [[0.25, 0.25, 0.5]] * 3
_BY_LABEL: Final = (("loss", _THREE), ("gradient", _THREE), ("log_loss", _PROBS))
_BY_LOGITS: Final = _BY_LABEL[:2]


def _labels(*labels: int, dtype: Any = np.int64) -> Any:
    return np.array(labels, dtype)


# -- labels --------------------------------------------------------------------------------------------

_BAD: Final[dict[str, tuple[Any, str, str]]] = {
    # labels for three classes; the first bad row and its value
    "beyond": (_labels(0, 3, 9), "1", "3"),
    "negative": (_labels(0, 2, -1), "2", "-1"),
    "minus-two": (_labels(-2, 0, 1), "0", "-2"),
    "first-of-several": (_labels(1, 7, -5), "1", "7"),
    "int8": (_labels(0, 1, -128, dtype=np.int8), "2", "-128"),
    "uint8": (_labels(0, 255, 1, dtype=np.uint8), "1", "255"),
    "uint64": (_labels(0, 1, 2**64 - 1, dtype=np.uint64), "2", str(2**64 - 1)),
    "wraps-in-32-bits": (_labels(0, 2**32, 1), "1", str(2**32)),
    "smallest": (_labels(0, 1, -(2**63)), "2", str(-(2**63))),
}


def _first_bad(backend: BackendUnderTest, bad: str, op: str) -> None:
    labels, row, value = _BAD[bad]
    labels = labels.copy()
    logits = np.array(_PROBS if op == "log_loss" else _THREE)
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
    logits = np.array(_PROBS if op == "log_loss" else _THREE)
    wrong = np.array([not 0 <= int(label) < 3 for label in labels])
    options: dict[str, Any] = {} if op == "gradient" else _NONE
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
        options: dict[str, Any] = {**_SUM, **weights} if op == "gradient" else {**_NONE, **weights}
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
            op, logits, _labels(0, -1, 1), Raises(ValueError, ("1", "-1")), {"ignore_index": 2}, WIDE, "not-ignored"
        )
        for op, logits in _BY_LABEL
    )
    + tuple(
        Example(op, logits, _labels(0, 1), Raises(ValueError), _LOOSE, WIDE, "shape-unvalidated")
        for op, logits in _BY_LABEL
    )
    + tuple(
        Example(op, logits, np.array([0.0, 1.0, 1.0]), Raises(TypeError), _LOOSE, WIDE, "dtype-unvalidated")
        for op, logits in _BY_LABEL
    ),
    check("label-range", _first_bad, name="names-first", bad=_BAD, op=("loss", "gradient", "log_loss"))
    + check("label-range", _unvalidated, bad=_BAD, op=("loss", "gradient", "log_loss"))
    + check("label-range", _unvalidated_batch, name="unvalidated", op=("loss", "gradient", "log_loss"))
    + check("label-range", _before_compute, op=("gradient", "loss_and_gradient")),
)


def _any_width(backend: BackendUnderTest, dtype: str, op: str) -> None:
    """Labels of every integer type mean the same."""
    labels = _labels(0, 2, 1)
    logits = np.array(_PROBS if op == "log_loss" else _THREE)
    result = backend.call(op, logits, labels.astype(dtype))
    mismatch(result, backend.call(op, logits, labels), f"{op} with {dtype} labels", than=" (int64)")
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
        due = backend.call(op, logits, labels.astype(np.int64), **_NONE)
        for layout, laid in LAYOUTS.items():
            if layout != "broadcast":
                result = backend.call(op, logits, laid(labels), **_NONE)
                mismatch(result, due, f"{op} with {layout} {dtype} labels {list(shape)}", than=" (int64, contiguous)")


LABEL_DTYPES = Requirement(
    "label-dtypes",
    "dtypes of labels",
    "bool or float: TypeError; every integer width incl. uint64 and int8 accepted",
    tuple(
        Example(op, logits, np.array([0, 1, 1], dtype), Raises(TypeError, (dtype,)), {}, ("float64",), dtype)
        for op, logits in _BY_LABEL
        for dtype in ("bool", "float32", "float64")
    )
    + tuple(
        Example(op, logits, np.array(values), Raises(TypeError), {}, ("float64",), name)
        for op, logits in _BY_LABEL
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
        for op, logits in _BY_LABEL
        for name, target in (
            ("short", _labels(0, 1)),
            ("long", _labels(0, 1, 2, 0)),
            ("one", _labels(0)),
            ("column", _labels(0, 1, 2).reshape(3, 1)),
            ("row", _labels(0, 1, 2).reshape(1, 3)),
            ("scalar", np.array(0)),
            ("three-dimensions", np.zeros((3, 3, 1), np.int64)),
        )
    )
    + tuple(
        Example(op, logits, target, Raises(ValueError), {}, ("float64",), name)
        for op, logits in _BY_LABEL
        for name, target in (
            ("soft-one-row", np.array([[0.0, 1.0, 0.0]])),
            ("soft-one-class", np.ones((3, 1))),
            ("soft-wrong-classes", np.array([[0.5, 0.5]] * 3)),
        )
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
        for op, logits in _BY_LABEL
        for name, target, words in (
            ("sum-below", [[0.0, 1.0, 0.0], [0.25, 0.5, 0.0], [1.0, 0.0, 0.0]], ("1", "0.75")),
            ("sum-above", [[0.5, 0.5, 0.5], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]], ("0", "1.5")),
            ("zeros", np.zeros((3, 3)), ("0",)),
            ("negative", [[0.0, 1.0, 0.0], [1.5, -0.5, 0.0], [1.0, 0.0, 0.0]], ("1", "-0.5")),
            ("nan", [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [nan, 1.0, 0.0]], ("2",)),
            ("infinite", [[0.0, inf, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], ("0",)),
            ("labels-by-mistake", np.array([[0, 1, 2]] * 3), ("0",)),
        )
    )
    + (
        Example("loss", _TWO, [[0.25, 0.75], [1.0, 0.0]], name="in-gate"),
        Example("loss", _THREE, [[0.25, 0.25, 0.5]] * 3, options=_NONE, name="none"),
        Example("gradient", _THREE, [[0.25, 0.25, 0.5]] * 3),
        Example("loss", _THREE, np.eye(3, dtype=np.int64), options=_NONE, name="integers"),
        Example("loss", _TWO, [[0.5, 0.25], [2.0, 3.0]], options={**_NONE, **_LOOSE}, name="any-sum-unvalidated"),
        Example("gradient", [[0.0, 0.0]], [[0.5, 0.25]], [[-0.125, 0.125]], _LOOSE, name="any-sum-unvalidated"),
        Example("gradient", [[0.0, 0.0]], [[2.0, 2.0]], [[0.0, 0.0]], _LOOSE, name="sum-4-unvalidated"),
        Example("gradient", [[0.0, 0.0]], [[-1.0, 0.5]], [[0.75, -0.75]], _LOOSE, name="negative-unvalidated"),
        Example("loss", [[0.0, 0.0]], [[0.0, 0.0]], [0.0], {**_NONE, **_LOOSE}, name="zeros-unvalidated"),
        Example("gradient", [[0.0, 0.0]], [[0.0, 0.0]], [[0.0, 0.0]], _LOOSE, name="zeros-unvalidated"),
        Example("loss", [[0.0, 0.0]], [[nan, 0.0]], [nan], {**_NONE, **_LOOSE}, name="nan-unvalidated"),
        Example(
            "loss",
            [[0.0, -inf, -inf]],
            [[0.5, 1.0, -0.5]],
            [nan],
            {**_NONE, **_LOOSE},
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
        Example("loss", [[0.0, -inf]], [[1.0, 0.0]], [0.0], _NONE, name="zero"),
        Example("loss", [[0.0, 0.0, -inf]], [[0.5, 0.5, 0.0]], options=_NONE, name="rest"),
        Example("loss", [[0.0, -inf]], [[0.5, 0.5]], [inf], _NONE, name="positive"),
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
            found = backend.call(op, x, labels, **_NONE, **options, **more)
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
        Example("loss", _X2, _labels(0, -100), options={"ignore_index": -100}, name="mean"),
        Example("loss", _X2, _labels(0, 1), options={"ignore_index": 1, **_NONE}, name="inside"),
        Example("gradient", _X2, _labels(0, -1), [[-0.5, 0.5], [0.0, 0.0]], {"ignore_index": -1}, signed=True),
        Example("gradient", [[0.0, 0.0]], _labels(0), [[-0.5, 0.5]], {"ignore_index": 1}, name="class-stays"),
        Example("loss", [[0.0, 0.0]], _labels(-100), Raises(ValueError, ("-100",)), name="default-none"),
        Example("loss", [[0.0, 0.0]], _labels(-1), [nan], {**_LOOSE, **_NONE}, name="minus-one-is-not-ignored"),
        Example("loss", [[0.0, 0.0]], _labels(-1), [0.0], {"ignore_index": -1, **_LOOSE, **_NONE}, name="unvalidated"),
        Example("gradient", [[0.0, 0.0]], _labels(-2), [[nan] * 2], {"ignore_index": -1, **_LOOSE}, name="other-wild"),
    )
    + tuple(
        Example(op, logits, np.eye(3), Raises(ValueError, ("ignore_index",)), {"ignore_index": 1}, WIDE, "soft")
        for op, logits in (("loss", _THREE), ("gradient", _THREE), ("log_loss", np.eye(3)))
    )
    + tuple(
        Example("loss", _THREE, _labels(0, 1, 2), Raises(TypeError), {"ignore_index": bad}, ("float64",), f"is-{bad}")
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
        Example("loss", _THREE, _labels(1, 1, 1), [0.0] * 3, {**_IGNORED, **_NONE}, name="none", signed=True),
        Example("loss", _THREE, _labels(1, 1, 1), 0.0, {**_IGNORED, **_SUM}, name="sum"),
        Example("loss", _THREE, _labels(1, 1, 1), nan, _IGNORED, name="mean"),
        Example("gradient", _THREE, _labels(1, 1, 1), np.zeros((3, 3)), _IGNORED, name="mean", signed=True),
        Example("gradient", _THREE, _labels(1, 1, 1), np.zeros((3, 3)), {**_IGNORED, **_SUM}, name="sum", signed=True),
        Example("log_loss", _PROBS, _labels(1, 1, 1), nan, _IGNORED, name="mean"),
        Example("log_loss", _PROBS, _labels(1, 1, 1), 0.0, {**_IGNORED, **_SUM}, name="sum"),
    ),
)

# -- weights -------------------------------------------------------------------------------------------

_S: Final = np.array([1.0, 0.0, 3.0])


def _refused_weights(which: str, right: int) -> tuple[Example, ...]:
    bad = {
        "negative": (np.array([1.0, -0.5, 2.0]), Raises(ValueError, ("-0.5",))),
        "nan": (np.array([1.0, nan, 2.0]), Raises(ValueError, ("nan",))),
        "infinite": (np.array([1.0, inf, 2.0]), Raises(ValueError, ("inf",))),
        "short": (np.ones(right - 1), Raises(ValueError)),
        "long": (np.ones(right + 1), Raises(ValueError)),
        "scalar": (np.array(2.0), Raises(ValueError)),
        "column": (np.ones((right, 1)), Raises(ValueError)),
        "bool": (np.ones(right, bool), Raises(TypeError, ("bool",))),
        "complex": (np.ones(right, complex), Raises(TypeError, ("complex128",))),
    }
    return tuple(
        Example(op, logits, _labels(0, 1, 2), expect, {which: value}, ("float64",), f"{name}")
        for op, logits in _BY_LABEL
        for name, (value, expect) in bad.items()
    )


SAMPLE_WEIGHT = Requirement(
    "sample-weight",
    "sample_weight",
    ">= 0, one per row; multiplies loss and gradient; index mean divides by the sum of w[y] s over rows not ignored, "
    "soft mean by the sum of s",
    (
        Example("loss", np.zeros((3, 2)), _labels(0, 1, 0), options={"sample_weight": _S, **_NONE}, name="none"),
        Example(
            "gradient",
            np.zeros((3, 2)),
            _labels(0, 1, 0),
            [[-0.5, 0.5], [0, 0], [-1.5, 1.5]],
            {"sample_weight": _S, **_SUM},
            name="sum",
        ),
        Example(
            "gradient",
            np.zeros((3, 2)),
            _labels(0, 1, 0),
            [[-0.125, 0.125], [0, 0], [-0.375, 0.375]],
            {"sample_weight": _S},
            name="mean",
        ),
        Example(
            "gradient",
            np.zeros((3, 2)),
            np.eye(2)[[0, 1, 0]],
            [[-0.125, 0.125], [0, 0], [-0.375, 0.375]],
            {"sample_weight": _S},
            name="soft-mean",
        ),
        Example("loss", _THREE, _labels(0, 1, 2), options={"sample_weight": _S}, name="mean"),
        Example("loss", _THREE, np.eye(3), options={"sample_weight": _S}, name="soft-mean"),
        Example("loss", _THREE, _labels(0, 1, 2), options={"sample_weight": _S, "ignore_index": 2}, name="ignored"),
        Example("loss", _THREE, _labels(0, 1, 2), options={"sample_weight": np.array([2, 0, 1])}, name="integers"),
        Example(
            "loss",
            _THREE,
            _labels(0, 1, 2),
            options={"sample_weight": np.array([2, 0.5, 1], np.float32)},
            name="float32",
        ),
        Example("loss", _THREE, _labels(0, 1, 2), nan, {"sample_weight": np.zeros(3)}, name="nothing"),
        Example("log_loss", _PROBS, _labels(0, 1, 2), options={"sample_weight": _S}, name="mean"),
    )
    + _refused_weights("sample_weight", 3),
)

_NOTHING: Final = {"sample_weight": np.array([0.0, 1.0])}
_ABSENT_LABEL: Final = [[0.0, -inf, 0.0], [0.0, 1.0, 2.0]]
_UNDEFINED: Final = [[nan, 0.0], [inf, 0.0], [-inf, -inf]]

WEIGHT_ZERO = Requirement(
    "weight-0",
    "weight 0 beside -inf, NaN or overflow",
    "weights fold into q: q = 0 contributes 0 to the loss even where x = -inf; a row that is NaN by its logits (NaN, "
    "+inf, all -inf) stays NaN at weight 0 in loss and gradient",
    tuple(
        Example(op, logits, target, options={**_NOTHING, **options, "reduction": reduction}, name=f"{name}-{reduction}")
        for reduction in ("none", "sum", "mean")
        for op, logits, target, options, name in (
            ("loss", _ABSENT_LABEL, _labels(1, 0), {}, "sample"),
            ("loss", _ABSENT_LABEL, _labels(0, 0), {"label_smoothing": 0.125}, "sample-smoothed"),
            ("loss", _ABSENT_LABEL, [[0.5, 0.5, 0.0], [0.5, 0.5, 0.0]], {}, "sample-soft"),
            ("loss", _ABSENT_LABEL, _labels(1, 0), {"class_weight": np.array([1.0, 0.0, 1.0])}, "both"),
            ("log_loss", [[0.0, 1.0], [0.25, 0.75]], _labels(0, 1), {}, "sample"),
            ("log_loss", [[0.0, 1.0], [0.25, 0.75]], [[0.5, 0.5]] * 2, {}, "sample-soft"),
        )
    )
    + tuple(
        Example(op, [[0.0, -inf], [0.0, -inf]], target, options={"class_weight": np.array([1.0, 0.0]), **options},
                name=name)
        for op in ("loss", "gradient")
        for target, options, name in (
            (_labels(1, 0), {}, "class"),
            (_labels(0, 0), {"label_smoothing": 0.125}, "class-smoothed"),
            (_labels(1, 1), {"label_smoothing": 1.0, **_SUM}, "class-all-smoothed"),
            ([[0.5, 0.5], [1.0, 0.0]], {}, "class-soft"),
        )
    )
    + tuple(
        Example(op, _UNDEFINED, target, due, {"sample_weight": np.zeros(3), **options}, name=name)
        for op, due, options in (("loss", [nan] * 3, _NONE), ("gradient", [[nan, nan]] * 3, _SUM))
        for target, name in ((_labels(0, 1, 0), "undefined"), ([[0.5, 0.5]] * 3, "undefined-soft"))
    )
    + tuple(
        Example(op, _UNDEFINED, _labels(0, 1, 0), due,
                {"sample_weight": np.zeros(3), "label_smoothing": 0.5, **options}, name="undefined-smoothed")
        for op, due, options in (("loss", [nan] * 3, _NONE), ("gradient", [[nan, nan]] * 3, _SUM))
    )
    + tuple(
        Example("loss", [[1e308, -1e308], [0.0, 1.0]], _labels(1, 0), options={**_NOTHING, **options},
                dtypes=("float64",), name=name)
        for options, name in (({}, "overflow"), ({"label_smoothing": 0.125}, "overflow-smoothed"))
    ),
)  # fmt: skip

_W: Final = np.array([1.0, 0.0, 0.5])
_ABSURD: Final = {"class_weight": np.array([0.0, 1.0, 1.0])}

# The other probability is subnormal; times its weight it is an ordinary number, and shall have all its digits.
_ALL_BUT_CERTAIN: Final = [[0.0, -720.0], [-712.5, 0.25]]
_HUGE: Final = {"class_weight": np.array([1e300, 1e290]), **_NONE}

CLASS_WEIGHT = Requirement(
    "class-weight",
    "class_weight",
    "index targets, mean: divide by the sum of w[y] over rows not ignored; soft targets, mean: divide by N; negative: "
    "ValueError; sum 0: loss NaN, gradient NaN in rows not ignored, +0 in ignored ones",
    (
        Example("loss", _THREE, _labels(0, 1, 2), options={"class_weight": _W, **_NONE}, name="none"),
        Example("loss", _THREE, _labels(0, 1, 2), options={"class_weight": _W}, name="mean"),
        Example("loss", _THREE, _labels(2, 2, 0), options={"class_weight": _W, **_SUM}, name="sum"),
        Example("loss", _THREE, np.eye(3), options={"class_weight": _W}, name="soft-mean"),
        Example("gradient", np.zeros((2, 2)), _labels(0, 1), [[-0.125, 0.125], [0.375, -0.375]],
                {"class_weight": np.array([1.0, 3.0])}, name="mean"),
        Example("gradient", np.zeros((2, 2)), np.eye(2), [[-0.25, 0.25], [0.75, -0.75]],
                {"class_weight": np.array([1.0, 3.0])}, name="soft-mean"),
        Example("loss", _THREE, _labels(0, 1, 2), options={"class_weight": _W, "ignore_index": 0}, name="ignored"),
        Example("loss", _THREE, _labels(0, 1, 2), options={"class_weight": np.array([1, 2, 3])}, name="integers"),
        Example("loss", _THREE, _labels(0, 0, 0), nan, _ABSURD, name="sum-0"),
        Example("gradient", _THREE, _labels(0, 2, 0), [[nan] * 3, [0.0] * 3, [nan] * 3],
                {**_ABSURD, "ignore_index": 2}, name="sum-0", signed=True),
        Example("loss", _THREE, _labels(0, 2, 0), nan, {**_ABSURD, "ignore_index": 2}, name="sum-0-ignored"),
        Example("log_loss", _PROBS, _labels(0, 1, 2), options={"class_weight": _W}, name="mean"),
        Example("log_loss", _PROBS, np.eye(3), options={"class_weight": _W}, name="soft-mean"),
    )
    + tuple(
        Example(op, _ALL_BUT_CERTAIN, target, options=_HUGE, dtypes=("float64",), name=f"huge{name}")
        for op in ("loss", "gradient")
        for name, target in (("", _labels(0, 1)), ("-soft", [[1.0, 0.0], [0.0, 1.0]]))
    )
    + _refused_weights("class_weight", 3),
)  # fmt: skip

# -- label_smoothing -----------------------------------------------------------------------------------

_EPS: Final = {"label_smoothing": 0.25}

SMOOTHING = Requirement(
    "label-smoothing",
    "label_smoothing eps",
    "in [0,1], target (1-eps) y + eps/K; composes with ignore_index and class_weight as PyTorch does",
    (
        Example("gradient", np.zeros((1, 2)), _labels(0), [[-0.375, 0.375]], _EPS, name="index"),
        Example("gradient", np.zeros((1, 2)), [[1.0, 0.0]], [[-0.375, 0.375]], _EPS, name="soft"),
        Example("gradient", np.zeros((1, 4)), _labels(1), [[0.0, 0.0, 0.0, 0.0]], {"label_smoothing": 1.0}, name="all"),
        Example("loss", _THREE, _labels(0, 1, 2), options=_EPS, name="index"),
        Example("loss", _THREE, np.eye(3), options=_EPS, name="soft"),
        Example("loss", _THREE, _labels(0, 1, 2), options={"label_smoothing": 1.0, **_NONE}, name="all"),
        Example("loss", _THREE, np.eye(3), options={"label_smoothing": 1.0, **_NONE}, name="soft-all"),
        Example("loss", _THREE, _labels(0, 1, 2), options={"class_weight": _W, **_EPS}, name="class-weight"),
        Example("loss", _THREE, np.eye(3), options={"class_weight": _W, **_EPS}, name="soft-class-weight"),
        Example("loss", _THREE, _labels(0, 1, 2), options={"class_weight": _W, "ignore_index": 2, **_EPS},
                name="class-weight-ignored"),
        Example("loss", _THREE, _labels(0, 1, 2),
                options={"class_weight": _W, "sample_weight": _S, "ignore_index": 1, **_EPS}, name="everything"),
        Example("gradient", _THREE, _labels(0, 1, 2), options={"class_weight": _W, **_EPS}, name="class-weight"),
        Example("gradient", _THREE, _labels(0, 1, 2),
                options={"class_weight": _W, "sample_weight": _S, "ignore_index": 1, **_EPS}, name="everything"),
    )
    + tuple(
        Example(op, _THREE, _labels(0, 1, 2), Raises(error, (f"{eps!r}",)), {"label_smoothing": eps}, WIDE,
                f"is-{type(eps).__name__}" if error is TypeError else f"is-{eps!r}")
        for op in ("loss", "gradient")
        for eps, error in ((-0.125, ValueError), (1.5, ValueError), (nan, ValueError), (None, TypeError),
                           (True, TypeError), ("0.1", TypeError), (b"0.1", TypeError))
    )
    + (
        Example("loss", [[0.0, -inf]], _labels(0), inf, {"label_smoothing": 5e-324}, name="tiny"),
    ),
)  # fmt: skip

# -- reductions ----------------------------------------------------------------------------------------


def _many_rows(backend: BackendUnderTest, op: str, dtype: str, reduction: str) -> None:
    """Sums over many rows: an accumulator in the input dtype, or a mean of rounded losses, shows here."""
    n = {"compiled": 30000, "interpreted": 2000, "simulated": 10}[backend.cost]
    rows = batch(n, 3, dtype)
    labels = rows.known
    logits = rows.p if op == "log_loss" else rows.x
    for target, options in (
        (labels, {}),
        (rows.labels, {"ignore_index": -1, "class_weight": rows.w, "sample_weight": rows.s}),
        (rows.q, {"class_weight": rows.w, "sample_weight": rows.s}),
    ):
        if op == "gradient" and target is rows.q:
            continue  # judged row by row under "soft-targets" and "accuracy"
        result = backend.call(op, logits, target, reduction=reduction, **options)
        made = f"{'Dirichlet' if op == 'log_loss' else 'N(0,3)'} {dtype}[{n},3]"
        backend.judge(op, result, logits, target, made=made, reduction=reduction, **options)


_ROUNDING: Final = 2.0**-16
"""What a mean of half-precision losses may be off, relative to itself: less than rounding them first would cost."""


def _unrounded(backend: BackendUnderTest, op: str, dtype: str) -> None:
    """The mean of many equal losses is that loss before it is rounded to half precision."""
    if {"reduced_loss", "index_loss", "log_loss"} & set(backend.gates):
        raise NotApplicable("declares another accuracy of losses")
    for k in range(2, 10):
        logits = np.full((40, k), 1.0 / k if op == "log_loss" else 0.0).astype(numpy_dtype(dtype))
        due = -math.log(float(logits[0, 0])) if op == "log_loss" else math.log(k)
        for reduction, exact in (("mean", due), ("sum", 40 * due)):
            result = float(backend.call(op, logits, np.zeros(40, np.int64), reduction=reduction))
            if not abs(result - exact) <= _ROUNDING * exact:
                raise Failure(
                    f"{reduction} {op} of {dtype}[40,{k}], all {float(logits[0, 0]):g}, is {result!r}, expected "
                    f"{exact!r}: off by {abs(result - exact) / exact:.2g} of itself, as if it had rounded losses first"
                )


def _unscaled(backend: BackendUnderTest, dtype: str) -> None:
    """``gradient(reduction="none")`` is that of "sum", bit for bit."""
    rows = batch(9, 5, dtype)
    for view in VIEWS:
        if view.op == "gradient":
            logits, target, options = view.arguments(rows)
            total = backend.call("gradient", logits, target, **{**options, "reduction": "sum"})
            mismatch(
                view.run(backend, rows), total, f"{view.name} of {dtype}, reduction='none',", than=" (reduction='sum')"
            )


REDUCTIONS = Requirement(
    "reductions",
    "reduction none, sum, mean",
    "accumulated in float64 or better, in a fixed order",
    tuple(
        Example(
            op, logits, _labels(0, 1, 2), Raises(ValueError, (word,)), {"reduction": word}, ("float64",), f"is-{word}"
        )
        for op, logits in _BY_LABEL
        for word in ("average", "None", "batchmean")
    )
    + (
        Example("loss", [[1.7e308, 0.0]] * 3, _labels(1, 1, 1), dtypes=("float64",), name="mean-of-large"),
        Example("loss", [[1.7e308, 0.0]] * 3, _labels(1, 1, 1), inf, _SUM, dtypes=("float64",), name="sum-of-large"),
        Example("loss", [[0.0, 0.0]] * 4, _labels(0, 1, 0, 1), name="mean"),
        Example("loss", [[0.0, 0.0]] * 4, _labels(0, 1, 0, 1), options=_SUM, name="sum"),
        Example("loss", [[0.0, 0.0]] * 4, _labels(0, 1, 0, 1), options=_NONE, name="none"),
        Example("gradient", [[0.0, 0.0]] * 2, _labels(0, 1), [[-0.25, 0.25], [0.25, -0.25]], name="mean"),
        Example("gradient", [[0.0, 0.0]] * 2, _labels(0, 1), [[-0.5, 0.5], [0.5, -0.5]], _SUM, name="sum"),
        Example("gradient", [[0.0, 0.0]] * 2, _labels(0, 1), [[-0.5, 0.5], [0.5, -0.5]], _NONE, name="none"),
    ),
    check(
        "reductions",
        _many_rows,
        op=("loss", "log_loss"),
        dtype=FLOATS,
        reduction=("sum", "mean"),
    )
    + check("reductions", _unrounded, op=("loss", "log_loss"), dtype=FLOATS[:2])
    + check("reductions", _unscaled, name="none-is-sum", dtype=FLOATS),
)

REQUIREMENTS = (
    LABELS,
    LABEL_DTYPES,
    LABEL_SHAPES,
    SOFT,
    SOFT_ZERO,
    IGNORE,
    ALL_IGNORED,
    SAMPLE_WEIGHT,
    WEIGHT_ZERO,
    CLASS_WEIGHT,
    SMOOTHING,
    REDUCTIONS,
)
