"""Methods of `softbench.Backend` have the documentation of the functions of the same name, but for the backend."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable
from typing import Any, Final

__all__ = ["describe_methods", "without_backend"]

_ENTRIES: Final = re.compile(
    r"^(?:backend : str or Backend, optional|UnknownBackendError, BackendUnavailableError)\n(?: +.*\n)+", re.MULTILINE
)
_EMPTY: Final = re.compile(r"^Raises\n-+\n(?=\n)", re.MULTILINE)


def describe_methods(cls: type, functions: Iterable[Callable[..., Any]]) -> None:
    """Give the methods of a class the docstrings of public functions, where Python keeps any (not with ``-OO``)."""
    for function in functions:
        if function.__doc__:
            getattr(cls, function.__name__).__doc__ = without_backend(function.__doc__)


def without_backend(text: str) -> str:
    """A docstring without the parameter ``backend``, and the errors that only a choice of one raises."""
    return _EMPTY.sub("", _ENTRIES.sub("", inspect.cleandoc(text) + "\n"))
