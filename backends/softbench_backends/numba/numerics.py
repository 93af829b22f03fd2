"""The arithmetic of softmax on lanes: every formula of this package, once, for float32, float64 and any width.

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
from collections.abc import Callable
from typing import Final, NamedTuple

from softbench_backends.numba.lanes import Lanes, absolute, fma, multiply_add, select
from softbench_backends.numba.processor import has_fma

LN2: Final = 0.6931471805599453
_LN2_HIGH: Final = 6.93147180369123816490e-01  # 21 trailing zero bits: k times it is exact (fdlibm)
_LN2_LOW: Final = 1.90821492927058770002e-10


# exp(t) = 1 + t + t^2 (_COARSE_EXP[0] + _COARSE_EXP[1] t + ...), as `_Format.exp`: within 2^-23.
_COARSE_EXP: Final = (
    float.fromhex("0x1.fffdfcp-2"),
    float.fromhex("0x1.5557aep-3"),
    float.fromhex("0x1.572a06p-5"),
    float.fromhex("0x1.10627ap-7"),
)


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
_FORMATS: Final = {
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
        short_ln2=(_LN2_HIGH, _LN2_LOW),
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

EXPONENTIALS: Final = {f"float{bits}": fmt.exp for bits, fmt in _FORMATS.items()}
"""Coefficients by dtype; ``python -m benchmarks.studies exponential`` finds them."""

# log(1 + f) = 2 z + z (w^2 polynomial), z = f / (2 + f): fdlibm's s_log1p.c (Sun Microsystems, 1993).
_LOG: Final = (
    6.666666666666735130e-01,
    3.999999999940941908e-01,
    2.857142874366239149e-01,
    2.222219843214978396e-01,
    1.818357216161805012e-01,
    1.531383769920937332e-01,
    1.479819860511658591e-01,
)
_SQRT_HALF: Final = 0x3FE6A09E00000000  # bits of the number below sqrt(1/2) that a logarithm's argument is scaled to
_ONE: Final = 0x3FF0000000000000  # bits of 1.0


# -- error-free transformations ---------------------------------------------------------------------------


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


# -- the exponential ----------------------------------------------------------------------------------------


def _reduced(d: Lanes, r: Lanes, c: int) -> tuple[Lanes, Lanes, Lanes]:
    """``2^(n + c)`` and two parts of ``t``, where ``d + r = n ln 2 + t`` and ``|t| <= ln(2) / 2``."""
    fmt = _FORMATS[d.bits]
    # n = round(d log2(e)), by adding 1.5 2^mantissa; what is added besides makes the low bits of the sum the
    # biased exponent of 2^(n + c).
    magic = float(3 << (fmt.mantissa - 1)) + c + fmt.bias
    z = multiply_add(d, 1.0 / LN2, magic)
    n = z - magic
    high, low = fmt.ln2 if has_fma() else fmt.short_ln2
    return (z.as_bits() << fmt.mantissa).as_float(), multiply_add(n, -high, d), multiply_add(n, -low, r)


def _reduced_anywhere(x: Lanes, m: Lanes) -> tuple[Lanes, Lanes, Lanes]:
    """`_reduced` of ``x - m`` with the format's ``c``, however far down ``x`` is."""
    fmt = _FORMATS[x.bits]
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
    return _horner(high + low, (1.0, 1.0, *_FORMATS[x.bits].exp)) * scale


def narrow_exp(x: Lanes, m: Lanes) -> Lanes:
    """``e``: the exponential of ``x - m``, not scaled, for differences above ``-near`` (`is_narrow`) only; or NaN."""
    return _narrow_exp(*two_diff(x, m))


def dominated_exp(x: Lanes, m: Lanes) -> Lanes:
    """`narrow_exp` of rows that are also `max_dominates`: the same bits in three operations less."""
    return _narrow_exp(*fast_two_diff(x, m))


def _narrow_exp(d: Lanes, r: Lanes) -> Lanes:
    scale, high, low = _reduced(d, r, 0)
    return _horner(high + low, (1.0, 1.0, *_FORMATS[d.bits].exp)) * scale


