"""The contract: labels."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

from softbench.conformance.backend_under_test import BackendUnderTest
from softbench.conformance.batch import batch
from softbench.conformance.case import NONE, SUM, WIDE, Example, Raises, Requirement, check, labels_of, must_raise
from softbench.conformance.failures import NotRefused, call_text, mismatch
from softbench.conformance.layouts import LAYOUTS

__all__ = ["BY_LABEL", "PROBS", "REQUIREMENTS", "THREE"]

nan = math.nan
_LOOSE: Final = {"validate": False}
THREE: Final = [[0.0, 1.0, 2.0], [3.0, 1.0, 0.5], [0.25, 0.0, -1.0]]
PROBS: Final = [[0.25, 0.25, 0.5]] * 3
BY_LABEL: Final = (("loss", THREE), ("gradient", THREE), ("log_loss", PROBS))

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


def _widths(backend: BackendUnderTest, dtype: str, op: str) -> list[int]:
    """Numbers of classes of which the largest label, or their number, is about the largest of an integer type."""
    tops = [127, 255, 65_535] if dtype == "int64" else [int(np.iinfo(dtype).max)]
    most = 70_000 if op == "loss" and backend.profile != "quick" else 300
    around = [top + d for top in tops for d in (0, 1, 2) if top + d <= most]
    return backend.ks(*around, 300) or [backend.max_k]


def _any_width(backend: BackendUnderTest, dtype: str, op: str) -> None:
    """Labels of every integer type mean the same, also beside an ignore_index that the type cannot name."""
    few = labels_of(0, 2, 1)
    logits = np.array(PROBS if op == "log_loss" else THREE)
    result = backend.call(op, logits, few.astype(dtype))
    mismatch(result, backend.call(op, logits, few), f"{op} with {dtype} labels", than=" (int64)")
    whole = {} if op == "gradient" else NONE
    for k in _widths(backend, dtype, op):
        top = min(int(np.iinfo(dtype).max), k - 1)
        labels = np.array([top, 44 % k, top // 2, 0, max(0, top - 1), max(0, 255 - 99) % (top + 1)])
        rows = batch(len(labels), k, "float64")
        logits = rows.p if op == "log_loss" else rows.x
        due = backend.call(op, logits, labels, **whole)
        backend.judge(op, due, logits, labels, made=f"float64[{len(labels)},{k}]", **whole)
        for ignored in (None, -100, 256 + top, 300 if k <= 300 else k, 2**32 + 44):
            result = backend.call(op, logits, labels.astype(dtype), ignore_index=ignored, **whole)
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

REQUIREMENTS = (LABELS, LABEL_DTYPES, LABEL_SHAPES)
