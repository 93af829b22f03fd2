"""What a backend declares about itself, checked for misspelt attributes, which would declare nothing."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Final, get_args

from softbench.accuracy.gates import GATES
from softbench.interface import FUNCTIONS, Kind, RowBackend
from softbench.interface.dtypes import formats

__all__ = ["COSTS", "problems"]

COSTS: Final = ("compiled", "interpreted", "simulated")


def problems(rows: Any) -> list[tuple[str, str]]:
    """What is wrong with the declarations of a backend: pairs of an attribute and a sentence about it.

    Parameters
    ----------
    rows
        A `softbench.interface.RowBackend`, or any other object that is judged as a backend.
    """
    found = [
        (name, problem)
        for name, judge in _DECLARATIONS.items()
        if (value := getattr(rows, name, None)) is not None
        for problem in judge(value)
    ]
    return found + list(_misspelt(rows))


def _one_of(known: Collection[str], value: Any, what: str) -> Iterator[str]:
    if not isinstance(value, str) or value not in known:
        close = difflib.get_close_matches(str(value).lower(), known, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        yield f"{what} {value!r} is not known: {hint}known are {', '.join(known)}"


def _cost(value: Any) -> Iterator[str]:
    yield from _one_of(COSTS, value, "cost")


def _kind(value: Any) -> Iterator[str]:
    yield from _one_of(get_args(Kind), value, "kind")


def _name(value: Any) -> Iterator[str]:
    if not isinstance(value, str) or not value.isidentifier():
        yield f"name is {value!r}, expected an identifier"


def _is_collection(value: Any) -> bool:
    return isinstance(value, Collection) and not isinstance(value, (str, bytes, Mapping))


def _dtypes(value: Any) -> Iterator[str]:
    if not _is_collection(value) or not value:
        yield f"dtypes is {value!r}, expected a set of names of dtypes"
        return
    for dtype in value:
        yield from _one_of(tuple(formats), dtype, "dtype")


def _functions(name: str, empty: bool = False) -> Callable[[Any], Iterator[str]]:
    def judge(value: Any) -> Iterator[str]:
        if not _is_collection(value) or not (value or empty):
            yield f"{name} is {value!r}, expected a set of names of functions"
            return
        for function in value:
            yield from _one_of(FUNCTIONS, function, "function")

    return judge


def _flag(name: str) -> Callable[[Any], Iterator[str]]:
    def judge(value: Any) -> Iterator[str]:
        if not isinstance(value, bool):
            yield f"{name} is {value!r}, expected True or False"

    return judge


def _modules(value: Any) -> Iterator[str]:
    if not _is_collection(value) or not all(isinstance(module, str) for module in value):
        yield f"requires is {value!r}, expected a tuple of names of modules"


def _deviations(value: Any) -> Iterator[str]:
    if not isinstance(value, Mapping):
        yield f"deviations is {value!r}, expected a mapping from rows or cases to reasons"
        return
    for key, why in value.items():
        if not isinstance(key, str) or not isinstance(why, str) or not why.strip():
            yield f"deviations has {key!r}: {why!r}, expected a row or a pattern of case ids, and a reason"


def _gates(value: Any) -> Iterator[str]:
    if not isinstance(value, Mapping):
        yield f"gates is {value!r}, expected a mapping from names of gates to bounds"
        return
    for name, bound in value.items():
        yield from _one_of(tuple(GATES), name, "gate")
        by_dtype = bound if isinstance(bound, Mapping) else {"float64": bound}
        for dtype, number in by_dtype.items():
            yield from _one_of(tuple(formats), dtype, f"dtype of gate {name!r},")
            if isinstance(number, bool) or not isinstance(number, (int, float)) or not number >= 0:
                yield f"gate {name!r} is bounded by {number!r}, expected a number >= 0"


_DECLARATIONS: Final[dict[str, Callable[[Any], Iterator[str]]]] = {
    "name": _name,
    "kind": _kind,
    "cost": _cost,
    "requires": _modules,
    "dtypes": _dtypes,
    "accepts_strided": _flag("accepts_strided"),
    "native_loss": _flag("native_loss"),
    "writes_out": _functions("writes_out", empty=True),
    "compiles_per_shape": _flag("compiles_per_shape"),
    "provides": _functions("provides"),
    "deviations": _deviations,
    "gates": _gates,
    "flushes_subnormals": _flag("flushes_subnormals"),
}
"""Declared attributes, each with what is wrong with a value of it."""


def _misspelt(rows: Any) -> Iterator[tuple[str, str]]:
    """Attributes of the backend's classes whose name and value look like a declaration's."""
    for cls in type(rows).__mro__:
        if cls is RowBackend or not issubclass(cls, RowBackend):
            continue
        for name, value in vars(cls).items():
            close = difflib.get_close_matches(name.lower(), _DECLARATIONS, n=1, cutoff=0.8)
            if not close or hasattr(RowBackend, name) or name in _DECLARATIONS or callable(value):
                continue
            if not any(_DECLARATIONS[close[0]](value)):  # it would do as one
                yield name, f"attribute {name!r} is not read by softbench: did you mean {close[0]!r}?"
