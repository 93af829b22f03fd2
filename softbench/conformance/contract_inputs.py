"""The contract, part 2: layouts, axes, dtypes and kinds of arrays."""

from __future__ import annotations

import decimal
import importlib
import importlib.util
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.exceptions import AxisError

from softbench.conformance import layouts
from softbench.conformance.backend_under_test import BackendUnderTest
from softbench.conformance.batch import VIEWS, Batch, View, batch
from softbench.conformance.case import FLOATS, WIDE, Example, Raises, Requirement, check, must_raise
from softbench.conformance.failures import Failure, NotApplicable, NotRefused, mismatch
from softbench.errors import NotProvidedError

__all__ = ["REQUIREMENTS"]

Array = np.ndarray[Any, Any]
_NONE: Final = {"reduction": "none"}
_INTEGERS: Final = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")


# -- layouts -------------------------------------------------------------------------------------------


_LAYOUTS: Final = {
    "fortran": layouts.LAYOUTS["F"],
    "strided": layouts.LAYOUTS["strided"],
    "negative-stride": layouts.LAYOUTS["reversed"],
    "zero-stride": layouts.LAYOUTS["broadcast"],
    "read-only": layouts.LAYOUTS["read-only"],
    "unaligned": layouts.LAYOUTS["unaligned"],
}
"""By the names of the cases."""


def _relaid(rows: Batch, lay: Callable[[Array], Array]) -> Batch:
    return Batch(*(lay(part) for part in (rows.x, rows.p, rows.labels, rows.q, rows.s, rows.w)))


def _layout(backend: BackendUnderTest, layout: str, view: View, dtype: str) -> None:
    """Every argument in the layout at once gives the bits of the contiguous call."""
    rows = batch(backend.rows_of(33, 9), 33, dtype)
    lay = _LAYOUTS[layout]
    other = _relaid(rows, lay)
    if layout == "zero-stride":
        rows = _relaid(other, lambda a: np.array(a, order="C"))
    mismatch(
        view.run(backend, other),
        view.run(backend, rows),
        f"{view.name} of {layout} {dtype} arrays",
        than=" (contiguous)",
    )


_STEPS: Final = {"strided": 2, "negative-stride": -1}


def _relaid_there(backend: BackendUnderTest, a: Array, layout: str) -> Any:
    """The backend's own array with the elements of ``a``, as a view of one that lies otherwise."""
    if layout == "fortran":
        return backend.be.asarray(np.ascontiguousarray(a.T)).T
    step = _STEPS[layout]
    cut = (slice(None, None, step),) * a.ndim
    base = np.full([abs(step) * n for n in a.shape], 7, a.dtype)
    base[cut] = a
    return backend.be.asarray(base)[cut]


def _layout_there(backend: BackendUnderTest, layout: str, view: View, dtype: str) -> None:
    """`_layout` on a device, whose arrays other arrays view; and into an ``out`` that lies so."""
    if backend.host:
        raise NotApplicable("computes in host memory")
    rows = batch(backend.rows_of(33, 9), 33, dtype)
    due = view.run(backend, rows)
    try:
        parts = (rows.x, rows.p, rows.labels, rows.q, rows.s, rows.w)
        other = Batch(*(_relaid_there(backend, part, layout) for part in parts))
        out = _relaid_there(backend, np.zeros_like(due), layout) if view.maps else None
    except Exception as error:  # which views there are depends on the library
        raise NotApplicable(f"has no {layout} arrays ({type(error).__name__}: {error})") from error
    mismatch(view.run(backend, other), due, f"{view.name} of {layout} {dtype} arrays", than=" (contiguous)")
    if view.maps:
        view.run(backend, rows, out=out)
        mismatch(backend.get(out), due, f"{view.name} into a {layout} {dtype} array", than=" (contiguous)")


def _memmap(backend: BackendUnderTest, dtype: str) -> None:
    rows = batch(4, 9, dtype)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "logits"
        rows.x.tofile(path)
        mapped = np.memmap(path, rows.x.dtype, "r", shape=rows.x.shape)
        result = backend.be.softmax(mapped)
        if type(result) is not np.ndarray:
            raise Failure(f"softmax of a memmap is a {type(result).__name__}, expected ndarray")
        mismatch(result, backend.call("softmax", rows.x), f"softmax of a {dtype} memmap", than=" (array)")