def coarse_exp(x: Lanes, m: Lanes) -> Lanes:
    """`narrow_exp` for results in half precision: within 2^-18, a sixty-fourth of a unit of float16.

    Most of that is the rounding of the difference, which is none where ``x`` and ``m`` are in half precision and of
    like size.
    """
    if not has_fma():
        return narrow_exp(x, m)
    d = x - m
    fmt = _FORMATS[d.bits]
    magic = float(3 << (fmt.mantissa - 1)) + fmt.bias
    z = fma(d, 1.0 / LN2, magic)
    scale = (z.as_bits() << fmt.mantissa).as_float()
    return _horner(fma(z - magic, -fmt.ln2[0], d), (1.0, 1.0, *_COARSE_EXP)) * scale


def precise_exp(x: Lanes, m: Lanes) -> tuple[Lanes, Lanes]:
    """`shifted_exp` and a correction: together within a small part of an ulp."""
    scale, high, low = _reduced_anywhere(x, m)
    t, rest = two_sum(high, low)
    p = t + 1.0
    lost = t - (p - 1.0)
    rest = multiply_add(_horner(t, _FORMATS[x.bits].exp), t * t, multiply_add(rest, t, rest)) + lost
    return p * scale, rest * scale


def difference(x: Lanes, m: Lanes) -> tuple[Lanes, Lanes]:
    """``d, r`` in float64; ``r = 0`` where ``d`` overflows."""
    d, r = two_diff(x.to(64), m.to(64))
    return d, select(d > -math.inf, r, 0.0)


# -- pass one: the maximum ----------------------------------------------------------------------------------


def fmax(best: Lanes, x: Lanes) -> Lanes:
    """The maximum so far; passes over NaN (which the sum will meet)."""
    return select(x > best, x, best)


def fmin(least: Lanes, x: Lanes) -> Lanes:
    """The minimum so far; passes over NaN."""
    return select(x < least, x, least)


def _over_lanes(v: Lanes, better: Callable[[Lanes, Lanes], Lanes]) -> Lanes:
    while v.n > 1:
        v = better(*v.halves())
    return v


def reduce_fmin(v: Lanes) -> Lanes:
    """The minimum over the lanes."""
    return _over_lanes(v, fmin)


def is_narrow(m: Lanes, least: Lanes) -> Lanes:
    """Whether a row from ``least`` to its maximum is narrow enough for `narrow_exp`; not if an end is infinite."""
    return (m - least < _FORMATS[m.bits].near) & (absolute(m) < math.inf)


def is_finite(a: Lanes) -> Lanes:
    """Neither infinite nor NaN."""
    return absolute(a) < math.inf


def both(a: Lanes, b: Lanes) -> Lanes:
    """Lanes that are set in both of two masks."""
    return a & b


def widened(a: Lanes) -> Lanes:
    """``a`` in float64."""
    return a.to(64)


def max_dominates(m: Lanes, least: Lanes) -> Lanes:
    """Whether no number from ``least`` to ``m`` has an exponent above that of ``m``."""
    unit = 1 << _FORMATS[m.bits].mantissa
    power = ((m.as_bits() & -unit) + unit).as_float()  # the next power of two
    return (m > 0.0) & (least > -power)


def all_lanes(mask: Lanes) -> Lanes:
    """Whether all lanes of a mask are set."""
    return ~(~mask).any()


def reduce_fmax(v: Lanes) -> Lanes:
    """The maximum over the lanes."""
    return _over_lanes(v, fmax)


def min_int(a: Lanes, b: Lanes) -> Lanes:
    """The smaller of two integers, as `min`, which Numba would compile along."""
    return select(a < b, a, b)


def nan_seen(seen: Lanes, x: Lanes) -> Lanes:
    """NaN in the lanes that met a NaN so far."""
    return select(x.is_nan(), x, seen)


