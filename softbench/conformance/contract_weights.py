"""The contract: weights of rows and classes, label smoothing, reductions."""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from softbench.conformance.backend_under_test import BackendUnderTest
from softbench.conformance.batch import VIEWS, batch
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
)
from softbench.conformance.contract_labels import BY_LABEL, PROBS, THREE
from softbench.conformance.failures import Failure, NotApplicable, mismatch
from softbench.conformance.layouts import LAYOUTS
from softbench.interface.dtypes import numpy_dtype

__all__ = ["REQUIREMENTS"]

inf, nan = math.inf, math.nan


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
        Example(op, logits, labels_of(0, 1, 2), expect, {which: value}, ("float64",), f"{name}")
        for op, logits in BY_LABEL
        for name, (value, expect) in bad.items()
    )


_FORMS: Final = ("float32", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")


def _forms(backend: BackendUnderTest, dtype: str) -> None:
    """Weights of any real dtype, in any layout and byte order, are those of float64."""
    rows = batch(5, 3, "float64")
    s, w = np.array([3, 0, 2, 1, 100]), np.array([1, 4, 2])
    for op in backend.provided("loss", "gradient", "log_loss"):
        for target in (rows.known, rows.q):
            logits = rows.p if op == "log_loss" else rows.x
            for name, lay in LAYOUTS.items():
                there = {"sample_weight": lay(s.astype(dtype)), "class_weight": lay(w.astype(dtype))}
                plain = {which: np.array(weights, np.float64) for which, weights in there.items()}
                form = "index" if target.ndim == 1 else "soft"
                said = f"{op} of {form} targets with {name} {dtype} weights"
                for reduction in ("sum", "mean"):  # a common factor is lost in a mean
                    due = backend.call(op, logits, target, reduction=reduction, **plain)
                    found = backend.call(op, logits, target, reduction=reduction, **there)
                    mismatch(found, due, said, than=" (float64)")


SAMPLE_WEIGHT = Requirement(
    "sample-weight",
    "sample_weight",
    ">= 0, one per row; multiplies loss and gradient; index mean divides by the sum of w[y] s over rows not ignored, "
    "soft mean by the sum of s",
    (
        Example("loss", np.zeros((3, 2)), labels_of(0, 1, 0), options={"sample_weight": _S, **NONE}, name="none"),
        Example(
            "gradient",
            np.zeros((3, 2)),
            labels_of(0, 1, 0),
            [[-0.5, 0.5], [0, 0], [-1.5, 1.5]],
            {"sample_weight": _S, **SUM},
            name="sum",
        ),
        Example(
            "gradient",
            np.zeros((3, 2)),
            labels_of(0, 1, 0),
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
        Example("loss", THREE, labels_of(0, 1, 2), options={"sample_weight": _S}, name="mean"),
        Example("loss", THREE[:1], labels_of(2), options={"sample_weight": _S[2:]}, name="mean-of-one"),
        Example("loss", THREE[:1], np.eye(3)[2:], options={"sample_weight": _S[2:]}, name="soft-mean-of-one"),
        Example("loss", THREE, np.eye(3), options={"sample_weight": _S}, name="soft-mean"),
        Example("loss", THREE, labels_of(0, 1, 2), options={"sample_weight": _S, "ignore_index": 2}, name="ignored"),
        Example("loss", THREE, labels_of(0, 1, 2), options={"sample_weight": np.array([2, 0, 1])}, name="integers"),
        Example(
            "loss",
            THREE,
            labels_of(0, 1, 2),
            options={"sample_weight": np.array([2, 0.5, 1], np.float32)},
            name="float32",
        ),
        Example("loss", THREE, labels_of(0, 1, 2), nan, {"sample_weight": np.zeros(3)}, name="nothing"),
        Example("log_loss", PROBS, labels_of(0, 1, 2), options={"sample_weight": _S}, name="mean"),
    )
    + _refused_weights("sample_weight", 3),
    check("sample-weight", _forms, needs=("host",), profile="standard", dtype=_FORMS),
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
            ("loss", _ABSENT_LABEL, labels_of(1, 0), {}, "sample"),
            ("loss", _ABSENT_LABEL, labels_of(0, 0), {"label_smoothing": 0.125}, "sample-smoothed"),
            ("loss", _ABSENT_LABEL, [[0.5, 0.5, 0.0], [0.5, 0.5, 0.0]], {}, "sample-soft"),
            ("loss", _ABSENT_LABEL, labels_of(1, 0), {"class_weight": np.array([1.0, 0.0, 1.0])}, "both"),
            ("log_loss", [[0.0, 1.0], [0.25, 0.75]], labels_of(0, 1), {}, "sample"),
            ("log_loss", [[0.0, 1.0], [0.25, 0.75]], [[0.5, 0.5]] * 2, {}, "sample-soft"),
        )
    )
    + tuple(
        Example(op, [[0.0, -inf], [0.0, -inf]], target, options={"class_weight": np.array([1.0, 0.0]), **options},
                name=name)
        for op in ("loss", "gradient")
        for target, options, name in (
            (labels_of(1, 0), {}, "class"),
            (labels_of(0, 0), {"label_smoothing": 0.125}, "class-smoothed"),
            (labels_of(1, 1), {"label_smoothing": 1.0, **SUM}, "class-all-smoothed"),
            ([[0.5, 0.5], [1.0, 0.0]], {}, "class-soft"),
        )
    )
    + tuple(
        Example(op, _UNDEFINED, target, due, {"sample_weight": np.zeros(3), **options}, name=name)
        for op, due, options in (("loss", [nan] * 3, NONE), ("gradient", [[nan, nan]] * 3, SUM))
        for target, name in ((labels_of(0, 1, 0), "undefined"), ([[0.5, 0.5]] * 3, "undefined-soft"))
    )
    + tuple(
        Example(op, _UNDEFINED, labels_of(0, 1, 0), due,
                {"sample_weight": np.zeros(3), "label_smoothing": 0.5, **options}, name="undefined-smoothed")
        for op, due, options in (("loss", [nan] * 3, NONE), ("gradient", [[nan, nan]] * 3, SUM))
    )
    + tuple(
        Example("loss", [[1e308, -1e308], [0.0, 1.0]], labels_of(1, 0), options={**_NOTHING, **options},
                dtypes=("float64",), name=name)
        for options, name in (({}, "overflow"), ({"label_smoothing": 0.125}, "overflow-smoothed"))
    ),
)  # fmt: skip

