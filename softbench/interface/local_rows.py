"""Row kernels of another backend by name, for a backend that hands blocks of a call to one: it knows no other itself.

The registry says here how backends are found when it is imported, which ``import softbench`` does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from softbench.interface.row_backend import RowBackend

__all__ = ["local_rows", "set_finder"]

_finders: list[Callable[[str], RowBackend]] = []


def set_finder(find: Callable[[str], RowBackend]) -> None:
    """Say how backends are found by name."""
    _finders[:] = [find]


def local_rows(name: str) -> RowBackend:
    """The row kernels of the backend of this name. UnknownBackendError, BackendUnavailableError."""
    return _finders[0](name)