def first_match(x: Lanes, m: Lanes) -> Lanes:
    """Number of the first lane equal to ``m``, or NaN if ``m`` is; as many as there are lanes if there is none."""
    m = m.to(x.bits).splat(x.n)
    return (x.equals(m) | (x.is_nan() & m.is_nan())).first_set()


def running_argmax(best: Lanes, at: Lanes, x: Lanes, c: Lanes) -> tuple[Lanes, Lanes]:
    """The first maximum so far, or the first NaN, and its class, after class ``c`` with logits ``x``."""
    ahead = ((x > best) | x.is_nan()) & ~best.is_nan()
    return select(ahead, x, best), select(ahead, c, at)


# -- pass two: the sum of the others ------------------------------------------------------------------------


def exp_term(x: Lanes, m: Lanes) -> tuple[Lanes, Lanes, Lanes]:
    """``e'``, the same with 0 for every argmax, and how many argmaxes there are."""
    e = shifted_exp(x, m)
    return e, *without_argmaxes(e, x, m)


def without_argmaxes(e: Lanes, x: Lanes, m: Lanes) -> tuple[Lanes, Lanes]:
    """``e`` with 0 for every argmax, and how many argmaxes there are."""
    top = x.equals(m)
    return select(top, 0.0, e), top.count()


def scaled_sum(m: Lanes, hi: Lanes, lo: Lanes) -> tuple[Lanes, Lanes]:
    """A sum of `narrow_exp` and its correction as those of `shifted_exp`."""
    one = math.ldexp(1.0, _FORMATS[m.bits].c)
    return hi * one, lo * one


def lane_exp_term(x: Lanes, m: Lanes, argmaxes: Lanes) -> tuple[Lanes, Lanes, Lanes]:
    """As `exp_term` where every lane is a row of its own: the argmaxes so far are counted lane by lane."""
    return _lane_exp_term(shifted_exp(x, m), x, m, argmaxes)


def narrow_lane_exp_term(x: Lanes, m: Lanes, argmaxes: Lanes) -> tuple[Lanes, Lanes, Lanes]:
    """`lane_exp_term` with `narrow_exp`."""
    return _lane_exp_term(narrow_exp(x, m), x, m, argmaxes)


def _lane_exp_term(e: Lanes, x: Lanes, m: Lanes, argmaxes: Lanes) -> tuple[Lanes, Lanes, Lanes]:
    top = x.equals(m)
    return e, select(top, 0.0, e), argmaxes + select(top, argmaxes.constant(1.0), 0.0)


def min_positive_start(like: Lanes) -> Lanes:
    """Nothing yet, for `min_positive`."""
    return (like - like).as_bits().constant(-1)


def min_positive(so_far: Lanes, e: Lanes) -> Lanes:
    """The smallest positive number so far, as its bits less 1; lane by lane, a group of vectors into one."""
    candidates = e.as_bits() - 1
    while candidates.n > so_far.n:
        lower, upper = candidates.halves()
        candidates = select(lower.below(upper), lower, upper)
    return select(candidates.below(so_far), candidates, so_far)


def reduce_min_positive(so_far: Lanes) -> Lanes:
    """The smallest over the lanes, as the number."""
    while so_far.n > 1:
        a, b = so_far.halves()
        so_far = select(a.below(b), a, b)
    return min_positive_lanes(so_far)


def min_positive_lanes(so_far: Lanes) -> Lanes:
    """The smallest of every lane, as the number; 0 where there was none."""
    return (so_far + 1).as_float()


def smaller_positive(a: Lanes, b: Lanes) -> Lanes:
    """The smaller of two numbers, of which the second may be a 0 that does not count."""
    b = b.to(a.bits)
    return select((b > 0.0) & (b < a), b, a)


def precise_term(x: Lanes, m: Lanes) -> tuple[Lanes, Lanes]:
    """`precise_exp`, with 0 for every argmax."""
    e, e_lo = precise_exp(x, m)
    top = x.equals(m)
    return select(top, 0.0, e), select(top, 0.0, e_lo)


