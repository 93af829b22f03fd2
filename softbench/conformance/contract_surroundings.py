"""The contract: what lies around a call.

Memory that is no array, integers beyond float64, the caller's settings.
"""

from __future__ import annotations

import array
import collections
import importlib
import warnings
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from softbench.conformance.backend_under_test import BackendUnderTest
from softbench.conformance.batch import VIEWS, View, batch
from softbench.conformance.case import FLOATS, NONE, WIDE, Requirement, check
from softbench.conformance.failures import Failure, mismatch
from softbench.conformance.layouts import GARBAGE

__all__ = ["REQUIREMENTS"]

Array = np.ndarray[Any, Any]
_WRITERS: Final = ("softmax", "log_softmax", "gradient", "loss_and_gradient")


def _arguments(op: str, x: Array) -> tuple[Any, ...]:
    return (x, np.zeros(len(x), np.int64)) if "gradient" in op else (x,)


# -- out= of any kind ----------------------------------------------------------------------------------


class Copied:
    """Something like an array, whose conversion is a copy."""

    def __init__(self, values: Array) -> None:
        self._values = values

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return np.array(self._values, dtype)


class Interface:
    """Memory known by ``__array_interface__`` alone."""

    def __init__(self, values: Array) -> None:
        self.values = values
        self.__array_interface__ = values.__array_interface__


def _memoryview(values: Any) -> Any:
    return memoryview(values)


def _frame(values: Array) -> Any:
    """A DataFrame whose columns lie apart, so that NumPy gets a copy."""
    frame = importlib.import_module("pandas").DataFrame(values[:, :1].copy())
    for k in range(1, values.shape[1]):
        frame[k] = values[:, k].copy()
    return frame


_NO_PLACE: Final[dict[str, Callable[[Array], Any]]] = {
    "list": Array.tolist,
    "deque": lambda values: collections.deque(values.tolist()),
    "copied": Copied,
    "frame": _frame,
}
_PLACE: Final[dict[str, Callable[[Array], Any]]] = {
    "memoryview": _memoryview,
    "interface": Interface,
    "subclass": lambda values: values.view(type("Subclass", (np.ndarray,), {})),
}


def _not_in_place(backend: BackendUnderTest, kind: str, op: str) -> None:
    """TypeError that names the type, instead of a result that nobody gets."""
    out = _NO_PLACE[kind](np.full((2, 2), GARBAGE))
    said = f"{op} with a {type(out).__name__} as out="
    try:
        getattr(backend.be, op)(*_arguments(op, np.zeros((2, 2))), out=out)
    except TypeError as error:
        if type(out).__name__ not in str(error):
            raise Failure(f"{said} raises TypeError({str(error)!r}), which does not name the type") from None
        if not (np.asarray(out) == GARBAGE).all():
            raise Failure(f"{said} wrote into what it refused") from None
        return
    except Exception as error:
        raise Failure(f"{said} raises {error!r}, expected TypeError") from error
    raise Failure(f"{said} returns without an error, expected TypeError")


def _in_place(backend: BackendUnderTest, kind: str, op: str) -> None:
    """What shares its memory with NumPy is written, and comes back itself."""
    memory = np.full((2, 2), GARBAGE)
    out = _PLACE[kind](memory)
    arguments = _arguments(op, np.array([[0.0, 1.0], [2.0, 0.0]]))
    due = getattr(backend.be, op)(*arguments)
    result = getattr(backend.be, op)(*arguments, out=out)
    if op == "loss_and_gradient":
        due, result = due[1], result[1]
    if result is not out:
        raise Failure(f"{op} with a {kind} as out= returns another object")
    mismatch(memory, due, f"{op} into a {kind}", than=" (without out)")


def _plain_buffer(backend: BackendUnderTest) -> None:
    """A buffer of the standard library is memory like any other."""
    out = array.array("d", [GARBAGE] * 2)
    backend.be.softmax(np.zeros(2), out=out)
    mismatch(np.array(out), np.asarray(backend.be.softmax(np.zeros(2))), "softmax into an array.array")


