"""The backend under judgement, and the words in which a failure is told.

All cases talk to a backend through `Subject`: arrays go in by the backend's own ``asarray`` and come back by its
``to_numpy``, so the same cases judge host and device backends.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from softbench.errors import UnknownBackendError
from softbench.front.backend import Backend
from softbench.interface import RowBackend
from softbench.interface.dtypes import formats, result_dtype

__all__ = ["Failure", "NotApplicable", "Subject", "Worst", "call_text", "load", "mismatch", "near"]

Array = np.ndarray[Any, Any]

_MAX_K: Final = {"compiled": 1 << 31, "interpreted": 300, "simulated": 100}
_MAX_ELEMENTS: Final = {"compiled": 1 << 31, "interpreted": 3000, "simulated": 300}
_MAX_ROWS: Final = {"simulated": 3}  # a simulator starts a thread of Python for every thread of every row
_FUNCTIONS: Final = (
    "argmax",
    "logsumexp",
    "softmax",
    "log_softmax",
    "log_loss",
    "loss",
    "gradient",
    "loss_and_gradient",
)
_ARRAYS: Final = ("sample_weight", "out")  # options that live where the logits live


class Failure(AssertionError):
    """The backend broke the contract; the message shows the call, what came and what was due."""


class NotApplicable(Exception):
    """The case cannot be asked of this backend, or not here; the message says why."""


@dataclass(slots=True)
class Worst:
    """The largest error seen at one gate (`softbench.accuracy.gates.GATES`) and dtype, in the gate's unit."""

    max: float
    gate: float
    """The bound it is judged by: the contract's, or a declared one."""
    contract: float
    """The contract's own bound."""
    input: str
    """The call it was seen at."""
    case: str = ""