def accumulator(like: Lanes) -> tuple[Lanes, Lanes]:
    """An empty sum of vectors like this one: float64 lanes and their compensation."""
    zero = (like - like).to(64).constant(0.0)
    return zero, zero


def accumulate(hi: Lanes, lo: Lanes, a: Lanes) -> tuple[Lanes, Lanes]:
    """Add a vector, or a group of them (first to each other, in their own precision), to a sum."""
    while a.n > hi.n:
        lower, upper = a.halves()
        a = lower + upper
    if a.bits == 32:
        return hi + a.to(64), lo
    hi, error = two_sum(hi, a)
    return hi, lo + error


def reduce_sum(hi: Lanes, lo: Lanes) -> tuple[Lanes, Lanes]:
    """Sum over the lanes, as a number and its correction."""
    while hi.n > 1:
        (a, b), (c, d) = hi.halves(), lo.halves()
        hi, error = two_sum(a, b)
        lo = (c + d) + error
    return hi, lo


def reduce_term_sum(like: Lanes, hi: Lanes, lo: Lanes) -> tuple[Lanes, Lanes]:
    """`reduce_sum` of a sum of terms like this one: a float64 sum of float32 terms needs no correction."""
    if like.bits == 64:
        return reduce_sum(hi, lo)
    while hi.n > 1:
        lower, upper = hi.halves()
        hi = lower + upper
    return hi, hi.constant(0.0)


def add_sums(hi: Lanes, lo: Lanes, more: Lanes, less: Lanes) -> tuple[Lanes, Lanes]:
    """Sum of two sums."""
    hi, error = two_sum(hi, more)
    return hi, (lo + less) + error


def sum_excluding_max(m: Lanes, hi: Lanes, lo: Lanes, argmaxes: Lanes) -> tuple[Lanes, Lanes]:
    """``s'`` and its correction: the sum of the terms below ``m`` and all argmaxes but one.

    NaN where ``m`` is infinite: such rows, like those that hold a NaN, have no softmax.
    """
    one = math.ldexp(1.0, _FORMATS[m.bits].c)
    s, error = two_sum(hi, (argmaxes.to(64) - 1.0) * one)
    lo = lo + error
    total = s + lo
    lo = lo - (total - s)
    return select(absolute(m).to(64) < math.inf, total, math.nan), lo


# -- what a row's sum becomes -------------------------------------------------------------------------------


def _log1p(s: Lanes, lo: Lanes) -> Lanes:
    u, error = two_sum(s.constant(1.0), s)
    bits = u.as_bits() + (_ONE - _SQRT_HALF)
    # Exponents as numbers: or-ed into 2^52, whose last place is 1.
    k = ((bits >> 52) | 0x4330000000000000).as_float() - (2.0**52 + 1023)
    scaled = ((bits & (2**52 - 1)) + _SQRT_HALF).as_float()
    small = k.equals(0.0)
    f = select(small, s, scaled - 1.0)
    correction = select(small, lo, lo + error) / u
    half_square = f * 0.5 * f
    z = f / (f + 2.0)
    w = z * z
    p = w.constant(_LOG[-1])
    for coefficient in _LOG[-2::-1]:
        p = multiply_add(p, w, coefficient)
    return k * _LN2_HIGH - ((half_square - (multiply_add(z, half_square + p * w, k * _LN2_LOW + correction))) - f)


def log_sum(m: Lanes, s: Lanes, lo: Lanes) -> Lanes:
    """``L = log1p(s)``, within an ulp of float64."""
    unit = math.ldexp(1.0, -_FORMATS[m.bits].c)
    return _log1p(s * unit, lo * unit)


def logsumexp(m: Lanes, s: Lanes, lo: Lanes, terms: Lanes) -> Lanes:
    """``m + L``; where ``m`` is infinite, ``m`` itself, unless a NaN is among the ``terms`` of the sum."""
    infinite = absolute(m).equals(math.inf)
    return select(infinite & ~terms.is_nan(), m.to(64), m.to(64) + log_sum(m, s, lo))


