"""The words in which a failure is told, and the comparisons that tell it."""

from __future__ import annotations

import contextlib
import inspect
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from softbench.interface.dtypes import formats

__all__ = [
    "Failure",
    "LazyText",
    "NotApplicable",
    "NotRefused",
    "brief",
    "call_text",
    "crash",
    "mismatch",
    "near",
    "told",
]

Array = np.ndarray[Any, Any]


class Failure(AssertionError):
    """The backend broke the contract; the message shows the call, what came and what was due.

    Examples
    --------
    >>> from softbench.conformance import Failure
    >>> issubclass(Failure, AssertionError)
    True
    """


class NotRefused(Failure):
    """The backend accepts what it must refuse, or refuses it in another way."""


class NotApplicable(Exception):
    """The case cannot be asked of this backend, or not here; the message says why."""


class LazyText:
    """A text that is made when somebody reads it: most calls are right, and nobody does."""

    def __init__(self, make: Callable[[], str]) -> None:
        self._make = make

    def __str__(self) -> str:
        return self._make()


@contextlib.contextmanager
def told(said: str) -> Iterator[None]:
    """Put the call before the message of a failure."""
    try:
        yield
    except Failure as failure:
        raise Failure(f"{said}: {failure}") from None


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


def mismatch(result: Any, expected: Array, said: str | LazyText, *, signed: bool = False, than: str = "") -> None:
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


def crash(error: BaseException) -> str:
    """An exception in one line, with the last place outside the kit where it passed."""
    frames = traceback.extract_tb(error.__traceback__)
    kit = str(Path(__file__).parent)
    ours = [f for f in frames if not f.filename.startswith(kit)] or frames
    where = f" at {Path(ours[-1].filename).name}:{ours[-1].lineno} in {ours[-1].name}" if ours else ""
    return f"{type(error).__name__}: {error}{where}"
