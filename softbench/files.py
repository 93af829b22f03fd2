"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

__all__ = ["clear", "write_whole"]


def clear(path: Path) -> None:
    """Remove what is at ``path``, and see that a file can be written there: before a long job, not after it.

    An old report must not be taken for that of a job that fails. What is no regular file (a terminal, a pipe) stays.

    Raises
    ------
    OSError
        Nothing can be written there.
    """
    if _is_special(path):
        return
    part = _part(path)
    try:
        part.touch()
        path.unlink(missing_ok=True)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        part.unlink(missing_ok=True)


def write_whole(path: Path, data: bytes) -> None:
    """Put a file with ``data`` at ``path`` in one step, in place of one that is there.

    Raises
    ------
    OSError
        It could not be written, for instance because the disk is full; what was there before is there still.
    """
    if _is_special(path):
        with path.open("wb", buffering=0) as file:
            file.write(data)
        return
    part = _part(path)
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def _part(path: Path) -> Path:
    """A name beside ``path``, of this process alone."""
    return path.with_name(f".{path.name}.{os.getpid()}.part")


def _is_special(path: Path) -> bool:
    try:
        return not stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return False