def _weight_over_sum(m: Lanes, s: Lanes, lo: Lanes, weight_hi: Lanes, weight_lo: Lanes) -> tuple[Lanes, Lanes]:
    """``(weight_hi + weight_lo) / S`` and a correction."""
    unit = math.ldexp(1.0, -_FORMATS[m.bits].c)
    s = s * unit
    if m.bits == 32:
        return weight_hi / (s + 1.0), s.constant(0.0)
    high, low = two_sum(s.constant(1.0), s)
    return two_sum(*quotient(weight_hi, weight_lo, high, low + lo * unit))


def factor(m: Lanes, s: Lanes, lo: Lanes, weight_hi: Lanes, weight_lo: Lanes) -> tuple[Lanes, Lanes, Lanes]:
    """``weight / S`` as ``(f + h) g``, such that ``(e' f) g`` neither overflows nor underflows on its way.

    The weight is ``weight_hi + weight_lo``; ``h`` is a correction; ``g``, a power of two, undoes the scale of ``e'``.
    """
    fmt = _FORMATS[m.bits]
    f, h = _weight_over_sum(m, s, lo, weight_hi, weight_lo)
    # A factor above 1 leaves its exponent k to g.
    k = ((f.as_bits() >> 52) & 0x7FF) - 1023
    k = select(k < 0, k.constant(0), k)
    most = min(fmt.c + fmt.bias, 1022)
    k = select(k > most, k.constant(most), k)
    down = ((1023 - k) << 52).as_float()
    return f * down, h * down, ((k + (1023 - fmt.c)) << 52).as_float()


def narrow_factor(m: Lanes, s: Lanes, lo: Lanes, weight_hi: Lanes, weight_lo: Lanes) -> tuple[Lanes, Lanes]:
    """What turns `narrow_exp` into weighted probabilities, and whether all of these will be normal numbers.

    To the bit what `probability` multiplies by.
    """
    fmt = _FORMATS[m.bits]
    whole, _ = _weight_over_sum(m, s, lo, weight_hi, weight_lo)
    return whole.to(m.bits), (whole > fmt.factors[0]) & (whole < fmt.factors[1])


def probability(e: Lanes, f: Lanes, g: Lanes) -> Lanes:
    """``e' f g``."""
    return e * f.to(e.bits) * g.to(e.bits)


def times(e: Lanes, f: Lanes) -> Lanes:
    """``e f``."""
    return e * f


def _subnormal(p: Lanes) -> Lanes:
    return (p.as_bits() - 1).below((1 << _FORMATS[p.bits].mantissa) - 1)


def any_subnormal(p: Lanes) -> Lanes:
    """Whether any lane holds a positive subnormal number."""
    return _subnormal(p).any()


def precise_probability(p: Lanes, x: Lanes, m: Lanes, f: Lanes, h: Lanes, g: Lanes) -> Lanes:
    """``p``, but where it is subnormal ``e' (f + h) g``, all but exact before it is rounded: right to one unit.

    Next below the normal numbers that unit is half of what `probability` may be off.
    """
    e, e_lo = precise_exp(x, m)
    factor_high = f.to(e.bits)
    factor_low = ((f - factor_high.to(64)) + h).to(e.bits)
    product, error = two_product(e, factor_high.splat(e.n) if factor_high.n == 1 else factor_high)
    rest = fma(e, factor_low, fma(e_lo, factor_high, error))
    scale = g.to(e.bits)
    return select(_subnormal(p), (product + rest) * scale, p)


def any_vanishing(m: Lanes, e: Lanes, f: Lanes, g: Lanes) -> Lanes:
    """Whether any row has, with ``e'`` the smallest of its exponentials, a subnormal probability."""
    return _vanishing(m, e, f, g).any()


def _vanishing(m: Lanes, e: Lanes, f: Lanes, g: Lanes) -> Lanes:
    return e.to(64) * f * g < math.ldexp(1.0, 1 - _FORMATS[m.bits].bias)


