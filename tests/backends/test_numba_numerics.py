"""The numba backend's constants against exact arithmetic; what they add up to, the kit judges."""

from __future__ import annotations

from fractions import Fraction

import pytest

pytest.importorskip("numba", reason="numba is not installed")

from softbench_backends.numba import exponential

flint = pytest.importorskip("flint", reason="python-flint is not installed")

POINTS = 1000


def exactly(number: float | Fraction) -> object:
    """A number as a ball without radius (or with the least one, where it is no binary fraction)."""
    fraction = Fraction(number)
    return flint.arb(fraction.numerator) / flint.arb(fraction.denominator)


@pytest.fixture
def precision():
    before, flint.ctx.prec = flint.ctx.prec, 160
    yield
    flint.ctx.prec = before


@pytest.mark.parametrize(("bits", "most"), [(32, 0.046), (64, 0.072)])
def test_the_polynomial_is_the_exponential_to_a_small_part_of_an_ulp(bits, most, precision):
    fmt = exponential.FORMATS[bits]
    worst = 0.0
    for i in range(-POINTS, POINTS + 1):
        t = exponential.LN2 / 2 * i / POINTS
        x, p = exactly(t), flint.arb(0)
        for coefficient in reversed((1.0, 1.0, *fmt.exp)):
            p = p * x + exactly(coefficient)
        ulp = exactly(Fraction(1, 2 ** (fmt.mantissa + (t < 0))))  # of results below and from 1 on
        worst = max(worst, abs(float(((p - x.exp()) / ulp).mid())))
    assert 0.5 * most < worst < most


def test_the_coarse_polynomial_is_good_enough_for_half_precision(precision):
    worst = 0.0
    for i in range(-POINTS, POINTS + 1):
        x, p = exactly(exponential.LN2 / 2 * i / POINTS), flint.arb(0)
        for coefficient in reversed((1.0, 1.0, *exponential.COARSE_EXPONENTIAL)):
            p = p * x + exactly(coefficient)
        worst = max(worst, abs(float((p / x.exp() - 1).mid())))
    assert 2.0**-18 < worst < 2.0**-17  # a unit of float16 is 2^-11 of its number at least


@pytest.mark.parametrize(("bits", "exponents"), [(32, 8), (64, 11)])
def test_the_short_ln_2_times_an_exponent_is_exact(bits, exponents, precision):
    fmt = exponential.FORMATS[bits]
    high, low = fmt.short_ln2
    significant = Fraction(high).numerator.bit_length()  # of an odd number over a power of two
    assert significant + exponents <= fmt.mantissa + 1
    rest = exactly(high) + exactly(low) - flint.arb(2).log()
    assert abs(float(rest.mid())) * 2**exponents < 2.0 ** -(fmt.mantissa + 6)


@pytest.mark.parametrize("bits", [32, 64])
def test_ln_2_has_twice_the_digits_of_a_number(bits, precision):
    fmt = exponential.FORMATS[bits]
    rest = exactly(fmt.ln2[0]) + exactly(fmt.ln2[1]) - flint.arb(2).log()
    assert abs(float(rest.mid())) < 2.0 ** -(2 * fmt.mantissa + 1)