OUT_KINDS = Requirement(
    "out-kinds",
    "out= that is no ndarray",
    "written where NumPy shares its memory; what cannot be written in place is a TypeError naming its type",
    checks=check("out-kinds", _not_in_place, needs=("host",), kind=("list", "deque", "copied"), op=_WRITERS)
    + check("out-kinds", _not_in_place, needs=("host", "pandas"), kind=("frame",), op=_WRITERS)
    + check("out-kinds", _in_place, needs=("host",), kind=_PLACE, op=_WRITERS)
    + check("out-kinds", _plain_buffer, needs=("host",)),
)

# -- overlap -------------------------------------------------------------------------------------------

_KINDS: Final[dict[str, Callable[[Array], Any]]] = {
    "ndarray": lambda values: values,
    "memoryview": _memoryview,
    "interface": Interface,
    "frame": lambda values: importlib.import_module("pandas").DataFrame(values, copy=False),
}


def _overlapping(backend: BackendUnderTest, kind: str, op: str) -> None:
    """``out`` on the memory of another argument of any type: ValueError before anything is written."""
    rows = batch(4, 4, "float64")
    for name in ("logits", "target", "sample_weight", "class_weight"):
        memory = np.array(np.concatenate([rows.q, rows.q]))
        out = memory[:4]
        logits, target, options = rows.x, rows.q, {}
        if name == "logits":
            logits = _KINDS[kind](memory[1:5])
        elif name == "target":
            target = _KINDS[kind](out)
        elif kind == "frame":
            options[name] = importlib.import_module("pandas").Series(out[1], copy=False)
        else:
            options[name] = _KINDS[kind](out[1])
        before = memory.tobytes()
        try:
            getattr(backend.be, op)(logits, target, out=out, validate=False, **options)
        except ValueError as error:
            if name not in str(error):
                raise Failure(f"{op}: {error} (does not name {name})") from None
            if memory.tobytes() != before:
                raise Failure(f"{op} wrote to its {name} before it refused it as out=") from None
            continue
        raise Failure(f"{op} accepts an out= that shares memory with {name}, a {kind}")


def _interleaved(backend: BackendUnderTest, op: str) -> None:
    """Views of one array that share no element are separate memory."""
    rows = batch(6, 5, "float64")
    memory = np.full((6, 10), GARBAGE)
    memory[:, ::2] = rows.x
    due = getattr(backend.be, op)(*_arguments(op, rows.x))
    result = getattr(backend.be, op)(*_arguments(op, memory[:, ::2]), out=memory[:, 1::2])
    if op == "loss_and_gradient":
        due, result = due[1], result[1]
    mismatch(result, due, f"{op} between the columns of its logits", than=" (apart)")
    mismatch(memory[:, ::2], rows.x, f"the logits of {op} after it wrote between their columns", than=" (before)")


OVERLAP = Requirement(
    "overlap",
    "out= and the memory of other arguments",
    "overlap is judged on memory for every argument, whatever its type; interleaved memory that shares no element is "
    "fine",
    checks=check(
        "overlap",
        _overlapping,
        name="refused",
        needs=("host",),
        kind=("ndarray", "memoryview", "interface"),
        op=("gradient", "loss_and_gradient"),
    )
    + check("overlap", _overlapping, name="refused", needs=("host", "pandas"), kind=("frame",), op=("gradient",))
    + check("overlap", _interleaved, needs=("host",), op=_WRITERS),
)

# -- integers ------------------------------------------------------------------------------------------

