"""The error metric: distance from the truth in units of the last place of the correctly rounded result.

The truth is an unevaluated sum of two doubles, so that float64 results can be judged to a small fraction of an ulp.
Gradual underflow needs no special case: below the normal range the unit is the subnormal spacing. Results are told by
the *name* of their dtype (`softbench.interface.dtypes.formats`), so bfloat16 needs no library until such an array comes
in.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from softbench.interface.dtypes import formats, numpy_dtype

__all__ = ["Truth", "UlpStats", "same_zero_signs", "spacing", "ulp_error", "ulp_stats"]

F64 = NDArray[np.float64]


class Truth(NamedTuple):
    """An exact result to about twice the digits of a double: ``hi + lo``, ``hi`` being that sum rounded to float64.

    Below float64's normal range the sum is no finer than one subnormal spacing, which is all that two doubles can hold.
    """

    hi: F64
    """Nearest float64; may be NaN or infinite."""
    lo: F64
    """The rest; 0 where ``hi`` is not finite."""

    @classmethod
    def of(cls, values: NDArray[Any]) -> Truth:
        """The truth from an array of any wider or equal float type (float64, longdouble)."""
        if values.dtype == np.float64:
            return cls(values.copy(), np.zeros(values.shape))
        with np.errstate(all="ignore"):
            hi = np.asarray(values).astype(np.float64)
            lo = np.where(np.isfinite(hi), values - hi, 0).astype(np.float64)
        return cls(hi, lo)

    def reshape(self, shape: tuple[int, ...]) -> Truth:
        """The same values in another shape."""
        return Truth(self.hi.reshape(shape), self.lo.reshape(shape))

    def rounded(self, dtype: str) -> NDArray[Any]:
        """The correctly rounded array of ``dtype``: to nearest, ties to even, gradual underflow, overflow to inf."""
        return _round(self, dtype).astype(numpy_dtype(dtype))


def spacing(truth: Truth, dtype: str) -> F64:
    """One ulp at the truth, ``2 ** (max(floor(log2 |truth|), emin) - p + 1)``; NaN where the truth is not finite."""
    unit: F64 = np.ldexp(1.0, _unit_exponent(truth, dtype))
    return np.where(np.isfinite(truth.hi), unit, np.nan)


def ulp_error(result: ArrayLike, truth: Truth, dtype: str) -> F64:
    """``|result - truth|`` in ulp of ``dtype`` at the truth, elementwise.

    An infinite result has error 0 if the rounded truth is that infinity, else inf. A NaN has error 0 if the truth is
    NaN, else inf; so has anything else where the truth is NaN. Signs of zeros do not matter: see `same_zero_signs`.

    Parameters
    ----------
    result
        Array of any float dtype no wider than float64; converted exactly.
    truth
        Of the result's shape.
    dtype
        Name of the format to measure in, a key of `softbench.interface.dtypes.formats`.

    Raises
    ------
    ValueError
        Shapes differ.
    """
    y = np.asarray(result).astype(np.float64)
    hi, lo = truth
    if y.shape != hi.shape:
        raise ValueError(f"result has shape {y.shape}, the truth {hi.shape}")
    with np.errstate(all="ignore"):
        error = np.ldexp(np.abs((y - hi) - lo), -_unit_exponent(truth, dtype))
    if np.isfinite(y).all() and np.isfinite(hi).all():
        return np.asarray(error, dtype=np.float64)
    infinite = np.isinf(y)
    if infinite.any() or np.isinf(hi).any():
        error = np.where(infinite, np.where(_round(truth, dtype) == y, 0.0, np.inf), error)
    nan_result, nan_truth = np.isnan(y), np.isnan(hi)
    error = np.where(nan_result | nan_truth, np.where(nan_result & nan_truth, 0.0, np.inf), error)
    return np.asarray(error, dtype=np.float64)


def same_zero_signs(result: ArrayLike, expected: ArrayLike | Truth) -> bool:
    """Whether every zero of ``result`` has the sign that the zero (or underflowed value) expected there has.

    Entries where either is not zero are not looked at: that is what `ulp_error` is for.
    """
    y = np.asarray(result).astype(np.float64)
    due = expected.hi if isinstance(expected, Truth) else np.asarray(expected).astype(np.float64)
    both = (y == 0.0) & (due == 0.0)
    return bool((np.signbit(y) == np.signbit(due))[both].all())


class UlpStats(NamedTuple):
    """Errors of one result in a nutshell."""

    max: float
    p999: float
    """The 99.9th percentile (an error that occurs, not interpolated)."""
    worst: tuple[int, ...]
    """Index of the largest error; the first of several. Empty for no entries and for scalars."""
    count: int  # type: ignore[assignment]  # hides tuple.count
    """Number of entries."""


def ulp_stats(errors: F64) -> UlpStats:
    """Largest error, 99.9th percentile, and where the largest is. ``errors`` as from `ulp_error` (no NaN)."""
    errors = np.asarray(errors)
    if errors.size == 0:
        return UlpStats(0.0, 0.0, (), 0)
    flat = int(errors.argmax())
    worst = tuple(int(i) for i in np.unravel_index(flat, errors.shape))
    rank = math.ceil(0.999 * (errors.size - 1))
    p999 = float(np.partition(errors, rank, axis=None)[rank])
    return UlpStats(float(errors.flat[flat]), p999, worst, errors.size)


def _unit_exponent(truth: Truth, dtype: str) -> NDArray[np.int64]:
    """Exponent of the ulp at the truth."""
    fmt = formats[dtype]
    mantissa, exponent = np.frexp(truth.hi)
    # frexp has mantissas in [1/2, 1). Just below a power of two, hi is that power and lo says that it is below.
    below = (np.abs(mantissa) == 0.5) & (truth.lo * np.sign(mantissa) < 0.0)
    floor_log2 = exponent.astype(np.int64) - 1 - below
    floor_log2 = np.where((mantissa == 0.0) | ~np.isfinite(mantissa), fmt.emin, floor_log2)
    return np.maximum(floor_log2, fmt.emin) - fmt.precision + 1


def _round(truth: Truth, dtype: str) -> F64:
    """The truth correctly rounded to ``dtype``, as float64 values."""
    hi, lo = truth
    if dtype == "float64":
        return hi
    # Round to odd first (Boldo and Melquiond, IEEE Trans. Computers 2008): the second rounding then cannot go wrong,
    # which it would where hi alone is halfway between two numbers of the format.
    even = (np.asarray(hi, order="C").view(np.uint64) & np.uint64(1)) == 0
    with np.errstate(all="ignore"):
        odd = np.where(even & (lo != 0.0), np.nextafter(hi, np.copysign(np.inf, lo)), hi)
        unit = _unit_exponent(Truth(odd, np.zeros_like(odd)), dtype)
        nearest = np.ldexp(np.rint(np.ldexp(odd, -unit)), unit)
        fmt = formats[dtype]
        top = np.ldexp(2.0 - fmt.eps, fmt.emax)
        nearest = np.where(np.abs(nearest) > top, np.copysign(np.inf, nearest), nearest)
    return np.where(np.isfinite(hi), nearest, hi)
