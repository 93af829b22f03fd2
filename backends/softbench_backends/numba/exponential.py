"""Error-free transformations, and the exponential of a row's differences from its maximum, on lanes.

Notation, as in `softbench.interface`: ``m`` is the maximum of a row, ``d + r = x - m`` exactly, ``s`` the sum
of ``exp(x_k - m)`` over all ``k`` but one argmax, ``S = 1 + s`` and ``L = log1p(s)``.

Exponentials are kept times a power of two, ``2^c`` (a prime marks it: ``e' = 2^c e``, ``s' = 2^c s``), because
a probability may be subnormal where its exponential times a weight is not: a subnormal has lost digits, and a
weight would magnify that loss. The scale leaves with the last rounding (`probability`).
Sums are float64: of float32 terms that is wide enough; of float64 terms a second float64, ``lo``, carries the
rounding errors.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

from softbench_backends.numba.lanes import Lanes, absolute, fma, multiply_add, select
from softbench_backends.numba.processor import has_fma

LN2: Final = 0.6931471805599453
LN2_HIGH: Final = 6.93147180369123816490e-01  # 21 trailing zero bits: k times it is exact (fdlibm)
LN2_LOW: Final = 1.90821492927058770002e-10


class _Format(NamedTuple):
    """What the blocks need to know of a floating-point format."""

    mantissa: int
    bias: int
    c: int
    """Exponentials are scaled by 2^c; 4 of them still add up without overflow."""
    ln2: tuple[float, float]
    """ln 2 as a number of the format and the rest of it."""
    short_ln2: tuple[float, float]
    """The same with so few bits in the first part that its product with an exponent is exact."""
    near: float
    """Exponentials of differences above ``-near`` are normal numbers, and so are their products with factors within
    ``factors``."""
    factors: tuple[float, float]
    exp: tuple[float, ...]
    """exp(t) = 1 + t + t^2 (exp[0] + exp[1] t + ...) for |t| <= ln(2)/2: minimax in the relative error (Remez)."""

    @property
    def low(self) -> float:
        """Differences below this one have an exponential of zero, scaled or not."""
        return -(self.c + self.bias) * LN2


# Coefficients are those that `python -m benchmarks.studies exponential` finds. The polynomials themselves are off by
# 0.045 ulp in float32 (at t = -0.346574) and 0.071 ulp in float64 (at t = -0.335780) at most.
FORMATS: Final = {
    32: _Format(
        mantissa=23,
        bias=127,
        c=124,
        near=60.0,
        factors=(2.0**-38, 2.0**100),
        ln2=(0.693147182464599609375, -1.904654299957767878541823431924500011926579e-9),
        short_ln2=(355 / 512, LN2 - 355 / 512),
        exp=(
            float.fromhex("0x1.fffffcp-2"),
            float.fromhex("0x1.555492p-3"),
            float.fromhex("0x1.5558f2p-5"),
            float.fromhex("0x1.1239d4p-7"),
            float.fromhex("0x1.6a244cp-10"),
        ),
    ),
    64: _Format(
        mantissa=52,
        bias=1023,
        c=900,
        near=600.0,
        factors=(2.0**-150, 2.0**1000),
        ln2=(LN2, 2.319046813846299558417771e-17),
        short_ln2=(LN2_HIGH, LN2_LOW),
        exp=(
            float.fromhex("0x1.000000000000ap-1"),
            float.fromhex("0x1.55555555554fap-3"),
            float.fromhex("0x1.555555555088cp-5"),
            float.fromhex("0x1.1111111127b9dp-7"),
            float.fromhex("0x1.6c16c184266dep-10"),
            float.fromhex("0x1.a01a012a69052p-13"),
            float.fromhex("0x1.a0199a16df60cp-16"),
            float.fromhex("0x1.71df253be4167p-19"),
            float.fromhex("0x1.28ad68a509e1dp-22"),
            float.fromhex("0x1.ad7f77fea9c8ap-26"),
        ),
    ),
}
# The same of two degrees less: off by 68.7 ulp in float32 at most (at t = -0.260045), a hundredth of one in float16.
COARSE_EXPONENTIAL: Final = (
    float.fromhex("0x1.0006b4p-1"),
    float.fromhex("0x1.571caap-3"),
    float.fromhex("0x1.5225b6p-5"),
)
EXPONENTIALS: Final = {f"float{bits}": fmt.exp for bits, fmt in FORMATS.items()}


# -- error-free transformations -------------------------------------------------------------------------------


def two_sum(a: Lanes, b: Lanes) -> tuple[Lanes, Lanes]:
    """``a + b`` and its rounding error, exactly (Knuth)."""
    s = a + b
    t = s - a
    return s, (a - (s - t)) + (b - t)


def two_diff(a: Lanes, b: Lanes) -> tuple[Lanes, Lanes]:
    """``a - b`` and its rounding error, exactly (Knuth)."""
    d = a - b
    t = d - a
    return d, (a - (d - t)) - (b + t)


def fast_two_diff(a: Lanes, b: Lanes) -> tuple[Lanes, Lanes]:
    """`two_diff` where the exponent of ``a`` is at most that of ``b`` (Dekker)."""
    d = a - b
    return d, a - (d + b)


def two_product(a: Lanes, b: Lanes) -> tuple[Lanes, Lanes]:
    """``a b`` and its rounding error, exactly."""
    p = a * b
    return p, fma(a, b, -p)


def quotient(nh: Lanes, nl: Lanes, dh: Lanes, dl: Lanes) -> tuple[Lanes, Lanes]:
    """``(nh + nl) / (dh + dl)`` as a number and a correction; a quotient that is not finite has none."""
    q = nh / dh
    rest = (fma(-q, dh, nh) + nl) - q * dl
    correction = rest / dh
    return q, select(absolute(correction) < math.inf, correction, 0.0)


# -- the exponential ------------------------------------------------------------------------------------------


def _reduced(d: Lanes, r: Lanes, c: int) -> tuple[Lanes, Lanes, Lanes]:
    """``2^(n + c)`` and two parts of ``t``, where ``d + r = n ln 2 + t`` and ``|t| <= ln(2) / 2``."""
    fmt = FORMATS[d.bits]
    # n = round(d log2(e)), by adding 1.5 2^mantissa; what is added besides makes the low bits of the sum the
    # biased exponent of 2^(n + c).
    magic = float(3 << (fmt.mantissa - 1)) + c + fmt.bias
    z = multiply_add(d, 1.0 / LN2, magic)
    n = z - magic
    high, low = fmt.ln2 if has_fma() else fmt.short_ln2
    return (z.as_bits() << fmt.mantissa).as_float(), multiply_add(n, -high, d), multiply_add(n, -low, r)


def _reduced_anywhere(x: Lanes, m: Lanes) -> tuple[Lanes, Lanes, Lanes]:
    """`_reduced` of ``x - m`` with the format's ``c``, however far down ``x`` is."""
    fmt = FORMATS[x.bits]
    d, r = two_diff(x, m)
    r = select(d > fmt.low, r, 0.0)  # far down r is huge, or NaN where the difference overflowed
    d = select(d < fmt.low, fmt.low, d)  # there the biased exponent is 0, that of the number 0
    return _reduced(d, r, fmt.c)


