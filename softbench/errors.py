"""The errors softbench raises by a name of its own.

Everything else is a built-in: ``TypeError`` for a wrong kind of argument, ``ValueError`` for a wrong
value, ``numpy.exceptions.AxisError`` for a wrong axis, ``MemoryError`` when an allocation fails.
"""

from __future__ import annotations

__all__ = ["BackendUnavailableError", "NotProvidedError", "UnknownBackendError"]


class UnknownBackendError(ValueError):
    """No backend has this name. The message lists the known names and the closest matches."""


class BackendUnavailableError(ImportError):
    """The backend exists but cannot run here. The message says why and what to install."""


class NotProvidedError(NotImplementedError):
    """The backend implements a part of the interface, and this call is not in it. The message names what it lacks."""