_BIG: Final = 2**53
_INTEGERS: Final[dict[str, Callable[[], Array]]] = {
    "int64": lambda: np.array(
        [
            [_BIG, _BIG + 1, _BIG - 2],
            [-_BIG - 1, -_BIG, -_BIG - 2],
            [2**63 - 1, 2**63 - 2, -(2**63)],
            [-(2**63), -(2**63) + 1, -(2**63) + 3],
            [2**62 + 1, 0, 2**62],
            [3, -4, 3],
        ],
        np.int64,
    ),
    "uint64": lambda: np.array(
        [[_BIG, _BIG + 1, _BIG], [2**64 - 1, 2**64 - 2, 2**64 - 4], [2**64 - 1, 0, 2**63], [0, 1, 5]], np.uint64
    ),
}


def _large_integers(backend: BackendUnderTest, op: str, dtype: str) -> None:
    """The results of the integers, not of the float64 numbers nearest to them; along any axis."""
    x = _INTEGERS[dtype]()
    target = np.arange(len(x)) % 3 if op in ("loss", "gradient", "loss_and_gradient") else None
    options = {} if target is None else NONE
    result = backend.call(op, x, target, **options)
    turned = backend.call(op, np.ascontiguousarray(x.T), target, axis=0, **options)
    if op == "argmax":
        due = np.array([max(range(3), key=lambda k: (int(row[k]), -k)) for row in x])  # Python's integers
        mismatch(result, due, f"argmax of {x.tolist()}:{dtype}")
    elif op == "loss_and_gradient":
        backend.judge("loss", result[0], x, target, **options)
        backend.judge("gradient", result[1], x, target, **options)
        result, turned = result[1], turned[1]
    else:
        backend.judge(op, result, x, target, **options)
    mismatch(turned.T, result, f"{op} of {dtype} logits along axis 0", than=" (along the last)")


def _large_soft(backend: BackendUnderTest, dtype: str) -> None:
    x = _INTEGERS[dtype]()
    q = np.full(x.shape, [0.25, 0.5, 0.25])
    for op in ("loss", "gradient"):
        backend.judge(op, backend.call(op, x, q, **NONE), x, q, **NONE)


LARGE_INTEGERS = Requirement(
    "large-integers",
    "integer logits beyond 2^53",
    "argmax compares the integers; other functions shift by the row's largest integer before they convert, so that the "
    "exact result is met",
    checks=check(
        "large-integers",
        _large_integers,
        name="exact",
        op=("argmax", "logsumexp", "softmax", "log_softmax", "loss", "gradient", "loss_and_gradient"),
        dtype=_INTEGERS,
    )
    + check("large-integers", _large_soft, name="soft", dtype=_INTEGERS),
)

# -- the caller's settings -----------------------------------------------------------------------------

_EXTREME: Final = [[0.0, -12.0, -700.0], [3e4, -3e4, 0.0], [-16.0, -16.5, -17.0], [1e-7, 0.0, -1e-7]]


def _settings(backend: BackendUnderTest, view: View, dtype: str) -> None:
    """`numpy.errstate` and warning filters of the caller change neither bits nor whether there is an error."""
    rows = batch(len(_EXTREME), 3, dtype)
    rows.s[:], rows.w[:] = [1e-30, 1e30, 1.0, 0.5], [1e-20, 1.0, 1e20]
    rows = rows.shifted(np.array(_EXTREME).astype(rows.x.dtype))
    rows.p[0] = np.array([1.0, 0.0, 1e-7]).astype(rows.p.dtype)
    for reduction in ("none", "mean") if view.target else ("none",):
        more = {"reduction": reduction} if view.target else {}
        due = _with_options(backend, view, rows, more)
        for setting in ("raise", "warn"):
            try:
                with warnings.catch_warnings(), np.errstate(all=setting):
                    warnings.simplefilter("error")
                    result = _with_options(backend, view, rows, more)
            except (FloatingPointError, RuntimeWarning) as error:
                raise Failure(
                    f"{view.name} of {dtype} under numpy.errstate(all={setting!r}) raises {error!r}"
                ) from None
            mismatch(result, due, f"{view.name} of {dtype} under numpy.errstate(all={setting!r})", than=" (by default)")


