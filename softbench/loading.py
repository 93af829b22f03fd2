"""Backends of one's own, by where they are: ``module:attribute``, and functions by what they are besides."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import sys
from dataclasses import asdict, dataclass
from typing import Any, Final

from softbench.errors import UnknownBackendError
from softbench.front.backend import Backend
from softbench.interface import FUNCTIONS, RowBackend
from softbench.registry import get_backend

__all__ = ["Source", "build", "find", "load"]

_AS: Final = " as "


@dataclass(frozen=True)
class Source:
    """Where a backend comes from, in words that another process understands."""

    spec: str
    """The name of a backend, or ``module:attribute``."""
    op: str = ""
    """If the attribute is a function with a result of its own: what it computes, the name of a public function."""
    library: str = ""
    """Whose arrays the function takes; empty: found out."""
    dtypes: tuple[str, ...] = ()
    """Dtypes of logits that it is asked for; empty: all that it takes."""
    options: tuple[tuple[str, str], ...] = ()
    """Names and values of options of a backend that has a name: see `softbench.get_backend`."""

    @classmethod
    def of(cls, text: str) -> Source:
        """The source that a text means: a name, ``module:attribute``, or ``module:function as op``."""
        spec, _, op = text.partition(_AS)
        return cls(spec, op)

    @classmethod
    def from_json(cls, text: str) -> Source:
        """The source that another process wrote by `to_json`."""
        found = json.loads(text)
        pairs = tuple((name, value) for name, value in found["options"])
        return cls(**{**found, "dtypes": tuple(found["dtypes"]), "options": pairs})

    def to_json(self) -> str:
        """All that `from_json` needs, as text for a command line."""
        return json.dumps(asdict(self))

    def __str__(self) -> str:
        return f"{self.spec}{_AS}{self.op}" if self.op else self.spec

    def load(self) -> Any:
        """The backend; raises as `softbench.get_backend`, `load` and `softbench.functions.backend_of` do."""
        if not self.op:
            named = ":" not in self.spec
            return get_backend(self.spec, **dict(self.options)) if named else build(find(self.spec), self.spec)
        from softbench.functions import backend_of

        function = find(self.spec)
        try:
            return backend_of(function, self.op, library=self.library or None, dtypes=self.dtypes or None)
        except TypeError as error:
            raise UnknownBackendError(f"{self.spec!r}: {error}") from None


def load(spec: str) -> Any:
    """A backend from ``module:attribute``, the module found like a script's imports (the current folder first).

    The attribute is a subclass of `softbench.interface.RowBackend`, or a class or function that takes no argument
    and makes a `softbench.front.backend.Backend` or anything with its methods, or such an object itself.

    Raises
    ------
    UnknownBackendError
        No such module or attribute, or it is no backend; the message says which.
    """
    return Source.of(spec).load()


def find(spec: str) -> Any:
    """What is at ``module:attribute``; raises as `load` does."""
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
    return found


def build(found: Any, spec: str) -> Any:
    """A backend from what `load` found."""
    try:
        made = found() if callable(found) and not isinstance(found, (RowBackend, Backend)) else found
    except Exception as error:  # an abstract class, a constructor with arguments, or one that fails
        hint = f"; if it is a function of logits, say which: --as OP, or {spec + _AS + 'OP'!r}"
        hint = hint if inspect.isroutine(found) else ""
        raise UnknownBackendError(f"{spec!r} cannot be made: {error!r}{hint}") from error
    if isinstance(made, RowBackend):
        if not getattr(made, "name", None):
            type(made).name = type(made).__name__
        return Backend(made)
    provides = getattr(made, "provides", FUNCTIONS)
    missing = [name for name in FUNCTIONS if name in provides and not callable(getattr(made, name, None))]
    if missing:
        raise UnknownBackendError(
            f"{spec!r} is no backend: it is no softbench.interface.RowBackend and has no {', '.join(missing)}"
        )
    return made
