"""The errors softbench raises by a name of its own.

Everything else is a built-in: ``TypeError`` for a wrong kind of argument, ``ValueError`` for a wrong
value, ``numpy.exceptions.AxisError`` for a wrong axis, ``MemoryError`` when an allocation fails.
"""

from __future__ import annotations

__all__ = ["BackendUnavailableError", "NotProvidedError", "UnknownBackendError"]


class UnknownBackendError(ValueError):
    """No backend has this name. The message lists the known names and the closest matches.

    Examples
    --------
    >>> import softbench as sb
    >>> try:
    ...     sb.softmax([0.0], backend="cuda")
    ... except ValueError as error:
    ...     print(type(error).__name__)
    UnknownBackendError
    """


class BackendUnavailableError(ImportError):
    """The backend exists but cannot run here. The message says why and what to install.

    Examples
    --------
    >>> import softbench as sb
    >>> issubclass(sb.BackendUnavailableError, ImportError)
    True
    """


class NotProvidedError(NotImplementedError):
    """The backend implements a part of the interface, and this call is not in it. The message names what it lacks.

    Examples
    --------
    >>> import softbench as sb
    >>> from softbench.interface import RowBackend
    >>> class OnlySoftmax(RowBackend):
    ...     name = "only_softmax"
    ...     provides = ("softmax",)
    ...     def softmax(self, x, out):
    ...         return sb.softmax(x, out=out)
    >>> sb.Backend(OnlySoftmax()).argmax([1.0, 2.0])
    Traceback (most recent call last):
        ...
    softbench.errors.NotProvidedError: backend 'only_softmax' does not provide argmax: it provides softmax
    """