def refined_sum(
    m: Lanes, e: Lanes, f: Lanes, g: Lanes, hi: Lanes, lo: Lanes, better: Lanes, rest: Lanes
) -> tuple[Lanes, Lanes]:
    """The sum ``hi + lo`` of a row, or a ``better`` one with its ``rest`` where a probability `any_vanishing`."""
    mask = _vanishing(m, e, f, g)
    return select(mask, better, hi), select(mask, rest, lo)


def log_probability(x: Lanes, m: Lanes, log: Lanes) -> Lanes:
    """``(d - L) + r``: both parts are negative, nothing cancels."""
    d, r = two_diff(x, m)
    return (d - log.to(x.bits)) + select(d > -math.inf, r, 0.0)


# -- index targets ------------------------------------------------------------------------------------------


def _weighted_log(m: Lanes, s: Lanes, weight: Lanes, otherwise: Lanes) -> Lanes:
    """``L weight`` where ``L = s`` is so small that it has all its digits as ``s'`` only."""
    if m.bits == 32:
        return otherwise
    tiny = (s < 2.0**-60) & (s > 0.0)
    return select(tiny, (s * weight) * math.ldexp(1.0, -_FORMATS[64].c), otherwise)


def index_loss(m: Lanes, s: Lanes, log: Lanes, y: Lanes, weight: Lanes) -> Lanes:
    """``weight (lse - y)`` in float64, ``y`` the logit of the label: ``L - (d + r)``, never ``lse - y``."""
    d, r = difference(y, m)
    loss = weight * ((log - d) - r)
    loss = select(weight.equals(0.0), weight * log, loss)  # it contributes 0, also where the class is absent
    return select(d.equals(0.0), _weighted_log(m, s, weight, loss), loss)


def label_entry(m: Lanes, s: Lanes, lo: Lanes, y: Lanes, f: Lanes, h: Lanes, g: Lanes, weight_hi: Lanes) -> Lanes:
    """Gradient at the label in float64: minus ``weight_hi`` times the *others* over ``S`` (``p - 1`` would cancel)."""
    one = math.ldexp(1.0, _FORMATS[m.bits].c)
    e, e_lo = precise_exp(y, m)
    e, e_lo = e.to(64), e_lo.to(64)
    total, error = two_sum(s.constant(one), s)
    high, low = two_sum(total - e, (error + lo) - e_lo)
    top = y.equals(m)
    high, low = select(top, s, high), select(top, lo, low)
    product, error = two_product(high, f)
    entry = (product + fma(high, h, fma(low, f, error))) * g
    # Without the label's own probability it is exactly the weight.
    return 0.0 - select(e.equals(0.0) & (s < math.inf), weight_hi, entry)


def rounded_like(like: Lanes, a: Lanes) -> Lanes:
    """``a`` in the precision of ``like``."""
    return a.to(like.bits)


def select_label(chosen: Lanes, x: Lanes, labels: Lanes, c: Lanes) -> Lanes:
    """``x`` in the rows (lanes) whose label is the class ``c``, or no class at all but equal to it in its low bits."""
    same = labels.to_integer(chosen.bits).equals(c.to_integer(chosen.bits))
    return select(same, x.to(chosen.bits), chosen)


def mask_unlabelled(value: Lanes, labels: Lanes, classes: Lanes) -> Lanes:
    """``value``, but 0 in ignored rows (lanes; label -1) and NaN in those whose label is no class."""
    invalid = (labels < -1) | ~(labels < classes)
    return select(labels.equals(-1), value.constant(0.0), select(invalid, value.constant(math.nan), value))


# -- soft targets -------------------------------------------------------------------------------------------


def soft_term(x: Lanes, m: Lanes, q: Lanes) -> Lanes:
    """``q (m - x)``, in float64; 0 where ``q = 0`` or ``x = m``, whatever the other is."""
    d, r = difference(x, m)
    return select(q.equals(0.0) | d.equals(0.0), (d - d).constant(0.0), q.to(64) * ((0.0 - d) - r))


