"""The ulp metric, against a restatement in exact rational arithmetic and against hand-made boundaries."""

import math
from fractions import Fraction

import numpy as np
import pytest

from softbench.accuracy.ulp import Truth, same_zero_signs, spacing, ulp_error, ulp_stats
from softbench.interface.dtypes import formats

inf, nan = math.inf, math.nan
DTYPES = sorted(formats)


def truth(hi, lo=0.0):
    return Truth(np.array(hi, dtype=np.float64), np.broadcast_to(np.array(lo, dtype=np.float64), np.shape(hi)).copy())


def exact_unit(value: Fraction, dtype: str) -> Fraction:
    fmt = formats[dtype]
    size = abs(value)
    exponent = size.numerator.bit_length() - size.denominator.bit_length()  # this, or one less
    exponent -= size < Fraction(2) ** exponent
    return Fraction(2) ** (max(exponent, fmt.emin) - fmt.precision + 1)


def exact_rounding(value: Fraction, dtype: str) -> float:
    """To nearest, ties to even, by rational arithmetic alone."""
    unit = exact_unit(value, dtype)
    rounded = Fraction(round(value / unit)) * unit  # Python's round of a Fraction: ties to even
    fmt = formats[dtype]
    return math.copysign(inf, value) if abs(rounded) >= Fraction(2) ** (fmt.emax + 1) else float(rounded)


def pairs(rng, dtype, n):
    """Doubles across the format's range, exactly on its boundaries, and a tail for each."""
    fmt = formats[dtype]
    exponents = rng.integers(max(fmt.emin - fmt.precision - 2, -1000), min(fmt.emax + 3, 1000), n)
    hi = np.ldexp(rng.uniform(0.5, 1.0, n) * rng.choice([-1, 1], n), exponents)
    kind = rng.integers(0, 4, n)
    hi = np.where(kind == 1, np.ldexp(np.sign(hi), exponents), hi)  # powers of two
    coarse = np.ldexp(np.rint(np.ldexp(hi, fmt.precision - exponents)), exponents - fmt.precision)
    hi = np.where(kind == 2, coarse, hi)  # numbers of the format, or of its subnormals' spacing
    hi = np.where(kind == 3, coarse + np.ldexp(0.5, exponents - fmt.precision), hi)  # halfway
    lo = np.ldexp(rng.uniform(-1, 1, n), exponents - 55)
    return hi, np.where(rng.random(n) < 0.3, 0.0, lo)


@pytest.mark.parametrize("dtype", DTYPES)
def test_equals_rational_arithmetic(dtype):
    rng = np.random.default_rng(1)
    hi, lo = pairs(rng, dtype, 400)
    lo = (hi + lo == hi) * lo
    result = hi * (1 + formats[dtype].eps * rng.integers(-3, 4, hi.size))
    errors = ulp_error(result, Truth(hi, lo), dtype)
    for y, h, low, error in zip(result, hi, lo, errors, strict=True):
        value = Fraction(h) + Fraction(low)
        due = abs(Fraction(y) - value) / exact_unit(value, dtype)
        assert error == pytest.approx(float(due), rel=1e-12), (y, h, low)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rounding_equals_rational_arithmetic(dtype):
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes", reason="a bfloat16 array needs ml_dtypes")
    hi, lo = pairs(np.random.default_rng(2), dtype, 600)
    lo = (hi + lo == hi) * lo
    rounded = Truth(hi, lo).rounded(dtype)
    assert rounded.dtype.name == dtype
    due = np.array([exact_rounding(Fraction(h) + Fraction(low), dtype) for h, low in zip(hi, lo, strict=True)])
    np.testing.assert_array_equal(rounded.astype(np.float64), due)


def test_a_tail_below_halfway_is_not_rounded_twice():
    half = 2.0**-24  # halfway between 1 and the next float32
    both = truth([1 + half, 1 + half, 1 + half], [1e-20, 0.0, -1e-20])
    np.testing.assert_array_equal(both.rounded("float32"), np.array([1 + 2 * half, 1, 1], np.float32))


@pytest.mark.parametrize("dtype", DTYPES)
def test_unit_changes_at_a_power_of_two(dtype):
    eps = formats[dtype].eps
    assert spacing(truth(1.0), dtype) == eps
    assert spacing(truth(np.nextafter(1.0, 0.0)), dtype) == eps / 2
    assert spacing(truth(1.0, -1e-30), dtype) == eps / 2  # just below: hi alone does not tell
    assert spacing(truth(-1.0, 1e-30), dtype) == eps / 2
    assert spacing(truth(1.0, 1e-30), dtype) == eps
    assert spacing(truth(2.0), dtype) == 2 * eps


