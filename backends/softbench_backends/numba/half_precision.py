"""float16 and bfloat16: how kernels read and write them. They compute in float32.

A number is widened in a register after it has been read, and rounded there before it is written: no copy of the rows
in float32 is ever in memory. Rounding is to nearest, ties to even, subnormal results included, whatever the thread's
flush-to-zero mode; NaN becomes a quiet NaN of the same sign.

float16 is converted by the processor's own instructions where it has any, else by integer arithmetic, to the same bits.
bfloat16 is the upper half of a float32. The instructions that round to it (AVX512_BF16) take subnormal numbers for 0:
they are used where there are none.
"""

# mypy: allow-subclassing-any
from __future__ import annotations

from typing import Any, Final

from llvmlite import ir

from softbench_backends.numba.lanes import Lanes, absolute, select
from softbench_backends.numba.processor import converts_float16, rounds_bfloat16
from softbench_backends.numba.vector_types import BFLOAT16, Half

__all__ = ["narrow", "widen"]


_INF: Final = 0x7F800000  # of float32; the bits of a NaN, without its sign, are above
_QUIET: Final = 0x00400000


def widen(context: Any, half: Half, bits: Lanes) -> Lanes:
    """float32 numbers from the ``bits`` of ``half`` ones, 16 of each."""
    if half == BFLOAT16:
        return (bits.unsigned(32) << 16).as_float()
    if converts_float16(context):
        return bits.as_float().to(32)
    return _widened_float16(bits.unsigned(32))


class _Bfloat(ir.Type):
    """LLVM's bfloat16, which llvmlite does not name."""

    def _to_string(self) -> str:
        return "bfloat"


def narrow(context: Any, half: Half, x: Lanes, normal: bool = False) -> Lanes:
    """The bits, 16 of each, of float32 numbers rounded to ``half`` ones; ``normal``: none of them is subnormal."""
    if half == BFLOAT16:
        return _rounded_by_instruction(x) if normal and rounds_bfloat16(context) else _rounded_bfloat16(x)
    if converts_float16(context):
        return x.to(16).as_bits()
    return _rounded_float16(x)


def _widened_float16(bits: Lanes) -> Lanes:
    magnitude = (bits & 0x7FFF) << 13
    # The exponent's bias grows by 112. It does so twice for infinities and NaN, which keep the largest exponent.
    normal = magnitude + (112 << 23)
    special = (magnitude + (224 << 23)) | select(magnitude.equals(31 << 23), magnitude.constant(0), _QUIET)
    # Of subnormal numbers the bits are those of a normal one, too large by 2^-14.
    subnormal = ((normal + (1 << 23)).as_float() - 2.0**-14).as_bits()
    wide = select(magnitude < 1 << 23, subnormal, select(magnitude < 31 << 23, normal, special))
    return (wide | ((bits & 0x8000) << 16)).as_float()


def _rounded_float16(x: Lanes) -> Lanes:
    bits = x.as_bits()
    magnitude = bits & 0x7FFFFFFF
    # Half of the last place kept, less what would round a tie to an odd number up.
    rounded = (magnitude - ((112 << 23) - 0xFFF) + ((magnitude >> 13) & 1)) >> 13
    # The last place of 1/2 is the subnormal unit: adding it rounds smaller numbers, whose places are fixed.
    subnormal = (absolute(x) + 0.5).as_bits() - (126 << 23)
    large = select(magnitude > _INF, magnitude.constant(0x7E00) | ((magnitude >> 13) & 0x1FF), 0x7C00)
    finite = select(magnitude < 113 << 23, subnormal, rounded)
    return (select(magnitude < 0x477FF000, finite, large) | ((bits >> 16) & 0x8000)).to_integer(16)


def _rounded_by_instruction(x: Lanes) -> Lanes:
    rounded = x.builder.fptrunc(x.value, ir.VectorType(_Bfloat(), x.n))
    return Lanes(x.builder, x.builder.bitcast(rounded, ir.VectorType(ir.IntType(16), x.n)))


def _rounded_bfloat16(x: Lanes) -> Lanes:
    bits = x.as_bits()
    rounded = bits + 0x7FFF + ((bits >> 16) & 1)
    return (select(x.is_nan(), bits | _QUIET, rounded) >> 16).to_integer(16)
