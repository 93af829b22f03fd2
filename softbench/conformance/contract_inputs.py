"""The contract: dtypes, and kinds of arrays that are none of NumPy's floats."""

from __future__ import annotations

import decimal
import importlib
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from softbench.conformance.backend_under_test import BackendUnderTest
from softbench.conformance.batch import OPS, VIEWS, View, batch, provided
from softbench.conformance.case import FLOATS, NONE, WIDE, Raises, Requirement, check, is_installed, must_raise
from softbench.conformance.failures import Failure, NotApplicable, NotRefused, mismatch
from softbench.conformance.layouts import LAYOUTS
from softbench.errors import NotProvidedError

__all__ = ["REQUIREMENTS"]

_INTEGERS: Final = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")

# -- dtypes --------------------------------------------------------------------------------------------


def _integers(backend: BackendUnderTest, dtype: str) -> None:
    """Integers count as float64."""
    x = np.array([[1, 5, 100], [7, 0, 3]], dtype)
    wide = x.astype(np.float64)
    labels = np.array([0, 2])
    ops = backend.provided("softmax", "log_softmax", "logsumexp", "argmax", "loss", "gradient")
    for op in (op for op in ops if op not in ("loss", "gradient")):
        mismatch(backend.call(op, x), backend.call(op, wide), f"{op} of {dtype} logits", than=" (float64)")
    for op in (op for op in ops if op in ("loss", "gradient")):
        said = f"{op} of {dtype} logits"
        mismatch(backend.call(op, x, labels, **NONE), backend.call(op, wide, labels, **NONE), said, than=" (float64)")


