"""The contract: how logits lie in memory, and which axis is that of the classes."""

from __future__ import annotations

import math
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.exceptions import AxisError

from softbench.conformance import layouts
from softbench.conformance.backend_under_test import BackendUnderTest
from softbench.conformance.batch import OPS, VIEWS, View, batch, provided
from softbench.conformance.case import WIDE, Example, Raises, Requirement, check
from softbench.conformance.failures import Failure, NotApplicable, mismatch

__all__ = ["REQUIREMENTS"]

Array = np.ndarray[Any, Any]

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


def _layout(backend: BackendUnderTest, layout: str, view: View, dtype: str, n: int = 9, k: int = 33) -> None:
    """Every argument in the layout at once gives the bits of the contiguous call."""
    rows = batch(backend.rows_of(k, n), k, dtype)
    lay = _LAYOUTS[layout]
    other = rows.mapped(lay)
    if layout == "zero-stride":
        rows = other.mapped(lambda a: np.array(a, order="C"))
    mismatch(
        view.run(backend, other),
        view.run(backend, rows),
        f"{view.name} of {layout} {dtype} {rows.x.shape} arrays",
        than=" (contiguous)",
    )


def _square_layout(backend: BackendUnderTest, layout: str) -> None:
    """As many rows as classes: an array and its transpose differ in their entries and strides only."""
    for view in provided(backend):
        _layout(backend, layout, view, "float64", 17, 17)


def _windows(backend: BackendUnderTest, view: View, dtype: str) -> None:
    """Rows that share memory with each other, as sliding windows of a series do."""
    n, k = backend.rows_of(33, 9), 33
    rows = batch(n, k, dtype)

    def overlapping(a: Array) -> Array:
        return np.lib.stride_tricks.sliding_window_view(a.reshape(-1)[: n + k - 1], k)

    other = replace(rows, x=overlapping(rows.x), p=overlapping(rows.p))
    said = f"{view.name} of {dtype} rows that are windows of one series"
    mismatch(view.run(backend, other), view.run(backend, other.mapped(np.array)), said, than=" (contiguous)")


def _turned(a: Array) -> Array:
    """The first of three axes last in memory."""
    return np.ascontiguousarray(a.transpose(1, 2, 0)).transpose(2, 0, 1)


def _labels_of_several_axes(backend: BackendUnderTest, view: View) -> None:
    """Labels and weights of rows along several axes, in any order of these in memory."""
    shape = (2, 3, 4)
    rows = batch(math.prod(shape), 5, "float64")
    logits, target, options = view.arguments(rows)
    logits, target = np.moveaxis(logits.reshape(*shape, 5), -1, 1), target.reshape(shape)
    weights = {"sample_weight": options.pop("sample_weight").reshape(shape)} if "sample_weight" in options else {}
    due = backend.call(view.op, logits, target, axis=1, **options, **weights)
    for name, lay in {**layouts.LAYOUTS, "turned": _turned}.items():
        if name != "broadcast":
            laid = {which: lay(weight) for which, weight in weights.items()}
            found = backend.call(view.op, logits, lay(target), axis=1, **options, **laid)
            mismatch(found, due, f"{view.name} of {name} labels of shape {shape}", than=" (contiguous)")


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
        other = rows.mapped(lambda part: _relaid_there(backend, part, layout))
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
    rows = batch(backend.rows_of(40, 6), 40, dtype)
    kept = rows.mapped(np.array)
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
    + check("layouts", _square_layout, needs=("host",), name="square", layout=_LAYOUTS)
    + check(
        "layouts",
        _layout_there,
        name="same-on-a-device",
        layout=("fortran", *_STEPS),
        view=[v for v in VIEWS if v.name in ("softmax", "smoothed-gradient", "soft-loss")],
        dtype=("float32", "float16"),
    )
    + check(
        "layouts",
        _labels_of_several_axes,
        needs=("host",),
        profile="standard",
        view=[view for view in VIEWS if view.target == "index"],
    )
    + check("layouts", _windows, needs=("host",), profile="standard", view=VIEWS, dtype=WIDE)
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
    """The axis stays where it was, with length 1: any axis, counted from either end."""
    for shape in ((5,), (3, 4), (2, 3, 4), (2, 3, 1, 4)):
        x = batch(math.prod(shape[:-1]), shape[-1], "float64").x.reshape(shape)
        for axis in range(-len(shape), len(shape)):
            kept = backend.call("logsumexp", x, axis=axis, keepdims=True)
            due = np.expand_dims(backend.call("logsumexp", x, axis=axis), axis)
            mismatch(kept, due, f"logsumexp of a {shape} array, axis={axis}, keepdims=True,")


class _Index:
    """A number by its `__index__` alone, as other libraries have."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __index__(self) -> int:
        return self.number


_AXES: Final = {"int64": np.int64(-2), "int8": np.int8(-2), "uint8": np.uint8(0), "index": _Index(-2)}


def _kind_of_axis(backend: BackendUnderTest, view: View, kind: str) -> None:
    """An axis is any integer: those of NumPy, and what says which integer it is."""
    rows = batch(3, 3, "float64")
    logits, target, options = view.arguments(rows)
    result = backend.call(view.op, logits.T, None if target is None else target.T, axis=_AXES[kind], **options)
    said = f"{view.name} along axis={type(_AXES[kind]).__name__}(...)"
    mismatch(result.T, view.run(backend, rows), said, than=" (along the last)")


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


AXES = Requirement(
    "axes",
    "0-d, 1-d, n-d",
    "0-d -> TypeError; 1-d is one row; n-d with any integer axis; bad axis -> AxisError",
    tuple(Example(op, 1.5, expect=Raises(TypeError), dtypes=WIDE, name="0-d") for op in OPS[:4])
    + tuple(Example(op, 0.5, np.array(0), Raises(TypeError), dtypes=WIDE, name="0-d") for op in OPS[4:])
    + tuple(_with_axis(op, axis, AxisError) for op in OPS for axis in (2, -3))
    + tuple(_with_axis("softmax", axis, TypeError) for axis in (1.0, None, "1"))
    + (Example("softmax", [[0.0, 0.0]], expect=[[1.0, 1.0]], options={"axis": np.int64(0)}, name="numpy-integer"),),
    check("axes", _any_axis, name="any-axis", view=VIEWS, axis=(0, 1, 2))
    + check("axes", _square, name="square", view=VIEWS)
    + check("axes", _one_row, name="one-row", view=VIEWS)
    + check("axes", _kind_of_axis, name="kind-of-axis", profile="standard", view=VIEWS, kind=_AXES)
    + check("axes", _keepdims),
)

REQUIREMENTS = (LAYOUTS, AXES)
