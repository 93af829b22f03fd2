"""The contract: ``out=``; nothing is printed, nobody is warned, and where a call fails nothing is written."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
import threading
import warnings
from collections.abc import Iterator
from typing import Any, Final

import numpy as np

from softbench.conformance.backend_under_test import BackendUnderTest
from softbench.conformance.batch import MAPS, VIEWS, Batch, View, batch
from softbench.conformance.case import FLOATS, NONE, WIDE, Requirement, check
from softbench.conformance.failures import Failure, NotApplicable, NotRefused, mismatch
from softbench.conformance.layouts import GARBAGE
from softbench.errors import NotProvidedError
from softbench.interface.dtypes import numpy_dtype

__all__ = ["REQUIREMENTS"]

Array = np.ndarray[Any, Any]


_BLOCKS: Final = (256, 1023, 1030, 2049)
"""Numbers of rows, whole blocks of them and some more or less."""


def _into(backend: BackendUnderTest, view: View, rows: Batch, logits: Any, out: Any, **more: Any) -> Any:
    """A call with ``out=``, arrays of the backend passed as they are."""
    _, target, options = view.arguments(rows)
    if "sample_weight" in options:
        options["sample_weight"] = backend.put(options["sample_weight"])
    arguments = [logits] if target is None else [logits, backend.put(target)]
    return getattr(backend.be, view.op)(*arguments, out=out, **options, **more)


def _filled(backend: BackendUnderTest, view: View, dtype: str) -> None:
    """``out`` full of garbage comes back itself, every entry written, with the bits of the call without it."""
    for k in backend.ks(1, 5, 67, 1000):
        rows = batch(backend.rows_of(k, 9), k, dtype)
        due = view.run(backend, rows)
        out = backend.put(np.full(rows.x.shape, GARBAGE).astype(rows.x.dtype))
        result = _into(backend, view, rows, backend.put(rows.x), out)
        if result is not out:
            raise Failure(f"{view.name}(..., out=out) returns another object than out")
        mismatch(backend.get(out), due, f"{view.name} of {dtype} {rows.x.shape} into out=", than=" (without out)")


def _fused_filled(backend: BackendUnderTest, dtype: str) -> None:
    rows = batch(backend.rows_of(9, 5), 9, dtype)
    labels = rows.known
    out = backend.put(np.full(rows.x.shape, GARBAGE).astype(rows.x.dtype))
    _, gradient = backend.be.loss_and_gradient(backend.put(rows.x), backend.put(labels), out=out)
    if gradient is not out:
        raise Failure("loss_and_gradient(..., out=out) returns another gradient than out")
    mismatch(backend.get(out), backend.call("gradient", rows.x, labels), f"loss_and_gradient of {dtype} into out=")


def _in_place(backend: BackendUnderTest, view: View, dtype: str) -> None:
    """``out`` may be the logits."""
    sizes = [(k, 9) for k in backend.ks(1, 5, 67, 1000, 30000)]
    if backend.profile != "quick" and backend.cost == "compiled" and not backend.few_shapes:
        sizes += [(5, n) for n in _BLOCKS]
    for k, n in sizes:
        rows = batch(backend.rows_of(k, n), k, dtype)
        due = view.run(backend, rows)
        own = backend.put(np.array(rows.x))
        result = _into(backend, view, rows, own, own)
        if result is not own:
            raise Failure(f"{view.name}(x, out=x) returns another object than x")
        mismatch(backend.get(own), due, f"{view.name} of {dtype} {rows.x.shape} in place", than=" (not in place)")


_TARGETS: Final[dict[str, dict[str, Any]]] = {"index": {}, "soft": {}, "smoothed": {"label_smoothing": 0.125}}


def _fused_in_place(backend: BackendUnderTest, target: str, dtype: str) -> None:
    """The losses too are those of the logits, in whose place the gradient comes."""
    for k in backend.ks(5, 67, 1000):
        rows = batch(backend.rows_of(k, 9), k, dtype)
        y, options = (rows.q if target == "soft" else rows.known), _TARGETS[target] | NONE
        due = backend.call("loss_and_gradient", rows.x, y, **options)
        own = backend.put(np.array(rows.x))
        found = backend.be.loss_and_gradient(own, backend.put(y), out=own, **options)
        said = f"loss_and_gradient of {dtype} {rows.x.shape} in place, {target} target: the"
        for part, got, expected in zip(("losses", "gradient"), found, due, strict=True):
            mismatch(backend.get(got), expected, f"{said} {part}", than=" (not in place)")


def _out_along_axis(backend: BackendUnderTest, view: View) -> None:
    """``out`` for an axis that is not the last, and ``out`` of another layout than the logits."""
    rows = batch(6, 4, "float64")
    due = view.run(backend, rows)
    _, target, options = view.arguments(rows)
    if view.target == "soft":
        target = target.T.copy()
    if "sample_weight" in options:
        options["sample_weight"] = backend.put(options["sample_weight"])
    out = backend.put(np.full((4, 6), GARBAGE))
    arguments = [backend.put(rows.x.T.copy())] + ([] if target is None else [backend.put(target)])
    getattr(backend.be, view.op)(*arguments, axis=0, out=out, **options)
    mismatch(backend.get(out), due.T, f"{view.name} along axis 0 into out=", than=" (without out)")
    if backend.host:
        wide = np.full((6, 8), GARBAGE)
        _into(backend, view, rows, rows.x, wide[:, ::2])
        mismatch(wide[:, ::2], due, f"{view.name} into a strided out=", than=" (without out)")
        if not (wide[:, 1::2] == GARBAGE).all():
            raise Failure(f"{view.name} into a strided out= wrote between its entries")
        for form, other in (
            ("Fortran-ordered", np.full((6, 4), GARBAGE, order="F")),
            ("reversed", np.full((6, 4), GARBAGE)[::-1]),
        ):
            _into(backend, view, rows, rows.x, other)
            mismatch(other, due, f"{view.name} into a {form} out=", than=" (without out)")


def _bad_out(name: str, x: Array) -> tuple[Any, Any]:
    """An ``out`` to be refused, and the logits to refuse it for."""
    other = "float32" if x.dtype.name == "float64" else "float64"
    big = np.full(x.size + x.shape[1] * 2, GARBAGE, x.dtype)
    if name == "dtype":
        return np.full(x.shape, GARBAGE, other), x
    if name == "integers":
        return np.full(x.shape, 7, np.int64), x
    if name == "rows":
        return np.full((x.shape[0] + 1, x.shape[1]), GARBAGE, x.dtype), x
    if name == "classes":
        return np.full((x.shape[0], x.shape[1] - 1), GARBAGE, x.dtype), x
    if name == "transposed":
        return np.full(x.shape[::-1], GARBAGE, x.dtype), x
    if name == "one-row":
        return np.full((1, x.shape[1]), GARBAGE, x.dtype), x
    if name == "read-only":
        out = np.full(x.shape, GARBAGE, x.dtype)
        out.flags.writeable = False
        return out, x
    if name == "zero-stride":
        out = np.lib.stride_tricks.as_strided(np.full(x.shape[1], GARBAGE, x.dtype), x.shape, (0, x.itemsize))
        return out, x
    if name == "byte-swapped":
        return np.full(x.shape, GARBAGE, x.dtype.newbyteorder()), x
    step = {"overlap-one-entry": 1, "overlap-one-row": x.shape[1], "overlap-reversed": 0}[name]
    logits = big[: x.size].reshape(x.shape)
    logits[...] = x
    if name == "overlap-reversed":
        return logits[::-1], logits
    return big[step : step + x.size].reshape(x.shape), logits


def _refused_out(backend: BackendUnderTest, bad: str, view: View) -> None:
    """ValueError, and ``out`` as it was."""
    rows = batch(6, 4, "float64")
    out, logits = _bad_out(bad, np.array(rows.x))
    before = np.array(out)
    try:
        _into(backend, view, rows, backend.put(logits), backend.put(out))
    except ValueError:
        if np.array(out).tobytes() != before.tobytes():
            raise NotRefused(f"{view.name} wrote to the out= that it refused ({bad})") from None
        return
    except (NotApplicable, NotProvidedError):
        raise
    except Exception as error:
        raise NotRefused(
            f"{view.name} with out= of the wrong kind ({bad}) raises {error!r}, expected ValueError"
        ) from error
    raise NotRefused(f"{view.name} accepts an out= that must be refused: {bad}")


def _out_is_target(backend: BackendUnderTest, op: str) -> None:
    """``out`` may not be, nor overlap, the soft target or the weights."""
    rows = batch(4, 4, "float64")
    for name in ("target", "sample_weight", "class_weight"):
        out = np.array(rows.q)
        target, options = rows.q, {}
        if name == "target":
            target = out
        else:
            options[name] = out.reshape(-1)[:4]
        before = out.tobytes()
        try:
            getattr(backend.be, op)(rows.x, target, out=out, validate=False, **options)
        except ValueError:
            if out.tobytes() != before:
                raise NotRefused(f"{op} wrote to its {name} before it refused it as out=") from None
            continue
        raise NotRefused(f"{op} accepts an out= that shares memory with {name}")


def _untouched(backend: BackendUnderTest, op: str, wrong: str) -> None:
    """An error of any argument leaves ``out`` as it was."""
    rows = batch(4, 5, "float64")
    labels = rows.known
    options: dict[str, Any] = {}
    if wrong == "label":
        labels = labels + 5
    elif wrong == "length":
        labels = labels[:3]
    elif wrong == "reduction":
        options = {"reduction": "median"}
    elif wrong == "smoothing":
        options = {"label_smoothing": 2.0}
    elif wrong == "class-weight":
        options = {"class_weight": -rows.w}
    elif wrong == "sample-weight":
        options = {"sample_weight": backend.put(-rows.s)}
    out = backend.put(np.full(rows.x.shape, GARBAGE))
    try:
        getattr(backend.be, op)(backend.put(rows.x), backend.put(labels), out=out, **options)
    except ValueError:
        if not (backend.get(out) == GARBAGE).all():
            raise NotRefused(f"{op} wrote to out before it raised on a wrong {wrong}") from None
        return
    raise NotRefused(f"{op} accepts a wrong {wrong}")


_REFUSED: Final = ("dtype", "integers", "rows", "classes", "transposed", "one-row", "byte-swapped")
_REFUSED_HOST: Final = ("read-only", "zero-stride", "overlap-one-entry", "overlap-one-row", "overlap-reversed")

OUT = Requirement(
    "out",
    "out=",
    "exact alias of the logits is fine (never of the target) and bitwise equal; partial overlap, wrong dtype or shape, "
    "read-only, zero stride: ValueError; returns `out` itself",
    checks=check("out", _filled, view=MAPS, dtype=FLOATS)
    + check("out", _fused_filled, dtype=FLOATS)
    + check("out", _fused_in_place, target=_TARGETS, dtype=WIDE)
    + check("out", _in_place, view=MAPS, dtype=WIDE)
    + check("out", _in_place, view=[v for v in MAPS if v.name in ("softmax", "gradient")], dtype=FLOATS[:2])
    + check("out", _out_along_axis, name="axis", view=MAPS)
    + check("out", _refused_out, name="refused", bad=_REFUSED[:6], view=[MAPS[0], MAPS[2]])
    + check(
        "out",
        _refused_out,
        name="refused",
        needs=("host",),
        bad=("byte-swapped", *_REFUSED_HOST),
        view=[MAPS[0], MAPS[2]],
    )
    + check("out", _out_is_target, needs=("host",), op=("gradient", "loss_and_gradient")),
)


# -- errors --------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _silent(said: str, *, warnings_too: bool) -> Iterator[None]:
    """`Failure` if something is printed meanwhile, by Python or by a library; or warned of, in any thread."""
    crashed: list[Any] = []
    hook = threading.excepthook
    with tempfile.TemporaryFile() as file, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        text = io.StringIO()
        descriptors = [(number, os.dup(number)) for number in (1, 2)]
        threading.excepthook = crashed.append
        try:
            for number, _ in descriptors:
                os.dup2(file.fileno(), number)
            with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
                yield
        finally:
            threading.excepthook = hook
            for number, kept in descriptors:
                os.dup2(kept, number)
                os.close(kept)
        file.seek(0)
        printed = text.getvalue() + file.read().decode(errors="replace")
    leaked = [w for w in caught if issubclass(w.category, RuntimeWarning)]
    if leaked and warnings_too:
        raise Failure(f"{said} warns: {leaked[0].category.__name__}: {leaked[0].message}")
    if crashed:
        raise Failure(f"{said} ends a thread of its own by {crashed[0].exc_type.__name__}: {crashed[0].exc_value}")
    if printed:
        raise Failure(f"{said} prints {printed[:200]!r}")


def _call_quietly(backend: BackendUnderTest, view: View, rows: Batch, said: str, *, warnings_too: bool) -> None:
    with _silent(said, warnings_too=warnings_too):
        view.run(backend, rows)
        if view.target:
            logits, target, options = view.arguments(rows)
            backend.call(view.op, logits, target, **{**options, "reduction": "mean"})


def _quiet(backend: BackendUnderTest, view: View, dtype: str) -> None:
    """Nothing printed, and for finite logits no RuntimeWarning either."""
    top = float(np.finfo(numpy_dtype(dtype)).max) if dtype != "bfloat16" else 3e38
    finite = [[top, -top, 0.0], [0.0, 0.0, 0.0], [-80.0, 5.0, 3.0], [-top, -top, -top], [1e-3, 60.0, -60.0]]
    special = [[np.inf, 0.0, 1.0], [np.nan, 1.0, 2.0], [-np.inf, -np.inf, -np.inf], [-np.inf, 0.0, 1.0], [np.inf] * 3]
    for values in (finite, special):
        rows = batch(5, 3, dtype)
        rows = rows.shifted(np.array(values).astype(rows.x.dtype))
        _call_quietly(backend, view, rows, f"{view.name} of {dtype} {values}", warnings_too=values is finite)


def _quiet_threads(backend: BackendUnderTest, view: View, dtype: str) -> None:
    """The same at sizes worth several threads, which have warning settings of their own."""
    top = float(np.finfo(numpy_dtype(dtype)).max)
    for n, k in ((600, 200), (3, 70_000)) if backend.cost == "compiled" else ((5, 9),):
        rows = batch(n, k, dtype)
        rows.x[::2, ::3], rows.x[::2, 1::3], rows.x[1::3, :2] = top, -top, -800.0
        _call_quietly(backend, view, rows, f"{view.name} of {dtype} {(n, k)}, +-{top:g} among them", warnings_too=True)
        rows.x[::5, 2], rows.x[1::5, 3], rows.x[2::5] = np.inf, np.nan, -np.inf
        _call_quietly(backend, view, rows, f"{view.name} of {dtype} {(n, k)} with NaN and inf", warnings_too=False)


def _quiet_weights(backend: BackendUnderTest, view: View, dtype: str) -> None:
    """No RuntimeWarning for finite logits either where weights take results beyond the dtype."""
    rows = batch(3, 4, dtype)
    rows.s[:], rows.w[:] = 1e200, 1e100
    said = f"{view.name} of {dtype} {rows.x.shape} with sample weights of 1e200 and class weights of 1e100"
    with _silent(said, warnings_too=True):
        view.run(backend, rows)


ERRORS = Requirement(
    "errors",
    "errors",
    "nothing is printed, no RuntimeWarning leaks for finite input, `out` untouched when an error is raised before "
    "compute",
    checks=check("errors", _quiet, view=VIEWS, dtype=FLOATS)
    + check("errors", _quiet_threads, view=[v for v in VIEWS if v.op != "log_loss"], dtype=("float32",))
    + check("errors", _quiet_weights, view=[view for view in VIEWS if view.weighted], dtype=FLOATS)
    + check(
        "errors",
        _untouched,
        name="out-untouched",
        op=("gradient", "loss_and_gradient"),
        wrong=("label", "length", "reduction", "smoothing", "class-weight", "sample-weight"),
    ),
)

REQUIREMENTS = (OUT, ERRORS)