def _unwritten(backend: BackendUnderTest, view: View, dtype: str) -> None:
    """Logits, targets and weights have their bytes before and after."""
    rows = _relaid(batch(backend.rows_of(40, 6), 40, dtype), np.array)
    kept = _relaid(rows, np.array)
    view.run(backend, rows)
    for name in ("x", "p", "labels", "q", "s", "w"):
        now, before = getattr(rows, name), getattr(kept, name)
        if now.tobytes() != before.tobytes():
            where = tuple(int(i) for i in np.argwhere(now != before)[0])
            names = {"x": "the logits", "p": "the probabilities", "labels": "the labels", "q": "the soft target"}
            raise Failure(
                f"{view.op} wrote to {names.get(name, 'the weights')}: entry {list(where)} was {before[where]!r} "
                f"and is {now[where]!r} after the call ({dtype}, shape {rows.x.shape})"
            )


LAYOUTS = Requirement(
    "layouts",
    "Fortran order, strided, negative or zero stride, read-only, unaligned, memmap",
    "bit-for-bit the C-contiguous result; inputs are never written",
    checks=check("layouts", _layout, needs=("host",), name="same", layout=_LAYOUTS, view=VIEWS, dtype=WIDE)
    + check(
        "layouts",
        _layout,
        needs=("host",),
        name="same",
        layout=_LAYOUTS,
        view=[v for v in VIEWS if v.name in ("softmax", "gradient")],
        dtype=("float16", "bfloat16"),
    )
    + check(
        "layouts",
        _layout_there,
        name="same-on-a-device",
        layout=("fortran", *_STEPS),
        view=[v for v in VIEWS if v.name in ("softmax", "smoothed-gradient", "soft-loss")],
        dtype=("float32", "float16"),
    )
    + check("layouts", _memmap, needs=("host",), dtype=WIDE)
    + check("layouts", _unwritten, needs=("host",), name="inputs-unwritten", view=VIEWS, dtype=WIDE),
)


# -- axes ----------------------------------------------------------------------------------------------


def _any_axis(backend: BackendUnderTest, view: View, axis: int, shape: tuple[int, ...] = (3, 4, 5)) -> None:
    """An array of several dimensions along any axis is its rows put together."""
    if backend.cost == "simulated":
        shape = tuple(n - 1 for n in shape)
    k = shape[axis]
    n = math.prod(shape) // k
    rows = batch(n, k, "float64")
    outer = shape[:axis] + shape[axis + 1 :]

    def lift(a: Array) -> Array:
        return np.moveaxis(a.reshape(*outer, k), -1, axis)

    logits, target, options = view.arguments(rows)
    if target is not None:
        target = target.reshape(outer) if view.target == "index" else lift(target)
    if "sample_weight" in options:
        options["sample_weight"] = options["sample_weight"].reshape(outer)
    lifted = lift(logits)
    flat = view.run(backend, rows)
    due = lift(flat) if view.maps else flat.reshape(outer)
    said = f"{view.name} of a {shape} array, axis={axis},"
    for place in (axis, axis - len(shape)):
        result = backend.call(view.op, np.ascontiguousarray(lifted), target, axis=place, **options)
        mismatch(result, due, said, than=" (row by row)")


def _square(backend: BackendUnderTest, view: View) -> None:
    """A square matrix has the same shape along both axes, so that only its entries tell them apart."""
    for axis in (0, 1):
        _any_axis(backend, view, axis, (5, 5))


def _keepdims(backend: BackendUnderTest) -> None:
    x = batch(6, 4, "float64").x.reshape(2, 3, 4)
    for axis in (0, 1, 2, -1):
        kept = backend.call("logsumexp", x, axis=axis, keepdims=True)
        due = np.expand_dims(backend.call("logsumexp", x, axis=axis), axis)
        mismatch(kept, due, f"logsumexp of a (2,3,4) array, axis={axis}, keepdims=True,")


def _one_row(backend: BackendUnderTest, view: View) -> None:
    """A 1-d array is one row; its per-row results are 0-d."""
    rows = batch(1, 7, "float64")
    logits, target, options = view.arguments(rows)
    if target is not None:
        target = target[0] if view.target == "soft" else np.asarray(target[0])
    if "sample_weight" in options:
        options["sample_weight"] = np.asarray(options["sample_weight"][0])
    result = backend.call(view.op, logits[0], target, **options)
    mismatch(result, view.run(backend, rows)[0, ...], f"{view.name} of a 1-d array", than=" (as one row)")


