"""Rows whose weights leave the range of float64, or of float32 where rows are: computed here, in extended precision.

A weight of 1e300 times another of 1e300 is no float64, and neither is the product of two subnormal ones; the loss that
they multiply may be 0 or large, and the divisor of a mean may bring it all back. Kernels need not know: the weights of
their rows, and these over the divisor, are 0 or within `LIMITS`. Rows with others are few, and weights like that rare,
so what happens to them is written once, for all backends: NumPy's longdouble, whose exponents go to 16383 on Linux
(where it is float64, on Windows and on a Mac, results of such rows overflow).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from softbench.interface import Array

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Wide = NDArray[np.longdouble]
    F64 = NDArray[np.float64]

__all__ = ["LIMITS", "Exact", "WideRows", "find_wide_rows"]

LIMITS: Final = {"float64": (2.0**-900, 2.0**840), "float32": (2.0**-100, 2.0**100)}
"""Between these a weight, undivided (as a float64) and divided (in the rows' dtype), neither loses digits nor takes a
probability to where a kernel has none."""

_BLOCK: Final = 1 << 15
"""Elements worked on at a time."""


class Exact(NamedTuple):
    """What comes of wide rows."""

    losses: Wide
    """``(rows,)``, over the divisor of a mean."""
    gradient: Wide | None
    """``(rows, K)``, over the same."""


class WideRows(NamedTuple):
    """The wide rows of a call, with their target and weights in host memory."""

    which: NDArray[np.intp]
    """Their numbers among all rows."""
    labels: NDArray[np.int64] | None
    y: Wide | None
    """Distributions, where there are no labels."""
    s: Wide | None
    """Sample weights ``(rows,)``."""
    w: Wide | None
    """Class weights ``(K,)``."""
    eps: np.longdouble
    divisor: np.longdouble
    """Of a mean, else 1."""

    def evaluate(self, x: F64, wants_gradient: bool, probabilities: bool = False) -> Exact:
        """Losses and gradient of rows ``x`` ``(rows, K)`` of logits, or the losses of ``probabilities``."""
        step = max(1, _BLOCK // x.shape[1])
        blocks = [slice(start, start + step) for start in range(0, len(x), step)]
        found = [self._take(rows)._evaluate(x[rows], wants_gradient, probabilities) for rows in blocks]
        parts = [part.gradient for part in found if part.gradient is not None]
        return Exact(np.concatenate([part.losses for part in found]), np.concatenate(parts) if parts else None)

    def _take(self, rows: slice) -> WideRows:
        return self._replace(
            labels=None if self.labels is None else self.labels[rows],
            y=None if self.y is None else self.y[rows],
            s=None if self.s is None else self.s[rows],
        )

    def _q(self, k: int) -> Wide:
        """``s w_k ((1 - eps) y_k + eps / K)``."""
        q: Wide
        if self.labels is not None:
            q = (self.labels[:, None] == np.arange(k)).astype(np.longdouble)
        else:
            q = np.array(self.y)
        if self.eps != 0:
            q = (1 - self.eps) * q + self.eps / k
        if self.w is not None:
            q = q * self.w
        return q if self.s is None else q * self.s[:, None]

    def _evaluate(self, x: F64, wants_gradient: bool, probabilities: bool) -> Exact:
        q = self._q(x.shape[1])
        if probabilities:
            p = x.astype(np.longdouble)
            return Exact(_expected(q, 0 - np.log(p), absent=p == 0) / self.divisor, None)
        every = np.arange(len(x))
        top = x.argmax(axis=1)  # the first NaN where there is one
        m = x[every, top]
        undefined = ~np.isfinite(m)
        high = x - m[:, None]  # TwoDiff (Knuth, TAOCP vol. 2, 4.2.2)
        virtual = x - high
        low = (x - (high + virtual)) + (virtual - m[:, None])
        low[~np.isfinite(high)] = 0.0
        d, r = high.astype(np.longdouble), low.astype(np.longdouble)
        e = np.exp(d)
        e += e * r
        e[every, top] = 0
        s = e.sum(axis=1)
        e[every, top] = 1
        losses = _expected(q, (np.log1p(s)[:, None] - d) - r, absent=np.isneginf(d))
        losses[undefined] = np.nan
        losses /= self.divisor
        if not wants_gradient:
            return Exact(losses, None)
        total = (1 + s)[:, None]
        if self.labels is not None and self.eps == 0:
            weight = q[every, self.labels]
            gradient = e / total * weight[:, None]
            e[every, self.labels] = 0  # left out: p_y - 1 would cancel
            gradient[every, self.labels] = 0 - e.sum(axis=1) / total[:, 0] * weight
        else:
            gradient = q.sum(axis=1)[:, None] * (e / total) - q
        gradient[undefined] = np.nan
        return Exact(losses, gradient / self.divisor)


def _expected(q: Wide, costs: Wide, absent: NDArray[np.bool_]) -> Wide:
    """``sum_k q_k costs_k``, where ``q_k = 0`` contributes 0 even if the class is ``absent``."""
    terms = q * costs
    terms[(q == 0) & absent] = 0
    total: Wide = terms.sum(axis=1)
    return total


def find_wide_rows(
    compute: str,
    n: int,
    k: int,
    *,
    labels: Array | None,
    read_y: Callable[[NDArray[np.intp]], Array] | None,
    class_weight: Array | None,
    sample_weight: Array | None,
    eps: float,
    divisor: Any,
    also: Array | None = None,
) -> WideRows | None:
    """The rows of a call whose weights are beyond `LIMITS`; None where there are none.

    Parameters
    ----------
    compute
        Dtype of the rows.
    n, k
        Rows and classes.
    labels, read_y
        Class indices ``(N,)`` as kernels get them, or a function from numbers of rows to their distributions.
    class_weight, sample_weight, eps
        Weights ``(K,)`` and ``(N,)`` or None, and the smoothing.
    divisor
        Of a mean, as the backend's `divisor` gave it; None for other reductions.
    also
        ``(N,)`` bool: other rows that kernels cannot be given.
    """
    s = None if sample_weight is None else sample_weight.astype(np.longdouble)
    w = None if class_weight is None else class_weight.astype(np.longdouble)
    over = np.longdouble(1 if divisor is None else divisor)
    if over == 0:  # nothing has weight: kernels know
        return None
    of_rows = np.ones(n, np.longdouble) if s is None else s
    least, most = LIMITS["float64"]
    least_divided, most_divided = (least, most) if compute == "float64" else LIMITS["float32"]
    if labels is not None and eps == 0:
        weight = of_rows if w is None else of_rows * w[np.maximum(labels, 0)]
        lowest = highest = weight
        least_divided = least  # a kernel has it as a float64
    else:
        positive = np.ones(1, np.longdouble) if w is None else w[w != 0]
        if positive.size == 0:
            return None
        lowest = of_rows * positive.min() * (1 if eps == 0 else np.longdouble(eps) / k)
        highest = of_rows * positive.max()
        # Too far apart for sums over a row, too small for a product, or not of the rows' dtype.
        low, high = LIMITS["float64" if compute == "float64" else "float32"]
        within = labels is None or (positive.min() >= low and positive.max() <= high)
        if not within or not positive.min() >= max(least, least_divided * positive.max()):
            highest = np.where(of_rows == 0, 0, np.inf)
    with np.errstate(all="ignore"):
        fits = (
            (lowest >= least) & (highest <= most) & (lowest >= least_divided * over) & (highest <= most_divided * over)
        )
    wide = (~fits if also is None else ~fits | also) & (highest != 0)
    if labels is not None:
        wide &= labels >= 0
    if not wide.any():
        return None
    which = np.flatnonzero(wide)
    return WideRows(
        which,
        None if labels is None else labels[which],
        None if read_y is None else read_y(which).astype(np.longdouble),
        None if s is None else s[which],
        w,
        np.longdouble(eps),
        over,
    )
