"""The contract: what comes of special values in logits and probabilities."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

from softbench.conformance.backend_under_test import BackendUnderTest
from softbench.conformance.batch import VIEWS, Batch, View, batch
from softbench.conformance.case import FLOATS, NONE, SUM, WIDE, Example, Raises, Requirement, check, labels_of
from softbench.conformance.failures import Failure, NotApplicable, mismatch
from softbench.interface.dtypes import formats, numpy_dtype

__all__ = ["REQUIREMENTS"]

inf, nan = math.inf, math.nan
_LOOSE: Final = {"validate": False}


def _zeros(*shape: int) -> Any:
    return np.zeros(shape)


def _pairs(k: int, n_dirty: int, dtype: str) -> tuple[Batch, Any, Any]:
    """A clean batch in which row ``2 j + 1`` is to be spoilt at class ``j``; the spoilt rows and classes."""
    clean = batch(2 * n_dirty, k, dtype)
    return clean, 2 * np.arange(n_dirty) + 1, np.arange(n_dirty)


def _spoil_sizes(backend: BackendUnderTest) -> list[int]:
    if backend.cost == "compiled" and backend.profile == "quick":
        return [3, 40, 67]
    return {"compiled": [3, 40, 1030], "interpreted": [3, 40], "simulated": [3, 5]}[backend.cost]


def _nan_everywhere(backend: BackendUnderTest, view: View, dtype: str) -> None:
    """A NaN at every class in turn: its row is NaN, the rows between them do not change by a bit."""
    for k in _spoil_sizes(backend):
        clean, rows, classes = _pairs(k, k, dtype)
        x = clean.x.copy()
        x[rows, classes] = nan
        spoilt = Batch(x, clean.p, np.maximum(clean.labels, 0), clean.q, clean.s, clean.w)
        clean = Batch(clean.x, clean.p, spoilt.labels, clean.q, clean.s, clean.w)
        before, after = view.run(backend, clean), view.run(backend, spoilt)
        said = f"{view.name} of {dtype} rows of {k} classes, where row 2j+1 has NaN at class j:"
        if view.op == "argmax":
            mismatch(after[rows], classes.astype(np.int64), f"{said} result of row 1, 3, ...")
        elif not np.isnan(after[rows]).all():
            bad = np.argwhere(~np.isnan(after[rows]))[0]
            raise Failure(f"{said} row {2 * bad[0] + 1} is not NaN" + (f" at class {bad[1]}" if len(bad) > 1 else ""))
        mismatch(after[::2], before[::2], f"{said} clean rows 0, 2, ...", than=" as without NaN in other rows")


def _as_if_absent(backend: BackendUnderTest, view: View, dtype: str) -> None:
    """A -inf at every class in turn gives what the row without that class gives."""
    for k in _spoil_sizes(backend):
        clean, _, classes = _pairs(k, k, dtype)
        rows = classes
        x = clean.x[:k].copy()
        x[rows, classes] = -inf
        labels = (classes + 1) % k
        result = backend.call(view.op, x, *([labels] if view.target else []), **({**NONE} if view.target else {}))
        if view.maps:
            due = {"softmax": 0.0, "gradient": 0.0, "log_softmax": -inf}[view.op]
            here = result[rows, classes]
            mismatch(here, np.full(k, due).astype(here.dtype), f"{view.name} at -inf, K={k},", signed=True)
        backend.judge(
            view.op,
            result,
            x,
            *([labels] if view.target else []),
            made=f"N(0,3) logits {dtype}[{k},{k}], -inf at class j of row j",
            **(NONE if view.target else {}),
        )


_ABSENT_REST: Final = [[-inf, 1.0, 2.0, 3.5, -inf]]

ABSENT = Requirement(
    "absent-classes",
    "some -inf logits",
    "p = +0, log p = -inf, the rest as if absent; label there: loss +inf, gradient -1 at the label",
    (
        Example("softmax", [[0.0, -inf, 0.0]]),
        Example("softmax", [[-inf, 3.0, -inf]], expect=[[0.0, 1.0, 0.0]], name="one-left", signed=True),
        Example("softmax", _ABSENT_REST, name="rest"),
        Example("log_softmax", [[-inf, 3.0, -inf]], expect=[[-inf, 0.0, -inf]], name="one-left", signed=True),
        Example("log_softmax", _ABSENT_REST, name="rest"),
        Example("logsumexp", [[-inf, 3.0, -inf]], expect=[3.0], name="one-left"),
        Example("logsumexp", _ABSENT_REST, name="rest"),
        Example("argmax", [[-inf, -inf, -1.0, -inf]], expect=[2]),
        Example("loss", [[0.0, -inf, 0.0]], labels_of(1), [inf], NONE, name="label-there"),
        Example("loss", [[0.0, -inf, 0.0]], labels_of(1), inf, SUM, name="label-there-sum"),
        Example("loss", [[0.0, -inf, 0.0], [0.0, 0.0, 0.0]], labels_of(1, 1), inf, name="label-there-mean"),
        Example("loss", [[-inf, 3.0]], labels_of(1), [0.0], NONE, name="one-left", signed=True),
        Example("loss", _ABSENT_REST, labels_of(2), options=NONE, name="rest"),
        Example("loss", [[0.0, -inf]], labels_of(0), [inf], {"label_smoothing": 0.5, **NONE}, name="smoothed"),
        Example("gradient", [[0.0, -inf, 0.0]], labels_of(1), [[0.5, -1.0, 0.5]], name="label-there"),
        Example("gradient", [[0.0, -inf, 0.0]], labels_of(0), [[-0.5, 0.0, 0.5]], name="label-elsewhere", signed=True),
        Example("gradient", [[0.0, -inf]], labels_of(0), [[0.25, -0.25]], {"label_smoothing": 0.5}, name="smoothed"),
        Example("gradient", _ABSENT_REST, labels_of(2), name="rest"),
    ),
    check(
        "absent-classes",
        _as_if_absent,
        name="every-index",
        view=[v for v in VIEWS if v.name in ("softmax", "log_softmax", "logsumexp", "loss", "gradient")],
        dtype=WIDE,
    ),
)

ALL_ABSENT = Requirement(
    "all-absent",
    "all -inf row",
    "logsumexp -inf; softmax, log_softmax, loss, gradient of that row NaN; argmax 0",
    (
        Example("logsumexp", [[-inf, -inf], [0.0, -inf]], expect=[-inf, 0.0]),
        Example("softmax", [[-inf, -inf], [0.0, -inf]], expect=[[nan, nan], [1.0, 0.0]]),
        Example("log_softmax", [[-inf, -inf], [0.0, -inf]], expect=[[nan, nan], [0.0, -inf]]),
        Example("loss", [[-inf, -inf], [0.0, -inf]], labels_of(0, 0), [nan, 0.0], NONE),
        Example("loss", [[-inf, -inf]], [[0.5, 0.5]], [nan], NONE, name="soft"),
        Example("loss", [[-inf, -inf]], labels_of(0), [nan], {"label_smoothing": 0.5, **NONE}, name="smoothed"),
        Example("gradient", [[-inf, -inf]], labels_of(0), [[nan, nan]]),
        Example("gradient", [[-inf, -inf]], [[0.5, 0.5]], [[nan, nan]], name="soft"),
        Example("argmax", [[-inf, -inf, -inf]], expect=[0]),
        Example("softmax", [[-inf]], expect=[[nan]], name="one-class"),
        Example("gradient", [[-inf]], labels_of(0), [[nan]], name="one-class"),
    ),
)

PLUS_INFINITY = Requirement(
    "plus-infinity",
    "one or several +inf",
    "logsumexp +inf; the whole softmax/log_softmax row, its loss and gradient NaN",
    (
        Example("logsumexp", [[0.0, inf, 1.0], [inf, inf, -inf]], expect=[inf, inf]),
        Example("softmax", [[0.0, inf, 1.0], [inf, inf, -inf]], expect=[[nan] * 3] * 2),
        Example("log_softmax", [[0.0, inf, 1.0], [inf, inf, -inf]], expect=[[nan] * 3] * 2),
        Example("loss", [[0.0, inf, 1.0], [inf, 0.0, 0.0]], labels_of(0, 0), [nan, nan], NONE),
        Example("loss", [[0.0, inf]], [[1.0, 0.0]], [nan], NONE, name="soft"),
        Example("gradient", [[0.0, inf, 1.0], [inf, inf, -inf]], labels_of(0, 0), [[nan] * 3] * 2),
        Example("gradient", [[0.0, inf]], [[1.0, 0.0]], [[nan] * 2], name="soft"),
        Example("argmax", [[0.0, inf, inf]], expect=[1]),
        Example("softmax", [[inf]], expect=[[nan]], name="one-class"),
    ),
)


NAN_ROW = Requirement(
    "nan-row",
    "NaN anywhere in a row",
    "that whole row NaN, logsumexp NaN; every other row bit-for-bit unchanged; argmax = first NaN. At every position",
    (
        Example("softmax", [[nan, 0.0], [0.0, 0.0]]),
        Example("softmax", [[0.0, inf, nan]], expect=[[nan] * 3], name="with-infinity"),
        Example("softmax", [[-inf, nan, -inf]], expect=[[nan] * 3], name="among-absent"),
        Example("logsumexp", [[inf, nan], [nan, -inf], [nan, inf]], expect=[nan] * 3),
        Example("argmax", [[0.0, nan, inf, nan], [nan, 5.0, nan, 9.0]], expect=[1, 0], name="first-nan"),
        Example(
            "argmax", [[0.0, -nan, nan], [inf, nan, -nan], [-nan, inf, nan]], expect=[1, 1, 0], name="nan-of-any-sign"
        ),
        *(
            Example(op, [[0.0, -nan, 1.0], [-nan, -inf, inf], [-inf, nan, -nan]], expect=due, name="nan-of-any-sign")
            for op, due in (("logsumexp", [nan] * 3), ("softmax", [[nan] * 3] * 3), ("log_softmax", [[nan] * 3] * 3))
        ),
        Example("loss", [[0.0, -nan], [-nan, 0.0]], labels_of(0, 0), [nan, nan], NONE, name="nan-of-any-sign"),
        Example("gradient", [[0.0, -nan], [-nan, 0.0]], labels_of(0, 0), [[nan] * 2] * 2, name="nan-of-any-sign"),
        Example("loss", [[nan, 0.0], [0.0, nan]], labels_of(0, 0), [nan, nan], NONE),
        Example("gradient", [[nan, 0.0], [0.0, nan]], labels_of(0, 0), [[nan] * 2] * 2),
        Example(
            "loss",
            [[nan, 0.0], [0.0, 0.0]],
            labels_of(0, 1),
            nan,
            {"sample_weight": np.array([0.0, 1.0])},
            name="weight-0-does-not-hide-it",
        ),
        Example("log_loss", [[nan, 0.5]], labels_of(0), [nan], {"validate": False, **NONE}),
    ),
    check(
        "nan-row",
        _nan_everywhere,
        name="every-index",
        view=[v for v in VIEWS if v.op != "log_loss" and not v.weighted],
        dtype=FLOATS,
    ),
)


def _huge(dtype: str) -> Any:
    """A row whose shift overflows (in float16 only if it is not done in float32)."""
    top = {"float16": 65504.0, "bfloat16": 3.0e38, "float32": 3.0e38, "float64": 1e308}[dtype]
    return np.array([[top, -top]])


SHIFT_OVERFLOW = Requirement(
    "shift-overflow",
    "+-1e308, shift overflows",
    "softmax [1,0], log [0,-inf]; no warning leaks; float16 +-65504: shift in float32; a float64 loss that a weight "
    "brings back into range may be inf",
    (
        Example("softmax", _huge, expect=[[1.0, 0.0]]),
        Example("log_softmax", _huge, expect=[[0.0, -inf]]),
        Example("loss", _huge, labels_of(0), [0.0], NONE, name="at-the-maximum"),
        Example("loss", _huge, labels_of(1), [inf], NONE, name="at-the-minimum"),
        Example("gradient", _huge, labels_of(0), [[0.0, 0.0]], name="at-the-maximum"),
        Example("gradient", _huge, labels_of(1), [[1.0, -1.0]], name="at-the-minimum"),
        Example("gradient", _huge, [[1.0, 0.0]], [[0.0, 0.0]], name="soft"),
        Example("argmax", _huge, expect=[0]),
        Example("logsumexp", _huge),
    ),
)


def _subnormal(backend: BackendUnderTest, op: str, dtype: str) -> None:
    """Probabilities below the smallest normal number, to one spacing (or 0 where the backend declares to flush)."""
    from softbench.accuracy import oracle

    spec = formats[dtype]
    low, high = math.log(spec.tiny) - 1.0, math.log(2.0) * spec.emin - 0.05
    n = backend.rows_of(2, 400)
    x = np.zeros((n, 2), numpy_dtype(dtype))
    x[:, 1] = np.linspace(low, high, n).astype(x.dtype)
    labels = np.zeros(n, np.int64)  # the label's gradient is minus the other probability
    result = backend.call("softmax", x) if op == "softmax" else backend.call("gradient", x, labels, reduction="sum")
    truth = oracle.softmax(x)
    expected = truth.hi[:, 1] if op == "softmax" else -truth.hi[:, 1]
    got = result[:, 1 if op == "softmax" else 0].astype(np.float64)
    error = np.abs(got - expected) / spec.tiny
    if backend.flushes_subnormals:
        error = np.where((got == 0) & (np.abs(expected) < math.ldexp(1.0, spec.emin)), 0.0, error)
    if not (error <= backend.loosened(1.0, op, dtype)).all():
        i = int(np.nanargmax(error)) if not np.isnan(error).all() else 0
        raise Failure(
            f"{op} of {x[i].tolist()!r}:{dtype} is {got[i]!r}, expected {expected[i]!r}: "
            f"{error[i]:.3g} subnormal spacings away, more than 1"
        )


def _subnormal_sum(backend: BackendUnderTest, op: str, dtype: str) -> None:
    """All classes but one are subnormal: what is left for that one is their sum, to which each must give its digits."""
    spec = formats[dtype]
    lowest = math.log(spec.tiny)
    options = NONE if op == "loss" else {"reduction": "sum"} if op == "gradient" else {}
    for k in backend.ks(3, 40, 1000):
        rng = np.random.default_rng(k)
        x = rng.uniform(lowest - 0.5, lowest + 6.0, (3, k))
        top = rng.integers(0, k, 3)
        x[np.arange(3), top] = 0.0
        logits = x.astype(numpy_dtype(dtype))
        target = () if op == "log_softmax" else (top,)
        result = backend.call(op, logits, *target, **options)
        made = f"0 and U({lowest - 0.5:.4g},{lowest + 6:.4g}) {dtype}[3,{k}]"
        backend.judge(op, result, logits, *target, made=made, **options)


SUBNORMAL = Requirement(
    "subnormal",
    "subnormal probabilities",
    "within one subnormal spacing (a backend that flushes to zero must declare it)",
    checks=check("subnormal", _subnormal, name="range", op=("softmax", "gradient"), dtype=FLOATS)
    + check("subnormal", _subnormal_sum, name="sum", op=("log_softmax", "loss", "gradient"), dtype=WIDE),
)


def _long_uniform(backend: BackendUnderTest, op: str, dtype: str, k: int) -> None:
    """Equal logits: every probability is 1/K rounded, which an accumulator in half precision cannot reach."""
    x = np.zeros((1, k), numpy_dtype(dtype))
    target = [np.zeros(1, np.int64)] if op in ("loss", "gradient") else []
    options = NONE if op == "loss" else {}
    result = backend.call(op, x, *target, **options)
    backend.judge(op, result, x, *target, made=f"zeros((1, {k}), {dtype})", **options)


WIDE_ACCUMULATOR = Requirement(
    "wide-accumulator",
    "large K, half precision",
    "wide accumulator: softmax(zeros(70000, float16)) is 1/70000 rounded, not 0",
    checks=check(
        "wide-accumulator",
        _long_uniform,
        name="uniform",
        max_k=70000,
        op=("softmax", "log_softmax", "logsumexp", "loss", "gradient"),
        dtype=("float16", "bfloat16"),
        k=(70000,),
    )
    + check(
        "wide-accumulator",
        _long_uniform,
        name="uniform",
        max_k=300,
        op=("softmax", "logsumexp"),
        dtype=("float16", "bfloat16"),
        k=(300,),
    ),
)


def _subnormal_logits(backend: BackendUnderTest, dtype: str) -> None:
    """Logits below the smallest normal number are not 0 (unless the backend declares to flush)."""
    if backend.flushes_subnormals:
        raise NotApplicable("declares that it flushes subnormal numbers to 0")
    tiny = formats[dtype].tiny
    x = np.array([[0.0, tiny], [-tiny, 0.0], [tiny, 2 * tiny]]).astype(numpy_dtype(dtype))
    mismatch(backend.call("argmax", x), np.array([1, 1, 1]), f"argmax of {x.tolist()!r}:{dtype}")


ARGMAX_TIES = Requirement(
    "argmax-ties",
    "argmax ties",
    "lowest index, from the logits (not from probabilities: [0, 1e-17] ties there); -0 == +0",
    (
        Example("argmax", [[1.0, 3.0, 3.0, 2.0], [5.0, 5.0, 5.0, 5.0], [0.0, 1.0, 2.0, 2.0]], expect=[1, 0, 2]),
        Example("argmax", [[0.0, 1e-17]], expect=[1], dtypes=("float32", "float64", "bfloat16"), name="near-tie"),
        Example("argmax", [[1.0, 1.0 + 2.0**-52]], expect=[1], dtypes=("float64",), name="one-ulp"),
        Example("argmax", [[16777216.0, 16777217.0]], expect=[1], dtypes=("float64",), name="beyond-float32"),
        Example("argmax", [[-0.0, 0.0], [0.0, -0.0]], expect=[0, 0], name="zeros"),
        Example("argmax", [[-5.0, -2.0, -3.0]], expect=[1], name="negative"),
        Example("argmax", [[1000.0, 2000.0]], expect=[1], name="saturated"),
    ),
    check("argmax-ties", _subnormal_logits, dtype=FLOATS),
)


def _tie_everywhere(backend: BackendUnderTest, dtype: str) -> None:
    """The maximum at every class in turn, and again at every later eighth class."""
    k = {"compiled": 600, "interpreted": 60, "simulated": 20}[backend.cost]
    x = batch(k, k, dtype).x.copy()
    for j in range(k):
        x[j, j::8] = 60.0
    mismatch(
        backend.call("argmax", x), np.arange(k), f"argmax of {dtype} rows of {k}, maximum at j, j+8, ... in row j:"
    )


MAXIMUM_ANYWHERE = Requirement(
    "argmax-position",
    "the maximum at any index",
    "argmax finds the first one, wherever it is",
    checks=check("argmax-position", _tie_everywhere, name="every-index", dtype=FLOATS),
)

LOG_LOSS = Requirement(
    "log-loss",
    "log_loss",
    "p_y = 0 gives +inf; 0 log 0 = 0; no clipping; `validate` rejects p < 0, p > 1 and NaN but not sums other than 1; "
    "-log p within 2 ulp of the given p",
    (
        Example("log_loss", [[0.0, 1.0]], labels_of(0), [inf], NONE, name="zero"),
        Example("log_loss", [[0.0, 1.0]], labels_of(0), inf, name="zero-mean"),
        Example("log_loss", [[0.0, 1.0]], [[0.0, 1.0]], [0.0], NONE, name="zero-log-zero"),
        Example("log_loss", [[0.0, 1.0]], [[0.5, 0.5]], [inf], NONE, name="soft-zero"),
        Example("log_loss", [[1.0, 0.0]], labels_of(0), [0.0], NONE, name="one", signed=True),
        Example("log_loss", [[0.25, 0.25], [1.0, 1.0]], labels_of(0, 1), options=NONE, name="any-sum"),
        Example("log_loss", [[1e-7, 0.9], [6e-8, 0.5]], labels_of(0, 0), options=NONE, name="no-clipping"),
        Example("log_loss", [[1e-300, 0.9]], labels_of(0), options=NONE, dtypes=("float64",), name="no-clipping-tiny"),
        *(
            Example("log_loss", [[p, 0.9]], target, options=NONE, dtypes=(dtype,), name=f"{form}subnormal")
            for form, target in (("", labels_of(0)), ("soft-", [[1.0, 0.0]]))
            for p, dtype in ((5e-324, "float64"), (1e-45, "float32"))
        ),
        Example("log_loss", [[1.0 - 2.0**-11, 0.5]], labels_of(0), options=NONE, dtypes=WIDE, name="near-one"),
        Example("log_loss", [[0.5, -0.125]], labels_of(0), Raises(ValueError, ("-0.125",)), name="negative"),
        Example("log_loss", [[0.5, 1.5]], labels_of(0), Raises(ValueError, ("1.5",)), name="above-one"),
        Example("log_loss", [[0.5, nan]], labels_of(0), Raises(ValueError, ("nan",)), name="nan"),
        Example("log_loss", [[0.5, 0.25, 0.25]], [[0.25, 0.25, 0.5]], options=NONE, name="soft"),
        Example(
            "log_loss",
            [[0.5, 0.5], [0.25, 0.75], [0.125, 0.875]],
            labels_of(0, 9, 1),
            options={"ignore_index": 9, "class_weight": np.array([0.5, 3.0]), "sample_weight": np.array([1.0, 5, 2])},
            name="weights",
        ),
        Example(
            "log_loss",
            [[nan, 0.5]],
            labels_of(7),
            [0.0],
            {"ignore_index": 7, "validate": False, **NONE},
            name="ignored",
        ),
    ),
)

REQUIREMENTS = (
    ABSENT,
    ALL_ABSENT,
    PLUS_INFINITY,
    NAN_ROW,
    SHIFT_OVERFLOW,
    SUBNORMAL,
    WIDE_ACCUMULATOR,
    ARGMAX_TIES,
    MAXIMUM_ANYWHERE,
    LOG_LOSS,
)
