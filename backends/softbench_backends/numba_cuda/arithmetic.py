"""Error-free transformations and the exponential, as device functions of one dtype.

``exp(d + r) = f * 2^n`` is kept as that pair: ``f`` in about [0.7, 1.42] and an integer ``n``, so that a weight
or a divisor can be applied before the one rounding that may be subnormal. The reduction is Cody and Waite's with
fma, the polynomial (`EXPONENTIALS`) a minimax fit of ``(exp(t) - 1 - t) / t^2`` on [-ln 2 / 2, ln 2 / 2].
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np

from softbench_backends.numba_cuda.device import (
    add,
    bits32,
    bits64,
    device,
    exp2_approximate,
    float32_from_bits,
    float64_from_bits,
    fma,
)

__all__ = [
    "EXPONENTIALS",
    "RAISE",
    "UNIT",
    "Arithmetic",
    "added_pair",
    "arithmetic",
    "merge",
    "normalised",
    "product",
    "quotient",
    "scaled_pair",
]

Device = Callable[..., Any]

UNIT: Final = {"float16": 90, "bfloat16": 90, "float32": 90, "float64": 600}
"""Sums hold ``exp(d) * 2^UNIT``: terms far below the smallest normal number keep all their digits, and 2^31 of
them do not overflow."""

RAISE: Final = np.int64(600)
"""Sums of a row are also held in units of 2^-RAISE, for those that are subnormal themselves."""

EXPONENTIALS: Final = {
    "float32": (
        float.fromhex("0x1.fffffcp-2"),
        float.fromhex("0x1.555492p-3"),
        float.fromhex("0x1.5558f2p-5"),
        float.fromhex("0x1.1239d4p-7"),
        float.fromhex("0x1.6a244cp-10"),
    ),
    "float64": (
        float.fromhex("0x1.0000000000000p-1"),
        float.fromhex("0x1.555555555555bp-3"),
        float.fromhex("0x1.5555555555503p-5"),
        float.fromhex("0x1.111111110ec65p-7"),
        float.fromhex("0x1.6c16c16c30439p-10"),
        float.fromhex("0x1.a01a01b37b43bp-13"),
        float.fromhex("0x1.a01a01369f9a2p-16"),
        float.fromhex("0x1.71ddf02859008p-19"),
        float.fromhex("0x1.27e5b4337b3a6p-22"),
        float.fromhex("0x1.af6bda7b8afd2p-26"),
        float.fromhex("0x1.1e3d35f4ae3adp-29"),
    ),
}
"""``exp(t) = 1 + t + t^2 (c[0] + c[1] t + ...)`` for ``|t| <= ln(2) / 2``.

