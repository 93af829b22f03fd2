"""What is reduced over a row, on lanes: its maximum, and the sum of the other exponentials.

The notation is that of `softbench_backends.numba.exponential`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from softbench_backends.numba.exponential import FORMATS, narrow_exp, precise_exp, shifted_exp, two_sum
from softbench_backends.numba.lanes import Lanes, absolute, select

# -- pass one: the maximum ------------------------------------------------------------------------------------


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
    return (m - least < FORMATS[m.bits].near) & (absolute(m) < math.inf)


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
    unit = 1 << FORMATS[m.bits].mantissa
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


# -- pass two: the sum of the others --------------------------------------------------------------------------


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
    one = math.ldexp(1.0, FORMATS[m.bits].c)
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


def add_sums(hi: Lanes, lo: Lanes, more_hi: Lanes, more_lo: Lanes) -> tuple[Lanes, Lanes]:
    """Sum of two sums."""
    hi, error = two_sum(hi, more_hi)
    return hi, (lo + more_lo) + error


def sum_excluding_max(m: Lanes, hi: Lanes, lo: Lanes, argmaxes: Lanes) -> tuple[Lanes, Lanes]:
    """``s'`` and its correction: the sum of the terms below ``m`` and all argmaxes but one.

    NaN where ``m`` is infinite: such rows, like those that hold a NaN, have no softmax.
    """
    one = math.ldexp(1.0, FORMATS[m.bits].c)
    s, error = two_sum(hi, (argmaxes.to(64) - 1.0) * one)
    lo = lo + error
    total = s + lo
    lo = lo - (total - s)
    return select(absolute(m).to(64) < math.inf, total, math.nan), lo