_W: Final = np.array([1.0, 0.0, 0.5])
_ABSURD: Final = {"class_weight": np.array([0.0, 1.0, 1.0])}

# The other probability is subnormal; times its weight it is an ordinary number, and shall have all its digits.
_ALL_BUT_CERTAIN: Final = [[0.0, -720.0], [-712.5, 0.25]]
_HUGE: Final = {
    "huge": {"class_weight": np.array([1e300, 1e290]), **NONE},
    "large": {"class_weight": np.array([1e250, 1e240]), **NONE},  # which leaves it to the kernel of a `RowBackend`
}

CLASS_WEIGHT = Requirement(
    "class-weight",
    "class_weight",
    "index targets, mean: divide by the sum of w[y] over rows not ignored; soft targets, mean: divide by N; negative: "
    "ValueError; sum 0: loss NaN, gradient NaN in rows not ignored, +0 in ignored ones",
    (
        Example("loss", THREE, labels_of(0, 1, 2), options={"class_weight": _W, **NONE}, name="none"),
        Example("loss", THREE, labels_of(0, 1, 2), options={"class_weight": _W}, name="mean"),
        Example("loss", THREE[:1], labels_of(2), options={"class_weight": _W}, name="mean-of-one"),
        Example("loss", THREE, labels_of(2, 2, 0), options={"class_weight": _W, **SUM}, name="sum"),
        Example("loss", THREE, np.eye(3), options={"class_weight": _W}, name="soft-mean"),
        Example("gradient", np.zeros((2, 2)), labels_of(0, 1), [[-0.125, 0.125], [0.375, -0.375]],
                {"class_weight": np.array([1.0, 3.0])}, name="mean"),
        Example("gradient", np.zeros((2, 2)), np.eye(2), [[-0.25, 0.25], [0.75, -0.75]],
                {"class_weight": np.array([1.0, 3.0])}, name="soft-mean"),
        Example("loss", THREE, labels_of(0, 1, 2), options={"class_weight": _W, "ignore_index": 0}, name="ignored"),
        Example("loss", THREE, labels_of(0, 1, 2), options={"class_weight": np.array([1, 2, 3])}, name="integers"),
        Example("loss", THREE, labels_of(0, 0, 0), nan, _ABSURD, name="sum-0"),
        Example("gradient", THREE, labels_of(0, 2, 0), [[nan] * 3, [0.0] * 3, [nan] * 3],
                {**_ABSURD, "ignore_index": 2}, name="sum-0", signed=True),
        Example("loss", THREE, labels_of(0, 2, 0), nan, {**_ABSURD, "ignore_index": 2}, name="sum-0-ignored"),
        Example("log_loss", PROBS, labels_of(0, 1, 2), options={"class_weight": _W}, name="mean"),
        Example("log_loss", PROBS, np.eye(3), options={"class_weight": _W}, name="soft-mean"),
    )
    + tuple(
        Example(op, _ALL_BUT_CERTAIN, target, options=options, dtypes=("float64",), name=f"{size}{name}")
        for size, options in _HUGE.items()
        for op in ("loss", "gradient")
        for name, target in (("", labels_of(0, 1)), ("-soft", [[1.0, 0.0], [0.0, 1.0]]))
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
        Example("gradient", np.zeros((1, 2)), labels_of(0), [[-0.375, 0.375]], _EPS, name="index"),
        Example("gradient", np.zeros((1, 2)), [[1.0, 0.0]], [[-0.375, 0.375]], _EPS, name="soft"),
        Example("gradient", np.zeros((1, 4)), labels_of(1), [[0.0] * 4], {"label_smoothing": 1.0}, name="all"),
        Example("loss", THREE, labels_of(0, 1, 2), options=_EPS, name="index"),
        Example("loss", THREE, np.eye(3), options=_EPS, name="soft"),
        Example("loss", THREE, labels_of(0, 1, 2), options={"label_smoothing": 1.0, **NONE}, name="all"),
        Example("loss", THREE, np.eye(3), options={"label_smoothing": 1.0, **NONE}, name="soft-all"),
        Example("loss", THREE, labels_of(0, 1, 2), options={"class_weight": _W, **_EPS}, name="class-weight"),
        Example("loss", THREE, np.eye(3), options={"class_weight": _W, **_EPS}, name="soft-class-weight"),
        Example("loss", THREE, labels_of(0, 1, 2), options={"class_weight": _W, "ignore_index": 2, **_EPS},
                name="class-weight-ignored"),
        Example("loss", THREE, labels_of(0, 1, 2),
                options={"class_weight": _W, "sample_weight": _S, "ignore_index": 1, **_EPS}, name="everything"),
        Example("gradient", THREE, labels_of(0, 1, 2), options={"class_weight": _W, **_EPS}, name="class-weight"),
        Example("gradient", THREE, labels_of(0, 1, 2),
                options={"class_weight": _W, "sample_weight": _S, "ignore_index": 1, **_EPS}, name="everything"),
    )
    + tuple(
        Example(op, THREE, labels_of(0, 1, 2), Raises(error, (f"{eps!r}",)), {"label_smoothing": eps}, WIDE,
                f"is-{type(eps).__name__}" if error is TypeError else f"is-{eps!r}")
        for op in ("loss", "gradient")
        for eps, error in ((-0.125, ValueError), (1.5, ValueError), (nan, ValueError), (None, TypeError),
                           (True, TypeError), ("0.1", TypeError), (b"0.1", TypeError))
    )
    + (
        Example("loss", [[0.0, -inf]], labels_of(0), inf, {"label_smoothing": 5e-324}, name="tiny"),
    )
    + tuple(
        Example("loss", [[85.0, 0.0]], target, options={"label_smoothing": eps}, dtypes=WIDE, name=f"{form}{eps:g}")
        for form, target in (("", labels_of(0)), ("soft-", [[1.0, 0.0]]))
        for eps in (1e-9, 1e-17, 1e-32)
    ),
)  # fmt: skip

