"""Arithmetic as IEEE 754 has it, whatever the calling thread is set to.

Two settings of a thread change what NumPy makes of the same numbers. `numpy.errstate` turns an underflow into a warning
or an error. And a processor can be told to take subnormal numbers for 0 ("flush to zero", "denormals are zero"): code
built with ``-ffast-math`` does so when it is loaded, ``torch.set_flush_denormal(True)`` when it is called.

>>> with ieee_arithmetic():
...     flushes_subnormals()
False
"""

from __future__ import annotations

import ctypes
import functools
import struct
import sys
from collections.abc import Callable
from typing import Any, Final, ParamSpec, TypeVar

import numpy as np

__all__ = [
    "FAR_FROM_SUBNORMAL",
    "FLUSH_TO_ZERO",
    "c_library",
    "can_restore",
    "flushes_subnormals",
    "ieee_arithmetic",
    "in_ieee_arithmetic",
]

P = ParamSpec("P")
R = TypeVar("R")

# Not a literal: a compiler that flushes would read 0.
_TINY: Final[float] = struct.unpack("<d", b"\1" + bytes(7))[0]
_ENVIRONMENT_BYTES: Final = 256  # more than any fenv_t has
_DEFAULT: Final = ctypes.c_void_p(-1)  # FE_DFL_ENV of the GNU C library and of musl


FAR_FROM_SUBNORMAL: Final = 1e-280
"""A sum of positive numbers beyond this is the same, whatever becomes of subnormal ones."""


def flushes_subnormals() -> bool:
    """Whether this thread takes subnormal numbers for 0."""
    return not _TINY + _TINY


@functools.cache
def c_library() -> Any:
    """What has ``fegetenv`` and ``fesetenv``; None where their default environment is not known here."""
    if not sys.platform.startswith("linux"):
        return None
    for name in (None, "libm.so.6"):
        try:
            library = ctypes.CDLL(name)
            library.fegetenv, library.fesetenv  # noqa: B018  # AttributeError
        except (OSError, AttributeError):
            continue
        return library
    return None


def can_restore() -> bool:
    """Whether `ieee_arithmetic` can set a thread's flush-to-zero mode aside on this system."""
    return c_library() is not None


FLUSH_TO_ZERO: Final = {True: "set aside during calls", False: "followed: subnormal numbers count as 0 where it is on"}
"""What `softbench.interface.RowBackend.info` says of the mode, by `can_restore`."""


class ieee_arithmetic:
    """Context in which this thread keeps subnormal numbers, and NumPy neither warns nor raises.

    What the thread was set to is there again afterwards. The mode of other threads is theirs.
    """

    __slots__ = ("_environment", "_errors")

    def __enter__(self) -> None:
        self._errors = np.errstate(all="ignore")
        self._errors.__enter__()
        self._environment = None
        if flushes_subnormals() and (library := c_library()) is not None:
            self._environment = ctypes.create_string_buffer(_ENVIRONMENT_BYTES)
            library.fegetenv(self._environment)
            library.fesetenv(_DEFAULT)

    def __exit__(self, *exception: Any) -> None:
        if self._environment is not None:
            c_library().fesetenv(self._environment)
        self._errors.__exit__(*exception)


def in_ieee_arithmetic(function: Callable[P, R]) -> Callable[P, R]:
    """A function whose calls are within `ieee_arithmetic`."""

    @functools.wraps(function)
    def call(*arguments: P.args, **options: P.kwargs) -> R:
        with ieee_arithmetic():
            return function(*arguments, **options)

    return call
