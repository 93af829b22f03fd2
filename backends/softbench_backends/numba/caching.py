"""Compiled kernels on disk, thrown away as soon as any source of this package changes.

Numba's own cache watches the file of the compiled function only, not those of the functions it calls.
"""

# mypy: allow-subclassing-any
from __future__ import annotations

import contextlib
import functools
import hashlib
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from numba.core.caching import FunctionCache, IndexDataCacheFile
from numba.core.runtime import rtsys

__all__ = ["has_place", "keep_on_disk"]


@functools.cache
def source_hash() -> str:
    """Hash of the sources of this package."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


class _PackageCache(FunctionCache):
    """Numba's cache with the whole package as its source, and without a say in whether a call succeeds."""

    def __init__(self, py_func: Any) -> None:
        super().__init__(py_func)
        self._cache_file = IndexDataCacheFile(self._cache_path, self._impl.filename_base, source_hash())

    def _index_key(self, sig: Any, codegen: Any) -> Any:
        # The stamp stands for the code; what is left of Numba's key are the types and the processor.
        return sig, codegen.magic_tuple()

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        # As the base class, but for `target_context.refresh()`: it imports and registers what compiling needs (and does
        # so again before it compiles), which takes longer than to load a kernel. Memory management is part of it.
        rtsys.initialize(target_context)
        with self._guard_against_spurious_io_errors():
            return self._load_overload(sig, target_context)

    @contextlib.contextmanager
    def _guard_against_spurious_io_errors(self) -> Iterator[None]:
        # A full disk or a damaged file costs a compilation, nothing else.
        with contextlib.suppress(OSError, EOFError, pickle.PickleError):
            yield


def has_place() -> bool:
    """Whether there is a folder that compiled kernels can be kept in."""
    try:
        _PackageCache(has_place)
    except RuntimeError:  # as in `keep_on_disk`
        return False
    return True


def keep_on_disk(dispatcher: Any) -> Any:
    """Let a Numba dispatcher load and save what it compiles; without a place to write it goes without."""
    with contextlib.suppress(RuntimeError):  # Numba found no writable place
        dispatcher._cache = _PackageCache(dispatcher.py_func)
    return dispatcher
