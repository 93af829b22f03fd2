"""float16 and bfloat16 to float32 and back, with NumPy, in a fraction of the time of `numpy.ndarray.astype`.

NumPy converts float16 one number at a time, and to it with a call for every number that underflows (100 times the time
of the others), because it raises the floating-point flag for each. Here a table widens, and integer arithmetic on
blocks rounds. Results have the bits that ``astype`` gives, but for NaN, which become quiet; nothing is flagged.
bfloat16 (`ml_dtypes`) has no flags, and ``astype`` is fast.
"""

from __future__ import annotations

import functools
from typing import Any, Final

import numpy as np

__all__ = ["is_half", "narrow", "widen"]

Array = Any

_FLOAT16: Final = np.dtype("float16")
_FLOAT32: Final = np.dtype("float32")
_BLOCK: Final = 1 << 15
"""Numbers that are converted at a time: all that is kept of them stays in the second-level cache."""

# Bits of float32 numbers.
_LEAST_NORMAL: Final = np.uint32(113 << 23)  # of float16: 2^-14
_ONE_HALF: Final = np.uint32(126 << 23)
_MAGNITUDE: Final = np.uint32(0x7FFFFFFF)
_INF: Final = np.uint32(0x7F800000)
# Bits of float16 numbers.
_INF16: Final = np.uint32(0x7C00)
_LEAST_NORMAL16: Final = np.uint32(0x0400)
_SIGN16: Final = np.uint32(0x8000)
_QUIET16: Final = np.uint16(0x7E00)


def is_half(dtype: Any) -> bool:
    """Whether a NumPy dtype is float16, in any byte order, or bfloat16."""
    return bool(dtype.itemsize == 2 and (dtype.kind == "f" or dtype.name == "bfloat16"))


@functools.cache
def _every_float16() -> Array:
    """Every float16 number as a float32, by its bits."""
    with np.errstate(all="ignore"):
        return np.arange(1 << 16).astype(np.uint16).view(np.float16).astype(np.float32)


def widen(x: Array) -> Array:
    """Numbers in half precision as float32, in C order; others as they are."""
    if not is_half(x.dtype):
        return x
    if x.dtype.kind != "f":
        return x.astype(np.float32)
    bits = np.ascontiguousarray(x, _FLOAT16).view(np.uint16).reshape(-1)
    wide = np.empty(bits.size, np.float32)
    for start in range(0, bits.size, _BLOCK):  # NumPy makes 64-bit indices of them
        some = slice(start, start + _BLOCK)
        np.take(_every_float16(), bits[some], out=wide[some], mode="clip")  # without a look at their range
    return wide.reshape(x.shape)


def narrow(x: Array, out: Array) -> None:
    """Write float32 numbers, rounded to nearest, ties to even, into ``out`` in half precision, of the same shape."""
    if out.dtype != _FLOAT16 or x.dtype != _FLOAT32:
        with np.errstate(all="ignore"):
            np.copyto(out, x, casting="same_kind")
        return
    if not (out.flags.c_contiguous and out.flags.aligned):
        contiguous = np.empty(out.shape, np.float16)
        narrow(x, contiguous)
        np.copyto(out, contiguous)
        return
    bits = np.ascontiguousarray(x).view(np.uint32).reshape(-1)
    rounded = out.view(np.uint16).reshape(-1)
    work = np.empty((3, min(_BLOCK, max(bits.size, 1))), np.uint32)
    for start in range(0, bits.size, _BLOCK):
        some = bits[start : start + _BLOCK]
        _round(some, rounded[start : start + _BLOCK], *work[:, : some.size])


def _round(bits: Array, out: Array, magnitude: Array, small: Array, odd: Array) -> None:
    """Bits of float32 numbers to those of float16 ones; the last three are for intermediate results."""
    np.bitwise_and(bits, _MAGNITUDE, out=magnitude)
    nan = magnitude.max() > _INF
    # Subnormal results count units of 2^-24, the last place of 1/2: adding it rounds them. Of numbers from 2^-14 on,
    # this part stops there, so that nothing but the other one remains.
    np.minimum(magnitude, _LEAST_NORMAL, out=small)
    subnormal = small.view(np.float32)
    subnormal += np.float32(0.5)
    small -= _ONE_HALF + _LEAST_NORMAL16
    # Normal results: half of the last place kept is added, less where that would round a tie to an odd number.
    np.maximum(magnitude, _LEAST_NORMAL, out=magnitude)
    np.right_shift(magnitude, 13, out=odd)
    odd &= np.uint32(1)
    magnitude += odd
    magnitude -= np.uint32((112 << 23) - 0xFFF)
    magnitude >>= np.uint32(13)
    np.minimum(magnitude, _INF16, out=magnitude)
    magnitude += small
    np.right_shift(bits, 16, out=odd)
    odd &= _SIGN16
    magnitude |= odd
    np.copyto(out, magnitude, casting="unsafe")
    if nan:
        out[np.isnan(bits.view(np.float32))] |= _QUIET16