@pytest.mark.parametrize("dtype", DTYPES)
def test_below_the_normal_range_the_unit_is_the_subnormal_spacing(dtype):
    fmt = formats[dtype]
    for value in (0.0, fmt.tiny, 2.0**fmt.emin, 1.5 * 2.0**fmt.emin):
        assert spacing(truth(value), dtype) == fmt.tiny
    assert ulp_error(np.array(fmt.tiny), truth(0.0), dtype) == 1.0
    assert ulp_error(np.array(0.0), truth(2.0**fmt.emin), dtype) == 2.0 ** (fmt.precision - 1)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_neighbours_are_one_ulp_apart(dtype):
    kind = np.dtype(dtype)
    x = np.array([1.0, 1.5, 3.25, 2.0**-14, 100.0], kind)
    assert (ulp_error(np.nextafter(x, kind.type(inf)), truth(x), dtype) == 1.0).all()


def test_the_tail_counts():
    # Truth 0.4 ulp above 1: the error of 1 is 0.4, of the next number 0.6.
    eps = formats["float64"].eps
    both = truth([1.0, 1.0], 0.4 * eps)
    np.testing.assert_allclose(ulp_error(np.array([1.0, 1 + eps]), both, "float64"), [0.4, 0.6], rtol=1e-12)


def test_infinite_and_nan():
    big = 3.5e38  # beyond float32
    cases = [  # result, truth, error
        (inf, inf, 0), (-inf, inf, inf), (inf, big, 0), (inf, -big, inf), (inf, 3.4e38, inf), (1.0, inf, inf),
        (nan, nan, 0), (nan, 1.0, inf), (1.0, nan, inf), (nan, inf, inf), (inf, nan, inf), (0.0, -inf, inf),
        (-0.0, 0.0, 0),
    ]  # fmt: skip
    for result, due, error in cases:
        assert ulp_error(np.float32(result), truth(due), "float32") == error, (result, due)


def test_largest_finite_number_is_half_an_ulp_from_where_overflow_starts():
    top = float(np.finfo(np.float32).max)
    limit = top + 2.0**103  # rounds to inf, being halfway to 2**128
    assert truth(limit).rounded("float32") == inf
    assert truth(limit, -1e20).rounded("float32") == np.float32(top)
    assert ulp_error(np.float32(top), truth(limit, -1e20), "float32") == pytest.approx(0.5)
    assert ulp_error(np.float32(inf), truth(limit, -1e20), "float32") == inf


def test_half_formats_by_name():
    # 1 + 2**-8 lies halfway between bfloat16 neighbours; no bfloat16 library is asked.
    assert ulp_error(np.float32(1.0), truth(1 + 2.0**-8), "bfloat16") == 0.5
    assert ulp_error(np.float16(1.0), truth(1 + 2.0**-11), "float16") == 0.5


def test_bfloat16_arrays():
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="a bfloat16 array needs ml_dtypes")
    x = np.array([1.0, 1.0078125, -3.0], ml_dtypes.bfloat16)
    np.testing.assert_array_equal(ulp_error(x, truth([1.0, 1.0, -3.0]), "bfloat16"), [0, 1, 0])


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="shape"):
        ulp_error(np.zeros(3), truth(np.zeros((3, 1))), "float64")


def test_signs_of_zeros_are_a_separate_assertion():
    assert same_zero_signs([0.0, -0.0, 1.0], [0.0, -0.0, 0.0])
    assert not same_zero_signs([0.0, -0.0], [0.0, 0.0])
    assert not same_zero_signs(np.array([0.0], np.float16), truth([-0.0]))
    assert same_zero_signs([-1.0, -0.0], [1.0, 2.0])  # nothing there is zero on both sides


def test_truth_of_longdouble_keeps_its_digits():
    if np.finfo(np.longdouble).nmant <= 52:
        pytest.skip("longdouble is float64 here")
    third = np.longdouble(1) / 3
    both = Truth.of(np.array([third, np.longdouble(inf), np.longdouble(nan), np.longdouble("1e400")]))
    assert np.longdouble(both.hi[0]) + np.longdouble(both.lo[0]) == third
    assert both.lo[0] != 0
    np.testing.assert_array_equal(both.hi[1:], [inf, nan, inf])
    np.testing.assert_array_equal(both.lo[1:], 0.0)


def test_stats():
    errors = np.zeros((100, 50))
    errors[7, 3], errors[8, 4], errors[0, 0] = 9.0, 9.0, 2.0
    stats = ulp_stats(errors)
    assert stats == (9.0, 0.0, (7, 3), 5000)
    errors[1] = 1.0
    assert ulp_stats(errors).p999 == 1.0
    assert ulp_stats(np.array([1.0, inf])) == (inf, inf, (1,), 2)
    assert ulp_stats(np.zeros(0)) == (0.0, 0.0, (), 0)
    assert ulp_stats(np.array(3.0)) == (3.0, 3.0, (), 1)