def _horner(t: Lanes, coefficients: tuple[float, ...]) -> Lanes:
    p = t.constant(coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        p = multiply_add(p, t, coefficient)
    return p


def shifted_exp(x: Lanes, m: Lanes) -> Lanes:
    """``e'``: the scaled exponential of ``x - m``; exactly 0 far down, NaN for NaN."""
    scale, high, low = _reduced_anywhere(x, m)
    return _horner(high + low, (1.0, 1.0, *FORMATS[x.bits].exp)) * scale


def narrow_exp(x: Lanes, m: Lanes) -> Lanes:
    """``e``: the exponential of ``x - m``, not scaled, for differences above ``-near`` (`is_narrow`) only; or NaN."""
    return _narrow_exp(*two_diff(x, m))


def dominated_exp(x: Lanes, m: Lanes) -> Lanes:
    """`narrow_exp` of rows that are also `max_dominates`: the same bits in three operations less."""
    return _narrow_exp(*fast_two_diff(x, m))


def _narrow_exp(d: Lanes, r: Lanes) -> Lanes:
    scale, high, low = _reduced(d, r, 0)
    return _horner(high + low, (1.0, 1.0, *FORMATS[d.bits].exp)) * scale


def coarse_exp(x: Lanes, m: Lanes) -> Lanes:
    """`narrow_exp` for results in half precision: within 2^-16.5, less than a fortieth of a unit of float16.

    Half of that is the polynomial's. The rest is the rounding of the difference, which is none where ``x`` and ``m``
    are in half precision and of like size.
    """
    if not has_fma():
        return narrow_exp(x, m)
    d = x - m
    fmt = FORMATS[d.bits]
    magic = float(3 << (fmt.mantissa - 1)) + fmt.bias
    z = fma(d, 1.0 / LN2, magic)
    scale = (z.as_bits() << fmt.mantissa).as_float()
    return _horner(fma(z - magic, -fmt.ln2[0], d), (1.0, 1.0, *COARSE_EXPONENTIAL)) * scale


def precise_exp(x: Lanes, m: Lanes) -> tuple[Lanes, Lanes]:
    """`shifted_exp` and a correction: together within a small part of an ulp."""
    scale, high, low = _reduced_anywhere(x, m)
    t, rest = two_sum(high, low)
    p = t + 1.0
    lost = t - (p - 1.0)
    rest = multiply_add(_horner(t, FORMATS[x.bits].exp), t * t, multiply_add(rest, t, rest)) + lost
    return p * scale, rest * scale


def difference(x: Lanes, m: Lanes) -> tuple[Lanes, Lanes]:
    """``d, r`` in float64; ``r = 0`` where ``d`` overflows."""
    d, r = two_diff(x.to(64), m.to(64))
    return d, select(d > -math.inf, r, 0.0)