def _with_options(backend: BackendUnderTest, view: View, rows: Any, more: dict[str, Any]) -> Array:
    logits, target, options = view.arguments(rows)
    result: Array = backend.call(view.op, logits, target, **{**options, **more})
    return result


def _nothing_finite(backend: BackendUnderTest, which: str, value: float) -> None:
    """Weights that are not finite, unchecked: NaN where they take part, and no warning."""
    rows = batch(3, 3, "float64")
    weights = np.array([1.0, value, 1.0])
    for op in ("loss", "gradient"):
        for target in (np.array([1, 1, 0]), rows.q):
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                result = backend.call(op, rows.x, target, validate=False, **{which: weights}, **NONE)
            row = result[1]
            if not np.isnan(row).any():
                raise Failure(f"{op} with {which}={weights.tolist()} and validate=False is {row!r} in row 1: no NaN")


SETTINGS = Requirement(
    "settings",
    "the caller's np.errstate and warning filters",
    "change nothing; weights that are not finite: ValueError (validate=False: NaN results, no warning)",
    checks=check(
        "settings", _settings, name="errstate", view=VIEWS, dtype=(*WIDE, *(d for d in FLOATS if d not in WIDE))
    )
    + check(
        "settings",
        _nothing_finite,
        name="unchecked-weights",
        needs=("host",),
        which=("sample_weight", "class_weight"),
        value=(float("inf"), float("nan")),
    ),
)

# -- weights of any size -------------------------------------------------------------------------------

_SIZES: Final = (0.0, 5e-324, 1e-310, 1.0, 1e20, 1e300)
_HARD: Final = (-np.inf, np.nan, np.inf, 0.0, -1.5, 40.0)


def _random_call(rng: np.random.Generator, dtype: str) -> tuple[Array, Array, dict[str, Any]]:
    """A call with any options, weights and logits of any size."""
    n, k = (int(size) for size in rng.integers(1, 5, 2))
    top = float(np.finfo(dtype).max)
    hard = rng.choice([*_HARD, top, -top], (n, k))
    x = np.where(rng.random((n, k)) < 0.3, hard, rng.normal(0, 3, (n, k))).astype(dtype)
    soft = rng.random() < 0.4
    target = rng.multinomial(8, np.ones(k) / k, n) / 8 if soft else rng.integers(0, k, n)
    options: dict[str, Any] = {"reduction": str(rng.choice(["none", "sum", "mean"]))}
    if rng.random() < 0.7:
        options["sample_weight"] = rng.choice(_SIZES, n)
    if rng.random() < 0.7:
        options["class_weight"] = rng.choice(_SIZES, k)
    if rng.random() < 0.5:
        options["label_smoothing"] = float(rng.choice([0.0, 1e-300, 0.1, 1.0]))
    if not soft and rng.random() < 0.3:
        options["ignore_index"] = int(rng.integers(0, k))
    return x, target, options


def _any_weights(backend: BackendUnderTest, seed: int, dtype: str) -> None:
    """Losses and gradients are within the gates whatever the weights, the smoothing, the reduction and the logits."""
    rng = np.random.default_rng(seed)
    for _ in range(100 if backend.cost == "compiled" else 25):
        x, target, options = _random_call(rng, dtype)
        loss, gradient = backend.call("loss_and_gradient", x, target, **options)
        with np.errstate(all="ignore"):  # of the oracle
            backend.judge("loss", loss, x, target, **options)
            backend.judge("gradient", gradient, x, target, **options)


WEIGHT_SIZES = Requirement(
    "weight-sizes",
    "weights from 0 to 1e300 beside any logits",
    "loss and gradient exact, within the gates, for every combination of options (a random search)",
    checks=check("weight-sizes", _any_weights, name="random", seed=(0,), dtype=WIDE)
    + check("weight-sizes", _any_weights, name="random", profile="standard", seed=(1, 2, 3), dtype=WIDE),
)

REQUIREMENTS = (OUT_KINDS, OVERLAP, LARGE_INTEGERS, SETTINGS, WEIGHT_SIZES)