class Subject:
    """A backend being judged.

    Attributes
    ----------
    be
        The backend: a `softbench.front.backend.Backend`, or anything with its methods.
    cost
        ``compiled``, ``interpreted`` or ``simulated``: how much work cases ask for.
    deviations
        What the backend declares to do otherwise: pattern of case ids, or row of the contract, to reason (attribute
        ``deviations`` of its class).
    gates
        Looser bounds that it declares, by key of `softbench.accuracy.gates.GATES` (attribute ``gates``); None: the
        contract's.
    flushes_subnormals
        Whether it declares to return 0 for results below the normal range (attribute ``flushes_subnormals``).
    worst
        Largest error by (gate, dtype), filled by `judge`.
    """

    def __init__(self, be: Any, *, name: str | None = None, profile: str = "standard") -> None:
        rows = getattr(be, "rows", be)
        self.be = be
        self.rows = rows
        self.name: str = name or getattr(be, "name", None) or type(be).__name__
        self.kind: str = be.availability().kind if hasattr(be, "availability") else "cpu"
        self.host = self.kind == "cpu"
        self.cost: str = getattr(rows, "cost", "compiled")
        self.profile = profile
        self.deviations: dict[str, str] = dict(getattr(rows, "deviations", None) or {})
        self.gates: Mapping[str, Any] | None = getattr(rows, "gates", None)
        self.flushes_subnormals = bool(getattr(rows, "flushes_subnormals", False))
        self.worst: dict[tuple[str, str], Worst] = {}
        self.case = ""

    # -- sizes -----------------------------------------------------------------------------------------

    @property
    def max_k(self) -> int:
        """Most classes that a case may ask for, by cost."""
        return _MAX_K[self.cost]

    def ks(self, *ks: int) -> list[int]:
        """The numbers of classes among ``ks`` that this backend's cost allows; in a simulator two of them."""
        found = [k for k in ks if k <= self.max_k]
        return found if self.cost != "simulated" or len(found) < 3 else [found[len(found) // 2], found[-1]]

    def rows_of(self, k: int, rows: int) -> int:
        """At most ``rows`` rows of ``k`` classes, fewer for slow backends; at least 2."""
        return max(2, min(rows, _MAX_ROWS.get(self.cost, rows), _MAX_ELEMENTS[self.cost] // max(k, 1)))

    # -- calls -----------------------------------------------------------------------------------------

    def call(self, op: str, logits: Any, target: Any = None, /, **options: Any) -> Any:
        """Call a public function; ndarrays go through ``asarray``, results come back as ndarrays."""
        arguments = [self.put(logits)] if target is None else [self.put(logits), self.put(target)]
        options = {k: self.put(v) if k in _ARRAYS and v is not None else v for k, v in options.items()}
        result = getattr(self.be, op)(*arguments, **options)
        parts = result if isinstance(result, tuple) else (result,)
        for part in parts:
            if part is None or isinstance(part, (list, tuple, str)):  # NumPy would make an array of it
                raise Failure(f"{op} returned {type(part).__name__}, expected an array or a scalar of its dtype")
        return tuple(self.get(part) for part in parts) if isinstance(result, tuple) else self.get(result)

    def put(self, array: Any) -> Any:
        """An ndarray as an array of the backend; anything else as it is."""
        if not isinstance(array, np.ndarray) or self.host:
            return array
        return self.be.asarray(array)

    def get(self, array: Any) -> Array:
        """A result as an ndarray (0-d for scalars)."""
        to_numpy: Callable[[Any], Array] = getattr(self.be, "to_numpy", np.asarray)
        return to_numpy(array)

    # -- accuracy --------------------------------------------------------------------------------------

    def judge(
        self, op: str, result: Array, logits: Array, target: Any = None, /, *, made: str = "", **options: Any
    ) -> None:
        """Hold a result against the oracle and the gates of ``op``; remember the largest errors.

        ``made`` says how the logits were made, for a message in which they are too many to print.
        """
        from softbench.accuracy import gates

        asked = {key: value for key, value in options.items() if key not in ("out", "validate")}
        declared, flushes = self.gates, self.flushes_subnormals
        verdict = gates.judge(op, result, logits, target, declared=declared, flushes_subnormals=flushes, **asked)
        said = call_text(op, logits, target, options, made)
        dtype = result_dtype(np.asarray(logits).dtype.name) or "float64"
        for gate, stats in verdict.stats.items():
            if stats.count:
                self._remember(gate, dtype, float(stats.max), said)
        if not verdict.ok:
            raise Failure(f"{said}: {verdict.message}")

    def _remember(self, gate: str, dtype: str, error: float, said: str) -> None:
        """Keep the largest error of each gate and dtype."""
        from softbench.accuracy.gates import GATES

        seen = self.worst.get((gate, dtype))
        if seen is None or error > seen.max:
            own = GATES[gate].bounds[dtype]
            declared = self.gates.get(gate, own) if self.gates else own
            bound = declared.get(dtype, own) if isinstance(declared, Mapping) else declared
            self.worst[gate, dtype] = Worst(error, float(bound), own, said, self.case)

    def errors(self) -> list[dict[str, Any]]:
        """`worst` as plain rows for a report."""
        return [{"function": op, "dtype": dtype, **asdict(worst)} for (op, dtype), worst in sorted(self.worst.items())]


def load(spec: str) -> Any:
    """A backend from ``module:attribute``, the module found like a script's imports (the current folder first).

    The attribute is a subclass of `softbench.interface.RowBackend`, or a class or function that takes no argument
    and makes a `softbench.front.backend.Backend` or anything with its methods, or such an object itself.

    Raises
    ------
    UnknownBackendError
        No such module or attribute, or it is no backend; the message says which.
    """
    module_name, _, attribute = spec.partition(":")
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise UnknownBackendError(f"{spec!r}: no module named {error.name!r} here ({here}) or on sys.path") from error
    except Exception as error:  # somebody else's code
        raise UnknownBackendError(f"{spec!r}: importing {module_name} raises {error!r}") from error
    found: Any = module
    try:
        for part in attribute.split("."):
            found = getattr(found, part)
    except AttributeError as error:
        raise UnknownBackendError(f"{spec!r}: {error}") from None
    return build(found, spec)


def build(found: Any, spec: str) -> Any:
    """A backend from what `load` found."""
    try:
        made = found() if callable(found) and not isinstance(found, (RowBackend, Backend)) else found
    except Exception as error:  # an abstract class, a constructor with arguments, or one that fails
        raise UnknownBackendError(f"{spec!r} cannot be made: {error!r}") from error
    if isinstance(made, RowBackend):
        if not getattr(made, "name", None):
            type(made).name = type(made).__name__
        return Backend(made)
    missing = [name for name in _FUNCTIONS if not callable(getattr(made, name, None))]
    if missing:
        raise UnknownBackendError(
            f"{spec!r} is no backend: it is no softbench.interface.RowBackend and has no {', '.join(missing)}"
        )
    return made


# -- telling -------------------------------------------------------------------------------------------


def call_text(
    op: str, logits: Any, target: Any = None, options: Mapping[str, Any] | None = None, made: str = ""
) -> str:
    """A call as one would write it; large arrays by their form, or by how they were ``made``."""
    parts = [made or brief(logits)] + ([] if target is None else [brief(target)])
    parts += [f"{key}={brief(value)}" for key, value in (options or {}).items()]
    return f"{op}({', '.join(parts)})"


def brief(value: Any) -> str:
    """A value in a few words: small arrays in full, functions by name, large arrays by shape and ends."""
    if isinstance(value, list):
        return repr(value).replace(" ", "") if len(repr(value)) <= 80 else f"{type(value).__name__} of {len(value)}"
    if isinstance(value, (np.ndarray, np.generic)):
        array = np.asarray(value)
        form = f"{array.dtype.name}{list(array.shape)}"
        if array.size > 12:
            return f"<{form}>"
        return f"{array.tolist()!r}:{array.dtype.name}" if array.size else f"<{form}>"
    if inspect.isfunction(value):
        return value.__name__
    return repr(value) if len(repr(value)) <= 80 else type(value).__name__


def mismatch(result: Any, expected: Array, said: str, *, signed: bool = False, than: str = "") -> None:
    """`Failure` unless ``result`` equals ``expected`` in shape, dtype and every value.

    NaN equals NaN; -0 equals +0 unless ``signed``. ``than`` names what ``expected`` is.
    """
    result = np.asarray(result)
    if result.shape != expected.shape:
        raise Failure(f"{said} has shape {result.shape}, expected {expected.shape}{than}")
    if result.dtype != expected.dtype:
        raise Failure(f"{said} has dtype {result.dtype}, expected {expected.dtype}{than}")
    different = ~((result == expected) | ((result != result) & (expected != expected)))
    if signed and result.dtype.kind != "i":
        different |= (result == 0) & (np.signbit(result) != np.signbit(expected))
    if different.any():
        where = tuple(int(i) for i in np.argwhere(different)[0])
        count = int(np.count_nonzero(different))
        raise Failure(
            f"{said}{list(where) if where else ''} is {_value(result[where])}, expected {_value(expected[where])}{than}"
            + (f" ({count} of {different.size} entries differ)" if count > 1 else "")
        )


def near(a: Array, b: Array, gap: float, dtype: str, said: str, than: str) -> None:
    """`Failure` unless ``|a - b| <= gap`` spacings of ``dtype`` at the larger of both; NaN equals NaN."""
    spec = formats[dtype]
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    differ = ~((x == y) | ((x != x) & (y != y)))
    if not differ.any():
        return
    u, v = x[differ], np.broadcast_to(y, x.shape)[differ]
    with np.errstate(all="ignore"):
        _, exponent = np.frexp(np.maximum(np.abs(u), np.abs(v)))
        off = np.abs(u - v) / np.ldexp(1.0, np.maximum(exponent - 1, spec.emin) - spec.precision + 1)
    wrong = ~(off <= gap)
    if wrong.any():
        first = int(wrong.argmax())
        where = [int(i) for i in np.argwhere(differ)[first]]
        apart = float(off[first])
        raise Failure(
            f"{said}{where} is {float(u[first])!r}, {than} {float(v[first])!r}"
            + (f": {apart:.3g} ulp apart, more than {gap:g}" if np.isfinite(apart) else "")
        )


def _value(value: Any) -> str:
    return repr(value.item()) if value.dtype.kind in "iu" else f"{float(value)!r}"
