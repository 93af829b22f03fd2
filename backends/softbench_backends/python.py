"""The pure Python backend: Zhao's equations (1)-(11), row by row, with lists and `math`.

It is the one to read. Every row goes through the same three steps:

1. the *error-free shift* ``x_k - m = d_k + r_k`` (TwoDiff, Knuth, TAOCP vol. 2, 4.2.2), so that a large common offset
   costs no digits;
2. ``s``, the sum of all ``exp(d_k + r_k)`` but the maximum's own 1, exactly rounded by `math.fsum`;
3. ``L = log1p(s)``, so that ``log p_k = (d_k - L) + r_k`` is a sum of two parts of one sign: nothing cancels.

Exponentials are kept as ``mantissa * 2**exponent``, so that a probability too small for a float can still carry a
weight above 1 without losing digits.
"""

from __future__ import annotations

import math
import platform
from fractions import Fraction
from typing import Any, Final, NamedTuple

from softbench.interface import IGNORED, INVALID, Array, IndexTarget, RowBackend, SoftTarget, Target
from softbench.interface.float_mode import FLUSH_TO_ZERO, can_restore

__all__ = ["PythonBackend"]

# ln 2 in two parts; the first has 32 bits, so its product with any exponent of a float is exact (Cody and Waite).
_LN2_HIGH: Final = float.fromhex("0x1.62e42feep-1")
_LN2_LOW: Final = float.fromhex("0x1.a39ef35793c76p-33")
_UNIT: Final = 600
"""Row sums are kept times 2**600: sums of subnormals, which carry few digits, become sums of normal numbers."""


class _Row(NamedTuple):
    """A row after the shift: ``exp(x_k - max) = mantissa[k] * 2**exponent[k]``."""

    top: int  # index of the first maximum
    d: list[float]  # x - max, rounded
    r: list[float]  # what that rounding lost
    mantissa: list[float]
    exponent: list[int]
    s: float  # sum of exp(x_k - max) over k != top
    total: float  # 1 + s, rounded once
    L: float  # log1p(s)

    def exp_times(self, k: int, factor: float) -> float:
        """``exp(x_k - max) * factor``, rounded once where the result is subnormal."""
        f, e = math.frexp(factor)
        return math.ldexp(self.mantissa[k] * f, self.exponent[k] + e)

    def others(self, label: int, factor: float, over: float = 1.0) -> float:
        """Sum of ``exp(x_k - max)`` over ``k != label`` (left out, not subtracted), ``/ over * factor``."""
        scaled = math.fsum(
            math.ldexp(self.mantissa[k], max(self.exponent[k], -2000) + _UNIT) for k in range(len(self.d)) if k != label
        )
        f, e = math.frexp(factor)
        return math.ldexp(scaled / over * f, e - _UNIT)


def _first_max(x: list[float]) -> int:
    """Index of the first NaN, else of the first maximum. Zhao eq. (1)."""
    top = 0
    for k, value in enumerate(x):
        if value != value:
            return k
        if value > x[top]:
            top = k
    return top


def _shift(x: list[float]) -> _Row | None:
    """Steps 1-3, or None for a row without finite probabilities: one with NaN, with +inf, or all -inf."""
    top = _first_max(x)
    m = x[top]
    if not math.isfinite(m):
        return None
    d, r, mantissa, exponent = [], [], [], []
    for value in x:
        high = value - m
        virtual = value - high  # TwoDiff
        low = (value - (high + virtual)) + (virtual - m)
        if math.isinf(high):  # a class that is absent, or a shift that overflowed: exp is 0
            low = 0.0
            mantissa.append(0.0)
            exponent.append(0)
        else:
            n = round(max(high / math.log(2), -float(1 << 20)))
            reduced = (high - n * _LN2_HIGH) - n * _LN2_LOW
            mantissa.append(math.exp(reduced + low) if n > -(1 << 20) else 0.0)
            exponent.append(n)
        d.append(high)
        r.append(low)
    terms = [math.ldexp(f, max(e, -2000) + _UNIT) for f, e in zip(mantissa, exponent, strict=True)]
    total = math.ldexp(math.fsum(terms), -_UNIT)
    terms[top] = 0.0
    s = math.ldexp(math.fsum(terms), -_UNIT)
    return _Row(top, d, r, mantissa, exponent, s, total, math.log1p(s))


def _soft_loss(row: _Row, q: list[float]) -> float:
    """``sum_k q_k (L - d_k - r_k)``, every term >= 0 where q is; ``q_k == 0`` contributes 0. Zhao eq. (9)."""
    weights = [(k, weight) for k, weight in enumerate(q) if weight != 0.0]
    shifts = [weight * -part[k] for part in (row.d, row.r) for k, weight in weights if part[k] != 0.0]
    return _fsum([row.others(row.top, _fsum(q)) if row.s < 1e-200 else _fsum(q) * row.L, *shifts])


def _fsum(values: list[float]) -> float:
    """`math.fsum`, with the infinities and NaN of a plain sum."""
    try:
        return math.fsum(values)
    except (OverflowError, ValueError):
        return sum(values)


