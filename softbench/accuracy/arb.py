"""The oracle's quantities in ball arithmetic (Arb, by python-flint): slow, and certain.

Every result comes with a proven error bound; a row is computed again with twice the precision until 80 bits of each of
its results are good. Judges `softbench.accuracy.oracle`, and replaces its longdouble where there is none. A few
microseconds per element. Needs python-flint (``pip install "softbench[kit]"``).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

import numpy as np

from softbench.accuracy.engine import F64, Reduction, Weighting
from softbench.accuracy.ulp import Truth

__all__ = ["GOOD_BITS", "ArbEngine"]

Ball = Any  # flint.arb, which has no type hints

GOOD_BITS: Final = 80
"""Proven bits of every result, relative to itself; of a sum of terms of both signs, to the sum of their sizes."""

_START: Final = 160
_EXACT: Final = 1 << 13  # bits that hold sums of products of two doubles
_NOTHING: Final = -30000.0
"""``exp`` of less than this is 0 in float64 under any weights: times 1e308 three times it still is."""


class _Result(NamedTuple):
    value: Ball
    size: Ball = 0
    """What the error may be relative to, if larger than the value."""

    def is_good(self) -> bool:
        if self.value.is_nan() or self.value.is_exact():
            return True
        allowed = (abs(self.value) + self.size).mid() * 2.0**-GOOD_BITS
        return bool(self.value.rad() <= allowed)


class _Row(NamedTuple):
    """A row with a finite maximum, after the shift. Absent classes have ``d = -inf`` and ``e = 0``."""

    m: Ball
    d: list[Ball]
    e: list[Ball]
    S: Ball
    L: Ball


class ArbEngine:
    """`softbench.accuracy.engine.Engine` in ball arithmetic. ImportError without python-flint."""

    def __init__(self) -> None:
        try:
            import flint
        except ImportError as error:
            raise ImportError('Arb needs python-flint: pip install "softbench[kit]"') from error
        self._context = flint.ctx
        self._arb = flint.arb

    # -- engine ----------------------------------------------------------------------------------------

    def logsumexp(self, x: F64) -> Truth:
        """``m + L``."""
        return self._rows(len(x), lambda i: [_Result(self._lse(_values(x[i])))]).reshape(x.shape[:1])

    def log1p_s(self, x: F64) -> Truth:
        """``L``."""

        def of(i: int) -> list[_Result]:
            row = self._row(_values(x[i]))
            return [_Result(row.L if row else self._arb.nan())]

        return self._rows(len(x), of).reshape(x.shape[:1])

    def softmax(self, x: F64) -> Truth:
        """``p``."""
        return self._rows(len(x), lambda i: [_Result(value) for value in self._p(_values(x[i]))])

    def log_softmax(self, x: F64) -> Truth:
        """``d_k - L``."""
        return self._rows(len(x), lambda i: [_Result(value) for value in self._log_p(_values(x[i]))])

    def loss(self, x: F64, target: Weighting, reduction: Reduction) -> Truth:
        """Cross-entropy from logits."""
        plain = target.labels is not None and target.eps == 0.0
        return self._losses(len(x), x.shape[1], lambda i: self._log_p(_values(x[i])), target, plain, reduction)

    def log_loss(self, p: F64, target: Weighting, reduction: Reduction) -> Truth:
        """Cross-entropy from probabilities."""
        plain = target.labels is not None

        def logs(i: int) -> list[Ball]:
            return [self._arb(v).log() if v > 0 else self._arb.neg_inf() if v == 0 else self._arb.nan() for v in p[i]]

        return self._losses(len(p), p.shape[1], logs, target, plain, reduction)

    def gradient(self, x: F64, target: Weighting, reduction: Reduction) -> Truth:
        """d loss / d logits."""
        n, k = x.shape
        divisor = self._divisor(target, n, reduction)

        def of(i: int) -> list[_Result]:
            values = _values(x[i])
            row = self._row(values)
            if target.ignored[i]:
                return [_Result(self._arb(0))] * k
            if row is None or target.invalid[i] or divisor.is_nan():
                return [_Result(self._arb.nan())] * k
            if target.labels is not None and target.eps == 0.0:
                label = int(target.labels[i])
                factor = self._row_weight(target, i) / divisor
                g = [factor * e / row.S for e in row.e]
                g[label] = -factor * self._sum(e for j, e in enumerate(row.e) if j != label) / row.S
                return [_Result(value) for value in g]
            q = self._q(target, i, k)
            total = self._sum(q)
            pairs = [(total * e / row.S / divisor, part / divisor) for e, part in zip(row.e, q, strict=True)]
            return [_Result(mass - part, abs(mass)) for mass, part in pairs]

        return self._rows(len(x), of)

    def probability_mass(self, x: F64, target: Weighting, reduction: Reduction) -> Truth:
        """``(sum_k |q_k|) p``."""
        n, k = x.shape
        divisor = self._divisor(target, n, reduction)

        def of(i: int) -> list[_Result]:
            if target.ignored[i]:
                return [_Result(self._arb(0))] * k
            factor = self._sum(abs(part) for part in self._q(target, i, k)) / divisor
            return [_Result(factor * value) for value in self._p(_values(x[i]))]

        return self._rows(len(x), of)

    # -- one row ---------------------------------------------------------------------------------------

    def _row(self, x: list[float]) -> _Row | None:
        """None where probabilities are undefined: a NaN, a +inf, or only -inf."""
        arb = self._arb
        m = max(x)
        if any(value != value for value in x) or not math.isfinite(m):
            return None
        top = x.index(m)
        big = arb(m)
        d = [arb(value) - big if math.isfinite(value - m) else arb.neg_inf() for value in x]
        e = [part.exp() if value - m > _NOTHING else arb(0) for value, part in zip(x, d, strict=True)]
        s = self._sum(part for k, part in enumerate(e) if k != top)
        return _Row(big, d, e, 1 + s, s.log1p())

    def _lse(self, x: list[float]) -> Ball:
        row = self._row(x)
        if row is not None:
            return row.m + row.L
        return self._arb.nan() if any(value != value for value in x) else self._arb(max(x))

    def _p(self, x: list[float]) -> list[Ball]:
        row = self._row(x)
        return [self._arb.nan()] * len(x) if row is None else [e / row.S for e in row.e]

    def _log_p(self, x: list[float]) -> list[Ball]:
        row = self._row(x)
        return [self._arb.nan()] * len(x) if row is None else [d - row.L for d in row.d]

    def _sum(self, values: Iterable[Ball]) -> Ball:
        return sum(values, self._arb(0))

    # -- targets ---------------------------------------------------------------------------------------

    def _losses(
        self,
        n: int,
        k: int,
        logs: Callable[[int], list[Ball]],
        target: Weighting,
        plain: bool,
        reduction: Reduction,
    ) -> Truth:
        """Cross-entropy from the logarithms of the probabilities of each row."""
        arb = self._arb

        def of(i: int) -> _Result:
            if target.ignored[i]:
                return _Result(arb(0))
            if target.invalid[i]:
                return _Result(arb.nan())
            log_p = logs(i)
            if plain and target.labels is not None:
                weight, log = self._row_weight(target, i), log_p[target.labels[i]]
                return _Result(arb(0) if weight == 0 and not log.is_nan() else weight * (0 - log))
            q = self._q(target, i, k)
            terms = [
                arb(0) if part == 0 and not log.is_nan() else part * -log for part, log in zip(q, log_p, strict=True)
            ]
            return _Result(self._sum(terms), self._sum(map(abs, terms)))

        def total() -> list[_Result]:
            rows = [of(i) for i in range(n)]
            divisor = self._divisor(target, n, reduction)
            value, size = (
                self._sum(part) / divisor for part in zip(*((r.value, abs(r.size)) for r in rows), strict=True)
            )
            return [_Result(value, size)]

        if reduction == "none":
            return self._rows(n, lambda i: [of(i)]).reshape((n,))
        ((hi, lo),) = self._good(total)
        return Truth(np.array(hi), np.array(lo))

    def _row_weight(self, target: Weighting, i: int) -> Ball:
        """``s w[y]``."""
        weight = self._arb(1)
        if target.s is not None:
            weight *= self._arb(float(target.s[i]))
        if target.w is not None and target.labels is not None and not target.invalid[i]:
            weight *= self._arb(float(target.w[target.labels[i]]))
        return weight

    def _divisor(self, target: Weighting, n: int, reduction: Reduction) -> Ball:
        """What a mean divides by; NaN for nothing."""
        if reduction != "mean":
            return self._arb(1)
        with self._context.workprec(_EXACT):
            total = self._sum(self._row_weight(target, i) for i in range(n) if not target.ignored[i])
            return total if total != 0 else self._arb.nan()

    def _q(self, target: Weighting, i: int, k: int) -> list[Ball]:
        """``s w_k ((1 - eps) y_k + eps / K)``."""
        arb = self._arb
        if target.y is not None:
            q = [arb(float(v)) + arb(float(v - float(v))) for v in target.y[i]]
        else:
            q = [arb(int(j == target.labels[i])) for j in range(k)]  # type: ignore[index]
        if target.eps != 0.0:
            eps = arb(target.eps)
            q = [(1 - eps) * part + eps / k for part in q]
        if target.w is not None:
            q = [part * arb(float(weight)) for part, weight in zip(q, target.w, strict=True)]
        if target.s is not None:
            q = [part * arb(float(target.s[i])) for part in q]
        return q

    # -- precision -------------------------------------------------------------------------------------

    def _rows(self, n: int, of: Callable[[int], list[_Result]]) -> Truth:
        """Results of all rows, ``of(i)`` each."""
        pairs = np.array([self._good(functools.partial(of, i)) for i in range(n)])
        return Truth(np.ascontiguousarray(pairs[..., 0]), np.ascontiguousarray(pairs[..., 1]))

    def _good(self, compute: Callable[[], list[_Result]]) -> list[tuple[float, float]]:
        """Results as pairs of doubles, computed with more and more bits until they are certain."""
        bits = _START
        while bits <= _EXACT:
            with self._context.workprec(bits):
                results = compute()
                if all(result.is_good() for result in results):
                    return [_split(self._arb, result.value) for result in results]
            bits *= 2
        raise ArithmeticError(f"no {GOOD_BITS} good bits with {_EXACT} bits of precision")


def _values(row: Any) -> list[Any]:
    """The numbers of a row, of which Arb takes floats and Python's integers."""
    return row.tolist() if row.dtype == np.float64 else [int(value) for value in row]


def _split(arb: Any, ball: Ball) -> tuple[float, float]:
    """The midpoint as an unevaluated sum of two doubles."""
    mid = ball.mid()
    hi = float(mid)
    if not math.isfinite(hi):
        return hi, 0.0
    lo = float(mid - arb(hi))
    return hi + lo, lo - ((hi + lo) - hi)
