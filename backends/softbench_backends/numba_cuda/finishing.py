"""Finishing a row in float64: what its sums, weights and divisor come to."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np

from softbench.interface.dtypes import compute_dtype
from softbench_backends.numba_cuda.arithmetic import UNIT, arithmetic, normalised, product, quotient
from softbench_backends.numba_cuda.device import device, fma
from softbench_backends.numba_cuda.memory import real_of
from softbench_backends.numba_cuda.records import HAS_DIVISOR

__all__ = ["Scaling", "coefficient", "divisor_of", "log_sum", "scaling", "tiny", "weight_over"]

Device = Callable[..., Any]

_wide = arithmetic("float64")
_two_sum, _scale = _wide.two_sum, _wide.scale
_ZERO, _ONE, _NAN = np.float64(0.0), np.float64(1.0), np.float64(np.nan)
_TINY = np.float64(2.0**-900)


@device
def log_sum(m: Any, high: Any, low: Any) -> Any:
    """``(high, low, L)`` of a row's ``s``; all NaN where the row's maximum is not finite."""
    if m - m != _ZERO:
        return _NAN, _NAN, _NAN
    return high, low, math.log1p(high) + low / (_ONE + high)


@device
def tiny(high: Any) -> Any:
    """Whether ``s`` is so small that it loses digits as a float64: then ``L = s``, and what is held raised counts."""
    return high < _TINY


@device
def coefficient(a: Any, a_low: Any, k: Any, high: Any, low: Any) -> Any:
    """``a 2^k / (1 + s)`` as ``(c, c_low, k)`` with 1 <= c < 2 (or 0, or not finite)."""
    total, total_low = _two_sum(high, _ONE)
    c, c_low = quotient(a, a_low, total, total_low + low)
    d, shift = normalised(abs(c))
    factor = _scale(_ONE, -shift)
    return (d if c >= _ZERO else -d) if c == c else c, c_low * factor, k + shift


@device
def weight_over(s: Any, w: Any, divisor: Any, divisor_low: Any) -> Any:
    """``s w / divisor`` as ``(a, a_low, k)``, whatever the range of each; NaN where the divisor is 0."""
    s, k_s = normalised(s)
    w, k_w = normalised(w)
    divisor, k_d = normalised(divisor)
    a, a_low = product(s, w)
    a, a_low = quotient(a, a_low, divisor, _scale(_ONE, -k_d) * divisor_low)
    return (a if divisor != _ZERO else _NAN), a_low, k_s + k_w - k_d


@device
def divisor_of(target: Any) -> Any:
    """The divisor of `records.Targets` as a pair: a number, or a sum on the device and what it rounds away."""
    return (target.divisor[0], target.divisor[1]) if target.given & HAS_DIVISOR else (target.divisor_value, _ZERO)


class Scaling(NamedTuple):
    """Device functions that apply a row's coefficient ``c 2^k`` to its exponentials, before the one rounding."""

    prepare: Device
    """``(c, c_low, k)`` to ``(factor, factor_low, power)`` for `quick`."""
    quick: Device
    """``(y, factor, factor_low, power)`` for ``y = exp(d + r) 2^UNIT``; right while ``k`` is below `QUICK_LIMIT`."""
    exact: Device
    """``(x, m, c, c_low, k)``: from the logit again, because what `exp_unit` flushed to 0 would matter."""


QUICK_LIMIT: Final = np.int64(40)
"""Coefficients up to 2^40 times the largest exponential that `exp_unit` flushes are still far below a subnormal."""


@functools.cache
def scaling(dtype: str) -> Scaling:
    """For rows of ``dtype``."""
    real, a = real_of(dtype), arithmetic(compute_dtype(dtype))
    shift, exp_parts, scale, power_of = a.shift, a.exp_parts, a.scale, a.power
    unit = np.int64(UNIT[dtype])
    least = np.int64(-30)  # y * factor stays normal down to the smallest y that matters
    zero, one = real(0.0), real(1.0)

    @device
    def split(c: Any, c_low: Any) -> Any:
        factor = real(c)
        rest = (c - np.float64(factor)) + c_low
        return factor, (real(rest) if rest - rest == _ZERO else zero)

    @device
    def prepare(c: Any, c_low: Any, k: Any) -> Any:
        first = k if k > least else least
        first = first if first < unit else unit
        factor, factor_low = split(c, c_low)
        to_unit = power_of(first - unit)
        return factor * to_unit, factor_low * to_unit, scale(one, k - first)

    @device
    def quick(y: Any, factor: Any, factor_low: Any, power: Any) -> Any:
        return fma(y, factor, y * factor_low) * power

    @device
    def exact(x: Any, m: Any, c: Any, c_low: Any, k: Any) -> Any:
        d, r = shift(x, m)
        f, n = exp_parts(d, r)
        factor, factor_low = split(c, c_low)
        return scale(fma(f, factor, f * factor_low), n + k)

    return Scaling(prepare, quick, exact)
