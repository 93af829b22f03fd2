"""Which sources this package was loaded from: compiled kernels on disk belong to them.

Kernels are compiled from what is in memory, and found on disk by a hash of what is in the files. So the files must be
the same from before the first module was imported until the hash is taken: otherwise there is no hash, and no cache.
"""

from __future__ import annotations

import functools
import hashlib
import os
import pkgutil
from importlib.machinery import PathFinder
from typing import Any, Final

__all__ = ["source_hash"]

_PACKAGE: Final = __name__.rpartition(".")[0]
_FOLDER: Final = os.path.dirname(__file__)


def _fingerprint() -> tuple[Any, ...]:
    """Sizes and times of what the package lies in: its files, or the archive."""
    path = _FOLDER
    while not os.path.exists(path) and path != os.path.dirname(path):
        path = os.path.dirname(path)
    if os.path.isdir(path):
        return tuple(
            sorted(
                (entry.name, entry.stat().st_size, entry.stat().st_mtime_ns)
                for entry in os.scandir(path)
                if entry.name.endswith((".py", ".pyc"))
            )
        )
    return path, os.stat(path).st_size, os.stat(path).st_mtime_ns


@functools.cache
def source_hash() -> str | None:
    """Hash of the package as it was loaded, from sources or compiled modules, folder or archive; None if unknown."""
    digest = hashlib.sha256()
    try:
        for name in sorted(["__init__", *(module.name for module in pkgutil.iter_modules([_FOLDER]))]):
            spec = PathFinder.find_spec(name, [_FOLDER])
            digest.update(name.encode())
            digest.update(spec.loader.get_data(spec.origin))  # type: ignore[union-attr]
        if _fingerprint() != _LOADED:
            return None
    except (OSError, AttributeError, TypeError, ImportError):  # a loader that gives no data
        return None
    return digest.hexdigest()


def _fingerprint_or_none() -> tuple[Any, ...] | None:
    try:
        return _fingerprint()
    except OSError:
        return None


_LOADED: Final = _fingerprint_or_none()
"""The files when the first module of the package was imported."""