`python -m benchmarks.studies exponential` finds these coefficients. The polynomials themselves err by 0.046 ulp in
float32 (at t = -0.3466) and by 0.005 ulp in float64 (at t = 0.3466).
"""

_LOG2_E: Final = {"float32": "0x1.715476p+0", "float64": "0x1.71547652b82fep+0"}
_LN2: Final = {  # n * high is exact in the fma that subtracts it
    "float32": ("0x1.62e43p-1", "-0x1.05c61p-29"),
    "float64": ("0x1.62e42fefa39efp-1", "0x1.abc9e3b39803fp-56"),
}
_FORMAT: Final = {"float32": (24, 127), "float64": (53, 1023)}  # precision, exponent bias


class Arithmetic(NamedTuple):
    """Device functions for rows of one dtype, on the numbers that such rows are computed with."""

    two_sum: Device
    """``(a + b, its rounding error)``, exactly (Knuth, TAOCP vol. 2, 4.2.2)."""
    shift: Device
    """``(d, r)`` with ``x - m = d + r`` exactly; ``r = 0`` where ``d`` overflows or ``x`` is -inf."""
    exp_unit: Device
    """``exp(d + r) * 2^UNIT`` for ``d <= 0``; 0 below the range where that is a normal number."""
    expm1_parts: Device
    """``(f - 1, n)`` of `exp_parts`, without the rounding of ``f``."""
    exp_parts: Device
    """``(f, n)`` with ``exp(d + r) = f * 2^n``; ``n`` saturates so far down that every product rounds to 0."""
    scale: Device
    """``z * 2^n`` for ``z`` in [0.5, 4) or 0, rounded once; any int32 ``n``."""
    power: Device
    """``2^n``, ``n`` within the normal exponents."""
    accumulate: Device
    """``(high, low, y)`` to the sum ``(high, low)`` with ``y`` added, as exactly as the dtype needs."""


@functools.cache
def arithmetic(dtype: str) -> Arithmetic:
    """The device functions for rows of ``dtype``.

    Rows of half precision are rounded so coarsely at the end that three things can be cheap: the shift is one rounded
    subtraction, the exponential the card's own (its argument, near 100, errs by 2^-18, so that is the relative error:
    2^-6 of the spacing of float16 and 2^-9 of that of bfloat16), and exponentials are added plainly (up to some
    hundred of them per lane, 2^-17).
    """
    if dtype in ("float16", "bfloat16"):
        return _coarse(_exact("float32"))
    return _exact(dtype)


def _coarse(exact: Arithmetic) -> Arithmetic:
    log2_e, unit, floor = np.float32(math.log2(math.e)), np.float32(UNIT["float16"]), np.float32(-125.0)
    zero = np.float32(0.0)

    @device
    def shift(x: Any, m: Any) -> Any:
        return x - m, zero

    @device
    def exp_unit(d: Any, r: Any) -> Any:
        power = fma(d, log2_e, unit)
        return exp2_approximate(power) if power >= floor else zero

    @device
    def accumulate(high: Any, low: Any, y: Any) -> Any:
        return high + y, low

    return exact._replace(shift=shift, exp_unit=exp_unit, accumulate=accumulate)


@functools.cache
def _exact(dtype: str) -> Arithmetic:
    real = np.float32 if dtype == "float32" else np.float64
    integer = np.int32 if dtype == "float32" else np.int64
    bits, from_bits = (bits32, float32_from_bits) if dtype == "float32" else (bits64, float64_from_bits)
    precision, bias = _FORMAT[dtype]
    mantissa_bits = integer(precision - 1)
    exponent_bias = integer(bias)
    # Adding this rounds to an integer and leaves it in the low bits of the sum.
    rounder = real(1.5 * 2.0 ** (precision - 1))
    rounder_bits = np.asarray(rounder).view(integer)[()]
    log2_e = real(float.fromhex(_LOG2_E[dtype]))
    minus_ln2_high, minus_ln2_low = (real(-float.fromhex(part)) for part in _LN2[dtype])
    unit = integer(UNIT[dtype])
    # exp(d) * 2^UNIT is normal above this.
    unit_floor = real(-(UNIT[dtype] + bias - 2) * math.log(2.0))
    # 2^-4000 stays 0 after multiplying by any float64; the reduction is still exact here.
    parts_floor = real(-4000.0 * math.log(2.0))
    zero, one = real(0.0), real(1.0)
    largest = real(np.finfo(real).max)
    low, high = integer(2 - 2 * bias), integer(2 * bias)
    coefficients = tuple(real(c) for c in EXPONENTIALS[dtype])

    @device
    def two_sum(a: Any, b: Any) -> Any:
        s = add(a, b)
        t = add(s, -a)
        return s, add(add(a, -add(s, -t)), add(b, -t))

    @device
    def shift(x: Any, m: Any) -> Any:
        d = add(x, -m)
        t = add(d, -x)
        r = add(add(x, -add(d, -t)), -add(m, t))
        return d, (r if d >= -largest else zero)

    if dtype == "float32":
        c2, c3, c4, c5, c6 = coefficients

        @device
        def polynomial(t: Any) -> Any:
            q = fma(fma(fma(fma(c6, t, c5), t, c4), t, c3), t, c2)
            return fma(q, t * t, t)
    else:
        c2, c3, c4, c5, c6, c7, c8, c9, c10, c11, c12 = coefficients

        @device
        def polynomial(t: Any) -> Any:
            q = fma(fma(fma(c12, t, c11), t, c10), t, c9)
            q = fma(fma(fma(fma(q, t, c8), t, c7), t, c6), t, c5)
            q = fma(fma(fma(q, t, c4), t, c3), t, c2)
            return fma(q, t * t, t)

    @device
    def expm1_parts(d: Any, r: Any) -> Any:
        inside = d >= parts_floor
        d = d if inside else parts_floor
        shifted = fma(d, log2_e, rounder)
        n = add(shifted, -rounder)
        t = fma(n, minus_ln2_low, fma(n, minus_ln2_high, d))
        return polynomial(t + (r if inside else zero)), integer(bits(shifted) - rounder_bits)

    @device
    def power(n: Any) -> Any:
        return from_bits(integer(integer(n + exponent_bias) << mantissa_bits))

    @device
    def exp_unit(d: Any, r: Any) -> Any:
        inside = d >= unit_floor
        g, n = expm1_parts(d if inside else unit_floor, r)
        return (one + g) * power(integer(n + unit)) if inside else zero

    @device
    def exp_parts(d: Any, r: Any) -> Any:
        g, n = expm1_parts(d, r)
        return one + g, n

    @device
    def scale(z: Any, n: Any) -> Any:
        n = integer(n)
        n = n if n > low else low
        n = n if n < high else high
        half = integer(n >> integer(1))
        return z * power(half) * power(integer(n - half))

    @device
    def accumulate(high: Any, low: Any, y: Any) -> Any:
        high, error = two_sum(high, y)
        return high, low + error

    return Arithmetic(two_sum, shift, exp_unit, expm1_parts, exp_parts, scale, power, accumulate)


@device
def product(a: Any, b: Any) -> Any:
    """``a b`` as a pair, exactly."""
    p = a * b
    return p, fma(a, b, -p)


@device
def quotient(a: Any, a_low: Any, b: Any, b_low: Any) -> Any:
    """``(a + a_low) / (b + b_low)`` as a pair, of float64."""
    q = a / b
    rest = (fma(-q, b, a) + a_low) - q * b_low
    low = rest / b
    return q, (low if low - low == _ZERO else _ZERO)


@device
def scaled_pair(a: Any, a_low: Any, b: Any) -> Any:
    """``(a + a_low) b`` as a pair whose first part is the rounded product, of float64."""
    p, rest = product(a, b)
    rest = fma(a_low, b, rest)
    s = add(p, rest)  # fused with the product it would count the residue twice
    return s, (add(rest, -add(s, -p)) if s - s == _ZERO else _ZERO)


@device
def added_pair(a: Any, a_low: Any, b: Any, b_low: Any) -> Any:
    """``(a + a_low) + (b + b_low)`` as a pair whose first part is the rounded sum, of float64."""
    s, error = _two_sum(a, b)
    rest = error + (a_low + b_low)
    t = add(s, rest)
    return t, (add(rest, -add(t, -s)) if t - t == _ZERO else _ZERO)


_wide = arithmetic("float64")
_two_sum, _shift, _expm1_parts, _scale = _wide.two_sum, _wide.shift, _wide.expm1_parts, _wide.scale
_ZERO, _ONE, _EMPTY = np.float64(0.0), np.float64(1.0), np.float64(-np.inf)
_MANTISSA_BITS, _EXPONENTS, _BIAS = np.int64(52), np.int64(0x7FF), np.int64(1023)
_LIFT, _LIFT_BITS = np.float64(2.0**54), np.int64(54)
_NONE = np.int64(0)
_INFINITE = np.float64(np.inf)


@device
def normalised(a: Any) -> Any:
    """``(c, k)`` with ``a = c * 2^k``, ``1 <= c < 2``, for a float64 ``a >= 0``; 0, inf and NaN come with ``k = 0``."""
    k = _NONE
    bits = bits64(a)
    exponent = (bits >> _MANTISSA_BITS) & _EXPONENTS
    if exponent == _NONE:
        bits = bits64(a * _LIFT)
        exponent = (bits >> _MANTISSA_BITS) & _EXPONENTS
        k = -_LIFT_BITS
    if exponent in (_NONE, _EXPONENTS):
        return a, _NONE
    return float64_from_bits(bits - ((exponent - _BIAS) << _MANTISSA_BITS)), exponent - _BIAS + k


@device
def merge(
    m: Any, high: Any, low: Any, raised: Any, m_part: Any, high_part: Any, low_part: Any, raised_part: Any
) -> Any:
    """Join two parts of a row: their maxima ``m`` and ``s = high + low``, the sum without one argmax. All float64.

    ``raised`` is ``s * 2^RAISE``, which keeps its digits where ``s`` is subnormal, and is not used where it overflows.
    A part without finite entries has ``m = -inf`` and counts for nothing; a NaN maximum wins. Rescaling adds
    ``(1 + s) expm1(d)``, not ``(1 + s) exp(d)`` rounded: many small steps of the maximum do not add up to an error.
    """
    if m_part == _EMPTY or m != m:
        return m, high, low, raised
    if m == _EMPTY:
        return m_part, high_part, low_part, raised_part
    if m == m_part:
        s, error = _two_sum(high, high_part)
        s, tie = _two_sum(s, _ONE)
        return m, s, ((low + low_part) + error) + tie, _INFINITE  # s is at least 1
    if m > m_part:
        d, r = _shift(m_part, m)
        lesser, lesser_low = high_part, low_part
        top, base, base_low, base_raised = m, high, low, raised
    else:
        d, r = _shift(m, m_part)
        lesser, lesser_low = high, low
        top, base, base_low, base_raised = m_part, high_part, low_part, raised_part
    g, n = _expm1_parts(d, r)
    whole, whole_low = _two_sum(lesser, _ONE)
    whole_low += lesser_low
    whole, error = _two_sum(whole, fma(whole, g, fma(whole_low, g, whole_low)))
    s, rest = _two_sum(base, _scale(whole, n))
    return top, s, (base_low + _scale(error, n)) + rest, base_raised + _scale(whole, n + RAISE)
