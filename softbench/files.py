"""Files that are written whole or not at all, and under names that nobody else has."""

from __future__ import annotations

import contextlib
import itertools
import os
import stat
from pathlib import Path

__all__ = ["clear", "write_new", "write_whole"]


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


def write_new(path: Path, data: bytes) -> Path:
    """Write a file under a name that no file has: ``path``, or with ``-2``, ``-3`` and so on before its suffix.

    Several processes may do so at once; each gets a file of its own.

    Returns
    -------
    Path
        The name it has got.

    Raises
    ------
    OSError
        It could not be written; then nothing is left behind.
    """
    for number in itertools.count(1):
        claimed = path if number == 1 else path.with_stem(f"{path.stem}-{number}")
        try:
            os.close(os.open(claimed, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        except FileExistsError:
            continue
        try:
            write_whole(claimed, data)
        except BaseException:
            claimed.unlink(missing_ok=True)
            raise
        return claimed
    raise AssertionError("unreachable: numbers do not end")


def _part(path: Path) -> Path:
    """A name beside ``path``, of this process alone."""
    return path.with_name(f".{path.name}.{os.getpid()}.part")


def _is_special(path: Path) -> bool:
    try:
        return not stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return False