def _integer_layouts(backend: BackendUnderTest, dtype: str) -> None:
    """Integers of either sign in any layout are those of a contiguous array."""
    narrow = np.iinfo(dtype)
    x = np.array([[narrow.min // 2, 5, 100, 3], [7, 0, 3, 1], [1, narrow.max // 2, 2, 90]], dtype)
    labels = np.array([0, 2, 1])
    for name, lay in LAYOUTS.items():
        there = lay(x)
        here = np.array(there, dtype, order="C")
        for op in backend.provided("softmax", "log_softmax", "logsumexp", "argmax", "loss", "gradient"):
            arguments: tuple[Any, ...] = (labels,) if op in ("loss", "gradient") else ()
            options = NONE if arguments else {}
            due = backend.call(op, here, *arguments, **options)
            mismatch(backend.call(op, there, *arguments, **options), due, f"{op} of {name} {dtype} logits")


def _form(backend: BackendUnderTest, view: View, dtype: str) -> None:
    """Results have the logits' dtype; argmax int64; sums and means float64."""
    rows = batch(4, 5, dtype)
    due = "int64" if view.op == "argmax" else dtype
    result = view.run(backend, rows)
    if result.dtype.name != due:
        raise Failure(f"{view.name} of {dtype} has dtype {result.dtype.name}, expected {due}")
    if backend.host:
        logits, target, options = view.arguments(rows)
        kind = type(getattr(backend.be, view.op)(logits, *([] if target is None else [target]), **options))
        if kind is not np.ndarray:
            raise Failure(f"{view.name} of {dtype} is a {kind.__module__}.{kind.__qualname__}, expected numpy.ndarray")
    if view.op in ("loss", "log_loss"):
        logits, target, options = view.arguments(rows)
        for reduction in ("sum", "mean"):
            total = backend.call(view.op, logits, target, **{**options, "reduction": reduction})
            if total.dtype.name != "float64" or total.shape != ():
                raise Failure(
                    f"{view.name} of {dtype}, reduction={reduction!r}, is {total.dtype.name} of shape {total.shape}, "
                    f"expected a float64 scalar"
                )


def _longdouble(backend: BackendUnderTest, op: str) -> None:
    if np.finfo(np.longdouble).nmant <= 52:
        raise NotApplicable("longdouble is float64 here")
    x = np.zeros((2, 3), np.longdouble)
    _refused(backend, op, x, ("longdouble", "float128", "float96"))


def _refused(backend: BackendUnderTest, op: str, logits: Any, words: tuple[str, ...]) -> None:
    """TypeError that says one of ``words``."""
    target = np.array([0, 0]) if op in ("loss", "gradient", "log_loss") else None
    said = f"{op} of {type(logits).__name__}" + (f" {logits.dtype}" if hasattr(logits, "dtype") else "")
    try:
        result = backend.call(op, logits, target)
    except TypeError as error:
        if not any(word.lower() in str(error).lower() for word in words):
            raise NotRefused(f"{said} raises TypeError({str(error)!r}), which does not name {words[0]}") from None
        return
    except (NotApplicable, NotProvidedError):
        raise
    except Exception as error:
        raise NotRefused(f"{said} raises {error!r}, expected TypeError") from error
    raise NotRefused(f"{said} returns {result.dtype.name} {result!r}, expected TypeError")


def _refused_kind(backend: BackendUnderTest, kind: str, op: str) -> None:
    make, words = _KINDS[kind]
    _refused(backend, op, make(), words)


def _sparse() -> Any:
    if not is_installed("scipy"):
        raise NotApplicable("scipy is not installed")
    import scipy.sparse

    return scipy.sparse.csr_array(np.eye(2))


def _structured() -> Any:
    return np.zeros((2, 2), [("a", "f8")])


_KINDS: Final[dict[str, tuple[Callable[[], Any], tuple[str, ...]]]] = {
    "bool": (lambda: np.zeros((2, 2), bool), ("bool",)),
    "complex64": (lambda: np.zeros((2, 2), np.complex64), ("complex64",)),
    "complex128": (lambda: np.zeros((2, 2), np.complex128), ("complex128",)),
    "object": (lambda: np.array([[decimal.Decimal(1), 2], [3, 4]], object), ("object",)),
    "str": (lambda: np.array([["1", "2"], ["3", "4"]]), ("str",)),
    "bytes": (lambda: np.array([[b"1", b"2"], [b"3", b"4"]]), ("bytes",)),
    "datetime": (lambda: np.zeros((2, 2), "datetime64[s]"), ("datetime",)),
    "timedelta": (lambda: np.zeros((2, 2), "timedelta64[s]"), ("timedelta",)),
    "structured": (_structured, ("void",)),
    "masked": (lambda: np.ma.masked_array(np.zeros((2, 2)), mask=np.eye(2, dtype=bool)), ("mask",)),
    "masked-list": (lambda: [np.ma.masked_array([0.0, 1.0], mask=[True, False]), np.zeros(2)], ("mask",)),
    "masked-without-mask": (lambda: np.ma.masked_array(np.zeros((2, 2))), ("mask",)),
    "sparse": (_sparse, ("sparse", "csr")),
    "None": (lambda: None, ("None", "object")),
    "ragged": (lambda: [[0.0, 1.0], [0.0]], ("list",)),
    "dict": (lambda: {"a": 1.0}, ("dict", "object")),
}

DTYPES = Requirement(
    "dtypes",
    "dtypes of logits",
    "bool logits TypeError; integers -> float64; float16/bfloat16 in, same dtype out; longdouble: TypeError on every "
    "built-in backend (never a silent downcast)",
    checks=check("dtypes", _integers, dtype=_INTEGERS)
    + check("dtypes", _integer_layouts, needs=("host",), profile="standard", dtype=_INTEGERS)
    + check("dtypes", _form, name="result", view=VIEWS, dtype=FLOATS)
    + check("dtypes", _refused_kind, name="refused", kind=("bool",), op=OPS)
    + check("dtypes", _longdouble, needs=("host",), op=OPS),
)

KINDS = Requirement(
    "kinds",
    "complex, object, str, scipy.sparse, masked arrays",
    "TypeError naming the type",
    checks=check("kinds", _refused_kind, name="refused", kind=[k for k in _KINDS if k.startswith("complex")], op=OPS)
    + check(
        "kinds",
        _refused_kind,
        name="refused",
        needs=("host",),
        kind=[k for k in _KINDS if k != "bool" and not k.startswith("complex")],
        op=("softmax", "loss"),
    ),
)


# -- other kinds of arrays -----------------------------------------------------------------------------


def _big_endian(backend: BackendUnderTest, view: View, dtype: str) -> None:
    rows = batch(4, 9, dtype)
    swapped = rows.mapped(lambda a: a.astype(a.dtype.newbyteorder()))
    result = view.run(backend, swapped)
    if not result.dtype.isnative:
        raise Failure(f"{view.name} of byte-swapped {dtype} arrays is not native")
    mismatch(result, view.run(backend, rows), f"{view.name} of byte-swapped {dtype} arrays", than=" (native)")


BIG_ENDIAN = Requirement(
    "big-endian",
    "big-endian",
    "accepted, native output",
    checks=check(
        "big-endian",
        _big_endian,
        name="same",
        needs=("host",),
        view=[v for v in VIEWS if v.name in ("argmax", "softmax", "weighted-loss", "soft-gradient")],
        dtype=("float16", *WIDE),
    ),
)


def _pandas(backend: BackendUnderTest) -> None:
    pd = importlib.import_module("pandas")

    rows = batch(5, 4, "float64")
    frame = pd.DataFrame(rows.x, index=list("edcba"), columns=list("zxyw"))
    labels = pd.Series(rows.known, index=list("cadbe"))
    weight = pd.Series(rows.s, index=list("bcdea"))
    result = backend.be.softmax(frame)
    if type(result) is not np.ndarray:
        raise Failure(f"softmax of a DataFrame is a {type(result).__name__}, expected ndarray")
    mismatch(result, backend.call("softmax", rows.x), "softmax of a DataFrame", than=" (its values)")
    got = backend.be.loss(frame, labels, sample_weight=weight, **NONE)
    due = backend.call("loss", rows.x, rows.known, sample_weight=rows.s, **NONE)
    mismatch(got, due, "loss of a DataFrame, Series of labels and weights in other index orders", than=" (by position)")


def _lists(backend: BackendUnderTest) -> None:
    rows = batch(3, 4, "float64")
    for view in provided(backend):
        logits, target, options = view.arguments(rows)
        targets = [] if target is None else [tuple(target.tolist())]
        listed = {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in options.items()}
        got = getattr(backend.be, view.op)(logits.tolist(), *targets, **listed)
        mismatch(got, view.run(backend, rows), f"{view.name} of lists", than=" (arrays)")
    mismatch(backend.be.softmax([0, 0]), np.asarray(backend.be.softmax(np.zeros(2))), "softmax([0, 0])")


def _nullable(backend: BackendUnderTest) -> None:
    """Columns with pandas' own missing value count as the numbers they hold."""
    pd = importlib.import_module("pandas")
    rows = batch(5, 4, "float64")
    frame = pd.DataFrame(rows.x).astype("Float64")
    mismatch(
        backend.be.softmax(frame), backend.call("softmax", rows.x), "softmax of Float64 columns", than=" (float64)"
    )
    got = backend.be.loss(
        frame, pd.Series(rows.known, dtype="Int64"), sample_weight=pd.array(rows.s, "Float64"), **NONE
    )
    due = backend.call("loss", rows.x, rows.known, sample_weight=rows.s, **NONE)
    mismatch(got, due, "loss of Float64 columns, Int64 labels and Float64 weights", than=" (their numbers)")


def _missing(backend: BackendUnderTest) -> None:
    """A missing value is no number."""
    pd = importlib.import_module("pandas")
    rows = batch(5, 4, "float64")
    frame = pd.DataFrame(rows.x).astype("Float64")
    frame.iloc[2, 1] = pd.NA
    weights = pd.array([1.0, None, 1.0, 1.0, 1.0], "Float64")
    calls: dict[str, Callable[[], Any]] = {
        "logits": lambda: backend.be.softmax(frame),
        "sample_weight": lambda: backend.be.loss(rows.x, rows.known, sample_weight=weights),
    }
    for argument, call in calls.items():
        try:
            result = call()
        except ValueError as error:
            if argument not in str(error) or "missing" not in str(error):
                raise Failure(f"{argument} with a missing value: {error} (does not say so)") from None
            continue
        except Exception as error:
            raise Failure(f"{argument} with a missing value raises {error!r}, expected ValueError") from error
        raise Failure(f"{argument} with a missing value is accepted: {result!r}")


OTHER_ARRAYS = Requirement(
    "pandas",
    "pandas objects, lists",
    "by position, as ndarray; nullable and Arrow columns where pandas converts without loss, missing values: "
    "ValueError that says so",
    checks=check("pandas", _pandas, name="by-position", needs=("host", "pandas"))
    + check("pandas", _lists, name="lists", needs=("host",))
    + check("pandas", _nullable, needs=("host", "pandas"))
    + check("pandas", _missing, needs=("host", "pandas")),
)


def _elsewhere(backend: BackendUnderTest) -> None:
    """A host array is refused by a device backend, with the name of what converts it."""
    if backend.kind != "gpu":
        raise NotApplicable("computes in host memory")
    must_raise(
        BackendUnderTest(_Direct(backend.be)),
        Raises(TypeError, ("asarray",)),
        "softmax",
        np.zeros((2, 3), np.float32),
        None,
        {},
    )


class _Direct:
    """A backend whose arguments are passed on as they are."""

    def __init__(self, be: Any) -> None:
        self._be = be
        self.rows = be.rows

    def __getattr__(self, name: str) -> Any:
        return getattr(self._be, name)

    def asarray(self, array: Any) -> Any:
        return array


DEVICES = Requirement(
    "devices",
    "an array of another device",
    "TypeError that names `be.asarray`; no hidden copies",
    checks=check("devices", _elsewhere, name="host-array"),
)

REQUIREMENTS = (DTYPES, KINDS, BIG_ENDIAN, OTHER_ARRAYS, DEVICES)