class PythonBackend(RowBackend):
    """Readable first; right in every corner; slow."""

    name = "python"
    cost = "interpreted"

    def info(self) -> dict[str, object]:
        """Version of the interpreter."""
        return {
            "device": "cpu",
            "threads": 1,
            "python": platform.python_version(),
            "flush_to_zero": FLUSH_TO_ZERO[can_restore()],
        }

    def argmax(self, x: Array, out: Array) -> Array:
        """Zhao eq. (1)."""
        for i, row in enumerate(x.tolist()):
            out[i] = _first_max(row)
        return out

    def logsumexp(self, x: Array, out: Array) -> Array:
        """Zhao eq. (3): ``m + L``."""
        for i, values in enumerate(x.tolist()):
            row = _shift(values)
            out[i] = values[_first_max(values)] if row is None else values[row.top] + row.L
        return out

    def softmax(self, x: Array, out: Array) -> Array:
        """Zhao eq. (4), (5)."""
        for i, values in enumerate(x.tolist()):
            row = _shift(values)
            if row is None:
                out[i] = math.nan
            else:
                terms = zip(row.mantissa, row.exponent, strict=True)
                out[i] = [math.ldexp(f / row.total, max(e, -2000)) for f, e in terms]
        return out

    def log_softmax(self, x: Array, out: Array) -> Array:
        """``(d_k - L) + r_k``."""
        for i, values in enumerate(x.tolist()):
            row = _shift(values)
            out[i] = math.nan if row is None else [(d - row.L) + r for d, r in zip(row.d, row.r, strict=True)]
        return out

    def loss_and_gradient(self, x: Array, target: Target, divisor: Any, loss: Array, out: Array) -> tuple[Array, Array]:
        """Zhao eq. (9)-(11)."""
        for i, values in enumerate(x.tolist()):
            if isinstance(target, SoftTarget):
                loss[i], out[i] = _soft_row(values, target.q[i].tolist(), divisor)
            else:
                loss[i], out[i] = _index_row(values, target, i, divisor)
        return loss, out

    def log_loss(self, p: Array, target: Target, loss: Array) -> Array:
        """Zhao eq. (6)-(8)."""
        for i, values in enumerate(p.tolist()):
            if isinstance(target, SoftTarget):
                pairs = zip(target.q[i].tolist(), values, strict=True)
                loss[i] = _fsum(
                    [weight * _minus_log(value) for weight, value in pairs if weight != 0.0 or value != value]
                )
                continue
            label = int(target.labels[i])
            if label == IGNORED:
                loss[i] = 0.0
            elif label == INVALID:
                loss[i] = math.nan
            else:
                loss[i] = _weighted(_row_weight(target, i, label), _minus_log(values[label]))
        return loss


def _minus_log(p: float) -> float:
    if p > 0.0:
        return 0.0 - math.log(p)  # +0 at p = 1
    return math.inf if p == 0.0 else math.nan


def _row_weight(target: IndexTarget, i: int, label: int) -> float:
    """``s_i w[y_i]``."""
    weight = 1.0 if target.sample_weight is None else float(target.sample_weight[i])
    return weight if target.class_weight is None else weight * float(target.class_weight[label])


def _weighted(weight: float, loss: float) -> float:
    """``weight * loss``; a weight of 0 makes 0 of an infinite loss."""
    return 0.0 if weight == 0.0 and loss == math.inf else weight * loss


def _index_row(values: list[float], target: IndexTarget, i: int, divisor: float) -> tuple[float, Any]:
    """Loss and gradient of a row with a class index: ``s w[y] (lse - x_y)`` and ``s w[y] (p - onehot(y))``."""
    label = int(target.labels[i])
    if label == IGNORED:
        return 0.0, 0.0
    if label == INVALID:
        return math.nan, math.nan
    if target.smoothing != 0.0:
        try:
            return _soft_row(values, _smoothed(target, i, label, len(values)), _fraction(divisor))
        except (ValueError, OverflowError):  # weights that are no numbers, which only validate=False lets in
            return math.nan, math.nan
    row = _shift(values)
    if row is None:
        return math.nan, math.nan
    weight = _row_weight(target, i, label)
    if row.s < 1e-200 and label == row.top:
        loss = row.others(row.top, weight)  # log1p(s) = s, still with all its digits
    else:
        loss = _weighted(weight, (row.L - row.d[label]) - row.r[label])  # never lse - x_y
    if divisor == 0:  # nothing has weight
        return loss, math.nan
    factor = weight / divisor
    gradient = [row.exp_times(k, factor / row.total) for k in range(len(values))]
    gradient[label] = 0.0 - row.others(label, factor, row.total)  # never p_y - 1
    return loss, gradient


def _fraction(number: Any) -> Fraction:
    """A number, possibly of NumPy's extended precision, exactly."""
    return Fraction(*number.as_integer_ratio())


def _smoothed(target: IndexTarget, i: int, label: int, k: int) -> list[Fraction]:
    """``q = s ((1 - eps) w_y [k = y] + eps w_k / K)``, exactly: the bound on the gradient lets it be rounded once."""
    scale = Fraction(1) if target.sample_weight is None else Fraction(float(target.sample_weight[i]))
    eps = Fraction(target.smoothing)
    if target.class_weight is None:
        q = [scale * eps / k] * k
        q[label] += scale * (1 - eps)
    else:
        q = [scale * eps / k * Fraction(w) for w in target.class_weight.tolist()]
        q[label] += scale * (1 - eps) * Fraction(float(target.class_weight[label]))
    return q


def _soft_row(values: list[float], q: list[float] | list[Fraction], divisor: Any) -> tuple[float, Any]:
    """Loss and gradient of a row with a distribution: ``sum q (lse - x)`` and ``(sum q) p - q``."""
    row = _shift(values)
    if row is None:
        return math.nan, math.nan
    rounded = [float(weight) for weight in q]
    loss = _soft_loss(row, rounded)
    if divisor == 0:  # nothing has weight
        return loss, math.nan
    factor = _fsum(rounded) / divisor / row.total
    gradient = [row.exp_times(k, factor) - float(weight / divisor) for k, weight in enumerate(q)]
    if row.s == 0.0:  # p = 1: what the others weigh, and +0 where there are none, without the rounding of two quotients
        gradient[row.top] = (_fsum(rounded) - rounded[row.top]) / divisor
    return loss, gradient