def _with_axis(op: str, axis: Any, error: type[Exception], **options: Any) -> Example:
    target = np.array([0, 1]) if op in ("loss", "gradient", "log_loss") else None
    name = f"axis-{axis}".replace(" ", "")
    return Example(op, [[0.5, 0.5], [0.25, 0.75]], target, Raises(error), {"axis": axis, **options}, ("float64",), name)


_OPS: Final = ("argmax", "logsumexp", "softmax", "log_softmax", "loss", "gradient", "log_loss")

AXES = Requirement(
    "axes",
    "0-d, 1-d, n-d",
    "0-d -> TypeError; 1-d is one row; n-d with any integer axis; bad axis -> AxisError",
    tuple(Example(op, 1.5, expect=Raises(TypeError), dtypes=WIDE, name="0-d") for op in _OPS[:4])
    + tuple(Example(op, 0.5, np.array(0), Raises(TypeError), dtypes=WIDE, name="0-d") for op in _OPS[4:])
    + tuple(_with_axis(op, axis, AxisError) for op in _OPS for axis in (2, -3))
    + tuple(_with_axis("softmax", axis, TypeError) for axis in (1.0, None, "1"))
    + (Example("softmax", [[0.0, 0.0]], expect=[[1.0, 1.0]], options={"axis": np.int64(0)}, name="numpy-integer"),),
    check("axes", _any_axis, name="any-axis", view=VIEWS, axis=(0, 1, 2))
    + check("axes", _square, name="square", view=VIEWS)
    + check("axes", _one_row, name="one-row", view=VIEWS)
    + check("axes", _keepdims),
)


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
        mismatch(backend.call(op, x, labels, **_NONE), backend.call(op, wide, labels, **_NONE), said, than=" (float64)")


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
    if importlib.util.find_spec("scipy") is None:
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
    + check("dtypes", _form, name="result", view=VIEWS, dtype=FLOATS)
    + check("dtypes", _refused_kind, name="refused", kind=("bool",), op=_OPS)
    + check("dtypes", _longdouble, needs=("host",), op=_OPS),
)

KINDS = Requirement(
    "kinds",
    "complex, object, str, scipy.sparse, masked arrays",
    "TypeError naming the type",
    checks=check("kinds", _refused_kind, name="refused", kind=[k for k in _KINDS if k.startswith("complex")], op=_OPS)
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
    swapped = _relaid(rows, lambda a: a.astype(a.dtype.newbyteorder()))
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
    frame = pd.DataFrame(rows.x, index=list("edcba"), columns=list("wxyz"))
    labels = pd.Series(rows.known, index=list("abcde"))
    weight = pd.Series(rows.s, index=list("bcdea"))
    result = backend.be.softmax(frame)
    if type(result) is not np.ndarray:
        raise Failure(f"softmax of a DataFrame is a {type(result).__name__}, expected ndarray")
    mismatch(result, backend.call("softmax", rows.x), "softmax of a DataFrame", than=" (its values)")
    got = backend.be.loss(frame, labels, sample_weight=weight, **_NONE)
    due = backend.call("loss", rows.x, rows.known, sample_weight=rows.s, **_NONE)
    mismatch(got, due, "loss of a DataFrame, Series of labels and weights in other index orders", than=" (by position)")


def _lists(backend: BackendUnderTest) -> None:
    rows = batch(3, 4, "float64")
    got = backend.be.loss(rows.x.tolist(), tuple(rows.known.tolist()), sample_weight=rows.s.tolist(), **_NONE)
    due = backend.call("loss", rows.x, rows.known, sample_weight=rows.s, **_NONE)
    mismatch(got, due, "loss of lists", than=" (arrays)")
    mismatch(backend.be.softmax([0, 0]), np.array([0.5, 0.5]), "softmax([0, 0])")


def _nullable(backend: BackendUnderTest) -> None:
    """Columns with pandas' own missing value count as the numbers they hold."""
    pd = importlib.import_module("pandas")
    rows = batch(5, 4, "float64")
    frame = pd.DataFrame(rows.x).astype("Float64")
    mismatch(
        backend.be.softmax(frame), backend.call("softmax", rows.x), "softmax of Float64 columns", than=" (float64)"
    )
    got = backend.be.loss(
        frame, pd.Series(rows.known, dtype="Int64"), sample_weight=pd.array(rows.s, "Float64"), **_NONE
    )
    due = backend.call("loss", rows.x, rows.known, sample_weight=rows.s, **_NONE)
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

REQUIREMENTS = (LAYOUTS, AXES, DTYPES, KINDS, BIG_ENDIAN, OTHER_ARRAYS, DEVICES)