def narrow_soft_terms(
    mass: Lanes, mass_low: Lanes, cost: Lanes, cost_low: Lanes, x: Lanes, m: Lanes, q: Lanes
) -> tuple[Lanes, Lanes, Lanes, Lanes]:
    """The sums of ``q`` and of ``q (m - x)`` (`soft_term`), and their corrections, after more of both.

    Of vectors or groups of them, and rows that are `is_narrow`, for finite ``q``. Nothing is rounded but in float64.
    """
    for xi, qi in zip(x.parts(mass.n), q.parts(mass.n), strict=True):
        mass, mass_low = accumulate(mass, mass_low, qi)
        if x.bits == 32:  # what float64 loses of the difference is far below what float32 can tell
            cost = multiply_add(qi.to(64), m.to(64) - xi.to(64), cost)
        else:
            d, r = two_diff(xi, m)
            cost, cost_low = accumulate(cost, cost_low, qi * ((0.0 - d) - r))
    return mass, mass_low, cost, cost_low


def soft_sums(mass: Lanes, cost: Lanes, a: Lanes, h: Lanes, m: Lanes, y: Lanes) -> tuple[Lanes, Lanes]:
    """``sum q`` and ``sum q (m - x)`` of ``q = a`` times what was summed, plus ``h`` at the label's logit ``y``."""
    d, r = difference(y, m)
    at_label = select(h.equals(0.0) | d.equals(0.0), (d - d).constant(0.0), h * ((0.0 - d) - r))
    # Weights of 0 contribute 0, also where a class is absent.
    return fma(mass, a, h), select(a.equals(0.0), at_label, fma(cost, a, at_label))


def soft_loss(m: Lanes, s: Lanes, lo: Lanes, mass: Lanes, cost: Lanes) -> Lanes:
    """``sum q (lse - x)`` as ``(sum q) L + sum q (m - x)``: neither part is negative."""
    log = log_sum(m, s, lo)
    return _weighted_log(m, s, mass, log * mass) + cost


def sum_value(hi: Lanes, lo: Lanes) -> Lanes:
    """A sum and its correction as one number (an infinite sum has a correction of NaN)."""
    return select(absolute(hi).equals(math.inf), hi, hi + lo)


def soft_gradient(e: Lanes, f: Lanes, g: Lanes, q: Lanes, high: Lanes, low: Lanes) -> Lanes:
    """``e' f g - q (high + low)``, with a single rounding where the second part prevails."""
    bits = e.bits
    h = high.to(bits)
    rest_of_high = (low + (high - h.to(64))).to(bits)
    t = q * h
    rest = fma(q, rest_of_high, fma(q, h, -t))
    return fma(e * f.to(bits), g.to(bits), -rest) - t


def is_alone(s: Lanes) -> Lanes:
    """Whether a row, or a row of any lane, has a class with ``p = 1``: its only one, or all others are absent."""
    return s.equals(0.0).any()


def alone_entry(
    value: Lanes,
    x: Lanes,
    m: Lanes,
    s: Lanes,
    q: Lanes,
    mass: Lanes,
    a: Lanes,
    h: Lanes,
    labels: Lanes,
    c: Lanes,
    divisor: Lanes,
) -> Lanes:
    """``value`` of class ``c``, but where ``p = 1`` (`is_alone`) what all other classes weigh.

    That is ``sum q`` less ``q a``, and less ``h`` at the label. Both are rounded alike, so that of one class alone
    nothing is left.
    """
    excluding = (mass - fma(q.to(64), a, select(labels.equals(c.to_integer(labels.bits)), h, 0.0))) / divisor
    return select(x.equals(m) & s.equals(0.0), excluding.to(value.bits), value)


def soft_label_entry(e: Lanes, f: Lanes, g: Lanes, q: Lanes, high: Lanes, low: Lanes, h: Lanes, h_lo: Lanes) -> Lanes:
    """`soft_gradient` in float64 at the label, where ``h + h_lo`` is subtracted besides."""
    t, error = two_product(q.to(64), high)
    t, carry = two_sum(t, h)
    rest = fma(q.to(64), low, error) + (carry + h_lo)
    return fma(e.to(64) * f, g, -rest) - t
