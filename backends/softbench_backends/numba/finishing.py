"""What a row's sums become, on lanes: logsumexp, probabilities, losses and gradients.

The notation is that of `softbench_backends.numba.exponential`.
"""

from __future__ import annotations

import math
from typing import Final

from softbench_backends.numba.exponential import (
    FORMATS,
    LN2_HIGH,
    LN2_LOW,
    difference,
    precise_exp,
    quotient,
    two_diff,
    two_product,
    two_sum,
)
from softbench_backends.numba.lanes import Lanes, absolute, fma, multiply_add, select
from softbench_backends.numba.reductions import accumulate

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


# -- what a row's sum becomes ---------------------------------------------------------------------------------


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
    return k * LN2_HIGH - ((half_square - (multiply_add(z, half_square + p * w, k * LN2_LOW + correction))) - f)


def log_sum(m: Lanes, s: Lanes, lo: Lanes) -> Lanes:
    """``L = log1p(s)``, within an ulp of float64."""
    unit = math.ldexp(1.0, -FORMATS[m.bits].c)
    return _log1p(s * unit, lo * unit)


def logsumexp(m: Lanes, s: Lanes, lo: Lanes, terms: Lanes) -> Lanes:
    """``m + L``; where ``m`` is infinite, ``m`` itself, unless a NaN is among the ``terms`` of the sum."""
    infinite = absolute(m).equals(math.inf)
    return select(infinite & ~terms.is_nan(), m.to(64), m.to(64) + log_sum(m, s, lo))


def _weight_over_sum(m: Lanes, s: Lanes, lo: Lanes, weight_hi: Lanes, weight_lo: Lanes) -> tuple[Lanes, Lanes]:
    """``(weight_hi + weight_lo) / S`` and a correction."""
    unit = math.ldexp(1.0, -FORMATS[m.bits].c)
    s = s * unit
    if m.bits == 32:
        return weight_hi / (s + 1.0), s.constant(0.0)
    high, low = two_sum(s.constant(1.0), s)
    return two_sum(*quotient(weight_hi, weight_lo, high, low + lo * unit))


def factor(m: Lanes, s: Lanes, lo: Lanes, weight_hi: Lanes, weight_lo: Lanes) -> tuple[Lanes, Lanes, Lanes]:
    """``weight / S`` as ``(f + h) g``, such that ``(e' f) g`` neither overflows nor underflows on its way.

    The weight is ``weight_hi + weight_lo``; ``h`` is a correction; ``g``, a power of two, undoes the scale of ``e'``.
    """
    fmt = FORMATS[m.bits]
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
    fmt = FORMATS[m.bits]
    whole, _ = _weight_over_sum(m, s, lo, weight_hi, weight_lo)
    return whole.to(m.bits), (whole > fmt.factors[0]) & (whole < fmt.factors[1])


def probability(e: Lanes, f: Lanes, g: Lanes) -> Lanes:
    """``e' f g``."""
    return e * f.to(e.bits) * g.to(e.bits)


def times(e: Lanes, f: Lanes) -> Lanes:
    """``e f``."""
    return e * f


def _subnormal(p: Lanes) -> Lanes:
    return (p.as_bits() - 1).below((1 << FORMATS[p.bits].mantissa) - 1)


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
    return e.to(64) * f * g < math.ldexp(1.0, 1 - FORMATS[m.bits].bias)


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


def narrow_log_probability(x: Lanes, m: Lanes, log: Lanes) -> Lanes:
    """`log_probability` of rows that are narrow: the same bits."""
    d, r = two_diff(x, m)
    return (d - log.to(x.bits)) + r


def coarse_log_probability(x: Lanes, m: Lanes, log: Lanes) -> Lanes:
    """`log_probability` for results in half precision, from float32: both parts are negative, nothing cancels."""
    return (x - m) - log.to(x.bits)


# -- index targets --------------------------------------------------------------------------------------------


def _weighted_log(m: Lanes, s: Lanes, weight: Lanes, otherwise: Lanes) -> Lanes:
    """``L weight`` where ``L = s`` is so small that it has all its digits as ``s'`` only."""
    if m.bits == 32:
        return otherwise
    tiny = (s < 2.0**-60) & (s > 0.0)
    return select(tiny, (s * weight) * math.ldexp(1.0, -FORMATS[64].c), otherwise)


def index_loss(m: Lanes, s: Lanes, log: Lanes, y: Lanes, weight: Lanes) -> Lanes:
    """``weight (lse - y)`` in float64, ``y`` the logit of the label: ``L - (d + r)``, never ``lse - y``."""
    d, r = difference(y, m)
    loss = weight * ((log - d) - r)
    loss = select(weight.equals(0.0), weight * log, loss)  # it contributes 0, also where the class is absent
    return select(d.equals(0.0), _weighted_log(m, s, weight, loss), loss)


def label_entry(m: Lanes, s: Lanes, lo: Lanes, y: Lanes, f: Lanes, h: Lanes, g: Lanes, weight_hi: Lanes) -> Lanes:
    """Gradient at the label in float64: minus ``weight_hi`` times the *others* over ``S`` (``p - 1`` would cancel)."""
    one = math.ldexp(1.0, FORMATS[m.bits].c)
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


# -- soft targets ---------------------------------------------------------------------------------------------


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
