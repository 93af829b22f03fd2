"""Data from elsewhere, held against the types that describe it (`typing.TypedDict` and what it is made of)."""

from __future__ import annotations

import math
import types
from dataclasses import dataclass
from typing import (
    Annotated,
    Any,
    Final,
    Literal,
    NotRequired,
    Required,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

__all__ = ["AtLeast", "MoreThan", "SchemaError", "parsed"]

_NOT_FINITE: Final = ("nan", "inf", "-inf")


class SchemaError(ValueError):
    """A value that is not what its field is to hold; the text names the field, what came and what was expected."""


@dataclass(frozen=True, slots=True)
class MoreThan:
    """A bound of a finite number, for `typing.Annotated`."""

    bound: float

    def __call__(self, value: float) -> bool:
        """Whether the number is within the bound."""
        return self.bound < value < math.inf

    def __str__(self) -> str:
        return f"more than {self.bound:g}"


@dataclass(frozen=True, slots=True)
class AtLeast:
    """The same with the bound included."""

    bound: float

    def __call__(self, value: float) -> bool:
        """Whether the number is within the bound."""
        return self.bound <= value < math.inf

    def __str__(self) -> str:
        return f"at least {self.bound:g}"


def parsed(value: Any, kind: Any, path: str = "") -> Any:
    """A value of JSON as a value of a type.

    Parameters
    ----------
    value
        What `json.loads` gave. Numbers that JSON cannot hold may be the strings ``"nan"``, ``"inf"``, ``"-inf"``.
    kind
        The type: a TypedDict (unknown fields are kept as they are), list, dict, tuple, Literal, union, Annotated with
        `MoreThan` or `AtLeast`, a scalar, Any.
    path
        Where the value is, for messages.

    Raises
    ------
    SchemaError
        The first field that does not fit.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Required, NotRequired):
        return parsed(value, arguments[0], path)
    if origin is Annotated:
        found = parsed(value, arguments[0], path)
        for bound in arguments[1:]:
            if not bound(found):
                raise _unlike(path, value, f"a number {bound}")
        return found
    if origin in (Union, types.UnionType):
        return _one_of(value, arguments, path)
    if kind is Any:
        return value
    if is_typeddict(kind):
        return _fields(value, kind, path)
    if origin is Literal:
        if value not in arguments:
            raise _unlike(path, value, f"one of {', '.join(map(repr, arguments))}")
        return value
    if origin is list:
        return [parsed(item, arguments[0], f"{path}[{i}]") for i, item in enumerate(_a(list, value, path))]
    if origin is tuple:
        if len(_a(list, value, path)) != len(arguments):
            raise _unlike(path, value, f"a list of {len(arguments)}")
        return tuple(parsed(v, a, f"{path}[{i}]") for i, (v, a) in enumerate(zip(value, arguments, strict=True)))
    if origin is dict:
        return {key: parsed(item, arguments[1], _join(path, key)) for key, item in _a(dict, value, path).items()}
    return _scalar(value, kind, path)


def _fields(value: Any, kind: Any, path: str) -> dict[str, Any]:
    hints = get_type_hints(kind, include_extras=True)
    given = _a(dict, value, path)
    for name, hint in hints.items():  # not __required_keys__, which does not see through postponed annotations
        required = get_origin(hint) is Required or (kind.__total__ and get_origin(hint) is not NotRequired)
        if required and name not in given:
            raise SchemaError(f"{_join(path, name)} is missing")
    return {
        name: parsed(item, hints[name], _join(path, name)) if name in hints else item for name, item in given.items()
    }


def _one_of(value: Any, kinds: tuple[Any, ...], path: str) -> Any:
    if value is None and type(None) in kinds:
        return None
    others = [kind for kind in kinds if kind is not type(None)]
    for kind in others[:-1]:
        try:
            return parsed(value, kind, path)
        except SchemaError:
            continue
    return parsed(value, others[-1], path)


_NAMES: Final = {
    str: "text", bool: "true or false", int: "a whole number", float: "a number", list: "a list", dict: "an object",
    type(None): "null",
}  # fmt: skip


def _scalar(value: Any, kind: Any, path: str) -> Any:
    if kind is float:
        if isinstance(value, str) and value in _NOT_FINITE:
            return float(value)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
    elif kind is int:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    elif isinstance(value, kind):
        return value
    raise _unlike(path, value, _NAMES[kind])


def _a(kind: type, value: Any, path: str) -> Any:
    if not isinstance(value, kind):
        raise _unlike(path, value, _NAMES[kind])
    return value


def _unlike(path: str, value: Any, expected: str) -> SchemaError:
    shown = repr(value)
    if isinstance(value, float) and math.isnan(value):
        shown = "nan"
    return SchemaError(f"{path or 'the document'} is {shown[:60]}, expected {expected}")


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