# -- reductions ----------------------------------------------------------------------------------------


def _many_rows(backend: BackendUnderTest, op: str, dtype: str, reduction: str) -> None:
    """Sums over many rows: an accumulator in the input dtype, or a mean of rounded losses, shows here."""
    n = {"compiled": 30000 if backend.profile != "quick" else 6000, "interpreted": 2000, "simulated": 10}[backend.cost]
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
            op, logits, labels_of(0, 1, 2), Raises(ValueError, (word,)), {"reduction": word}, ("float64",), f"is-{word}"
        )
        for op, logits in BY_LABEL
        for word in ("average", "None", "batchmean")
    )
    + (
        Example("loss", [[1.7e308, 0.0]] * 3, labels_of(1, 1, 1), dtypes=("float64",), name="mean-of-large"),
        Example("loss", [[1.7e308, 0.0]] * 3, labels_of(1, 1, 1), inf, SUM, dtypes=("float64",), name="sum-of-large"),
        Example("loss", [[0.0, 0.0]] * 4, labels_of(0, 1, 0, 1), name="mean"),
        Example("loss", [[0.0, 0.0]] * 4, labels_of(0, 1, 0, 1), options=SUM, name="sum"),
        Example("loss", [[0.0, 0.0]] * 4, labels_of(0, 1, 0, 1), options=NONE, name="none"),
        Example("gradient", [[0.0, 0.0]] * 2, labels_of(0, 1), [[-0.25, 0.25], [0.25, -0.25]], name="mean"),
        Example("gradient", [[0.0, 0.0]] * 2, labels_of(0, 1), [[-0.5, 0.5], [0.5, -0.5]], SUM, name="sum"),
        Example("gradient", [[0.0, 0.0]] * 2, labels_of(0, 1), [[-0.5, 0.5], [0.5, -0.5]], NONE, name="none"),
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

REQUIREMENTS = (SAMPLE_WEIGHT, WEIGHT_ZERO, CLASS_WEIGHT, SMOOTHING, REDUCTIONS)
